#include "common/transform/transform.h"

#include <algorithm>
#include <bit>

#include "common/transform/plain.h"

namespace holo::transform {
namespace {

// V = J C2^T diag(s, 1, ...) C4 J from the DCTs of type II and IV, with s = 1.38: what was measured best on
// photographs. As numbers, because sines differ between mathematical libraries; tests compute them again. A reduced
// filter is V applied to pictures that were box-filtered: samples are repeated, filtered, and averaged.
constexpr LapMatrix kForward8 = {4,
                                 {{{-0.0832703456f, 0.317004253f, 0.127670431f, 0.126767345f},
                                   {-0.272771788f, -0.113078034f, 0.266562989f, 0.106565081f},
                                   {0.0739881733f, -0.184832051f, -0.0141259446f, 0.175539926f},
                                   {-0.0275754679f, 0.0230353524f, -0.068753309f, 0.0481851408f}}}};
constexpr LapMatrix kForward4 = {2, {{{0.0133533958f, 0.315465198f}, {-0.139928087f, 0.0860632479f}}}};
constexpr std::array<LapMatrix, 3> kInverse8 = {{
    {4,
     {{{-0.105872103f, -0.295373545f, 0.0513864162f, -0.0501772251f},
       {0.252639894f, -0.177442392f, -0.249196409f, -0.0413290063f},
       {0.0313423604f, 0.170234919f, -0.110454015f, -0.165081379f},
       {0.0131406393f, -0.00706162506f, 0.0619132198f, -0.0654415654f}}}},
    {2, {{{-0.163024073f, -0.144658112f}, {0.103828147f, -0.13953187f}}}},
    {1, {{{-0.171692954f}}}},
}};
constexpr std::array<LapMatrix, 2> kInverse4 = {{
    {2, {{{-0.075316487f, -0.228597969f}, {0.101397164f, -0.128004786f}}}},
    {1, {{{-0.165261039f}}}},
}};

inline void FilterBorder(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t at) {
  float difference[4] = {};
  for (std::size_t i = 0; i < matrix.half; ++i) difference[i] = above[i][at] - below[i][at];
  for (std::size_t i = 0; i < matrix.half; ++i) {
    float t = matrix.w[i][0] * difference[0];
    for (std::size_t j = 1; j < matrix.half; ++j) t += matrix.w[i][j] * difference[j];
    above[i][at] += t;
    below[i][at] -= t;
  }
}

// Across the vertical border in front of column x of one row.
inline void FilterInRow(const LapMatrix& matrix, float* row, std::size_t x) {
  float* before[4] = {};
  float* after[4] = {};
  for (std::size_t i = 0; i < matrix.half; ++i) {
    before[i] = row + x - 1 - i;
    after[i] = row + x + i;
  }
  FilterBorder(matrix, before, after, 0);
}

// Rounded down and clamped to the range.
template <typename Sample>
Sample ToSample(float value) {
  constexpr float kLargest = static_cast<Sample>(-1);
  return static_cast<Sample>(static_cast<std::int32_t>(std::min(std::max(value, 0.0f), kLargest)));
}

template <typename Sample>
void StoreRowOf(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, Sample* out) {
  constexpr float kOffset = kMidAndHalf<Sample>;
  const auto sample = [&rows](std::uint32_t c, std::size_t x) {
    const float projected = rows.samples[c][x];
    return rows.removed != nullptr ? projected - rows.scale * static_cast<float>(rows.removed[c][x]) : projected;
  };
  for (std::size_t x = 0; x < count; ++x, out += channels) {
    std::uint32_t c = 0;
    if (ycbcr) {
      const float luma = sample(0, x) + kOffset;
      const float cb = sample(1, x);
      const float cr = sample(2, x);
      out[0] = ToSample<Sample>(luma + kRedOfCr * cr);
      out[1] = ToSample<Sample>(luma - kGreenOfCr * cr - kGreenOfCb * cb);
      out[2] = ToSample<Sample>(luma + kBlueOfCb * cb);
      c = 3;
    }
    for (; c < channels; ++c) out[c] = ToSample<Sample>(sample(c, x) + kOffset);
  }
}

}  // namespace

const LapMatrix* LapForward(std::uint32_t patch_px) {
  return patch_px == 8 ? &kForward8 : patch_px == 4 ? &kForward4 : nullptr;
}

const LapMatrix* LapInverse(std::uint32_t patch_px, std::uint32_t reduction) {
  const std::uint32_t original = patch_px << reduction;
  if (original == 8 && reduction < kInverse8.size()) return &kInverse8[reduction];
  if (original == 4 && reduction < kInverse4.size()) return &kInverse4[reduction];
  return nullptr;
}

void LapColumnsForward(Plane& plane, std::uint32_t patch_px) {
  const LapMatrix* matrix = LapForward(patch_px);
  if (matrix == nullptr) return;
  for (std::uint32_t y = 0; y < plane.height; ++y) {
    for (std::size_t x = patch_px; x + matrix->half <= plane.width; x += patch_px) {
      FilterInRow(*matrix, plane.Row(y), x);
    }
  }
}

void LapRowsForward(Plane& plane, std::uint32_t patch_px, std::uint32_t first_border) {
  const LapMatrix* matrix = LapForward(patch_px);
  if (matrix == nullptr) return;
  for (std::uint32_t y = first_border; y + matrix->half <= plane.height; y += patch_px) {
    if (y < matrix->half) continue;
    float* above[4] = {};
    float* below[4] = {};
    for (std::uint32_t i = 0; i < matrix->half; ++i) {
      above[i] = plane.Row(y - 1 - i);
      below[i] = plane.Row(y + i);
    }
    FilterRows(*matrix, above, below, plane.width);
  }
}

void LapBorderInverse(std::uint32_t patch_px, std::uint32_t reduction, float* const* above, float* const* below,
                      std::size_t count) {
  if (const LapMatrix* matrix = LapInverse(patch_px, reduction)) FilterRows(*matrix, above, below, count);
}

void RgbToYCbCr(float* r, float* g, float* b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const float y = 0.299f * r[i] + 0.587f * g[i] + 0.114f * b[i];
    const float cb = (b[i] - y) * (0.5f / 0.886f);
    const float cr = (r[i] - y) * (0.5f / 0.701f);
    r[i] = y;
    g[i] = cb;
    b[i] = cr;
  }
}

