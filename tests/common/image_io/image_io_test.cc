#include "common/image_io/image_io.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "common/bytes/bytes.h"
#include "tests/temporary_folder.h"

namespace holo::image_io {
namespace {

using pixels::ColorModel;
using pixels::Layout;
using pixels::Picture;
using pixels::SampleType;
using Bytes = std::vector<std::uint8_t>;

std::optional<std::filesystem::path> TestData(const char* below) {
  const char* root = std::getenv("HOLO_TEST_DATA");
  if (root == nullptr || !std::filesystem::exists(std::filesystem::path(root) / below)) {
    MESSAGE("skipped: HOLO_TEST_DATA has no " << below);
    return std::nullopt;
  }
  return std::filesystem::path(root) / below;
}

Layout MakeLayout(std::uint32_t width, std::uint32_t height, ColorModel model, bool alpha, SampleType type,
                  std::uint32_t generic_channels = 0) {
  Layout layout;
  layout.width = width;
  layout.height = height;
  layout.color_model = model;
  layout.has_alpha = alpha;
  layout.sample_type = type;
  layout.channels = (model == ColorModel::kGray  ? 1
                     : model == ColorModel::kRgb ? 3
                                                 : generic_channels) +
                    (alpha ? 1 : 0);
  return layout;
}

// Reproducible samples that fill the whole range.
Picture Noise(const Layout& layout) {
  Picture picture = Picture::Create(layout).value();
  std::mt19937 random(layout.width * 31 + layout.channels);
  for (std::uint8_t& byte : picture.bytes()) byte = static_cast<std::uint8_t>(random());
  return picture;
}

// Four flat quarters: red, green / blue, white. Survives JPEG, and no two ways of turning it look alike.
Picture Quarters(std::uint32_t width, std::uint32_t height) {
  Picture picture = Picture::Create(MakeLayout(width, height, ColorModel::kRgb, false, SampleType::kU8)).value();
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      const bool right = x >= width / 2;
      const bool low = y >= height / 2;
      picture.Set(x, y, 0, right == low ? 255 : 0);
      picture.Set(x, y, 1, right ? 255 : 0);
      picture.Set(x, y, 2, low ? 255 : 0);
    }
  }
  return picture;
}

bool SamePixels(const Picture& a, const Picture& b) {
  return a.layout() == b.layout() && std::ranges::equal(a.bytes(), b.bytes());
}

Bytes WithExifInJpeg(const Bytes& jpeg, std::uint8_t orientation, bool big_endian) {
  Bytes exif = {'E', 'x', 'i', 'f', 0, 0};
  const Bytes little = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0};
  const Bytes big = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0};
  const Bytes& tiff = big_endian ? big : little;
  exif.insert(exif.end(), tiff.begin(), tiff.end());
  Bytes segment = {0xFF, 0xE1, 0, static_cast<std::uint8_t>(exif.size() + 2)};
  segment.insert(segment.end(), exif.begin(), exif.end());
  Bytes out = jpeg;
  out.insert(out.begin() + 2, segment.begin(), segment.end());
  return out;
}

// The plainest TIFF of an 8-bit RGB picture: one strip, nothing packed.
Bytes PlainTiff(const Picture& picture, std::uint8_t orientation) {
  const auto pixel_bytes = static_cast<std::uint32_t>(picture.bytes().size());
  constexpr std::uint16_t kShort = 3;
  constexpr std::uint16_t kLong = 4;
  struct Entry {
    std::uint16_t tag, type;
    std::uint32_t count, value;
  };
  const Entry entries[] = {
      {256, kLong, 1, picture.width()},
      {257, kLong, 1, picture.height()},
      {258, kShort, 1, 8},
      {259, kShort, 1, 1},
      {262, kShort, 1, 2},
      {273, kLong, 1, 8},
      {274, kShort, 1, orientation},
      {277, kShort, 1, 3},
      {278, kLong, 1, picture.height()},
      {279, kLong, 1, pixel_bytes},
  };
  bytes::ByteWriter writer;
  writer.WriteSpan(Bytes{'I', 'I', 42, 0});
  writer.WriteU32(8 + pixel_bytes);
  writer.WriteSpan(picture.bytes());
  writer.WriteU16(static_cast<std::uint16_t>(std::size(entries)));
  for (const Entry& entry : entries) {
    writer.WriteU16(entry.tag);
    writer.WriteU16(entry.type);
    writer.WriteU32(entry.count);
    writer.WriteU32(entry.value);
  }
  writer.WriteU32(0);
  return writer.Take();
}

