#include "common/render/smoother.h"

#include <algorithm>
#include <utility>

#include "common/container/container.h"
#include "common/transform/transform.h"

namespace holo::render {
namespace {

constexpr std::int64_t kReach = transform::kSmoothPx - 1;
// Two planes deep: three samples of half the size, an even number of them, from the far pixel of two.
static_assert(container::kSmoothReach == 2 * (kReach + 1) + 1);

// Of what all windows have removed from a sample: a window's inverse transform is what SmoothRows() adds, in eighths,
// and eight windows hold the sample.
constexpr float kShare = 0.8f / 16;

std::int64_t EvenDown(std::int64_t at) { return at - (at & 1); }
std::int64_t EvenUp(std::int64_t at) { return at + (at & 1); }

// Where a row or column `at` outside a plane is mirrored: the last one is there twice.
std::int64_t Mirrored(std::int64_t at, std::int64_t size) {
  if (at < 0) at = -1 - at;
  if (at >= size) at = 2 * size - 1 - at;
  return std::clamp<std::int64_t>(at, 0, size - 1);
}

std::uint32_t Halved(std::uint32_t size) { return size / 2 + size % 2; }
Window Halved(const Window& window) {
  return {window.x0 / 2, window.y0 / 2, Halved(window.x1), Halved(window.y1)};
}

// Every sample that smoothing `window` depends on, from an even column and row on and up to one, inside the plane.
Window GrownInPlane(const Window& window, std::uint32_t width, std::uint32_t height) {
  const auto first = [](std::uint32_t at) {
    return static_cast<std::uint32_t>(std::max<std::int64_t>(EvenDown(at - kReach), 0));
  };
  const auto last = [](std::uint32_t at, std::uint32_t size) {
    return static_cast<std::uint32_t>(std::min<std::int64_t>(EvenUp(at + kReach), size));
  };
  return {first(window.x0), first(window.y0), last(window.x1, width), last(window.y1, height)};
}

}  // namespace

PlaneSmoother::PlaneSmoother(const Window& window, const Window& given, std::uint32_t width, std::uint32_t height,
                             std::uint32_t batch, std::uint32_t channel, bool halved, Limits limits)
    : window_(window),
      given_(given),
      width_(width),
      height_(height),
      batch_(batch),
      channel_(channel),
      halved_(halved),
      left_(given.x0 > 0 ? given.x0 : EvenDown(-kReach)),
      right_(given.x1 < width ? given.x1 : width + kReach),
      bottom_(given.y1 < height ? given.y1 : EvenUp(height + kReach)),
      samples_(static_cast<std::size_t>(right_ - left_)),
      stride_(transform::InLines<std::int16_t>(samples_ + transform::kSmoothPadding)),
      limits_of_(std::move(limits)),
      next_(given.y0),
      smoothed_(given.y0 > 0 ? given.y0 : EvenDown(-kReach)),
      units_(kRing * stride_),
      removed_(kRing * stride_),
      limits_{std::vector<std::int16_t>(stride_), std::vector<std::int16_t>(stride_)},
      limits_end_(smoothed_ - 2),
      state_(samples_ - kReach) {}

void PlaneSmoother::Added() {
  std::int16_t* const row = UnitsOf(next_);
  const auto mirror = [&](std::int64_t x) { row[x - left_] = row[Mirrored(x, width_) - left_]; };
  for (std::int64_t x = left_; x < 0; ++x) mirror(x);
  for (std::int64_t x = given_.x1; x < right_; ++x) mirror(x);
  ++next_;
  // Rows outside the plane are those inside, mirrored, once they are there.
  const bool last = next_ == given_.y1;
  while (smoothed_ < bottom_ && (last || smoothed_ + batch_ <= next_)) {
    Smooth(static_cast<std::uint32_t>(std::min<std::int64_t>(batch_, bottom_ - smoothed_)));
  }
}

void PlaneSmoother::Smooth(std::uint32_t count) {
  const std::int16_t* rows[transform::kSmoothRows];
  const std::int16_t* limits[transform::kSmoothRows / 2];
  std::int16_t* removed[transform::kSmoothRows];
  for (std::uint32_t i = 0; i < count; ++i) {
    rows[i] = UnitsOf(Mirrored(smoothed_ + i, height_));
    removed[i] = removed_.data() + RingOf(smoothed_ + i - kReach) * stride_;
    if (i % 2 != 0) continue;
    const std::int64_t begin = smoothed_ + i - 2;  // of the windows that end here in even columns
    if (begin >= limits_end_) {
      std::swap(limits_[0], limits_[1]);
      limits_end_ = limits_of_(channel_, halved_, left_ + 1, begin, samples_ - kReach, limits_[0].data());
    }
    limits[i / 2] = limits_[0].data();
  }
  transform::SmoothRows(state_, rows, limits, count, removed);
  smoothed_ += count;
}

Window Smoother::Grown(const Window& window, std::uint32_t width, std::uint32_t height, bool ycbcr) {
  if (!ycbcr) return GrownInPlane(window, width, height);
  const Window half = GrownInPlane(Halved(window), Halved(width), Halved(height));
  return {2 * half.x0, 2 * half.y0, std::min(2 * half.x1, width), std::min(2 * half.y1, height)};
}

Smoother::Smoother(const Window& window, std::uint32_t width, std::uint32_t height, std::uint32_t channels, bool ycbcr,
                   float range, const PlaneSmoother::Limits& limits)
    : window_(window),
      grown_(Grown(window, width, height, ycbcr)),
      height_(height),
      next_(window.y0),
      units_per_sample_(2 * transform::kSmoothUnits / range),
      samples_(channels),
      removed_(channels) {
  // Rows of half the size come half as often.
  constexpr std::uint32_t kBatch = transform::kSmoothRows;
  for (std::uint32_t c = 0; c < channels; ++c) {
    const bool halved = ycbcr && (c == 1 || c == 2);
    const auto half = [halved](auto value) { return halved ? Halved(value) : value; };
    channels_.push_back({PlaneSmoother(half(window), half(grown_), half(width), half(height),
                                       halved ? kBatch / 2 : kBatch, c, halved, limits)});
    channels_[c].doubled.resize(halved ? 2 * Halved(window).width() : 0);
  }
}

void Smoother::Add(std::uint32_t y, const float* const* rows, const Sink& sink) {
  std::int64_t done = window_.y1;
  for (std::size_t c = 0; c < channels_.size(); ++c) {
    Channel& channel = channels_[c];
    channel.rows[y % kRing] = rows[c];
    if (!channel.plane.halved()) {
      transform::ToSmoothUnits(rows[c], units_per_sample_, grown_.width(), channel.plane.Next());
      channel.plane.Added();
    } else if (y % 2 == 1 || y + 1 == height_) {
      const float* const above = channel.rows[(y - y % 2) % kRing];
      transform::ToHalvedSmoothUnits(above, rows[c], units_per_sample_, grown_.width(), channel.plane.Next());
      channel.plane.Added();
    }
    done = std::min(done, channel.plane.halved() ? 2 * channel.plane.done() : channel.plane.done());
  }
  for (; next_ < done; ++next_) {
    for (std::size_t c = 0; c < channels_.size(); ++c) {
      Channel& channel = channels_[c];
      samples_[c] = channel.rows[static_cast<std::size_t>(next_) % kRing] + (window_.x0 - grown_.x0);
      if (!channel.plane.halved()) {
        removed_[c] = channel.plane.Removed(next_);
        continue;
      }
      if (next_ % 2 == 0 || next_ == window_.y0) {
        const std::int16_t* const units = channel.plane.Removed(next_ / 2);
        transform::DoubleSmoothUnits(units, channel.doubled.size() / 2, channel.doubled.data());
      }
      removed_[c] = channel.doubled.data() + window_.x0 % 2;
    }
    sink(static_cast<std::uint32_t>(next_), {samples_.data(), removed_.data(), kShare / units_per_sample_});
  }
}

}  // namespace holo::render
