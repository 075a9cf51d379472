#include "common/codec/tile_coder.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "common/codec/tile_kernels.h"
#include "common/codec/tile_target.h"

namespace holo::codec {
namespace {

// Encoder side of CodePass: codes the true bits.
class Writer {
 public:
  static constexpr bool kEncodes = true;

  Writer(Encoding& encoding, entropy::Probability* first) : encoding_(encoding), first_(first) {}

  bool Code(bool bit, entropy::Probability& probability) {
    if (encoding_.observer != nullptr) {
      encoding_.observer->Coded(static_cast<std::size_t>(&probability - first_), bit);
    }
    encoding_.encoder.Code(bit, probability);
    return bit;
  }
  static bool Stopped() { return false; }
  static bool Ended() { return false; }
  [[nodiscard]] Encoding& encoding() const { return encoding_; }
  [[nodiscard]] ContextObserver* observer() const { return encoding_.observer; }
  [[nodiscard]] std::uint32_t TrueValue(const Pass& pass, std::size_t cell, std::size_t i) const {
    return encoding_.target->values[cell * pass.band.shape.count + i];
  }

 private:
  Encoding& encoding_;
  entropy::Probability* first_;
};

class Reader {
 public:
  static constexpr bool kEncodes = false;

  // A code whose rest is missing ends with its bytes, between two decisions; a whole one may rely on a few zeros behind
  // them, and if it is damaged it ends between two patches.
  Reader(entropy::RangeDecoder& decoder, bool partial) : decoder_(decoder), partial_(partial) {}

  bool Code(bool, entropy::Probability& probability) { return decoder_.Code(probability); }
  [[nodiscard]] entropy::RangeDecoder& decoder() { return decoder_; }
  [[nodiscard]] bool partial() const { return partial_; }
  // After each decision.
  [[nodiscard]] bool Stopped() const { return partial_ && decoder_.overrun_bytes() > 0; }
  // After each patch.
  [[nodiscard]] bool Ended() const { return decoder_.overrun_bytes() > (partial_ ? 0 : entropy::kImpliedZeros); }

