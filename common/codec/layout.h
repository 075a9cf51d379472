// What encoder, decoder and renderer derive from a header and its bases. Private to codec/ and render/.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/basis/basis.h"
#include "common/codec/codec.h"
#include "common/codec/tile_coder.h"
#include "common/container/container.h"
#include "common/transform/transform.h"

namespace holo::codec {

// One component group with its kernels and, for each level, how many coefficients a patch has.
struct GroupLayout {
  container::ComponentGroup group;
  std::shared_ptr<const basis::Basis> basis;
  transform::Kernel kernel8;
  transform::Kernel kernel4;
  std::uint32_t count8 = 0;         // coefficients coded per patch of level 0 (max_k applied)
  std::vector<float> visual_steps;  // [kernel8.count] what multiplies the step of each coefficient of level 0

  [[nodiscard]] const transform::Kernel& KernelOf(const container::Level& level) const {
    return level.patch_px == 8 ? kernel8 : kernel4;
  }
  // Coefficients coded per patch of `level`.
  [[nodiscard]] std::uint32_t CountOf(const container::Level& level) const {
    return level.patch_px == 8 ? count8 : level.patch_px == 4 ? kernel4.count : group.channel_count;
  }
};

struct AssetLayout {
  std::vector<GroupLayout> groups;

  // kNotFound for a basis that `resolve` does not know, kDataLoss for one of another channel count.
  [[nodiscard]] static Result<AssetLayout> Create(const container::AssetHeader& header, const BasisResolver& resolve);

  // What the coder of a tile of `level` has to know.
  [[nodiscard]] std::vector<GroupShape> ShapesOf(const container::Level& level) const;
  // How many coefficients of each group are among the `k` dimensions of largest variance of a level-0 patch, means
  // included; k == 0: all.
  [[nodiscard]] std::vector<std::uint32_t> CountsAt(std::uint32_t k) const;
  // All dimensions of a level-0 patch, means included.
  [[nodiscard]] std::uint32_t dimensions() const;
};

[[nodiscard]] inline TileKind KindOf(const container::AssetHeader& header, const container::Level& level) {
  const bool lapped = header.lapped;
  if (level.patch_px == 8) return lapped ? TileKind::kPicture : TileKind::kDrawing;
  if (level.patch_px == 4) return lapped ? TileKind::kMeans : TileKind::kDrawingMeans;
  return lapped ? TileKind::kTop : TileKind::kDrawingTop;
}

// Quantiser step of a group on a level: an error of one step costs the same squared error of the picture on every
// level.
[[nodiscard]] inline float StepOf(const container::AssetHeader& header, const container::ComponentGroup& group,
                                  const container::Level& level) {
  return header.base_step * group.step_weight / static_cast<float>(level.px_per_sample);
}

// The step of each of a group's coefficients on a level.
[[nodiscard]] std::vector<float> StepsOf(const container::AssetHeader& header, const GroupLayout& group,
                                         const container::Level& level);

// Patches in the tile: Level::tile_patches each way, fewer at the right and bottom edges.
struct TileShape {
  std::uint32_t first_column = 0;
  std::uint32_t first_row = 0;
  std::uint32_t columns = 0;
  std::uint32_t rows = 0;
};
[[nodiscard]] TileShape ShapeOf(const container::Level& level, std::uint32_t tile);

// The value subtracted from samples before anything else: half the range.
[[nodiscard]] inline float MidSample(pixels::SampleType type) {
  return type == pixels::SampleType::kU8 ? 128.0f : 32768.0f;
}

}  // namespace holo::codec
