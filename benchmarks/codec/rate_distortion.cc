// holo_benchmark_codec: how many bytes a picture needs, and what the first of them are worth.
//
// For each picture of some folders and each coder (this project's in each tuning, progressive JPEG, WebP, JPEG 2000,
// JPEG XL, AVIF):
//  - bytes, bits per pixel, PSNR, PSNR 6:1:1 and MS-SSIM over a range of settings;
//  - BD-rates against progressive JPEG over 0.15 to 2.5 bits per pixel, and ours against every peer, for all pictures
//    and for those that nothing was trained on;
//  - the quality of prefixes of one file: 2 to 70 % of its bytes, and for how many pictures ours are better;
//  - the bytes of the plain profile against ours at the same PSNR;
//  - how fast ours is, beside JPEG, JPEG 2000 and WebP in this process (holo_benchmark_speed looks closer).
// For bytes and quality peers run as command-line programs; what they gave is kept below build/ under their versions
// and settings.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "benchmarks/codec/coder.h"
#include "benchmarks/codec/comparison.h"
#include "benchmarks/codec/holo_coder.h"
#include "benchmarks/codec/plot.h"
#include "benchmarks/codec/result_cache.h"
#include "benchmarks/codec/speed_table.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/plain/plain.h"

namespace holo::benchmarks {
namespace {

constexpr double kPrefixBpps[] = {2.0, 1.0};
constexpr std::size_t kQuickPictures = 4;
constexpr std::uint32_t kPlainDimensions[] = {8, 16, 30, 48};

struct Options {
  std::vector<std::string> folders;
  std::string json_file;
  std::string plot_file;
  std::string cache_file = HOLO_BENCHMARK_CACHE;
  bool quick = false;
  bool summary = false;
  bool no_speed = false;
  unsigned threads = 2;
};

// The plain profile with k dimensions, and what our codec needs for its PSNR.
struct PlainResult {
  std::uint32_t k = 0;
  std::uint64_t bytes = 0;
  double psnr = 0;
  std::optional<double> our_bytes;  // nothing if our curve does not reach that far
};

Result<std::vector<std::filesystem::path>> ListPictures(const std::vector<std::string>& folders, bool quick) {
  std::vector<std::filesystem::path> paths;
  for (const std::string& folder : folders) {
    std::error_code error;
    const std::size_t before = paths.size();
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      if (image_io::IsPictureName(entry.path())) paths.push_back(entry.path());
    }
    if (error) return Fail(Code::kNotFound, "folder " + folder + ": " + error.message());
    if (paths.size() == before) return Fail(Code::kNotFound, "folder " + folder + ": expected pictures");
  }
  std::sort(paths.begin(), paths.end());
  if (quick && paths.size() > kQuickPictures) {
    // Spread over the folder: on Kodak 1, 9, 17 and 24.
    std::vector<std::filesystem::path> some;
    for (std::size_t i = 0; i < kQuickPictures; ++i) {
      some.push_back(paths[std::min(i * (paths.size() + 2) / (kQuickPictures - 1), paths.size() - 1)]);
    }
    paths = std::move(some);
  }
  return paths;
}

// As RGB of 8 bits, which all coders know: alpha is dropped, grey repeated.
Result<Photograph> ReadPhotograph(const std::filesystem::path& path) {
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture loaded, image_io::Load(path));
  const pixels::Layout& layout = loaded.layout();
  if (layout.color_model == pixels::ColorModel::kGeneric || layout.sample_type != pixels::SampleType::kU8) {
    return Fail(Code::kInvalidArgument, path.string() + ": expected grey or RGB of 8 bits");
  }
  Photograph photograph;
  photograph.name = path.filename().string();
  HOLO_ASSIGN_OR_RETURN(photograph.picture,
                        pixels::Picture::Create({layout.width, layout.height, 3, pixels::SampleType::kU8,
                                                 pixels::ColorModel::kRgb, false}));
  const bool grey = layout.color_model == pixels::ColorModel::kGray;
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    const auto in = loaded.RowU8(y);
    const auto out = photograph.picture.RowU8(y);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = in[i / 3 * layout.channels + (grey ? 0 : i % 3)];
  }
  photograph.crc = bytes::Crc32(photograph.picture.bytes());
  return photograph;
}

