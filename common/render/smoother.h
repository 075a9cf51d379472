// Rows of full size, smoothed: see FORMAT.md of codec/. Private to render/.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/transform/transform.h"

namespace holo::render {

// How far smoothing reaches, in pixels.
inline constexpr std::uint32_t kSmoothReach = transform::kSmoothPx - 1;

// A part of a picture: columns x0..x1 - 1, rows y0..y1 - 1.
struct SmoothArea {
  std::uint32_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;

  // The same and what is up to kSmoothReach further, inside the picture.
  [[nodiscard]] SmoothArea Grown(std::uint32_t width, std::uint32_t height) const;
};

// Takes the rows of a grown area from the top down and gives those of the area. One thread.
class Smoother {
 public:
  using Sink = std::function<void(std::uint32_t y, const float* const* rows)>;
  // Writes the limit of the coefficients of each window of a row, `count` of them, for a channel: the first window's left
  // column is `x`, its top row `y`, which may be up to kSmoothReach outside the picture, as may others.
  using Limits = std::function<void(std::uint32_t channel, std::int64_t x, std::int64_t y, std::size_t count,
                                    float* limits)>;

  Smoother(const SmoothArea& area, std::uint32_t width, std::uint32_t height, std::uint32_t channels, Limits limits);

  // `rows[channel]` is row `y`, the one below the last, of the grown area's columns.
  void Add(std::uint32_t y, const float* const* rows, const Sink& sink);

 private:
  // Takes row `y` of the picture as row `at` of it; `at` is outside where the picture is mirrored.
  void Take(std::int64_t at, std::uint32_t y, const Sink& sink);
  [[nodiscard]] float* RowOf(std::vector<float>& rows, std::uint32_t channel, std::int64_t y);

  SmoothArea area_;
  SmoothArea grown_;
  std::uint32_t height_;
  std::uint32_t channels_;
  std::size_t samples_;  // of a row of windows
  std::size_t stride_;
  Limits limits_of_;
  std::int64_t next_;              // the row that comes next
  std::vector<float> rows_;        // [channel][8][stride_]: row y is at y % 8
  std::vector<float> removed_;     // as rows_
  std::vector<float> limits_;      // [channel][stride_]
  std::vector<float> scratch_;
  std::vector<float> smoothed_;    // [channel][stride_]
  std::vector<const float*> out_;  // into it
};

}  // namespace holo::render
