#include "server/assets/assets.h"

#include <sys/stat.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "common/basis/basis.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "server/assets/folder_watch.h"
#include "server/assets/work_queue.h"

namespace holo::assets {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kMaxEntries = 1'000'000;
constexpr int kMaxDepth = 16;
constexpr unsigned kOpenThreads = 2;

// What tells one state of a file from another.
struct Stamp {
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;
  std::uint64_t inode = 0;
  friend bool operator==(const Stamp&, const Stamp&) = default;
};

struct Item {
  fs::path path;
  bool is_picture = false;
  Stamp stamp;
};

struct Scan {
  std::map<std::string, Item, std::less<>> items;
  std::vector<fs::path> folders;
};

std::optional<Stamp> StampOf(const fs::path& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return Stamp{static_cast<std::uint64_t>(status.st_size),
               std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
               static_cast<std::uint64_t>(status.st_ino)};
}

bool IsInside(const fs::path& path, const fs::path& folder) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error) return false;
  return std::mismatch(folder.begin(), folder.end(), real.begin(), real.end()).first == folder.end();
}

}  // namespace

bool IsValidName(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead == 0) return false;
    const std::size_t length = lead < 0x80   ? 1
                               : lead < 0xC2 ? 0
                               : lead < 0xE0 ? 2
                               : lead < 0xF0 ? 3
                               : lead < 0xF5 ? 4
                                             : 0;
    if (length == 0 || i + length > text.size()) return false;
    std::uint32_t point = length == 1 ? lead : lead & (0xFFu >> (length + 1));
    for (std::size_t j = 1; j < length; ++j) {
      const auto next = static_cast<unsigned char>(text[i + j]);
      if ((next & 0xC0) != 0x80) return false;
      point = point << 6 | (next & 0x3Fu);
    }
    if ((length == 3 && point < 0x800) || (length == 4 && point < 0x10000) || point > 0x10FFFF ||
        (point >= 0xD800 && point < 0xE000)) {
      return false;
    }
    i += length;
  }
  return true;
}

struct Store::State {
  struct Cached {
    Stamp stamp;
    std::shared_ptr<const OpenAsset> open;
    std::size_t memory_bytes = 0;
    std::list<std::string>::iterator use;
  };
  struct Damage {
    Stamp stamp;
    Error error;
  };
  struct Waiting {
    std::vector<Done> done;
    bool is_being_compressed = false;
  };

  // Constant after Open().
  Options options;
  fs::path folder;  // canonical
  fs::path cache_folder;

  mutable std::mutex mutex;
  std::condition_variable scanned;
  std::map<std::string, Item, std::less<>> items;       // guarded by mutex
  std::map<std::string, Cached, std::less<>> cache;     // guarded by mutex
  std::list<std::string> uses;                          // guarded by mutex; the latest first
  std::map<std::string, Damage, std::less<>> damaged;   // guarded by mutex
  std::map<std::string, Waiting, std::less<>> waiting;  // guarded by mutex
  Statistics counts;                                    // guarded by mutex
  std::mutex scan_mutex;                                // one scan at a time; taken before mutex
  std::set<fs::path> reported;                          // guarded by scan_mutex

  // Last members: their threads end first.
  std::unique_ptr<WorkQueue> open_queue;
  std::unique_ptr<WorkQueue> compress_queue;
  std::unique_ptr<FolderWatch> watch;

  void Log(const std::string& line) const {
    if (options.log) options.log(line);
  }
  Result<Scan> Look();
  void AddFile(const fs::path& path, Scan& scan, std::vector<fs::path>& pictures);
  std::vector<fs::path> Rescan();
  void RemoveStaleCacheFiles(const std::map<std::string, Item, std::less<>>& current);
  fs::path CachePath(const Item& item) const;
  void Get(std::string_view name, Done done);
  void Start(const std::string& name, const Item& item, bool is_urgent);
  Result<std::shared_ptr<const OpenAsset>> OpenFile(const fs::path& path) const;
  Result<std::shared_ptr<const OpenAsset>> Compress(const std::string& name, const Item& item);
  void Finish(const std::string& name, const Stamp& stamp, Result<std::shared_ptr<const OpenAsset>> result);
  void Forget(std::string_view name);
};

