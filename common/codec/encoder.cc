#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>
#include <utility>

#include "common/basis/train.h"
#include "common/codec/analysis.h"
#include "common/codec/chunk.h"
#include "common/codec/codec.h"
#include "common/codec/colour_balance.h"
#include "common/codec/layout.h"
#include "common/render/render.h"

namespace holo::codec {
namespace {

using transform::Plane;

// A pass is worth its bytes while it saves at least so many squared steps a byte; at a step of s, coding finer costs a
// byte for about 0.9 s^2.
constexpr double kFinalSlope = 0.6;
// The slope of a layer counted from the last one, 0.
double LayerSlope(std::uint32_t from_last) {
  return kFinalSlope * std::exp2(from_last);
}

// Pictures up to this many pixels, which fit a screen and are mostly looked at whole, have large tiles; not those of many
// channels, as a tile is what a client must have room for.
constexpr std::uint64_t kLargeTilesUpTo = 2u << 20;
constexpr std::uint32_t kLargeTilesUpToChannels = 4;

// Measured best on photographs that nothing was trained on, for PSNR and MS-SSIM together; drawings gain as much by it.
constexpr std::uint32_t kSmoothing = 36;

constexpr float kSmallestStep = 0.5f;
constexpr float kLargestStep = 1024.0f;

// The quantiser step in units of 8-bit samples at `quality`: scaled as libjpeg scales its tables, so that the same
// number gives a picture of about the same quality.
float StepAtQuality(float quality) {
  const float clamped = std::clamp(quality, 1.0f, 100.0f);
  const float scale = clamped < 50.0f ? 50.0f / clamped : 2.0f - clamped / 50.0f;
  return std::clamp(28.0f * scale, kSmallestStep, kLargestStep);
}

// One tile of one level, coded.
struct CodedTile {
  std::uint32_t level = 0;
  std::uint32_t tile = 0;
  TileCode code;
};

// What a squared step of each coefficient of a level counts in squared error: steps are wider where the eye sees less.
std::vector<std::vector<float>> WeightsOf(const container::AssetHeader& header, const AssetLayout& layout,
                                          const container::Level& level) {
  const float narrowest = header.base_step / static_cast<float>(level.px_per_sample);
  std::vector<std::vector<float>> weights;
  for (const GroupLayout& group : layout.groups) {
    std::vector<float>& out = weights.emplace_back();
    if (level.patch_px == 1) {
      out.assign(group.group.channel_count, group.group.step_weight * group.group.step_weight);
      continue;
    }
    for (const float step : StepsOf(header, group, level)) out.push_back(step / narrowest * (step / narrowest));
  }
  return weights;
}

// All tiles of all levels.
Result<std::vector<CodedTile>> CodeTiles(const pixels::Picture& picture, const container::AssetHeader& header,
                                         const AssetLayout& layout, const EncodeOptions& options,
                                         const Quantiser& quantiser, double progress_from, double progress_to,
                                         const std::vector<std::int16_t>* moves = nullptr) {
  const Analysis analysis(picture, header, layout, moves);
  std::vector<std::vector<GroupShape>> groups;  // of each level
  std::vector<std::vector<std::vector<float>>> weights;
  std::uint64_t total_tiles = 0;
  for (const container::Level& level : header.levels) {
    groups.push_back(layout.ShapesOf(level));
    weights.push_back(WeightsOf(header, layout, level));
    total_tiles += level.tile_count();
  }
  std::vector<CodedTile> tiles;
  std::mutex mutex;
  std::uint64_t done_tiles = 0;
  const bool finished = analysis.ForEachTile(options.threads, [&](const TileTargets& targets) {
    const container::Level& level = header.levels[targets.level];
    const TileShape shape = ShapeOf(level, targets.tile);
    TileCode code = EncodeTile(KindOf(header, level), shape.columns, shape.rows, groups[targets.level], targets.groups,
                               weights[targets.level], quantiser, options.observer);
    const std::lock_guard lock(mutex);
    tiles.push_back({targets.level, targets.tile, std::move(code)});
    ++done_tiles;
    if (!options.progress) return true;
    const double fraction = static_cast<double>(done_tiles) / static_cast<double>(total_tiles);
    return options.progress(progress_from + (progress_to - progress_from) * fraction);
  });
  if (!finished) return Fail(Code::kCancelled, "encoding was cancelled");
  return tiles;
}

// The cuts on the upper convex hull of worth over bytes, as indices into `cuts`.
std::vector<std::size_t> HullOf(const std::vector<CutPoint>& cuts) {
  std::vector<std::size_t> hull;
  const auto slope = [&cuts](std::size_t from, std::size_t to) {  // from == cuts.size(): the origin
    const double d = cuts[to].worth - (from < cuts.size() ? cuts[from].worth : 0.0);
    const double b = static_cast<double>(cuts[to].bytes) - (from < cuts.size() ? cuts[from].bytes : 0.0);
    return b > 0 ? d / b : d > 0 ? std::numeric_limits<double>::infinity() : 0.0;
  };
  for (std::size_t i = 0; i < cuts.size(); ++i) {
    for (;;) {
      const std::size_t last = hull.empty() ? cuts.size() : hull.back();
      const double after = slope(last, i);
      if (after <= 0) break;
      if (hull.empty()) {
        hull.push_back(i);
        break;
      }
      const std::size_t before_last = hull.size() > 1 ? hull[hull.size() - 2] : cuts.size();
      if (slope(before_last, last) > after) {
        hull.push_back(i);
        break;
      }
      hull.pop_back();
    }
  }
  return hull;
}

// How many of the cuts of a hull, from the first on, save at least `slope` a byte more than the one before.
std::size_t CutsAt(const std::vector<CutPoint>& cuts, const std::vector<std::size_t>& hull, double slope) {
  CutPoint end;
  std::size_t count = 0;
  for (; count < hull.size(); ++count) {
    const CutPoint& cut = cuts[hull[count]];
    if (cut.worth - end.worth < slope * (static_cast<double>(cut.bytes) - end.bytes)) break;
    end = cut;
  }
  return count;
}

// Tiles cut into layers.
struct Layered {
  std::vector<container::ChunkData> chunks;
  std::uint32_t layer_count = 1;
  // Squared error that no layer removes; see CutPoint.
  double seen_left = 0;
  double measured_left = 0;
  std::vector<std::size_t> passes;  // of each tile, in all layers together
};

// Cuts every tile into layers at equal slopes, down to `final_slope` (squared steps a byte). The last layer goes on to
// `at_least[t]` passes of tile t if there are such.
Layered CutLayers(const std::vector<CodedTile>& tiles, double final_slope, std::span<const std::size_t> at_least) {
  Layered out;
  std::vector<std::vector<std::size_t>> hulls;
  for (const CodedTile& tile : tiles) hulls.push_back(HullOf(tile.code.cuts));
  const double raise = final_slope / kFinalSlope;
  // As many layers as there are before one that would hold next to nothing.
  constexpr std::uint64_t kSmallestLayer = 800;
  const auto bytes_of = [&](double slope) {
    std::uint64_t bytes = 0;
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      const std::size_t count = CutsAt(tiles[t].code.cuts, hulls[t], slope);
      if (count > 0) bytes += tiles[t].code.cuts[hulls[t][count - 1]].bytes;
    }
    return bytes;
  };
  while (out.layer_count < container::kMaxLayers && bytes_of(raise * LayerSlope(out.layer_count)) >= kSmallestLayer) {
    ++out.layer_count;
  }
  for (std::size_t t = 0; t < tiles.size(); ++t) {
    const CodedTile& tile = tiles[t];
    const std::vector<CutPoint>& cuts = tile.code.cuts;
    std::size_t passes = 0;
    CutPoint reached;
    int previous_layer = -1;
    for (std::uint32_t layer = 0; layer < out.layer_count; ++layer) {
      const double threshold = raise * LayerSlope(out.layer_count - 1 - layer);
      const std::size_t count = CutsAt(cuts, hulls[t], threshold);
      std::size_t end_passes = count > 0 ? hulls[t][count - 1] + 1 : 0;
      const bool last = layer + 1 == out.layer_count;
      if (last && !at_least.empty()) end_passes = std::max(end_passes, at_least[t]);
      const CutPoint end = end_passes > 0 ? cuts[end_passes - 1] : CutPoint{};
      if (end.bytes == reached.bytes) continue;  // passes without bytes of their own go with the next layer
      // A chunk costs about three bytes of index and header: too small a gain waits for the next layer.
      constexpr std::uint32_t kFewBytes = 8;
      if (!last && end.bytes - reached.bytes < kFewBytes && previous_layer >= 0) continue;
      bytes::ByteWriter writer;
      AppendChunkHeader(writer, end_passes - passes, previous_layer, static_cast<int>(layer));
      writer.WriteSpan(std::span(tile.code.bytes).subspan(reached.bytes, end.bytes - reached.bytes));
      container::ChunkData chunk;
      chunk.id = {static_cast<std::uint8_t>(layer), static_cast<std::uint8_t>(tile.level), tile.tile};
      chunk.distortion = end.measured_saved - reached.measured_saved;
      chunk.bytes = writer.Take();
      out.chunks.push_back(std::move(chunk));
      previous_layer = static_cast<int>(layer);
      passes = end_passes;
      reached = end;
    }
    out.passes.push_back(passes);
    out.seen_left += tile.code.energy.seen_saved - reached.seen_saved;
    out.measured_left += tile.code.energy.measured_saved - reached.measured_saved;
  }
  // Where all that is worth its bytes is worth more than that, the last layers are empty.
  out.layer_count = 1;
  for (const container::ChunkData& chunk : out.chunks) {
    out.layer_count = std::max(out.layer_count, std::uint32_t{chunk.id.layer} + 1);
  }
  return out;
}

// What one choice of bases means for the header, and the bases to store in the file.
struct BasisPlan {
  container::AssetHeader header;
  BasisResolver resolve;
  std::vector<std::vector<std::uint8_t>> embedded;
  // Whether the steps of Cb and Cr follow from the picture: see colour_balance.h.
  bool balances_colour = false;
};

// How much coarser fine detail (see container::AssetHeader::visual_weight) and colour differences are quantised than
// rough luminance.
struct TuningWeights {
  float visual_weight = 0;
  float chroma_step = 1;
};
TuningWeights WeightsFor(Tuning tuning) {
  switch (tuning) {
    case Tuning::kPsnr:
      return {0.0f, 1.2f};
    case Tuning::kMsSsim:
      return {0.45f, 3.0f};
    case Tuning::kEye:
      break;
  }
  return {0.2f, 2.0f};
}

void AddGroup(container::AssetHeader& header, const basis::Hash& hash, std::uint32_t channels, float weight) {
  const auto found = std::find(header.bases.begin(), header.bases.end(), hash);
  container::ComponentGroup group;
  group.first_channel =
      header.groups.empty() ? 0 : header.groups.back().first_channel + header.groups.back().channel_count;
  group.channel_count = channels;
  group.basis_index = static_cast<std::uint32_t>(found - header.bases.begin());
  group.step_weight = weight;
  if (found == header.bases.end()) header.bases.push_back(hash);
  header.groups.push_back(group);
}

BasisPlan PlanUniversal(const pixels::Picture& picture, Tuning tuning, bool lapped) {
  BasisPlan plan;
  container::AssetHeader& header = plan.header;
  header.lapped = lapped;
  header.layout = picture.layout();
  header.metadata = picture.metadata();
  const TuningWeights weights = WeightsFor(tuning);
  const bool rgb = header.layout.color_model == pixels::ColorModel::kRgb;
  if (rgb) header.color_transform = container::ColorTransform::kYCbCr;
  for (std::uint32_t c = 0; c < header.layout.channels; ++c) {
    const bool chroma = rgb && (c == 1 || c == 2);
    const auto& basis = lapped ? (chroma ? basis::BuiltInChroma() : basis::BuiltInLuma())
                               : (chroma ? basis::BuiltInDrawingChroma() : basis::BuiltInDrawingLuma());
    AddGroup(header, basis->hash(), 1, chroma ? weights.chroma_step : 1.0f);
  }
  header.visual_weight = weights.visual_weight;
  header.smoothing = kSmoothing;
  plan.balances_colour = rgb && lapped && tuning == Tuning::kPsnr;
  plan.resolve = [](const basis::Hash& hash) { return basis::FindBuiltIn(hash); };
  return plan;
}

BasisPlan PlanWith(const pixels::Picture& picture, Tuning tuning, std::shared_ptr<const basis::Basis> basis,
                   bool embed, bool lapped) {
  BasisPlan plan = PlanUniversal(picture, tuning, lapped);
  container::AssetHeader& header = plan.header;
  if (basis->channels() == 1) {
    // For the first plane and alpha; colour differences keep their own.
    header.bases[header.groups[0].basis_index] = basis->hash();
  } else {
    header.bases.clear();
    header.groups.clear();
    header.color_transform = container::ColorTransform::kNone;
    plan.balances_colour = false;
    AddGroup(header, basis->hash(), basis->channels(), 1.0f);
  }
  if (embed) plan.embedded.push_back(basis->bytes());
  plan.resolve = [basis](const basis::Hash& hash) { return hash == basis->hash() ? basis : basis::FindBuiltIn(hash); };
  return plan;
}

// A file, and what it costs: bytes, and the distortion left at the price of the last byte.
struct Trial {
  Encoded encoded;
  double cost = 0;
  std::vector<std::size_t> passes;  // see Layered
};

// Samples changed by an error of one plane: one in Y, Cb or Cr appears in about three.
double PlaneGain(const container::AssetHeader& header) {
  return header.color_transform == container::ColorTransform::kYCbCr ? 3.0 : 1.0;
}

Result<Trial> Assemble(const container::AssetHeader& layout_header, const BasisPlan& plan,
                       const std::vector<CodedTile>& tiles, std::uint32_t k, double slope,
                       std::span<const std::size_t> at_least = {}) {
  container::AssetHeader header = layout_header;
  const double square = static_cast<double>(header.base_step) * header.base_step * PlaneGain(header);
  // Distortion is counted over whole patches, so it is spread over them.
  const container::Level& picture = header.levels[0];
  const double samples = static_cast<double>(picture.patches_x) * picture.patches_y * picture.patch_px *
                         picture.patch_px * header.layout.channels;
  Layered layered = CutLayers(tiles, slope, at_least);
  header.layer_count = layered.layer_count;
  header.final_mse = static_cast<float>(std::max(0.0, layered.measured_left) * square / samples);
  Trial out;
  EncodeStatistics& statistics = out.encoded.statistics;
  statistics.layer_bytes.assign(header.layer_count, 0);
  for (container::ChunkData& chunk : layered.chunks) {
    chunk.distortion *= square;
    statistics.layer_bytes[chunk.id.layer] += chunk.bytes.size();
  }
  HOLO_ASSIGN_OR_RETURN(out.encoded.file, container::SerializeAsset(header, plan.embedded, std::move(layered.chunks)));
  statistics.file_bytes = out.encoded.file.size();
  for (const auto& bytes : plan.embedded) statistics.basis_bytes += bytes.size();
  statistics.k = k;
  const double largest = pixels::MaxSample(header.layout.sample_type);
  statistics.estimated_psnr_db = 10 * std::log10(largest * largest / std::max(1e-9, double{header.final_mse}));
  out.cost = static_cast<double>(out.encoded.file.size()) + layered.seen_left / kFinalSlope;
  out.passes = std::move(layered.passes);
  return out;
}

// How many passes of each tile fit into `room` bytes beyond the first `from` of them, up to `to`: tile by tile, from the top
// level down.
std::vector<std::size_t> FillRoom(const std::vector<CodedTile>& tiles, std::span<const std::size_t> from,
                                  std::span<const std::size_t> to, std::uint64_t room) {
  constexpr std::uint32_t kChunkOverhead = 8;  // its header and its place in the index, or what is more of them
  std::vector<std::size_t> order(tiles.size());
  for (std::size_t t = 0; t < order.size(); ++t) order[t] = t;
  std::sort(order.begin(), order.end(), [&tiles](std::size_t a, std::size_t b) {
    return std::pair(tiles[b].level, tiles[a].tile) < std::pair(tiles[a].level, tiles[b].tile);
  });
  std::vector<std::size_t> passes(from.begin(), from.end());
  for (const std::size_t t : order) {
    const std::vector<CutPoint>& cuts = tiles[t].code.cuts;
    const std::uint32_t begin = from[t] > 0 ? cuts[from[t] - 1].bytes : 0;
    std::uint64_t taken = 0;
    for (std::size_t p = from[t]; p < to[t] && cuts[p].bytes - begin + kChunkOverhead <= room; ++p) {
      if (cuts[p].bytes == begin) continue;
      passes[t] = p + 1;
      taken = cuts[p].bytes - begin + kChunkOverhead;
    }
    room -= taken;
  }
  return passes;
}

// Drops what saves least a byte until the file fits, and of that takes back what there is room for. The size falls as the
// slope rises.
Result<Trial> Trim(const container::AssetHeader& header, const BasisPlan& plan, const std::vector<CodedTile>& tiles,
                   std::uint32_t k, Trial whole, std::uint64_t max_bytes) {
  if (whole.encoded.file.size() <= max_bytes) return whole;
  double low = kFinalSlope;
  double high = kFinalSlope;
  std::vector<std::size_t> too_many;  // passes, at `low`
  do {
    low = high;
    too_many = std::move(whole.passes);
    high *= 4;
    if (high > 1e15) {
      return Fail(Code::kInvalidArgument, "encoding: expected room for at least " +
                                              std::to_string(whole.encoded.file.size()) + " bytes, found a limit of " +
                                              std::to_string(max_bytes));
    }
    HOLO_ASSIGN_OR_RETURN(whole, Assemble(header, plan, tiles, k, high));
  } while (whole.encoded.file.size() > max_bytes);
  for (int i = 0; i < 12; ++i) {
    const double middle = std::sqrt(low * high);
    HOLO_ASSIGN_OR_RETURN(Trial candidate, Assemble(header, plan, tiles, k, middle));
    if (candidate.encoded.file.size() <= max_bytes) {
      high = middle;
      whole = std::move(candidate);
    } else {
      low = middle;
      too_many = std::move(candidate.passes);
    }
  }
  const std::vector<std::size_t> filled =
      FillRoom(tiles, whole.passes, too_many, max_bytes - whole.encoded.file.size());
  HOLO_ASSIGN_OR_RETURN(Trial full, Assemble(header, plan, tiles, k, high, filled));
  return full.encoded.file.size() <= max_bytes ? std::move(full) : std::move(whole);
}

// The smallest k that holds `variance` (0..1) of the variance of level-0 patches, means included.
std::uint32_t DimensionsFor(const pixels::Picture& picture, const container::AssetHeader& header,
                            const AssetLayout& layout, double variance) {
  const Analysis analysis(picture, header, layout);
  const container::Level& level = header.levels[0];
  const container::Level& next = header.levels[1];
  const double area = level.patch_px * level.patch_px;
  std::vector<Plane> means = analysis.MeansOf(0);
  std::vector<std::vector<double>> energy(layout.groups.size());
  for (std::size_t g = 0; g < energy.size(); ++g) energy[g].assign(layout.groups[g].count8, 0.0);
  for (std::uint32_t row = 0; row < level.tiles_y; ++row) {
    std::uint32_t first_row = 0;
    const std::vector<Plane> strip = analysis.Strip(row, first_row);
    for (std::uint32_t column = 0; column < level.tiles_x; ++column) {
      const TileTargets targets = analysis.ProjectTile(strip, 0, row * level.tiles_x + column, first_row, means);
      for (std::size_t g = 0; g < energy.size(); ++g) {
        const std::vector<float> steps = StepsOf(header, layout.groups[g], level);
        for (std::size_t i = 0; i < targets.groups[g].size(); ++i) {
          const std::size_t k = i % energy[g].size();
          const double coefficient = double{targets.groups[g][i]} * steps[k];
          energy[g][k] += coefficient * coefficient;
        }
      }
    }
  }
  double captured = 0;
  const double patches = static_cast<double>(level.patches_x) * level.patches_y;
  for (const Plane& plane : means) {
    double sum = 0;
    double squares = 0;
    for (std::uint32_t y = 0; y < next.height; ++y) {
      for (std::uint32_t x = 0; x < next.width; ++x) {
        sum += plane.Row(y)[x];
        squares += static_cast<double>(plane.Row(y)[x]) * plane.Row(y)[x];
      }
    }
    captured += std::max(0.0, squares - sum * sum / patches) * area;
  }
  double total = captured;
  for (const auto& group : energy) {
    for (const double e : group) total += e;
  }
  const std::uint32_t all = layout.dimensions();
  std::uint32_t k = header.layout.channels;
  std::vector<std::uint32_t> before = layout.CountsAt(k);
  while (k < all && captured < variance * total) {
    const std::vector<std::uint32_t> after = layout.CountsAt(++k);
    for (std::size_t g = 0; g < after.size(); ++g) {
      if (after[g] > before[g]) captured += energy[g][before[g]];
    }
    before = after;
  }
  return k;
}

// Squares of `side` pixels on a grid over the picture, together about `share` of it.
std::vector<pixels::Rect> PartsOf(const pixels::Picture& picture, std::uint32_t side, double share) {
  constexpr double kMostParts = 16;
  const double width = picture.width();
  const double height = picture.height();
  const double count = std::clamp(width * height * share / (static_cast<double>(side) * side), 1.0, kMostParts);
  const double across = std::round(std::sqrt(count * width / height));
  const auto columns = static_cast<std::uint32_t>(std::clamp(across, 1.0, count));
  const auto rows = static_cast<std::uint32_t>(std::max(1.0, std::floor(count / columns)));
  // Of `parts` parts along `length` pixels, where part `i` begins: in the middle of its share.
  const auto begin = [side](std::uint32_t length, std::uint32_t parts, std::uint32_t i) {
    const std::uint32_t middle = static_cast<std::uint32_t>((std::uint64_t{2} * i + 1) * length / (2 * parts));
    return std::min(middle - std::min(middle, side / 2), length - std::min(length, side)) / 8 * 8;
  };
  std::vector<pixels::Rect> parts;
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t column = 0; column < columns; ++column) {
      parts.push_back({begin(picture.width(), columns, column), begin(picture.height(), rows, row),
                       std::min(side, picture.width()), std::min(side, picture.height())});
    }
  }
  return parts;
}

