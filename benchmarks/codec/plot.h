// Curves as a picture: a self-contained SVG, written by hand.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace holo::benchmarks {

struct Series {
  std::string name;                               // the same name has the same colour in every panel
  std::vector<std::pair<double, double>> points;  // (x, y) in drawing order
};

// One diagram.
struct Panel {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  std::vector<Series> series;
};

// All panels, two to a row.
[[nodiscard]] std::string PlotSvg(const std::string& title, const std::vector<Panel>& panels);

}  // namespace holo::benchmarks
