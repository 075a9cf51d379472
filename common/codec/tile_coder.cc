#include "common/codec/tile_coder.h"

#include <bit>
#include <cmath>

namespace holo::codec {
namespace {

// Sizes of successive bands of a group: small where most of the energy is.
constexpr std::array<std::uint32_t, 16> kBandSizes = {2, 3, 4, 5, 6, 8, 10, 12, 13, 16, 20, 24, 28, 32, 48, 64};

// Weighted sums of neighbours to eight levels: of the same coefficient around, and of others in the patch.
constexpr std::array<std::uint8_t, 21> kAroundLevel = {0, 1, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7};
constexpr std::array<std::uint8_t, 21> kInsideLevel = {0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7};

inline std::uint32_t Clip(std::uint32_t bits, int shift, std::uint32_t limit) {
  return std::min(bits >> shift, limit);
}

// Encoder side of CodePass: hands the true bits out, codes them, and adds up the distortion saved.
class Writer {
 public:
  static constexpr bool kEncodes = true;

  Writer(entropy::RangeEncoder& encoder, std::vector<std::array<std::uint64_t, 2>>* statistics,
         entropy::Probability* first)
      : encoder_(encoder), statistics_(statistics), first_(first) {}

  bool Code(bool bit, entropy::Probability& probability) {
    if (statistics_ != nullptr) ++(*statistics_)[static_cast<std::size_t>(&probability - first_)][bit ? 1 : 0];
    encoder_.Code(bit, probability);
    return bit;
  }
  bool CodeRaw(bool bit) {
    encoder_.CodeRaw(bit);
    return bit;
  }
  static bool Stopped() { return false; }

 private:
  entropy::RangeEncoder& encoder_;
  std::vector<std::array<std::uint64_t, 2>>* statistics_;
  entropy::Probability* first_;
};

class Reader {
 public:
  static constexpr bool kEncodes = false;

  // A code whose rest is missing ends with its bytes; a whole one may rely on a few zeros behind them.
  Reader(entropy::RangeDecoder& decoder, bool partial)
      : decoder_(decoder), allowed_overrun_(partial ? 0 : entropy::kImpliedZeros) {}

  bool Code(bool, entropy::Probability& probability) { return decoder_.Code(probability); }
  bool CodeRaw(bool) { return decoder_.CodeRaw(); }
  [[nodiscard]] bool Stopped() const { return decoder_.overrun_bytes() > allowed_overrun_; }

