// Measures one picture with one coder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "benchmarks/codec/coder.h"
#include "benchmarks/codec/result_cache.h"
#include "common/pixels/pixels.h"
#include "common/quality/quality.h"
#include "common/status/status.h"

namespace holo::benchmarks {

// How a file or a prefix of one compares with the original.
struct Measurement {
  std::uint64_t bytes = 0;
  double psnr = 0;     // dB, all samples
  double psnr611 = 0;  // dB
  double ms_ssim = 0;  // 0..1
};

// Which measure; kMeasures lists them as they are printed.
enum class Measure : std::uint8_t { kPsnr, kPsnr611, kMsSsim };
inline constexpr Measure kMeasures[] = {Measure::kPsnr, Measure::kPsnr611, Measure::kMsSsim};
[[nodiscard]] const char* NameOf(Measure measure);
// In dB, MS-SSIM as -10 log10(1 - x).
[[nodiscard]] double InDecibels(const Measurement& measurement, Measure measure);

// The parts of a file of which prefixes are compared.
inline constexpr double kPrefixFractions[] = {0.02, 0.05, 0.10, 0.20, 0.40, 0.70, 1.0};

// Prefixes of one file, each cut at a fraction of the same `target_bytes`, whatever the file's own size.
struct PrefixRun {
  double target_bpp = 0;
  std::uint64_t target_bytes = 0;
  std::uint64_t file_bytes = 0;
  std::vector<Measurement> points;  // as kPrefixFractions
  std::vector<bool> shown;          // false: nothing could be decoded, mid-grey was measured
};

struct CoderResult {
  std::vector<Measurement> curve;  // as Coder::settings()
  std::vector<PrefixRun> prefixes;
};

struct Photograph {
  std::string name;
  pixels::Picture picture;  // RGB, 8 bits
  std::uint32_t crc = 0;    // of its samples: names the content in the cache
};

[[nodiscard]] Result<CoderResult> MeasureCoder(const Coder& coder, const Photograph& photograph,
                                               std::span<const double> prefix_bpps, ResultCache& cache);

// The curve's points between two densities (bits per pixel), ready for quality::BdRate.
[[nodiscard]] std::vector<quality::RatePoint> CurveBetween(const CoderResult& result, const Photograph& photograph,
                                                           Measure measure, double min_bpp, double max_bpp);

// A picture as every coder of a list codes it; coders below are indices into that list.
struct MeasuredPicture {
  Photograph photograph;
  std::vector<CoderResult> coders;
};

// Whether a file of that name was among the pictures that the built-in bases and contexts were trained on (see
// common/basis/README.md).
[[nodiscard]] bool IsTrainingPicture(const std::string& file_name);

// The densities over which BD-rates are taken, in bits per pixel.
inline constexpr double kMinBpp = 0.15;
inline constexpr double kMaxBpp = 2.5;

// How many more bytes `coder` needs than `reference` at the same quality: -0.1 is a tenth fewer. NaN where the curves
// do not meet.
[[nodiscard]] double BdRateOf(const MeasuredPicture& picture, std::size_t reference, std::size_t coder,
                              Measure measure);
// The mean over the pictures whose curves meet; NaN if there are none. `held_out`: training pictures do not count.
[[nodiscard]] double MeanBdRate(std::span<const MeasuredPicture> pictures, std::size_t reference, std::size_t coder,
                                Measure measure, bool held_out);
// Of how many pictures the prefix `fraction` (an index into kPrefixFractions) of run `run` is better with `coder` than
// with `reference`.
[[nodiscard]] std::size_t CountBetter(std::span<const MeasuredPicture> pictures, std::size_t reference,
                                      std::size_t coder, std::size_t run, std::size_t fraction, Measure measure);

}  // namespace holo::benchmarks