// How exactly to code where the bytes are not limited.
struct Precision {
  float step = 0;                                    // in 8-bit samples
  const std::vector<std::int16_t>* moves = nullptr;  // see Analysis
  Quantiser quantiser{};
  double progress_from = 0;
  double progress_to = 1;
};

// Sets the step weights of Cb and Cr for the plan's base step.
Result<void> Balance(const pixels::Picture& picture, BasisPlan& plan, unsigned threads) {
  std::vector<pixels::Picture> parts;
  for (const pixels::Rect& rect : PartsOf(picture, 256, 1.0)) {
    HOLO_ASSIGN_OR_RETURN(parts.emplace_back(), picture.Crop(rect));
  }
  HOLO_ASSIGN_OR_RETURN(const auto shares, BalanceColour(parts, plan.header, plan.resolve, threads));
  for (std::size_t i = 0; i < shares.size(); ++i) {
    container::ComponentGroup& group = plan.header.groups[i + 1];
    group.step_weight = shares[i].step_weight;
    group.idle_slots = shares[i].idle_slots;
  }
  return {};
}

// The best file with the bases of `plan`.
Result<Trial> EncodeWith(const pixels::Picture& picture, BasisPlan plan, const EncodeOptions& options,
                         const Precision& precision) {
  container::AssetHeader& header = plan.header;
  const float to_samples = pixels::MaxSample(header.layout.sample_type) / 255.0f;
  float step = precision.step;
  header.base_step = step * to_samples;
  if (plan.balances_colour) HOLO_RETURN_IF_ERROR(Balance(picture, plan, options.threads));
  header.large_tiles = std::uint64_t{header.layout.width} * header.layout.height <= kLargeTilesUpTo &&
                       header.layout.channels <= kLargeTilesUpToChannels;
  header.levels = container::DeriveLevels(header.layout.width, header.layout.height, header.large_tiles);
  header.max_k = options.k;
  HOLO_ASSIGN_OR_RETURN(AssetLayout layout, AssetLayout::Create(header, plan.resolve));
  if (options.variance) {
    header.max_k = 0;
    HOLO_ASSIGN_OR_RETURN(const AssetLayout whole, AssetLayout::Create(header, plan.resolve));
    header.max_k = DimensionsFor(picture, header, whole, *options.variance);
    HOLO_ASSIGN_OR_RETURN(layout, AssetLayout::Create(header, plan.resolve));
  }
  const std::uint32_t k = layout.dimensions();
  if (!options.max_bytes) {
    HOLO_ASSIGN_OR_RETURN(
        const std::vector<CodedTile> tiles,
        CodeTiles(picture, header, layout, options, precision.quantiser, precision.progress_from,
                  precision.progress_to, precision.moves));
    return Assemble(header, plan, tiles, k, kFinalSlope);
  }
  // Find a step whose file just fits, as what has to be trimmed is missed in some places more than in others. Bytes go about
  // as step^-1.3, and from the second round on as the last two tell.
  constexpr double kAim = 0.997;
  const auto limit = static_cast<double>(*options.max_bytes);
  double exponent = -1.3;
  double last_step = 0;
  double last_ratio = 0;
  double from = 0;
  for (int round = 0;; ++round) {
    header.base_step = step * to_samples;
    if (round > 0 && plan.balances_colour) {
      HOLO_RETURN_IF_ERROR(Balance(picture, plan, options.threads));
      HOLO_ASSIGN_OR_RETURN(layout, AssetLayout::Create(header, plan.resolve));
    }
    const double to = from + (1 - from) / 2;
    HOLO_ASSIGN_OR_RETURN(const std::vector<CodedTile> tiles, CodeTiles(picture, header, layout, options, precision.quantiser, from, to));
    from = to;
    HOLO_ASSIGN_OR_RETURN(Trial trial, Assemble(header, plan, tiles, k, kFinalSlope));
    const double ratio = static_cast<double>(trial.encoded.file.size()) / limit;
    const bool at_the_end = ratio > 1 ? step >= kLargestStep : step <= kSmallestStep;
    if (round == 5 || at_the_end || (ratio > 0.994 && ratio <= (round < 3 ? 1.0 : 1.02))) {
      return Trim(header, plan, tiles, k, std::move(trial), *options.max_bytes);
    }
    if (round > 0 && step != last_step) {
      const double measured = std::log(ratio / last_ratio) / std::log(step / last_step);
      if (measured > -3 && measured < -0.5) exponent = measured;
    }
    last_step = step;
    last_ratio = ratio;
    step = std::clamp(step * static_cast<float>(std::pow(ratio / kAim, -1 / exponent)), kSmallestStep, kLargestStep);
  }
}

