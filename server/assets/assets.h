// The store: a folder of .holo files, and of pictures that are compressed when somebody first wants them.
//
// An asset's name is its path in the folder without the extension, '/' between folders, UTF-8. Names are looked up in
// an index of what was found in the folder, never joined to a path, so no name leads outside; hidden files, temporary
// files and links that lead out of the folder are not in the index. Where two files would have one name a .holo file
// wins, and other pictures keep their extension ("a.jpg" beside "a.holo" is "a.jpg").
//
// The folder is watched: files that come, change or go do so in the index within a fraction of a second. Opened assets
// are kept as long as they fit the memory limit, those used longest ago leaving first, and are never served from memory
// once the file has changed. A damaged file is reported once and refused until it changes.
//
// All members may be called from any thread. Files are opened and pictures compressed on the store's own threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/container/container.h"
#include "common/protocol/protocol.h"
#include "common/status/status.h"

namespace holo::assets {

struct Options {
  std::filesystem::path folder;  // empty: a store that is empty and stays so
  // Where compressed pictures are kept, one file each; those of pictures that are gone are removed. Empty: the folder
  // ".holo" inside `folder`. Where nothing can be written there, they are kept in memory instead.
  std::filesystem::path cache_folder;
  std::size_t max_memory_bytes = std::size_t{256} << 20;  // opened assets
  unsigned compress_threads = 1;
  bool compress_ahead = false;  // pictures as soon as they are seen, when nobody waits for another one
  bool watch = true;
  // Turns a picture file into the bytes of a .holo file, on a thread of the store; empty: pictures are not served.
  std::function<Result<std::vector<std::uint8_t>>(const std::filesystem::path&)> compress;
  std::function<bool(const std::filesystem::path&)> is_picture;
  // Changes with the settings of `compress`, so that a cached result of other settings is not used.
  std::string compress_settings;
  // Called with one line at a time, from any thread.
  std::function<void(const std::string&)> log;
};

struct Entry {
  std::string name;
  std::uint64_t bytes = 0;  // of the file; of the picture while it is not compressed
  bool ready = false;
  std::int64_t modified_unix_seconds = 0;
};

// An asset in use. It stays readable in the state in which it was opened, whatever happens to the file.
struct OpenAsset {
  std::shared_ptr<const protocol::Asset> asset;
  std::shared_ptr<const container::ByteSource> source;
  std::int64_t modified_unix_seconds = 0;
};

struct Statistics {
  std::uint64_t entries = 0;
  std::uint64_t open_assets = 0;  // kept in memory
  std::uint64_t open_bytes = 0;
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t evictions = 0;
  std::uint64_t damaged = 0;  // files now known to be damaged
  std::uint64_t compressed = 0;
  std::uint64_t compress_failures = 0;
  std::uint64_t scans = 0;
};

class Store {
 public:
  // Scans the folder once. kNotFound and the like if it cannot be read.
  [[nodiscard]] static Result<std::unique_ptr<Store>> Open(Options options);
  // Waits for the file or picture being worked on; everything queued is answered with kCancelled.
  ~Store();

  // Ordered by name, from the first one after `after`, at most `limit`.
  [[nodiscard]] std::vector<Entry> List(std::string_view after, std::size_t limit) const;

  using Done = std::function<void(Result<std::shared_ptr<const OpenAsset>>)>;
  // Opens `name` and calls `done` exactly once: at once from this thread if it is open already or unknown, else later
  // from another. kNotFound naming the asset; kDataLoss for a damaged file; whatever compressing says.
  void Get(std::string_view name, Done done);
  // The same, waiting. Not from the store's own threads.
  [[nodiscard]] Result<std::shared_ptr<const OpenAsset>> GetAndWait(std::string_view name);

  // A file that turned out to be damaged only when it was read further: refused from now on, until it changes.
  void ReportDamage(std::string_view name, const Error& error);

  // Looks at the folder now. Only needed where watching is off or too slow.
  void Rescan();
  // Returns once at least `scans` scans are complete.
  void WaitForScanForTest(std::uint64_t scans);

  [[nodiscard]] Statistics statistics() const;

 private:
  struct State;
  explicit Store(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// True for valid UTF-8 without NUL.
[[nodiscard]] bool IsValidName(std::string_view text);

}  // namespace holo::assets
