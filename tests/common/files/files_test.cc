#include "common/files/files.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <set>

#include "tests/temporary_folder.h"

namespace holo::files {
namespace {

using Bytes = std::vector<std::uint8_t>;

std::set<std::string> NamesIn(const testing::TemporaryFolder& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) names.insert(entry.path().filename());
  return names;
}

TEST_CASE("what is written is read back, and nothing else lies beside it") {
  const testing::TemporaryFolder folder;
  const Bytes data = {0, 1, 2, 255};
  CHECK(AtomicWrite(folder / "a", data).has_value());
  CHECK(ReadFile(folder / "a").value() == data);
  CHECK(AtomicWrite(folder / "a", Bytes{}).has_value());
  CHECK(ReadFile(folder / "a").value().empty());
  CHECK(NamesIn(folder) == std::set<std::string>{"a"});
}

TEST_CASE("a file above the limit is refused with both numbers") {
  const testing::TemporaryFolder folder;
  REQUIRE(AtomicWrite(folder / "a", Bytes(100)).has_value());
  CHECK(ReadFile(folder / "a", 100).has_value());
  const auto refused = ReadFile(folder / "a", 99);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(refused.error().message.find("at most 99 bytes, found 100") != std::string::npos);
  // Without a size to ask for beforehand.
  CHECK(ReadFile("/dev/zero", 100'000).error().code == Code::kResourceExhausted);
  CHECK_FALSE(ReadFile("/proc/self/status").value().empty());
}

TEST_CASE("errors name the path and say what is wrong") {
  const testing::TemporaryFolder folder;
  const auto missing = ReadFile(folder / "none");
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().code == Code::kNotFound);
  CHECK(missing.error().message.find("none") != std::string::npos);
  CHECK(ReadFile(folder / ".").error().code == Code::kInvalidArgument);
  CHECK(FileSource::Open(folder / ".").error().code == Code::kInvalidArgument);
  CHECK(FileSource::Open("/dev/null").error().code == Code::kInvalidArgument);
  CHECK(FileSource::Open(folder / "none").error().code == Code::kNotFound);
  CHECK(AtomicWrite(folder / "no/such/folder", Bytes{1}).error().code == Code::kNotFound);
  CHECK(AtomicWrite(folder / ".", Bytes{1}).error().code == Code::kInvalidArgument);
  // Replacing a device by a file would be a nasty surprise.
  CHECK(AtomicWrite("/dev/null", Bytes{1}).error().code == Code::kInvalidArgument);
}

TEST_CASE("an existing file stays if it is not to be replaced") {
  const testing::TemporaryFolder folder;
  CHECK(AtomicWrite(folder / "a", Bytes{1}, IfExists::kFail).has_value());
  CHECK(AtomicWrite(folder / "a", Bytes{2}, IfExists::kFail).error().code == Code::kAlreadyExists);
  CHECK(ReadFile(folder / "a").value() == Bytes{1});
  CHECK(NamesIn(folder) == std::set<std::string>{"a"});
}

TEST_CASE("a link is followed, not replaced") {
  const testing::TemporaryFolder folder;
  REQUIRE(AtomicWrite(folder / "a", Bytes{1}).has_value());
  std::filesystem::create_symlink("a", folder / "link");
  CHECK(AtomicWrite(folder / "link", Bytes{2}).has_value());
  CHECK(ReadFile(folder / "a").value() == Bytes{2});
  CHECK(std::filesystem::is_symlink(folder / "link"));
}

TEST_CASE("whichever system call fails, the old file stays and no temporary file does") {
  const testing::TemporaryFolder folder;
  REQUIRE(AtomicWrite(folder / "a", Bytes{1}).has_value());
  int failures = 0;
  for (int n = 1; n < 100; ++n) {
    CAPTURE(n);
    FailOperationForTest(n, ENOSPC);
    const auto written = AtomicWrite(folder / "a", Bytes{2, 3});
    if (!FailOperationForTest(0, 0)) {
      CHECK(written.has_value());
      break;
    }
    ++failures;
    REQUIRE_FALSE(written.has_value());
    CHECK(written.error().code == Code::kResourceExhausted);
    CHECK(written.error().message.find((folder / "a").string()) != std::string::npos);
    CHECK(ReadFile(folder / "a").value() == Bytes{1});
    CHECK(NamesIn(folder) == std::set<std::string>{"a"});
  }
  CHECK(failures == 5);  // open, write, sync, close, rename
  CHECK(ReadFile(folder / "a").value() == Bytes{2, 3});
}

TEST_CASE("an open file is read at random and survives being replaced") {
  const testing::TemporaryFolder folder;
  REQUIRE(AtomicWrite(folder / "a", Bytes{10, 11, 12, 13}).has_value());
  const auto source = FileSource::Open(folder / "a").value();
  REQUIRE(AtomicWrite(folder / "a", Bytes{}).has_value());
  Bytes out(2);
  CHECK(source->size() == 4);
  CHECK(source->ReadAt(1, out).has_value());
  CHECK(out == Bytes{11, 12});
  CHECK(source->ReadAt(2, out).has_value());
  CHECK(source->ReadAt(3, out).error().code == Code::kOutOfRange);
  CHECK(source->ReadAt(UINT64_MAX, out).error().code == Code::kOutOfRange);
  CHECK(source->ReadAt(4, {}).has_value());
}

TEST_CASE("a file that shrinks while it is open gives an error, not a crash") {
  const testing::TemporaryFolder folder;
  REQUIRE(AtomicWrite(folder / "a", Bytes(10'000)).has_value());
  const auto source = FileSource::Open(folder / "a").value();
  std::filesystem::resize_file(folder / "a", 10);
  Bytes out(10'000);
  CHECK(source->ReadAt(0, out).error().code == Code::kDataLoss);
}

TEST_CASE("a prefix ends where it is told to") {
  const testing::TemporaryFolder folder;
  REQUIRE(AtomicWrite(folder / "a", Bytes{10, 11, 12, 13}).has_value());
  const PrefixSource prefix(FileSource::Open(folder / "a").value(), 3);
  Bytes out(2);
  CHECK(prefix.size() == 3);
  CHECK(prefix.ReadAt(1, out).has_value());
  CHECK(out == Bytes{11, 12});
  CHECK(prefix.ReadAt(2, out).error().code == Code::kOutOfRange);
  CHECK(PrefixSource(FileSource::Open(folder / "a").value(), 9).size() == 4);
}

TEST_CASE("a directory is written whole or not at all, whichever system call fails") {
  const testing::TemporaryFolder folder;
  const Bytes one = {1};
  const Bytes two = {2, 3};
  const std::vector<NamedBytes> contents = {{"a", one}, {"b", two}};
  for (const bool replaces : {false, true}) {
    CAPTURE(replaces);
    const IfExists if_exists = replaces ? IfExists::kReplace : IfExists::kFail;
    if (replaces) {
      std::filesystem::remove_all(folder / "d");
      REQUIRE(folder.Write("d/old", "old"));
    }
    int failures = 0;
    for (int n = 1; n < 100; ++n) {
      CAPTURE(n);
      FailOperationForTest(n, ENOSPC);
      const auto written = AtomicWriteDirectory(folder / "d", contents, if_exists);
      if (!FailOperationForTest(0, 0)) {
        CHECK(written.has_value());
        break;
      }
      ++failures;
      REQUIRE_FALSE(written.has_value());
      CHECK(written.error().code == Code::kResourceExhausted);
      CHECK(NamesIn(folder) == (replaces ? std::set<std::string>{"d"} : std::set<std::string>{}));
      if (replaces) CHECK(ReadFile(folder / "d/old").has_value());
    }
    CHECK(failures == 12);  // mkdir, 5 for each file, rename
    CHECK(NamesIn(folder) == std::set<std::string>{"d"});
    CHECK(ReadFile(folder / "d/a").value() == one);
    CHECK(ReadFile(folder / "d/b").value() == two);
    CHECK_FALSE(std::filesystem::exists(folder / "d/old"));
  }
}

TEST_CASE("a directory replaces nothing that it was not asked to replace") {
  const testing::TemporaryFolder folder;
  const Bytes one = {1};
  const std::vector<NamedBytes> contents = {{"a", one}};
  REQUIRE(folder.Write("d/old", "old"));
  REQUIRE(folder.Write("f", "file"));
  CHECK(AtomicWriteDirectory(folder / "d", contents, IfExists::kFail).error().code == Code::kAlreadyExists);
  CHECK(AtomicWriteDirectory(folder / "d/", contents, IfExists::kFail).error().code == Code::kAlreadyExists);
  CHECK(AtomicWriteDirectory(folder / "f", contents, IfExists::kReplace).error().code == Code::kInvalidArgument);
  CHECK(AtomicWriteDirectory(folder / "none/d", contents, IfExists::kFail).error().code == Code::kNotFound);
  CHECK(AtomicWriteDirectory("/", contents, IfExists::kReplace).error().code == Code::kInvalidArgument);
  CHECK(NamesIn(folder) == std::set<std::string>{"d", "f"});
  CHECK(AtomicWriteDirectory(folder / "new/", contents, IfExists::kFail).has_value());
  std::filesystem::create_directory_symlink("new", folder / "link");
  CHECK(AtomicWriteDirectory(folder / "link", contents, IfExists::kReplace).has_value());
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(NamesIn(folder) == std::set<std::string>{"d", "f", "link", "new"});
}

TEST_CASE("temporary names are told from others") {
  CHECK(IsTemporaryName("store/.a.holo.tmp-12-0"));
  CHECK_FALSE(IsTemporaryName("store/a.holo"));
  CHECK_FALSE(IsTemporaryName("store/.hidden.holo"));
}

TEST_CASE("the cache folder follows the environment") {
  ::setenv("HOME", "/home/somebody", 1);
  ::unsetenv("XDG_CACHE_HOME");
  ::unsetenv("HOLO_CACHE_DIR");
  CHECK(UserCacheDir().value() == "/home/somebody/.cache/holo");
  ::setenv("XDG_CACHE_HOME", "/x", 1);
  CHECK(UserCacheDir().value() == "/x/holo");
  ::setenv("HOLO_CACHE_DIR", "/h", 1);
  CHECK(UserCacheDir().value() == "/h");
  ::unsetenv("HOLO_CACHE_DIR");
  ::unsetenv("XDG_CACHE_HOME");
  ::unsetenv("HOME");
  CHECK(UserCacheDir().error().code == Code::kFailedPrecondition);
}

TEST_CASE("a mapped file shows its bytes, also after it was replaced") {
  const testing::TemporaryFolder folder;
  REQUIRE(AtomicWrite(folder / "a", Bytes{1, 2, 3}).has_value());
  REQUIRE(AtomicWrite(folder / "empty", Bytes{}).has_value());
  const auto mapped = MappedFile::Open(folder / "a").value();
  REQUIRE(AtomicWrite(folder / "a", Bytes{4, 5, 6, 7}).has_value());
  CHECK(Bytes(mapped->bytes().begin(), mapped->bytes().end()) == Bytes{1, 2, 3});
  CHECK(MappedFile::Open(folder / "empty").value()->bytes().empty());
  CHECK(MappedFile::Open(folder / ".").error().code == Code::kInvalidArgument);
  CHECK(MappedFile::Open("/dev/null").error().code == Code::kInvalidArgument);
  CHECK(MappedFile::Open(folder / "none").error().code == Code::kNotFound);
}

}  // namespace
}  // namespace holo::files