TEST_CASE("PNG and TIFF keep every kind of sample") {
  const testing::TemporaryFolder folder;
  struct Row {
    std::string name;
    Layout layout;
  };
  const Row rows[] = {
      {"grey 8", MakeLayout(17, 5, ColorModel::kGray, false, SampleType::kU8)},
      {"grey 16", MakeLayout(17, 5, ColorModel::kGray, false, SampleType::kU16)},
      {"grey alpha 8", MakeLayout(3, 9, ColorModel::kGray, true, SampleType::kU8)},
      {"grey alpha 16", MakeLayout(3, 9, ColorModel::kGray, true, SampleType::kU16)},
      {"rgb 8", MakeLayout(33, 31, ColorModel::kRgb, false, SampleType::kU8)},
      {"rgb 16", MakeLayout(33, 31, ColorModel::kRgb, false, SampleType::kU16)},
      {"rgba 8", MakeLayout(300, 400, ColorModel::kRgb, true, SampleType::kU8)},
      {"rgba 16", MakeLayout(1, 1, ColorModel::kRgb, true, SampleType::kU16)},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    Picture picture = Noise(row.layout);
    picture.metadata().icc_profile = {1, 2, 3, 4, 5, 6, 7, 8};
    for (const char* name : {"a.png", "a.tif"}) {
      CAPTURE(name);
      const auto saved = Save(folder / name, picture);
      CHECK_MESSAGE(saved.has_value(), (saved ? "" : saved.error().message));
      const auto loaded = Load(folder / name);
      CHECK_MESSAGE(loaded.has_value(), (loaded ? "" : loaded.error().message));
      if (!loaded) continue;
      CHECK(SamePixels(*loaded, picture));
      CHECK(loaded->metadata() == picture.metadata());
    }
  }
}

TEST_CASE("TIFF keeps pictures of any number of channels") {
  const testing::TemporaryFolder folder;
  for (const std::uint32_t channels : {2u, 4u, 5u, 8u, 32u}) {
    for (const SampleType type : {SampleType::kU8, SampleType::kU16}) {
      CAPTURE(channels);
      const Picture picture = Noise(MakeLayout(40, 30, ColorModel::kGeneric, false, type, channels));
      REQUIRE(Save(folder / "a.tiff", picture).has_value());
      const auto loaded = Load(folder / "a.tiff");
      CHECK_MESSAGE(loaded.has_value(), (loaded ? "" : loaded.error().message));
      if (loaded) CHECK(SamePixels(*loaded, picture));
    }
  }
  const Picture five = Noise(MakeLayout(4, 3, ColorModel::kGeneric, false, SampleType::kU8, 5));
  CHECK(Save(folder / "a.png", five).error().code == Code::kInvalidArgument);
  CHECK(Save(folder / "a.jpg", five).error().code == Code::kInvalidArgument);
}

TEST_CASE("formats without loss keep 8-bit colours, the others come close") {
  const testing::TemporaryFolder folder;
  const Picture exact = Noise(MakeLayout(50, 40, ColorModel::kRgb, false, SampleType::kU8));
  for (const char* name : {"a.webp", "a.bmp", "a.ppm"}) {
    CAPTURE(name);
    REQUIRE(Save(folder / name, exact).has_value());
    const auto loaded = Load(folder / name);
    CHECK_MESSAGE(loaded.has_value(), (loaded ? "" : loaded.error().message));
    if (loaded) CHECK(SamePixels(*loaded, exact));
  }
  const Picture grey = Noise(MakeLayout(50, 40, ColorModel::kGray, false, SampleType::kU16));
  REQUIRE(Save(folder / "a.pgm", grey).has_value());
  CHECK(SamePixels(Load(folder / "a.pgm").value(), grey));
  const Picture flat = Quarters(64, 64);
  for (const char* name : {"a.jpg", "a.jp2"}) {
    CAPTURE(name);
    REQUIRE(Save(folder / name, flat).has_value());
    const auto loaded = Load(folder / name);
    CHECK_MESSAGE(loaded.has_value(), (loaded ? "" : loaded.error().message));
    if (!loaded) continue;
    CHECK(loaded->layout() == flat.layout());
    for (const std::uint32_t y : {8u, 56u}) {
      for (const std::uint32_t x : {8u, 56u}) {
        for (const std::uint32_t c : {0u, 1u, 2u}) CHECK(std::abs(loaded->At(x, y, c) - flat.At(x, y, c)) < 8);
      }
    }
  }
}