 private:
  entropy::RangeDecoder& decoder_;
  bool partial_;
};

// The score of "becomes active", by the definition in context_model.h.
int ActiveScore(const Pass& pass, std::size_t cell) {
  const std::int8_t* weights = pass.model.active;
  int score = weights[activity::kBias];
  for (std::size_t n = 0; n < kAround; ++n) {
    score += weights[activity::kNeighbours + n * 8 + pass.band.levels[static_cast<std::size_t>(
                                                         static_cast<std::ptrdiff_t>(cell) + pass.around[n])]];
  }
  if (pass.luma_band != nullptr) score += weights[activity::kLuma + pass.luma_band->levels[cell]];
  if (pass.other_band != nullptr) score += weights[activity::kOther + pass.other_band->levels[cell]];
  if (pass.sum_weights != nullptr) return score + pass.group.sums[cell * kMaxSums + pass.band.shape.index];
  const std::int8_t* strengths = pass.group.strengths.data() + cell * pass.group.stride;
  for (std::uint64_t left = pass.group.SignsOf(cell, 0).nonzero; left != 0; left &= left - 1) {
    const auto k = static_cast<std::size_t>(std::countr_zero(left));
    score += weights[activity::kPatch + k] * strengths[k];
  }
  return score;
}

// Eight scores at a time, in a register. Sums wrap at 16 bits, which weights as trained never reach.
using Vector = std::int16_t __attribute__((vector_size(2 * kVector)));
using Bytes = std::int8_t __attribute__((vector_size(kVector)));
Vector Load(const std::int16_t* from) {
  Vector out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
Vector Load(const std::int8_t* from) {
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, Vector);
}
Vector Repeat(std::int8_t value) {
  const auto v = static_cast<std::int16_t>(value);
  return Vector{v, v, v, v, v, v, v, v};
}

// The scores of "becomes significant" of all coefficients of the band in a cell, without kFresh.
void SignificanceScores(const Pass& pass, std::size_t cell, std::int16_t* scores) {
  const BandModel& model = pass.model;
  const std::size_t columns = model.columns;
  const GroupState& group = pass.group;
  const std::uint32_t first_k = pass.band.shape.first_k;
  const std::int8_t* own = group.strengths.data() + cell * group.stride;
  std::array<const std::int8_t*, kAround> there;
  std::array<const std::int16_t*, kAround> weights;
  std::size_t neighbours = 0;
  for (std::size_t n = 0; n < kAround; ++n) {
    if (pass.band.levels[static_cast<std::size_t>(static_cast<std::ptrdiff_t>(cell) + pass.around[n])] == 0) continue;
    there[neighbours] = own + pass.around[n] * static_cast<std::ptrdiff_t>(group.stride) + first_k;
    weights[neighbours++] = model.neighbours.data() + n * columns;
  }
  // With a zero on either side, as neighbours of k outside the band do not count.
  std::array<std::int8_t, kMaxBandSize + 2 + kVector> luma;
  const bool has_luma = pass.luma_band != nullptr && pass.luma_band->levels[cell] != 0;
  if (has_luma) {
    luma.fill(0);
    std::copy_n(pass.luma->strengths.data() + cell * pass.luma->stride + first_k, pass.band.shape.count,
                luma.data() + 1);
  }
  const std::int8_t* other = pass.other_band != nullptr && pass.other_band->levels[cell] != 0
                                 ? pass.other->strengths.data() + cell * pass.other->stride + first_k
                                 : nullptr;
  for (std::size_t block = 0; block < columns; block += kVector) {
    Vector sum = Load(model.bias.data() + block);
    for (std::size_t n = 0; n < neighbours; ++n) sum += Load(there[n] + block) * Load(weights[n] + block);
    for (std::uint64_t left = group.SignsOf(cell, 0).nonzero; left != 0; left &= left - 1) {
      const auto k = static_cast<std::size_t>(std::countr_zero(left));
      sum += Repeat(own[k]) * Load(model.patch.data() + k * columns + block);
    }
    if (has_luma) {
      for (std::size_t d = 0; d < 3; ++d) {
        sum += Load(luma.data() + d + block) * Load(model.luma.data() + d * columns + block);
      }
    }
    if (other != nullptr) sum += Load(other + block) * Load(model.other.data() + block);
    std::memcpy(scores + block, &sum, sizeof sum);
  }
}

// What a change of one strength of the patch adds to the scores of its band.
void AddInside(const BandModel& model, std::size_t k, int more, std::int16_t* scores) {
  const Vector times = Repeat(static_cast<std::int8_t>(more));
  for (std::size_t block = 0; block < model.columns; block += kVector) {
    const Vector sum = Load(scores + block) + times * Load(model.patch.data() + k * model.columns + block);
    std::memcpy(scores + block, &sum, sizeof sum);
  }
}

// What a strength of 1's, new in the patch, adds to the scores of "becomes active".
void AddToSums(const Pass& pass, std::size_t cell, std::size_t k) {
  std::int16_t* const sums = pass.group.sums.data() + cell * kMaxSums;
  const std::int16_t* weights = pass.sum_weights + k * kMaxSums;
  for (std::size_t b = 0; b < kMaxSums; ++b) sums[b] = static_cast<std::int16_t>(sums[b] + StrengthOf(1) * weights[b]);
}

std::size_t RefinementContext(const Pass& pass, std::size_t cell, std::size_t i) {
  const std::size_t at = cell * pass.group.stride + pass.band.shape.first_k + i;
  const std::uint32_t known = pass.band.magnitudes.Get(cell * pass.band.shape.count + i) >> (pass.plane + 1);
  if (known >= 4) return 5;
  std::uint32_t sides = 0;
  for (std::size_t n = 0; n < 4; ++n) {
    const std::int8_t strength =
        pass.group.strengths[at + static_cast<std::size_t>(pass.around[n] *
                                                           static_cast<std::ptrdiff_t>(pass.group.stride))];
    sides += (strength > 0 ? 1u : 0u) + (strength > 2 ? 1u : 0u);
  }
  const std::uint32_t level = (sides + 1) / 3;
  return known == 1 ? std::min(level, 2u) : 3 + std::min(level, 1u);
}

// The context of a sign, and whether the sign is coded inverted: what the signs left and right (5 sums) and above and
// below (5 sums) say, of which half are the negatives of the others.
struct SignContext {
  std::size_t context = 0;
  bool inverted = false;
};
SignContext SignContextOf(const Pass& pass, std::size_t cell, std::size_t i) {
  const std::size_t k = pass.band.shape.first_k + i;
  const std::uint64_t bit = GroupState::BitOf(k);
  const auto sign = [&](std::size_t n) {
    const auto neighbour = static_cast<std::size_t>(static_cast<std::ptrdiff_t>(cell) + pass.around[n]);
    const GroupState::Signs& there = pass.group.SignsOf(neighbour, k);
    return (there.nonzero & bit) == 0 ? 0 : (there.negative & bit) != 0 ? -1 : 1;
  };
  const int sum = 5 * (sign(0) + sign(1)) + sign(2) + sign(3);
  return {static_cast<std::size_t>(std::abs(sum)), sum < 0};
}

// What multiplies the weights in a score, gathered one by one: the reference for the functions above.
std::vector<std::int8_t> ActiveFeatures(const Pass& pass, std::size_t cell) {
  std::vector<std::int8_t> features(activity::kWeights, 0);
  features[activity::kBias] = 1;
  for (std::size_t n = 0; n < kAround; ++n) {
    const auto there = static_cast<std::size_t>(static_cast<std::ptrdiff_t>(cell) + pass.around[n]);
    features[activity::kNeighbours + n * 8 + pass.band.levels[there]] = 1;
  }
  if (pass.luma_band != nullptr) features[activity::kLuma + pass.luma_band->levels[cell]] = 1;
  if (pass.other_band != nullptr) features[activity::kOther + pass.other_band->levels[cell]] = 1;
  for (std::size_t k = 0; k < std::min<std::size_t>(kInside, pass.group.shape.count); ++k) {
    features[activity::kPatch + k] =
        StrengthOf(pass.tile.MagnitudeOf(pass.band.shape.group, cell, k) >> pass.plane);
  }
  return features;
}

std::vector<std::int8_t> SignificanceFeatures(const Pass& pass, std::size_t cell, std::size_t i, bool fresh) {
  const GroupState& group = pass.group;
  const std::size_t k = pass.band.shape.first_k + i;
  std::vector<std::int8_t> features(significance::kWeights, 0);
  features[significance::kBias] = 1;
  features[significance::kFresh] = fresh ? 1 : 0;
  for (std::size_t n = 0; n < kAround; ++n) {
    const auto there = static_cast<std::size_t>(static_cast<std::ptrdiff_t>(cell) + pass.around[n]);
    features[significance::kNeighbours + n] =
        StrengthOf(pass.tile.MagnitudeOf(pass.band.shape.group, there, k) >> pass.plane);
  }
  if (pass.luma_band != nullptr) {
    for (std::size_t d = 0; d < 3; ++d) {
      if (i + d < 1 || i + d > pass.band.shape.count) continue;
      features[significance::kLuma + d] = pass.luma->strengths[cell * pass.luma->stride + k + d - 1];
    }
  }
  if (pass.other_band != nullptr) {
    features[significance::kOther] = pass.other->strengths[cell * pass.other->stride + k];
  }
  for (std::size_t j = 0; j < std::min<std::size_t>(kInside, group.shape.count); ++j) {
    features[significance::kPatch + j] =
        StrengthOf(pass.tile.MagnitudeOf(pass.band.shape.group, cell, j) >> pass.plane);
  }
  return features;
}

std::uint8_t LevelOfBand(const GroupState& group, const BandShape& shape, std::size_t cell) {
  const std::int8_t* strengths = group.strengths.data() + cell * group.stride + shape.first_k;
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < shape.count; ++i) sum += static_cast<std::uint8_t>(strengths[i]);
  return BandLevelOf(sum);
}

// Squared error, in steps, that a coefficient of magnitude 1 removes.
double Worth(float exact) {
  constexpr double kShown = 1.0 + kFirstMidpoint - kOffset;
  return kShown * (2 * double{exact} - kShown);
}

// Bits that a 1 costs more than a 0.
double PriceOfOne(const entropy::Probability& context) {
  const double one = context.OfOne() / 65536.0;
  return std::log2((1 - one) / one);
}

// Whether the ones of a patch's band, which holds nothing larger, are worth their bits; clears them if not.
bool IsWorthStarting(BandTarget& target, std::size_t first, std::size_t count, double bit_price,
                     const entropy::Probability& active) {
  constexpr double kBitsOfOne = 3;  // its sign, and what tells which one it is
  double worth = 0;
  for (std::size_t i = first; i < first + count; ++i) {
    if (target.values[i] >= 2) worth += std::max(0.0, Worth(target.exact[i]) - bit_price * kBitsOfOne);
  }
  if (worth >= bit_price * PriceOfOne(active)) return true;
  std::fill_n(target.values.begin() + static_cast<std::ptrdiff_t>(first), count, 0u);
  return false;
}

// The next bits of what was significant before this plane, in an active patch. False if the code ended.
template <class Coder>
bool RefinePatch(const Pass& pass, std::size_t cell, Coder& coder) {
  const BandShape& shape = pass.band.shape;
  Magnitudes& magnitudes = pass.band.magnitudes;
  const std::size_t at = cell * shape.count;
  for (std::size_t i = 0; i < shape.count; ++i) {
    const std::uint32_t before = magnitudes.Get(at + i);
    if (before >> pass.plane >> 1 == 0) continue;
    bool bit = false;
    if constexpr (Coder::kEncodes) bit = (coder.TrueValue(pass, cell, i) >> 1 >> pass.plane & 1) != 0;
    bit = coder.Code(bit, pass.tile.contexts.Refinement(shape.context_class, RefinementContext(pass, cell, i)));
    if (coder.Stopped()) return false;
    const std::uint32_t after = before | (bit ? 1u : 0u) << pass.plane;
    magnitudes.Set(at + i, after);
    if constexpr (Coder::kEncodes) Count(pass, coder.encoding(), at + i, before, after);
  }
  return true;
}

// One patch of a pass that tells what becomes significant; of kLikely an active one. False if the code ended.
template <class Coder>
bool CodePatch(const Pass& pass, std::size_t cell, Coder& coder) {
  GroupState& group = pass.group;
  Band& band = pass.band;
  Contexts& contexts = pass.tile.contexts;
  const BandShape& shape = band.shape;
  const int plane = pass.plane;
  std::int8_t* strengths = group.strengths.data() + cell * group.stride + shape.first_k;

  const bool likely = pass.kind == PassKind::kLikely;
  Activity& active = band.active[cell];
  bool fresh = false;
  if (pass.kind == PassKind::kRest && active != Activity::kNo) {
    if (active == Activity::kSeenNo) active = Activity::kNo;
    return true;
  }
  if (pass.kind == PassKind::kActive && active == Activity::kTold) return true;
  if (!IsActive(active)) {
    const int score = ActiveScore(pass, cell);
    const std::size_t level = activity::LevelOf(score);
    if (pass.kind == PassKind::kActive && level < activity::kLikely) return true;
    entropy::Probability& context = contexts.Active(shape.context_class, level);
    if constexpr (Coder::kEncodes) {
      fresh = BecomesActive(pass, coder.encoding(), cell, context);
      if (coder.observer() != nullptr) {
        coder.observer()->Scored(false, shape.context_class, ActiveFeatures(pass, cell), score, fresh);
      }
    }
    fresh = coder.Code(fresh, context);
    if (coder.Stopped()) return false;
    if (!fresh) {
      if (pass.kind == PassKind::kActive) active = Activity::kSeenNo;
      return true;
    }
    active = Activity::kYes;
  }

  alignas(16) std::array<std::int16_t, kMaxBandSize> scores;
  SignificanceScores(pass, cell, scores.data());

  bool changed = false;
  bool all_told = true;
  for (std::size_t i = 0; i < shape.count; ++i) {
    const std::size_t k = shape.first_k + i;
    GroupState::Signs& signs = group.SignsOf(cell, k);
    const std::uint64_t bit_of_k = GroupState::BitOf(k);
    if ((signs.nonzero & bit_of_k) != 0) continue;
    if (!likely && (signs.seen & bit_of_k) != 0) {
      signs.seen &= ~bit_of_k;
      continue;
    }
    bool bit = false;
    const std::size_t row = shape.first_row + std::min<std::size_t>(i, shape.last_row - shape.first_row);
    const bool implied = fresh && i + 1 == shape.count;  // the patch is active, and it was none of the others
    if (implied) {
      bit = true;
    } else {
      const int score = static_cast<std::int16_t>(scores[i] + (fresh ? pass.model.fresh[i] : 0));
      if (likely && significance::LevelOf(score) < significance::kLikely) {
        all_told = false;
        continue;
      }
      entropy::Probability& context = contexts.Significance(row, significance::LevelOf(score));
      if constexpr (Coder::kEncodes) {
        bit = BecomesSignificant(pass, coder.encoding(), cell, i, fresh, context);
        if (coder.observer() != nullptr) {
          coder.observer()->Scored(true, row, SignificanceFeatures(pass, cell, i, fresh), score, bit);
        }
      }
      bit = coder.Code(bit, context);
      if (coder.Stopped()) return false;
    }
    if (!bit) {
      if (likely) signs.seen |= bit_of_k;
      continue;
    }
    fresh = false;
    bool negative = false;
    if constexpr (Coder::kEncodes) negative = (coder.TrueValue(pass, cell, i) & 1) != 0;
    const SignContext sign = SignContextOf(pass, cell, i);
    negative = coder.Code(negative != sign.inverted, contexts.Sign(row, sign.context)) != sign.inverted;
    if (coder.Stopped()) return false;
    const std::uint32_t magnitude = std::uint32_t{1} << plane;
    band.magnitudes.Set(cell * shape.count + i, magnitude);
    signs.nonzero |= bit_of_k;
    if (negative) signs.negative |= bit_of_k;
    strengths[i] = StrengthOf(1);
    changed = true;
    if (k < kInside) AddInside(pass.model, k, StrengthOf(1), scores.data());
    if (pass.sum_weights != nullptr) AddToSums(pass, cell, k);
    if constexpr (Coder::kEncodes) Count(pass, coder.encoding(), cell * shape.count + i, 0, magnitude);
  }
  if (changed) band.levels[cell] = LevelOfBand(group, shape, cell);
  if (likely) active = all_told ? Activity::kTold : Activity::kYes;
  for (std::size_t k = shape.first_k; likely && all_told && k < shape.first_k + shape.count; ++k) {
    group.SignsOf(cell, k).seen &= ~GroupState::BitOf(k);
  }
  return true;
}

// Before the first pass of a slot: what magnitudes count at its planes.
void BeginSlot(TileState& tile, int slot, bool has_sums) {
  if (has_sums) return LowerPlanes(tile, slot);
  for (Band& band : tile.bands) {
    const BandShape& shape = band.shape;
    GroupState& group = tile.groups[shape.group];
    if (group.shape.IsIdle(slot)) continue;
    const int plane = group.shape.PlaneIn(slot);
    for (std::size_t cell = 0; cell < group.cells(); ++cell) {
      if (!IsActive(band.active[cell])) continue;
      std::int8_t* strengths = group.strengths.data() + cell * group.stride + shape.first_k;
      for (std::size_t i = 0; i < shape.count; ++i) {
        strengths[i] = StrengthOf(band.magnitudes.Get(cell * shape.count + i) >> plane);
      }
      band.levels[cell] = LevelOfBand(group, shape, cell);
    }
  }
}

// One pass in slot `slot`. False if the code ended inside.
template <class Coder>
bool CodePass(TileState& tile, int slot, PassKind kind, std::size_t band_index, Coder& coder) {
  const bool has_sums = !tile.groups.front().sums.empty();
  if (kind == PassKind::kLikely && band_index == 0) BeginSlot(tile, slot, has_sums);
  Band& band = tile.bands[band_index];
  const GroupShape& group_shape = tile.groups[band.shape.group].shape;
  if (group_shape.IsIdle(slot)) return true;
  const int plane = group_shape.PlaneIn(slot);
  const std::size_t patches = std::size_t{tile.rows} * tile.columns;
  if (band.started && kind == PassKind::kLikely) {
    band.plane = plane;
    band.refined = 0;
  }
  if (!band.started && kind == PassKind::kActive) {
    bool starts = false;
    if constexpr (Coder::kEncodes) starts = coder.encoding().target->most_planes > plane;
    starts = coder.Code(starts, tile.contexts.Started(band.shape.context_class));
    if (coder.Ended()) return false;
    if (starts) band.magnitudes.Reset(tile.groups[band.shape.group].cells() * band.shape.count, plane + 1);
    band.started = starts;
    band.plane = plane;
    band.refined = patches;
  }
  const auto band_at = [&](std::size_t index) { return index != kNoBand ? &tile.bands[index] : nullptr; };
  const Band* luma_band = band_at(band.shape.luma_band);
  const Band* other_band = band_at(band.shape.other_band);
  const Pass pass = {tile,
                     tile.groups[band.shape.group],
                     band,
                     *band.shape.model,
                     luma_band,
                     other_band,
                     luma_band != nullptr ? &tile.groups[luma_band->shape.group] : nullptr,
                     other_band != nullptr ? &tile.groups[other_band->shape.group] : nullptr,
                     has_sums ? SumWeights(tile.kind, band.shape.group == 0 ? 0 : 1).data() : nullptr,
                     AroundOf(tile.stride()),
                     kind,
                     plane};
  const bool only_active = kind == PassKind::kLikely || kind == PassKind::kRefinement;
  for (std::size_t patch = 0; band.started && patch < patches;) {
    if (has_sums) {
      if constexpr (Coder::kEncodes) {
        if (coder.observer() == nullptr) {
          EncodePatches(pass, coder.encoding());
          break;
        }
      } else {
        patch = DecodePatches(pass, coder.decoder(), patch, coder.partial());
        if (coder.Ended()) {
          if (kind == PassKind::kRefinement) band.refined = patch;
          return false;
        }
        if (patch == patches) break;
      }
    }
    // The rest of the row, or some of it.
    constexpr std::size_t kSome = 16;
    const std::size_t column = patch % tile.columns;
    const std::size_t cell = tile.CellOf(static_cast<std::uint32_t>(column),
                                         static_cast<std::uint32_t>(patch / tile.columns));
    const std::size_t count = std::min<std::size_t>(tile.columns - column, has_sums ? kSome : tile.columns);
    for (std::size_t i = 0; i < count; ++i) {
      if (only_active) {
        const Activity* const first = band.active.data() + cell;
        i = static_cast<std::size_t>(std::find_if(first + i, first + count, IsActive) - first);
        if (i == count) break;
      }
      const bool more = kind == PassKind::kRefinement ? RefinePatch(pass, cell + i, coder)
                                                      : CodePatch(pass, cell + i, coder);
      if (!more || coder.Ended()) {
        if (kind == PassKind::kRefinement) band.refined = patch + i + (more ? 1 : 0);
        return false;
      }
    }
    patch += count;
  }
  if (kind == PassKind::kRefinement) band.refined = patches;
  band.known_quarters = (std::uint64_t{2 * kPassKinds - 1} - static_cast<std::uint64_t>(kind)) << plane;
  return true;
}

// Writes |from[i]| to `exact`, magnitudes << 1 | sign to `values`, and adds the squares to `energy`; returns all bits of the
// values.
std::uint32_t Round(const float* __restrict from, std::size_t count, float rounding, float* __restrict exact,
                    std::uint32_t* __restrict values, double* __restrict energy) {
  constexpr float kLargest = static_cast<float>((1u << (kMaxPlanes - 1)) - 1);
  std::uint32_t all = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const float magnitude = std::abs(from[i]);
    const float rounded = magnitude + rounding < kLargest ? magnitude + rounding : kLargest;
    const auto whole = static_cast<std::uint32_t>(static_cast<std::int32_t>(rounded));
    exact[i] = magnitude;
    values[i] = whole << 1 | std::bit_cast<std::uint32_t>(from[i]) >> 31;
    all |= values[i];
    energy[i] += double{magnitude} * magnitude;
  }
  return all;
}

}  // namespace

