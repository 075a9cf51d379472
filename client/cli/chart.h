// Lines, dots and words, as SVG or PNG. Private to the program.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/status/status.h"

namespace holo::cli {

inline constexpr int kChartWidth = 960;
inline constexpr int kChartHeight = 600;

struct Color {
  int red = 0, green = 0, blue = 0;
};
inline constexpr Color kInk{40, 40, 40};
inline constexpr Color kGrid{222, 222, 222};

struct Line {
  double x0, y0, x1, y1;
  Color color;
  int width = 1;
};
struct Dot {
  double x, y;
  Color color;
  double radius = 4;
};
enum class Anchor : std::uint8_t { kStart, kMiddle, kEnd };
struct Text {
  double x, y;  // the baseline's start, middle or end
  std::string text;
  Color color = kInk;
  Anchor anchor = Anchor::kStart;
  int size = 15;
};
// What both outputs draw, from the upper left corner, kChartWidth by kChartHeight.
struct Drawing {
  std::vector<Line> lines;
  std::vector<Dot> dots;
  std::vector<Text> texts;
};

[[nodiscard]] std::string ToSvg(const Drawing& drawing);
// Writes .svg or .png by extension; kInvalidArgument for another one.
[[nodiscard]] Result<void> SaveDrawing(const std::filesystem::path& path, const Drawing& drawing);
[[nodiscard]] Result<void> CheckDrawingName(const std::filesystem::path& path);

// A curve of one way of storing: perplexity at bytes per token.
struct CurvePoint {
  double bytes_per_token = 0;
  double perplexity = 0;
  std::string label;  // beside the dot; may be empty
};
struct Curve {
  std::string name;
  std::vector<CurvePoint> points;
  bool is_joined = true;  // false: dots only
};
// Both axes logarithmic. What lies above `top_perplexity` is drawn at the upper edge. `exact` is a line of its own.
[[nodiscard]] Drawing DrawCurves(const std::vector<Curve>& curves, double exact, double top_perplexity,
                                 const std::string& title);

}  // namespace holo::cli