 private:
  entropy::RangeDecoder& decoder_;
  std::size_t allowed_overrun_;
};

// What only the encoder knows of a band.
struct BandTarget {
  std::vector<std::uint32_t> values;  // as Band::values, complete
  std::vector<float> exact;           // |coefficient| in steps, same shape
  const float* weights = nullptr;     // [count] see EncodeTile
  int top_plane = -1;
};

// Weighted magnitudes of the same coefficient in the eight patches around, at `shift`.
std::uint32_t EnergyAround(const std::uint32_t* at, std::size_t count, std::size_t row_step, int shift) {
  return 2 * (Clip(*(at - count), shift, 3) + Clip(*(at - row_step), shift, 3) + Clip(*(at + count), shift, 3) +
              Clip(*(at + row_step), shift, 3)) +
         Clip(*(at - row_step - count), shift, 3) + Clip(*(at - row_step + count), shift, 3) +
         Clip(*(at + row_step - count), shift, 3) + Clip(*(at + row_step + count), shift, 3);
}

// Twice the mean magnitude of a band in one patch.
std::uint32_t EnergyOfBand(const Band& band, std::size_t cell, int shift) {
  const std::uint32_t count = band.shape.count;
  const std::uint32_t* values = band.values.data() + cell * count;
  std::uint32_t energy = 0;
  for (std::size_t i = 0; i < count; ++i) energy += Clip(values[i], shift, 3);
  return (2 * energy + count / 2) / count;
}

std::size_t ActiveContext(const Band& band, std::size_t cell, std::size_t stride, std::uint32_t inside) {
  const std::uint8_t* at = band.active.data() + cell;
  const std::uint32_t sides = *(at - 1) + *(at + 1) + *(at - stride) + *(at + stride);
  const std::uint32_t corners = *(at - stride - 1) + *(at - stride + 1) + *(at + stride - 1) + *(at + stride + 1);
  const std::uint32_t around = 2 * sides + corners;
  const std::uint32_t level = around == 0 ? 0 : around <= 2 ? 1 : around <= 5 ? 2 : 3;
  return level * 4 + inside;
}

// `values` are the patch's, `luma` the same band of the first group or null, `lower` the energy of the next lower band.
std::size_t SignificanceContext(const std::uint32_t* values, std::size_t i, std::size_t count, std::size_t row_step,
                                const std::uint32_t* luma, std::uint32_t lower, int shift) {
  std::uint32_t inside = std::min(lower, 4u);
  if (i > 0) inside += 2 * Clip(values[i - 1], shift, 3);
  if (i > 1) inside += Clip(values[i - 2], shift, 2);
  if (i > 2) inside += Clip(values[i - 3], shift, 2);
  if (i + 1 < count) inside += Clip(values[i + 1], shift, 2);
  if (i + 2 < count) inside += Clip(values[i + 2], shift, 2);
  if (luma != nullptr) inside += 2 * Clip(luma[i], shift, 3);
  const std::uint32_t around = EnergyAround(values + i, count, row_step, shift);
  return kAroundLevel[std::min(around, 20u)] * 8u + kInsideLevel[std::min(inside, 20u)];
}

std::size_t RefinementContext(const std::uint32_t* at, std::size_t count, std::size_t row_step, int shift) {
  const std::uint32_t known = *at >> (shift + 1);
  if (known >= 4) return 5;
  const std::uint32_t sides = Clip(*(at - count), shift, 2) + Clip(*(at - row_step), shift, 2) +
                              Clip(*(at + count), shift, 2) + Clip(*(at + row_step), shift, 2);
  const std::uint32_t level = (sides + 1) / 3;
  return known == 1 ? std::min(level, 2u) : 3 + std::min(level, 1u);
}

// Plane `plane` of one patch of a band; `lower` and `luma` as SignificanceContext takes them. False if the code ended.
template <class Coder>
bool CodePatch(Contexts& contexts, Band& band, std::size_t cell, std::size_t stride, int plane, std::uint32_t lower,
               const std::uint32_t* luma, Coder& coder, const BandTarget* target, CutPoint* cut) {
  const std::uint32_t context_class = band.shape.context_class;
  const std::size_t count = band.shape.count;
  const std::size_t row_step = stride * count;
  const int shift = plane + 1;
  std::uint32_t* values = band.values.data() + cell * count;
  const std::uint32_t* truth = nullptr;
  if constexpr (Coder::kEncodes) truth = target->values.data() + cell * count;

  bool fresh = false;
  if (band.active[cell] == 0) {
    if constexpr (Coder::kEncodes) {
      for (std::size_t i = 0; i < count; ++i) fresh |= (truth[i] >> shift) != 0;
    }
    const std::uint32_t inside = std::min(lower, 2u) + (luma != nullptr ? 1 : 0);
    fresh = coder.Code(fresh, contexts.Active(context_class, ActiveContext(band, cell, stride, inside)));
    if (coder.Stopped()) return false;
    if (!fresh) return true;
    band.active[cell] = 1;
  }

  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t before = values[i];
    bool bit = false;
    if constexpr (Coder::kEncodes) bit = (truth[i] >> shift & 1) != 0;
    if (before >= 2) {
      const std::size_t context = RefinementContext(values + i, count, row_step, shift);
      bit = coder.Code(bit, contexts.Refinement(context_class, context));
      if (coder.Stopped()) return false;
      values[i] = before | (bit ? 1u : 0u) << shift;
    } else {
      const bool implied = fresh && i + 1 == count;  // the patch is active, and it was none of the others
      if (implied) {
        bit = true;
      } else {
        const std::size_t context = SignificanceContext(values, i, count, row_step, luma, lower, shift);
        bit = coder.Code(bit, contexts.Significance(context_class, context));
        if (coder.Stopped()) return false;
      }
      if (!bit) continue;
      fresh = false;
      bool negative = false;
      if constexpr (Coder::kEncodes) negative = (truth[i] & 1) != 0;
      negative = coder.CodeRaw(negative);
      if (coder.Stopped()) return false;
      values[i] = std::uint32_t{1} << shift | (negative ? 1u : 0u);
    }
    if constexpr (Coder::kEncodes) {
      const double exact = target->exact[cell * count + i];
      const double old_error = exact - std::abs(Dequantise(before, shift));
      const double new_error = exact - std::abs(Dequantise(values[i], plane));
      const double saved = old_error * old_error - new_error * new_error;
      cut->seen_saved += saved;
      cut->measured_saved += saved * target->weights[i];
    }
  }
  return true;
}

// One pass: plane `plane` of band `band_index`. False if the code ended inside.
template <class Coder>
bool CodePass(TileState& tile, std::size_t band_index, int plane, Coder& coder, const BandTarget* target,
              CutPoint* cut) {
  Band& band = tile.bands[band_index];
  if (!band.started) {
    bool starts = false;
    if constexpr (Coder::kEncodes) starts = target->top_plane >= plane;
    starts = coder.Code(starts, tile.contexts.Started(band.shape.context_class));
    if (coder.Stopped()) return false;
    if (!starts) {
      band.plane = plane;
      band.ahead = 0;
      return true;
    }
    band.started = true;
  }
  const Band* lower = band.shape.lower_band != kNoBand ? &tile.bands[band.shape.lower_band] : nullptr;
  if (lower != nullptr && !lower->started) lower = nullptr;
  const Band* luma = band.shape.luma_band != kNoBand ? &tile.bands[band.shape.luma_band] : nullptr;
  for (std::uint32_t row = 0; row < tile.rows; ++row) {
    for (std::uint32_t column = 0; column < tile.columns; ++column) {
      const std::size_t cell = tile.CellOf(column, row);
      const std::uint32_t energy = lower != nullptr ? EnergyOfBand(*lower, cell, plane + 1) : 0;
      const std::uint32_t* luma_values =
          luma != nullptr && luma->active[cell] != 0 ? luma->values.data() + cell * luma->shape.count : nullptr;
      if (!CodePatch(tile.contexts, band, cell, tile.stride(), plane, energy, luma_values, coder, target, cut)) {
        band.ahead = std::size_t{row} * tile.columns + column;
        return false;
      }
    }
  }
  band.plane = plane;
  band.ahead = 0;
  return true;
}

}  // namespace

