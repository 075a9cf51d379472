#include "client/cli/chart.h"

#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>

#include "client/cli/cli.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"

namespace holo::cli {
namespace {

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
  layout.width = kChartWidth;
  layout.height = kChartHeight;
  layout.channels = 3;
  layout.color_model = pixels::ColorModel::kRgb;
  HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, pixels::Picture::Create(layout));
  cv::Mat canvas(kChartHeight, kChartWidth, CV_8UC3, picture.bytes().data());
  canvas.setTo(cv::Scalar(255, 255, 255));
  for (const Line& line : drawing.lines) {
    cv::line(canvas, point(line.x0, line.y0), point(line.x1, line.y1),
             cv::Scalar(line.color.red, line.color.green, line.color.blue), line.width, cv::LINE_AA, kSubpixelBits);
  }
  for (const Dot& dot : drawing.dots) {
    cv::circle(canvas, point(dot.x, dot.y), static_cast<int>(std::lround(dot.radius * (1 << kSubpixelBits))),
               cv::Scalar(dot.color.red, dot.color.green, dot.color.blue), cv::FILLED, cv::LINE_AA, kSubpixelBits);
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

constexpr double kLeft = 90;
constexpr double kRight = kChartWidth - 40;
constexpr double kTop = 70;
constexpr double kBottom = kChartHeight - 70;
constexpr Color kColors[] = {{31, 102, 180}, {204, 92, 20}, {60, 140, 60}, {130, 60, 160}, {150, 110, 20}};

// A logarithmic axis from `low` to `high`.
struct Axis {
  double low = 1, high = 10;
  double from = 0, to = 0;

  [[nodiscard]] double At(double value) const {
    const double part = std::log(std::clamp(value, low, high) / low) / std::log(high / low);
    return from + (to - from) * part;
  }
  // Round numbers, few enough to be read.
  [[nodiscard]] std::vector<double> Ticks() const {
    std::vector<std::vector<double>> steps = {{1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.2, 2.4, 2.6, 2.8, 3,
                                               3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9},
                                              {1, 1.5, 2, 3, 4, 5, 6, 8},
                                              {1, 2, 5},
                                              {1}};
    std::vector<double> ticks;
    for (const std::vector<double>& factors : steps) {
      ticks.clear();
      for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10) {
        for (const double factor : factors) {
          if (power * factor >= low * 0.999 && power * factor <= high * 1.001) ticks.push_back(power * factor);
        }
      }
      if (ticks.size() <= 12) break;
    }
    return ticks;
  }
};

// What a letter is wide at most, in the font's size.
constexpr double kLetter = 0.68;

double WidthOf(const std::string& text, double size) {
  return kLetter * size * static_cast<double>(text.size());
}

// Finds places beside dots where words cover neither dots nor words.
class LabelPlaces {
 public:
  void Avoid(const Dot& dot) {
    taken_.push_back({dot.x - dot.radius, dot.y - dot.radius, dot.x + dot.radius, dot.y + dot.radius});
  }
  void Avoid(const Text& text) {
    const double width = WidthOf(text.text, text.size);
    const double left = text.x - (text.anchor == Anchor::kEnd ? width : text.anchor == Anchor::kMiddle ? width / 2 : 0);
    taken_.push_back(BoxAt(left, text.y, width, text.size));
  }

