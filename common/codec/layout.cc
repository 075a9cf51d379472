#include "common/codec/layout.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "common/bytes/bytes.h"

namespace holo::codec {
namespace {

// 1 + weight * max(0, f - 1) for each row; f is its mean frequency in half periods a patch.
std::vector<float> VisualSteps(const basis::Rows& rows, std::uint32_t channels, float weight) {
  constexpr double kHalfPeriods = 8.0 / 3.14159265358979323846;
  const std::size_t px = rows.patch_px;
  std::vector<float> steps;
  for (std::size_t k = 0; k < rows.count; ++k) {
    const float* row = rows.values.data() + k * rows.dimension;
    double sum = 0;
    for (std::size_t y = 0; y < px * channels; ++y) {
      for (std::size_t x = 0; x < px; ++x) {
        const double here = row[y * px + x];
        const double right = x + 1 < px ? row[y * px + x + 1] - here : 0;
        const double below = (y + 1) % px != 0 ? row[(y + 1) * px + x] - here : 0;
        sum += right * right + below * below;
      }
    }
    const double frequency = kHalfPeriods * std::sqrt(sum);
    steps.push_back(static_cast<float>(1.0 + double{weight} * std::max(0.0, frequency - 1.0)));
  }
  return steps;
}

}  // namespace

Result<AssetLayout> AssetLayout::Create(const container::AssetHeader& header, const BasisResolver& resolve) {
  AssetLayout layout;
  for (const container::ComponentGroup& group : header.groups) {
    GroupLayout out;
    out.group = group;
    const basis::Hash& hash = header.bases[group.basis_index];
    out.basis = resolve(hash);
    if (out.basis == nullptr) {
      return Fail(Code::kNotFound, "asset: expected the basis " + bytes::ToHex(hash) + ", which is not known here");
    }
    if (out.basis->channels() != group.channel_count) {
      return Fail(Code::kDataLoss, "asset: expected a basis for " + std::to_string(group.channel_count) +
                                       " channels, found one for " + std::to_string(out.basis->channels()));
    }
    for (const std::uint32_t patch_px : {8u, 4u}) {
      const basis::Rows& rows = out.basis->RowsFor(patch_px);
      (patch_px == 8 ? out.kernel8 : out.kernel4) =
          transform::MakeKernel(rows.count, group.channel_count, patch_px, rows.values);
    }
    out.count8 = out.kernel8.count;
    out.visual_steps = VisualSteps(out.basis->RowsFor(8), group.channel_count, header.visual_weight);
    layout.groups.push_back(std::move(out));
  }
  const std::vector<std::uint32_t> counts = layout.CountsAt(header.max_k);
  for (std::size_t g = 0; g < counts.size(); ++g) layout.groups[g].count8 = counts[g];
  return layout;
}

std::vector<GroupShape> AssetLayout::ShapesOf(const container::Level& level) const {
  std::vector<GroupShape> shapes;
  for (const GroupLayout& group : groups) shapes.push_back({group.CountOf(level), group.group.idle_slots});
  return shapes;
}

std::uint32_t AssetLayout::dimensions() const {
  std::uint32_t total = 0;
  for (const GroupLayout& group : groups) total += group.group.channel_count + group.count8;
  return total;
}

std::vector<std::uint32_t> AssetLayout::CountsAt(std::uint32_t k) const {
  std::vector<std::uint32_t> counts;
  std::uint32_t means = 0;
  for (const GroupLayout& group : groups) {
    counts.push_back(group.count8);
    means += group.group.channel_count;
  }
  if (k == 0) return counts;
  // Deviations fall inside a group, so the k largest are a prefix of each: take the largest head k - means times.
  std::vector<std::uint32_t> taken(groups.size(), 0);
  for (std::uint32_t left = k > means ? k - means : 0; left > 0; --left) {
    std::size_t best = groups.size();
    float best_deviation = 0;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (taken[g] >= counts[g]) continue;
      const float deviation = groups[g].basis->RowsFor(8).deviation[taken[g]] / groups[g].group.step_weight;
      if (best == groups.size() || deviation > best_deviation) {
        best = g;
        best_deviation = deviation;
      }
    }
    if (best == groups.size()) break;
    ++taken[best];
  }
  return taken;
}

std::vector<float> StepsOf(const container::AssetHeader& header, const GroupLayout& group,
                           const container::Level& level) {
  std::vector<float> steps(group.KernelOf(level).count, StepOf(header, group.group, level));
  if (level.patch_px == 8) {
    for (std::size_t k = 0; k < steps.size(); ++k) steps[k] *= group.visual_steps[k];
  }
  return steps;
}

TileShape ShapeOf(const container::Level& level, std::uint32_t tile) {
  TileShape shape;
  shape.first_column = tile % level.tiles_x * level.tile_patches;
  shape.first_row = tile / level.tiles_x * level.tile_patches;
  shape.columns = std::min(level.tile_patches, level.patches_x - shape.first_column);
  shape.rows = std::min(level.tile_patches, level.patches_y - shape.first_row);
  return shape;
}

}  // namespace holo::codec
