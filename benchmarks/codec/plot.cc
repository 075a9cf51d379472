#include "benchmarks/codec/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace holo::benchmarks {
namespace {

constexpr double kPanelWidth = 700;
constexpr double kPanelHeight = 440;
constexpr double kLeft = 66;
constexpr double kRight = 140;  // the legend stands there
constexpr double kTop = 40;
constexpr double kBottom = 54;
constexpr double kTitleHeight = 44;

// Distinguishable also with common colour blindness: those of Okabe and Ito, then purple and olive.
constexpr std::array<const char*, 9> kColors = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00",
                                                "#444444", "#56B4E9", "#6A3D9A", "#9A9A00"};

std::string Format(double value, int decimals) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

std::string Escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '&':
        out += "&amp;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string Text(double x, double y, const std::string& text, const std::string& attributes) {
  return "<text x=\"" + Format(x, 1) + "\" y=\"" + Format(y, 1) + "\" " + attributes + ">" + Escape(text) + "</text>\n";
}

std::string Line(double x1, double y1, double x2, double y2, const std::string& color) {
  return "<line x1=\"" + Format(x1, 1) + "\" y1=\"" + Format(y1, 1) + "\" x2=\"" + Format(x2, 1) + "\" y2=\"" +
         Format(y2, 1) + "\" stroke=\"" + color + "\"/>\n";
}

struct Axis {
  double low = 0;
  double high = 1;
  std::vector<double> ticks;
  int decimals = 0;
};

Axis LinearAxis(double low, double high) {
  const double span = std::max(high - low, 1e-9);
  const double magnitude = std::pow(10, std::floor(std::log10(span / 5)));
  double step = magnitude;
  for (const double factor : {2.0, 5.0, 10.0}) {
    if (span / step > 8) step = magnitude * factor;
  }
  Axis axis;
  axis.low = std::floor(low / step) * step;
  axis.high = std::ceil(high / step) * step;
  axis.decimals = step < 1 ? static_cast<int>(std::ceil(-std::log10(step))) : 0;
  for (int i = 0; axis.low + i * step <= axis.high + step / 2; ++i) axis.ticks.push_back(axis.low + i * step);
  return axis;
}

Axis LogAxis(double low, double high) {
  Axis axis;
  axis.low = low / 1.08;
  axis.high = high * 1.08;
  axis.decimals = high < 10 ? 2 : 0;
  for (double decade = std::pow(10, std::floor(std::log10(low))); decade <= high; decade *= 10) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (decade * factor >= axis.low && decade * factor <= axis.high) axis.ticks.push_back(decade * factor);
    }
  }
  return axis;
}

std::string ColorOf(const std::string& name, std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  const auto index = static_cast<std::size_t>(found - names.begin());
  if (found == names.end()) names.push_back(name);
  return kColors[index % kColors.size()];
}

std::string DrawPanel(const Panel& panel, double left, double top, std::vector<std::string>& names) {
  double x_low = 1e300, x_high = -1e300, y_low = 1e300, y_high = -1e300;
  for (const Series& series : panel.series) {
    for (const auto& [x, y] : series.points) {
      x_low = std::min(x_low, x);
      x_high = std::max(x_high, x);
      y_low = std::min(y_low, y);
      y_high = std::max(y_high, y);
    }
  }
  if (x_low > x_high) return {};
  const Axis x_axis = panel.log_x ? LogAxis(x_low, x_high) : LinearAxis(x_low, x_high);
  const Axis y_axis = LinearAxis(y_low, y_high);
  const double width = kPanelWidth - kLeft - kRight;
  const double height = kPanelHeight - kTop - kBottom;
  const auto scale_x = [&](double x) {
    const double fraction = panel.log_x ? std::log(x / x_axis.low) / std::log(x_axis.high / x_axis.low)
                                        : (x - x_axis.low) / (x_axis.high - x_axis.low);
    return left + kLeft + fraction * width;
  };
  const auto scale_y = [&](double y) {
    return top + kTop + (1 - (y - y_axis.low) / (y_axis.high - y_axis.low)) * height;
  };

  std::string out = Text(left + kLeft, top + kTop - 14, panel.title, "font-size=\"15\" font-weight=\"bold\"");
  for (const double tick : x_axis.ticks) {
    out += Line(scale_x(tick), top + kTop, scale_x(tick), top + kTop + height, "#e4e4e4");
    out += Text(scale_x(tick), top + kTop + height + 18, Format(tick, x_axis.decimals), "text-anchor=\"middle\"");
  }
  for (const double tick : y_axis.ticks) {
    out += Line(left + kLeft, scale_y(tick), left + kLeft + width, scale_y(tick), "#e4e4e4");
    out += Text(left + kLeft - 8, scale_y(tick) + 4, Format(tick, y_axis.decimals), "text-anchor=\"end\"");
  }
  out += Text(left + kLeft + width / 2, top + kTop + height + 40, panel.x_label, "text-anchor=\"middle\"");
  const std::string turn =
      "transform=\"rotate(-90 " + Format(left + 18, 1) + " " + Format(top + kTop + height / 2, 1) + ")\"";
  out += Text(left + 18, top + kTop + height / 2, panel.y_label, "text-anchor=\"middle\" " + turn);

  double legend_y = top + kTop + 12;
  for (const Series& series : panel.series) {
    const std::string color = ColorOf(series.name, names);
    std::string points;
    for (const auto& [x, y] : series.points) points += Format(scale_x(x), 1) + "," + Format(scale_y(y), 1) + " ";
    out += "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" + color + "\" points=\"" + points + "\"/>\n";
    for (const auto& [x, y] : series.points) {
      out += "<circle r=\"2.8\" cx=\"" + Format(scale_x(x), 1) + "\" cy=\"" + Format(scale_y(y), 1) + "\" fill=\"" +
             color + "\"/>\n";
    }
    const double legend_x = left + kLeft + width + 14;
    out += "<line x1=\"" + Format(legend_x, 1) + "\" y1=\"" + Format(legend_y - 4, 1) + "\" x2=\"" +
           Format(legend_x + 24, 1) + "\" y2=\"" + Format(legend_y - 4, 1) + "\" stroke-width=\"3\" stroke=\"" + color +
           "\"/>\n";
    out += Text(legend_x + 32, legend_y, series.name, "");
    legend_y += 19;
  }
  return out;
}

}  // namespace

std::string PlotSvg(const std::string& title, const std::vector<Panel>& panels) {
  const auto rows = static_cast<double>((panels.size() + 1) / 2);
  const std::string width = Format(2 * kPanelWidth, 0);
  const std::string height = Format(kTitleHeight + rows * kPanelHeight, 0);
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + width + "\" height=\"" + height +
                    "\" viewBox=\"0 0 " + width + " " + height +
                    "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n" +
                    "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  out += Text(kLeft, 30, title, "font-size=\"18\" font-weight=\"bold\"");
  std::vector<std::string> names;
  for (std::size_t i = 0; i < panels.size(); ++i) {
    out += DrawPanel(panels[i], static_cast<double>(i % 2) * kPanelWidth,
                     kTitleHeight + static_cast<double>(i / 2) * kPanelHeight, names);
  }
  return out + "</svg>\n";
}

}  // namespace holo::benchmarks