Result<std::vector<PlainResult>> MeasurePlain(const Photograph& photograph, const CoderResult& ours) {
  std::vector<quality::RatePoint> curve;
  for (const Measurement& point : ours.curve) curve.push_back({static_cast<double>(point.bytes), point.psnr});
  std::vector<PlainResult> results;
  for (const std::uint32_t k : kPlainDimensions) {
    plain::Options options;
    options.k = k;
    HOLO_ASSIGN_OR_RETURN(const plain::Asset asset, plain::Encode(photograph.picture, options));
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture rendered, plain::Render(asset, {}, 0));
    PlainResult result;
    result.k = k;
    result.bytes = plain::Serialize(asset).size();
    HOLO_ASSIGN_OR_RETURN(result.psnr, quality::Psnr(photograph.picture, rendered));
    if (const auto bytes = quality::RateAt(curve, result.psnr)) result.our_bytes = *bytes;
    results.push_back(result);
  }
  return results;
}

double Bpp(const Photograph& photograph, std::uint64_t bytes) {
  return 8 * static_cast<double>(bytes) /
         (static_cast<double>(photograph.picture.width()) * photograph.picture.height());
}

// The mean of what is there; NaN if nothing is.
class Mean {
 public:
  void Add(double value) {
    sum_ += value;
    ++count_;
  }
  [[nodiscard]] double value() const { return count_ > 0 ? sum_ / count_ : std::nan(""); }
  [[nodiscard]] int count() const { return count_; }

 private:
  double sum_ = 0;
  int count_ = 0;
};

struct Comparison {
  std::vector<std::unique_ptr<Coder>> coders;
  bool has_anchor = false;      // the first coder is progressive JPEG, with which the others are compared
  std::size_t first_ours = 0;   // this project's, the default tuning first
  std::size_t behind_ours = 0;  // the first coder behind them
  std::vector<MeasuredPicture> pictures;
  std::vector<std::vector<PlainResult>> plain;  // of each picture, with the default tuning

  [[nodiscard]] bool IsOurs(std::size_t coder) const { return coder >= first_ours && coder < behind_ours; }
  [[nodiscard]] std::size_t held_out() const {
    return static_cast<std::size_t>(std::count_if(pictures.begin(), pictures.end(), [](const MeasuredPicture& picture) {
      return !IsTrainingPicture(picture.photograph.name);
    }));
  }

  // Means over the pictures of the points at one setting: x bits per pixel, y dB.
  [[nodiscard]] std::pair<double, double> MeanPoint(std::size_t coder, std::size_t setting, Measure measure) const {
    Mean bpp;
    Mean decibels;
    for (const MeasuredPicture& picture : pictures) {
      const Measurement& point = picture.coders[coder].curve[setting];
      bpp.Add(Bpp(picture.photograph, point.bytes));
      decibels.Add(InDecibels(point, measure));
    }
    return {bpp.value(), decibels.value()};
  }

  [[nodiscard]] double MeanPrefix(std::size_t coder, std::size_t run, std::size_t fraction, Measure measure) const {
    Mean decibels;
    for (const MeasuredPicture& picture : pictures) {
      decibels.Add(InDecibels(picture.coders[coder].prefixes[run].points[fraction], measure));
    }
    return decibels.value();
  }
};

