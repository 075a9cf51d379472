#include "common/transform/transform.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace holo::transform {
namespace {

Plane RandomPlane(std::uint32_t width, std::uint32_t height) {
  std::mt19937 random(5);
  Plane plane(width, height);
  for (float& sample : plane.samples) sample = static_cast<float>(random() % 256) - 128.0f;
  return plane;
}

float LargestDifference(const Plane& a, const Plane& b) {
  float largest = 0;
  for (std::size_t i = 0; i < a.samples.size(); ++i) largest = std::max(largest, std::abs(a.samples[i] - b.samples[i]));
  return largest;
}

TEST_CASE("the lapped filter is undone exactly, up to rounding") {
  for (const std::uint32_t patch_px : {8u, 4u}) {
    CAPTURE(patch_px);
    const Plane original = RandomPlane(40, 24);
    Plane plane = original;
    LapColumnsForward(plane, patch_px);
    LapRowsForward(plane, patch_px, patch_px);
    CHECK(LargestDifference(plane, original) > 1.0f);
    LapRowsInverse(plane, patch_px, patch_px, 0);
    LapColumnsInverse(plane, patch_px, 0);
    // Two 4 x 4 products on each side of values up to 2^8 that grow at most fourfold: 2^10 * 2^-24 * 16 terms.
    CHECK(LargestDifference(plane, original) < 1e-3f);
  }
}

TEST_CASE("constant pictures pass the lapped filter unchanged, at every reduction") {
  for (const std::uint32_t patch_px : {8u, 4u, 2u}) {
    for (std::uint32_t reduction = 0; (patch_px << reduction) <= 8 && reduction < 3; ++reduction) {
      Plane plane(32, 16);
      std::fill(plane.samples.begin(), plane.samples.end(), 77.0f);
      LapRowsInverse(plane, patch_px, patch_px, reduction);
      LapColumnsInverse(plane, patch_px, reduction);
      for (const float sample : plane.samples) CHECK(sample == doctest::Approx(77.0f));
    }
  }
}

TEST_CASE("colour goes to YCbCr and back") {
  Plane r = RandomPlane(16, 16), g = r, b = r;
  for (std::size_t i = 0; i < r.samples.size(); ++i) {
    g.samples[i] = r.samples[(i * 7) % r.samples.size()];
    b.samples[i] = r.samples[(i * 13) % r.samples.size()];
  }
  Plane y = r, cb = g, cr = b;
  RgbToYCbCr(y.samples.data(), cb.samples.data(), cr.samples.data(), y.samples.size());
  YCbCrToRgb(y.samples.data(), cb.samples.data(), cr.samples.data(), y.samples.size());
  CHECK(LargestDifference(y, r) < 1e-3f);
  CHECK(LargestDifference(cb, g) < 1e-3f);
  CHECK(LargestDifference(cr, b) < 1e-3f);

  float white[3] = {127, 127, 127};
  RgbToYCbCr(&white[0], &white[1], &white[2], 1);
  CHECK(white[0] == doctest::Approx(127));
  CHECK(white[1] == doctest::Approx(0));
  CHECK(white[2] == doctest::Approx(0));
}

TEST_CASE("a patch is projected on rows, and reduced rows are box averages of whole ones") {
  // One row: +1 on the left half, -1 on the right half, normalised.
  std::vector<float> row(16);
  for (std::size_t i = 0; i < 16; ++i) row[i] = i % 4 < 2 ? 0.25f : -0.25f;
  const Kernel kernel = MakeKernel(1, 1, 4, row);
  std::vector<float> patch(row);
  for (float& sample : patch) sample *= 10.0f;
  float coefficient = 0;
  Project(kernel, patch.data(), &coefficient);
  CHECK(coefficient == doctest::Approx(10.0f));
  CHECK(kernel.synthesis[1] == std::vector<float>{0.25f, -0.25f, 0.25f, -0.25f});
  CHECK(kernel.synthesis[2] == std::vector<float>{0.0f});
}

TEST_CASE("a gathered patch has lost its mean") {
  const Plane plane = RandomPlane(16, 16);
  float patch[64];
  const float mean = GatherPatch(plane, 8, 8, 8, patch);
  double sum = 0;
  for (const float sample : patch) sum += sample;
  CHECK(std::abs(sum) < 1e-3);
  CHECK(patch[63] + mean == doctest::Approx(plane.Row(15)[15]));
}

}  // namespace
}  // namespace holo::transform
