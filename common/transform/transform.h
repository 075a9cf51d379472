// Plain signal processing below the codec: colour, lapped filters, and the projection of patches on a basis.
//
// The lapped filter is the time-domain pre/post filter of Tran, Liang and Tu ("Lapped transform via time-domain pre-
// and post-filtering", IEEE Trans. Signal Processing 51(6), 2003), generalised by a scaling s: across each border
// between two patches, half a patch of samples on both sides is mixed before the patches are projected, so that the
// basis functions overlap and no block edges appear. Applied separably, and undone exactly by the inverse.
//
// All functions are pure and thread-safe. Float arithmetic is plain multiply and add in a fixed order (no fused
// multiply-add), and nothing here calls the mathematical library: every machine computes the same bits, whichever
// instructions it has. plain.h holds the reference that says in which order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/transform/aligned.h"

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
// ... below the width. patch_px is 8 or 4.
void LapColumnsForward(Plane& plane, std::uint32_t patch_px);

// The same across horizontal borders (between rows), at y = first_border, first_border + patch_px, ... while half a
// patch lies on both sides inside the plane.
void LapRowsForward(Plane& plane, std::uint32_t patch_px, std::uint32_t first_border);

// Full-range YCbCr of ITU-R BT.601 (as in JFIF, without offsets), in place over `count` samples.
// StoreRow goes back.
void RgbToYCbCr(float* r, float* g, float* b, std::size_t count);

// Copies the patch whose first sample is (x, y) to patch[patch_px * patch_px], row by row, without its mean, which is
// returned. patch_px is 8 or 4.
float GatherPatch(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch);

// Basis rows arranged for projection and rendering.
//   analysis  [dimension, stride]: coefficient k of a patch p is sum_d p[d] * analysis[d, k]; a patch is
//             [channel][row][column]; columns from `count` to `stride` are zero
//   synthesis [count, reduced dimension]: the rows, box-filtered by 2^reduction in x and y, as [channel][column][row]:
//             column by column, as SynthesiseStrip takes them
struct Kernel {
  std::uint32_t count = 0;
  std::uint32_t channels = 0;
  std::uint32_t patch_px = 0;  // before reduction
  std::size_t stride = 0;      // `count` rounded up to a multiple of 16
  std::vector<float> analysis;
  std::vector<float> synthesis[3];  // indexed by reduction 0..2; empty where 2^reduction > patch_px
};

// `rows` is [count, patch_px^2 * channels] row-major.
[[nodiscard]] Kernel MakeKernel(std::uint32_t count, std::uint32_t channels, std::uint32_t patch_px,
                                std::span<const float> rows);

// coefficients[count] = patch[dimension] projected on the rows, summed over the patch's samples in their order.
void Project(const Kernel& kernel, const float* patch, float* coefficients);

// A coefficient that is not zero.
struct Coefficient {
  std::uint32_t k = 0;
  float value = 0;  // in sample units
};

// One channel of a patch: mean + sum of value * rows[k], added in the order of the list.
struct PatchSum {
  const Coefficient* first = nullptr;
  const Coefficient* last = nullptr;  // behind the last one
  const float* rows = nullptr;        // the channel's part of row 0 of Kernel::synthesis
  float mean = 0;
};

// A strip is eight rows of samples of one plane: 8 / patch_px rows of patches, one above the other.
inline constexpr std::uint32_t kStripRows = 8;

struct StripShape {
  std::uint32_t columns = 0;    // patches side by side
  std::uint32_t patch_px = 8;   // after reduction: 8, 4 or 2
  std::uint32_t reduction = 0;  // patch_px is 8 or 4, divided by 2^reduction
  bool lapped = true;           // whether there is a filter to undo
  std::size_t row_stride = 0;   // floats from one of PatchSum::rows to the next

