#include "common/files/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>

namespace holo::files {
namespace {

std::atomic<int> countdown_to_failure{0};
std::atomic<int> injected_errno{0};

// Stands before each system call of an atomic write: true if this one is to fail.
bool Injected() {
  if (countdown_to_failure.load(std::memory_order_relaxed) <= 0) return false;
  if (countdown_to_failure.fetch_sub(1) != 1) return false;
  errno = injected_errno.load();
  return true;
}

int OpenRetrying(const char* path, int flags, mode_t mode = 0) {
  int descriptor = -1;
  do {
    descriptor = ::open(path, flags | O_CLOEXEC, mode);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

Result<void> WriteAll(int descriptor, std::span<const std::uint8_t> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const std::size_t count = std::min<std::size_t>(bytes.size(), std::size_t{64} << 20);
    const ssize_t written = Injected() ? -1 : ::write(descriptor, bytes.data(), count);
    if (written < 0) {
      if (errno == EINTR) continue;
      return tl::unexpected(FromErrno(errno, "write", path));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

std::string TemporaryName(const std::string& name) {
  static std::atomic<unsigned> counter{0};
  return "." + name + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
}

// Where a write to `path` really goes, once links are followed.
Result<std::filesystem::path> ResolveTarget(const std::filesystem::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return path;
    return tl::unexpected(FromErrno(errno, "write", path));
  }
  if (S_ISLNK(status.st_mode)) {
    std::error_code error;
    std::filesystem::path target = std::filesystem::canonical(path, error);
    if (error) return tl::unexpected(FromErrno(error.value(), "follow the link", path));
    if (::stat(target.c_str(), &status) != 0) return tl::unexpected(FromErrno(errno, "write", target));
    if (S_ISREG(status.st_mode)) return target;
  }
  if (S_ISREG(status.st_mode)) return path;
  return Fail(Code::kInvalidArgument, "write " + path.string() + ": expected a regular file or a new name, found " +
                                          (S_ISDIR(status.st_mode) ? "a directory" : "a device, pipe or socket"));
}

Result<void> WriteTemporary(const std::filesystem::path& temporary, std::span<const std::uint8_t> bytes,
                            const std::filesystem::path& path) {
  Descriptor file(Injected() ? -1 : OpenRetrying(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666));
  if (file.get() < 0) return tl::unexpected(FromErrno(errno, "write", path));
  HOLO_RETURN_IF_ERROR(WriteAll(file.get(), bytes, path));
  if (Injected() || ::fsync(file.get()) != 0) return tl::unexpected(FromErrno(errno, "sync", path));
  // Network file systems report a full disk only here.
  if (Injected() || ::close(file.Release()) != 0) return tl::unexpected(FromErrno(errno, "close", path));
  return {};
}

// An existing regular file, opened for reading.
Result<Descriptor> OpenRegular(const std::filesystem::path& path, struct stat& status) {
  // Without O_NONBLOCK, opening a pipe that nobody writes to would hang.
  Descriptor file(OpenRetrying(path.c_str(), O_RDONLY | O_NONBLOCK));
  if (file.get() < 0) return tl::unexpected(FromErrno(errno, "open", path));
  if (::fstat(file.get(), &status) != 0) return tl::unexpected(FromErrno(errno, "open", path));
  if (!S_ISREG(status.st_mode)) {
    return Fail(Code::kInvalidArgument, "open " + path.string() + ": expected a regular file, found " +
                                            (S_ISDIR(status.st_mode) ? "a directory" : "a device, pipe or socket"));
  }
  return file;
}

}  // namespace

Descriptor::~Descriptor() {
  if (value_ >= 0) ::close(value_);
}

Error FromErrno(int error_number, std::string_view action, const std::filesystem::path& path) {
  Code code = Code::kUnavailable;
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      code = Code::kNotFound;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = Code::kPermissionDenied;
      break;
    case EEXIST:
      code = Code::kAlreadyExists;
      break;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      code = Code::kResourceExhausted;
      break;
    case EISDIR:
    case ENAMETOOLONG:
    case EINVAL:
    case ELOOP:
      code = Code::kInvalidArgument;
      break;
    default:
      break;
  }
  return Error{code, std::string(action) + " " + path.string() + ": " +
                         std::error_code(error_number, std::generic_category()).message()};
}

Result<std::vector<std::uint8_t>> ReadFile(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const Descriptor file(OpenRetrying(path.c_str(), O_RDONLY));
  if (file.get() < 0) return tl::unexpected(FromErrno(errno, "open", path));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return tl::unexpected(FromErrno(errno, "read", path));
  const auto too_large = [&](std::uint64_t found) {
    return Fail(Code::kResourceExhausted, "read " + path.string() + ": expected at most " + std::to_string(max_bytes) +
                                              " bytes, found " + std::to_string(found) + " or more");
  };
  if (S_ISDIR(status.st_mode)) return tl::unexpected(FromErrno(EISDIR, "read", path));
  const std::uint64_t size = S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
  if (size > max_bytes) return too_large(size);
  // The size is a hint: files under /proc claim 0, and a file may grow while it is read.
  std::vector<std::uint8_t> bytes(size);
  std::size_t filled = 0;
  while (true) {
    if (filled == bytes.size()) {
      std::uint8_t probe = 0;
      const ssize_t got = ::read(file.get(), &probe, 1);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return tl::unexpected(FromErrno(errno, "read", path));
      if (got == 0) break;
      if (filled + 1 > max_bytes) return too_large(filled + 1);
      const std::uint64_t grown = std::max<std::uint64_t>(65536, bytes.size() * std::uint64_t{2});
      bytes.resize(std::min(grown, max_bytes));
      bytes[filled++] = probe;
      continue;
    }
    const ssize_t got = ::read(file.get(), bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return tl::unexpected(FromErrno(errno, "read", path));
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

Result<void> AtomicWrite(const std::filesystem::path& path, std::span<const std::uint8_t> bytes, IfExists if_exists) {
  HOLO_ASSIGN_OR_RETURN(const std::filesystem::path target, ResolveTarget(path));
  if (target.filename().empty()) {
    return Fail(Code::kInvalidArgument, "write " + path.string() + ": expected the name of a file");
  }
  const std::filesystem::path directory = target.has_parent_path() ? target.parent_path() : ".";
  const std::filesystem::path temporary = directory / TemporaryName(target.filename().string());
  if (auto written = WriteTemporary(temporary, bytes, path); !written) {
    ::unlink(temporary.c_str());
    return written;
  }
  // With kFail the check and the rename are one step: of two writers one is told.
  const unsigned flags = if_exists == IfExists::kFail ? RENAME_NOREPLACE : 0;
  if (Injected() || ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), flags) != 0) {
    const int error_number = errno;
    ::unlink(temporary.c_str());
    return tl::unexpected(FromErrno(error_number, "write", path));
  }
  // The new name is in place; some file systems cannot sync a directory, and there is nothing to undo.
  const Descriptor folder(OpenRetrying(directory.c_str(), O_RDONLY | O_DIRECTORY));
  if (folder.get() >= 0) ::fsync(folder.get());
  return {};
}

Result<void> AtomicWriteDirectory(const std::filesystem::path& path, std::span<const NamedBytes> contents,
                                  IfExists if_exists) {
  // "model/" is "model".
  std::filesystem::path target = path.filename().empty() ? path.parent_path() : path;
  std::error_code error;
  if (std::filesystem::is_symlink(target, error)) {
    target = std::filesystem::canonical(path, error);
    if (error) return tl::unexpected(FromErrno(error.value(), "follow the link", path));
  }
  if (target.filename().empty() || target.filename() == "." || target.filename() == "..") {
    return Fail(Code::kInvalidArgument, "write " + path.string() + ": expected the name of a directory");
  }
  const bool is_there = std::filesystem::exists(target, error);
  if (is_there && if_exists == IfExists::kFail) return tl::unexpected(FromErrno(EEXIST, "write", path));
  if (is_there && !std::filesystem::is_directory(target, error)) {
    return Fail(Code::kInvalidArgument, "write " + path.string() + ": expected a directory or a new name, found a file");
  }
  const std::filesystem::path parent = target.has_parent_path() ? target.parent_path() : ".";
  const std::filesystem::path temporary = parent / TemporaryName(target.filename().string());
  if (Injected() || ::mkdir(temporary.c_str(), 0777) != 0) return tl::unexpected(FromErrno(errno, "write", path));
  const auto fill = [&]() -> Result<void> {
    for (const NamedBytes& file : contents) {
      HOLO_RETURN_IF_ERROR(AtomicWrite(temporary / file.name, file.bytes, IfExists::kFail));
    }
    const unsigned flags = is_there ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    if (Injected() || ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), flags) != 0) {
      return tl::unexpected(FromErrno(errno, "write", path));
    }
    return {};
  };
  Result<void> filled = fill();
  if (filled) {
    const Descriptor folder(OpenRetrying(parent.c_str(), O_RDONLY | O_DIRECTORY));
    if (folder.get() >= 0) ::fsync(folder.get());
  }
  // What was exchanged, or what could not be finished.
  if (!filled || is_there) std::filesystem::remove_all(temporary, error);
  return filled;
}

bool IsTemporaryName(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with('.') && name.find(".tmp-") != std::string::npos;
}

FileSource::FileSource(std::filesystem::path path, Descriptor descriptor, std::uint64_t size, std::int64_t modified_ns)
    : path_(std::move(path)), descriptor_(std::move(descriptor)), size_(size), modified_ns_(modified_ns) {}

Result<std::shared_ptr<const FileSource>> FileSource::Open(const std::filesystem::path& path) {
  struct stat status {};
  HOLO_ASSIGN_OR_RETURN(Descriptor file, OpenRegular(path, status));
  const std::int64_t modified_ns = std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  return std::shared_ptr<const FileSource>(
      new FileSource(path, std::move(file), static_cast<std::uint64_t>(status.st_size), modified_ns));
}

Result<void> FileSource::ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return Fail(Code::kOutOfRange, "read " + path_.string() + ": expected " + std::to_string(out.size()) +
                                       " bytes at offset " + std::to_string(offset) + ", the file has " +
                                       std::to_string(size_));
  }
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return tl::unexpected(FromErrno(errno, "read", path_));
    if (got == 0) {
      return Fail(Code::kDataLoss, "read " + path_.string() + ": expected " + std::to_string(out.size()) +
                                       " more bytes at offset " + std::to_string(offset) +
                                       ", found the end: the file was " + std::to_string(size_) +
                                       " bytes long when it was opened");
    }
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::filesystem::path& path) {
  struct stat status {};
  HOLO_ASSIGN_OR_RETURN(const Descriptor file, OpenRegular(path, status));
  const auto size = static_cast<std::size_t>(status.st_size);
  // Nothing can be mapped of an empty file.
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile({}));
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) return tl::unexpected(FromErrno(errno, "map", path));
  return std::shared_ptr<const MappedFile>(new MappedFile({static_cast<const std::uint8_t*>(mapped), size}));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size());
}

