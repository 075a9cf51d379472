#include "server/assets/assets.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <future>
#include <mutex>
#include <string>

#include "common/files/files.h"
#include "tests/common/protocol/sample_asset.h"
#include "tests/temporary_folder.h"

namespace holo::assets {
namespace {
namespace fs = std::filesystem;
using testing::TemporaryFolder;

std::vector<std::uint8_t> SmallFile(std::uint32_t seed = 1) {
  testing::SampleOptions options;
  options.width = 300;
  options.height = 200;
  options.seed = seed;
  return testing::SampleFile(options);
}

// Compresses files that end in .pic and start with 'P' into an asset, counting.
struct Pictures {
  std::atomic<int> compressed{0};

  Options In(const fs::path& folder) {
    Options options;
    options.folder = folder;
    options.watch = false;
    options.is_picture = [](const fs::path& path) { return path.extension() == ".pic"; };
    options.compress = [this](const fs::path& path) -> Result<std::vector<std::uint8_t>> {
      HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, files::ReadFile(path));
      if (bytes.empty() || bytes[0] != 'P') return Fail(Code::kInvalidArgument, path.string() + ": no picture");
      ++compressed;
      return SmallFile();
    };
    return options;
  }
};

Code CodeOf(Store& store, std::string_view name) {
  const auto result = store.GetAndWait(name);
  REQUIRE_FALSE(result.has_value());
  // So that a reader of the log knows which asset it was.
  CHECK(result.error().message.find(name) != std::string::npos);
  return result.error().code;
}

std::vector<std::string> Names(const Store& store) {
  std::vector<std::string> names;
  for (const Entry& entry : store.List("", 1000)) names.push_back(entry.name);
  return names;
}

TEST_CASE("no name leads out of the folder") {
  const TemporaryFolder outside;
  const TemporaryFolder folder;
  REQUIRE(outside.Write("secret.holo", SmallFile()));
  REQUIRE(folder.Write("a.holo", SmallFile()));
  REQUIRE(folder.Write("sub/b.holo", SmallFile()));
  REQUIRE(folder.Write(".hidden.holo", SmallFile()));
  fs::create_symlink(outside / "secret.holo", folder / "link_out.holo");
  fs::create_directory_symlink(outside.path(), folder / "folder_out");
  fs::create_symlink("a.holo", folder / "link_in.holo");
  Pictures pictures;
  const auto store = Store::Open(pictures.In(folder.path())).value();

  CHECK(Names(*store) == std::vector<std::string>{"a", "link_in", "sub/b"});
  for (const char* name : {"a", "link_in", "sub/b"}) {
    CAPTURE(name);
    CHECK(store->GetAndWait(name).has_value());
  }
  const std::string up = "../" + outside.path().filename().string() + "/secret";
  const std::string absolute = (outside / "secret").string();
  for (const std::string& name :
       {up, absolute, std::string("link_out"), std::string("folder_out/secret"), std::string("sub/../a"),
        std::string("./a"), std::string("sub//b"), std::string("a.holo"), std::string(".hidden"), std::string(""),
        std::string("a\0", 2), std::string("sub"), std::string("\xff")}) {
    CAPTURE(name);
    CHECK(CodeOf(*store, name) == Code::kNotFound);
  }

  // Nor does a name whose file becomes a link out after it was found.
  fs::remove(folder / "a.holo");
  fs::create_symlink(outside / "secret.holo", folder / "a.holo");
  CHECK(CodeOf(*store, "a") == Code::kNotFound);
}

TEST_CASE("a picture is compressed on first use, once, and again when it changes") {
  const TemporaryFolder folder;
  REQUIRE(folder.Write("sub/p.pic", "P1"));
  Pictures pictures;
  {
    const auto store = Store::Open(pictures.In(folder.path())).value();
    CHECK(pictures.compressed == 0);
    CHECK_FALSE(store->List("", 1).at(0).ready);
    CHECK(store->GetAndWait("sub/p").has_value());
    CHECK(store->GetAndWait("sub/p").has_value());
    CHECK(pictures.compressed == 1);
    CHECK(store->List("", 1).at(0).ready);
    CHECK(store->statistics().hits == 1);
  }
  const auto store = Store::Open(pictures.In(folder.path())).value();
  CHECK(store->GetAndWait("sub/p").has_value());
  CHECK(pictures.compressed == 1);  // from the cache folder

  const auto cached_files = [&] {
    return std::distance(fs::directory_iterator(folder / ".holo"), fs::directory_iterator());
  };
  CHECK(cached_files() == 1);
  REQUIRE(folder.Write("sub/p.pic", "P two"));
  CHECK(store->GetAndWait("sub/p").has_value());
  CHECK(pictures.compressed == 2);
  store->Rescan();
  CHECK(cached_files() == 1);  // the stale one is gone
  fs::remove(folder / "sub/p.pic");
  store->Rescan();
  CHECK(cached_files() == 0);

  // A damaged file in the cache is not served, but replaced.
  REQUIRE(folder.Write("q.pic", "P1"));
  store->Rescan();
  CHECK(store->GetAndWait("q").has_value());
  const fs::path cached = fs::directory_iterator(folder / ".holo")->path();
  REQUIRE(files::AtomicWrite(cached, std::vector<std::uint8_t>(100)).has_value());
  const auto again = Store::Open(pictures.In(folder.path())).value();
  CHECK(again->GetAndWait("q").has_value());
  CHECK(pictures.compressed == 4);
}

TEST_CASE("a .holo file goes before pictures of its name, which keep their extension") {
  const TemporaryFolder folder;
  REQUIRE(folder.Write("x.pic", "P"));
  REQUIRE(folder.Write("x.holo", SmallFile()));
  REQUIRE(folder.Write("readme.txt", "P"));
  Pictures pictures;
  const auto store = Store::Open(pictures.In(folder.path())).value();
  CHECK(Names(*store) == std::vector<std::string>{"x", "x.pic"});
  CHECK(store->GetAndWait("x").has_value());
  CHECK(pictures.compressed == 0);
  CHECK(store->GetAndWait("x.pic").has_value());
  CHECK(pictures.compressed == 1);
}

TEST_CASE("many who want one picture wait for one compression") {
  const TemporaryFolder folder;
  REQUIRE(folder.Write("p.pic", "P"));
  Pictures pictures;
  Options options = pictures.In(folder.path());
  std::promise<void> gate;
  options.compress = [&, compress = options.compress, opened = gate.get_future().share()](const fs::path& path) {
    opened.wait();
    return compress(path);
  };
  const auto store = Store::Open(std::move(options)).value();
  constexpr int kMany = 10;
  std::vector<std::promise<std::shared_ptr<const OpenAsset>>> promises(kMany);
  for (auto& promise : promises) {
    store->Get("p", [&promise](const auto& result) { promise.set_value(result ? *result : nullptr); });
  }
  gate.set_value();
  const auto first = promises[0].get_future().get();
  CHECK(first != nullptr);
  for (int i = 1; i < kMany; ++i) CHECK(promises[static_cast<std::size_t>(i)].get_future().get() == first);
  CHECK(pictures.compressed == 1);
}

TEST_CASE("a folder that goes away for a while does not cost what was compressed") {
  const TemporaryFolder folder;
  const TemporaryFolder cache;
  REQUIRE(folder.Write("store/p.pic", "P"));
  Pictures pictures;
  Options options = pictures.In(folder / "store");
  options.cache_folder = cache.path();
  const auto store = Store::Open(std::move(options)).value();
  CHECK(store->GetAndWait("p").has_value());
  fs::rename(folder / "store", folder / "away");
  store->Rescan();
  CHECK(CodeOf(*store, "p") == Code::kNotFound);
  fs::rename(folder / "away", folder / "store");
  store->Rescan();
  CHECK(store->GetAndWait("p").has_value());
  CHECK(pictures.compressed == 1);
}

TEST_CASE("what is compressed stays in memory where the cache cannot be written") {
  const TemporaryFolder folder;
  const TemporaryFolder elsewhere;
  REQUIRE(folder.Write("p.pic", "P"));
  SUBCASE("the folder cannot be made") {
    REQUIRE(elsewhere.Write("file", "in the way"));
    Pictures pictures;
    Options options = pictures.In(folder.path());
    options.cache_folder = elsewhere / "file/cache";
    const auto store = Store::Open(std::move(options)).value();
    CHECK(store->GetAndWait("p").has_value());
    CHECK(store->GetAndWait("p").has_value());
    CHECK(pictures.compressed == 1);
  }
  SUBCASE("the disk is full at any step") {
    bool failed = true;
    for (int n = 1; failed; ++n) {
      CAPTURE(n);
      Pictures pictures;
      Options options = pictures.In(folder.path());
      options.cache_folder = elsewhere / std::to_string(n);
      const auto store = Store::Open(std::move(options)).value();
      files::FailOperationForTest(n, ENOSPC);
      const auto open = store->GetAndWait("p");
      failed = files::FailOperationForTest(0, 0);
      REQUIRE(open.has_value());
      CHECK((*open)->asset->chunk_count() > 0);
      CHECK(store->statistics().open_bytes > 0);
    }
  }
}

TEST_CASE("a damaged file is refused without reading it again, and served once it is replaced") {
  const TemporaryFolder folder;
  REQUIRE(folder.Write("d.holo", "no hologram at all"));
  REQUIRE(folder.Write("p.pic", "x"));
  std::mutex mutex;
  int lines = 0;
  Pictures pictures;
  Options options = pictures.In(folder.path());
  options.log = [&](const std::string& line) {
    const std::lock_guard lock(mutex);
    lines += line.find("not served") != std::string::npos ? 1 : 0;
  };
  const auto store = Store::Open(std::move(options)).value();
  for (int i = 0; i < 3; ++i) CHECK(CodeOf(*store, "d") == Code::kDataLoss);
  for (int i = 0; i < 3; ++i) CHECK(CodeOf(*store, "p") == Code::kInvalidArgument);
  CHECK(store->statistics().misses == 2);
  CHECK(store->statistics().damaged == 2);
  CHECK(store->statistics().compress_failures == 1);
  // Clients learn which file it was, not where the store lies.
  CHECK(store->GetAndWait("p").error().message == "asset p: p.pic: no picture");
  CHECK(Names(*store).empty());
  {
    const std::lock_guard lock(mutex);
    CHECK(lines == 2);
  }

  REQUIRE(folder.Write("d.holo", SmallFile()));
  const auto good = store->GetAndWait("d");
  REQUIRE(good.has_value());

  // Damage found only by reading further counts the same.
  store->ReportDamage("d", {Code::kDataLoss, "asset d: bad page"});
  CHECK(CodeOf(*store, "d") == Code::kDataLoss);
  store->Rescan();
  CHECK(CodeOf(*store, "d") == Code::kDataLoss);
  REQUIRE(folder.Write("d.holo", SmallFile(2)));
  const auto better = store->GetAndWait("d");
  REQUIRE(better.has_value());
  CHECK((*better)->asset->reader().content_hash() != (*good)->asset->reader().content_hash());
  CHECK(store->statistics().damaged == 1);  // the picture
}

TEST_CASE("every prefix of a file is served as far as it goes or refused as damaged") {
  const TemporaryFolder folder;
  const std::vector<std::uint8_t> file = SmallFile();
  Pictures pictures;
  REQUIRE(folder.Write("t.holo", file));
  const auto store = Store::Open(pictures.In(folder.path())).value();
  const std::uint32_t all = store->GetAndWait("t").value()->asset->chunk_count();
  std::uint32_t before = 0;
  for (std::size_t size = 0; size < file.size(); size += file.size() / 60) {
    CAPTURE(size);
    REQUIRE(folder.Write("t.holo", std::span(file).first(size)));
    const auto open = store->GetAndWait("t");
    if (!open) {
      CHECK(open.error().code == Code::kDataLoss);
      CHECK(before == 0);
      continue;
    }
    CHECK((*open)->asset->reader().is_truncated());
    CHECK((*open)->asset->chunk_count() >= before);
    CHECK((*open)->asset->chunk_count() < all);
    before = (*open)->asset->chunk_count();
  }
  CHECK(before > 0);
}

TEST_CASE("assets used longest ago leave memory, and stay readable for who has them") {
  const TemporaryFolder folder;
  for (const char* name : {"a.holo", "b.holo", "c.holo"}) REQUIRE(folder.Write(name, SmallFile()));
  Pictures pictures;
  Options options = pictures.In(folder.path());
  const std::size_t one = Store::Open(options).value()->GetAndWait("a").value()->asset->memory_bytes();
  options.max_memory_bytes = 2 * one;
  const auto store = Store::Open(std::move(options)).value();
  const auto a = store->GetAndWait("a").value();
  const auto b = store->GetAndWait("b").value();
  CHECK(store->GetAndWait("a").value() == a);
  const auto c = store->GetAndWait("c").value();  // b leaves
  CHECK(store->statistics().open_bytes <= 2 * one);
  CHECK(store->statistics().evictions == 1);
  CHECK(store->GetAndWait("a").value() == a);
  CHECK(store->GetAndWait("b").value() != b);
  fs::remove(folder / "a.holo");
  CHECK(CodeOf(*store, "a") == Code::kNotFound);
  const container::AssetReader& reader = a->asset->reader();
  CHECK(reader.ReadChunk(reader.chunks().back()).has_value());
}

TEST_CASE("a watched folder shows what comes and goes, also in new folders") {
  const TemporaryFolder folder;
  Pictures pictures;
  Options options = pictures.In(folder.path());
  options.watch = true;
  const auto store = Store::Open(std::move(options)).value();
  // Scans follow every change: waiting for the next one ends.
  const auto wait_for = [&](const std::vector<std::string>& names) {
    for (;;) {
      const std::uint64_t scans = store->statistics().scans;
      if (Names(*store) == names) return;
      store->WaitForScanForTest(scans + 1);
    }
  };
  REQUIRE(folder.Write("a.holo", SmallFile()));
  wait_for({"a"});
  REQUIRE(folder.Write("new/deep/b.holo", SmallFile()));
  wait_for({"a", "new/deep/b"});
  CHECK(store->GetAndWait("new/deep/b").has_value());
  fs::remove_all(folder / "new");
  wait_for({"a"});
  fs::rename(folder / "a.holo", folder / "c.holo");
  wait_for({"c"});
}

TEST_CASE("pictures are compressed ahead where that is wished") {
  const TemporaryFolder folder;
  for (const char* name : {"a.pic", "b.pic", "c.pic"}) REQUIRE(folder.Write(name, "P"));
  Pictures pictures;
  Options options = pictures.In(folder.path());
  options.compress_ahead = true;
  const auto store = Store::Open(std::move(options)).value();
  // Asked for while they wait, running or done, each is compressed once.
  for (const char* name : {"c", "b", "a"}) CHECK(store->GetAndWait(name).has_value());
  CHECK(pictures.compressed == 3);
}

TEST_CASE("lists come in order and in pages") {
  const TemporaryFolder folder;
  for (const char* name : {"b.holo", "a.holo", "a/z.holo", "\xc3\xa9.holo"}) REQUIRE(folder.Write(name, SmallFile()));
  Pictures pictures;
  const auto store = Store::Open(pictures.In(folder.path())).value();
  CHECK(Names(*store) == std::vector<std::string>{"a", "a/z", "b", "\xc3\xa9"});
  CHECK(store->List("a", 2).at(0).name == "a/z");
  CHECK(store->List("a", 2).size() == 2);
  CHECK(store->List("\xc3\xa9", 2).empty());
  CHECK(Store::Open(pictures.In(folder / "none")).error().code == Code::kNotFound);
  CHECK(Store::Open(pictures.In(folder / "b.holo")).error().code == Code::kInvalidArgument);
}

TEST_CASE("a store that is closed answers everybody who waits") {
  const TemporaryFolder folder;
  for (int i = 0; i < 5; ++i) REQUIRE(folder.Write(std::to_string(i) + ".pic", "P"));
  std::atomic<int> answers{0};
  Pictures pictures;
  {
    const auto store = Store::Open(pictures.In(folder.path())).value();
    for (int i = 0; i < 5; ++i) {
      store->Get(std::to_string(i), [&answers](const auto&) { ++answers; });
    }
  }
  CHECK(answers == 5);
}

TEST_CASE("names are UTF-8 without NUL") {
  for (const std::string_view good : {"a", "\xC3\xBC", "\xE5\x86\x99/\xE4\xB8\x80", "\xF0\x9F\x98\x80", ""}) {
    CHECK(IsValidName(good));
  }
  using namespace std::string_view_literals;
  for (const std::string_view bad :
       {"a\0b"sv, "\xFF"sv, "\xC0\xAF"sv, "\xED\xA0\x80"sv, "\xE2\x82"sv, "\xF4\x90\x80\x80"sv}) {
    CHECK_FALSE(IsValidName(bad));
  }
}

}  // namespace
}  // namespace holo::assets
