#include "common/codec/tile_patches.h"

#include <array>
#include <bit>

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

// Of a group whose coefficients that are not zero are told by bits.
void AddFew(std::span<const float> steps, const TileShape& shape, const TileState& tile, const GroupState& state,
            std::span<const Band* const> bands, TilePatches::Group& to) {
  struct Known {
    float step = 0;
    int plane = 0;
    std::size_t refined = 0;  // patches
  };
  std::array<Known, kInside> known;
  for (const Band* band : bands) {
    for (std::uint32_t k = band->shape.first_k; k < band->shape.first_k + band->shape.count; ++k) {
      known[k] = {steps[k], band->plane, band->refined};
    }
  }
  std::size_t count = 0;
  for (const GroupState::Signs& signs : state.signs) count += static_cast<std::size_t>(std::popcount(signs.nonzero));
  to.coefficients.resize(count);
  transform::Coefficient* next = to.coefficients.data();
  for (std::uint32_t y = 0; y < shape.rows; ++y) {
    for (std::uint32_t x = 0; x < shape.columns; ++x) {
      const std::size_t cell = tile.CellOf(x, y);
      const std::size_t patch = std::size_t{y} * shape.columns + x;
      const std::uint32_t* values = state.values.data() + cell * state.stride;
      for (std::uint64_t left = state.signs[cell].nonzero; left != 0; left &= left - 1) {
        const auto k = static_cast<std::uint32_t>(std::countr_zero(left));
        const int plane = PlaneOf(values[k], known[k].plane, patch < known[k].refined);
        *next++ = {k, known[k].step * Dequantise(values[k], plane)};
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
  const std::size_t patches = std::size_t{shape.columns} * shape.rows;
  for (std::size_t g = 0; g < layout.groups.size(); ++g) {
    const GroupLayout& group = layout.groups[g];
    const GroupState& state = tile.groups[g];
    const std::vector<float> steps =
        level.patch_px == 1 ? std::vector<float>(group.group.channel_count, StepOf(header, group.group, level))
                            : StepsOf(header, group, level);
    std::vector<const Band*> bands;
    for (const Band& band : tile.bands) {
      if (band.shape.group == g && band.started) bands.push_back(&band);
    }
    TilePatches::Group& to = out.groups.emplace_back();
    to.known_step = KnownStep(tile, g) * StepOf(header, group.group, level);
    to.begin.reserve(patches + 1);
    to.begin.push_back(0);
    if (state.shape.count <= kInside) {
      AddFew(steps, shape, tile, state, bands, to);
      continue;
    }
    // Room for every coefficient of a row of patches; most are zero.
    std::vector<transform::Coefficient> row(steps.size() * shape.columns);
    for (std::uint32_t y = 0; y < shape.rows; ++y) {
      std::size_t found = 0;
      for (std::uint32_t x = 0; x < shape.columns; ++x) {
        const std::size_t cell = tile.CellOf(x, y);
        const std::size_t patch = std::size_t{y} * shape.columns + x;
        for (const Band* band : bands) {
          if (band->active[cell] != Activity::kYes) continue;
          const std::uint32_t count = band->shape.count;
          const std::uint32_t* values = state.values.data() + cell * state.stride + band->shape.first_k;
          for (std::uint32_t i = 0; i < count; ++i) {
            const std::uint32_t k = band->shape.first_k + i;
            // Written always and kept if it is not zero: which ones are cannot be foreseen.
            row[found] = {k, steps[k] * Dequantise(values[i], PlaneOf(values[i], band->plane, patch < band->refined))};
            found += values[i] >= 2 ? 1 : 0;
          }
        }
        to.begin.push_back(static_cast<std::uint32_t>(to.coefficients.size() + found));
      }
      to.coefficients.insert(to.coefficients.end(), row.data(), row.data() + found);
    }
    to.coefficients.shrink_to_fit();
  }
  return out;
}

}  // namespace holo::codec