void PrintPicture(const Comparison& comparison, const MeasuredPicture& result, const std::vector<PlainResult>& plains) {
  const Photograph& photograph = result.photograph;
  std::printf("\n%s, %u x %u\n%-11s %9s %9s %7s %9s %11s %9s\n", photograph.name.c_str(), photograph.picture.width(),
              photograph.picture.height(), "coder", "setting", "bytes", "bpp", "PSNR dB", "6:1:1 dB", "MS-SSIM");
  for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
    const Coder& coder = *comparison.coders[c];
    for (std::size_t s = 0; s < coder.settings().size(); ++s) {
      const Measurement& point = result.coders[c].curve[s];
      std::printf("%-11s %9s %9llu %7.3f %9.2f %11.2f %9.5f\n", coder.name().c_str(), coder.settings()[s].c_str(),
                  static_cast<unsigned long long>(point.bytes), Bpp(photograph, point.bytes), point.psnr, point.psnr611,
                  point.ms_ssim);
    }
  }
  for (std::size_t c = 1; comparison.has_anchor && c < comparison.coders.size(); ++c) {
    std::printf("BD-rate %-11s", comparison.coders[c]->name().c_str());
    for (const Measure measure : kMeasures) {
      std::printf("  %s %+6.1f %%", NameOf(measure), 100 * BdRateOf(result, 0, c, measure));
    }
    std::printf("\n");
  }
  for (const PlainResult& plain : plains) {
    std::printf("plain, k = %-4u %11llu bytes, %6.2f dB PSNR", plain.k, static_cast<unsigned long long>(plain.bytes),
                plain.psnr);
    if (plain.our_bytes) {
      std::printf("; holo needs %.0f bytes, %.1f times fewer", *plain.our_bytes,
                  static_cast<double>(plain.bytes) / *plain.our_bytes);
    }
    std::printf("\n");
  }
}

// The columns of BD-rate tables: every measure over all pictures, then over those held out of training.
void PrintBdRateHead(const Comparison& comparison, const std::string& what) {
  std::printf(
      "\nBD-rate %s, %.2f to %.1f bits per pixel (less is better)\n%-11s %32zu pictures | %27zu held out of "
      "training\n%-11s",
      what.c_str(), kMinBpp, kMaxBpp, "", comparison.pictures.size(), comparison.held_out(), "coder");
  for (int part = 0; part < 2; ++part) {
    for (const Measure measure : kMeasures) std::printf(" %12s", NameOf(measure));
    std::printf(part == 0 ? "   |" : "\n");
  }
}

void PrintBdRates(const Comparison& comparison, const std::string& name, std::size_t reference, std::size_t coder) {
  std::printf("%-11s", name.c_str());
  for (const bool held_out : {false, true}) {
    for (const Measure measure : kMeasures) {
      std::printf(" %+10.1f %%", 100 * MeanBdRate(comparison.pictures, reference, coder, measure, held_out));
    }
    std::printf(held_out ? "\n" : "   |");
  }
}

