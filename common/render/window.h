// Parts of a level on their way to pixels. Private to render/.
#pragma once

#include <cstdint>
#include <functional>

#include "common/transform/transform.h"

namespace holo::render {

// Half-open ranges of samples of one level, in samples reduced by 2^reduction.
struct Window {
  std::uint32_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  [[nodiscard]] std::uint32_t width() const { return x1 - x0; }
  [[nodiscard]] std::uint32_t height() const { return y1 - y0; }
};

// Where finished rows go: the samples of row `y` in the columns that were asked for.
using Sink = std::function<void(std::uint32_t y, const transform::SampleRows& rows)>;

}  // namespace holo::render
