#include "common/render/smoother.h"

#include <algorithm>
#include <utility>

#include "common/container/container.h"
#include "common/transform/transform.h"

namespace holo::render {
namespace {

using container::kSmoothReach;
static_assert(kSmoothReach == transform::kSmoothPx - 1);
constexpr std::int64_t kReach = kSmoothReach;
// Of what all windows have removed from a sample: a window's inverse transform is what SmoothRows() adds, and sixteen
// windows hold the sample.
constexpr float kShare = 0.8f / 16;

// Where a row or column `at` outside the picture is mirrored: the last one is there twice.
std::int64_t Mirrored(std::int64_t at, std::int64_t size) {
  if (at < 0) at = -1 - at;
  if (at >= size) at = 2 * size - 1 - at;
  return std::clamp<std::int64_t>(at, 0, size - 1);
}

}  // namespace

Window Smoother::Grown(const Window& window, std::uint32_t width, std::uint32_t height) {
  return {window.x0 - std::min(window.x0, kSmoothReach), window.y0 - std::min(window.y0, kSmoothReach),
          std::min(window.x1 + kSmoothReach, width), std::min(window.y1 + kSmoothReach, height)};
}

Smoother::Smoother(const Window& window, std::uint32_t width, std::uint32_t height, std::uint32_t channels,
                   float range, Limits limits)
    : window_(window),
      grown_(Grown(window, width, height)),
      height_(height),
      channels_(channels),
      samples_(window.width() + 2 * kSmoothReach),
      stride_(samples_ + transform::kSmoothPadding),
      limits_of_(std::move(limits)),
      next_(static_cast<std::int64_t>(window.y0) - kReach),
      smoothed_(next_),
      units_per_sample_(2 * transform::kSmoothUnits / range),
      rows_(std::size_t{channels} * kRing),
      units_(rows_.size() * stride_),
      removed_(std::size_t{channels} * transform::kSmoothRows * stride_),
      limits_(channels),
      taken_(std::size_t{channels} * stride_),
      out_(channels) {
  for (std::uint32_t c = 0; c < channels; ++c) {
    states_.emplace_back(samples_ - kSmoothReach);
    for (std::vector<std::int16_t>& row : limits_[c].limits) row.resize(stride_);
    limits_[c].end = next_ - kReach;
  }
}

void Smoother::Add(std::uint32_t y, const float* const* rows, const Sink& sink) {
  const std::int64_t width = grown_.width();
  const std::int64_t left = static_cast<std::int64_t>(window_.x0) - kReach - grown_.x0;  // 0, or what is mirrored
  for (std::uint32_t c = 0; c < channels_; ++c) {
    rows_[RingOf(c, y)] = rows[c] + (window_.x0 - grown_.x0);
    std::int16_t* const inside = UnitsOf(c, y) - left;
    transform::ToSmoothUnits(rows[c], units_per_sample_, static_cast<std::size_t>(width), inside);
    for (std::int64_t x = left; x < 0; ++x) inside[x] = inside[Mirrored(x, width)];
    for (std::int64_t x = width; x < static_cast<std::int64_t>(samples_) + left; ++x) inside[x] = inside[Mirrored(x, width)];
  }
  // Rows above the first are those from it on, mirrored, once they are there.
  const std::int64_t last_row = height_ - 1;
  if (next_ < 0) {
    if (y < std::min(kReach - 1, last_row)) return;
    while (next_ < 0) Take(next_, static_cast<std::uint32_t>(Mirrored(next_, height_)), sink);
    for (std::uint32_t inside = 0; inside < y; ++inside) Take(inside, inside, sink);
  }
  Take(y, y, sink);
  if (y != last_row) return;
  while (next_ < static_cast<std::int64_t>(window_.y1) + kReach) {
    Take(next_, static_cast<std::uint32_t>(Mirrored(next_, height_)), sink);
  }
}

void Smoother::Take(std::int64_t at, std::uint32_t y, const Sink& sink) {
  ++next_;
  for (std::uint32_t c = 0; at != y && c < channels_; ++c) {
    std::copy_n(UnitsOf(c, y), samples_, UnitsOf(c, at));
  }
  const bool last = next_ == static_cast<std::int64_t>(window_.y1) + kReach;
  if (last || next_ - smoothed_ == transform::kSmoothRows) Smooth(sink);
}

void Smoother::Smooth(const Sink& sink) {
  const auto count = static_cast<std::uint32_t>(next_ - smoothed_);
  const auto removed_row = [&](std::uint32_t channel, std::uint32_t i) {
    return removed_.data() + (std::size_t{channel} * transform::kSmoothRows + i) * stride_;
  };
  for (std::uint32_t c = 0; c < channels_; ++c) {
    const std::int16_t* rows[transform::kSmoothRows];
    const std::int16_t* limits[transform::kSmoothRows];
    std::int16_t* removed[transform::kSmoothRows];
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::int64_t top = smoothed_ + i - kReach;  // of the windows that end here
      if (top == limits_[c].end) {
        std::swap(limits_[c].limits[0], limits_[c].limits[1]);
        limits_[c].end = limits_of_(c, static_cast<std::int64_t>(window_.x0) - kReach, top, samples_ - kSmoothReach,
                                    limits_[c].limits[0].data());
      }
      limits[i] = limits_[c].limits[0].data();
      rows[i] = UnitsOf(c, smoothed_ + i);
      removed[i] = removed_row(c, i);
    }
    transform::SmoothRows(states_[c], rows, limits, count, removed);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::int64_t y = smoothed_ + i - kReach;  // of which all windows have been seen
    if (y < window_.y0 || y >= window_.y1) continue;
    for (std::uint32_t c = 0; c < channels_; ++c) {
      float* to = taken_.data() + c * stride_;
      transform::TakeSmoothUnits(rows_[RingOf(c, y)], removed_row(c, i) + kReach, kShare / units_per_sample_,
                                 window_.width(), to);
      out_[c] = to;
    }
    sink(static_cast<std::uint32_t>(y), out_.data());
  }
  smoothed_ = next_;
}

}  // namespace holo::render