void PrintSummary(const Comparison& comparison) {
  std::printf("\nMeans over %zu pictures\n%-11s %9s %7s %9s %11s %11s\n", comparison.pictures.size(), "coder",
              "setting", "bpp", "PSNR dB", "6:1:1 dB", "MS-SSIM dB");
  for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
    const Coder& coder = *comparison.coders[c];
    for (std::size_t s = 0; s < coder.settings().size(); ++s) {
      const auto [bpp, psnr] = comparison.MeanPoint(c, s, Measure::kPsnr);
      std::printf("%-11s %9s %7.3f %9.2f %11.2f %11.2f\n", coder.name().c_str(), coder.settings()[s].c_str(), bpp, psnr,
                  comparison.MeanPoint(c, s, Measure::kPsnr611).second,
                  comparison.MeanPoint(c, s, Measure::kMsSsim).second);
    }
  }

  for (std::size_t run = 0; run < std::size(kPrefixBpps); ++run) {
    for (const Measure measure : kMeasures) {
      std::printf("\n%s in dB of the first part of a file of %.1f bits per pixel\n%-11s", NameOf(measure),
                  kPrefixBpps[run], "coder");
      for (const double fraction : kPrefixFractions) std::printf(" %6.0f %%", 100 * fraction);
      std::printf("\n");
      for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
        if (!comparison.coders[c]->is_progressive()) continue;
        std::printf("%-11s", comparison.coders[c]->name().c_str());
        for (std::size_t f = 0; f < std::size(kPrefixFractions); ++f) {
          std::printf(" %8.2f", comparison.MeanPrefix(c, run, f, measure));
        }
        std::printf("\n");
      }
      // For how many pictures ours is better.
      for (std::size_t ours = comparison.first_ours; ours < comparison.behind_ours; ++ours) {
        for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
          if (comparison.IsOurs(c) || !comparison.coders[c]->is_progressive()) continue;
          std::printf("%s > %s:\n%-11s", comparison.coders[ours]->name().c_str(), comparison.coders[c]->name().c_str(),
                      "");
          for (std::size_t f = 0; f < std::size(kPrefixFractions); ++f) {
            std::printf(" %5zu/%zu", CountBetter(comparison.pictures, c, ours, run, f, measure),
                        comparison.pictures.size());
          }
          std::printf("\n");
        }
      }
    }
    for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
      std::size_t not_shown = 0;
      Mean ratio;
      for (const MeasuredPicture& picture : comparison.pictures) {
        if (!comparison.coders[c]->is_progressive()) continue;
        const PrefixRun& prefixes = picture.coders[c].prefixes[run];
        not_shown += static_cast<std::size_t>(std::count(prefixes.shown.begin(), prefixes.shown.end(), false));
        ratio.Add(static_cast<double>(prefixes.file_bytes) / static_cast<double>(prefixes.target_bytes));
      }
      if (ratio.count() == 0) continue;
      std::printf("%s: files of %.1f %% of the size asked for", comparison.coders[c]->name().c_str(),
                  100 * ratio.value());
      if (not_shown > 0) std::printf("; %zu prefixes gave no picture and count as mid-grey", not_shown);
      std::printf("\n");
    }
  }

  std::printf("\nThe plain profile's bytes divided by ours at the same PSNR (RGB)\n%-11s %9s %9s %9s %9s %9s\n", "k",
              "bpp", "PSNR dB", "mean", "least", "pictures");
  for (std::size_t i = 0; i < std::size(kPlainDimensions); ++i) {
    Mean bpp;
    Mean psnr;
    Mean ratio;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t p = 0; p < comparison.pictures.size(); ++p) {
      const PlainResult& plain = comparison.plain[p][i];
      bpp.Add(Bpp(comparison.pictures[p].photograph, plain.bytes));
      psnr.Add(plain.psnr);
      if (!plain.our_bytes) continue;
      ratio.Add(static_cast<double>(plain.bytes) / *plain.our_bytes);
      least = std::min(least, static_cast<double>(plain.bytes) / *plain.our_bytes);
    }
    std::printf("%-10u %9.3f %9.2f %9.1f %9.1f %9d\n", kPlainDimensions[i], bpp.value(), psnr.value(), ratio.value(),
                least, ratio.count());
  }

  if (comparison.has_anchor) {
    PrintBdRateHead(comparison, "against " + comparison.coders[0]->name());
    for (std::size_t c = 1; c < comparison.coders.size(); ++c) {
      PrintBdRates(comparison, comparison.coders[c]->name(), 0, c);
    }
  }
  for (std::size_t ours = comparison.first_ours; ours < comparison.behind_ours; ++ours) {
    PrintBdRateHead(comparison, "of " + comparison.coders[ours]->name() + " against each");
    for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
      if (!comparison.IsOurs(c)) PrintBdRates(comparison, comparison.coders[c]->name(), c, ours);
    }
  }
}