// ---- scanning

void Store::State::AddFile(const fs::path& path, Scan& scan, std::vector<fs::path>& pictures) {
  const std::optional<Stamp> stamp = StampOf(path);
  if (!stamp) return;
  const bool is_asset = path.extension() == ".holo";
  if (!is_asset && !(options.compress && options.is_picture && options.is_picture(path))) return;
  if (!is_asset) {
    pictures.push_back(path);
    return;
  }
  scan.items.emplace(path.lexically_relative(folder).replace_extension().generic_string(), Item{path, false, *stamp});
}

Result<Scan> Store::State::Look() {
  Scan scan;
  std::vector<fs::path> pictures;
  std::vector<std::pair<fs::path, int>> to_visit = {{folder, 0}};
  while (!to_visit.empty() && scan.items.size() + pictures.size() < kMaxEntries) {
    const auto [current, depth] = std::move(to_visit.back());
    to_visit.pop_back();
    std::error_code error;
    fs::directory_iterator iterator(current, error);
    if (error) {
      if (depth == 0) return tl::unexpected<Error>(files::FromErrno(error.value(), "open", current));
      continue;
    }
    scan.folders.push_back(current);
    for (; iterator != fs::directory_iterator(); iterator.increment(error)) {
      if (error) break;
      const fs::path& path = iterator->path();
      const std::string file_name = path.filename().string();
      if (file_name.starts_with('.') || files::IsTemporaryName(path)) continue;
      if (!IsValidName(file_name)) {
        if (reported.insert(path).second) Log("store: left out a file whose name is not UTF-8 in " + current.string());
        continue;
      }
      std::error_code ignored;
      const bool is_link = iterator->is_symlink(ignored);
      if (iterator->is_directory(ignored)) {
        // A link to a folder may lead round in circles.
        if (!is_link && depth < kMaxDepth) to_visit.emplace_back(path, depth + 1);
        continue;
      }
      if (is_link && !IsInside(path, folder)) {
        if (reported.insert(path).second) Log("store: left out a link that leads outside: " + path.string());
        continue;
      }
      AddFile(path, scan, pictures);
    }
  }
  std::sort(pictures.begin(), pictures.end());
  for (const fs::path& path : pictures) {
    const std::optional<Stamp> stamp = StampOf(path);
    if (!stamp) continue;
    const fs::path relative = path.lexically_relative(folder);
    const Item item{path, true, *stamp};
    if (!scan.items.emplace(fs::path(relative).replace_extension().generic_string(), item).second) {
      scan.items.emplace(relative.generic_string(), item);
    }
  }
  return scan;
}

std::vector<fs::path> Store::State::Rescan() {
  const std::lock_guard scan_lock(scan_mutex);
  Result<Scan> scan = Look();
  if (!scan) {
    Log("store: " + scan.error().message);
    scan = Scan{};
    scan->folders = {folder};
  } else {
    // Only then: a folder that cannot be read for a while must not cost what was compressed.
    RemoveStaleCacheFiles(scan->items);
  }
  std::vector<std::pair<std::string, Item>> to_compress;
  {
    const std::lock_guard lock(mutex);
    items = std::move(scan->items);
    for (auto it = cache.begin(); it != cache.end();) {
      const auto item = items.find(it->first);
      const bool is_current = item != items.end() && item->second.stamp == it->second.stamp;
      const std::string name = (it++)->first;
      if (!is_current) Forget(name);
    }
    std::erase_if(damaged, [this](const auto& entry) {
      const auto item = items.find(entry.first);
      return item == items.end() || !(item->second.stamp == entry.second.stamp);
    });
    if (options.compress_ahead) {
      for (const auto& [name, item] : items) {
        if (!item.is_picture || waiting.count(name) != 0 || damaged.count(name) != 0) continue;
        std::error_code ignored;
        if (fs::exists(CachePath(item), ignored)) continue;
        waiting[name].is_being_compressed = true;
        to_compress.emplace_back(name, item);
      }
    }
  }
  for (const auto& [name, item] : to_compress) Start(name, item, false);
  {
    const std::lock_guard lock(mutex);
    ++counts.scans;
  }
  scanned.notify_all();
  return std::move(scan->folders);
}

