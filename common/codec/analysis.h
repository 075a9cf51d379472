// From samples to coefficients in steps, tile by tile: what the encoder codes. Private to codec/.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/codec/layout.h"
#include "common/container/container.h"
#include "common/pixels/pixels.h"
#include "common/transform/transform.h"

namespace holo::codec {

// The coefficients of one tile in steps, not rounded: groups[g] is [patches, count of group g].
struct TileTargets {
  std::uint32_t level = 0;
  std::uint32_t tile = 0;
  std::vector<std::vector<float>> groups;
};

// A picture on its way to coefficients. Const calls from several threads are fine.
class Analysis {
 public:
  // All are referred to, none copied. `moves`, if not null, is added to the samples: [height][width][channels].
  Analysis(const pixels::Picture& picture, const container::AssetHeader& header, const AssetLayout& layout,
           const std::vector<std::int16_t>* moves = nullptr)
      : picture_(picture), header_(header), layout_(layout), moves_(moves) {}

  // Visits every tile of every level, from level 0 up, on up to `threads` threads where there are several rows of
  // tiles. Stops early, and returns false, when `visit` does.
  [[nodiscard]] bool ForEachTile(unsigned threads, const std::function<bool(const TileTargets&)>& visit) const;

  // The lapped planes of tile row `row` of level 0. `first_row` is set to where the row's first patch starts in them.
  [[nodiscard]] std::vector<transform::Plane> Strip(std::uint32_t row, std::uint32_t& first_row) const;

  // The coefficients of a tile that lies in `planes`; means go to `means`, the planes of the next level.
  [[nodiscard]] TileTargets ProjectTile(const std::vector<transform::Plane>& planes, std::uint32_t level,
                                        std::uint32_t tile, std::uint32_t first_row,
                                        std::vector<transform::Plane>& means) const;

  // Planes for the means of level `level`'s patches, zero.
  [[nodiscard]] std::vector<transform::Plane> MeansOf(std::uint32_t level) const;

 private:
  void LoadRow(std::uint32_t y, std::uint32_t to_row, std::vector<transform::Plane>& planes) const;
  [[nodiscard]] TileTargets TopTile(const std::vector<transform::Plane>& planes, std::uint32_t tile) const;

  const pixels::Picture& picture_;
  const container::AssetHeader& header_;
  const AssetLayout& layout_;
  const std::vector<std::int16_t>* moves_;
};

}  // namespace holo::codec