Kernel MakeKernel(std::uint32_t count, std::uint32_t channels, std::uint32_t patch_px, std::span<const float> rows) {
  Kernel kernel;
  kernel.count = count;
  kernel.channels = channels;
  kernel.patch_px = patch_px;
  kernel.stride = (std::size_t{count} + 15) / 16 * 16;
  const std::size_t dimension = std::size_t{patch_px} * patch_px * channels;
  kernel.analysis.resize(dimension * kernel.stride);
  for (std::size_t k = 0; k < count; ++k) {
    for (std::size_t d = 0; d < dimension; ++d) kernel.analysis[d * kernel.stride + k] = rows[k * dimension + d];
  }
  for (std::uint32_t reduction = 0; reduction < 3 && (patch_px >> reduction) >= 1; ++reduction) {
    const std::size_t reduced_px = patch_px >> reduction;
    const std::size_t box = std::size_t{1} << reduction;
    const float scale = 1.0f / static_cast<float>(box * box);
    std::vector<float>& out = kernel.synthesis[reduction];
    out.assign(count * channels * reduced_px * reduced_px, 0.0f);
    for (std::size_t k = 0; k < count; ++k) {
      for (std::size_t c = 0; c < channels; ++c) {
        for (std::size_t y = 0; y < patch_px; ++y) {
          for (std::size_t x = 0; x < patch_px; ++x) {
            out[((k * channels + c) * reduced_px + x / box) * reduced_px + y / box] +=
                scale * rows[k * dimension + (c * patch_px + y) * patch_px + x];
          }
        }
      }
    }
  }
  return kernel;
}