bool BecomesActive(const Pass& pass, Encoding& encoding, std::size_t cell, const entropy::Probability& context) {
  BandTarget& target = *encoding.target;
  if (target.planes[cell] <= pass.plane) return false;
  if (pass.plane > 0) return true;
  const std::size_t count = pass.band.shape.count;
  return IsWorthStarting(target, cell * count, count, encoding.bit_price, context);
}

bool BecomesSignificant(const Pass& pass, Encoding& encoding, std::size_t cell, std::size_t i, bool fresh,
                        const entropy::Probability& context) {
  const std::size_t count = pass.band.shape.count;
  std::uint32_t* const truth = encoding.target->values.data() + cell * count;
  if ((truth[i] >> 1 >> pass.plane & 1) == 0) return false;
  if (pass.plane > 0) return true;
  // Something of a patch that has just become active must stay.
  bool others = !fresh;
  for (std::size_t j = i + 1; j < count && !others; ++j) others = truth[j] >= 2;
  if (!others || Worth(encoding.target->exact[cell * count + i]) >= encoding.bit_price * (1 + PriceOfOne(context))) {
    return true;
  }
  truth[i] = 0;
  return false;
}

void Count(const Pass& pass, Encoding& encoding, std::size_t at, std::uint32_t before, std::uint32_t after) {
  const BandTarget& target = *encoding.target;
  const double exact = target.exact[at];
  const double old_error = exact - Dequantise(before, pass.plane + 1);
  const double new_error = exact - Dequantise(after, pass.plane);
  const double saved = old_error * old_error - new_error * new_error;
  encoding.cut.seen_saved += saved;
  encoding.cut.measured_saved += saved * target.weights[at % pass.band.shape.count];
}

