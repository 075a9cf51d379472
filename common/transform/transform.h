// Plain signal processing below the codec: colour, lapped filters, and the projection of patches on a basis.
//
// The lapped filter is the time-domain pre/post filter of Tran, Liang and Tu ("Lapped transform via time-domain pre-
// and post-filtering", IEEE Trans. Signal Processing 51(6), 2003), generalised by a scaling s: across each border
// between two patches, half a patch of samples on both sides is mixed before the patches are projected, so that the
// basis functions overlap and no block edges appear. Applied separably, and undone exactly by the inverse.
//
// All functions are pure and thread-safe. Float arithmetic is plain multiply and add in a fixed order (no fused
// multiply-add), so every machine computes the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace holo::transform {

// A [height, width] row-major float32 buffer of samples.
struct Plane {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::vector<float> samples;

  Plane() = default;
  Plane(std::uint32_t w, std::uint32_t h) : width(w), height(h), samples(std::size_t{w} * h) {}
  [[nodiscard]] float* Row(std::uint32_t y) { return samples.data() + std::size_t{y} * width; }
  [[nodiscard]] const float* Row(std::uint32_t y) const { return samples.data() + std::size_t{y} * width; }
};

// Mixes samples across vertical patch borders (between columns) of every row of `plane`: at x = patch_px, 2 * patch_px,
// ... below the width. patch_px is 8 or 4; going back it may be that size divided by 2^reduction, for a plane that was
// rendered smaller. A patch size without a filter is left alone.
void LapColumnsForward(Plane& plane, std::uint32_t patch_px);
void LapColumnsInverse(Plane& plane, std::uint32_t patch_px, std::uint32_t reduction);

// The same across horizontal borders (between rows), at y = first_border, first_border + patch_px, ... while half a
// patch lies on both sides inside the plane.
void LapRowsForward(Plane& plane, std::uint32_t patch_px, std::uint32_t first_border);
void LapRowsInverse(Plane& plane, std::uint32_t patch_px, std::uint32_t first_border, std::uint32_t reduction);

// Full-range YCbCr of ITU-R BT.601 (as in JFIF, without offsets), in place over `count` samples.
void RgbToYCbCr(float* r, float* g, float* b, std::size_t count);
void YCbCrToRgb(float* y, float* cb, float* cr, std::size_t count);

// Copies the patch whose first sample is (x, y) to patch[patch_px * patch_px], row by row, without its mean, which is
// returned.
float GatherPatch(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch);

// Basis rows arranged for projection and rendering.
//   analysis  [dimension, count]: coefficient k of a patch p is sum_d p[d] * analysis[d, k]
//   synthesis [count, reduced dimension]: rows, box-filtered by 2^reduction in x and y
// A patch is [channel][row][column].
struct Kernel {
  std::uint32_t count = 0;
  std::uint32_t channels = 0;
  std::uint32_t patch_px = 0;  // before reduction
  std::vector<float> analysis;
  std::vector<float> synthesis[3];  // indexed by reduction 0..2; empty where 2^reduction > patch_px
};

// `rows` is [count, patch_px^2 * channels] row-major.
[[nodiscard]] Kernel MakeKernel(std::uint32_t count, std::uint32_t channels, std::uint32_t patch_px,
                                std::span<const float> rows);

// coefficients[count] = patch[dimension] projected on the rows. The reference; plain loops.
void Project(const Kernel& kernel, const float* patch, float* coefficients);

// out[dimension] += value * row[dimension].
inline void AddRow(const float* row, float value, float* out, std::size_t dimension) {
  for (std::size_t d = 0; d < dimension; ++d) out[d] += value * row[d];
}

}  // namespace holo::transform
