#include "common/transform/transform.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <random>
#include <string>

#include "common/transform/plain.h"
#include "tests/common/every_target.h"

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

std::vector<float> RandomFloats(std::size_t count, std::uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = scale * (static_cast<float>(random() % 65536) / 32768.0f - 1.0f);
    if (random() % 16 == 0) value = 0.0f;
  }
  return values;
}

// A strip of patches with random coefficients, and the memory that it points into.
struct StripInput {
  StripShape shape;
  std::vector<float> rows;
  std::vector<Coefficient> coefficients;
  std::vector<PatchSum> patches;

  StripInput(std::uint32_t columns, std::uint32_t patch_px, std::uint32_t reduction, bool empty = false) {
    constexpr std::uint32_t kCount = 15;
    constexpr std::uint32_t kChannels = 2;
    shape.columns = columns;
    shape.patch_px = patch_px;
    shape.reduction = reduction;
    shape.row_stride = std::size_t{patch_px} * patch_px * kChannels;
    rows = RandomFloats(kCount * shape.row_stride, 3);
    std::mt19937 random(7);
    const std::size_t count = std::size_t{kStripRows} / patch_px * columns;
    std::vector<std::size_t> begin;
    for (std::size_t p = 0; p < count; ++p) {
      begin.push_back(coefficients.size());
      for (std::uint32_t k = 0; k < kCount && !empty; ++k) {
        if (random() % 4 == 0) coefficients.push_back({k, static_cast<float>(random() % 1000) / 7.0f - 70.0f});
      }
    }
    begin.push_back(coefficients.size());
    for (std::size_t p = 0; p < count; ++p) {
      const float mean = static_cast<float>(random() % 256) - 128.0f;
      patches.push_back({coefficients.data() + begin[p], coefficients.data() + begin[p + 1],
                         rows.data() + p % kChannels * patch_px * patch_px, mean});
    }
  }

  template <typename Function>
  [[nodiscard]] std::vector<float> Run(const Function& synthesise) const {
    std::vector<float> scratch(std::size_t{shape.padded_width()} * kStripRows + 16);
    const std::size_t stride = shape.padded_width() + 3;
    std::vector<float> out(stride * kStripRows);
    void* aligned = scratch.data();
    std::size_t space = scratch.size() * sizeof(float);
    std::align(64, std::size_t{shape.padded_width()} * kStripRows * sizeof(float), aligned, space);
    synthesise(shape, patches.data(), static_cast<float*>(aligned), out.data(), stride);
    std::vector<float> samples;
    for (std::size_t y = 0; y < kStripRows; ++y) {
      samples.insert(samples.end(), out.begin() + static_cast<std::ptrdiff_t>(y * stride),
                     out.begin() + static_cast<std::ptrdiff_t>(y * stride + shape.width()));
    }
    return samples;
  }
};

struct PatchSize {
  std::uint32_t px;
  std::uint32_t reduction;
};
constexpr PatchSize kPatchSizes[] = {{8, 0}, {4, 0}, {4, 1}, {2, 1}, {2, 2}};

TEST_CASE("strips are the same with every kind of vector instructions") {
  OnEveryTarget([](const char* target) {
    CAPTURE(target);
    for (const PatchSize& size : kPatchSizes) {
      for (const std::uint32_t columns : {1u, 2u, 3u, 5u, 33u}) {
        CAPTURE(size.px);
        CAPTURE(size.reduction);
        CAPTURE(columns);
        const StripInput input(columns, size.px, size.reduction);
        CHECK(input.Run(SynthesiseStrip) == input.Run(plain::SynthesiseStrip));
        StripInput unlapped(columns, size.px, size.reduction);
        unlapped.shape.lapped = false;
        CHECK(unlapped.Run(SynthesiseStrip) == unlapped.Run(plain::SynthesiseStrip));
        CHECK((unlapped.Run(SynthesiseStrip) == input.Run(SynthesiseStrip)) == (columns == 1));
      }
    }
  });
}

