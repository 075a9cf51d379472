#include "common/render/render.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "common/codec/decoder_state.h"

namespace holo::render {
namespace {

using codec::Decoder;
using transform::Plane;

// Half-open ranges of samples of one level, in samples reduced by 2^reduction.
struct Window {
  std::uint32_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  [[nodiscard]] std::uint32_t width() const { return x1 - x0; }
  [[nodiscard]] std::uint32_t height() const { return y1 - y0; }
};

std::uint32_t CeilShift(std::uint64_t value, std::uint32_t shift) {
  return static_cast<std::uint32_t>((value + (std::uint64_t{1} << shift) - 1) >> shift);
}

std::uint32_t Log2(std::uint32_t power_of_two) {
  std::uint32_t log = 0;
  while ((power_of_two >> log) > 1) ++log;
  return log;
}

class Renderer {
 public:
  Renderer(Decoder::State& state, std::uint32_t k) : state_(state), counts_(state.layout.CountsAt(k)) {}

  // Samples of `level` in `window`, one plane a channel, before the colour transform.
  std::vector<Plane> Samples(std::uint32_t level_index, std::uint32_t reduction, const Window& window) {
    const container::Level& level = state_.header.levels[level_index];
    if (level.patch_px == 1) return TopSamples(level_index, window);
    const std::uint32_t px = level.patch_px >> reduction;
    // One patch more on each side: the lapped filter mixes across patch borders.
    Window patches;
    patches.x0 = window.x0 / px > 0 ? window.x0 / px - 1 : 0;
    patches.y0 = window.y0 / px > 0 ? window.y0 / px - 1 : 0;
    patches.x1 = std::min((window.x1 - 1) / px + 2, level.patches_x);
    patches.y1 = std::min((window.y1 - 1) / px + 2, level.patches_y);
    const std::vector<Plane> means = Samples(level_index + 1, 0, patches);
    std::vector<Plane> planes;
    for (std::uint32_t c = 0; c < state_.header.layout.channels; ++c) {
      Plane& plane = planes.emplace_back(patches.width() * px, patches.height() * px);
      for (std::uint32_t row = 0; row < patches.height(); ++row) {
        const float* mean = means[c].Row(row);
        float* first = plane.Row(row * px);
        for (std::uint32_t column = 0; column < patches.width(); ++column) {
          std::fill_n(first + column * px, px, mean[column]);
        }
        for (std::uint32_t y = 1; y < px; ++y) std::copy_n(first, plane.width, plane.Row(row * px + y));
      }
    }
    const std::uint32_t tile_x0 = patches.x0 / container::kTilePatches;
    const std::uint32_t tile_x1 = (patches.x1 - 1) / container::kTilePatches;
    const std::uint32_t tile_y0 = patches.y0 / container::kTilePatches;
    const std::uint32_t tile_y1 = (patches.y1 - 1) / container::kTilePatches;
    for (std::uint32_t ty = tile_y0; ty <= tile_y1; ++ty) {
      for (std::uint32_t tx = tile_x0; tx <= tile_x1; ++tx) {
        AddTile(level_index, ty * level.tiles_x + tx, reduction, patches, planes);
      }
    }
    for (Plane& plane : planes) {
      transform::LapRowsInverse(plane, px, px, reduction);
      transform::LapColumnsInverse(plane, px, reduction);
    }
    return Cut(planes, window, patches.x0 * px, patches.y0 * px);
  }

 private:
  static std::vector<Plane> Cut(const std::vector<Plane>& planes, const Window& window, std::uint32_t x0,
                                std::uint32_t y0) {
    std::vector<Plane> out;
    for (const Plane& plane : planes) {
      Plane& cut = out.emplace_back(window.width(), window.height());
      for (std::uint32_t y = 0; y < cut.height; ++y) {
        std::copy_n(plane.Row(window.y0 - y0 + y) + (window.x0 - x0), cut.width, cut.Row(y));
      }
    }
    return out;
  }

