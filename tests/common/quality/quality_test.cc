#include "common/quality/quality.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace holo::quality {
namespace {

using pixels::ColorModel;
using pixels::Picture;
using pixels::SampleType;

constexpr std::int64_t kWidth = 253;  // odd sides, so that scales round up
constexpr std::int64_t kHeight = 187;

// Pattern made of integers only, so that another implementation can make the same one.
Picture Pattern(SampleType type = SampleType::kU8) {
  Picture picture = Picture::Create({kWidth, kHeight, 3, type, ColorModel::kRgb, false}).value();
  const std::int64_t factor = type == SampleType::kU8 ? 1 : 257;
  for (std::int64_t y = 0; y < kHeight; ++y) {
    for (std::int64_t x = 0; x < kWidth; ++x) {
      const std::array<std::int64_t, 3> rgb = {(x * x / 16 + y * 3) % 256, (x * 2 + y * y / 32) % 256,
                                               (x * y / 64 + 40) % 256};
      for (std::size_t c = 0; c < 3; ++c) {
        picture.Set(static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y), static_cast<std::uint32_t>(c),
                    static_cast<std::uint16_t>(rgb[c] * factor));
      }
    }
  }
  return picture;
}

// The pattern with less contrast, brighter, and with noise.
Picture Distorted(SampleType type = SampleType::kU8) {
  Picture picture = Pattern(type);
  const std::int64_t factor = type == SampleType::kU8 ? 1 : 257;
  for (std::int64_t y = 0; y < kHeight; ++y) {
    for (std::int64_t x = 0; x < kWidth; ++x) {
      const std::int64_t seed = x * 7919 + y * 104729 + (x * y) % 97 * 31;
      for (std::int64_t c = 0; c < 3; ++c) {
        const auto px = static_cast<std::uint32_t>(x);
        const auto py = static_cast<std::uint32_t>(y);
        const auto pc = static_cast<std::uint32_t>(c);
        const std::int64_t noise = seed / (c + 1) % 17 - 8;
        const std::int64_t value = picture.At(px, py, pc) / factor * 7 / 8 + 10 + noise;
        picture.Set(px, py, pc, static_cast<std::uint16_t>(std::clamp<std::int64_t>(value, 0, 255) * factor));
      }
    }
  }
  return picture;
}

Picture Uniform(std::uint16_t r, std::uint16_t g, std::uint16_t b) {
  Picture picture = Picture::Create({200, 180, 3, SampleType::kU8, ColorModel::kRgb, false}).value();
  for (std::uint32_t y = 0; y < picture.height(); ++y) {
    for (std::uint32_t x = 0; x < picture.width(); ++x) {
      picture.Set(x, y, 0, r);
      picture.Set(x, y, 1, g);
      picture.Set(x, y, 2, b);
    }
  }
  return picture;
}

TEST_CASE("a picture is infinitely close to itself") {
  const Picture picture = Pattern();
  CHECK(MeanSquaredError(picture, picture).value() == 0);
  CHECK(std::isinf(Psnr(picture, picture).value()));
  CHECK(std::isinf(Psnr611(picture, picture).value()));
  CHECK(Ssim(picture, picture).value() == doctest::Approx(1).epsilon(1e-9));
  CHECK(MsSsim(picture, picture).value() == doctest::Approx(1).epsilon(1e-9));
  CHECK(std::isinf(MsSsimDb(1)));
}

TEST_CASE("a uniform offset gives the values of the definitions") {
  const Picture a = Uniform(100, 100, 100);
  const Picture b = Uniform(110, 110, 110);
  CHECK(MeanSquaredError(a, b).value() == doctest::Approx(100));
  CHECK(Psnr(a, b).value() == doctest::Approx(20 * std::log10(25.5)));
  // Grey stays grey: the colour differences have no error.
  CHECK(std::isinf(Psnr611(a, b).value()));

  // Only blue differs, by 20: Y by 2.28, Cb by 10, Cr by -1.62624.
  const Picture blue = Uniform(100, 100, 120);
  const double expected =
      (6 * 20 * std::log10(255 / 2.28) + 20 * std::log10(25.5) + 20 * std::log10(255 / 1.62624)) / 8;
  CHECK(Psnr611(a, blue).value() == doctest::Approx(expected).epsilon(1e-9));
  CHECK(Psnr(a, blue).value() == doctest::Approx(PsnrOfMse(400.0 / 3)));

  // Without structure only the luminance term is left, and only on the fifth scale of MS-SSIM.
  const double c1 = 2.55 * 2.55;
  const double luminance = (2 * 100.0 * 110 + c1) / (100.0 * 100 + 110.0 * 110 + c1);
  CHECK(Ssim(a, b).value() == doctest::Approx(luminance).epsilon(1e-4));
  CHECK(MsSsim(a, b).value() == doctest::Approx(std::pow(luminance, 0.1333)).epsilon(1e-4));
}

// Golden numbers of an independent implementation of the definitions in NumPy and SciPy.
TEST_CASE("measures agree with an independent implementation") {
  const Picture a = Pattern();
  const Picture b = Distorted();
  CHECK(Psnr(a, b).value() == doctest::Approx(26.737207405).epsilon(1e-9));
  CHECK(Psnr611(a, b).value() == doctest::Approx(29.399847714).epsilon(1e-9));
  // Moments up to 255^2 are kept in single precision: an error of 2^-24 * 255^2 = 0.004 against C2 = 58.5.
  CHECK(Ssim(a, b).value() == doctest::Approx(0.9507531152).epsilon(7e-5));
  CHECK(MsSsim(a, b).value() == doctest::Approx(0.9880501850).epsilon(7e-5));
}

