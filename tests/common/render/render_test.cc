#include "common/render/render.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "common/codec/decoder_state.h"
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

struct Samples {
  int width = 0;
  int height = 0;
  std::vector<double> at;  // [height, width]
};

// Before the colour transform.
std::vector<Samples> PlanesOf(const Picture& picture) {
  const auto width = static_cast<int>(picture.width());
  const auto height = static_cast<int>(picture.height());
  std::vector<Samples> planes(picture.channels(), {width, height, {}});
  for (int i = 0; i < width * height; ++i) {
    std::vector<double> pixel;
    for (std::uint32_t c = 0; c < picture.channels(); ++c) {
      pixel.push_back(picture.At(i % width, i / width, c) - 32768.0);
    }
    if (pixel.size() >= 3) {
      const double luma = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
      const double cb = (pixel[2] - luma) / 1.772;
      const double cr = (pixel[0] - luma) / 1.402;
      pixel[0] = luma, pixel[1] = cb, pixel[2] = cr;
    }
    for (std::size_t c = 0; c < pixel.size(); ++c) planes[c].at.push_back(pixel[c]);
  }
  return planes;
}

Samples Halved(const Samples& plane) {
  Samples half{(plane.width + 1) / 2, (plane.height + 1) / 2, {}};
  for (int y = 0; y < plane.height; y += 2) {
    for (int x = 0; x < plane.width; x += 2) {
      const int right = std::min(x + 1, plane.width - 1);
      const int below = std::min(y + 1, plane.height - 1) * plane.width;
      const int here = y * plane.width;
      const double sum = plane.at[here + x] + plane.at[here + right] + plane.at[below + x] + plane.at[below + right];
      half.at.push_back(sum / 4);
    }
  }
  return half;
}

Samples Doubled(const Samples& half, int width, int height) {
  Samples plane{width, height, {}};
  for (int i = 0; i < width * height; ++i) plane.at.push_back(half.at[i / width / 2 * half.width + i % width / 2]);
  return plane;
}

// What smoothing takes from a plane by FORMAT.md, window by window.
Samples Removed(const Samples& plane, double limit) {
  const auto mirrored = [](int at, int size) {
    if (at < 0) at = -1 - at;
    if (at >= size) at = 2 * size - 1 - at;
    return std::clamp(at, 0, size - 1);
  };
  constexpr int kHadamard[4][4] = {{1, 1, 1, 1}, {1, 1, -1, -1}, {1, -1, 1, -1}, {1, -1, -1, 1}};
  Samples removed{plane.width, plane.height, std::vector<double>(plane.at.size())};
  const auto add_window = [&](int x, int y) {
    for (int u = 1; u < 16; ++u) {
      const auto sign = [&](int i) { return kHadamard[u / 4][i / 4] * kHadamard[u % 4][i % 4]; };
      double coefficient = 0;
      for (int i = 0; i < 16; ++i) {
        const int row = mirrored(y + i / 4, plane.height);
        coefficient += sign(i) * plane.at[row * plane.width + mirrored(x + i % 4, plane.width)];
      }
      if (std::abs(coefficient) >= limit) continue;
      for (int i = 0; i < 16; ++i) {
        const int column = x + i % 4;
        const int row = y + i / 4;
        if (column < 0 || row < 0 || column >= plane.width || row >= plane.height) continue;
        removed.at[row * plane.width + column] += 0.8 / 128 * sign(i) * coefficient;
      }
    }
  };
  for (int y = -3; y < plane.height; ++y) {
    for (int x = -3; x < plane.width; ++x) {
      if ((x + y) % 2 == 0) add_window(x, y);
    }
  }
  return removed;
}

TEST_CASE("smoothing takes away what FORMAT.md says: colour differences halved, alpha and grey at full size") {
  const auto check = [](const pixels::Layout& layout) {
    CAPTURE(layout.channels);
    CAPTURE(layout.width);
    Picture scene = Scene(layout);
    for (std::uint32_t i = 0; i < layout.width * layout.height * layout.channels; ++i) {
      const std::uint32_t c = i % layout.channels;
      const std::uint32_t x = i / layout.channels % layout.width;
      const std::uint32_t y = i / layout.channels / layout.width;
      const std::uint32_t noise = ((y * layout.width + x) * 7919 + c * 104729) % 4001;
      scene.Set(x, y, c, static_cast<std::uint16_t>(scene.At(x, y, c) + noise));
    }
    const codec::Decoder decoder = DecoderOf(scene, 60);
    const auto tile = decoder.state().Patches(std::vector<codec::Decoder::State::TileId>{{0, 0}}, 1).front();
    const auto before = PlanesOf(Render(decoder, {{}, 0, 0, false}).value());
    const auto after = PlanesOf(Render(decoder, {}).value());
    for (std::uint32_t c = 0; c < layout.channels; ++c) {
      CAPTURE(c);
      const auto& groups = decoder.header().groups;
      std::size_t g = 0;
      while (c >= groups[g].first_channel + groups[g].channel_count) ++g;
      const double step = tile->groups[g].known_step;
      const double limit = 4 * decoder.header().smoothing / 64.0 * step / (1 + step / (65535 / 4.0));
      const bool is_difference = layout.channels > 1 && (c == 1 || c == 2);
      const Samples& plane = before[c];
      const Samples expected = is_difference
                                   ? Doubled(Removed(Halved(plane), 0.3 * limit), plane.width, plane.height)
                                   : Removed(plane, limit);
      double wrong = 0;
      double all = 0;
      for (std::size_t i = 0; i < plane.at.size(); ++i) {
        wrong += std::abs(plane.at[i] - after[c].at[i] - expected.at[i]);
        all += std::abs(expected.at[i]);
      }
      // Samples and limits are rounded to units of 20 levels, and coefficients next to the limit may stay or go.
      const auto count = static_cast<double>(plane.at.size());
      CHECK(wrong / count < 10);
      if (plane.width > 3) CHECK(all / count > 60);
    }
  };
  for (const std::pair<std::uint32_t, std::uint32_t>& size : {std::pair{61u, 45u}, {30u, 34u}, {3u, 5u}}) {
    check({size.first, size.second, 1, SampleType::kU16, ColorModel::kGray, false});
    check({size.first, size.second, 3, SampleType::kU16, ColorModel::kRgb, false});
    check({size.first, size.second, 4, SampleType::kU16, ColorModel::kRgb, true});
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
