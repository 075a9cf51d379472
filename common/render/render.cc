#include "common/render/render.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/codec/decoder_state.h"
#include "common/codec/parallel.h"
#include "common/render/smoother.h"
#include "common/render/window.h"

namespace holo::render {
namespace {

using codec::Decoder;
using transform::Plane;

std::uint32_t CeilShift(std::uint64_t value, std::uint32_t shift) {
  return static_cast<std::uint32_t>((value + (std::uint64_t{1} << shift) - 1) >> shift);
}

std::uint32_t Log2(std::uint32_t power_of_two) {
  std::uint32_t log = 0;
  while ((power_of_two >> log) > 1) ++log;
  return log;
}

class LevelRows;

class Renderer {
 public:
  Renderer(Decoder::State& state, std::uint32_t k, unsigned threads)
      : state_(state), counts_(state.layout.CountsAt(k)), threads_(threads) {}

  // Decodes `patches` of a level, and of all levels above what they need.
  void Prepare(std::uint32_t level, Window patches);
  // Forgets the tiles in the rows of tiles above `tile_row`.
  void Forget(std::uint32_t level, std::uint32_t tile_row);

  // Samples of `level` in `window`, one plane a channel, before the colour transform. Their patches must have been
  // prepared.
  [[nodiscard]] std::vector<Plane> Samples(std::uint32_t level, std::uint32_t reduction, const Window& window) const;

  // The samples of any window but of the top level: prepares and renders some rows of tiles at a time, on several
  // threads. Each gives rows of its own columns, `width` from `x` on, to `store`.
  using Store = std::function<void(std::uint32_t x, std::uint32_t width, std::uint32_t y,
                                   const transform::SampleRows& rows)>;
  void Stream(std::uint32_t level, std::uint32_t reduction, const Window& window, bool smooth, const Store& store);

 private:
  friend class LevelRows;

  // Of smoothing's windows, by the tiles of level 0; see PlaneSmoother::Limits.
  std::int64_t SetLimits(std::uint32_t channel, bool halved, std::int64_t x, std::int64_t y, std::size_t count,
                         std::int16_t* limits) const;

  [[nodiscard]] std::vector<Plane> TopSamples(std::uint32_t level, const Window& window) const;
  [[nodiscard]] const codec::TilePatches* Find(std::uint32_t level, std::uint32_t tile) const {
    const auto found = tiles_[level].find(tile);
    return found != tiles_[level].end() ? found->second.get() : nullptr;
  }
  [[nodiscard]] const container::Level& LevelAt(std::uint32_t level) const { return state_.header.levels[level]; }

  Decoder::State& state_;
  std::vector<std::uint32_t> counts_;
  unsigned threads_;
  // Prepared tiles of each level; null: nothing has come.
  std::vector<std::map<std::uint32_t, std::shared_ptr<const codec::TilePatches>>> tiles_ =
      std::vector<std::map<std::uint32_t, std::shared_ptr<const codec::TilePatches>>>(state_.header.levels.size());
};

// The patches that samples of `window` need, whole strips of them: the lapped filter mixes half a patch across every
// border.
Window PatchesOf(const container::Level& level, std::uint32_t reduction, const Window& window) {
  const std::uint32_t px = level.patch_px >> reduction;
  const std::uint32_t half = px / 2;
  const std::uint32_t strip = transform::kStripRows;
  Window patches;
  patches.x0 = (window.x0 - std::min(half, window.x0)) / px;
  patches.y0 = (window.y0 - std::min(half, window.y0)) / strip * strip / px;
  patches.x1 = std::min((window.x1 - 1 + half) / px + 1, level.patches_x);
  patches.y1 = std::min(((window.y1 - 1 + half) / strip + 1) * (strip / px), level.patches_y);
  return patches;
}

// The rows of one level in some columns, strip by strip from the top down.
class LevelRows {
 public:
  // Rows that are given away stay as they are while the next `kept` are.
  LevelRows(const Renderer& renderer, std::uint32_t level, std::uint32_t reduction, const Window& window,
            std::uint32_t kept = 0)
      : renderer_(renderer), level_(renderer.LevelAt(level)), level_index_(level), window_(window) {
    shape_.patch_px = level_.patch_px >> reduction;
    shape_.reduction = reduction;
    shape_.lapped = renderer.state_.header.lapped;
    patches_ = PatchesOf(level_, reduction, window);
    shape_.columns = patches_.width();
    const std::uint32_t patch_rows = strip_patch_rows();
    next_strip_ = patches_.y0 / patch_rows;
    end_strip_ = (patches_.y1 + patch_rows - 1) / patch_rows;
    row_stride_ = transform::InLines<float>(shape_.padded_width());
    const std::uint32_t channels = renderer.state_.header.layout.channels;
    // A strip's last rows wait for the next one: what is written is up to a strip and a half ahead of what is given away.
    constexpr std::uint32_t kAhead = transform::kStripRows + transform::kStripRows / 2;
    ring_rows_ = (kept + kAhead + transform::kStripRows - 1) / transform::kStripRows * transform::kStripRows;
    rows_.resize(std::size_t{channels} * ring_rows_ * row_stride_);
    scratch_.resize(std::size_t{transform::kStripRows} * row_stride_);
    sums_.resize(std::size_t{patch_rows} * shape_.columns);
    row_pointers_.resize(channels);
  }