  std::vector<Plane> TopSamples(std::uint32_t level_index, const Window& window) {
    const container::Level& level = state_.header.levels[level_index];
    std::vector<Plane> planes(state_.header.layout.channels, Plane(window.width(), window.height()));
    const codec::TileState* tile = state_.Decoded(level_index, 0);
    if (tile == nullptr) return planes;
    for (const codec::Band& band : tile->bands) {
      const codec::GroupLayout& group = state_.layout.groups[band.shape.group];
      const float step = codec::StepOf(state_.header, group.group, level);
      for (std::uint32_t y = window.y0; y < window.y1; ++y) {
        for (std::uint32_t x = window.x0; x < window.x1; ++x) {
          const std::size_t cell = tile->CellOf(x, y);
          const std::size_t patch = std::size_t{y} * tile->columns + x;
          for (std::uint32_t i = 0; i < band.shape.count; ++i) {
            const std::uint32_t channel = group.group.first_channel + band.shape.first_k + i;
            planes[channel].Row(y - window.y0)[x - window.x0] =
                step * codec::Dequantise(band.values[cell * band.shape.count + i],
                                         patch < band.ahead ? band.plane - 1 : band.plane);
          }
        }
      }
    }
    return planes;
  }

  // Adds the coefficients of one tile to the patches of it that lie in `patches`.
  void AddTile(std::uint32_t level_index, std::uint32_t tile_index, std::uint32_t reduction, const Window& patches,
               std::vector<Plane>& planes) {
    const codec::TileState* tile = state_.Decoded(level_index, tile_index);
    if (tile == nullptr) return;
    const container::Level& level = state_.header.levels[level_index];
    const codec::TileShape shape = codec::ShapeOf(level, tile_index);
    const std::uint32_t px = level.patch_px >> reduction;
    const std::size_t area = std::size_t{px} * px;
    const std::uint32_t column0 = std::max(shape.first_column, patches.x0);
    const std::uint32_t column1 = std::min(shape.first_column + shape.columns, patches.x1);
    const std::uint32_t row0 = std::max(shape.first_row, patches.y0);
    const std::uint32_t row1 = std::min(shape.first_row + shape.rows, patches.y1);
    std::vector<float> patch;
    for (std::size_t g = 0; g < state_.layout.groups.size(); ++g) {
      const codec::GroupLayout& group = state_.layout.groups[g];
      const transform::Kernel& kernel = group.KernelOf(level);
      const std::vector<float> steps = codec::StepsOf(state_.header, group, level);
      const std::uint32_t limit = level_index == 0 ? counts_[g] : kernel.count;
      const std::size_t dimension = area * group.group.channel_count;
      patch.resize(dimension);
      for (std::uint32_t row = row0; row < row1; ++row) {
        for (std::uint32_t column = column0; column < column1; ++column) {
          const std::size_t cell = tile->CellOf(column - shape.first_column, row - shape.first_row);
          const std::size_t index = std::size_t{row - shape.first_row} * shape.columns + (column - shape.first_column);
          bool any = false;
          for (const codec::Band& band : tile->bands) {
            if (band.shape.group != g || band.active[cell] == 0) continue;
            const int plane = index < band.ahead ? band.plane - 1 : band.plane;
            const std::uint32_t* values = band.values.data() + cell * band.shape.count;
            for (std::uint32_t i = 0; i < band.shape.count; ++i) {
              const std::uint32_t k = band.shape.first_k + i;
              if (values[i] < 2 || k >= limit) continue;
              if (!any) std::fill(patch.begin(), patch.end(), 0.0f);
              any = true;
              transform::AddRow(kernel.synthesis[reduction].data() + k * dimension,
                                steps[k] * codec::Dequantise(values[i], plane), patch.data(), dimension);
            }
          }
          if (!any) continue;
          const float* from = patch.data();
          for (std::uint32_t c = 0; c < group.group.channel_count; ++c) {
            Plane& plane = planes[group.group.first_channel + c];
            for (std::uint32_t y = 0; y < px; ++y) {
              float* to = plane.Row((row - patches.y0) * px + y) + (column - patches.x0) * px;
              for (std::uint32_t x = 0; x < px; ++x) to[x] += *from++;
            }
          }
        }
      }
    }
  }