// Compares rows of samples. Where they differ by more than `allowed`, `move` goes against the error; the number of such
// samples is returned.
template <typename Sample>
std::uint64_t MoveAgainstErrors(std::span<const Sample> wanted, std::span<const Sample> shown, std::int32_t allowed,
                                std::int16_t* move) {
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const std::int32_t error = std::int32_t{shown[i]} - wanted[i];
    if (std::abs(error) <= allowed) continue;
    ++count;
    // What is too much, and with 16 bits a little more, as it would only just arrive.
    const std::int32_t excess = std::abs(error) - allowed + allowed / 2;
    const std::int32_t moved = move[i] - (error > 0 ? excess : -excess);
    move[i] = static_cast<std::int16_t>(std::clamp<std::int32_t>(moved, -16384, 16384));
  }
  return count;
}

// The same for a whole picture and the file made of it.
Result<std::uint64_t> MoveAgainstErrors(const pixels::Picture& picture, const std::vector<std::uint8_t>& file,
                                        const BasisResolver& resolve, std::int32_t allowed, unsigned threads,
                                        std::vector<std::int16_t>& moves) {
  HOLO_ASSIGN_OR_RETURN(const container::AssetReader reader,
                        container::AssetReader::Open(std::make_shared<container::MemorySource>(file)));
  HOLO_ASSIGN_OR_RETURN(Decoder decoder, Decoder::Create(reader.header(), resolve));
  for (const container::ChunkInfo& chunk : reader.chunks()) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, reader.ReadChunk(chunk));
    HOLO_RETURN_IF_ERROR(decoder.AddChunk(chunk.id, bytes));
  }
  std::uint64_t count = 0;
  constexpr std::uint32_t kRows = 256;
  for (std::uint32_t y = 0; y < picture.height(); y += kRows) {
    const pixels::Rect part{0, y, picture.width(), std::min(kRows, picture.height() - y)};
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture shown, render::Render(decoder, {part, 0, 0}, threads));
    for (std::uint32_t row = 0; row < part.height; ++row) {
      std::int16_t* move = moves.data() + std::size_t{y + row} * picture.width() * picture.channels();
      count += picture.layout().sample_type == pixels::SampleType::kU8
                   ? MoveAgainstErrors<std::uint8_t>(picture.RowU8(y + row), shown.RowU8(row), allowed, move)
                   : MoveAgainstErrors<std::uint16_t>(picture.RowU16(y + row), shown.RowU16(row), allowed, move);
    }
  }
  return count;
}