TEST_CASE("JPEG lays alpha on white and rounds 16 bits") {
  const testing::TemporaryFolder folder;
  Picture picture = Picture::Create(MakeLayout(16, 16, ColorModel::kRgb, true, SampleType::kU16)).value();
  for (std::uint32_t y = 0; y < 16; ++y) {
    for (std::uint32_t x = 0; x < 16; ++x) picture.Set(x, y, 3, 32768);
  }
  REQUIRE(Save(folder / "a.jpg", picture).has_value());
  const Picture loaded = Load(folder / "a.jpg").value();
  CHECK(loaded.channels() == 3);
  CHECK(std::abs(loaded.At(8, 8, 0) - 127) <= 2);
}

TEST_CASE("EXIF and TIFF orientations 1 to 8 give upright pixels") {
  const testing::TemporaryFolder folder;
  const Picture upright = Quarters(32, 64);
  const std::uint32_t w = 32;
  const std::uint32_t h = 64;
  for (std::uint8_t orientation = 1; orientation <= 8; ++orientation) {
    CAPTURE(orientation);
    // The stored picture, by the definition in the EXIF standard: which side of the scene row 0 and column 0 are.
    const bool turned = orientation >= 5;
    Picture stored = Quarters(turned ? h : w, turned ? w : h);
    for (std::uint32_t y = 0; y < h; ++y) {
      for (std::uint32_t x = 0; x < w; ++x) {
        std::uint32_t column = x;
        std::uint32_t row = y;
        if (orientation == 2 || orientation == 3) column = w - 1 - x;
        if (orientation == 3 || orientation == 4) row = h - 1 - y;
        if (orientation == 5) std::tie(column, row) = std::pair(y, x);
        if (orientation == 6) std::tie(column, row) = std::pair(y, w - 1 - x);
        if (orientation == 7) std::tie(column, row) = std::pair(h - 1 - y, w - 1 - x);
        if (orientation == 8) std::tie(column, row) = std::pair(h - 1 - y, x);
        for (std::uint32_t c = 0; c < 3; ++c) stored.Set(column, row, c, upright.At(x, y, c));
      }
    }
    REQUIRE(Save(folder / "a.jpg", stored).has_value());
    const Bytes jpeg = files::ReadFile(folder / "a.jpg").value();
    const auto from_tiff = Decode(PlainTiff(stored, orientation), "a.tif");
    CHECK_MESSAGE(from_tiff.has_value(), (from_tiff ? "" : from_tiff.error().message));
    if (from_tiff) {
      CHECK(SamePixels(*from_tiff, upright));
      CHECK(from_tiff->metadata().source_orientation == orientation);
    }
    for (const bool big_endian : {false, true}) {
      const auto loaded = Decode(WithExifInJpeg(jpeg, orientation, big_endian), "a.jpg");
      CHECK_MESSAGE(loaded.has_value(), (loaded ? "" : loaded.error().message));
      if (!loaded) continue;
      CHECK(loaded->metadata().source_orientation == orientation);
      CHECK(loaded->layout() == upright.layout());
      int worst = 0;
      for (const std::uint32_t y : {4u, 60u}) {
        for (const std::uint32_t x : {4u, 28u}) {
          for (std::uint32_t c = 0; c < 3; ++c)
            worst = std::max(worst, std::abs(loaded->At(x, y, c) - upright.At(x, y, c)));
        }
      }
      CHECK(worst < 8);
    }
  }
}

TEST_CASE("an ICC profile of several JPEG segments comes back whole") {
  const testing::TemporaryFolder folder;
  Picture picture = Quarters(16, 16);
  std::mt19937 random(1);
  picture.metadata().icc_profile.resize(150'000);
  for (std::uint8_t& byte : picture.metadata().icc_profile) byte = static_cast<std::uint8_t>(random());
  for (const char* name : {"a.jpg", "a.png", "a.tif"}) {
    CAPTURE(name);
    REQUIRE(Save(folder / name, picture).has_value());
    const auto loaded = Load(folder / name);
    CHECK_MESSAGE(loaded.has_value(), (loaded ? "" : loaded.error().message));
    if (loaded) CHECK(loaded->metadata().icc_profile == picture.metadata().icc_profile);
  }
}

TEST_CASE("what is no picture is refused with the formats that are known") {
  for (const Bytes& bytes : {Bytes{}, Bytes{'h', 'e', 'l', 'l', 'o'}, Bytes(1000, 0)}) {
    const auto refused = Decode(bytes, "notes.txt");
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == Code::kInvalidArgument);
    CHECK(refused.error().message.find("PNG, JPEG, TIFF") != std::string::npos);
    CHECK(refused.error().message.find("notes.txt") != std::string::npos);
  }
  CHECK(Load("/no/such/picture.png").error().code == Code::kNotFound);
  CHECK(CheckSaveName("a.PNG").has_value());
  CHECK(CheckSaveName("a.txt").error().code == Code::kInvalidArgument);
  CHECK(CheckSaveName("a").error().code == Code::kInvalidArgument);
  CHECK(IsPictureName("x/y.JPeG"));
  CHECK_FALSE(IsPictureName("x/y.holo"));
}

