#include "common/codec/tile_patches.h"

#include <bit>
#include <vector>

namespace holo::codec {

std::size_t TilePatches::memory_bytes() const {
  std::size_t bytes = sizeof(TilePatches);
  for (const Group& group : groups) {
    bytes += sizeof(Group) + group.begin.size() * sizeof(std::uint32_t) +
             group.coefficients.size() * sizeof(transform::Coefficient);
  }
  return bytes;
}

namespace {

void AddCoefficients(std::span<const float> steps, const TileShape& shape, const TileState& tile, std::size_t g,
                     TilePatches::Group& to) {
  const GroupState& state = tile.groups[g];
  // What is known of a coefficient, and where.
  struct Known {
    float step = 0;
    int plane = 0;
    std::size_t refined = 0;  // patches
    const Magnitudes* magnitudes = nullptr;
    std::size_t at = 0;
    std::size_t stride = 0;
  };
  std::vector<Known> known(state.band_of.size());
  for (std::size_t k = 0; k < known.size(); ++k) {
    const Band& band = tile.bands[state.band_of[k]];
    known[k] = {steps[k], band.plane, band.refined, &band.magnitudes, k - band.shape.first_k, band.shape.count};
  }
  std::size_t count = 0;
  for (const GroupState::Signs& signs : state.signs) count += static_cast<std::size_t>(std::popcount(signs.nonzero));
  to.coefficients.resize(count);
  transform::Coefficient* next = to.coefficients.data();
  to.begin.reserve(std::size_t{shape.columns} * shape.rows + 1);
  to.begin.push_back(0);
  for (std::uint32_t y = 0; y < shape.rows; ++y) {
    for (std::uint32_t x = 0; x < shape.columns; ++x) {
      const std::size_t cell = tile.CellOf(x, y);
      const std::size_t patch = std::size_t{y} * shape.columns + x;
      for (std::uint32_t word = 0; word < state.words; ++word) {
        const GroupState::Signs& signs = state.signs[cell * state.words + word];
        for (std::uint64_t left = signs.nonzero; left != 0; left &= left - 1) {
          const auto bit = static_cast<std::uint32_t>(std::countr_zero(left));
          const std::uint32_t k = word * 64 + bit;
          const Known& of_k = known[k];
          const std::uint32_t magnitude = of_k.magnitudes->Get(cell * of_k.stride + of_k.at);
          const int plane = PlaneOf(magnitude, of_k.plane, patch < of_k.refined);
          const float value = of_k.step * Dequantise(magnitude, plane);
          // Without a branch, as signs cannot be foreseen.
          const auto sign = static_cast<std::uint32_t>(signs.negative >> bit & 1) << 31;
          *next++ = {k, std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ sign)};
        }
      }
      to.begin.push_back(static_cast<std::uint32_t>(next - to.coefficients.data()));
    }
  }
}

// To how many steps a group's coefficients are known, in the mean; 0 where nothing is.
float KnownStep(const TileState& tile, std::size_t group) {
  if (tile.top_slot < 0) return 0;
  std::uint64_t sum = 0;
  std::uint64_t count = 0;
  for (const Band& band : tile.bands) {
    if (band.shape.group != group) continue;
    sum += band.shape.count * band.known_quarters;
    count += band.shape.count;
  }
  return count == 0 ? 0 : static_cast<float>(static_cast<double>(sum) / static_cast<double>(kPassKinds * count));
}

}  // namespace

TilePatches MakePatches(const container::AssetHeader& header, const AssetLayout& layout, const container::Level& level,
                        const TileShape& shape, const TileState& tile) {
  TilePatches out;
  out.shape = shape;
  for (std::size_t g = 0; g < layout.groups.size(); ++g) {
    const GroupLayout& group = layout.groups[g];
    const std::vector<float> steps =
        level.patch_px == 1 ? std::vector<float>(group.group.channel_count, StepOf(header, group.group, level))
                            : StepsOf(header, group, level);
    TilePatches::Group& to = out.groups.emplace_back();
    to.known_step = KnownStep(tile, g) * StepOf(header, group.group, level);
    AddCoefficients(steps, shape, tile, g, to);
  }
  return out;
}

}  // namespace holo::codec