// A file that shows every sample within 1/255 of the range. At the step tried first a few samples in ten thousand are
// further off: those are moved against their error and everything is coded again, which costs nearly no bytes, where a
// step that gets all of them right costs an eighth more.
Result<Trial> EncodeNearLossless(const pixels::Picture& picture, BasisPlan plan, const EncodeOptions& options) {
  const bool ycbcr = plan.header.color_transform == container::ColorTransform::kYCbCr;
  plan.header.visual_weight = 0;
  plan.header.smoothing = 0;
  plan.balances_colour = false;
  for (container::ComponentGroup& group : plan.header.groups) group.step_weight = 1.0f;
  if (ycbcr) {
    // An error of Cb is 1.8 times as large in blue, one of Cr 1.4 times in red.
    for (const std::size_t chroma : {1, 2}) plan.header.groups[chroma].step_weight = 0.75f;
  }
  Precision precision;
  precision.step = ycbcr ? 0.87f : 1.4f;
  precision.quantiser = {0.33f, 0};
  if (options.k != 0 || options.variance) return EncodeWith(picture, plan, options, precision);
  const auto allowed = static_cast<std::int32_t>(pixels::MaxSample(picture.layout().sample_type) / 255);
  const std::size_t samples = std::size_t{picture.width()} * picture.height() * picture.channels();
  constexpr float kFinestStep = 0.1f;
  constexpr int kRounds = 6;
  std::uint64_t wrong = 0;
  precision.progress_to = 0;
  for (; precision.step > kFinestStep; precision.step *= 0.85f) {
    std::vector<std::int16_t> moves(samples, 0);
    precision.moves = &moves;
    for (int round = 0; round < kRounds; ++round) {
      // How many rounds it takes is not known: each fills half of what is left.
      precision.progress_from = precision.progress_to;
      precision.progress_to = (1 + precision.progress_from) / 2;
      HOLO_ASSIGN_OR_RETURN(Trial trial, EncodeWith(picture, plan, options, precision));
      HOLO_ASSIGN_OR_RETURN(
          wrong, MoveAgainstErrors(picture, trial.encoded.file, plan.resolve, allowed, options.threads, moves));
      if (wrong == 0) return trial;
      if (wrong > samples / 500) break;  // too many to be moved one by one
    }
  }
  return Fail(Code::kInvalidArgument, "quality 100: expected a basis that shows every sample within " +
                                          std::to_string(allowed) + ", found " + std::to_string(wrong) + " of " +
                                          std::to_string(samples) + " further off");
}

