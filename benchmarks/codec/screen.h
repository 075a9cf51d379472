// Views that benchmarks of speed look at.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/render/render.h"

namespace holo::benchmarks {

inline constexpr std::uint32_t kScreenWidth = 1920;
inline constexpr std::uint32_t kScreenHeight = 1080;

// All of a picture, without smoothing.
inline constexpr render::View kProjection = {{}, 0, 0, false};

// As much of a picture as a screen holds at 1/8.
[[nodiscard]] inline render::View EighthView(std::uint32_t width, std::uint32_t height) {
  return {{0, 0, std::min(width, kScreenWidth << 3), std::min(height, kScreenHeight << 3)}, 3};
}

// All of a picture, as large as fits a screen.
[[nodiscard]] inline render::View PreviewView(std::uint32_t width, std::uint32_t height) {
  render::View view;
  while ((width >> view.scale_log2) > kScreenWidth || (height >> view.scale_log2) > kScreenHeight) ++view.scale_log2;
  return view;
}

}  // namespace holo::benchmarks