void Store::State::RemoveStaleCacheFiles(const std::map<std::string, Item, std::less<>>& current) {
  std::error_code error;
  fs::directory_iterator iterator(cache_folder, error);
  if (error) return;
  std::set<fs::path> valid;
  for (const auto& [name, item] : current) {
    if (item.is_picture) valid.insert(CachePath(item));
  }
  for (; !error && iterator != fs::directory_iterator(); iterator.increment(error)) {
    const fs::path& path = iterator->path();
    // Only what has the form of our own names.
    const std::string stem = path.stem().string();
    if (path.extension() != ".holo" || stem.size() != 32 || !bytes::FromHex(stem) || valid.count(path) != 0) continue;
    std::error_code ignored;
    fs::remove(path, ignored);
  }
}

fs::path Store::State::CachePath(const Item& item) const {
  bytes::ByteWriter writer;
  writer.WriteU8(container::kFormatVersion);
  writer.WriteU64(item.stamp.bytes);
  writer.WriteU64(static_cast<std::uint64_t>(item.stamp.modified_ns));
  for (const std::string& text : {options.compress_settings, item.path.lexically_relative(folder).string()}) {
    writer.WriteVarint(text.size());
    for (const char c : text) writer.WriteU8(static_cast<std::uint8_t>(c));
  }
  return cache_folder / (bytes::ToHex(basis::HashOf(writer.bytes())) + ".holo");
}

// ---- opening

// Requires the mutex.
void Store::State::Forget(std::string_view name) {
  const auto found = cache.find(name);
  if (found == cache.end()) return;
  counts.open_bytes -= found->second.memory_bytes;
  uses.erase(found->second.use);
  cache.erase(found);
}

Result<std::shared_ptr<const OpenAsset>> Store::State::OpenFile(const fs::path& path) const {
  HOLO_ASSIGN_OR_RETURN(const std::shared_ptr<const files::FileSource> source, files::FileSource::Open(path));
  HOLO_ASSIGN_OR_RETURN(container::AssetReader reader, container::AssetReader::Open(source));
  auto open = std::make_shared<OpenAsset>();
  open->asset = std::make_shared<const protocol::Asset>(std::move(reader));
  open->source = source;
  open->modified_unix_seconds = source->modified_ns() / 1'000'000'000;
  return open;
}

Result<std::shared_ptr<const OpenAsset>> Store::State::Compress(const std::string& name, const Item& item) {
  const fs::path cached = CachePath(item);
  std::error_code ignored;
  if (fs::exists(cached, ignored)) {
    Result<std::shared_ptr<const OpenAsset>> open = OpenFile(cached);
    if (open) return open;
    Log("store: compressing " + name + " again, its cached file is damaged: " + open.error().message);
  }
  HOLO_ASSIGN_OR_RETURN(std::vector<std::uint8_t> file, options.compress(item.path));
  {
    const std::lock_guard lock(mutex);
    ++counts.compressed;
  }
  Result<void> written = files::MakeDirectories(cache_folder);
  if (written) written = files::AtomicWrite(cached, file);
  if (written) return OpenFile(cached);
  Log("store: " + name + " is kept in memory: " + written.error().message);
  auto source = std::make_shared<const container::MemorySource>(std::move(file));
  HOLO_ASSIGN_OR_RETURN(container::AssetReader reader, container::AssetReader::Open(source));
  auto open = std::make_shared<OpenAsset>();
  open->asset = std::make_shared<const protocol::Asset>(std::move(reader));
  open->source = std::move(source);
  open->modified_unix_seconds = item.stamp.modified_ns / 1'000'000'000;
  return open;
}

void Store::State::Start(const std::string& name, const Item& item, bool is_urgent) {
  if (!item.is_picture) {
    open_queue->Add(
        [this, name, item](bool cancelled) {
          if (cancelled) {
            Finish(name, item.stamp, Fail(Code::kCancelled, "asset " + name + ": the server stops"));
          } else {
            Finish(name, item.stamp, OpenFile(item.path));
          }
        },
        true);
    return;
  }
  compress_queue->Add(
      [this, name, item](bool cancelled) {
        if (cancelled) {
          Finish(name, item.stamp, Fail(Code::kCancelled, "asset " + name + ": the server stops"));
        } else {
          Finish(name, item.stamp, Compress(name, item));
        }
      },
      is_urgent);
}