Contexts::Contexts() {
  all.reserve(kContexts);
  for (const std::uint16_t probability : InitialProbabilities()) all.emplace_back(probability);
}

void Magnitudes::Reset(std::size_t count, int planes) {
  width_ = planes <= 8 ? 1 : planes <= 16 ? 2 : 4;
  bytes_.assign(count * width_, 0);
}

std::uint32_t Magnitudes::GetWide(std::size_t at) const {
  std::uint16_t two = 0;
  std::uint32_t four = 0;
  if (width_ == sizeof two) {
    std::memcpy(&two, bytes_.data() + at * sizeof two, sizeof two);
    return two;
  }
  std::memcpy(&four, bytes_.data() + at * sizeof four, sizeof four);
  return four;
}

void Magnitudes::SetWide(std::size_t at, std::uint32_t magnitude) {
  const auto two = static_cast<std::uint16_t>(magnitude);
  if (width_ == sizeof two) {
    std::memcpy(bytes_.data() + at * sizeof two, &two, sizeof two);
  } else {
    std::memcpy(bytes_.data() + at * sizeof magnitude, &magnitude, sizeof magnitude);
  }
}

std::vector<BandShape> MakeBands(TileKind kind, std::span<const GroupShape> shapes) {
  std::vector<BandShape> bands;
  std::vector<std::uint32_t> next(shapes.size(), 0);
  for (std::uint32_t index = 0;; ++index) {
    bool any = false;
    for (std::uint32_t group = 0; group < shapes.size(); ++group) {
      const std::uint32_t left = shapes[group].count - next[group];
      if (left == 0) continue;
      any = true;
      const std::uint32_t size = std::min(left, kBandSizes[std::min<std::size_t>(index, kBandSizes.size() - 1)]);
      const std::uint32_t family = group == 0 ? 0 : 1;
      BandShape shape;
      shape.group = group;
      shape.first_k = next[group];
      shape.count = size;
      shape.index = index;
      shape.context_class = static_cast<std::uint32_t>(activity::RowOf(kind, family, index));
      shape.first_row = static_cast<std::uint32_t>(significance::RowOf(kind, family, shape.first_k));
      shape.last_row = static_cast<std::uint32_t>(significance::RowOf(kind, family, shape.first_k + size - 1));
      shape.model = &ModelOf(kind, family, index);
      for (std::size_t i = 0; i < bands.size(); ++i) {
        const BandShape& other = bands[i];
        if (other.index != index || other.count != size) continue;
        if (group > 0 && other.group == 0) shape.luma_band = i;
        if (group > 1 && other.group + 1 == group) shape.other_band = i;
      }
      bands.push_back(shape);
      next[group] += size;
    }
    if (!any) break;
  }
  return bands;
}