// Whether most samples are what their left neighbours are: a screen or a drawing, not something that was photographed.
bool LooksDrawn(const pixels::Picture& picture) {
  const std::size_t pixel_bytes = picture.row_bytes() / picture.width();
  std::uint64_t same = 0;
  std::uint64_t all = 0;
  for (std::uint32_t y = 0; y < picture.height(); y += 4) {
    const std::uint8_t* row = picture.bytes().data() + y * picture.row_bytes();
    for (std::uint32_t x = 1; x < picture.width(); ++x, ++all) {
      const std::uint8_t* pixel = row + x * pixel_bytes;
      same += std::equal(pixel, pixel + pixel_bytes, pixel - pixel_bytes) ? 1 : 0;
    }
  }
  return 2 * same > all;
}

// Whether the picture is coded as a drawing: parts of it are coded both ways. What does not look drawn must gain by it, as
// patches that no filter joins show their borders.
Result<bool> IsDrawing(const pixels::Picture& picture, const EncodeOptions& options, float step) {
  EncodeOptions whole;  // of the part
  whole.threads = options.threads;
  whole.k = options.k;
  double as_drawing = 0;
  double as_photograph = 0;
  for (const pixels::Rect& rect : PartsOf(picture, 128, 1.0 / 12)) {
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture part, picture.Crop(rect));
    for (const bool lapped : {true, false}) {
      BasisPlan plan = PlanUniversal(part, options.tuning, lapped);
      plan.balances_colour = false;  // or they could not be compared
      HOLO_ASSIGN_OR_RETURN(const Trial trial, EncodeWith(part, std::move(plan), whole, {step}));
      (lapped ? as_photograph : as_drawing) += trial.cost;
    }
  }
  constexpr double kWorthwhile = 0.9;
  return as_drawing < (LooksDrawn(picture) ? 1.0 : kWorthwhile) * as_photograph;
}