  // Renders down to patch row `end` (all, if there are no more) and gives every finished row to `sink`.
  void Advance(std::uint32_t end, const Sink& sink) {
    const std::uint32_t patch_rows = strip_patch_rows();
    const std::uint32_t last = end >= patches_.y1 ? end_strip_ : std::min(end / patch_rows, end_strip_);
    if (next_strip_ >= last) return;
    const Window means_window{patches_.x0, next_strip_ * patch_rows, patches_.x1,
                              std::min(last * patch_rows, level_.patches_y)};
    const std::vector<Plane> means = renderer_.Samples(level_index_ + 1, 0, means_window);
    for (; next_strip_ < last; ++next_strip_) {
      FillStrip(means, means_window.y0);
      FinishRows(sink);
    }
  }

 private:
  [[nodiscard]] std::uint32_t strip_patch_rows() const { return transform::kStripRows / shape_.patch_px; }
  [[nodiscard]] float* RowOf(std::uint32_t channel, std::uint32_t y) {
    return rows_.data() + (std::size_t{channel} * ring_rows_ + y % ring_rows_) * row_stride_;
  }

  // Synthesises strip `next_strip_` of every channel.
  void FillStrip(const std::vector<Plane>& means, std::uint32_t means_y0) {
    const std::size_t area = std::size_t{shape_.patch_px} * shape_.patch_px;
    const codec::AssetLayout& layout = renderer_.state_.layout;
    for (std::size_t g = 0; g < layout.groups.size(); ++g) {
      const codec::GroupLayout& group = layout.groups[g];
      const transform::Kernel& kernel = group.KernelOf(level_);
      const std::uint32_t limit = level_index_ == 0 ? renderer_.counts_[g] : kernel.count;
      shape_.row_stride = area * group.group.channel_count;
      for (std::uint32_t c = 0; c < group.group.channel_count; ++c) {
        const std::uint32_t channel = group.group.first_channel + c;
        const float* rows = kernel.synthesis[shape_.reduction].data() + c * area;
        for (std::uint32_t r = 0; r < strip_patch_rows(); ++r) {
          transform::PatchSum* sums = sums_.data() + std::size_t{r} * shape_.columns;
          const std::uint32_t y = next_strip_ * strip_patch_rows() + r;
          if (y >= level_.patches_y) {
            std::fill_n(sums, shape_.columns, transform::PatchSum{});
            continue;
          }
          const float* mean = means[channel].Row(y - means_y0);
          for (std::uint32_t x = 0; x < shape_.columns; ++x) sums[x] = {nullptr, nullptr, rows, mean[x]};
          AddCoefficients(g, y, limit, kernel.count, sums);
        }
        float* const out = RowOf(channel, next_strip_ * transform::kStripRows);
        transform::SynthesiseStrip(shape_, sums_.data(), scratch_.data(), out, row_stride_);
      }
    }
  }