// Strengths of a cell, and levels and activity of cells, are read so many at a time.
constexpr std::size_t kCellAlignment = 16;

TileState::TileState(TileKind kind_in, std::uint32_t columns_in, std::uint32_t rows_in,
                     std::span<const GroupShape> shapes)
    : columns(columns_in), rows(rows_in), kind(kind_in) {
  const std::size_t cells = std::size_t{columns + 2} * (rows + 2);
  for (const GroupShape& shape : shapes) {
    GroupState& group = groups.emplace_back();
    group.shape = shape;
    group.stride = (shape.count + kCellAlignment - 1) / kCellAlignment * kCellAlignment;
    group.strengths.assign(cells * group.stride + kMaxBandSize, 0);
    group.words = std::max<std::size_t>(1, (shape.count + 63) / 64);
    group.signs.assign(cells * group.words, {});
  }
  for (const BandShape& shape : MakeBands(kind, shapes)) {
    Band band;
    band.shape = shape;
    band.active.assign(cells + kCellAlignment, Activity::kNo);
    band.levels.assign(cells + kCellAlignment, 0);
    GroupState& group = groups[shape.group];
    group.band_of.insert(group.band_of.end(), shape.count, bands.size());
    bands.push_back(std::move(band));
  }
}

std::size_t TileState::memory_bytes() const {
  std::size_t bytes = sizeof(TileState) + contexts.all.size() * sizeof(entropy::Probability);
  for (const GroupState& group : groups) {
    bytes += group.strengths.size() + group.signs.size() * sizeof(GroupState::Signs) +
             group.band_of.size() * sizeof(std::size_t) + group.sums.size() * sizeof(std::int16_t);
  }
  for (const Band& band : bands) bytes += band.active.size() + band.levels.size() + band.magnitudes.bytes().size();
  return bytes;
}

