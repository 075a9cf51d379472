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
constexpr std::int64_t kKept = 8;  // rows
// Of what all windows have removed from a sample: a window's inverse transform is what SmoothRow() adds, and sixteen
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
      units_per_sample_(2 * transform::kSmoothUnits / range),
      rows_(std::size_t{channels} * kKept * stride_),
      units_(rows_.size()),
      removed_(rows_.size()),
      limits_(stride_),
      scratch_(transform::SmoothScratch(samples_ - kSmoothReach)),
      smoothed_(std::size_t{channels} * stride_),
      out_(channels) {}

template <typename Sample>
Sample* Smoother::RowOf(std::vector<Sample>& rows, std::uint32_t channel, std::int64_t y) const {
  return rows.data() + (std::size_t{channel} * kKept + static_cast<std::size_t>((y + kKept) % kKept)) * stride_;
}

void Smoother::Add(std::uint32_t y, const float* const* rows, const Sink& sink) {
  const std::int64_t width = grown_.width();
  const std::int64_t left = static_cast<std::int64_t>(window_.x0) - kReach - grown_.x0;  // 0, or what is mirrored
  for (std::uint32_t c = 0; c < channels_; ++c) {
    float* to = RowOf(rows_, c, y);
    std::copy_n(rows[c], width, to - left);
    const auto samples = static_cast<std::int64_t>(samples_);
    for (std::int64_t x = 0; x < -left; ++x) to[x] = rows[c][Mirrored(left + x, width)];
    for (std::int64_t x = width - left; x < samples; ++x) to[x] = rows[c][Mirrored(left + x, width)];
    transform::ToSmoothUnits(to, units_per_sample_, samples_, RowOf(units_, c, y));
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
  const std::int64_t top = at - kReach;  // of the windows that end here
  const std::size_t count = samples_ - kSmoothReach;
  for (std::uint32_t c = 0; c < channels_; ++c) {
    if (at != y) std::copy_n(RowOf(units_, c, y), samples_, RowOf(units_, c, at));
    std::fill_n(RowOf(removed_, c, at), samples_, std::int16_t{0});
    if (top < static_cast<std::int64_t>(window_.y0) - kReach) continue;
    limits_of_(c, static_cast<std::int64_t>(window_.x0) - kReach, top, count, limits_.data());
    const std::int16_t* rows[transform::kSmoothPx];
    std::int16_t* removed[transform::kSmoothPx];
    for (std::uint32_t i = 0; i < transform::kSmoothPx; ++i) {
      rows[i] = RowOf(units_, c, top + i);
      removed[i] = RowOf(removed_, c, top + i);
    }
    transform::SmoothRow(rows, limits_.data(), count, scratch_.data(), removed);
  }
  if (top < window_.y0 || top >= window_.y1) return;
  // All windows that hold row `top` have been seen.
  for (std::uint32_t c = 0; c < channels_; ++c) {
    float* to = smoothed_.data() + c * stride_;
    transform::TakeSmoothUnits(RowOf(rows_, c, top) + kReach, RowOf(removed_, c, top) + kReach,
                               kShare / units_per_sample_, window_.width(), to);
    out_[c] = to;
  }
  sink(static_cast<std::uint32_t>(top), out_.data());
}

}  // namespace holo::render
