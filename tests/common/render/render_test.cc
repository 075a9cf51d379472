#include "common/render/render.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "common/quality/quality.h"

namespace holo::render {
namespace {

using pixels::ColorModel;
using pixels::Picture;
using pixels::SampleType;

Picture Scene(const pixels::Layout& layout) {
  Picture picture = Picture::Create(layout).value();
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < layout.channels; ++c) {
        const double v = 128 + 80 * std::sin(x * 0.11 + c) * std::cos(y * 0.07) + (x > y ? 20 : 0);
        picture.Set(x, y, c, static_cast<std::uint16_t>(layout.sample_type == SampleType::kU8 ? v : 257 * v));
      }
    }
  }
  return picture;
}
Picture Scene(std::uint32_t width, std::uint32_t height) {
  return Scene({width, height, 3, SampleType::kU8, ColorModel::kRgb, false});
}

codec::Decoder DecoderOf(const Picture& picture, float quality, codec::Decoder::Options limits = {}) {
  codec::EncodeOptions options;
  options.quality = quality;
  const auto file = codec::Encode(picture, options).value().file;
  const auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(file)).value();
  auto decoder = codec::Decoder::Create(reader.header(), basis::FindBuiltIn, limits).value();
  for (const auto& chunk : reader.chunks()) {
    REQUIRE(decoder.AddChunk(chunk.id, reader.ReadChunk(chunk).value()).has_value());
  }
  return decoder;
}

// Averages boxes of 2^shift pixels, those at the edges over what they have.
Picture BoxReduced(const Picture& picture, std::uint32_t shift) {
  const std::uint32_t box = 1u << shift;
  pixels::Layout layout = picture.layout();
  layout.width = (layout.width + box - 1) / box;
  layout.height = (layout.height + box - 1) / box;
  Picture out = Picture::Create(layout).value();
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < layout.channels; ++c) {
        std::uint32_t sum = 0;
        std::uint32_t count = 0;
        for (std::uint32_t v = y * box; v < std::min((y + 1) * box, picture.height()); ++v) {
          for (std::uint32_t u = x * box; u < std::min((x + 1) * box, picture.width()); ++u, ++count) {
            sum += picture.At(u, v, c);
          }
        }
        out.Set(x, y, c, static_cast<std::uint16_t>((sum + count / 2) / count));
      }
    }
  }
  return out;
}

TEST_CASE("any region is the same pixels as that part of the whole, at every scale") {
  const codec::Decoder decoder = DecoderOf(Scene(531, 420), 80);
  const pixels::Rect regions[] = {
      {0, 0, 1, 1}, {530, 419, 1, 1}, {100, 50, 37, 211}, {255, 255, 2, 2}, {0, 256, 531, 8}};
  for (std::uint32_t scale = 0; scale < 12; ++scale) {
    const Picture whole = Render(decoder, {{}, scale, 0}).value();
    for (const pixels::Rect& region : regions) {
      CAPTURE(scale);
      CAPTURE(region.x);
      const View view{region, scale, 0};
      const OutputRect rect = OutputRectOf(view);
      const Picture part = Render(decoder, view).value();
      const Picture expected = whole.Crop({rect.x, rect.y, rect.width, rect.height}).value();
      CHECK(std::ranges::equal(part.bytes(), expected.bytes()));
    }
  }
}

