// Rows of full size, smoothed: see FORMAT.md of codec/. Private to render/.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/render/window.h"
#include "common/transform/transform.h"

namespace holo::render {

// What smoothing removes from a window of one plane, whose rows come from the top down: see transform::SmoothRows().
// One thread.
class PlaneSmoother {
 public:
  // Writes the limits of windows of a channel, `count` of them, of which the second sample of the second row is in
  // column `x` and on, in the even row `y` or the one below, in samples of its plane, which may be halved; either may
  // be outside by a few. In units of transform::kSmoothUnits. Returns the first row, an even one, from which on they
  // may differ: others then hold for at least transform::kSmoothRows rows of the picture.
  using Limits = std::function<std::int64_t(std::uint32_t channel, bool halved, std::int64_t x, std::int64_t y,
                                            std::size_t count, std::int16_t* limits)>;

  // Rows of `given` will come: all that Smoother::Grown() has or more, from an even column and row on. Smooths `batch`
  // rows at a time, an even number of at most transform::kSmoothRows.
  PlaneSmoother(const Window& window, const Window& given, std::uint32_t width, std::uint32_t height,
                std::uint32_t batch, std::uint32_t channel, bool halved, Limits limits);

  // Where the next row of the given columns goes; call Added() when it is there.
  [[nodiscard]] std::int16_t* Next() { return UnitsOf(next_) + (given_.x0 - left_); }
  void Added();

  [[nodiscard]] bool halved() const { return halved_; }
  // Rows of the window above this one are done.
  [[nodiscard]] std::int64_t done() const { return smoothed_ - kReach; }
  // What is removed from row `y` of the window, one of the last transform::kSmoothRows or some more that are done.
  [[nodiscard]] const std::int16_t* Removed(std::int64_t y) const {
    return removed_.data() + RingOf(y) * stride_ + (window_.x0 - left_);
  }

 private:
  static constexpr std::int64_t kReach = transform::kSmoothPx - 1;
  static constexpr std::int64_t kRing = 32;  // rows

  void Smooth(std::uint32_t count);
  [[nodiscard]] static std::size_t RingOf(std::int64_t y) { return static_cast<std::size_t>((y + kRing) % kRing); }
  [[nodiscard]] std::int16_t* UnitsOf(std::int64_t y) { return units_.data() + RingOf(y) * stride_; }

  Window window_;
  Window given_;
  std::uint32_t width_;
  std::uint32_t height_;
  std::uint32_t batch_;
  std::uint32_t channel_;
  bool halved_;
  // What is given and, at the borders of the plane, mirrored.
  std::int64_t left_;
  std::int64_t right_;
  std::int64_t bottom_;
  std::size_t samples_;  // of a row
  std::size_t stride_;
  Limits limits_of_;
  std::int64_t next_;      // the row that comes next
  std::int64_t smoothed_;  // the first row that has not been
  transform::AlignedVector<std::int16_t> units_;    // [kRing][stride_]: row y is at y % kRing
  transform::AlignedVector<std::int16_t> removed_;  // [kRing][stride_]
  std::vector<std::int16_t> limits_[2];  // the last ones, and those before
  std::int64_t limits_end_;              // the row from which on others are needed
  transform::SmoothState state_;
};

// Takes the rows of a window of a picture, grown, from the top down and gives those of the window. One thread.
class Smoother {
 public:
  // The same window and what is up to container::kSmoothReach further, inside a picture of that size.
  [[nodiscard]] static Window Grown(const Window& window, std::uint32_t width, std::uint32_t height, bool ycbcr);

  // Samples are up to half their `range` from zero. Of YCbCr, colour differences are smoothed at half the size.
  Smoother(const Window& window, std::uint32_t width, std::uint32_t height, std::uint32_t channels, bool ycbcr,
           float range, const PlaneSmoother::Limits& limits);

  // `rows[channel]` is row `y`, the one below the last, of the grown window's columns. It must stay as it is while the
  // next kKept are added. At half the size a row is done with the batch of eight that holds the third row below it: at
  // most ten rows later, twenty-one of the picture's.
  static constexpr std::uint32_t kKept = 24;
  void Add(std::uint32_t y, const float* const* rows, const Sink& sink);

 private:
  static constexpr std::uint32_t kRing = 32;  // rows, more than kKept

  struct Channel {
    PlaneSmoother plane;
    std::vector<const float*> rows = std::vector<const float*>(kRing);  // of the grown window: row y is at y % kRing
    std::vector<std::int16_t> doubled{};                                // what is removed from two rows, if halved
  };

  Window window_;
  Window grown_;
  std::uint32_t height_;
  std::int64_t next_;  // the row that is given away next
  float units_per_sample_;
  std::vector<Channel> channels_;
  std::vector<const float*> samples_;         // of the row that is given away
  std::vector<const std::int16_t*> removed_;  // from it
};

}  // namespace holo::render
