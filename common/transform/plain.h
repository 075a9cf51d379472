// The reference: plain loops that say in which order sums are taken. The functions of transform.h give the same bits.
// Private to transform/ and its tests.
#pragma once

#include <array>

#include "common/transform/transform.h"

namespace holo::transform {

// Across a border with samples a (before it, nearest first) and b (after it, nearest first) the lapped filter adds
// t = w (a - b) to a and takes it from b. With the V of the paper, w = (V - I) / 2.
struct LapMatrix {
  std::uint32_t half = 0;  // samples on each side
  std::array<std::array<float, 4>, 4> w{};
};

// Null for a patch size without a filter. patch_px is 8 or 4, for the inverse divided by 2^reduction.
[[nodiscard]] const LapMatrix* LapForward(std::uint32_t patch_px);
[[nodiscard]] const LapMatrix* LapInverse(std::uint32_t patch_px, std::uint32_t reduction);

// YCbCr to R, G, B: R = Y + kRedOfCr Cr, G = (Y - kGreenOfCr Cr) - kGreenOfCb Cb, B = Y + kBlueOfCb Cb.
inline constexpr float kRedOfCr = 1.402f;
inline constexpr float kBlueOfCb = 1.772f;
inline constexpr float kGreenOfCr = 0.299f * 1.402f / 0.587f;
inline constexpr float kGreenOfCb = 0.114f * 1.772f / 0.587f;

// What is added to a sample before it is cut off to an integer: half the range, and a half to round.
template <typename Sample>
inline constexpr float kMidAndHalf = sizeof(Sample) == 1 ? 128.5f : 32768.5f;

// Filters across a horizontal border: matrix.half rows above and below it, nearest first, `count` samples each.
void FilterRows(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count);

// Added to a float of at most 2^15 from zero it leaves the nearest integer in the lowest 16 bits.
inline constexpr float kSmoothRounder = 3 << 22;

// Inside a SmoothState. What its rows are for is up to those who use it, not mixed: all are 0 at first.
inline constexpr std::size_t kSmoothLine = kLine / sizeof(std::int16_t);
inline constexpr std::size_t kSmoothColumns = 6;  // that kernels keep of each of a row's four coefficients
// Of `stride_` integers, at least a line more than samples.
inline constexpr std::size_t kSmoothStateRows = 25;
struct SmoothStateAccess {
  explicit SmoothStateAccess(SmoothState& state) : state_(state) {}
  [[nodiscard]] std::size_t windows() const { return state_.windows_; }
  [[nodiscard]] std::int16_t* Row(std::size_t i) const { return state_.memory_.data() + i * state_.stride_; }

 private:
  SmoothState& state_;
};

namespace plain {

void FilterRows(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count);
float GatherPatch(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch);
void Project(const Kernel& kernel, const float* patch, float* coefficients);
void SynthesiseStrip(const StripShape& shape, const PatchSum* patches, float* scratch, float* out,
                     std::size_t out_stride);
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out);
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint16_t* out);
void ToSmoothUnits(const float* row, float scale, std::size_t count, std::int16_t* units);
void ToHalvedSmoothUnits(const float* above, const float* below, float scale, std::size_t count, std::int16_t* units);
void DoubleSmoothUnits(const std::int16_t* units, std::size_t count, std::int16_t* doubled);
void SmoothRows(SmoothState& state, const std::int16_t* const* rows, const std::int16_t* const* limits,
                std::uint32_t count, std::int16_t* const* removed);

}  // namespace plain
}  // namespace holo::transform