void MappedFile::ReleasePages() const {
  // What fails leaves the pages where they are. A shared mapping of a file loses nothing.
  if (!bytes_.empty()) ::madvise(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

PrefixSource::PrefixSource(std::shared_ptr<const container::ByteSource> source, std::uint64_t limit)
    : source_(std::move(source)), size_(std::min(source_->size(), limit)) {}

Result<void> PrefixSource::ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return Fail(Code::kOutOfRange, "read: expected " + std::to_string(out.size()) + " bytes at offset " +
                                       std::to_string(offset) + ", there are " + std::to_string(size_));
  }
  return source_->ReadAt(offset, out);
}

Result<std::filesystem::path> UserCacheDir() {
  const auto from = [](const char* variable) {
    const char* value = std::getenv(variable);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  if (const auto own = from("HOLO_CACHE_DIR"); !own.empty()) return own;
  if (const auto xdg = from("XDG_CACHE_HOME"); !xdg.empty()) return xdg / "holo";
  if (const auto home = from("HOME"); !home.empty()) return home / ".cache" / "holo";
  return Fail(Code::kFailedPrecondition,
              "cache: expected one of HOLO_CACHE_DIR, XDG_CACHE_HOME and HOME to be set, found none");
}

Result<void> MakeDirectories(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return tl::unexpected(FromErrno(error.value(), "make the folder", path));
  return {};
}

bool FailOperationForTest(int n, int error_number) {
  injected_errno = error_number;
  // 0 is reached only by running out; a countdown that was never started is 0 as well, but never asked about.
  return countdown_to_failure.exchange(n) == 0;
}

}  // namespace holo::files