  // Points the patches of patch row `y` to their coefficients of group `g` below `limit`.
  void AddCoefficients(std::size_t g, std::uint32_t y, std::uint32_t limit, std::uint32_t count,
                       transform::PatchSum* sums) const {
    const std::uint32_t tile_row = y / level_.tile_patches;
    for (std::uint32_t x = patches_.x0; x < patches_.x1;) {
      const std::uint32_t tile_column = x / level_.tile_patches;
      const std::uint32_t end = std::min((tile_column + 1) * level_.tile_patches, patches_.x1);
      const codec::TilePatches* tile = renderer_.Find(level_index_, tile_row * level_.tiles_x + tile_column);
      if (tile == nullptr) {
        x = end;
        continue;
      }
      const codec::TilePatches::Group& group = tile->groups[g];
      const transform::Coefficient* all = group.coefficients.data();
      const std::uint32_t* begin = group.begin.data() + std::size_t{y - tile->shape.first_row} * tile->shape.columns +
                                   (x - tile->shape.first_column);
      for (; x < end; ++x, ++begin) {
        transform::PatchSum& sum = sums[x - patches_.x0];
        sum.first = all + begin[0];
        sum.last = all + begin[1];
        if (limit < count) {
          while (sum.last != sum.first && (sum.last - 1)->k >= limit) --sum.last;
        }
      }
    }
  }

  // Undoes the lapped filter across the horizontal borders that strip `next_strip_` completes.
  void FinishRows(const Sink& sink) {
    const std::uint32_t px = shape_.patch_px;
    const std::uint32_t half = px / 2;
    const std::uint32_t top = next_strip_ * transform::kStripRows;
    const std::uint32_t height = level_.patches_y * px;
    const auto channels = static_cast<std::uint32_t>(row_pointers_.size());
    const bool first = top == patches_.y0 * px;
    for (std::uint32_t y = first ? top + px : top; shape_.lapped && y < std::min(top + transform::kStripRows, height);
         y += px) {
      for (std::uint32_t c = 0; c < channels; ++c) {
        float* above[4];
        float* below[4];
        for (std::uint32_t i = 0; i < half; ++i) {
          above[i] = RowOf(c, y - 1 - i);
          below[i] = RowOf(c, y + i);
        }
        transform::LapBorderInverse(px, shape_.reduction, above, below, shape_.width());
      }
    }
    const std::uint32_t finished = top + transform::kStripRows >= height ? height : top + transform::kStripRows - half;
    const std::size_t x = window_.x0 - std::size_t{patches_.x0} * px;
    for (std::uint32_t y = std::max(window_.y0, first ? 0 : top - half); y < std::min(finished, window_.y1); ++y) {
      for (std::uint32_t c = 0; c < channels; ++c) row_pointers_[c] = RowOf(c, y) + x;
      sink(y, {row_pointers_.data()});
    }
  }

