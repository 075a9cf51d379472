// Rows of full size, smoothed: see FORMAT.md of codec/. Private to render/.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/container/container.h"
#include "common/render/window.h"
#include "common/transform/transform.h"

namespace holo::render {

// Takes the rows of a window, grown, from the top down and gives those of the window. One thread.
class Smoother {
 public:
  // Writes the limit of the coefficients of each window of a row, `count` of them, for a channel: the first window's left
  // column is `x`, its top row `y`, which may be outside the picture by as much, as may others; in units of
  // transform::kSmoothUnits. Returns the first row below for which they may differ: from there on others hold for at
  // least transform::kSmoothRows rows.
  using Limits = std::function<std::int64_t(std::uint32_t channel, std::int64_t x, std::int64_t y, std::size_t count,
                                            std::int16_t* limits)>;

  // The same window and what is up to container::kSmoothReach further, inside a picture of that size.
  [[nodiscard]] static Window Grown(const Window& window, std::uint32_t width, std::uint32_t height);

  // Samples are up to half their `range` from zero.
  Smoother(const Window& window, std::uint32_t width, std::uint32_t height, std::uint32_t channels, float range,
           Limits limits);

  // `rows[channel]` is row `y`, the one below the last, of the grown window's columns. It must stay as it is while the
  // next kKept are added.
  static constexpr std::uint32_t kKept = transform::kSmoothRows + container::kSmoothReach;
  void Add(std::uint32_t y, const float* const* rows, const Sink& sink);

 private:
  static constexpr std::int64_t kRing = 32;  // rows, at least kKept

  // Takes row `y` of the picture as row `at` of it; `at` is outside where the picture is mirrored.
  void Take(std::int64_t at, std::uint32_t y, const Sink& sink);
  // Smooths what has been taken since the last time.
  void Smooth(const Sink& sink);
  // Where what is kept of a row is.
  [[nodiscard]] static std::size_t RingOf(std::uint32_t channel, std::int64_t y) {
    return std::size_t{channel} * kRing + static_cast<std::size_t>((y + kRing) % kRing);
  }
  [[nodiscard]] std::int16_t* UnitsOf(std::uint32_t channel, std::int64_t y) {
    return units_.data() + RingOf(channel, y) * stride_;
  }

  struct LimitsOfRows {
    std::vector<std::int16_t> limits[2];  // the last ones, and those before
    std::int64_t end = 0;                 // the row from which on others are needed
  };

  Window window_;
  Window grown_;
  std::uint32_t height_;
  std::uint32_t channels_;
  std::size_t samples_;  // of a row of windows
  std::size_t stride_;
  Limits limits_of_;
  std::int64_t next_;      // the row that comes next
  std::int64_t smoothed_;  // the first row that has not been
  float units_per_sample_;
  std::vector<const float*> rows_;     // [channel][kRing] from the window's left on: row y is at y % kRing
  std::vector<std::int16_t> units_;    // [channel][kRing][stride_]
  std::vector<std::int16_t> removed_;  // [channel][kSmoothRows][stride_]
  std::vector<LimitsOfRows> limits_;   // [channel]
  std::vector<transform::SmoothState> states_;  // [channel]
  std::vector<float> taken_;                    // [channel][stride_]
  std::vector<const float*> out_;               // into it
};

}  // namespace holo::render
