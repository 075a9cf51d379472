#include "common/plain/plain.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>

#include "common/bytes/bytes.h"
#include "common/image_io/image_io.h"
#include "common/quality/quality.h"

namespace holo::plain {
namespace {

using Bytes = std::vector<std::uint8_t>;

pixels::Picture Gradient(std::uint32_t width, std::uint32_t height, std::uint32_t channels, pixels::SampleType type) {
  pixels::Layout layout;
  layout.width = width;
  layout.height = height;
  layout.channels = channels;
  layout.sample_type = type;
  pixels::Picture picture = pixels::Picture::Create(layout).value();
  const std::uint32_t max = type == pixels::SampleType::kU8 ? 255 : 65535;
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      for (std::uint32_t c = 0; c < channels; ++c) {
        picture.Set(x, y, c, static_cast<std::uint16_t>((x * (c + 1) + y * 3) * max / (width * channels + height * 3)));
      }
    }
  }
  return picture;
}

TEST_CASE("all dimensions give the picture back, of any shape") {
  struct Row {
    std::string name;
    std::uint32_t width, height, channels;
    pixels::SampleType type;
  };
  const Row rows[] = {
      {"one pixel", 1, 1, 1, pixels::SampleType::kU8},
      {"odd", 37, 21, 3, pixels::SampleType::kU8},
      {"five channels of 16 bits", 24, 17, 5, pixels::SampleType::kU16},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const pixels::Picture picture = Gradient(row.width, row.height, row.channels, row.type);
    const Asset asset = Encode(picture, {.k = 10'000}).value();
    CHECK(asset.k == 64 * row.channels);
    const pixels::Picture rendered = Render(asset, {}, 0).value();
    CHECK(rendered.layout() == picture.layout());
    // float16 has 11 bits, and the errors of up to 5 x 64 basis vectors add up.
    CHECK(quality::Psnr(picture, rendered).value() > 50);
    const Asset read = Parse(Serialize(asset)).value();
    CHECK(read.layout == asset.layout);
    CHECK(read.mean == asset.mean);
    CHECK(read.basis == asset.basis);
    CHECK(read.coefficients == asset.coefficients);
  }
}

TEST_CASE("a region is the same pixels as in the whole") {
  const pixels::Picture picture = Gradient(50, 40, 3, pixels::SampleType::kU8);
  const Asset asset = Encode(picture, {.k = 5}).value();
  const pixels::Rect region{5, 9, 30, 17};
  const pixels::Picture whole = Render(asset, {}, 3).value();
  CHECK(std::ranges::equal(Render(asset, region, 3).value().bytes(), whole.Crop(region).value().bytes()));
  CHECK(Render(asset, {45, 0, 6, 1}, 0).error().code == Code::kOutOfRange);
}

TEST_CASE("the worked example of FORMAT.md holds") {
  pixels::Layout layout;
  layout.width = layout.height = layout.channels = 1;
  layout.color_model = pixels::ColorModel::kGray;
  pixels::Picture picture = pixels::Picture::Create(layout).value();
  picture.Set(0, 0, 0, 255);
  const Bytes file = Serialize(Encode(picture, {.k = 1}).value());
  CHECK(file.size() == 282);
  CHECK(bytes::ToHex(std::span(file).first(24)) ==
        "48504c4e01080001"
        "0001"
        "0100"
        "01000000"
        "01000000"
        "003c003c");
  CHECK(file[276] == 0);
  CHECK(file[277] == 0);
}

TEST_CASE("every truncated, lengthened or flipped file is refused") {
  const Bytes good = Serialize(Encode(Gradient(9, 9, 1, pixels::SampleType::kU8), {.k = 2}).value());
  REQUIRE(Parse(good).has_value());
  for (std::size_t size = 0; size < good.size(); ++size) {
    CAPTURE(size);
    const Bytes prefix(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(Parse(prefix).error().code == Code::kDataLoss);
  }
  Bytes longer = good;
  longer.push_back(0);
  CHECK_FALSE(Parse(longer).has_value());
  std::mt19937 random(11);
  for (std::size_t i = 0; i < good.size(); ++i) {
    CAPTURE(i);
    Bytes damaged = good;
    damaged[i] = static_cast<std::uint8_t>(damaged[i] ^ (1 + random() % 255));
    CHECK_FALSE(Parse(damaged).has_value());
  }
  Bytes other_version = good;
  other_version[4] = 2;
  CHECK(Parse(other_version).error().code == Code::kUnimplemented);
}

TEST_CASE("the source report's numbers come out: 380,544 bytes and its PSNR at k = 30") {
  const char* root = std::getenv("HOLO_TEST_DATA");
  if (root == nullptr || !std::filesystem::exists(std::filesystem::path(root) / "kodak")) {
    MESSAGE("skipped: HOLO_TEST_DATA has no kodak");
    return;
  }
  struct Row {
    std::string name;
    double psnr_db;
  };
  const Row rows[] = {{"kodim01", 31.0}, {"kodim03", 37.1}, {"kodim13", 27.3}, {"kodim20", 34.6}};
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const auto picture = image_io::Load(std::filesystem::path(root) / "kodak" / (row.name + ".png"));
    REQUIRE(picture.has_value());
    const Asset asset = Encode(*picture, {.k = 30}).value();
    CHECK(asset.payload_bytes() == 380'544);
    CHECK(Serialize(asset).size() == 380'544 + 24);
    // Given to one decimal.
    const double psnr = quality::Psnr(*picture, Render(asset, {}, 0).value()).value();
    CHECK(std::abs(psnr - row.psnr_db) < 0.06);
  }
}

}  // namespace
}  // namespace holo::plain
