#include "common/protocol/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace holo::protocol {
namespace {

// Sanitised: the index of a file may claim anything.
double DistortionOf(const container::ChunkInfo& chunk) {
  return std::isfinite(chunk.distortion) ? std::max(chunk.distortion, 0.0) : 0.0;
}

pixels::Rect Grow(const pixels::Rect& rect, std::uint32_t by, const pixels::Layout& layout) {
  const std::uint32_t x = rect.x - std::min(rect.x, by);
  const std::uint32_t y = rect.y - std::min(rect.y, by);
  const std::uint64_t right = std::min<std::uint64_t>(std::uint64_t{rect.x} + rect.width + by, layout.width);
  const std::uint64_t bottom = std::min<std::uint64_t>(std::uint64_t{rect.y} + rect.height + by, layout.height);
  return {x, y, static_cast<std::uint32_t>(right - x), static_cast<std::uint32_t>(bottom - y)};
}

// Level-0 pixels that a patch of the level spans.
double PatchSpan(const container::Level& level) {
  return static_cast<double>(level.px_per_sample) * level.patch_px;
}

}  // namespace

Schedule::Schedule(SentChunks& sent, const Goal& goal) : sent_(sent), goal_(goal) {
  const container::AssetHeader& header = sent_.asset->reader().header();
  samples_ = static_cast<double>(goal_.region.area()) * header.layout.channels;
  final_squared_error_ = std::isfinite(header.final_mse) ? std::max(0.0f, header.final_mse) * samples_ : 0.0;

  const auto levels = static_cast<std::uint32_t>(header.levels.size());
  for (std::uint32_t level = 0; level < levels; ++level) {
    // What a patch holds beyond its mean is finer than one output pixel: it would not be seen. The top is always.
    if (level + 1 < levels && PatchSpan(header.levels[level]) * goal_.scale <= 1.0) continue;
    const container::AssetHeader::TileRange range = header.TilesTouching(level, goal_.region);
    for (std::uint32_t y = range.y0; y <= range.y1; ++y) {
      for (std::uint32_t x = range.x0; x <= range.x1; ++x) {
        const std::uint32_t tile = y * header.levels[level].tiles_x + x;
        if (!sent_.held.Exists(level, tile)) continue;
        const double in_view = SharesOf(level, tile).in_view;
        const std::span<const std::uint32_t> all = sent_.asset->ChunksOf(level, tile);
        const std::span<const std::uint32_t> unsent = Unsent(level, tile);
        for (const std::uint32_t index : all.first(all.size() - unsent.size())) {
          bytes_held_before_ += sent_.asset->reader().chunks()[index].size_bytes;
        }
        for (const std::uint32_t index : unsent) {
          unsent_squared_error_ += in_view * DistortionOf(sent_.asset->reader().chunks()[index]);
        }
        Push(level, tile);
      }
    }
  }
}

bool Schedule::Before(const Entry& a, const Entry& b) {
  if (a.slope != b.slope) return a.slope < b.slope;
  if (a.level != b.level) return a.level < b.level;
  return a.tile > b.tile;
}

Schedule::Shares Schedule::SharesOf(std::uint32_t level, std::uint32_t tile) const {
  const container::AssetHeader& header = sent_.asset->reader().header();
  const container::Level& geometry = header.levels[level];
  const pixels::Rect rect = header.TileRect(level, tile);
  if (rect.empty()) return {};
  const double area = static_cast<double>(rect.area());
  const pixels::Rect grown = Grow(goal_.region, header.ReachPx(level), header.layout);
  Shares shares;
  shares.in_view = static_cast<double>(pixels::Intersect(rect, goal_.region).area()) / area;
  shares.weight = static_cast<double>(pixels::Intersect(rect, grown).area()) / area;
  // Shrinking hides the finer half, three quarters, ... of a level's detail. How much error that is depends on the
  // picture; energy that falls with frequency leaves about as much as the output has pixels along a line.
  shares.weight *= std::min(1.0, geometry.px_per_sample * goal_.scale);
  return shares;
}

