// How fast this project's codec is on some pictures, beside libraries that OpenCV has.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::benchmarks {

// Megapixels per second over all pictures, the best of several runs of each; 0: no picture could be coded.
struct CoderSpeed {
  std::string name;
  double encode = 0;  // ours at the default quality
  double decode = 0;  // to pixels, of files of about 1.5 bits per pixel
};

struct SpeedTable {
  std::vector<CoderSpeed> one_core;  // ours, smoothed and not, then the peers
  double project_on_two = 0;         // megapixels per second from decoded coefficients to pixels, on two cores
  double show_on_two = 0;            // the same, smoothed
  // Of the largest picture.
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  double eighth_views = 0;        // a second on one core, of up to 1920 x 1080 at 1/8, from decoded coefficients
  double preview_milliseconds = 0;  // from a file's name to the picture that 1/100 of its bytes give, on two cores
};

// `pictures` are RGB of 8 bits. Takes some seconds for each megapixel.
[[nodiscard]] Result<SpeedTable> MeasureSpeed(std::span<const pixels::Picture* const> pictures);

// Files of 1.5 bits per pixel.
inline constexpr double kSpeedBpp = 1.5;

}  // namespace holo::benchmarks