TileCode EncodeTile(TileKind kind, std::uint32_t columns, std::uint32_t rows, std::span<const GroupShape> shapes,
                    std::span<const std::vector<float>> targets, std::span<const std::vector<float>> weights,
                    const Quantiser& quantiser, ContextObserver* observer, bool plain) {
  TileState tile(kind, columns, rows, shapes);
  if (!plain && CanUseKernels(tile)) UseKernels(tile);
  TileCode code;
  std::vector<BandTarget> band_targets;
  int top_slot = 0;
  for (const Band& band : tile.bands) {
    const BandShape& shape = band.shape;
    BandTarget& target = band_targets.emplace_back();
    target.weights = weights[shape.group].data() + shape.first_k;
    target.planes.assign(tile.groups[shape.group].cells(), 0);
    target.values.assign(target.planes.size() * shape.count, 0);
    target.exact.assign(target.values.size(), 0.0f);
  }
  for (std::size_t g = 0; g < shapes.size(); ++g) {
    std::vector<std::size_t> bands;
    for (std::size_t b = 0; b < tile.bands.size(); ++b) {
      if (tile.bands[b].shape.group == g) bands.push_back(b);
    }
    // Patch by patch, as targets lie in memory.
    std::vector<double> energy(shapes[g].count, 0.0);  // of each coefficient
    const float* from = targets[g].data();
    for (std::uint32_t row = 0; row < rows; ++row) {
      for (std::uint32_t column = 0; column < columns; ++column, from += shapes[g].count) {
        const std::size_t cell = tile.CellOf(column, row);
        for (const std::size_t b : bands) {
          const BandShape& shape = tile.bands[b].shape;
          BandTarget& target = band_targets[b];
          const std::size_t first = cell * shape.count;
          const std::uint32_t all =
              Round(from + shape.first_k, shape.count, quantiser.rounding, target.exact.data() + first,
                    target.values.data() + first, energy.data() + shape.first_k);
          target.planes[cell] = static_cast<std::uint8_t>(std::bit_width(all >> 1));
          target.most_planes = std::max<int>(target.most_planes, target.planes[cell]);
        }
      }
    }
    for (std::size_t k = 0; k < energy.size(); ++k) {
      code.energy.seen_saved += energy[k];
      code.energy.measured_saved += energy[k] * weights[g][k];
    }
  }
  for (std::size_t b = 0; b < tile.bands.size(); ++b) {
    if (band_targets[b].most_planes == 0) continue;
    const GroupShape& shape = shapes[tile.bands[b].shape.group];
    top_slot = std::max(top_slot, shape.SlotOf(band_targets[b].most_planes - 1));
  }

  tile.top_slot = top_slot;
  Encoding encoding;
  encoding.bit_price = quantiser.bit_price;
  encoding.observer = observer;
  Writer writer(encoding, tile.contexts.all.data());
  for (int bit = 4; bit >= 0; --bit) encoding.encoder.CodeRaw((top_slot >> bit & 1) != 0);
  for (int slot = top_slot; slot >= 0; --slot) {
    for (std::uint8_t pass_kind = 0; pass_kind < kPassKinds; ++pass_kind) {
      for (std::size_t b = 0; b < tile.bands.size(); ++b) {
        CutPoint& cut = encoding.cut;
        const double seen_before = cut.seen_saved;
        encoding.target = &band_targets[b];
        CodePass(tile, slot, PassKind{pass_kind}, b, writer);
        cut.worth += (cut.seen_saved - seen_before) * std::exp2(2 * shapes[tile.bands[b].shape.group].Lead(slot));
        cut.bytes = static_cast<std::uint32_t>(encoding.encoder.prefix_bytes());
        code.cuts.push_back(cut);
      }
    }
  }
  code.bytes = encoding.encoder.Finish();
  const auto total = static_cast<std::uint32_t>(code.bytes.size());
  for (CutPoint& after : code.cuts) after.bytes = std::min(after.bytes, total);
  if (!code.cuts.empty()) code.cuts.back().bytes = total;
  return code;
}

