#include "client/cli/viewport.h"

#include <algorithm>
#include <cmath>

namespace holo::cli {
namespace {

constexpr double kLargestZoom = 32;

// The corner on one axis: inside the picture, or centred where the picture is smaller than the window.
double ClampCorner(double corner, double picture, double visible) {
  if (visible >= picture) return (picture - visible) / 2;
  return std::clamp(corner, 0.0, picture - visible);
}

}  // namespace

Viewport::Viewport(std::uint32_t picture_width, std::uint32_t picture_height, std::uint32_t window_width,
                   std::uint32_t window_height)
    : picture_width_(picture_width),
      picture_height_(picture_height),
      window_width_(window_width),
      window_height_(window_height) {
  ShowAll();
}

void Viewport::ShowAll() {
  zoom_ = std::min({1.0, double{1} * window_width_ / picture_width_, double{1} * window_height_ / picture_height_});
  Clamp();
}

void Viewport::Clamp() {
  left_ = ClampCorner(left_, picture_width_, window_width_ / zoom_);
  top_ = ClampCorner(top_, picture_height_, window_height_ / zoom_);
}

void Viewport::Pan(double dx, double dy) {
  left_ -= dx / zoom_;
  top_ -= dy / zoom_;
  Clamp();
}

void Viewport::ZoomAt(double x, double y, double factor) {
  const double smallest =
      std::min({1.0, double{1} * window_width_ / picture_width_, double{1} * window_height_ / picture_height_});
  const double zoom = std::clamp(zoom_ * factor, smallest, kLargestZoom);
  left_ += x / zoom_ - x / zoom;
  top_ += y / zoom_ - y / zoom;
  zoom_ = zoom;
  Clamp();
}

SourceRect Viewport::Exact() const {
  return {left_, top_, window_width_ / zoom_, window_height_ / zoom_};
}

pixels::Rect Viewport::Region() const {
  const auto range = [](double from, double length, std::uint32_t size) {
    const double first = std::clamp(std::floor(from), 0.0, size - 1.0);
    const double end = std::clamp(std::ceil(from + length), first + 1, double{1} * size);
    return std::pair(static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(end - first));
  };
  const auto [x, width] = range(left_, window_width_ / zoom_, picture_width_);
  const auto [y, height] = range(top_, window_height_ / zoom_, picture_height_);
  return {x, y, width, height};
}

}  // namespace holo::cli