  // The label of a dot: right of it and above, or else the first free place around it; above if there is none.
  [[nodiscard]] Text Place(double x, double y, const std::string& label, const Color& color) {
    constexpr int kSize = 13;
    const double width = WidthOf(label, kSize);
    std::optional<Box> chosen;
    for (const double row : {0.0, -1.0, 1.0, -2.0, 2.0, -3.0, -4.0}) {
      for (const double left : {x + 7, x - 7 - width}) {
        for (const double baseline : {y - 7, y + kSize + 5}) {
          const Box box = BoxAt(left, baseline + row * kSize, width, kSize);
          if (box.right > kRight || box.left < kLeft || box.low > kBottom) continue;
          const bool is_free = std::none_of(taken_.begin(), taken_.end(), [&](const Box& other) {
            return box.left < other.right && other.left < box.right && box.high < other.low && other.high < box.low;
          });
          if (is_free) {
            taken_.push_back(box);
            return {box.left, box.low, label, color, Anchor::kStart, kSize};
          }
          if (!chosen) chosen = box;
        }
      }
    }
    if (!chosen) chosen = BoxAt(std::max(kLeft, std::min(x, kRight - width)), y - 7, width, kSize);
    taken_.push_back(*chosen);
    return {chosen->left, chosen->low, label, color, Anchor::kStart, kSize};
  }

 private:
  struct Box {
    double left, high, right, low;  // y grows downwards
  };
  static Box BoxAt(double left, double baseline, double width, double height) {
    return {left, baseline - height, left + width, baseline};
  }

  std::vector<Box> taken_;
};

std::string TickText(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", std::round(value * 1000) / 1000);
  return text;
}

}  // namespace

std::string ToSvg(const Drawing& drawing) {
  const std::string size = std::to_string(kChartWidth) + "\" height=\"" + std::to_string(kChartHeight);
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size + "\" viewBox=\"0 0 " +
                    std::to_string(kChartWidth) + " " + std::to_string(kChartHeight) +
                    "\" font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  for (const Line& line : drawing.lines) {
    svg += "<line x1=\"" + Fixed(line.x0, 1) + "\" y1=\"" + Fixed(line.y0, 1) + "\" x2=\"" + Fixed(line.x1, 1) +
           "\" y2=\"" + Fixed(line.y1, 1) + "\" stroke=\"" + ColorText(line.color) + "\" stroke-width=\"" +
           std::to_string(line.width) + "\"/>\n";
  }
  for (const Dot& dot : drawing.dots) {
    svg += "<circle cx=\"" + Fixed(dot.x, 1) + "\" cy=\"" + Fixed(dot.y, 1) + "\" r=\"" + Fixed(dot.radius, 1) +
           "\" fill=\"" + ColorText(dot.color) + "\"/>\n";
  }
  const char* const anchors[] = {"start", "middle", "end"};
  for (const Text& text : drawing.texts) {
    svg += "<text x=\"" + Fixed(text.x, 1) + "\" y=\"" + Fixed(text.y, 1) + "\" font-size=\"" +
           std::to_string(text.size) + "\" fill=\"" + ColorText(text.color) + "\" text-anchor=\"" +
           anchors[static_cast<std::size_t>(text.anchor)] + "\">" + Escaped(text.text) + "</text>\n";
  }
  return svg + "</svg>\n";
}

Result<void> CheckDrawingName(const std::filesystem::path& path) {
  if (path.extension() == ".svg" || path.extension() == ".png") return {};
  return Fail(Code::kInvalidArgument, path.string() + ": expected a plot named .svg or .png");
}

Result<void> SaveDrawing(const std::filesystem::path& path, const Drawing& drawing) {
  HOLO_RETURN_IF_ERROR(CheckDrawingName(path));
  if (path.extension() == ".svg") {
    const std::string svg = ToSvg(drawing);
    return files::AtomicWrite(path, {reinterpret_cast<const std::uint8_t*>(svg.data()), svg.size()});
  }
  try {
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, Rasterise(drawing));
    return image_io::Save(path, picture);
  } catch (const cv::Exception& exception) {
    return Fail(Code::kInternal, "plot: " + std::string(exception.what()));
  }
}