TEST_CASE("borders are filtered the same with every kind of vector instructions") {
  OnEveryTarget([](const char* target) {
    CAPTURE(target);
    for (const PatchSize& size : kPatchSizes) {
      for (const std::size_t count : {1u, 3u, 4u, 8u, 15u, 16u, 17u, 100u}) {
        CAPTURE(size.px);
        CAPTURE(count);
        const auto run = [&](const auto& filter) {
          std::vector<float> samples = RandomFloats(size.px * count, 11, 200.0f);
          float* above[4] = {};
          float* below[4] = {};
          for (std::size_t i = 0; i < size.px / 2; ++i) {
            above[i] = samples.data() + (size.px / 2 - 1 - i) * count;
            below[i] = samples.data() + (size.px / 2 + i) * count;
          }
          filter(*LapInverse(size.px, size.reduction), above, below, count);
          return samples;
        };
        CHECK(run(FilterRows) == run(plain::FilterRows));
      }
    }
  });
}

TEST_CASE("patches are gathered and projected the same with every kind of vector instructions") {
  OnEveryTarget([](const char* target) {
    CAPTURE(target);
    struct Row {
      std::uint32_t px, channels, count;
    };
    for (const Row& row : {Row{8, 1, 63}, {8, 1, 64}, {8, 1, 1}, {8, 1, 17}, {4, 1, 15}, {8, 3, 189}, {4, 5, 75}}) {
      CAPTURE(row.px);
      CAPTURE(row.count);
      const std::size_t dimension = std::size_t{row.px} * row.px * row.channels;
      const Kernel kernel = MakeKernel(row.count, row.channels, row.px, RandomFloats(row.count * dimension, 2));
      const std::vector<float> patch = RandomFloats(dimension, 4, 100.0f);
      std::vector<float> fast(row.count + 1, 77.0f);
      std::vector<float> expected = fast;
      Project(kernel, patch.data(), fast.data());
      plain::Project(kernel, patch.data(), expected.data());
      CHECK(fast == expected);

      const Plane plane = RandomPlane(29, 11);
      std::vector<float> gathered(std::size_t{row.px} * row.px);
      std::vector<float> expected_patch = gathered;
      const float mean = GatherPatch(plane, 5, 3, row.px, gathered.data());
      CHECK(mean == plain::GatherPatch(plane, 5, 3, row.px, expected_patch.data()));
      CHECK(gathered == expected_patch);
    }
  });
}

template <typename Sample>
void CheckStoredRows(float largest) {
  for (const std::uint32_t channels : {1u, 2u, 3u, 4u, 5u, 32u}) {
    for (const std::size_t count : {1u, 7u, 8u, 15u, 16u, 17u, 32u, 61u, 131u}) {
      for (const bool ycbcr : {false, true}) {
        if (ycbcr && channels < 3) continue;
        CAPTURE(channels);
        CAPTURE(count);
        CAPTURE(ycbcr);
        const std::vector<float> samples = RandomFloats(channels * count, 6, largest);
        std::vector<const float*> rows;
        for (std::uint32_t c = 0; c < channels; ++c) rows.push_back(samples.data() + c * count);
        std::vector<Sample> fast(channels * count + 1, 9);
        std::vector<Sample> expected = fast;
        StoreRow({rows.data()}, channels, ycbcr, count, fast.data());
        plain::StoreRow({rows.data()}, channels, ycbcr, count, expected.data());
        CHECK(fast == expected);
        // The same with something removed.
        std::mt19937 random(7);
        std::uniform_int_distribution<int> any(-2000, 2000);
        std::vector<std::int16_t> units(samples.size());
        for (std::int16_t& unit : units) unit = static_cast<std::int16_t>(any(random));
        const float scale = largest / 5000;
        std::vector<float> rest = samples;
        for (std::size_t i = 0; i < rest.size(); ++i) rest[i] -= scale * static_cast<float>(units[i]);
        std::vector<const std::int16_t*> removed;
        std::vector<const float*> rest_rows;
        for (std::uint32_t c = 0; c < channels; ++c) {
          removed.push_back(units.data() + c * count);
          rest_rows.push_back(rest.data() + c * count);
        }
        const SampleRows taken{rows.data(), removed.data(), scale};
        StoreRow(taken, channels, ycbcr, count, fast.data());
        plain::StoreRow(taken, channels, ycbcr, count, expected.data());
        CHECK(fast == expected);
        plain::StoreRow({rest_rows.data()}, channels, ycbcr, count, expected.data());
        CHECK(fast == expected);
      }
    }
  }
}

