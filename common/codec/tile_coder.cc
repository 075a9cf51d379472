#include "common/codec/tile_coder.h"

#include <bit>
#include <cmath>

namespace holo::codec {
namespace {

// Sizes of successive bands of a group: small where most of the energy is.
constexpr std::array<std::uint32_t, 16> kBandSizes = {2, 3, 4, 5, 6, 8, 10, 12, 13, 16, 20, 24, 28, 32, 48, 64};

// Weighted sums of neighbours to eight levels: of the same coefficient around, and of others in the patch.
constexpr std::array<std::uint8_t, 21> kNeighbourLevel = {0, 1, 2, 3, 3, 4, 4, 5, 5, 5, 6,
                                                          6, 6, 6, 6, 7, 7, 7, 7, 7, 7};
constexpr std::array<std::uint8_t, 21> kPatchLevel = {0, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7};

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

  Reader(entropy::RangeDecoder& decoder, bool partial) : decoder_(decoder), partial_(partial) {}

  bool Code(bool, entropy::Probability& probability) { return decoder_.Code(probability); }
  bool CodeRaw(bool) { return decoder_.CodeRaw(); }
  [[nodiscard]] bool Stopped() const { return partial_ && decoder_.overrun(); }

 private:
  entropy::RangeDecoder& decoder_;
  bool partial_;
};

// What only the encoder knows of a band.
struct BandTarget {
  std::vector<std::uint32_t> values;  // as Band::values, complete
  std::vector<float> exact;           // |coefficient| in steps, same shape
  int top_plane = -1;
};

// One pass: plane `plane` of band `band_index`. False if a partial code ended inside.
template <class Coder>
bool CodePass(TileState& tile, std::size_t band_index, int plane, Coder& coder, const BandTarget* target,
              double* distortion_saved) {
  Band& band = tile.bands[band_index];
  const std::uint32_t context_class = band.shape.context_class;
  Contexts& contexts = tile.contexts;
  if (!band.started) {
    bool starts = false;
    if constexpr (Coder::kEncodes) starts = target->top_plane >= plane;
    starts = coder.Code(starts, contexts.Started(context_class));
    if (coder.Stopped()) return false;
    if (!starts) {
      band.plane = plane;
      return true;
    }
    band.started = true;
  }

  const std::size_t count = band.shape.count;
  const std::size_t stride = tile.stride();
  const std::size_t row_step = stride * count;
  const int shift = plane + 1;
  // The band below in the same group, and the same band of the first group.
  const Band* lower = band.shape.index > 0 ? &tile.bands[band_index] : nullptr;
  const Band* first_group = nullptr;
  if (lower != nullptr) {
    for (std::size_t i = band_index; i-- > 0;) {
      if (tile.bands[i].shape.group == band.shape.group) {
        lower = &tile.bands[i];
        break;
      }
    }
  }
  if (band.shape.group > 0) {
    for (std::size_t i = band_index; i-- > 0;) {
      const BandShape& shape = tile.bands[i].shape;
      if (shape.group == 0 && shape.index == band.shape.index && shape.count == band.shape.count) {
        first_group = &tile.bands[i];
        break;
      }
    }
  }

  std::size_t patch = 0;
  for (std::uint32_t row = 0; row < tile.rows; ++row) {
    for (std::uint32_t column = 0; column < tile.columns; ++column, ++patch) {
      const std::size_t cell = tile.CellOf(column, row);
      std::uint32_t* values = band.values.data() + cell * count;

      std::uint32_t lower_energy = 0;
      if (lower != nullptr && lower->started) {
        const std::uint32_t* below = lower->values.data() + cell * lower->shape.count;
        for (std::size_t i = 0; i < lower->shape.count; ++i) lower_energy += Clip(below[i], shift, 3);
        lower_energy = (2 * lower_energy + lower->shape.count / 2) / lower->shape.count;
      }
      const std::uint32_t* luma = first_group != nullptr && first_group->active[cell] != 0
                                      ? first_group->values.data() + cell * count
                                      : nullptr;

      bool fresh = false;
      if (band.active[cell] == 0) {
        const std::uint32_t sides =
            band.active[cell - 1] + band.active[cell + 1] + band.active[cell - stride] + band.active[cell + stride];
        const std::uint32_t corners = band.active[cell - stride - 1] + band.active[cell - stride + 1] +
                                      band.active[cell + stride - 1] + band.active[cell + stride + 1];
        const std::uint32_t around = std::min(2 * sides + corners, 7u);
        const std::uint32_t level = around == 0 ? 0 : around <= 2 ? 1 : around <= 5 ? 2 : 3;
        std::uint32_t inside = std::min(lower_energy, 2u);
        if (luma != nullptr) ++inside;
        const std::size_t context = level * 4 + inside;
        if constexpr (Coder::kEncodes) {
          const std::uint32_t* truth = target->values.data() + cell * count;
          for (std::size_t i = 0; i < count; ++i) fresh |= (truth[i] >> shift) != 0;
        }
        fresh = coder.Code(fresh, contexts.Active(context_class, context));
        if (coder.Stopped()) {
          band.ahead = patch;
          return false;
        }
        if (!fresh) continue;
        band.active[cell] = 1;
      }

      bool found = false;
      for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t value = values[i];
        bool truth = false;
        if constexpr (Coder::kEncodes) truth = (target->values[cell * count + i] >> shift & 1) != 0;
        if (value < 2) {
          bool significant = true;
          if (!fresh || found || i + 1 < count) {
            const std::uint32_t* at = values + i;
            const std::uint32_t near =
                2 * (Clip(*(at - count), shift, 3) + Clip(*(at - row_step), shift, 3) + Clip(*(at + count), shift, 3) +
                     Clip(*(at + row_step), shift, 3)) +
                Clip(*(at - row_step - count), shift, 3) + Clip(*(at - row_step + count), shift, 3) +
                Clip(*(at + row_step - count), shift, 3) + Clip(*(at + row_step + count), shift, 3);
            std::uint32_t inside = std::min(lower_energy, 4u);
            if (i > 0) inside += 2 * Clip(values[i - 1], shift, 3);
            if (i > 1) inside += Clip(values[i - 2], shift, 2);
            if (i > 2) inside += Clip(values[i - 3], shift, 2);
            if (i + 1 < count) inside += Clip(values[i + 1], shift, 2);
            if (i + 2 < count) inside += Clip(values[i + 2], shift, 2);
            if (luma != nullptr) inside += 2 * Clip(luma[i], shift, 3);
            const std::size_t context = kNeighbourLevel[std::min(near, 20u)] * 8u + kPatchLevel[std::min(inside, 20u)];
            significant = coder.Code(truth, contexts.Significance(context_class, context));
            if (coder.Stopped()) {
              band.ahead = patch;
              return false;
            }
          }
          if (!significant) continue;
          found = true;
          bool negative = false;
          if constexpr (Coder::kEncodes) negative = (target->values[cell * count + i] & 1) != 0;
          negative = coder.CodeRaw(negative);
          if (coder.Stopped()) {
            band.ahead = patch;
            return false;
          }
          values[i] = std::uint32_t{2} << plane | (negative ? 1u : 0u);
          if constexpr (Coder::kEncodes) {
            const double exact = target->exact[cell * count + i];
            const double error = exact - std::abs(Dequantise(values[i], plane));
            *distortion_saved += exact * exact - error * error;
          }
        } else {
          const std::uint32_t known = value >> (shift + 1);
          const std::uint32_t* at = values + i;
          const std::uint32_t near = Clip(*(at - count), shift, 2) + Clip(*(at - row_step), shift, 2) +
                                     Clip(*(at + count), shift, 2) + Clip(*(at + row_step), shift, 2);
          const std::size_t context = (known == 1  ? 0u
                                       : known < 4 ? 3u
                                                   : 5u) +
                                      (known < 4 ? std::min((near + 1) / 3, known == 1 ? 2u : 1u) : 0u);
          const bool bit = coder.Code(truth, contexts.Refinement(context_class, context));
          if (coder.Stopped()) {
            band.ahead = patch;
            return false;
          }
          const std::uint32_t before = value;
          value |= (bit ? 1u : 0u) << shift;
          values[i] = value;
          if constexpr (Coder::kEncodes) {
            const double exact = target->exact[cell * count + i];
            const double old_error = exact - std::abs(Dequantise(before, plane + 1));
            const double new_error = exact - std::abs(Dequantise(value, plane));
            *distortion_saved += old_error * old_error - new_error * new_error;
          }
        }
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
      bands.push_back({group, next[group], size, index, context_class});
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
                    std::span<const std::vector<float>> targets,
                    std::vector<std::array<std::uint64_t, 2>>* statistics) {
  TileState tile(kind, columns, rows, counts);
  std::vector<BandTarget> band_targets(tile.bands.size());
  int top_plane = 0;
  for (std::size_t b = 0; b < tile.bands.size(); ++b) {
    const BandShape& shape = tile.bands[b].shape;
    BandTarget& target = band_targets[b];
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
          target.values[to + i] = magnitude << 1 | (from[i] < 0 ? 1u : 0u);
          largest = std::max(largest, magnitude);
        }
      }
    }
    target.top_plane = std::bit_width(largest) - 1;
    top_plane = std::max(top_plane, target.top_plane);
  }

  TileCode code;
  entropy::RangeEncoder encoder;
  Writer writer(encoder, statistics, tile.contexts.all.data());
  for (int bit = 4; bit >= 0; --bit) encoder.CodeRaw((top_plane >> bit & 1) != 0);
  double distortion_saved = 0;
  for (int plane = top_plane; plane >= 0; --plane) {
    for (std::size_t b = 0; b < tile.bands.size(); ++b) {
      CodePass(tile, b, plane, writer, &band_targets[b], &distortion_saved);
      code.cuts.push_back({static_cast<std::uint32_t>(encoder.prefix_bytes()), distortion_saved});
    }
  }
  code.bytes = encoder.Finish();
  const auto total = static_cast<std::uint32_t>(code.bytes.size());
  for (CutPoint& cut : code.cuts) cut.bytes = std::min(cut.bytes, total);
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