namespace plain {

void FilterRows(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count) {
  for (std::size_t x = 0; x < count; ++x) FilterBorder(matrix, above, below, x);
}

float GatherPatch(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch) {
  // Columns first, then their sums by halves: (0 + 4) + (2 + 6), (1 + 5) + (3 + 7).
  float sums[8] = {};
  float* out = patch;
  for (std::uint32_t row = 0; row < patch_px; ++row) {
    const float* from = plane.Row(y + row) + x;
    for (std::uint32_t column = 0; column < patch_px; ++column) {
      sums[column] = row == 0 ? from[column] : sums[column] + from[column];
      *out++ = from[column];
    }
  }
  for (std::uint32_t width = patch_px / 2; width > 0; width /= 2) {
    for (std::uint32_t column = 0; column < width; ++column) sums[column] += sums[column + width];
  }
  const float mean = sums[0] / static_cast<float>(patch_px * patch_px);
  for (float* sample = patch; sample != out; ++sample) *sample -= mean;
  return mean;
}

void Project(const Kernel& kernel, const float* patch, float* coefficients) {
  const std::size_t dimension = std::size_t{kernel.patch_px} * kernel.patch_px * kernel.channels;
  const std::size_t count = kernel.count;
  std::fill_n(coefficients, count, 0.0f);
  const float* column = kernel.analysis.data();
  for (std::size_t d = 0; d < dimension; ++d, column += kernel.stride) {
    const float sample = patch[d];
    for (std::size_t k = 0; k < count; ++k) coefficients[k] += sample * column[k];
  }
}

void SynthesiseStrip(const StripShape& shape, const PatchSum* patches, float* /*scratch*/, float* out,
                     std::size_t out_stride) {
  const std::size_t px = shape.patch_px;
  for (std::size_t row = 0; row < kStripRows / px; ++row) {
    for (std::size_t column = 0; column < shape.columns; ++column) {
      const PatchSum& patch = patches[row * shape.columns + column];
      float sum[64];
      std::fill_n(sum, px * px, patch.mean);
      for (const Coefficient* c = patch.first; c != patch.last; ++c) {
        const float* from = patch.rows + c->k * shape.row_stride;
        for (std::size_t d = 0; d < px * px; ++d) sum[d] += c->value * from[d];
      }
      for (std::size_t y = 0; y < px; ++y) {
        float* to = out + (row * px + y) * out_stride + column * px;
        for (std::size_t x = 0; x < px; ++x) to[x] = sum[x * px + y];
      }
    }
  }
  const LapMatrix* matrix = LapInverse(shape.patch_px, shape.reduction);
  if (matrix == nullptr || !shape.lapped) return;
  for (std::size_t y = 0; y < kStripRows; ++y) {
    for (std::size_t x = px; x < shape.width(); x += px) FilterInRow(*matrix, out + y * out_stride, x);
  }
}

void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out) {
  StoreRowOf(rows, channels, ycbcr, count, out);
}

void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint16_t* out) {
  StoreRowOf(rows, channels, ycbcr, count, out);
}

// The nearest integer, at most kLargestSmooth from zero.
static std::int16_t ToUnits(float value) {
  constexpr float kLargest = kLargestSmooth;
  const float cut = std::max(-kLargest, std::min(kLargest, value));
  return static_cast<std::int16_t>(std::bit_cast<std::uint32_t>(cut + kSmoothRounder));
}

void ToSmoothUnits(const float* row, float scale, std::size_t count, std::int16_t* units) {
  for (std::size_t x = 0; x < count; ++x) units[x] = ToUnits(row[x] * scale);
}

void ToHalvedSmoothUnits(const float* above, const float* below, float scale, std::size_t count, std::int16_t* units) {
  for (std::size_t x = 0; x < count; x += 2) {
    const std::size_t next = std::min(x + 1, count - 1);
    units[x / 2] = ToUnits(((above[x] + below[x]) + (above[next] + below[next])) * (scale / 4));
  }
}

void DoubleSmoothUnits(const std::int16_t* units, std::size_t count, std::int16_t* doubled) {
  for (std::size_t x = 0; x < count; ++x) doubled[2 * x] = doubled[2 * x + 1] = units[x];
}