std::span<const std::uint32_t> Schedule::Unsent(std::uint32_t level, std::uint32_t tile) const {
  const std::vector<container::ChunkInfo>& chunks = sent_.asset->reader().chunks();
  const std::span<const std::uint32_t> all = sent_.asset->ChunksOf(level, tile);
  const std::uint32_t held = sent_.held.Layers(level, tile);
  std::size_t first = 0;
  while (first < all.size() && chunks[all[first]].id.layer < held) ++first;
  return all.subspan(first);
}

void Schedule::Push(std::uint32_t level, std::uint32_t tile) {
  const std::vector<container::ChunkInfo>& chunks = sent_.asset->reader().chunks();
  const std::span<const std::uint32_t> unsent = Unsent(level, tile);
  if (unsent.empty()) return;
  const auto partial = sent_.partial_bytes.find({level, tile});
  double bytes = partial == sent_.partial_bytes.end() ? 0.0 : -static_cast<double>(partial->second);
  double distortion = 0;
  double slope = 0;
  for (const std::uint32_t index : unsent) {
    bytes += chunks[index].size_bytes;
    distortion += DistortionOf(chunks[index]);
    slope = std::max(slope, distortion / std::max(bytes, 1.0));
  }
  const double max_sample = pixels::MaxSample(sent_.asset->reader().header().layout.sample_type);
  heap_.push_back({slope * SharesOf(level, tile).weight / (max_sample * max_sample), level, tile});
  std::push_heap(heap_.begin(), heap_.end(), Before);
}

std::optional<Schedule::Pick> Schedule::Best() {
  if (reason_ != v1::ViewComplete::REASON_UNSPECIFIED) return std::nullopt;
  if (goal_.target_psnr_db > 0 && psnr_db() >= goal_.target_psnr_db) {
    reason_ = v1::ViewComplete::TARGET_REACHED;
    return std::nullopt;
  }
  const std::vector<container::ChunkInfo>& chunks = sent_.asset->reader().chunks();
  while (!heap_.empty()) {
    const Entry& entry = heap_.front();
    const std::span<const std::uint32_t> unsent = Unsent(entry.level, entry.tile);
    if (!unsent.empty()) {
      const container::ChunkInfo& chunk = chunks[unsent.front()];
      const auto partial = sent_.partial_bytes.find({entry.level, entry.tile});
      const std::uint32_t offset = partial == sent_.partial_bytes.end() ? 0 : partial->second;
      const std::uint32_t rest = chunk.size_bytes - offset;
      // A chunk that does not fit is left out whole; others of the view may still fit.
      if (rest <= goal_.byte_budget - bytes_taken_) {
        return Pick{entry.slope, &chunk, offset, std::min<std::uint32_t>(rest, kMaxPartBytes)};
      }
      over_budget_ = true;
    }
    std::pop_heap(heap_.begin(), heap_.end(), Before);
    heap_.pop_back();
  }
  reason_ = over_budget_ ? v1::ViewComplete::BUDGET_SPENT : v1::ViewComplete::EVERYTHING_SENT;
  return std::nullopt;
}

void Schedule::Take(const Pick& pick) {
  const container::ChunkId& id = pick.chunk->id;
  std::pop_heap(heap_.begin(), heap_.end(), Before);
  heap_.pop_back();
  bytes_taken_ += pick.size_bytes;
  if (pick.offset + pick.size_bytes < pick.chunk->size_bytes) {
    sent_.partial_bytes[{id.level, id.tile}] = pick.offset + pick.size_bytes;
  } else {
    sent_.partial_bytes.erase({id.level, id.tile});
    sent_.held.SetLayers(id.level, id.tile, id.layer + 1u);
    unsent_squared_error_ -= SharesOf(id.level, id.tile).in_view * DistortionOf(*pick.chunk);
  }
  Push(id.level, id.tile);
}

double Schedule::remaining_squared_error() const {
  // With everything sent the rest of the sum is rounding.
  const double unsent = reason_ == v1::ViewComplete::EVERYTHING_SENT ? 0.0 : std::max(unsent_squared_error_, 0.0);
  return final_squared_error_ + unsent;
}

double Schedule::psnr_db() const {
  const double max_sample = pixels::MaxSample(sent_.asset->reader().header().layout.sample_type);
  const double error = remaining_squared_error();
  if (error <= 0) return std::numeric_limits<double>::infinity();
  return 10.0 * std::log10(max_sample * max_sample * samples_ / error);
}

}  // namespace holo::protocol