TileDecoder::TileDecoder(TileKind kind, std::uint32_t columns, std::uint32_t rows,
                         std::span<const GroupShape> shapes, bool plain)
    : state_(kind, columns, rows, shapes) {
  if (!plain && CanUseKernels(state_)) UseKernels(state_);
}

void TileDecoder::Decode(std::size_t passes, std::span<const std::uint8_t> bytes, bool partial) {
  if (stopped_) return;
  decoder_.Append(bytes);
  Reader reader(decoder_, partial);
  if (state_.top_slot < 0) {
    int top_slot = 0;
    for (int bit = 0; bit < 5; ++bit) top_slot = top_slot << 1 | (decoder_.CodeRaw() ? 1 : 0);
    stopped_ = reader.Ended();
    if (stopped_) return;
    state_.top_slot = std::min(top_slot, kMaxSlots - 1);
    for (Band& band : state_.bands) {
      band.plane = state_.groups[band.shape.group].shape.PlaneIn(state_.top_slot + 1);
      band.known_quarters = std::uint64_t{kPassKinds} << band.plane;
    }
  }
  const std::size_t band_count = state_.bands.size();
  for (; passes > 0 && !state_.finished(); --passes) {
    const int slot = state_.top_slot - static_cast<int>(state_.passes / (kPassKinds * band_count));
    const auto kind = PassKind{static_cast<std::uint8_t>(state_.passes / band_count % kPassKinds)};
    stopped_ = !CodePass<Reader>(state_, slot, kind, state_.passes % band_count, reader);
    if (stopped_) return;
    ++state_.passes;
  }
}

}  // namespace holo::codec