void SmoothRows(SmoothState& smooth, const std::int16_t* const* rows, const std::int16_t* const* limits,
                std::uint32_t count, std::int16_t* const* removed) {
  const SmoothStateAccess state(smooth);
  const std::size_t windows = state.windows();
  // Four samples or coefficients, `step` apart, to as many coefficients and back.
  const auto forward = [](int* at, std::size_t step) {
    const int s0 = at[0] + at[step], s1 = at[2 * step] + at[3 * step];
    const int d0 = at[0] - at[step], d1 = at[2 * step] - at[3 * step];
    at[0] = s0 + s1, at[step] = s0 - s1, at[2 * step] = d0 + d1, at[3 * step] = d0 - d1;
  };
  const auto backward = [](int* at, std::size_t step) {
    const int s0 = at[0] + at[step], d0 = at[0] - at[step];
    const int s1 = at[2 * step] + at[3 * step], d1 = at[2 * step] - at[3 * step];
    at[0] = s0 + s1, at[step] = s0 - s1, at[2 * step] = d0 + d1, at[3 * step] = d0 - d1;
  };
  // The state: the last five rows, then of each of them what windows have removed, transformed in their rows only: [u].
  constexpr std::size_t kRows = 5;
  const auto row_of = [&](std::size_t v) { return state.Row(v); };
  const auto sum_of = [&](std::size_t v, std::size_t u) { return state.Row(kRows + 4 * v + u); };
  for (std::uint32_t r = 0; r < count; r += 2) {
    for (std::size_t v = 0; v + 2 < kRows; ++v) {
      std::copy_n(row_of(v + 2), windows + 3, row_of(v));
      for (std::size_t u = 0; u < 4; ++u) std::copy_n(sum_of(v + 2, u), windows, sum_of(v, u));
    }
    for (std::size_t i = 0; i < 2; ++i) {
      std::copy_n(rows[r + i], windows + 3, row_of(kRows - 2 + i));
      for (std::size_t u = 0; u < 4; ++u) std::fill_n(sum_of(kRows - 2 + i, u), windows, std::int16_t{0});
    }
    for (std::size_t x = 0; x < windows; ++x) {
      const std::size_t first = 1 - x % 2;
      int window[16];
      for (std::size_t v = 0; v < 4; ++v) std::copy_n(row_of(first + v) + x, 4, window + 4 * v);
      for (std::size_t v = 0; v < 4; ++v) forward(window + 4 * v, 1);
      for (std::size_t u = 0; u < 4; ++u) forward(window + u, 4);
      window[0] = 0;
      for (int& coefficient : window) {
        if (std::abs(coefficient) >= limits[r / 2][x]) coefficient = 0;
      }
      for (std::size_t u = 0; u < 4; ++u) {
        backward(window + u, 4);
        for (std::size_t v = 0; v < 4; ++v) {
          std::int16_t& sum = sum_of(first + v, u)[x];
          sum = static_cast<std::int16_t>(sum + window[4 * v + u]);
        }
      }
    }
    // All windows that hold the first two rows have been seen.
    for (std::size_t i = 0; i < 2; ++i) {
      std::int16_t* const to = removed[r + i];
      std::fill_n(to, windows, std::int16_t{0});
      for (std::size_t x = 0; x < windows; ++x) {
        int sums[4];
        for (std::size_t u = 0; u < 4; ++u) sums[u] = (sum_of(i, u)[x] + 4) >> 3;
        backward(sums, 1);
        for (std::size_t j = 0; j < std::min<std::size_t>(4, windows - x); ++j) {
          to[x + j] = static_cast<std::int16_t>(to[x + j] + sums[j]);
        }
      }
    }
  }
}

}  // namespace plain
SmoothState::SmoothState(std::size_t windows)
    : windows_(windows),
      stride_(InLines<std::int16_t>(windows + kSmoothPx - 1 + kSmoothLine)),
      memory_(kSmoothStateRows * stride_) {}

}  // namespace holo::transform