  const Renderer& renderer_;
  const container::Level& level_;
  std::uint32_t level_index_;
  Window window_;
  Window patches_;
  transform::StripShape shape_;
  std::uint32_t next_strip_ = 0;
  std::uint32_t end_strip_ = 0;
  std::size_t row_stride_ = 0;
  std::uint32_t ring_rows_ = 0;
  transform::AlignedVector<float> rows_;  // [channel][ring_rows_][row_stride_]; row y of the level is at y % ring_rows_
  transform::AlignedVector<float> scratch_;
  std::vector<transform::PatchSum> sums_;
  std::vector<const float*> row_pointers_;
};

void Renderer::Prepare(std::uint32_t level_index, Window patches) {
  std::vector<Decoder::State::TileId> missing;
  for (std::uint32_t l = level_index;; ++l) {
    const container::Level& level = LevelAt(l);
    for (std::uint32_t ty = patches.y0 / level.tile_patches; ty * level.tile_patches < patches.y1; ++ty) {
      for (std::uint32_t tx = patches.x0 / level.tile_patches; tx * level.tile_patches < patches.x1; ++tx) {
        const std::uint32_t tile = ty * level.tiles_x + tx;
        if (!tiles_[l].contains(tile)) missing.push_back({l, tile});
      }
    }
    if (level.patch_px == 1) break;
    // The means of these patches are samples of the next level.
    if (LevelAt(l + 1).patch_px != 1) patches = PatchesOf(LevelAt(l + 1), 0, patches);
  }
  const auto found = state_.Patches(missing, threads_);
  for (std::size_t i = 0; i < missing.size(); ++i) tiles_[missing[i].level].emplace(missing[i].tile, found[i]);
}

void Renderer::Forget(std::uint32_t level, std::uint32_t tile_row) {
  tiles_[level].erase(tiles_[level].begin(), tiles_[level].lower_bound(tile_row * LevelAt(level).tiles_x));
}

std::vector<Plane> Renderer::Samples(std::uint32_t level, std::uint32_t reduction, const Window& window) const {
  if (LevelAt(level).patch_px == 1) return TopSamples(level, window);
  std::vector<Plane> planes(state_.header.layout.channels, Plane(window.width(), window.height()));
  LevelRows(*this, level, reduction, window)
      .Advance(LevelAt(level).patches_y, [&](std::uint32_t y, const transform::SampleRows& rows) {
        for (std::size_t c = 0; c < planes.size(); ++c) {
          std::copy_n(rows.samples[c], window.width(), planes[c].Row(y - window.y0));
        }
      });
  return planes;
}

std::vector<Plane> Renderer::TopSamples(std::uint32_t level, const Window& window) const {
  std::vector<Plane> planes(state_.header.layout.channels, Plane(window.width(), window.height()));
  const codec::TilePatches* tile = Find(level, 0);
  if (tile == nullptr) return planes;
  for (std::size_t g = 0; g < tile->groups.size(); ++g) {
    const codec::TilePatches::Group& group = tile->groups[g];
    const std::uint32_t first_channel = state_.layout.groups[g].group.first_channel;
    for (std::uint32_t y = window.y0; y < window.y1; ++y) {
      for (std::uint32_t x = window.x0; x < window.x1; ++x) {
        const std::size_t patch = std::size_t{y} * tile->shape.columns + x;
        for (std::uint32_t i = group.begin[patch]; i < group.begin[patch + 1]; ++i) {
          const transform::Coefficient& sample = group.coefficients[i];
          planes[first_channel + sample.k].Row(y - window.y0)[x - window.x0] = sample.value;
        }
      }
    }
  }
  return planes;
}

// The limit at half the size, as a share of that at full size: means of 2 x 2 samples have lost their noise already.
constexpr float kHalved = 0.3f;

std::int64_t Renderer::SetLimits(std::uint32_t channel, bool halved, std::int64_t x, std::int64_t y, std::size_t count,
                                 std::int16_t* limits) const {
  const container::Level& level = LevelAt(0);
  std::size_t g = 0;
  const auto& groups = state_.layout.groups;
  while (channel >= groups[g].group.first_channel + groups[g].group.channel_count) ++g;
  const auto tile_px = static_cast<std::int64_t>(level.tile_patches) * level.patch_px / (halved ? 2 : 1);
  const auto tile_at = [tile_px](std::int64_t at, std::uint32_t tiles) {
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(at / tile_px, 0, tiles - 1));
  };
  const std::uint32_t row = tile_at(y, level.tiles_y);
  // A window's coefficients are four times as large as those of an orthonormal transform. Where steps are wide, detail is
  // not: the limit rises ever more slowly.
  const float factor = (halved ? kHalved : 1) * 4.0f / 64 * static_cast<float>(state_.header.smoothing);
  const float range = pixels::MaxSample(state_.header.layout.sample_type);
  const float wide = range / 4;
  const float to_units = 2 * transform::kSmoothUnits / range;
  for (std::size_t i = 0; i < count;) {
    const std::uint32_t column = tile_at(x + static_cast<std::int64_t>(i), level.tiles_x);
    const bool is_last = column + 1 == level.tiles_x;
    const std::int64_t end = is_last ? x + static_cast<std::int64_t>(count) : (column + 1) * tile_px;
    const std::size_t last = std::min(count, static_cast<std::size_t>(end - x));
    const codec::TilePatches* tile = Find(0, row * level.tiles_x + column);
    const float step = tile != nullptr ? tile->groups[g].known_step : 0.0f;
    const float limit = std::min(to_units * factor * step / (1 + step / wide), float{transform::kLargestSmooth});
    std::fill(limits + i, limits + last, static_cast<std::int16_t>(limit + 0.5f));
    i = last;
  }
  const bool is_last = row + 1 == level.tiles_y;
  return is_last ? std::numeric_limits<std::int64_t>::max() : (row + 1) * tile_px;
}

void Renderer::Stream(std::uint32_t level_index, std::uint32_t reduction, const Window& wanted, bool smooth,
                      const Store& store) {
  const container::Level& level = LevelAt(level_index);
  const bool ycbcr = state_.header.color_transform == container::ColorTransform::kYCbCr;
  const auto grow = [&](const Window& part) {
    return smooth ? Smoother::Grown(part, level.width, level.height, ycbcr) : part;
  };
  const Window window = grow(wanted);
  const Window patches = PatchesOf(level, reduction, window);
  // Columns small enough for two strips of each to stay in the second-level cache, and as many for every thread.
  constexpr std::uint32_t kColumns = 512;
  const std::uint32_t rounds = (wanted.width() + kColumns * threads_ - 1) / (kColumns * threads_);
  const std::uint32_t parts = rounds * threads_;
  // Whole vectors of output.
  const std::uint32_t width = ((wanted.width() + parts - 1) / parts + 63) / 64 * 64;
  struct Columns {
    Window part;
    std::unique_ptr<LevelRows> rows;
    std::unique_ptr<Smoother> smoother;
  };
  std::vector<Columns> columns;
  for (std::uint32_t x = wanted.x0; x < wanted.x1; x += width) {
    Columns& one = columns.emplace_back();
    one.part = {x, wanted.y0, std::min(x + width, wanted.x1), wanted.y1};
    one.rows = std::make_unique<LevelRows>(*this, level_index, reduction, grow(one.part), smooth ? Smoother::kKept : 0);
    if (!smooth) continue;
    one.smoother = std::make_unique<Smoother>(one.part, level.width, level.height, state_.header.layout.channels, ycbcr,
                                              pixels::MaxSample(state_.header.layout.sample_type),
                                              [this](auto... where) { return SetLimits(where...); });
  }
  // Rows of tiles whose coefficients are held at a time.
  constexpr std::uint32_t kPatches = 1u << 17;
  const std::uint32_t tile_rows = std::max(1u, kPatches / level.tile_patches / patches.width());
  for (std::uint32_t y = patches.y0; y < patches.y1;) {
    const std::uint32_t end = std::min((y / level.tile_patches + tile_rows) * level.tile_patches, patches.y1);
    Prepare(level_index, {patches.x0, y, patches.x1, end});
    codec::ForEach(threads_, columns.size(), [&](std::size_t i) {
      const Columns& one = columns[i];
      const Sink finished = [&](std::uint32_t row, const transform::SampleRows& rows) {
        store(one.part.x0, one.part.width(), row, rows);
      };
      if (one.smoother == nullptr) {
        one.rows->Advance(end, finished);
      } else {
        one.rows->Advance(
            end, [&](std::uint32_t row, const auto& rows) { one.smoother->Add(row, rows.samples, finished); });
      }
    });
    y = end;
    // Smoothing is a few rows behind, and needs the tiles that its windows begin in.
    const std::uint32_t tile_row = y / level.tile_patches;
    Forget(level_index, tile_row - std::min(tile_row, smooth ? 1u : 0u));
  }
}

// Averages boxes of 2^shift samples; incomplete boxes at the right and bottom edges average what they have.
Plane BoxReduce(const Plane& plane, std::uint32_t shift) {
  Plane out(CeilShift(plane.width, shift), CeilShift(plane.height, shift));
  const std::uint32_t box = shift < 31 ? 1u << shift : 1u << 31;
  for (std::uint32_t y = 0; y < out.height; ++y) {
    for (std::uint32_t x = 0; x < out.width; ++x) {
      float sum = 0.0f;
      std::uint32_t count = 0;
      for (std::uint32_t v = y * box; v < std::min<std::uint64_t>(std::uint64_t{y + 1} * box, plane.height); ++v) {
        for (std::uint32_t u = x * box; u < std::min<std::uint64_t>(std::uint64_t{x + 1} * box, plane.width); ++u) {
          sum += plane.Row(v)[u];
          ++count;
        }
      }
      out.Row(y)[x] = sum / static_cast<float>(count);
    }
  }
  return out;
}

Result<void> CheckView(const container::AssetHeader& header, const View& view) {
  if (view.scale_log2 > kMaxScaleLog2) {
    return Fail(Code::kOutOfRange, "view: expected a scale of 1/2^0 to 1/2^" + std::to_string(kMaxScaleLog2) +
                                       ", found 1/2^" + std::to_string(view.scale_log2));
  }
  const pixels::Rect& region = view.region;
  if (region.empty() || std::uint64_t{region.x} + region.width > header.layout.width ||
      std::uint64_t{region.y} + region.height > header.layout.height) {
    return Fail(Code::kOutOfRange, "view: expected a region inside " + std::to_string(header.layout.width) + "x" +
                                       std::to_string(header.layout.height) + ", found " +
                                       std::to_string(region.width) + "x" + std::to_string(region.height) + " at " +
                                       std::to_string(region.x) + "," + std::to_string(region.y));
  }
  return {};
}

View Completed(const container::AssetHeader& header, View view) {
  if (view.region == pixels::Rect{}) view.region = {0, 0, header.layout.width, header.layout.height};
  return view;
}

}  // namespace