TEST_CASE("a scroll of 6300 x 224490 is refused by its header, with the size and the limit") {
  // Header and nothing else that counts: no pixel is decoded.
  Bytes png = EncodePng(Quarters(8, 8)).value();
  Bytes header(png.begin() + 12, png.begin() + 29);
  const Bytes size = {0, 0, 0x18, 0x9C, 0, 3, 0x6C, 0xEA};
  std::copy(size.begin(), size.end(), header.begin() + 4);
  std::copy(header.begin(), header.end(), png.begin() + 12);
  const std::uint32_t crc = bytes::Crc32(header);
  for (int i = 0; i < 4; ++i) png[static_cast<std::size_t>(29 + i)] = static_cast<std::uint8_t>(crc >> (24 - 8 * i));
  const auto refused = Decode(png, "scroll.png");
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(refused.error().message.find("scroll.png") != std::string::npos);
  CHECK(refused.error().message.find("6300x224490") != std::string::npos);
  CHECK(refused.error().message.find("400000000") != std::string::npos);

  const Bytes small = EncodePng(Quarters(8, 8)).value();
  CHECK(Decode(small, "a", {.max_pixels = 64}).has_value());
  CHECK(Decode(small, "a", {.max_pixels = 63}).error().code == Code::kResourceExhausted);
  const testing::TemporaryFolder folder;
  for (const char* name : {"a.jpg", "a.tif", "a.webp", "a.bmp", "a.ppm", "a.jp2"}) {
    CAPTURE(name);
    REQUIRE(Save(folder / name, Quarters(64, 64)).has_value());
    CHECK(Load(folder / name, {.max_pixels = 4096}).has_value());
    CHECK(Load(folder / name, {.max_pixels = 4095}).error().code == Code::kResourceExhausted);
  }
}