// A basis for this picture alone: rows that vary less than quantisation would keep are left out.
Result<std::shared_ptr<const basis::Basis>> TrainOwn(const pixels::Picture& picture, float step) {
  const pixels::Layout& layout = picture.layout();
  const bool joint = layout.color_model == pixels::ColorModel::kGeneric && layout.channels > 1 &&
                     layout.channels <= basis::kMaxChannelsPerGroup;
  HOLO_ASSIGN_OR_RETURN(auto trainer,
                        basis::Trainer::Create(joint ? basis::TrainingPlanes::kJoint : basis::TrainingPlanes::kLuma,
                                               joint ? layout.channels : 1));
  HOLO_RETURN_IF_ERROR(trainer.AddPicture(picture));
  return trainer.Finish("one picture", 0.25f * step);
}

}  // namespace

std::size_t ContextCount() {
  return kContexts;
}

Result<Encoded> Encode(const pixels::Picture& picture, const EncodeOptions& options) {
  HOLO_RETURN_IF_ERROR(pixels::Validate(picture.layout()));
  if (!(options.quality >= 0 && options.quality <= 100)) {
    return Fail(Code::kInvalidArgument,
                "encoding: expected a quality of 0 to 100, found " + std::to_string(options.quality));
  }
  if (options.variance && !(*options.variance > 0 && *options.variance <= 1)) {
    return Fail(Code::kInvalidArgument,
                "encoding: expected a variance above 0 and up to 1, found " + std::to_string(*options.variance));
  }
  if (options.k != 0 && options.k < picture.channels()) {
    return Fail(Code::kInvalidArgument, "encoding: expected k to hold at least the " +
                                            std::to_string(picture.channels()) + " channel means, found " +
                                            std::to_string(options.k));
  }
  const bool near_lossless = options.quality == 100 && !options.max_bytes;
  const float step = StepAtQuality(options.quality);
  const auto encode = [&](const BasisPlan& plan) {
    return near_lossless ? EncodeNearLossless(picture, plan, options)
                         : EncodeWith(picture, plan, options, {step});
  };
  switch (options.basis_choice) {
    case BasisChoice::kGiven: {
      if (options.basis == nullptr ||
          (options.basis->channels() != 1 && options.basis->channels() != picture.channels())) {
        return Fail(Code::kInvalidArgument, "encoding: expected a basis for 1 channel or all " +
                                                std::to_string(picture.channels()) + ", found " +
                                                (options.basis ? std::to_string(options.basis->channels()) : "none"));
      }
      HOLO_ASSIGN_OR_RETURN(Trial trial, encode(PlanWith(picture, options.tuning, options.basis, options.embed_basis,
                                                         options.lapped.value_or(true))));
      return std::move(trial.encoded);
    }
    case BasisChoice::kUniversal:
    case BasisChoice::kOwn:
    case BasisChoice::kAuto:
      break;
  }
  Trial best;
  const bool only_own = options.basis_choice == BasisChoice::kOwn;
  if (!only_own) {
    bool lapped = options.lapped.value_or(true);
    if (!options.lapped) {
      HOLO_ASSIGN_OR_RETURN(const bool drawing, IsDrawing(picture, options, step));
      lapped = !drawing;
    }
    HOLO_ASSIGN_OR_RETURN(best, encode(PlanUniversal(picture, options.tuning, lapped)));
    if (options.basis_choice == BasisChoice::kUniversal) return std::move(best.encoded);
    // Where even a tenth less would not pay for the basis there is nothing to try.
    constexpr std::size_t kOwnBasisBytes = 8800;
    if (best.encoded.file.size() < 10 * kOwnBasisBytes) return std::move(best.encoded);
  }
  HOLO_ASSIGN_OR_RETURN(const auto own, TrainOwn(picture, near_lossless ? 0 : step));
  HOLO_ASSIGN_OR_RETURN(Trial trial, encode(PlanWith(picture, options.tuning, own, true, options.lapped.value_or(true))));
  // A basis in the file delays the first picture, so it must pay.
  constexpr double kWorthwhile = 0.95;
  if (only_own || trial.cost < kWorthwhile * best.cost) best = std::move(trial);
  return std::move(best.encoded);
}

}  // namespace holo::codec
