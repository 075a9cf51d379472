#include "client/cli/plot.h"

#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "client/cli/cli.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"

namespace holo::cli {
namespace {

constexpr int kWidth = 960;
constexpr int kHeight = 600;
constexpr double kLeft = 90;
constexpr double kRight = kWidth - 80;
constexpr double kTop = 70;
constexpr double kBottom = kHeight - 70;
constexpr double kDecades = 6;  // of the logarithmic axis, below the largest eigenvalue

struct Color {
  int red = 0, green = 0, blue = 0;
};
constexpr Color kInk{40, 40, 40};
constexpr Color kGrid{222, 222, 222};
constexpr Color kEigenvalues{31, 102, 180};
constexpr Color kVariance{204, 92, 20};
constexpr Color kRank{60, 140, 60};
constexpr Color kShannon{130, 60, 160};

struct Line {
  double x0, y0, x1, y1;
  Color color;
  int width = 1;
};
enum class Anchor : std::uint8_t { kStart, kMiddle, kEnd };
struct Text {
  double x, y;  // the baseline's start, middle or end
  std::string text;
  Color color = kInk;
  Anchor anchor = Anchor::kStart;
  int size = 15;
};
// What both outputs draw.
struct Drawing {
  std::vector<Line> lines;
  std::vector<Text> texts;
};

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
  out.texts.push_back({(kLeft + kRight) / 2, kHeight - 22.0, "dimensions kept (k)", kInk, Anchor::kMiddle});
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

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string ColorText(const Color& color) {
  return "rgb(" + std::to_string(color.red) + "," + std::to_string(color.green) + "," + std::to_string(color.blue) +
         ")";
}

// OpenCV's letters know ASCII only.
Result<pixels::Picture> Rasterise(const Drawing& drawing) {
  constexpr int kSubpixelBits = 4;
  const auto point = [](double x, double y) {
    return cv::Point(static_cast<int>(std::lround(x * (1 << kSubpixelBits))),
                     static_cast<int>(std::lround(y * (1 << kSubpixelBits))));
  };
  pixels::Layout layout;
  layout.width = kWidth;
  layout.height = kHeight;
  layout.channels = 3;
  layout.color_model = pixels::ColorModel::kRgb;
  HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, pixels::Picture::Create(layout));
  cv::Mat canvas(kHeight, kWidth, CV_8UC3, picture.bytes().data());
  canvas.setTo(cv::Scalar(255, 255, 255));
  for (const Line& line : drawing.lines) {
    cv::line(canvas, point(line.x0, line.y0), point(line.x1, line.y1),
             cv::Scalar(line.color.red, line.color.green, line.color.blue), line.width, cv::LINE_AA, kSubpixelBits);
  }
  for (const Text& text : drawing.texts) {
    constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
    const double scale = text.size / 30.0;
    int baseline = 0;
    const int width = cv::getTextSize(text.text, kFont, scale, 1, &baseline).width;
    const int shift = text.anchor == Anchor::kStart ? 0 : (text.anchor == Anchor::kMiddle ? width / 2 : width);
    cv::putText(canvas, text.text, cv::Point(static_cast<int>(text.x) - shift, static_cast<int>(text.y)), kFont, scale,
                cv::Scalar(text.color.red, text.color.green, text.color.blue), 1, cv::LINE_AA);
  }
  return picture;
}

}  // namespace

std::string PlotSvg(const spectrum::Spectrum& spectrum, const std::string& title) {
  const Drawing drawing = DrawSpectrum(spectrum, title);
  const std::string size = std::to_string(kWidth) + "\" height=\"" + std::to_string(kHeight);
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size + "\" viewBox=\"0 0 " +
                    std::to_string(kWidth) + " " + std::to_string(kHeight) +
                    "\" font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  for (const Line& line : drawing.lines) {
    svg += "<line x1=\"" + Fixed(line.x0, 1) + "\" y1=\"" + Fixed(line.y0, 1) + "\" x2=\"" + Fixed(line.x1, 1) +
           "\" y2=\"" + Fixed(line.y1, 1) + "\" stroke=\"" + ColorText(line.color) + "\" stroke-width=\"" +
           std::to_string(line.width) + "\"/>\n";
  }
  const char* const anchors[] = {"start", "middle", "end"};
  for (const Text& text : drawing.texts) {
    svg += "<text x=\"" + Fixed(text.x, 1) + "\" y=\"" + Fixed(text.y, 1) + "\" font-size=\"" +
           std::to_string(text.size) + "\" fill=\"" + ColorText(text.color) + "\" text-anchor=\"" +
           anchors[static_cast<std::size_t>(text.anchor)] + "\">" + Escaped(text.text) + "</text>\n";
  }
  return svg + "</svg>\n";
}

Result<void> SavePlot(const std::filesystem::path& path, const spectrum::Spectrum& spectrum, const std::string& title) {
  if (path.extension() == ".svg") {
    const std::string svg = PlotSvg(spectrum, title);
    return files::AtomicWrite(path, {reinterpret_cast<const std::uint8_t*>(svg.data()), svg.size()});
  }
  if (path.extension() != ".png") {
    return Fail(Code::kInvalidArgument, path.string() + ": expected a plot named .svg or .png");
  }
  try {
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, Rasterise(DrawSpectrum(spectrum, title)));
    return image_io::Save(path, picture);
  } catch (const cv::Exception& exception) {
    return Fail(Code::kInternal, "plot: " + std::string(exception.what()));
  }
}

}  // namespace holo::cli