void Print(const SpeedTable& speed) {
  std::printf("\nMegapixels per second on one core, to and from files of %.1f bits per pixel\n%-18s %9s %9s\n",
              kSpeedBpp, "coder", "encode", "decode");
  for (const CoderSpeed& coder : speed.one_core) {
    std::printf("%-18s %9.1f %9.1f\n", coder.name.c_str(), coder.encode, coder.decode);
  }
  std::printf("From decoded coefficients to pixels, two cores: %.0f, smoothed %.0f\n", speed.project_on_two,
              speed.show_on_two);
  std::printf("%u x %u: at 1/8, up to 1920 x 1080, %.0f views a second on one core; from opening the file to a preview "
              "from 1 %% of it %.1f ms\n",
              speed.width, speed.height, speed.eighth_views, speed.preview_milliseconds);
}

nlohmann::json ToJson(const SpeedTable& speed) {
  nlohmann::json out = {{"bpp", kSpeedBpp},
                        {"project_on_two", speed.project_on_two},
                        {"show_on_two", speed.show_on_two},
                        {"width", speed.width},
                        {"height", speed.height},
                        {"eighth_views", speed.eighth_views},
                        {"preview_milliseconds", speed.preview_milliseconds}};
  for (const CoderSpeed& coder : speed.one_core) {
    out["one_core"][coder.name] = {{"encode", coder.encode}, {"decode", coder.decode}};
  }
  return out;
}

nlohmann::json ToJson(const Measurement& point, const Photograph& photograph) {
  return {{"bytes", point.bytes},
          {"bpp", Bpp(photograph, point.bytes)},
          {"psnr", point.psnr},
          {"psnr611", point.psnr611},
          {"ms_ssim", point.ms_ssim}};
}

nlohmann::json BdRatesToJson(const std::function<double(Measure)>& rate) {
  return {{"psnr", rate(Measure::kPsnr)}, {"psnr611", rate(Measure::kPsnr611)}, {"ms_ssim", rate(Measure::kMsSsim)}};
}

nlohmann::json ToJson(const Comparison& comparison) {
  nlohmann::json report;
  if (comparison.has_anchor) report["anchor"] = comparison.coders[0]->name();
  report["min_bpp"] = kMinBpp;
  report["max_bpp"] = kMaxBpp;
  for (std::size_t p = 0; p < comparison.pictures.size(); ++p) {
    const MeasuredPicture& result = comparison.pictures[p];
    nlohmann::json picture = {{"name", result.photograph.name},
                              {"training", IsTrainingPicture(result.photograph.name)},
                              {"width", result.photograph.picture.width()},
                              {"height", result.photograph.picture.height()}};
    for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
      const Coder& coder = *comparison.coders[c];
      nlohmann::json& out = picture["coders"][coder.name()];
      for (std::size_t s = 0; s < coder.settings().size(); ++s) {
        nlohmann::json point = ToJson(result.coders[c].curve[s], result.photograph);
        point["setting"] = coder.settings()[s];
        out["curve"].push_back(std::move(point));
      }
      for (const PrefixRun& run : result.coders[c].prefixes) {
        nlohmann::json prefixes = {
            {"target_bpp", run.target_bpp}, {"target_bytes", run.target_bytes}, {"file_bytes", run.file_bytes}};
        for (std::size_t f = 0; f < run.points.size(); ++f) {
          nlohmann::json point = ToJson(run.points[f], result.photograph);
          point["fraction"] = kPrefixFractions[f];
          point["shown"] = static_cast<bool>(run.shown[f]);
          prefixes["points"].push_back(std::move(point));
        }
        out["prefixes"].push_back(std::move(prefixes));
      }
      if (!comparison.has_anchor) continue;
      out["bd_rate"] = BdRatesToJson([&](Measure measure) { return BdRateOf(result, 0, c, measure); });
    }
    for (const PlainResult& plain : comparison.plain[p]) {
      nlohmann::json point = {{"k", plain.k}, {"bytes", plain.bytes}, {"psnr", plain.psnr}};
      if (plain.our_bytes) point["holo_bytes"] = *plain.our_bytes;
      picture["plain"].push_back(std::move(point));
    }
    report["pictures"].push_back(std::move(picture));
  }
  for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
    nlohmann::json& mean = report["mean"][comparison.coders[c]->name()];
    mean["version"] = comparison.coders[c]->version();
    const auto rates = [&](std::size_t reference, std::size_t coder, bool held_out) {
      return BdRatesToJson([&, held_out](Measure measure) {
        return MeanBdRate(comparison.pictures, reference, coder, measure, held_out);
      });
    };
    if (comparison.has_anchor) mean["bd_rate"] = rates(0, c, false);
    for (std::size_t ours = comparison.first_ours; ours < comparison.behind_ours; ++ours) {
      nlohmann::json& out = mean["of_" + comparison.coders[ours]->name()];
      out["bd_rate"] = rates(c, ours, false);
      out["bd_rate_held_out"] = rates(c, ours, true);
    }
  }
  return report;
}

