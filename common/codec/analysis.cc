#include "common/codec/analysis.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

namespace holo::codec {
namespace {

using transform::Plane;

// Repeats the last column and row of a plane of which only `width` x `height` samples are filled.
void ExtendEdges(Plane& plane, std::uint32_t width, std::uint32_t height) {
  for (std::uint32_t y = 0; y < height; ++y)
    std::fill(plane.Row(y) + width, plane.Row(y) + plane.width, plane.Row(y)[width - 1]);
  for (std::uint32_t y = height; y < plane.height; ++y) std::copy_n(plane.Row(height - 1), plane.width, plane.Row(y));
}

// Runs `work(i)` for i in 0..count-1 on up to `threads` threads, stopping early when it returns false.
template <typename Work>
bool ForEachWhile(unsigned threads, std::uint32_t count, const Work& work) {
  std::atomic<std::uint32_t> next{0};
  std::atomic<bool> going{true};
  const auto run = [&] {
    for (std::uint32_t i = next++; i < count && going; i = next++) {
      if (!work(i)) going = false;
    }
  };
  std::vector<std::jthread> pool;
  for (unsigned t = 1; t < std::min<unsigned>(threads, count); ++t) pool.emplace_back(run);
  run();
  pool.clear();
  return going;
}

}  // namespace

bool Analysis::ForEachTile(unsigned threads, const std::function<bool(const TileTargets&)>& visit) const {
  std::vector<Plane> planes;  // of the level at hand, above level 0
  for (std::uint32_t l = 0; l < header_.levels.size(); ++l) {
    const container::Level& level = header_.levels[l];
    if (level.patch_px == 1) {
      for (std::uint32_t tile = 0; tile < level.tile_count(); ++tile) {
        if (!visit(TopTile(planes, tile))) return false;
      }
      return true;
    }
    std::vector<Plane> means = MeansOf(l);
    const bool finished = ForEachWhile(l == 0 ? threads : 1, level.tiles_y, [&](std::uint32_t row) {
      std::uint32_t first_row = row * level.tile_patches * level.patch_px;
      std::vector<Plane> strip;
      if (l == 0) strip = Strip(row, first_row);
      for (std::uint32_t column = 0; column < level.tiles_x; ++column) {
        const std::uint32_t tile = row * level.tiles_x + column;
        if (!visit(ProjectTile(l == 0 ? strip : planes, l, tile, first_row, means))) return false;
      }
      return true;
    });
    if (!finished) return false;
    const container::Level& next = header_.levels[l + 1];
    for (Plane& plane : means) {
      ExtendEdges(plane, next.width, next.height);
      if (!header_.lapped) continue;
      transform::LapColumnsForward(plane, next.patch_px);
      transform::LapRowsForward(plane, next.patch_px, next.patch_px);
    }
    planes = std::move(means);
  }
  return true;
}

std::vector<Plane> Analysis::Strip(std::uint32_t row, std::uint32_t& first_row) const {
  const container::Level& level = header_.levels[0];
  const std::uint32_t strip_px = level.tile_patches * level.patch_px;
  const std::uint32_t padded_width = level.patches_x * level.patch_px;
  const std::uint32_t padded_height = level.patches_y * level.patch_px;
  const std::uint32_t half = level.patch_px / 2;
  const std::uint32_t y0 = row == 0 ? 0 : row * strip_px - half;
  const std::uint32_t y1 = std::min(row * strip_px + strip_px + half, padded_height);
  first_row = row == 0 ? 0 : half;
  std::vector<Plane> planes;
  for (std::uint32_t c = 0; c < header_.layout.channels; ++c) planes.emplace_back(padded_width, y1 - y0);
  for (std::uint32_t y = y0; y < y1; ++y) LoadRow(std::min(y, picture_.height() - 1), y - y0, planes);
  if (header_.color_transform == container::ColorTransform::kYCbCr) {
    transform::RgbToYCbCr(planes[0].samples.data(), planes[1].samples.data(), planes[2].samples.data(),
                          planes[0].samples.size());
  }
  for (Plane& plane : planes) {
    if (!header_.lapped) break;
    transform::LapColumnsForward(plane, level.patch_px);
    transform::LapRowsForward(plane, level.patch_px, row == 0 ? level.patch_px : half);
  }
  return planes;
}

TileTargets Analysis::ProjectTile(const std::vector<Plane>& planes, std::uint32_t level_index, std::uint32_t tile,
                                  std::uint32_t first_row, std::vector<Plane>& means) const {
  const container::Level& level = header_.levels[level_index];
  const TileShape shape = ShapeOf(level, tile);
  const std::uint32_t px = level.patch_px;
  const std::size_t area = std::size_t{px} * px;
  TileTargets targets{level_index, tile, {}};
  targets.groups.resize(layout_.groups.size());
  std::vector<float> patch;
  std::vector<float> coefficients;
  for (std::size_t g = 0; g < layout_.groups.size(); ++g) {
    const GroupLayout& group = layout_.groups[g];
    const transform::Kernel& kernel = group.KernelOf(level);
    const std::uint32_t count = group.CountOf(level);
    std::vector<float> inverse_steps = StepsOf(header_, group, level);
    for (float& step : inverse_steps) step = 1.0f / step;
    targets.groups[g].resize(std::size_t{shape.rows} * shape.columns * count);
    patch.resize(area * group.group.channel_count);
    coefficients.resize(kernel.count);
    float* out = targets.groups[g].data();
    for (std::uint32_t row = 0; row < shape.rows; ++row) {
      for (std::uint32_t column = 0; column < shape.columns; ++column) {
        for (std::uint32_t c = 0; c < group.group.channel_count; ++c) {
          const std::uint32_t channel = group.group.first_channel + c;
          means[channel].Row(shape.first_row + row)[shape.first_column + column] =
              transform::GatherPatch(planes[channel], (shape.first_column + column) * px, first_row + row * px, px,
                                     patch.data() + c * area);
        }
        transform::Project(kernel, patch.data(), coefficients.data());
        for (std::uint32_t k = 0; k < count; ++k) *out++ = coefficients[k] * inverse_steps[k];
      }
    }
  }
  return targets;
}

std::vector<Plane> Analysis::MeansOf(std::uint32_t level) const {
  const container::Level& next = header_.levels[level + 1];
  std::vector<Plane> means;
  for (std::uint32_t c = 0; c < header_.layout.channels; ++c) {
    means.emplace_back(next.patches_x * next.patch_px, next.patches_y * next.patch_px);
  }
  return means;
}

void Analysis::LoadRow(std::uint32_t y, std::uint32_t to_row, std::vector<Plane>& planes) const {
  const float mid = MidSample(header_.layout.sample_type);
  const std::uint32_t width = picture_.width();
  const std::size_t channels = planes.size();
  for (std::size_t c = 0; c < channels; ++c) {
    float* out = planes[c].Row(to_row);
    if (header_.layout.sample_type == pixels::SampleType::kU8) {
      const std::uint8_t* in = picture_.RowU8(y).data() + c;
      for (std::uint32_t x = 0; x < width; ++x) out[x] = static_cast<float>(in[x * channels]) - mid;
    } else {
      const std::uint16_t* in = picture_.RowU16(y).data() + c;
      for (std::uint32_t x = 0; x < width; ++x) out[x] = static_cast<float>(in[x * channels]) - mid;
    }
    if (moves_ != nullptr) {
      const std::int16_t* move = moves_->data() + std::size_t{y} * width * channels + c;
      for (std::uint32_t x = 0; x < width; ++x) out[x] += move[x * channels];
    }
    std::fill(out + width, out + planes[c].width, out[width - 1]);
  }
}

TileTargets Analysis::TopTile(const std::vector<Plane>& planes, std::uint32_t tile) const {
  const auto top = static_cast<std::uint32_t>(header_.levels.size() - 1);
  const container::Level& level = header_.levels[top];
  const TileShape shape = ShapeOf(level, tile);
  TileTargets targets{top, tile, {}};
  for (const GroupLayout& layout : layout_.groups) {
    const container::ComponentGroup& group = layout.group;
    std::vector<float>& out = targets.groups.emplace_back();
    const float inverse_step = 1.0f / StepOf(header_, group, level);
    for (std::uint32_t y = 0; y < shape.rows; ++y) {
      for (std::uint32_t x = 0; x < shape.columns; ++x) {
        for (std::uint32_t c = 0; c < group.channel_count; ++c) {
          out.push_back(planes[group.first_channel + c].Row(y)[x] * inverse_step);
        }
      }
    }
  }
  return targets;
}

}  // namespace holo::codec