  [[nodiscard]] std::uint32_t width() const { return columns * patch_px; }
  // Buffers hold whole eights of samples; those behind width() are undefined.
  [[nodiscard]] std::uint32_t padded_width() const { return (width() + 7) / 8 * 8; }
};

// Computes the samples of a strip and undoes the lapped filter across its vertical borders. `patches` is
// [8 / patch_px][columns]; `scratch` is [padded_width * 8], aligned to 64 bytes; row y begins at
// out + y * out_stride, out_stride >= padded_width.
void SynthesiseStrip(const StripShape& shape, const PatchSum* patches, float* scratch, float* out,
                     std::size_t out_stride);

// Undoes the lapped filter across one horizontal border: patch_px / 2 rows above and below it, nearest first, `count`
// samples each. patch_px is after `reduction`.
void LapBorderInverse(std::uint32_t patch_px, std::uint32_t reduction, float* const* above, float* const* below,
                      std::size_t count);

// Rows of samples, one a channel: samples[c][x] - scale * removed[c][x].
struct SampleRows {
  const float* const* samples;
  const std::int16_t* const* removed = nullptr;  // null: nothing
  float scale = 0;
};

// Interleaves the rows of up to 32 channels, `count` samples each, as integers: half the range is added, then rounded
// and clamped to it. If `ycbcr`, the first three channels are converted to R, G, B.
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out);
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint16_t* out);

// Smoothing: the Hadamard transform of windows of 4 x 4 samples of a plane, which begin at every second sample, the
// dark squares of a chessboard; of its coefficients but the first, those of less than a limit are what quantisation has
// left of nothing. They are added up over the windows, and a share of them is taken away. On integers of 16 bits, of
// which kSmoothUnits are half the range of samples: none of the sums below leaves them.
inline constexpr std::uint32_t kSmoothPx = 4;
inline constexpr std::uint32_t kSmoothRows = 16;  // at most, at a time
inline constexpr std::size_t kSmoothPadding = 40;
inline constexpr float kSmoothUnits = 1600;
inline constexpr std::int16_t kLargestSmooth = 2047;  // sample or limit; larger ones count as this

// The nearest units, scale * row[x] for `count` samples.
void ToSmoothUnits(const float* row, float scale, std::size_t count, std::int16_t* units);
// The same for the means of 2 x 2 samples of two rows of `count`, (count + 1) / 2 of them: of an odd last column the
// mean of 1 x 2.
void ToHalvedSmoothUnits(const float* above, const float* below, float scale, std::size_t count, std::int16_t* units);
// Each of `count` units twice.
void DoubleSmoothUnits(const std::int16_t* units, std::size_t count, std::int16_t* doubled);

// What SmoothRows() keeps of the rows above those that come next.
class SmoothState {
 public:
  // `windows` are the columns that one can begin in.
  explicit SmoothState(std::size_t windows);
  SmoothState(SmoothState&&) = default;

 private:
  friend struct SmoothStateAccess;
  std::size_t windows_;
  std::size_t stride_;
  AlignedVector<std::int16_t> memory_;  // rows of stride_
};

// Takes the next rows of a plane, `count` of them: even, at most kSmoothRows. Each has `windows` samples and
// kSmoothPx - 1 more. In even columns, counted from 0, windows begin in even rows, counted from the first one ever
// taken, in odd columns in odd rows; limits[i][x] is that of the window of column x that ends in rows[2 i + 1] or, in
// odd columns, in rows[2 i]. Writes to removed[i] what all windows have removed from the first `windows` samples of the
// row kSmoothPx - 1 above rows[i], in eighths of their units, rounded. Only from the kSmoothPx-th row and column of the
// plane on have all windows of a sample been seen. All rows and limits are followed by kSmoothPadding integers that may
// be read and, of `removed`, written.
void SmoothRows(SmoothState& state, const std::int16_t* const* rows, const std::int16_t* const* limits,
                std::uint32_t count, std::int16_t* const* removed);

}  // namespace holo::transform