OutputRect OutputRectOf(const View& view) {
  const pixels::Rect& r = view.region;
  OutputRect out;
  out.x = r.x >> view.scale_log2;
  out.y = r.y >> view.scale_log2;
  out.width = CeilShift(std::uint64_t{r.x} + r.width, view.scale_log2) - out.x;
  out.height = CeilShift(std::uint64_t{r.y} + r.height, view.scale_log2) - out.y;
  return out;
}

Result<void> RenderInto(const Decoder& decoder, const View& wanted, const OutputRect& target_rect,
                        pixels::Picture& target, unsigned threads) {
  const container::AssetHeader& header = decoder.header();
  const View view = Completed(header, wanted);
  HOLO_RETURN_IF_ERROR(CheckView(header, view));
  const OutputRect rect = OutputRectOf(view);
  if (rect.x < target_rect.x || rect.y < target_rect.y || rect.x + rect.width > target_rect.x + target_rect.width ||
      rect.y + rect.height > target_rect.y + target_rect.height || target.width() != target_rect.width ||
      target.height() != target_rect.height || target.channels() != header.layout.channels ||
      target.layout().sample_type != header.layout.sample_type) {
    return Fail(Code::kInvalidArgument, "render: expected a target of the asset's samples that holds the view");
  }
  // The coarsest level that is still fine enough, reduced by what is left.
  std::uint32_t level = 0;
  while (level + 1 < header.levels.size() && Log2(header.levels[level + 1].px_per_sample) <= view.scale_log2) ++level;
  const std::uint32_t reduction = view.scale_log2 - Log2(header.levels[level].px_per_sample);
  const bool ycbcr = header.color_transform == container::ColorTransform::kYCbCr;
  const std::uint32_t channels = header.layout.channels;
  const auto store = [&](std::uint32_t x, std::uint32_t width, std::uint32_t y, const transform::SampleRows& rows) {
    const std::size_t offset = std::size_t{x - target_rect.x} * channels;
    if (header.layout.sample_type == pixels::SampleType::kU8) {
      transform::StoreRow(rows, channels, ycbcr, width, target.RowU8(y - target_rect.y).data() + offset);
    } else {
      transform::StoreRow(rows, channels, ycbcr, width, target.RowU16(y - target_rect.y).data() + offset);
    }
  };
  Renderer renderer(decoder.state(), view.k, std::max(threads, 1u));
  const Window window{rect.x, rect.y, rect.x + rect.width, rect.y + rect.height};
  if (level + 1 < header.levels.size()) {
    const bool whole = view.k == 0 || view.k >= decoder.state().layout.dimensions();
    const bool smooth = view.smooth && whole && view.scale_log2 == 0 && header.smoothing > 0;
    renderer.Stream(level, reduction, window, smooth, store);
    return {};
  }
  // The top level, which is small: boxes of its samples.
  const container::Level& top = header.levels[level];
  const auto scaled = [reduction](std::uint32_t value, std::uint32_t limit) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(std::uint64_t{value} << reduction, limit));
  };
  const Window samples{scaled(window.x0, top.width), scaled(window.y0, top.height), scaled(window.x1, top.width),
                       scaled(window.y1, top.height)};
  renderer.Prepare(level, samples);
  std::vector<Plane> planes = renderer.Samples(level, 0, samples);
  if (reduction > 0) {
    for (Plane& plane : planes) plane = BoxReduce(plane, reduction);
  }
  std::vector<const float*> rows(channels);
  for (std::uint32_t y = 0; y < rect.height; ++y) {
    for (std::uint32_t c = 0; c < channels; ++c) rows[c] = planes[c].Row(y);
    store(rect.x, rect.width, rect.y + y, {rows.data()});
  }
  return {};
}

Result<pixels::Picture> Render(const Decoder& decoder, const View& wanted, unsigned threads) {
  const container::AssetHeader& header = decoder.header();
  const View view = Completed(header, wanted);
  HOLO_RETURN_IF_ERROR(CheckView(header, view));
  const OutputRect rect = OutputRectOf(view);
  pixels::Layout layout = header.layout;
  layout.width = rect.width;
  layout.height = rect.height;
  HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, pixels::Picture::CreateForOverwrite(layout));
  picture.metadata() = header.metadata;
  HOLO_RETURN_IF_ERROR(RenderInto(decoder, view, rect, picture, threads));
  return picture;
}

}  // namespace holo::render