void Store::State::Get(std::string_view name, Done done) {
  std::unique_lock lock(mutex);
  const auto found = items.find(name);
  if (found == items.end()) {
    lock.unlock();
    done(Fail(Code::kNotFound, "asset " + std::string(name) + ": there is none of that name"));
    return;
  }
  // The watch may be a moment late: the file itself decides.
  Item& item = found->second;
  const std::optional<Stamp> stamp = StampOf(item.path);
  if (!stamp || !IsInside(item.path, folder)) {
    Forget(name);
    items.erase(found);
    lock.unlock();
    done(Fail(Code::kNotFound, "asset " + std::string(name) + ": its file is gone"));
    return;
  }
  if (!(*stamp == item.stamp)) {
    item.stamp = *stamp;
    Forget(name);
    damaged.erase(found->first);
  }
  if (const auto damage = damaged.find(name); damage != damaged.end()) {
    Error error = damage->second.error;
    lock.unlock();
    done(tl::unexpected<Error>(std::move(error)));
    return;
  }
  if (const auto cached = cache.find(name); cached != cache.end()) {
    ++counts.hits;
    uses.splice(uses.begin(), uses, cached->second.use);
    const std::shared_ptr<const OpenAsset> open = cached->second.open;
    lock.unlock();
    done(open);
    return;
  }
  ++counts.misses;
  const auto [entry, is_first] = waiting.try_emplace(std::string(name));
  entry->second.done.push_back(std::move(done));
  // A picture that waits to be compressed ahead of demand is queued once more, now before the others; the second to run
  // finds the first one's result.
  const bool start = is_first || std::exchange(entry->second.is_being_compressed, false);
  if (!start) return;
  const Item copy = item;
  lock.unlock();
  Start(std::string(name), copy, true);
}

void Store::State::Finish(const std::string& name, const Stamp& stamp,
                          Result<std::shared_ptr<const OpenAsset>> result) {
  std::vector<Done> done;
  bool is_new_damage = false;
  {
    const std::lock_guard lock(mutex);
    if (const auto entry = waiting.find(name); entry != waiting.end()) {
      done = std::move(entry->second.done);
      waiting.erase(entry);
    }
    const auto item = items.find(name);
    const bool is_current = item != items.end() && item->second.stamp == stamp;
    if (result && is_current && cache.count(name) == 0 && !done.empty()) {
      Cached cached;
      cached.stamp = stamp;
      cached.open = *result;
      cached.memory_bytes = (*result)->asset->memory_bytes();
      if (dynamic_cast<const container::MemorySource*>((*result)->source.get()) != nullptr) {
        cached.memory_bytes += static_cast<std::size_t>((*result)->source->size());
      }
      uses.push_front(name);
      cached.use = uses.begin();
      counts.open_bytes += cached.memory_bytes;
      cache.emplace(name, std::move(cached));
      while (counts.open_bytes > options.max_memory_bytes && !uses.empty()) {
        ++counts.evictions;
        Forget(std::string(uses.back()));
      }
    }
    if (!result) {
      Error error = std::move(result).error();
      // Clients are told, too, and where the store lies is not their business.
      const std::string prefix = folder.string() + "/";
      if (const std::size_t at = error.message.find(prefix); at != std::string::npos)
        error.message.erase(at, prefix.size());
      result = tl::unexpected<Error>(WithContext(std::move(error), "asset " + name));
      const Code code = result.error().code;
      // What is wrong with the file stays wrong until it changes; a full disk or memory does not.
      const bool is_lasting = code == Code::kDataLoss || code == Code::kInvalidArgument || code == Code::kUnimplemented;
      if (is_current && item->second.is_picture && code != Code::kCancelled) ++counts.compress_failures;
      if (is_current && is_lasting) is_new_damage = damaged.try_emplace(name, Damage{stamp, result.error()}).second;
    }
  }
  if (is_new_damage) Log("store: not served: " + result.error().message);
  for (const Done& call : done) call(result);
}

