#include "client/asset_file/asset_file.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/basis/train.h"
#include "common/bytes/bytes.h"
#include "common/codec/codec.h"
#include "common/files/files.h"
#include "common/render/render.h"
#include "tests/temporary_folder.h"

namespace holo::asset_file {
namespace {

// A folder of its own, also for the cache of bases.
class Folder : public testing::TemporaryFolder {
 public:
  Folder() { ::setenv("HOLO_CACHE_DIR", (*this / "cache").c_str(), 1); }
};

pixels::Picture Waves() {
  pixels::Layout layout;
  layout.width = 1200;  // two tiles
  layout.height = 300;
  layout.channels = 3;
  layout.color_model = pixels::ColorModel::kRgb;
  pixels::Picture picture = pixels::Picture::Create(layout).value();
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < 3; ++c) {
        picture.Set(x, y, c, static_cast<std::uint16_t>((x * x / (40 + c) + y * (c + 1) + x * y / 50) % 256));
      }
    }
  }
  return picture;
}

std::vector<std::uint8_t> Encode(const codec::EncodeOptions& options) {
  return codec::Encode(Waves(), options).value().file;
}

bool SameBytes(const pixels::Picture& a, const pixels::Picture& b) {
  return a.layout() == b.layout() && std::ranges::equal(a.bytes(), b.bytes());
}

TEST_CASE("a region read alone looks as it does in the whole") {
  const Folder folder;
  REQUIRE(files::AtomicWrite(folder / "a.holo", Encode({})).has_value());
  const AssetFile asset = Open(folder / "a.holo").value();
  const codec::Decoder whole = Decode(asset, {}, 0).value();
  const pixels::Rect region{300, 17, 101, 90};
  for (const std::uint32_t scale_log2 : {0u, 1u, 3u, 5u}) {
    CAPTURE(scale_log2);
    const codec::Decoder part = Decode(asset, region, scale_log2).value();
    CHECK(part.received_bytes() < whole.received_bytes());
    const render::View view{region, scale_log2, 0};
    CHECK(SameBytes(render::Render(part, view).value(), render::Render(whole, view).value()));
  }
}

TEST_CASE("any prefix with its header opens and renders, and more bytes never hold less") {
  const Folder folder;
  const std::vector<std::uint8_t> file = Encode({});
  REQUIRE(files::AtomicWrite(folder / "a.holo", file).has_value());
  std::uint64_t before = 0;
  int opened = 0;
  for (std::uint64_t size = 0; size <= file.size(); size += std::max<std::uint64_t>(1, file.size() / 40)) {
    CAPTURE(size);
    OpenOptions options;
    options.prefix_bytes = size;
    const auto asset = Open(folder / "a.holo", options);
    if (!asset) {
      CHECK(asset.error().code == Code::kDataLoss);
      CHECK(opened == 0);
      continue;
    }
    ++opened;
    const auto decoder = Decode(*asset, {}, 0);
    REQUIRE(decoder.has_value());
    CHECK(decoder->received_bytes() >= before);
    before = decoder->received_bytes();
    CHECK(render::Render(*decoder, {}).has_value());
  }
  CHECK(opened > 30);
}

TEST_CASE("a basis is found where it is named, beside the file and in the cache, and nowhere else") {
  const Folder folder;
  basis::Trainer trainer = basis::Trainer::Create(basis::TrainingPlanes::kJoint, 3).value();
  REQUIRE(trainer.AddPicture(Waves()).has_value());
  const auto basis = trainer.Finish("waves").value();
  codec::EncodeOptions options;
  options.basis_choice = codec::BasisChoice::kGiven;
  options.basis = basis;
  REQUIRE(files::AtomicWrite(folder / "a.holo", Encode(options)).has_value());
  const auto decodes = [&](const OpenOptions& open) {
    const auto asset = Open(folder / "a.holo", open);
    return asset && Decode(*asset, {}, 0).has_value();
  };
  CHECK_FALSE(decodes({}));

  const std::filesystem::path elsewhere = folder / "bases/one.basis";
  REQUIRE(files::MakeDirectories(elsewhere.parent_path()).has_value());
  REQUIRE(files::AtomicWrite(elsewhere, basis->bytes()).has_value());
  OpenOptions named;
  named.basis = elsewhere;
  CHECK(decodes(named));

  const std::filesystem::path beside = folder / "waves.basis";
  REQUIRE(files::AtomicWrite(beside, basis->bytes()).has_value());
  CHECK(decodes({}));
  std::filesystem::remove(beside);
  CHECK_FALSE(decodes({}));

  const std::filesystem::path cached = folder / "cache/bases" / (bytes::ToHex(basis->hash()) + ".basis");
  REQUIRE(files::MakeDirectories(cached.parent_path()).has_value());
  REQUIRE(files::AtomicWrite(cached, basis->bytes()).has_value());
  CHECK(decodes({}));
  // A damaged one is as good as none.
  REQUIRE(files::AtomicWrite(cached, std::vector<std::uint8_t>(100)).has_value());
  CHECK_FALSE(decodes({}));
}

TEST_CASE("errors name the file") {
  const Folder folder;
  REQUIRE(files::AtomicWrite(folder / "a.holo", std::vector<std::uint8_t>(500, 'x')).has_value());
  CHECK(Open(folder / "a.holo").error().code == Code::kDataLoss);
  CHECK(Open(folder / "a.holo").error().message.find("a.holo") != std::string::npos);
  CHECK(LoadBasis(folder / "a.holo").error().message.find("a.holo") != std::string::npos);
  CHECK(Open(folder / "none.holo").error().code == Code::kNotFound);
}

}  // namespace
}  // namespace holo::asset_file
