#include "common/transform/transform.h"

#include <array>
#include <cmath>

namespace holo::transform {
namespace {

constexpr std::size_t kMaxHalf = 4;
constexpr double kLapScale = 1.38;  // s: what was measured best on photographs

// Across a border with samples a (before it, nearest first) and b (after it, nearest first) the filter keeps a + b and
// replaces the difference d = a - b by V d, with V = J C2^T diag(s, 1, ...) C4 J from the DCTs of type II and IV.
struct Matrix {
  std::size_t half = 0;
  std::array<std::array<float, kMaxHalf>, kMaxHalf> v{};
};

using Square = std::array<std::array<double, kMaxHalf>, kMaxHalf>;

// V if `inverse` is false, V^-1 otherwise, for `half` samples on each side.
Square MakeV(std::size_t half, bool inverse) {
  const double pi = 3.14159265358979323846;
  const auto n = static_cast<double>(half);
  Square c2{};
  Square c4{};
  for (std::size_t k = 0; k < half; ++k) {
    for (std::size_t j = 0; j < half; ++j) {
      const double twice_j = 2.0 * static_cast<double>(j) + 1;
      const auto kd = static_cast<double>(k);
      c2[k][j] = std::sqrt((k == 0 ? 1.0 : 2.0) / n) * std::cos(pi * twice_j * kd / (2 * n));
      c4[k][j] = std::sqrt(2.0 / n) * std::cos(pi * twice_j * (2 * kd + 1) / (4 * n));
    }
  }
  Square out{};
  for (std::size_t i = 0; i < half; ++i) {
    for (std::size_t j = 0; j < half; ++j) {
      for (std::size_t k = 0; k < half; ++k) {
        const double s = k == 0 ? kLapScale : 1.0;
        out[i][j] +=
            inverse ? c4[k][half - 1 - i] * c2[k][half - 1 - j] / s : c2[k][half - 1 - i] * c4[k][half - 1 - j] * s;
      }
    }
  }
  return out;
}

// `matrix` applied to pictures that were box-filtered by 2^reduction: samples are repeated, filtered, and averaged.
Matrix Reduce(const Square& matrix, std::size_t half, std::uint32_t reduction) {
  const std::size_t box = std::size_t{1} << reduction;
  Matrix out;
  out.half = half / box;
  for (std::size_t row = 0; row < half; ++row) {
    for (std::size_t column = 0; column < half; ++column) {
      out.v[row / box][column / box] += static_cast<float>(matrix[row][column] / static_cast<double>(box));
    }
  }
  return out;
}

struct Filters {
  Matrix forward8 = Reduce(MakeV(4, false), 4, 0);
  Matrix forward4 = Reduce(MakeV(2, false), 2, 0);
  std::array<Matrix, 3> inverse8 = {Reduce(MakeV(4, true), 4, 0), Reduce(MakeV(4, true), 4, 1),
                                    Reduce(MakeV(4, true), 4, 2)};
  std::array<Matrix, 2> inverse4 = {Reduce(MakeV(2, true), 2, 0), Reduce(MakeV(2, true), 2, 1)};
};

const Filters& AllFilters() {
  static const Filters filters;
  return filters;
}

const Matrix* ForwardOf(std::uint32_t patch_px) {
  if (patch_px == 8) return &AllFilters().forward8;
  if (patch_px == 4) return &AllFilters().forward4;
  return nullptr;
}

const Matrix* InverseOf(std::uint32_t patch_px, std::uint32_t reduction) {
  const std::uint32_t original = patch_px << reduction;
  if (original == 8 && reduction < 3) return &AllFilters().inverse8[reduction];
  if (original == 4 && reduction < 2) return &AllFilters().inverse4[reduction];
  return nullptr;
}

// Filters across one border: sample i before it is before(i)[at], sample i after it after(i)[at], nearest first.
template <std::size_t kHalf>
inline void FilterBorder(const Matrix& matrix, const std::array<float*, kHalf>& before,
                         const std::array<float*, kHalf>& after, std::size_t at) {
  std::array<float, kHalf> sum;
  std::array<float, kHalf> difference;
  for (std::size_t i = 0; i < kHalf; ++i) {
    sum[i] = before[i][at] + after[i][at];
    difference[i] = before[i][at] - after[i][at];
  }
  for (std::size_t i = 0; i < kHalf; ++i) {
    float mixed = 0.0f;
    for (std::size_t j = 0; j < kHalf; ++j) mixed += matrix.v[i][j] * difference[j];
    before[i][at] = 0.5f * (sum[i] + mixed);
    after[i][at] = 0.5f * (sum[i] - mixed);
  }
}

template <std::size_t kHalf>
void FilterColumns(const Matrix& matrix, Plane& plane, std::uint32_t patch_px) {
  for (std::uint32_t y = 0; y < plane.height; ++y) {
    float* row = plane.Row(y);
    std::array<float*, kHalf> before;
    std::array<float*, kHalf> after;
    for (std::size_t i = 0; i < kHalf; ++i) {
      before[i] = row + patch_px - 1 - i;
      after[i] = row + patch_px + i;
    }
    for (std::size_t x = 0; x + patch_px + kHalf <= plane.width; x += patch_px) {
      FilterBorder<kHalf>(matrix, before, after, x);
    }
  }
}

template <std::size_t kHalf>
void FilterRows(const Matrix& matrix, Plane& plane, std::uint32_t patch_px, std::uint32_t first_border) {
  for (std::uint32_t y = first_border; y + kHalf <= plane.height; y += patch_px) {
    if (y < kHalf) continue;
    std::array<float*, kHalf> before;
    std::array<float*, kHalf> after;
    for (std::uint32_t i = 0; i < kHalf; ++i) {
      before[i] = plane.Row(y - 1 - i);
      after[i] = plane.Row(y + i);
    }
    for (std::size_t x = 0; x < plane.width; ++x) FilterBorder<kHalf>(matrix, before, after, x);
  }
}

void AllColumns(const Matrix* matrix, Plane& plane, std::uint32_t patch_px) {
  if (matrix == nullptr) return;
  if (matrix->half == 4) return FilterColumns<4>(*matrix, plane, patch_px);
  if (matrix->half == 2) return FilterColumns<2>(*matrix, plane, patch_px);
  FilterColumns<1>(*matrix, plane, patch_px);
}

void AllRows(const Matrix* matrix, Plane& plane, std::uint32_t patch_px, std::uint32_t first_border) {
  if (matrix == nullptr) return;
  if (matrix->half == 4) return FilterRows<4>(*matrix, plane, patch_px, first_border);
  if (matrix->half == 2) return FilterRows<2>(*matrix, plane, patch_px, first_border);
  FilterRows<1>(*matrix, plane, patch_px, first_border);
}

}  // namespace

void LapColumnsForward(Plane& plane, std::uint32_t patch_px) {
  AllColumns(ForwardOf(patch_px), plane, patch_px);
}

void LapColumnsInverse(Plane& plane, std::uint32_t patch_px, std::uint32_t reduction) {
  AllColumns(InverseOf(patch_px, reduction), plane, patch_px);
}

void LapRowsForward(Plane& plane, std::uint32_t patch_px, std::uint32_t first_border) {
  AllRows(ForwardOf(patch_px), plane, patch_px, first_border);
}

void LapRowsInverse(Plane& plane, std::uint32_t patch_px, std::uint32_t first_border, std::uint32_t reduction) {
  AllRows(InverseOf(patch_px, reduction), plane, patch_px, first_border);
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

void YCbCrToRgb(float* y, float* cb, float* cr, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const float luma = y[i];
    const float red = luma + 1.402f * cr[i];
    const float blue = luma + 1.772f * cb[i];
    const float green = luma - (0.299f * 1.402f / 0.587f) * cr[i] - (0.114f * 1.772f / 0.587f) * cb[i];
    y[i] = red;
    cb[i] = green;
    cr[i] = blue;
  }
}

float GatherPatch(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch) {
  float sum = 0.0f;
  float* out = patch;
  for (std::uint32_t row = 0; row < patch_px; ++row) {
    const float* from = plane.Row(y + row) + x;
    for (std::uint32_t column = 0; column < patch_px; ++column) {
      sum += from[column];
      *out++ = from[column];
    }
  }
  const float mean = sum / static_cast<float>(patch_px * patch_px);
  for (float* sample = patch; sample != out; ++sample) *sample -= mean;
  return mean;
}

Kernel MakeKernel(std::uint32_t count, std::uint32_t channels, std::uint32_t patch_px, std::span<const float> rows) {
  Kernel kernel;
  kernel.count = count;
  kernel.channels = channels;
  kernel.patch_px = patch_px;
  const std::size_t dimension = std::size_t{patch_px} * patch_px * channels;
  kernel.analysis.resize(dimension * count);
  for (std::size_t k = 0; k < count; ++k) {
    for (std::size_t d = 0; d < dimension; ++d) kernel.analysis[d * count + k] = rows[k * dimension + d];
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
            out[((k * channels + c) * reduced_px + y / box) * reduced_px + x / box] +=
                scale * rows[k * dimension + (c * patch_px + y) * patch_px + x];
          }
        }
      }
    }
  }
  return kernel;
}

void Project(const Kernel& kernel, const float* patch, float* coefficients) {
  const std::size_t dimension = std::size_t{kernel.patch_px} * kernel.patch_px * kernel.channels;
  const std::size_t count = kernel.count;
  for (std::size_t k = 0; k < count; ++k) coefficients[k] = 0.0f;
  const float* column = kernel.analysis.data();
  for (std::size_t d = 0; d < dimension; ++d, column += count) {
    const float sample = patch[d];
    for (std::size_t k = 0; k < count; ++k) coefficients[k] += sample * column[k];
  }
}

}  // namespace holo::transform
