#include "client/cli/plot.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/cli/chart.h"
#include "client/cli/cli.h"

namespace holo::cli {
namespace {

constexpr double kLeft = 90;
constexpr double kRight = kChartWidth - 80;
constexpr double kTop = 70;
constexpr double kBottom = kChartHeight - 70;
constexpr double kDecades = 6;  // of the logarithmic axis, below the largest eigenvalue

constexpr Color kEigenvalues{31, 102, 180};
constexpr Color kVariance{204, 92, 20};
constexpr Color kRank{60, 140, 60};
constexpr Color kShannon{130, 60, 160};

double XOf(double k, double dimensions) {
  return kLeft + (kRight - kLeft) * k / std::max(1.0, dimensions);
}

double YOfShare(double share) {
  return kBottom - (kBottom - kTop) * share;
}

// 0 at the bottom for 10^-kDecades of the largest eigenvalue and below.
double YOfEigenvalue(double relative) {
  return YOfShare(relative > 0 ? std::clamp(1 + std::log10(relative) / kDecades, 0.0, 1.0) : 0.0);
}

double NiceStep(double range) {
  const double power = std::pow(10, std::floor(std::log10(std::max(range, 1.0) / 5)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (range / (power * factor) <= 8) return std::max(1.0, power * factor);
  }
  return std::max(1.0, power * 10);
}

void DrawAxes(double dimensions, Drawing& out) {
  for (int decade = 0; decade <= static_cast<int>(kDecades); ++decade) {
    const double y = YOfShare(1 - decade / kDecades);
    out.lines.push_back({kLeft, y, kRight, y, kGrid});
    out.texts.push_back(
        {kLeft - 8, y + 5, decade == 0 ? "1" : "1e-" + std::to_string(decade), kEigenvalues, Anchor::kEnd});
  }
  for (int percent = 0; percent <= 100; percent += 20) {
    out.texts.push_back({kRight + 8, YOfShare(percent / 100.0) + 5, std::to_string(percent) + " %", kVariance});
  }
  const double step = NiceStep(dimensions);
  for (double k = 0; k <= dimensions; k += step) {
    const double x = XOf(k, dimensions);
    out.lines.push_back({x, kTop, x, kBottom, kGrid});
    out.texts.push_back({x, kBottom + 20, Fixed(k, 0), kInk, Anchor::kMiddle});
  }
  out.lines.push_back({kLeft, kBottom, kRight, kBottom, kInk});
  out.lines.push_back({kLeft, kTop, kLeft, kBottom, kInk});
  out.lines.push_back({kRight, kTop, kRight, kBottom, kInk});
  out.texts.push_back({(kLeft + kRight) / 2, kChartHeight - 22.0, "dimensions kept (k)", kInk, Anchor::kMiddle});
  out.texts.push_back({kLeft, kTop - 12, "eigenvalue, relative to the largest", kEigenvalues});
  out.texts.push_back({kRight, kTop - 12, "variance captured at k", kVariance, Anchor::kEnd});
}

// A dashed line at one effective rank; its name stands beside the larger one, so that no line crosses it.
void DrawRank(double rank, double label_at, double dimensions, double y, const std::string& name, const Color& color,
              Drawing& out) {
  const double x = XOf(rank, dimensions);
  for (double at = kTop; at < kBottom; at += 10) out.lines.push_back({x, at, x, std::min(at + 5, kBottom), color, 2});
  const double label_x = XOf(label_at, dimensions);
  const bool on_left = label_x > (kLeft + kRight) / 2;
  out.texts.push_back(
      {label_x + (on_left ? -8 : 8), y, name + " " + Fixed(rank, 2), color, on_left ? Anchor::kEnd : Anchor::kStart});
}

Drawing DrawSpectrum(const spectrum::Spectrum& spectrum, const std::string& title) {
  Drawing out;
  const auto dimensions = static_cast<double>(spectrum.eigenvalues.size());
  out.texts.push_back({kLeft, 30, title, kInk, Anchor::kStart, 18});
  DrawAxes(dimensions, out);
  const double largest = spectrum.eigenvalues.empty() ? 0 : spectrum.eigenvalues[0];
  const double total = spectrum.Total();
  double kept = 0;
  for (std::size_t i = 0; i < spectrum.eigenvalues.size(); ++i) {
    const double value = spectrum.eigenvalues[i];
    const double before = total > 0 ? kept / total : 1;
    kept += value;
    const double after = total > 0 ? kept / total : 1;
    const auto k = static_cast<double>(i);
    out.lines.push_back({XOf(k, dimensions), YOfShare(before), XOf(k + 1, dimensions), YOfShare(after), kVariance, 2});
    if (i > 0 && largest > 0) {
      out.lines.push_back({XOf(k, dimensions), YOfEigenvalue(spectrum.eigenvalues[i - 1] / largest),
                           XOf(k + 1, dimensions), YOfEigenvalue(value / largest), kEigenvalues, 2});
    }
  }
  const double df = spectrum.EffectiveRank();
  const double shannon = spectrum.ShannonRank();
  const double label_at = shannon > dimensions / 2 ? df : shannon;  // Df is never the larger
  DrawRank(df, label_at, dimensions, kBottom - 60, "Df", kRank, out);
  DrawRank(shannon, label_at, dimensions, kBottom - 36, "Shannon rank", kShannon, out);
  return out;
}

}  // namespace

std::string PlotSvg(const spectrum::Spectrum& spectrum, const std::string& title) {
  return ToSvg(DrawSpectrum(spectrum, title));
}

Result<void> SavePlot(const std::filesystem::path& path, const spectrum::Spectrum& spectrum, const std::string& title) {
  return SaveDrawing(path, DrawSpectrum(spectrum, title));
}

}  // namespace holo::cli
