// Which part of a picture a window shows, and how that changes. Private to the program; knows no window.
#pragma once

#include <cstdint>

#include "client/cli/cli.h"
#include "common/pixels/pixels.h"

namespace holo::cli {

// A window of fixed size that looks at a picture. The picture's edges never come further in than the window's, except
// where the whole picture is smaller than the window.
class Viewport {
 public:
  // Shows the whole picture. Sizes are 1 or more.
  Viewport(std::uint32_t picture_width, std::uint32_t picture_height, std::uint32_t window_width,
           std::uint32_t window_height);

  // Moves the picture by window pixels.
  void Pan(double dx, double dy);
  // Makes the picture larger (factor > 1) or smaller, keeping what is under (x, y) of the window there.
  void ZoomAt(double x, double y, double factor);
  void ShowAll();

  // Window pixels per picture pixel.
  [[nodiscard]] double zoom() const { return zoom_; }
  // The visible part in picture pixels, outward to whole ones.
  [[nodiscard]] pixels::Rect Region() const;
  // Where the window lies in picture pixels: Region() with fractions, beyond the edges where the picture is smaller.
  [[nodiscard]] SourceRect Exact() const;
  [[nodiscard]] std::uint32_t window_width() const { return window_width_; }
  [[nodiscard]] std::uint32_t window_height() const { return window_height_; }

 private:
  void Clamp();

  std::uint32_t picture_width_;
  std::uint32_t picture_height_;
  std::uint32_t window_width_;
  std::uint32_t window_height_;
  double zoom_ = 1;
  double left_ = 0;  // picture coordinates of the window's corner
  double top_ = 0;
};

}  // namespace holo::cli