Drawing DrawCurves(const std::vector<Curve>& curves, double exact, double top_perplexity, const std::string& title) {
  Axis x{1e300, 0, kLeft, kRight};
  Axis y{exact, 0, kBottom, kTop};
  for (const Curve& curve : curves) {
    for (const CurvePoint& point : curve.points) {
      x.low = std::min(x.low, point.bytes_per_token);
      x.high = std::max(x.high, point.bytes_per_token);
      y.low = std::min(y.low, point.perplexity);
      y.high = std::max(y.high, std::min(point.perplexity, top_perplexity));
    }
  }
  x = {x.low / 1.15, std::max(x.high, x.low * 1.1) * 1.3, x.from, x.to};
  // Some room around, and never an axis of no length.
  const double margin = std::pow(std::max(y.high / y.low, 1.05), 0.06);
  y = {y.low / margin, y.high * margin, y.from, y.to};
  Drawing out;
  const double fitting = (kChartWidth - kLeft - 10) / WidthOf(title, 1);
  out.texts.push_back({kLeft, 30, title, kInk, Anchor::kStart, static_cast<int>(std::clamp(fitting, 9.0, 18.0))});
  for (const double tick : x.Ticks()) {
    out.lines.push_back({x.At(tick), kTop, x.At(tick), kBottom, kGrid});
    out.texts.push_back({x.At(tick), kBottom + 20, TickText(tick), kInk, Anchor::kMiddle});
  }
  for (const double tick : y.Ticks()) {
    out.lines.push_back({kLeft, y.At(tick), kRight, y.At(tick), kGrid});
    out.texts.push_back({kLeft - 8, y.At(tick) + 5, TickText(tick), kInk, Anchor::kEnd});
  }
  out.lines.push_back({kLeft, kBottom, kRight, kBottom, kInk});
  out.lines.push_back({kLeft, kTop, kLeft, kBottom, kInk});
  out.texts.push_back({(kLeft + kRight) / 2, kChartHeight - 22.0, "bytes per token, all layers", kInk, Anchor::kMiddle});
  LabelPlaces places;
  const auto write = [&](const Text& text) {
    out.texts.push_back(text);
    places.Avoid(text);
  };
  // At the axis, where no label is wanted.
  write({kLeft - 78, kTop - 12, "perplexity", kInk});
  for (double at = kLeft; at < kRight; at += 12) {
    out.lines.push_back({at, y.At(exact), std::min(at + 6, kRight), y.At(exact), kInk});
  }
  write({kRight - 4, y.At(exact) + 17, "uncompressed " + Fixed(exact, 2), kInk, Anchor::kEnd, 13});
  for (std::size_t i = 0; i < curves.size(); ++i) {
    write({kRight - 230, kTop + 22 + 22.0 * static_cast<double>(i), curves[i].name, kColors[i % std::size(kColors)]});
  }
  for (const Curve& curve : curves) {
    for (const CurvePoint& point : curve.points) places.Avoid({x.At(point.bytes_per_token), y.At(point.perplexity), kInk});
  }
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const Color& color = kColors[i % std::size(kColors)];
    const double key_y = kTop + 22 + 22.0 * static_cast<double>(i);
    out.dots.push_back({kRight - 254, key_y - 5, color});
    if (curves[i].is_joined) out.lines.push_back({kRight - 270, key_y - 5, kRight - 238, key_y - 5, color, 2});
    const CurvePoint* before = nullptr;
    for (const CurvePoint& point : curves[i].points) {
      const double at_x = x.At(point.bytes_per_token);
      const double at_y = y.At(point.perplexity);
      if (before != nullptr && curves[i].is_joined) {
        out.lines.push_back({x.At(before->bytes_per_token), y.At(before->perplexity), at_x, at_y, color, 2});
      }
      before = &point;
      out.dots.push_back({at_x, at_y, color});
      std::string label = point.label;
      if (point.perplexity > top_perplexity) label += (label.empty() ? "" : ": ") + Fixed(point.perplexity, 0) + " (off)";
      if (!label.empty()) out.texts.push_back(places.Place(at_x, at_y, label, color));
    }
  }
  return out;
}

}  // namespace holo::cli