TEST_CASE("a smoothed region is that part of the smoothed whole: small pictures, borders of tiles, parts of a stream") {
  const auto check = [](const codec::Decoder& decoder, std::uint32_t width, std::uint32_t height,
                        std::span<const pixels::Rect> regions) {
    REQUIRE(decoder.header().smoothing > 0);
    const Picture whole = Render(decoder, {}).value();
    const Picture projected = Render(decoder, {{}, 0, 0, false}).value();
    CHECK(whole.layout() == projected.layout());
    for (const pixels::Rect& region : regions) {
      if (region.x + region.width > width || region.y + region.height > height) continue;
      CAPTURE(region.x);
      CAPTURE(region.y);
      CHECK(std::ranges::equal(Render(decoder, {region, 0, 0}, 2).value().bytes(), whole.Crop(region).value().bytes()));
      CHECK(std::ranges::equal(Render(decoder, {region, 0, 0, false}).value().bytes(),
                               projected.Crop(region).value().bytes()));
    }
  };
  codec::EncodeOptions options;
  options.quality = 40;
  options.lapped = true;
  const auto reader_of = [&options](const Picture& picture) {
    const auto file = codec::Encode(picture, options).value().file;
    return container::AssetReader::Open(std::make_shared<container::MemorySource>(file)).value();
  };
  const auto add_all = [](codec::Decoder& decoder, const container::AssetReader& reader) {
    for (const auto& chunk : reader.chunks()) REQUIRE(decoder.AddChunk(chunk.id, reader.ReadChunk(chunk).value()));
  };
  constexpr pixels::Rect kSmall[] = {{0, 0, 1, 1}, {1, 0, 2, 1}, {0, 2, 1, 3},
                                     {2, 2, 1, 1}, {1, 1, 4, 3}, {3, 0, 1, 6}};
  using Size = std::pair<std::uint32_t, std::uint32_t>;
  for (const Size& size : {Size{1, 1}, {2, 1}, {1, 3}, {3, 3}, {4, 2}, {5, 6}, {9, 17}}) {
    const std::uint32_t width = size.first;
    const std::uint32_t height = size.second;
    CAPTURE(width);
    CAPTURE(height);
    const auto reader = reader_of(Scene(width, height));
    auto decoder = codec::Decoder::Create(reader.header(), basis::FindBuiltIn).value();
    add_all(decoder, reader);
    check(decoder, width, height, kSmall);
  }
  // Other channels: only those of colour differences are smoothed at half the size.
  constexpr pixels::Layout kOthers[] = {{61, 45, 1, SampleType::kU8, ColorModel::kGray, false},
                                        {61, 45, 4, SampleType::kU8, ColorModel::kRgb, true},
                                        {61, 45, 3, SampleType::kU16, ColorModel::kRgb, false},
                                        {61, 45, 5, SampleType::kU16, ColorModel::kGeneric, false}};
  constexpr pixels::Rect kParts[] = {{0, 0, 61, 1}, {7, 1, 20, 44}, {33, 22, 28, 23}, {60, 44, 1, 1}};
  for (const pixels::Layout& layout : kOthers) {
    CAPTURE(layout.channels);
    const auto reader = reader_of(Scene(layout));
    auto decoder = codec::Decoder::Create(reader.header(), basis::FindBuiltIn).value();
    add_all(decoder, reader);
    check(decoder, layout.width, layout.height, kParts);
  }
  // Tiles of 256 and of 1024 pixels, known to different bit-planes or not at all.
  constexpr pixels::Rect kLarge[] = {{250, 0, 9, 9},      {254, 253, 3, 5},   {1020, 500, 30, 30}, {1023, 1022, 2, 4},
                                     {1024, 1024, 8, 40}, {255, 700, 500, 1}, {1030, 3, 1, 900}};
  for (const Size& size : {Size{1100, 1040}, {2600, 900}}) {
    const std::uint32_t width = size.first;
    const std::uint32_t height = size.second;
    CAPTURE(width);
    const auto reader = reader_of(Scene(width, height));
    auto decoder = codec::Decoder::Create(reader.header(), basis::FindBuiltIn).value();
    for (const auto& chunk : reader.chunks()) {
      if (chunk.id.level == 0 && chunk.id.layer + chunk.id.tile % 5 * 2 >= reader.header().layer_count) continue;
      REQUIRE(decoder.AddChunk(chunk.id, reader.ReadChunk(chunk).value()));
    }
    check(decoder, width, height, kLarge);
  }
}

