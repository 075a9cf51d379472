// The coefficients of a tile as rendering wants them: of each patch those that are not zero. Private to codec/ and
// render/.
#pragma once

#include <cstdint>
#include <vector>

#include "common/codec/layout.h"
#include "common/codec/tile_coder.h"

namespace holo::codec {

struct TilePatches {
  struct Group {
    // Patch p (row by row) has coefficients[begin[p]] to coefficients[begin[p + 1]], by rising k.
    std::vector<std::uint32_t> begin;
    std::vector<transform::Coefficient> coefficients;
    // The step to which a coefficient is known, in the mean of all; without the visual weight.
    float known_step = 0;
  };
  TileShape shape;
  std::vector<Group> groups;

  [[nodiscard]] std::size_t memory_bytes() const;
};

// What `tile` of `level` holds. On the top level k counts the channels of the group and a coefficient is a sample.
[[nodiscard]] TilePatches MakePatches(const container::AssetHeader& header, const AssetLayout& layout,
                                      const container::Level& level, const TileShape& shape, const TileState& tile);

}  // namespace holo::codec