TEST_CASE("sixteen bits measure like eight bits of the same content") {
  const Picture a = Pattern(SampleType::kU16);
  const Picture b = Distorted(SampleType::kU16);
  CHECK(Psnr(a, b).value() == doctest::Approx(26.737207405).epsilon(1e-6));
  CHECK(Psnr611(a, b).value() == doctest::Approx(29.399847714).epsilon(1e-6));
  CHECK(MsSsim(a, b).value() == doctest::Approx(0.9880501850).epsilon(7e-5));
}

TEST_CASE("a negative of the picture has no multi-scale similarity") {
  const Picture a = Pattern();
  Picture b = Pattern();
  for (std::uint8_t& sample : b.bytes()) sample = static_cast<std::uint8_t>(255 - sample);
  CHECK(Ssim(a, b).value() < 0);
  CHECK(MsSsim(a, b).value() == 0);
}

TEST_CASE("pictures that cannot be compared are refused with both shapes") {
  const Picture a = Uniform(1, 2, 3);
  const Picture b = Pattern();
  const auto result = Psnr(a, b);
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().code == Code::kInvalidArgument);
  CHECK(result.error().message.find("200x180") != std::string::npos);
  CHECK(result.error().message.find("253x187") != std::string::npos);
  CHECK_FALSE(Psnr611(a, b).has_value());
  CHECK_FALSE(Ssim(a, b).has_value());
  CHECK_FALSE(MsSsim(a, b).has_value());

  const Picture small = Pattern().Crop({0, 0, 160, 161}).value();
  CHECK_FALSE(MsSsim(small, small).has_value());
  CHECK(Ssim(small, small).has_value());
  const Picture smallest = Pattern().Crop({0, 0, 161, 161}).value();
  CHECK(MsSsim(smallest, smallest).value() == doctest::Approx(1).epsilon(1e-9));
  const Picture tiny = Pattern().Crop({0, 0, 11, 10}).value();
  CHECK_FALSE(Ssim(tiny, tiny).has_value());
  CHECK(std::isinf(Psnr(tiny, tiny).value()));
}

TEST_CASE("a picture that is not RGB is measured over its samples and by its first channel") {
  Picture a = Picture::Create({200, 200, 2, SampleType::kU8, ColorModel::kGray, true}).value();
  Picture b = a.Clone();
  b.Set(5, 5, 1, 255);
  CHECK(Psnr611(a, b).value() == Psnr(a, b).value());
  CHECK(Ssim(a, b).value() == doctest::Approx(1));
}

TEST_CASE("MS-SSIM in dB rises by ten for each factor of ten") {
  CHECK(MsSsimDb(0.9) == doctest::Approx(10));
  CHECK(MsSsimDb(0.99) == doctest::Approx(20));
  CHECK(MsSsimDb(0) == doctest::Approx(0));
}

const std::vector<RatePoint> kAnchor = {{10000, 28.0}, {20000, 31.5}, {40000, 34.2}, {80000, 37.9}, {160000, 40.1}};
const std::vector<RatePoint> kTested = {{9000, 28.5}, {15000, 30.9}, {33000, 34.9}, {70000, 38.0}, {150000, 41.3}};

TEST_CASE("a curve that needs a tenth more bytes everywhere has a BD-rate of ten per cent") {
  std::vector<RatePoint> shifted = kAnchor;
  for (RatePoint& point : shifted) point.rate *= 1.1;
  CHECK(BdRate(kAnchor, shifted).value() == doctest::Approx(0.1));
  CHECK(BdRate(shifted, kAnchor).value() == doctest::Approx(1 / 1.1 - 1));
  CHECK(BdRate(kAnchor, kAnchor).value() == doctest::Approx(0));
}

// Golden numbers of SciPy's PchipInterpolator.
TEST_CASE("BD-rate and interpolation agree with an independent implementation") {
  CHECK(BdRate(kAnchor, kTested).value() == doctest::Approx(-0.201722605182).epsilon(1e-9));
  CHECK(BdRate(kTested, kAnchor).value() == doctest::Approx(0.252697378746).epsilon(1e-9));
  CHECK(QualityAt(kAnchor, 30000).value() == doctest::Approx(33.05458956783934).epsilon(1e-9));
  CHECK(RateAt(kAnchor, 36).value() == doctest::Approx(55538.69490473208).epsilon(1e-9));
}

TEST_CASE("points out of order, of infinite quality or not worth their bytes change nothing") {
  std::vector<RatePoint> curve = {kAnchor[3], kAnchor[0], kAnchor[4], kAnchor[1], kAnchor[2]};
  curve.push_back({50000, 33.0});
  curve.push_back({40000, 30.0});
  curve.push_back({500000, std::numeric_limits<double>::infinity()});
  CHECK(BdRate(kAnchor, curve).value() == doctest::Approx(0));
}

TEST_CASE("curves without a common range are refused") {
  const std::vector<RatePoint> low = {{100, 10}, {200, 20}};
  CHECK(BdRate(kAnchor, low).error().code == Code::kOutOfRange);
  CHECK(BdRate(kAnchor, std::span(kTested).first(1)).error().code == Code::kOutOfRange);
  CHECK(RateAt(kAnchor, 50).error().code == Code::kOutOfRange);
  CHECK(QualityAt(kAnchor, 1).value() == doctest::Approx(28));
  CHECK(QualityAt(low, 1e9).value() == doctest::Approx(20));
}

}  // namespace
}  // namespace holo::quality