TEST_CASE("smoothing brings a photograph-like picture nearer to the original, and leaves fewer dimensions alone") {
  Picture original = Scene(300, 200);
  const codec::Decoder decoder = DecoderOf(original, 60);
  const double smoothed = quality::Psnr(original, Render(decoder, {}).value()).value();
  CHECK(smoothed > quality::Psnr(original, Render(decoder, {{}, 0, 0, false}).value()).value());
  for (const std::uint32_t k : {20u, 191u}) {
    CHECK(std::ranges::equal(Render(decoder, {{}, 0, k}).value().bytes(),
                             Render(decoder, {{}, 0, k, false}).value().bytes()));
  }
  CHECK(std::ranges::equal(Render(decoder, {{}, 1, 0}).value().bytes(),
                           Render(decoder, {{}, 1, 0, false}).value().bytes()));
}

TEST_CASE("threads and little memory do not change a picture") {
  const Picture original = Scene(1201, 700);
  const codec::Decoder decoder = DecoderOf(original, 80);
  for (std::uint32_t scale = 0; scale < 6; ++scale) {
    CAPTURE(scale);
    const View view{{3, 9, 1190, 688}, scale, 0};
    const Picture expected = Render(decoder, view).value();
    const codec::Decoder forgetful = DecoderOf(original, 80, {1});
    for (const unsigned threads : {0u, 2u, 3u, 16u}) {
      CAPTURE(threads);
      CHECK(std::ranges::equal(Render(decoder, view, threads).value().bytes(), expected.bytes()));
      CHECK(std::ranges::equal(Render(forgetful, view, threads).value().bytes(), expected.bytes()));
    }
  }
}

TEST_CASE("a reduced picture looks like the reduced original") {
  const Picture original = Scene(512, 384);
  const codec::Decoder decoder = DecoderOf(original, 95);
  // At 1/8 and beyond the lapped means stand for boxes: sharper than a box, more so at each level, so not equal to it.
  const double least_psnr[] = {44, 34, 32, 30, 28, 20};
  for (std::uint32_t scale = 0; scale < 6; ++scale) {
    CAPTURE(scale);
    const Picture reduced = Render(decoder, {{}, scale, 0}).value();
    const Picture expected = BoxReduced(original, scale);
    REQUIRE(reduced.layout() == expected.layout());
    CHECK(quality::Psnr(expected, reduced).value() > least_psnr[scale]);
  }
}

TEST_CASE("more dimensions at render time are a better picture") {
  const Picture original = Scene(256, 256);
  const codec::Decoder decoder = DecoderOf(original, 90);
  double last = 0;
  for (const std::uint32_t k : {3u, 6u, 20u, 80u, 192u}) {
    CAPTURE(k);
    const double psnr = quality::Psnr(original, Render(decoder, {{}, 0, k}).value()).value();
    CHECK(psnr >= last);
    last = psnr;
  }
  const Picture all = Render(decoder, {{}, 0, 0}).value();
  CHECK(std::ranges::equal(all.bytes(), Render(decoder, {{}, 0, 192}).value().bytes()));
}

TEST_CASE("views outside the picture are refused") {
  const codec::Decoder decoder = DecoderOf(Scene(64, 48), 50);
  CHECK_FALSE(Render(decoder, {{0, 0, 65, 1}, 0, 0}).has_value());
  CHECK_FALSE(Render(decoder, {{64, 0, 1, 1}, 0, 0}).has_value());
  CHECK_FALSE(Render(decoder, {{0xFFFFFFFF, 0, 2, 2}, 0, 0}).has_value());
  CHECK_FALSE(Render(decoder, {{0, 0, 5, 0}, 0, 0}).has_value());
  CHECK_FALSE(Render(decoder, {{}, kMaxScaleLog2 + 1, 0}).has_value());
  Picture wrong = Picture::Create({10, 10, 1, SampleType::kU8, ColorModel::kGray, false}).value();
  CHECK_FALSE(RenderInto(decoder, {{0, 0, 10, 10}, 0, 0}, {0, 0, 10, 10}, wrong).has_value());
}

}  // namespace
}  // namespace holo::render
