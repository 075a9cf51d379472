// One pass over a tile, as the plain coder and the vector kernels see it. Private to codec/.
#pragma once

#include <array>
#include <cstddef>

#include "common/codec/tile_coder.h"

namespace holo::codec {

// The cells around one, as distances: left, right, above, below, then the corners.
using Around = std::array<std::ptrdiff_t, kAround>;
[[nodiscard]] inline Around AroundOf(std::size_t columns) {
  const auto s = static_cast<std::ptrdiff_t>(columns);
  return {-1, 1, -s, s, -s - 1, -s + 1, s - 1, s + 1};
}

// Everything that one pass over a tile needs.
struct Pass {
  TileState& tile;
  GroupState& group;
  Band& band;
  const BandModel& model;
  const Band* luma_band;  // or null
  const Band* other_band;
  const GroupState* luma;
  const GroupState* other;
  const std::int16_t* sum_weights;  // SumWeights(), or null where the group has no sums
  Around around;
  PassKind kind;
  int plane;
};

}  // namespace holo::codec