TEST_CASE("pixels are stored the same with every kind of vector instructions") {
  OnEveryTarget([](const char* target) {
    CAPTURE(target);
    CheckStoredRows<std::uint8_t>(200.0f);
    CheckStoredRows<std::uint16_t>(50000.0f);
  });
}

TEST_CASE("the lapped filter is undone, up to rounding") {
  for (const std::uint32_t patch_px : {8u, 4u}) {
    CAPTURE(patch_px);
    const Plane original = RandomPlane(40, 24);
    Plane plane = original;
    LapRowsForward(plane, patch_px, patch_px);
    CHECK(LargestDifference(plane, original) > 1.0f);
    for (std::uint32_t y = patch_px; y < plane.height; y += patch_px) {
      float* above[4] = {};
      float* below[4] = {};
      for (std::uint32_t i = 0; i < patch_px / 2; ++i) {
        above[i] = plane.Row(y - 1 - i);
        below[i] = plane.Row(y + i);
      }
      LapBorderInverse(patch_px, 0, above, below, plane.width);
    }
    // Two 4 x 4 products of values up to 2^8 that grow at most fourfold: 2^10 * 2^-24 * 8 terms.
    CHECK(LargestDifference(plane, original) < 1e-3f);

    // A strip of patches without coefficients is constant in each once it is filtered again.
    const StripInput constant(5, patch_px, 0, true);
    Plane flat(constant.shape.width(), kStripRows);
    flat.samples = constant.Run(SynthesiseStrip);
    LapColumnsForward(flat, patch_px);
    for (std::uint32_t y = 0; y < kStripRows; ++y) {
      for (std::uint32_t x = 0; x < flat.width; ++x) {
        const PatchSum& patch = constant.patches[y / patch_px * constant.shape.columns + x / patch_px];
        CHECK(std::abs(flat.Row(y)[x] - patch.mean) < 1e-3f);
      }
    }
  }
}

TEST_CASE("constant pictures pass the lapped filter unchanged, at every reduction") {
  for (const PatchSize& size : kPatchSizes) {
    StripInput input(5, size.px, size.reduction, true);
    for (PatchSum& patch : input.patches) patch.mean = 77.0f;
    for (const float sample : input.Run(SynthesiseStrip)) CHECK(sample == doctest::Approx(77.0f));
  }
}

// V = J C2^T diag(s, 1, ...) C4 J or its inverse, box-filtered by 2^reduction.
std::vector<std::vector<double>> LapMatrixByFormula(std::size_t half, bool inverse, std::uint32_t reduction) {
  const double pi = std::acos(-1.0);
  const auto n = static_cast<double>(half);
  const auto cosine = [&](std::size_t k, std::size_t j, double shift) {
    return std::cos(pi * (2.0 * static_cast<double>(j) + 1) * (static_cast<double>(k) + shift) / (2 * n));
  };
  const std::size_t box = std::size_t{1} << reduction;
  std::vector<std::vector<double>> v(half / box, std::vector<double>(half / box));
  for (std::size_t i = 0; i < half; ++i) {
    for (std::size_t j = 0; j < half; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < half; ++k) {
        const double s = k == 0 ? 1.38 : 1.0;
        const auto c2 = [&](std::size_t at) { return std::sqrt((k == 0 ? 1.0 : 2.0) / n) * cosine(k, at, 0.0); };
        const auto c4 = [&](std::size_t at) { return std::sqrt(2.0 / n) * cosine(k, at, 0.5); };
        sum += inverse ? c4(half - 1 - i) * c2(half - 1 - j) / s : c2(half - 1 - i) * c4(half - 1 - j) * s;
      }
      v[i / box][j / box] += sum / static_cast<double>(box);
    }
  }
  return v;
}