Contexts::Contexts() {
  all.reserve(kContexts);
  for (const std::uint16_t probability : InitialProbabilities()) all.emplace_back(probability);
}

std::vector<BandShape> MakeBands(TileKind kind, std::span<const std::uint32_t> counts) {
  std::vector<BandShape> bands;
  std::vector<std::uint32_t> next(counts.size(), 0);
  for (std::uint32_t index = 0;; ++index) {
    bool any = false;
    for (std::uint32_t group = 0; group < counts.size(); ++group) {
      const std::uint32_t left = counts[group] - next[group];
      if (left == 0) continue;
      any = true;
      const std::uint32_t size = std::min(left, kBandSizes[std::min<std::size_t>(index, kBandSizes.size() - 1)]);
      const std::uint32_t family = group == 0 ? 0 : 1;
      std::uint32_t context_class = 0;
      switch (kind) {
        case TileKind::kPicture:
          context_class = family * 12 + std::min(index, 11u);
          break;
        case TileKind::kMeans:
          context_class = 24 + family * 6 + std::min(index, 5u);
          break;
        case TileKind::kTop:
          context_class = 36 + family;
          break;
      }
      BandShape shape{group, next[group], size, index, context_class, kNoBand, kNoBand};
      for (std::size_t i = 0; i < bands.size(); ++i) {
        const BandShape& other = bands[i];
        if (other.group == group && other.index + 1 == index) shape.lower_band = i;
        if (group > 0 && other.group == 0 && other.index == index && other.count == size) shape.luma_band = i;
      }
      bands.push_back(shape);
      next[group] += size;
    }
    if (!any) break;
  }
  return bands;
}

TileState::TileState(TileKind kind, std::uint32_t columns_in, std::uint32_t rows_in,
                     std::span<const std::uint32_t> counts)
    : columns(columns_in), rows(rows_in) {
  const std::size_t cells = std::size_t{columns + 2} * (rows + 2);
  for (const BandShape& shape : MakeBands(kind, counts)) {
    Band band;
    band.shape = shape;
    band.values.assign(cells * shape.count, 0);
    band.active.assign(cells, 0);
    bands.push_back(std::move(band));
  }
}

