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

}  // namespace holo::benchmarks