TEST_CASE("the numbers of the lapped filter are those of its formula") {
  const auto check = [](const LapMatrix* matrix, std::size_t half, bool inverse, std::uint32_t reduction) {
    REQUIRE(matrix != nullptr);
    const auto v = LapMatrixByFormula(half, inverse, reduction);
    REQUIRE(matrix->half == v.size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      for (std::size_t j = 0; j < v.size(); ++j) {
        CHECK(std::abs(matrix->w[i][j] - (v[i][j] - (i == j ? 1 : 0)) / 2) < 3e-8);  // half a unit of 2^-24 up to 0.5
      }
    }
  };
  check(LapForward(8), 4, false, 0);
  check(LapForward(4), 2, false, 0);
  for (const std::uint32_t reduction : {0u, 1u, 2u}) check(LapInverse(8u >> reduction, reduction), 4, true, reduction);
  for (const std::uint32_t reduction : {0u, 1u}) check(LapInverse(4u >> reduction, reduction), 2, true, reduction);
  CHECK(LapInverse(1, 2) == nullptr);
  CHECK(LapForward(2) == nullptr);
}

TEST_CASE("colour goes to YCbCr and back") {
  for (std::uint32_t i = 0; i < 4096; ++i) {
    const std::uint8_t rgb[3] = {static_cast<std::uint8_t>(i * 7), static_cast<std::uint8_t>(i * 13),
                                 static_cast<std::uint8_t>(i / 3)};
    float samples[3];
    for (std::size_t c = 0; c < 3; ++c) samples[c] = static_cast<float>(rgb[c]) - 128.0f;
    RgbToYCbCr(&samples[0], &samples[1], &samples[2], 1);
    const float* rows[3] = {&samples[0], &samples[1], &samples[2]};
    std::uint8_t back[3];
    StoreRow({rows}, 3, true, 1, back);
    CHECK(std::equal(rgb, rgb + 3, back));
  }
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
  CHECK(kernel.synthesis[1] == std::vector<float>{0.25f, 0.25f, -0.25f, -0.25f});  // column by column
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

TEST_CASE("smoothing's kernel is the plain one, for any number of windows, rows at a time and the largest samples") {
  OnEveryTarget([](const char* target) {
    CAPTURE(target);
    std::mt19937 random(11);
    using Row = std::vector<std::int16_t>;
    for (const int largest : {40, 2047}) {
      std::uniform_int_distribution<int> sample(-largest, largest);
      std::bernoulli_distribution extreme(0.5);
      for (const std::size_t windows : {1, 2, 3, 4, 5, 7, 8, 12, 13, 15, 16, 17, 31, 33, 61, 64, 500}) {
        CAPTURE(windows);
        SmoothState fast(windows), expected(windows);
        for (const std::uint32_t count : {2u, 4u, 2u, kSmoothRows, 6u, 8u}) {
          CAPTURE(count);
          std::vector<Row> rows(count, Row(windows + 3 + kSmoothPadding));
          std::vector<Row> limits(count / 2, Row(windows + kSmoothPadding));
          for (Row& row : rows) {
            for (std::int16_t& value : row) {
              value = static_cast<std::int16_t>(largest < 2047 ? sample(random) : extreme(random) ? largest : -largest);
            }
          }
          for (Row& row : limits) {
            for (std::int16_t& limit : row) limit = static_cast<std::int16_t>(std::abs(sample(random)));
          }
          const auto smooth = [&](auto function, SmoothState& state) {
            std::vector<Row> removed(count, Row(windows + kSmoothPadding, 5));
            const std::int16_t* from[kSmoothRows];
            const std::int16_t* below[kSmoothRows / 2];
            std::int16_t* to[kSmoothRows];
            for (std::uint32_t r = 0; r < count; ++r) {
              from[r] = rows[r].data();
              below[r / 2] = limits[r / 2].data();
              to[r] = removed[r].data();
            }
            function(state, from, below, count, to);
            for (Row& row : removed) row.resize(windows);
            return removed;
          };
          CHECK(smooth(SmoothRows, fast) == smooth(plain::SmoothRows, expected));
        }
      }
    }
  });
}

TEST_CASE("samples to units are those of the plain functions, and the nearest") {
  OnEveryTarget([](const char* target) {
    CAPTURE(target);
    std::mt19937 random(12);
    std::uniform_real_distribution<float> sample(-200, 200);
    for (const std::size_t count : {1, 3, 4, 7, 8, 9, 31, 100}) {
      CAPTURE(count);
      std::vector<float> row(count);
      for (float& value : row) value = sample(random);
      std::vector<std::int16_t> fast(count), expected(count);
      ToSmoothUnits(row.data(), 12.5f, count, fast.data());
      plain::ToSmoothUnits(row.data(), 12.5f, count, expected.data());
      CHECK(fast == expected);
      for (std::size_t x = 0; x < count; ++x) {
        const float units = std::clamp(12.5f * row[x], -2047.0f, 2047.0f);
        CHECK(std::abs(static_cast<float>(fast[x]) - units) < 0.501f);
      }
      std::vector<float> below(count);
      for (float& value : below) value = sample(random);
      const std::size_t half = (count + 1) / 2;
      std::vector<std::int16_t> fast_half(half), expected_half(half);
      ToHalvedSmoothUnits(row.data(), below.data(), 12.5f, count, fast_half.data());
      plain::ToHalvedSmoothUnits(row.data(), below.data(), 12.5f, count, expected_half.data());
      CHECK(fast_half == expected_half);
      for (std::size_t x = 0; x < half; ++x) {
        const std::size_t next = std::min(2 * x + 1, count - 1);
        const float mean = (row[2 * x] + row[next] + below[2 * x] + below[next]) / 4;
        CHECK(std::abs(static_cast<float>(fast_half[x]) - std::clamp(12.5f * mean, -2047.0f, 2047.0f)) < 0.501f);
      }
      std::vector<std::int16_t> doubled(2 * count);
      DoubleSmoothUnits(fast.data(), count, doubled.data());
      for (std::size_t x = 0; x < 2 * count; ++x) CHECK(doubled[x] == fast[x / 2]);
    }
  });
}

TEST_CASE("a window without limits loses all but its mean, one with a limit of 0 nothing") {
  using Row = std::array<std::int16_t, 4 + kSmoothPadding>;
  // One window, which begins at the first sample of the first row; four rows more for it to be written.
  const Row rows[8] = {{4, 8, 15, 16}, {23, 42, -4, -8}, {-15, -16, -23, -42}, {1, 2, 3, 4}, {}, {}, {}, {}};
  float mean = 0;
  for (const Row& row : rows) {
    for (const std::int16_t value : row) mean += static_cast<float>(value) / 16;
  }
  for (const std::int16_t limit : {kLargestSmooth, std::int16_t{0}}) {
    SmoothState state(1);
    const Row none{};
    const Row limits{limit};
    const std::int16_t* from[8];
    for (std::size_t r = 0; r < 8; ++r) from[r] = rows[r].data();
    // Only the window of rows 0 to 3 has the limit.
    const std::int16_t* of_pairs[4] = {none.data(), limits.data(), none.data(), none.data()};
    Row removed[8] = {};
    std::int16_t* to[8];
    for (std::size_t r = 0; r < 8; ++r) to[r] = removed[r].data();
    plain::SmoothRows(state, from, of_pairs, 8, to);
    for (std::size_t r = 0; r < 4; ++r) {
      CAPTURE(r);
      // Four sums are rounded. In eighths: sixteen times what goes, divided by eight.
      const float expected = limit > 0 ? 2 * (static_cast<float>(rows[r][0]) - mean) : 0.0f;
      CHECK(std::abs(static_cast<float>(removed[r + 3][0]) - expected) <= 2.0f);
    }
    CHECK(removed[7][0] == 0);
  }
}

}  // namespace
}  // namespace holo::transform