std::string Plot(const Comparison& comparison) {
  std::vector<Panel> panels;
  for (const Measure measure : {Measure::kPsnr611, Measure::kMsSsim}) {
    Panel curves{std::string(NameOf(measure)) + " against size",
                 "bits per pixel",
                 std::string(NameOf(measure)) + ", dB",
                 true,
                 {}};
    for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
      Series series{comparison.coders[c]->name(), {}};
      for (std::size_t s = 0; s < comparison.coders[c]->settings().size(); ++s) {
        series.points.push_back(comparison.MeanPoint(c, s, measure));
      }
      curves.series.push_back(std::move(series));
    }
    panels.push_back(std::move(curves));
  }
  for (std::size_t run = 0; run < std::size(kPrefixBpps); ++run) {
    char title[80];
    std::snprintf(title, sizeof title, "The first part of a file of %.0f bit per pixel", kPrefixBpps[run]);
    Panel prefixes{title, "per cent of the bytes", "PSNR 6:1:1, dB", true, {}};
    for (std::size_t c = 0; c < comparison.coders.size(); ++c) {
      if (!comparison.coders[c]->is_progressive()) continue;
      Series series{comparison.coders[c]->name(), {}};
      for (std::size_t f = 0; f < std::size(kPrefixFractions); ++f) {
        series.points.emplace_back(100 * kPrefixFractions[f], comparison.MeanPrefix(c, run, f, Measure::kPsnr611));
      }
      prefixes.series.push_back(std::move(series));
    }
    panels.push_back(std::move(prefixes));
  }
  return PlotSvg("Means over " + std::to_string(comparison.pictures.size()) + " pictures", panels);
}

