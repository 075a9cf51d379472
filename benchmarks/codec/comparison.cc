#include "benchmarks/codec/comparison.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>

namespace holo::benchmarks {
namespace {

using pixels::Picture;

// To be raised when the measures change their meaning.
constexpr const char* kMeasuresVersion = "measures 1";

Result<Measurement> Compare(const Picture& original, const Picture& decoded, std::uint64_t bytes) {
  Measurement measurement;
  measurement.bytes = bytes;
  HOLO_ASSIGN_OR_RETURN(measurement.psnr, quality::Psnr(original, decoded));
  HOLO_ASSIGN_OR_RETURN(measurement.psnr611, quality::Psnr611(original, decoded));
  HOLO_ASSIGN_OR_RETURN(measurement.ms_ssim, quality::MsSsim(original, decoded));
  return measurement;
}

Picture MidGrey(const Picture& like) {
  Picture picture = like.Clone();
  for (std::uint8_t& sample : picture.bytes()) sample = 128;
  return picture;
}

std::string KeyOf(const Coder& coder, const Photograph& photograph, const std::string& what) {
  char crc[9];
  std::snprintf(crc, sizeof crc, "%08x", photograph.crc);
  return std::string(kMeasuresVersion) + " | " + photograph.name + " " + crc + " | " + coder.version() + " | " + what;
}

Result<Measurement> MeasureSetting(const Coder& coder, const Photograph& photograph, const std::string& setting,
                                   ResultCache& cache) {
  const std::string key = KeyOf(coder, photograph, setting);
  if (!coder.version().empty()) {
    if (const auto kept = cache.Find(key); kept && kept->size() == 4) {
      return Measurement{static_cast<std::uint64_t>((*kept)[0]), (*kept)[1], (*kept)[2], (*kept)[3]};
    }
  }
  HOLO_ASSIGN_OR_RETURN(const auto file, coder.Encode(photograph.picture, setting));
  HOLO_ASSIGN_OR_RETURN(const Picture decoded, coder.Decode(file));
  HOLO_ASSIGN_OR_RETURN(const Measurement result, Compare(photograph.picture, decoded, file.size()));
  if (!coder.version().empty()) {
    cache.Put(key, {static_cast<double>(result.bytes), result.psnr, result.psnr611, result.ms_ssim});
  }
  return result;
}

Result<PrefixRun> MeasurePrefixes(const Coder& coder, const Photograph& photograph, double bpp, ResultCache& cache) {
  PrefixRun run;
  run.target_bpp = bpp;
  run.target_bytes =
      static_cast<std::uint64_t>(std::llround(bpp / 8 * photograph.picture.width() * photograph.picture.height()));
  std::vector<std::uint64_t> cuts;
  std::string what = "prefixes of " + std::to_string(run.target_bytes) + " at";
  for (const double fraction : kPrefixFractions) {
    const double bytes = std::floor(fraction * static_cast<double>(run.target_bytes));
    cuts.push_back(static_cast<std::uint64_t>(std::max(1.0, bytes)));
    what += " " + std::to_string(cuts.back());
  }

  const std::string key = KeyOf(coder, photograph, what);
  if (!coder.version().empty()) {
    if (const auto kept = cache.Find(key); kept && kept->size() == 1 + 5 * cuts.size()) {
      run.file_bytes = static_cast<std::uint64_t>((*kept)[0]);
      for (std::size_t i = 0; i < cuts.size(); ++i) {
        const double* values = kept->data() + 1 + 5 * i;
        run.points.push_back({static_cast<std::uint64_t>(values[0]), values[1], values[2], values[3]});
        run.shown.push_back(values[4] != 0);
      }
      return run;
    }
  }
  HOLO_ASSIGN_OR_RETURN(const auto file, coder.EncodeToSize(photograph.picture, run.target_bytes,
                                                            std::span(cuts).first(cuts.size() - 1)));
  run.file_bytes = file.size();
  std::vector<double> values = {static_cast<double>(run.file_bytes)};
  for (const std::uint64_t cut : cuts) {
    const std::uint64_t bytes = std::min<std::uint64_t>(cut, file.size());
    const auto decoded = coder.DecodePrefix(std::span(file).first(bytes), run.points.size() + 1);
    HOLO_ASSIGN_OR_RETURN(const Measurement point,
                          decoded ? Compare(photograph.picture, *decoded, bytes)
                                  : Compare(photograph.picture, MidGrey(photograph.picture), bytes));
    run.points.push_back(point);
    run.shown.push_back(decoded.has_value());
    values.insert(values.end(),
                  {static_cast<double>(bytes), point.psnr, point.psnr611, point.ms_ssim, decoded ? 1.0 : 0.0});
  }
  if (!coder.version().empty()) cache.Put(key, std::move(values));
  return run;
}

}  // namespace

const char* NameOf(Measure measure) {
  switch (measure) {
    case Measure::kPsnr:
      return "PSNR RGB";
    case Measure::kPsnr611:
      return "PSNR 6:1:1";
    case Measure::kMsSsim:
      return "MS-SSIM";
  }
  return "";
}

double InDecibels(const Measurement& measurement, Measure measure) {
  switch (measure) {
    case Measure::kPsnr:
      return measurement.psnr;
    case Measure::kPsnr611:
      return measurement.psnr611;
    case Measure::kMsSsim:
      return quality::MsSsimDb(measurement.ms_ssim);
  }
  return 0;
}

Result<CoderResult> MeasureCoder(const Coder& coder, const Photograph& photograph, std::span<const double> prefix_bpps,
                                 ResultCache& cache) {
  const std::string context = coder.name() + " on " + photograph.name;
  CoderResult result;
  for (const std::string& setting : coder.settings()) {
    auto point = MeasureSetting(coder, photograph, setting, cache);
    if (!point) return tl::unexpected(WithContext(std::move(point).error(), context + " at " + setting));
    result.curve.push_back(*point);
  }
  if (!coder.is_progressive()) return result;
  for (const double bpp : prefix_bpps) {
    auto run = MeasurePrefixes(coder, photograph, bpp, cache);
    if (!run) return tl::unexpected(WithContext(std::move(run).error(), context + ", prefixes"));
    result.prefixes.push_back(std::move(*run));
  }
  return result;
}

std::vector<quality::RatePoint> CurveBetween(const CoderResult& result, const Photograph& photograph, Measure measure,
                                             double min_bpp, double max_bpp) {
  const double pixels = static_cast<double>(photograph.picture.width()) * photograph.picture.height();
  std::vector<quality::RatePoint> points;
  for (const Measurement& point : result.curve) {
    const double bpp = 8 * static_cast<double>(point.bytes) / pixels;
    if (bpp >= min_bpp && bpp <= max_bpp) points.push_back({bpp, InDecibels(point, measure)});
  }
  return points;
}

bool IsTrainingPicture(const std::string& file_name) {
  static const std::set<std::string> kPhotographs = {"bulb",   "city", "flowers", "girl",
                                                     "guitar", "haze", "mies",    "path"};
  static const std::set<std::string> kDrawings = {"codec_wiki", "graph", "imac_dark", "imessage", "windows", "text"};
  const std::string stem = std::filesystem::path(file_name).stem().string();
  const bool kodak = stem.size() == 7 && stem.starts_with("kodim") && std::isdigit(stem[5]) != 0;
  return kPhotographs.contains(stem) || kDrawings.contains(stem) || (kodak && (stem[6] - '0') % 2 == 1);
}

double BdRateOf(const MeasuredPicture& picture, std::size_t reference, std::size_t coder, Measure measure) {
  const auto curve = [&](std::size_t c) {
    return CurveBetween(picture.coders[c], picture.photograph, measure, kMinBpp, kMaxBpp);
  };
  return quality::BdRate(curve(reference), curve(coder)).value_or(std::nan(""));
}

double MeanBdRate(std::span<const MeasuredPicture> pictures, std::size_t reference, std::size_t coder, Measure measure,
                  bool held_out) {
  double sum = 0;
  int count = 0;
  for (const MeasuredPicture& picture : pictures) {
    if (held_out && IsTrainingPicture(picture.photograph.name)) continue;
    const double rate = BdRateOf(picture, reference, coder, measure);
    if (std::isnan(rate)) continue;
    sum += rate;
    ++count;
  }
  return count > 0 ? sum / count : std::nan("");
}

std::size_t CountBetter(std::span<const MeasuredPicture> pictures, std::size_t reference, std::size_t coder,
                        std::size_t run, std::size_t fraction, Measure measure) {
  const auto of = [&](const MeasuredPicture& picture, std::size_t c) {
    return InDecibels(picture.coders[c].prefixes[run].points[fraction], measure);
  };
  return static_cast<std::size_t>(std::count_if(pictures.begin(), pictures.end(), [&](const MeasuredPicture& picture) {
    return of(picture, coder) > of(picture, reference);
  }));
}

}  // namespace holo::benchmarks