std::size_t TileState::memory_bytes() const {
  std::size_t bytes = sizeof(TileState) + contexts.all.size() * sizeof(entropy::Probability);
  for (const Band& band : bands) bytes += band.values.size() * sizeof(std::uint32_t) + band.active.size();
  return bytes;
}

TileCode EncodeTile(TileKind kind, std::uint32_t columns, std::uint32_t rows, std::span<const std::uint32_t> counts,
                    std::span<const std::vector<float>> targets, std::span<const std::vector<float>> weights,
                    std::vector<std::array<std::uint64_t, 2>>* statistics) {
  TileState tile(kind, columns, rows, counts);
  TileCode code;
  std::vector<BandTarget> band_targets(tile.bands.size());
  int top_plane = 0;
  for (std::size_t b = 0; b < tile.bands.size(); ++b) {
    const BandShape& shape = tile.bands[b].shape;
    BandTarget& target = band_targets[b];
    target.weights = weights[shape.group].data() + shape.first_k;
    target.values.assign(tile.bands[b].values.size(), 0);
    target.exact.assign(tile.bands[b].values.size(), 0.0f);
    std::uint32_t largest = 0;
    for (std::uint32_t row = 0; row < rows; ++row) {
      for (std::uint32_t column = 0; column < columns; ++column) {
        const float* from =
            targets[shape.group].data() + (std::size_t{row} * columns + column) * counts[shape.group] + shape.first_k;
        const std::size_t to = tile.CellOf(column, row) * shape.count;
        for (std::size_t i = 0; i < shape.count; ++i) {
          const float exact = std::abs(from[i]);
          constexpr float kLargest = static_cast<float>((1u << (kMaxPlanes - 1)) - 1);
          const auto magnitude = static_cast<std::uint32_t>(std::min(exact + kRounding, kLargest));
          target.exact[to + i] = exact;
          const double energy = double{exact} * exact;
          code.energy.seen_saved += energy;
          code.energy.measured_saved += energy * target.weights[i];
          target.values[to + i] = magnitude << 1 | (from[i] < 0 ? 1u : 0u);
          largest = std::max(largest, magnitude);
        }
      }
    }
    target.top_plane = std::bit_width(largest) - 1;
    top_plane = std::max(top_plane, target.top_plane);
  }

  entropy::RangeEncoder encoder;
  Writer writer(encoder, statistics, tile.contexts.all.data());
  for (int bit = 4; bit >= 0; --bit) encoder.CodeRaw((top_plane >> bit & 1) != 0);
  CutPoint cut;
  for (int plane = top_plane; plane >= 0; --plane) {
    for (std::size_t b = 0; b < tile.bands.size(); ++b) {
      CodePass(tile, b, plane, writer, &band_targets[b], &cut);
      cut.bytes = static_cast<std::uint32_t>(encoder.prefix_bytes());
      code.cuts.push_back(cut);
    }
  }
  code.bytes = encoder.Finish();
  const auto total = static_cast<std::uint32_t>(code.bytes.size());
  for (CutPoint& after : code.cuts) after.bytes = std::min(after.bytes, total);
  if (!code.cuts.empty()) code.cuts.back().bytes = total;
  return code;
}

void TileDecoder::Decode(std::size_t passes, std::span<const std::uint8_t> bytes, bool partial) {
  decoder_.Append(bytes);
  Reader reader(decoder_, partial);
  if (state_.top_plane < 0) {
    int top_plane = 0;
    for (int bit = 0; bit < 5; ++bit) top_plane = top_plane << 1 | (decoder_.CodeRaw() ? 1 : 0);
    if (reader.Stopped()) return;
    state_.top_plane = std::min(top_plane, kMaxPlanes - 1);
    for (Band& band : state_.bands) band.plane = state_.top_plane + 1;
  }
  const std::size_t band_count = state_.bands.size();
  for (; passes > 0 && !state_.finished(); --passes) {
    const int plane = state_.top_plane - static_cast<int>(state_.passes / band_count);
    if (!CodePass<Reader>(state_, state_.passes % band_count, plane, reader, nullptr, nullptr)) return;
    ++state_.passes;
  }
}

}  // namespace holo::codec
