// Whole files in and out, random access to large ones, and mapped ones, with errors that name the path.
//
// Nothing here is cached or synchronised: any thread may call any function. Paths are used as given; messages quote
// them. Writes are atomic: whoever looks sees the old file or the new one, never a part, also after a crash.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/container/container.h"
#include "common/status/status.h"

namespace holo::files {

inline constexpr std::uint64_t kDefaultMaxFileBytes = std::uint64_t{4} << 30;

// A file descriptor of any kind, closed with its owner; negative for none.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(other.Release()) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor();
  [[nodiscard]] int get() const { return value_; }
  // Leaves it to the caller to close.
  int Release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

// The error for errno `error_number` met while doing `action` ("open", "write") with `path`: kNotFound,
// kPermissionDenied, kAlreadyExists, kResourceExhausted (disk, quota or descriptors used up), kInvalidArgument (a
// directory, a name too long), otherwise kUnavailable.
[[nodiscard]] Error FromErrno(int error_number, std::string_view action, const std::filesystem::path& path);

// The whole content. kResourceExhausted, before memory is taken, for a file larger than `max_bytes`; kInvalidArgument
// for a directory. Pipes and devices are read to their end, under the same limit.
[[nodiscard]] Result<std::vector<std::uint8_t>> ReadFile(const std::filesystem::path& path,
                                                         std::uint64_t max_bytes = kDefaultMaxFileBytes);

enum class IfExists : std::uint8_t { kReplace, kFail };

// Writes a temporary file (".NAME.tmp-PID-N") beside `path`, syncs it, renames it over `path` and syncs the directory.
// On any failure the temporary file is gone and an older `path` is as it was: kResourceExhausted for a full disk,
// kAlreadyExists for IfExists::kFail where `path` is there, kInvalidArgument where it is neither a regular file nor a
// link to one. A symbolic link is followed: its target is replaced.
[[nodiscard]] Result<void> AtomicWrite(const std::filesystem::path& path, std::span<const std::uint8_t> bytes,
                                       IfExists if_exists = IfExists::kReplace);

struct NamedBytes {
  std::string name;  // of a file, without any folder
  std::span<const std::uint8_t> bytes;
};
// The same for a new directory with these files in it: whoever looks sees all of it or nothing. kAlreadyExists for
// IfExists::kFail where `path` is there. With kReplace an older directory is exchanged for the new one and removed with
// whatever is in it, so the caller sees to it that nobody will miss anything; kInvalidArgument where it is no directory.
[[nodiscard]] Result<void> AtomicWriteDirectory(const std::filesystem::path& path, std::span<const NamedBytes> contents,
                                                IfExists if_exists);

// True for the names that these two give to what is temporary; those who list a folder skip them.
[[nodiscard]] bool IsTemporaryName(const std::filesystem::path& path);

// An open file for random access. It reads with pread: a mapped file that somebody shortens would end the process,
// this one then answers kDataLoss. A file replaced by rename keeps being read in its old state.
class FileSource final : public container::ByteSource {
 public:
  // kNotFound, kPermissionDenied, ...; kInvalidArgument unless `path` is a regular file.
  [[nodiscard]] static Result<std::shared_ptr<const FileSource>> Open(const std::filesystem::path& path);

  // The size when it was opened.
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] Result<void> ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const override;
  // When the content changed last; with size() it tells whether a path still names the file that was opened.
  [[nodiscard]] std::int64_t modified_ns() const { return modified_ns_; }

 private:
  FileSource(std::filesystem::path path, Descriptor descriptor, std::uint64_t size, std::int64_t modified_ns);

  std::filesystem::path path_;
  Descriptor descriptor_;
  std::uint64_t size_;
  std::int64_t modified_ns_;
};

// A file's bytes in memory, read by the system when they are first touched and shared between processes. For large
// files that nobody changes in place: should somebody shorten the file, touching what is gone ends the process
// (SIGBUS). A file replaced by rename keeps being seen in its old state.
class MappedFile {
 public:
  // kNotFound, kPermissionDenied, ...; kInvalidArgument unless `path` is a regular file.
  [[nodiscard]] static Result<std::shared_ptr<const MappedFile>> Open(const std::filesystem::path& path);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // Begins on a page; lives as long as this object.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return bytes_; }
  // Gives back the memory of what was read so far; the bytes stay what they are and are read anew when they are touched.
  void ReleasePages() const;

 private:
  explicit MappedFile(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  std::span<const std::uint8_t> bytes_;
};

// The first `limit` bytes of another source: what somebody has who received no more.
class PrefixSource final : public container::ByteSource {
 public:
  PrefixSource(std::shared_ptr<const container::ByteSource> source, std::uint64_t limit);
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] Result<void> ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const override;

 private:
  std::shared_ptr<const container::ByteSource> source_;
  std::uint64_t size_;
};

// Where this user's caches lie: $HOLO_CACHE_DIR, else $XDG_CACHE_HOME/holo, else $HOME/.cache/holo. Not created here.
// kFailedPrecondition when none of these variables is set.
[[nodiscard]] Result<std::filesystem::path> UserCacheDir();

// `path` and all its parents exist afterwards.
[[nodiscard]] Result<void> MakeDirectories(const std::filesystem::path& path);

// Makes the n-th system call from now on (1 is the next) of an atomic write fail with `error_number`, once; 0 switches it
// off. True is returned if an earlier countdown has run out, that is, a failure was injected.
bool FailOperationForTest(int n, int error_number);

}  // namespace holo::files