  Decoder::State& state_;
  std::vector<std::uint32_t> counts_;
};

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

template <typename Sample>
void Store(const std::vector<Plane>& planes, float mid, float largest, std::uint32_t y, Sample* out) {
  const std::size_t channels = planes.size();
  for (std::size_t c = 0; c < channels; ++c) {
    const float* from = planes[c].Row(y);
    for (std::uint32_t x = 0; x < planes[c].width; ++x) {
      const float value = std::min(std::max(from[x] + mid + 0.5f, 0.5f), largest + 0.5f);
      out[x * channels + c] = static_cast<Sample>(static_cast<std::int32_t>(value));
    }
  }
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
                        pixels::Picture& target) {
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
  std::uint32_t reduction = view.scale_log2 - Log2(header.levels[level].px_per_sample);
  const bool top = level + 1 == header.levels.size();
  const std::uint32_t box = top ? reduction : 0;
  if (top) reduction = 0;

  Renderer renderer(decoder.state(), view.k);
  // Bands of rows keep the float planes small.
  constexpr std::uint32_t kBandRows = 256;
  for (std::uint32_t y = rect.y; y < rect.y + rect.height; y += kBandRows) {
    const std::uint32_t y1 = std::min(y + kBandRows, rect.y + rect.height);
    Window window{rect.x, y, rect.x + rect.width, y1};
    if (box > 0) {
      const container::Level& whole = header.levels[level];
      const auto scaled = [box](std::uint32_t value, std::uint32_t limit) {
        return static_cast<std::uint32_t>(std::min<std::uint64_t>(std::uint64_t{value} << box, limit));
      };
      window = {scaled(window.x0, whole.width), scaled(window.y0, whole.height), scaled(window.x1, whole.width),
                scaled(window.y1, whole.height)};
    }
    std::vector<Plane> planes = renderer.Samples(level, reduction, window);
    if (box > 0) {
      for (Plane& plane : planes) plane = BoxReduce(plane, box);
    }
    if (header.color_transform == container::ColorTransform::kYCbCr) {
      transform::YCbCrToRgb(planes[0].samples.data(), planes[1].samples.data(), planes[2].samples.data(),
                            planes[0].samples.size());
    }
    const float mid = codec::MidSample(header.layout.sample_type);
    const float largest = pixels::MaxSample(header.layout.sample_type);
    for (std::uint32_t row = y; row < y1; ++row) {
      const std::size_t offset = std::size_t{rect.x - target_rect.x} * header.layout.channels;
      if (header.layout.sample_type == pixels::SampleType::kU8) {
        Store(planes, mid, largest, row - y, target.RowU8(row - target_rect.y).data() + offset);
      } else {
        Store(planes, mid, largest, row - y, target.RowU16(row - target_rect.y).data() + offset);
      }
    }
  }
  return {};
}

Result<pixels::Picture> Render(const Decoder& decoder, const View& wanted) {
  const container::AssetHeader& header = decoder.header();
  const View view = Completed(header, wanted);
  HOLO_RETURN_IF_ERROR(CheckView(header, view));
  const OutputRect rect = OutputRectOf(view);
  pixels::Layout layout = header.layout;
  layout.width = rect.width;
  layout.height = rect.height;
  HOLO_ASSIGN_OR_RETURN(pixels::Picture picture, pixels::Picture::Create(layout));
  picture.metadata() = header.metadata;
  HOLO_RETURN_IF_ERROR(RenderInto(decoder, view, rect, picture));
  return picture;
}

}  // namespace holo::render