// ---- the public face

Store::Store(std::unique_ptr<State> state) : state_(std::move(state)) {}

Store::~Store() {
  state_->watch.reset();
  state_->open_queue->Stop();
  state_->compress_queue->Stop();
}

Result<std::unique_ptr<Store>> Store::Open(Options options) {
  auto state = std::make_unique<State>();
  std::error_code error;
  if (options.folder.empty()) {
    state->options = std::move(options);
    state->open_queue = std::make_unique<WorkQueue>(kOpenThreads);
    state->compress_queue = std::make_unique<WorkQueue>(1);
    return std::unique_ptr<Store>(new Store(std::move(state)));
  }
  state->folder = fs::canonical(options.folder, error);
  if (error) return tl::unexpected<Error>(files::FromErrno(error.value(), "open", options.folder));
  if (!fs::is_directory(state->folder, error)) {
    return Fail(Code::kInvalidArgument, "store " + options.folder.string() + ": expected a folder");
  }
  if (options.cache_folder.empty()) {
    state->cache_folder = state->folder / ".holo";
  } else {
    // Stores may share a cache folder: each has its own place in it.
    const std::string path = state->folder.string();
    const auto* data = reinterpret_cast<const std::uint8_t*>(path.data());
    state->cache_folder = options.cache_folder / bytes::ToHex(basis::HashOf({data, path.size()}));
  }
  state->options = std::move(options);
  HOLO_RETURN_IF_ERROR(state->Look());
  state->open_queue = std::make_unique<WorkQueue>(kOpenThreads);
  state->compress_queue = std::make_unique<WorkQueue>(std::max(1u, state->options.compress_threads));
  state->Rescan();
  if (state->options.watch) {
    state->watch = std::make_unique<FolderWatch>([raw = state.get()] { return raw->Rescan(); });
  }
  return std::unique_ptr<Store>(new Store(std::move(state)));
}

std::vector<Entry> Store::List(std::string_view after, std::size_t limit) const {
  const std::lock_guard lock(state_->mutex);
  std::vector<Entry> entries;
  auto it = after.empty() ? state_->items.begin() : state_->items.upper_bound(after);
  for (; it != state_->items.end() && entries.size() < limit; ++it) {
    if (state_->damaged.count(it->first) != 0) continue;
    const Item& item = it->second;
    Entry entry{it->first, item.stamp.bytes, !item.is_picture, item.stamp.modified_ns / 1'000'000'000};
    if (item.is_picture) {
      if (const auto cached = StampOf(state_->CachePath(item))) {
        entry.bytes = cached->bytes;
        entry.ready = true;
      }
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

void Store::Get(std::string_view name, Done done) {
  state_->Get(name, std::move(done));
}

Result<std::shared_ptr<const OpenAsset>> Store::GetAndWait(std::string_view name) {
  auto promise = std::make_shared<std::promise<Result<std::shared_ptr<const OpenAsset>>>>();
  state_->Get(name,
              [promise](Result<std::shared_ptr<const OpenAsset>> result) { promise->set_value(std::move(result)); });
  return promise->get_future().get();
}

void Store::ReportDamage(std::string_view name, const Error& error) {
  bool is_new = false;
  {
    const std::lock_guard lock(state_->mutex);
    const auto item = state_->items.find(name);
    if (item == state_->items.end()) return;
    state_->Forget(name);
    is_new = state_->damaged.try_emplace(std::string(name), State::Damage{item->second.stamp, error}).second;
  }
  if (is_new) state_->Log("store: not served any more: asset " + std::string(name) + ": " + error.message);
}

void Store::Rescan() {
  if (state_->folder.empty()) return;
  state_->Rescan();
}

void Store::WaitForScanForTest(std::uint64_t scans) {
  std::unique_lock lock(state_->mutex);
  state_->scanned.wait(lock, [&] { return state_->counts.scans >= scans; });
}

Statistics Store::statistics() const {
  const std::lock_guard lock(state_->mutex);
  Statistics statistics = state_->counts;
  statistics.entries = state_->items.size();
  statistics.open_assets = state_->cache.size();
  statistics.damaged = state_->damaged.size();
  return statistics;
}

}  // namespace holo::assets
