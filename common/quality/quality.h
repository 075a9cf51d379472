// How close a picture is to its original, and how many bytes one codec needs to be as close as another.
//
// The pictures compared must have the same width, height, channels and sample type, else kInvalidArgument. Measures are
// taken on samples scaled to 0..255, so that 8-bit and 16-bit pictures of the same content measure alike. Colour and
// luma follow BT.601 in full range, as in JFIF, without rounding:
//
//     Y  =  0.299 R + 0.587 G + 0.114 B
//     Cb = -0.168736 R - 0.331264 G + 0.5 B
//     Cr =  0.5 R - 0.418688 G - 0.081312 B
//
// The luma of a picture that is not RGB is its first channel. Pure functions, safe from any thread.
#pragma once

#include <span>

#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::quality {

// Mean squared error over all samples of all channels, alpha included.
[[nodiscard]] Result<double> MeanSquaredError(const pixels::Picture& original, const pixels::Picture& other);

// 10 log10(255^2 / mse) in dB; infinite for no error.
[[nodiscard]] double PsnrOfMse(double mse);

// PsnrOfMse(MeanSquaredError()).
[[nodiscard]] Result<double> Psnr(const pixels::Picture& original, const pixels::Picture& other);

// (6 PSNR(Y) + PSNR(Cb) + PSNR(Cr)) / 8 in dB, for RGB pictures (alpha is ignored); Psnr() for others. Infinite if any
// of the three has no error.
[[nodiscard]] Result<double> Psnr611(const pixels::Picture& original, const pixels::Picture& other);

// The sides that Ssim() and MsSsim() need, in pixels: one window, and one window on the fifth scale.
inline constexpr std::uint32_t kMinSsimSide = 11;
inline constexpr std::uint32_t kMinMsSsimSide = 161;

// Mean structural similarity of the luma, at most 1 (Wang et al. 2004): Gaussian window of 11 x 11, sigma 1.5, where it
// fits wholly; K1 = 0.01, K2 = 0.03.
[[nodiscard]] Result<double> Ssim(const pixels::Picture& original, const pixels::Picture& other);

// Multi-scale structural similarity of the luma, 0..1 (Wang, Simoncelli, Bovik 2003): the same window on five scales,
// each the 2 x 2 averages of the one before (an odd last row or column counts twice), weighted 0.0448, 0.2856, 0.3001,
// 0.2363, 0.1333. A scale whose contrast term is negative counts as 0.
[[nodiscard]] Result<double> MsSsim(const pixels::Picture& original, const pixels::Picture& other);

// -10 log10(1 - ms_ssim): the scale on which MS-SSIM is averaged and compared; infinite for 1.
[[nodiscard]] double MsSsimDb(double ms_ssim);

// One measured point of a codec's curve.
struct RatePoint {
  double rate = 0;     // bytes or bits per pixel, > 0
  double quality = 0;  // dB
};

// Bjontegaard's difference in rate at equal quality, as a fraction: -0.25 means that `test` needs 25 % fewer bytes than
// `anchor`. Log-rate over quality is interpolated by monotone piecewise cubics (PCHIP) and averaged over the qualities
// that both curves reach. Points may come in any order; one that costs more than another and is no better is left out,
// and so is one of infinite quality. kOutOfRange if fewer than two points of a curve remain or the curves share no
// range.
[[nodiscard]] Result<double> BdRate(std::span<const RatePoint> anchor, std::span<const RatePoint> test);

// The quality of a curve at `rate`, by PCHIP over log-rate; the end point's beyond an end. kOutOfRange as BdRate().
[[nodiscard]] Result<double> QualityAt(std::span<const RatePoint> curve, double rate);

// The rate that a curve needs for `quality`. kOutOfRange also if the curve does not reach it.
[[nodiscard]] Result<double> RateAt(std::span<const RatePoint> curve, double quality);

}  // namespace holo::quality
