#include "client/core/client.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace holo::client {
namespace {

pixels::Picture Scene(std::uint32_t width, std::uint32_t height) {
  auto picture =
      pixels::Picture::Create({width, height, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false}).value();
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      for (std::uint32_t c = 0; c < 3; ++c) {
        const double wave = 128 + 90 * std::sin(x * 0.21 + c) * std::cos(y * 0.13) + (x * y) % 17;
        picture.Set(x, y, c, static_cast<std::uint16_t>(wave));
      }
    }
  }
  return picture;
}

codec::Encoded EncodedScene(std::uint32_t width, std::uint32_t height) {
  codec::EncodeOptions options;
  options.basis_choice = codec::BasisChoice::kUniversal;
  return codec::Encode(Scene(width, height), options).value();
}

TEST_CASE("a canvas brought up to date piece by piece looks as if rendered at once") {
  struct Row {
    std::uint32_t width, height;
    pixels::Rect region;
    std::uint32_t k;
  };
  const Row rows[] = {
      {301, 203, {}, 0}, {301, 203, {37, 51, 201, 149}, 0}, {301, 203, {300, 0, 1, 203}, 0}, {299, 1, {}, 0},
      {257, 129, {}, 9}, {5, 3, {1, 1, 3, 2}, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.width);
    CAPTURE(row.region.x);
    const codec::Encoded scene = EncodedScene(row.width, row.height);
    const auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(scene.file)).value();
    for (const std::uint32_t scale_log2 : {0u, 1u, 3u, 6u, 12u}) {
      CAPTURE(scale_log2);
      auto decoder = codec::Decoder::Create(reader.header(), basis::FindBuiltIn).value();
      const render::View view{row.region, scale_log2, row.k};
      Canvas canvas = Canvas::Create(decoder, view).value();
      const auto is_current = [&] {
        const auto whole = render::Render(decoder, view);
        return whole && std::ranges::equal(whole->bytes(), canvas.picture().bytes());
      };
      CHECK(is_current());
      for (const container::ChunkInfo& chunk : reader.chunks()) {
        const auto changed = decoder.AddChunk(chunk.id, reader.ReadChunk(chunk).value());
        REQUIRE(changed.has_value());
        REQUIRE(canvas.Update(decoder, *changed).has_value());
        CHECK(is_current());
      }
      // What looks the same may be rendered again in any pieces, some of them far outside.
      std::mt19937 random(scale_log2);
      for (int i = 0; i < 30; ++i) {
        const auto below = [&](std::uint32_t limit) { return static_cast<std::uint32_t>(random() % limit); };
        const pixels::Rect dirty{below(row.width), below(row.height), below(row.width + 9), below(row.height + 9)};
        const auto rendered = canvas.Update(decoder, dirty);
        REQUIRE(rendered.has_value());
        CHECK(*rendered <= std::uint64_t{canvas.picture().width()} * canvas.picture().height());
      }
      CHECK(is_current());
    }
  }
  const codec::Encoded scene = EncodedScene(20, 10);
  const auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(scene.file)).value();
  const auto decoder = codec::Decoder::Create(reader.header(), basis::FindBuiltIn).value();
  CHECK(Canvas::Create(decoder, {{10, 0, 11, 10}, 0, 0}).error().code == Code::kOutOfRange);
}

}  // namespace
}  // namespace holo::client