Result<void> WriteText(const std::string& path, const std::string& text) {
  return files::AtomicWrite(path, std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

Result<void> Run(const Options& options) {
  HOLO_ASSIGN_OR_RETURN(const auto paths, ListPictures(options.folders, options.quick));
  std::vector<std::string> missing;
  Comparison comparison;
  comparison.coders = FindPeers(missing);
  for (const std::string& line : missing) std::cerr << line << "\n";
  comparison.has_anchor = !comparison.coders.empty() && comparison.coders[0]->name() == "JPEG";
  comparison.first_ours = comparison.has_anchor ? 1 : 0;
  comparison.behind_ours = comparison.first_ours;
  for (auto& ours : MakeHoloCoders()) {
    const auto at = comparison.coders.begin() + static_cast<std::ptrdiff_t>(comparison.behind_ours++);
    comparison.coders.insert(at, std::move(ours));
  }

  ResultCache cache(options.cache_file);
  using PictureResult = std::pair<MeasuredPicture, std::vector<PlainResult>>;
  std::vector<Result<PictureResult>> results(paths.size());
  std::atomic<std::size_t> next = 0;
  std::atomic<std::size_t> done = 0;
  const auto work = [&] {
    for (std::size_t i; (i = next++) < paths.size();) {
      results[i] = [&]() -> Result<PictureResult> {
        MeasuredPicture result;
        HOLO_ASSIGN_OR_RETURN(result.photograph, ReadPhotograph(paths[i]));
        for (const auto& coder : comparison.coders) {
          HOLO_ASSIGN_OR_RETURN(CoderResult measured, MeasureCoder(*coder, result.photograph, kPrefixBpps, cache));
          result.coders.push_back(std::move(measured));
        }
        HOLO_ASSIGN_OR_RETURN(std::vector<PlainResult> plain,
                              MeasurePlain(result.photograph, result.coders[comparison.first_ours]));
        return PictureResult(std::move(result), std::move(plain));
      }();
      const auto saved = cache.Save();
      std::string line = "[" + std::to_string(++done) + "/" + std::to_string(paths.size()) + "] " +
                         paths[i].filename().string() + (saved ? "" : ": " + ToString(saved.error())) + "\n";
      std::cerr << line;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 1; i < options.threads; ++i) threads.emplace_back(work);
    work();
  }
  for (Result<PictureResult>& result : results) {
    if (result) {
      comparison.pictures.push_back(std::move(result->first));
      comparison.plain.push_back(std::move(result->second));
    } else {
      std::cerr << "left out: " << ToString(result.error()) << "\n";
    }
  }
  if (comparison.pictures.empty()) return Fail(Code::kInvalidArgument, "no picture could be measured");

  for (const auto& coder : comparison.coders) {
    std::printf("%s: %s\n", coder->name().c_str(), coder->version().c_str());
  }
  if (!options.summary) {
    for (std::size_t p = 0; p < comparison.pictures.size(); ++p) {
      PrintPicture(comparison, comparison.pictures[p], comparison.plain[p]);
    }
  }
  PrintSummary(comparison);
  nlohmann::json report = ToJson(comparison);
  if (!options.no_speed) {
    std::vector<const pixels::Picture*> pictures;
    for (const MeasuredPicture& picture : comparison.pictures) pictures.push_back(&picture.photograph.picture);
    HOLO_ASSIGN_OR_RETURN(const SpeedTable speed, MeasureSpeed(pictures));
    Print(speed);
    report["speed"] = ToJson(speed);
  }
  if (!options.json_file.empty()) HOLO_RETURN_IF_ERROR(WriteText(options.json_file, report.dump(1) + "\n"));
  if (!options.plot_file.empty()) HOLO_RETURN_IF_ERROR(WriteText(options.plot_file, Plot(comparison)));
  return {};
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  holo::benchmarks::Options options;
  const char* data = std::getenv("HOLO_TEST_DATA");
  options.folders = {std::string(data != nullptr ? data : HOLO_TEST_DATA_DEFAULT) + "/kodak"};
  CLI::App app{"Bytes, quality and speed of this project's codec and its peers, as tables on standard output."};
  app.add_option("--folder", options.folders,
                 "Folders of pictures, best never compressed with loss; default: $HOLO_TEST_DATA/kodak");
  app.add_option("--json", options.json_file, "Write all numbers to this file");
  app.add_option("--plot", options.plot_file, "Draw quality against size to this SVG file");
  app.add_option("--cache", options.cache_file, "Where the peers' results are kept");
  app.add_option("--threads", options.threads, "Pictures measured at the same time")->check(CLI::Range(1, 64));
  app.add_flag("--quick", options.quick, "Four pictures only");
  app.add_flag("--summary", options.summary, "Means only, no table for each picture");
  app.add_flag("--no-speed", options.no_speed, "Bytes and quality only");
  CLI11_PARSE(app, argc, argv);
  const auto result = holo::benchmarks::Run(options);
  if (!result) {
    std::cerr << "holo_benchmark_codec: " << ToString(result.error()) << "\n";
    return holo::ToExitCode(result.error().code);
  }
  return 0;
}