TEST_CASE("a truncated picture of any format is refused") {
  const testing::TemporaryFolder folder;
  for (const char* name : {"a.png", "a.jpg", "a.tif", "a.webp", "a.bmp", "a.ppm", "a.jp2"}) {
    CAPTURE(name);
    REQUIRE(Save(folder / name, Noise(MakeLayout(64, 64, ColorModel::kRgb, false, SampleType::kU8))).has_value());
    const Bytes whole = files::ReadFile(folder / name).value();
    REQUIRE(Decode(whole, name).has_value());
    // A BMP may end with padding that nobody needs, a TIFF with it, too; every earlier cut costs pixels.
    for (std::size_t size = 0; size + 4 < whole.size(); size += 41) {
      const Bytes prefix(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      const auto refused = Decode(prefix, name);
      CAPTURE(size);
      CHECK_FALSE(refused.has_value());
    }
  }
}

TEST_CASE("flipped bytes give an error or a picture, never a crash") {
  const testing::TemporaryFolder folder;
  std::mt19937 random(7);
  for (const char* name : {"a.png", "a.jpg", "a.tif", "a.webp", "a.bmp", "a.ppm", "a.jp2"}) {
    CAPTURE(name);
    Picture picture = Noise(MakeLayout(64, 64, ColorModel::kRgb, false, SampleType::kU8));
    picture.metadata().icc_profile.assign(200, 7);
    REQUIRE(Save(folder / name, picture).has_value());
    const Bytes whole = files::ReadFile(folder / name).value();
    for (int round = 0; round < 300; ++round) {
      Bytes damaged = whole;
      // Most of them near the beginning, where the lengths are.
      const std::size_t reach = round % 2 == 0 ? std::min<std::size_t>(whole.size(), 100) : whole.size();
      damaged[random() % reach] = static_cast<std::uint8_t>(random());
      static_cast<void>(Decode(damaged, name, {.max_pixels = 1'000'000}));
    }
  }
}

// The samples as R, G, B, A of one depth, the form in which a separate decoder, written from the specification, gave
// the checksums below.
std::uint32_t RgbaCrc(const Picture& picture) {
  const bool is_16_bit = picture.layout().sample_type == SampleType::kU16;
  const std::uint32_t colors = picture.channels() - (picture.layout().has_alpha ? 1 : 0);
  Bytes out;
  for (std::uint32_t y = 0; y < picture.height(); ++y) {
    for (std::uint32_t x = 0; x < picture.width(); ++x) {
      for (std::uint32_t c = 0; c < 4; ++c) {
        std::uint16_t value = is_16_bit ? 65535 : 255;
        if (c < 3) value = picture.At(x, y, colors == 3 ? c : 0);
        if (c == 3 && picture.layout().has_alpha) value = picture.At(x, y, picture.channels() - 1);
        out.push_back(static_cast<std::uint8_t>(value));
        if (is_16_bit) out.push_back(static_cast<std::uint8_t>(value >> 8));
      }
    }
  }
  return bytes::Crc32(out);
}

TEST_CASE("PngSuite pictures have the samples that another decoder finds") {
  const auto folder = TestData("pngsuite");
  if (!folder) return;
  struct Row {
    std::string name;
    std::uint32_t width, height, channels;
    bool is_16_bit;
    std::uint32_t crc;
  };
  const Row rows[] = {
      {"basn0g01", 32, 32, 1, false, 0x0DA28714}, {"basn0g02", 32, 32, 1, false, 0x2E3FE285},
      {"basn0g04", 32, 32, 1, false, 0x8D0F641B}, {"basn0g08", 32, 32, 1, false, 0xC395683C},
      {"basn0g16", 32, 32, 1, true, 0xA9DAB1BF},  {"basn2c08", 32, 32, 3, false, 0x2FB54036},
      {"basn2c16", 32, 32, 3, true, 0x0A7EBAE6},  {"basn3p02", 32, 32, 3, false, 0xE4DBB6BC},
      {"basn4a08", 32, 32, 2, false, 0x905D5B60}, {"basn4a16", 32, 32, 2, true, 0x3000E35C},
      {"basn6a08", 32, 32, 4, false, 0xA74DF32C}, {"basn6a16", 32, 32, 4, true, 0x087BE531},
      {"basi3p04", 32, 32, 3, false, 0x671F880F}, {"basi6a16", 32, 32, 4, true, 0x087BE531},
      {"tbbn0g04", 32, 32, 2, false, 0x5C8EAF83}, {"tbrn2c08", 32, 32, 4, false, 0x0370EF89},
      {"tbwn0g16", 32, 32, 2, true, 0x5386656A},  {"tbbn3p08", 32, 32, 4, false, 0x9D56CD67},
      {"tp0n3p08", 32, 32, 3, false, 0x130AA165}, {"s09i3p02", 9, 9, 3, false, 0x44D29BB4},
      {"cm9n0g04", 32, 32, 1, false, 0xB743EC84}, {"oi9n2c16", 32, 32, 3, true, 0x0A7EBAE6},
      {"exif2c08", 32, 32, 3, false, 0x80D91236}, {"ccwn2c08", 32, 32, 3, false, 0x40A6A67C},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const auto picture = Load(*folder / (row.name + ".png"));
    CHECK_MESSAGE(picture.has_value(), (picture ? "" : picture.error().message));
    if (!picture) continue;
    CHECK(picture->width() == row.width);
    CHECK(picture->height() == row.height);
    CHECK(picture->channels() == row.channels);
    CHECK((picture->layout().sample_type == SampleType::kU16) == row.is_16_bit);
    CHECK(RgbaCrc(*picture) == row.crc);
  }
}

TEST_CASE("all of PngSuite loads, except what is corrupt") {
  const auto folder = TestData("pngsuite");
  if (!folder) return;
  int sound = 0;
  int corrupt = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    const std::string name = entry.path().filename();
    if (entry.path().extension() != ".png" || name == "PngSuite.png") continue;
    CAPTURE(name);
    const auto picture = Load(entry.path());
    const bool is_corrupt = name.starts_with('x');
    CHECK(picture.has_value() != is_corrupt);
    (is_corrupt ? corrupt : sound)++;
    if (picture) CHECK(SamePixels(Decode(EncodePng(*picture).value(), name).value(), *picture));
  }
  CHECK(sound == 161);
  CHECK(corrupt == 14);
}

}  // namespace
}  // namespace holo::image_io
