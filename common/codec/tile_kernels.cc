// Compiled once for each target of Google Highway, and chosen when the program runs. All arithmetic is on integers that
// do not overflow, in the definition of FORMAT.md: the order of sums does not matter. What the encoder weighs in floating
// point stays in tile_target.h's functions, as targets may round it differently. With HOLO_PLAIN_KERNELS the plain coder
// in tile_coder.cc is all there is.
#include "common/codec/tile_kernels.h"

#ifdef HOLO_PLAIN_KERNELS

namespace holo::codec {

bool CanUseKernels(const TileState&) {
  return false;
}
void UseKernels(TileState&) {}
void Resum(GroupState&, TileKind, std::uint32_t, std::size_t) {}
void LowerPlanes(TileState&, int) {}
std::size_t DecodePatches(const Pass&, entropy::RangeDecoder&, std::size_t first) {
  return first;
}
void EncodePatches(const Pass&, Encoding&) {}

}  // namespace holo::codec

#else

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

// Vectors whose length is unknown when compiling do not fit registers that hold a band.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/codec/tile_kernels.cc"
#include "hwy/foreach_target.h"  // includes this file again for each target
// must come after it
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace holo::codec {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR

bool Works() {
  return false;
}
void Lower(TileState&, int) {}
std::size_t Decode(const Pass&, entropy::RangeDecoder&, std::size_t first) {
  return first;
}
void Encode(const Pass&, Encoding&) {}

#else

namespace hn = hwy::HWY_NAMESPACE;
using Scores = hn::FixedTag<std::int16_t, kVector>;
using Strengths = hn::FixedTag<std::int8_t, kVector>;
using Cells = hn::FixedTag<std::int8_t, 16>;
using ScoreVector = hn::Vec<Scores>;
constexpr std::size_t kMaxBlocks = 2;

bool Works() {
  return true;
}

HWY_INLINE ScoreVector LoadStrengths(const std::int8_t* from) {
  return hn::PromoteTo(Scores(), hn::LoadU(Strengths(), from));
}

// Sums at most 16 strengths: those of which the masks tell.
struct BandSum {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  explicit BandSum(std::size_t count) {
    low = count >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * count) - 1;
    high = count <= 8 ? 0 : count >= 16 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * (count - 8)) - 1;
  }
  [[nodiscard]] HWY_INLINE std::uint8_t LevelOf(std::uint64_t first, std::uint64_t second) const {
    return BandLevelOf(static_cast<std::uint32_t>(((first & low) + (second & high)) * 0x0101010101010101u >> 56));
  }
  [[nodiscard]] HWY_INLINE std::uint8_t LevelOf(const std::int8_t* strengths) const {
    std::uint64_t first, second;
    std::memcpy(&first, strengths, sizeof first);
    std::memcpy(&second, strengths + 8, sizeof second);
    return LevelOf(first, second);
  }
};

void Lower(TileState& tile, int slot) {
  const Cells d;
  // What strengths become when magnitudes double.
  alignas(16) static constexpr std::int8_t kDoubled[16] = {0, 2, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};
  const auto doubled = hn::Load(d, kDoubled);
  struct OfBand {
    std::uint8_t* levels;
    std::uint32_t first_k;
    std::uint64_t mask;  // of its coefficients
    BandSum sum;
  };
  for (std::size_t g = 0; g < tile.groups.size(); ++g) {
    GroupState& group = tile.groups[g];
    if (group.shape.IsIdle(slot)) continue;
    std::vector<OfBand> bands;
    for (Band& band : tile.bands) {
      const BandShape& shape = band.shape;
      if (shape.group != g || !band.started) continue;
      const std::uint64_t mask = ((std::uint64_t{1} << shape.count) - 1) << shape.first_k;
      bands.push_back({band.levels.data(), shape.first_k, mask, BandSum(shape.count)});
    }
    // Row by row: what has just been written is not read at once, and not yet far away.
    for (std::size_t row = 0; row < group.cells(); row += tile.stride()) {
      for (std::size_t cell = row; cell < row + tile.stride(); ++cell) {
        if (group.signs[cell].nonzero == 0) continue;
        std::int8_t* strengths = group.strengths.data() + cell * group.stride;
        for (std::size_t k = 0; k < group.stride; k += 16) {
          hn::StoreU(hn::TableLookupBytes(doubled, hn::LoadU(d, strengths + k)), d, strengths + k);
        }
      }
      for (std::size_t cell = row; cell < row + tile.stride(); ++cell) {
        const std::uint64_t nonzero = group.signs[cell].nonzero;
        if (nonzero == 0) continue;
        Resum(group, tile.kind, g == 0 ? 0 : 1, cell);
        const std::int8_t* strengths = group.strengths.data() + cell * group.stride;
        for (const OfBand& band : bands) {
          if ((nonzero & band.mask) != 0) band.levels[cell] = band.sum.LevelOf(strengths + band.first_k);
        }
      }
    }
  }
}

// What stays the same over a pass.
struct Constants {
  explicit Constants(const Pass& pass)
      : band_sum(pass.band.shape.count), contexts(pass.tile.contexts.all.data()) {
    const BandShape& shape = pass.band.shape;
    for (std::size_t i = 0; i < pass.model.columns; ++i) {
      const std::size_t row = shape.first_row + std::min<std::size_t>(i, shape.last_row - shape.first_row);
      significance_at[i] = static_cast<std::int16_t>(kSignificanceAt + row * significance::kLevels);
    }
    if (pass.luma_band != nullptr) {
      // Neighbours in k outside the band do not count.
      std::copy_n(pass.model.luma.data(), 3 * pass.model.columns, luma.data());
      luma[0] = 0;
      luma[2 * pass.model.columns + shape.count - 1] = 0;
    }
    const auto stride = static_cast<std::ptrdiff_t>(pass.group.stride);
    for (std::size_t n = 0; n < kAround; ++n) distances[n] = pass.around[n] * stride;
    const std::int8_t* of_left = pass.model.active + activity::kNeighbours;
    most_left = *std::max_element(of_left, of_left + 8);
  }

  BandSum band_sum;
  entropy::Probability* contexts;
  int most_left;  // that the left neighbour can add to a score of "becomes active"
  std::array<std::ptrdiff_t, kAround> distances;  // to strengths of patches around
  std::array<std::int16_t, kMaxBlocks * kVector> significance_at{};
  std::array<std::int16_t, 3 * kMaxBlocks * kVector> luma{};
};

// A bit for each lane: of at most sixteen.
template <class Tag>
HWY_INLINE std::uint32_t BitsOf(Tag tag, hn::Mask<Tag> mask) {
  std::uint8_t bits[8] = {};
  hn::StoreMaskBits(tag, mask, bits);
  return (bits[0] | std::uint32_t{bits[1]} << 8) & ((1u << hn::MaxLanes(tag)) - 1);
}

// The contexts of the coefficients of a patch's band, and the scores from which they come.
template <std::size_t kBlocks>
struct PatchContexts {
  ScoreVector scores[kBlocks];
  alignas(16) std::int16_t indices[kBlocks * kVector];

  HWY_INLINE void Index(const Constants& constants) {
    const Scores d;
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const auto level =
          hn::Min(hn::Max(hn::Add(hn::ShiftRight<4>(scores[b]), hn::Set(d, 9)), hn::Zero(d)), hn::Set(d, 15));
      hn::Store(hn::Add(level, hn::LoadU(d, constants.significance_at.data() + b * kVector)), d, indices + b * kVector);
    }
  }
  // A bit for each coefficient that is likely to become significant.
  [[nodiscard]] HWY_INLINE std::uint32_t Likely() const {
    const Scores d;
    constexpr auto kBelow = static_cast<std::int16_t>((significance::kLikely - 9) * 16 - 1);
    std::uint32_t bits = 0;
    for (std::size_t b = 0; b < kBlocks; ++b) {
      bits |= BitsOf(d, hn::Gt(scores[b], hn::Set(d, kBelow))) << (b * kVector);
    }
    return bits;
  }
};

// From 15 - i on, the strength of a 1 at i and nothing else.
alignas(32) constexpr std::int8_t kOneStrength[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};

// The two directions. What one knows it tells; both return what is coded.
class Decoding {
 public:
  explicit Decoding(entropy::RangeDecoder& decoder) : burst_(decoder) {}
  void Return(entropy::RangeDecoder& decoder) const { burst_.Return(decoder); }

  [[nodiscard]] HWY_INLINE bool Holds(std::size_t decisions) const { return burst_.Holds(decisions); }
  [[nodiscard]] HWY_INLINE bool Active(std::size_t, entropy::Probability& context) { return burst_.Code(context); }
  [[nodiscard]] HWY_INLINE bool Significant(std::size_t, std::size_t, bool, entropy::Probability& context) {
    return burst_.Code(context);
  }
  // 1 for a negative coefficient; coded is that or, if `inverted` is 1, its opposite.
  [[nodiscard]] HWY_INLINE std::uint32_t Negative(std::size_t, std::size_t, std::uint32_t inverted,
                                                  entropy::Probability& context) {
    return (burst_.CodeMask(context) & 1) ^ inverted;
  }
  // The next bit.
  [[nodiscard]] HWY_INLINE std::uint32_t Refinement(std::size_t, std::size_t, entropy::Probability& context) {
    return burst_.CodeMask(context) & 1;
  }
  HWY_INLINE void Tell(std::size_t, std::size_t, std::uint32_t, std::uint32_t) {}

 private:
  entropy::RangeDecoder::Burst burst_;
};

class Coding {
 public:
  Coding(const Pass& pass, Encoding& encoding)
      : pass_(pass), encoding_(encoding), values_(encoding.target->values.data()) {}

  [[nodiscard]] static bool Holds(std::size_t) { return true; }
  [[nodiscard]] HWY_INLINE bool Active(std::size_t cell, entropy::Probability& context) {
    const bool bit = BecomesActive(pass_, encoding_, cell, context);
    encoding_.encoder.Code(bit, context);
    return bit;
  }
  [[nodiscard]] HWY_INLINE bool Significant(std::size_t cell, std::size_t i, bool fresh,
                                            entropy::Probability& context) {
    const bool bit = (ValueOf(cell, i) >> 1 >> pass_.plane & 1) != 0 &&
                     (pass_.plane > 0 || BecomesSignificant(pass_, encoding_, cell, i, fresh, context));
    encoding_.encoder.Code(bit, context);
    return bit;
  }
  [[nodiscard]] HWY_INLINE std::uint32_t Negative(std::size_t cell, std::size_t i, std::uint32_t inverted,
                                                  entropy::Probability& context) {
    const std::uint32_t negative = ValueOf(cell, i) & 1;
    encoding_.encoder.Code(negative != inverted, context);
    return negative;
  }
  [[nodiscard]] HWY_INLINE std::uint32_t Refinement(std::size_t cell, std::size_t i, entropy::Probability& context) {
    const std::uint32_t bit = ValueOf(cell, i) >> 1 >> pass_.plane & 1;
    encoding_.encoder.Code(bit != 0, context);
    return bit;
  }
  // That more is known of a magnitude.
  HWY_INLINE void Tell(std::size_t cell, std::size_t i, std::uint32_t before, std::uint32_t after) {
    Count(pass_, encoding_, cell, i, before, after);
  }

 private:
  [[nodiscard]] HWY_INLINE std::uint32_t ValueOf(std::size_t cell, std::size_t i) const {
    return values_[cell * pass_.band.shape.count + i];
  }

  const Pass& pass_;
  Encoding& encoding_;
  const std::uint32_t* values_;
};

// One patch of a pass that tells what becomes significant.
template <std::size_t kBlocks, class Coder>
HWY_INLINE void CodePatch(const Pass& pass, const Constants& constants, std::size_t cell, bool fresh, Coder& coder) {
  const Scores d;
  const BandModel& model = pass.model;
  GroupState& group = pass.group;
  const BandShape& shape = pass.band.shape;
  const std::size_t first_k = shape.first_k;
  constexpr std::size_t kColumns = kBlocks * kVector;
  const std::size_t first = cell * group.stride + first_k;
  GroupState::Signs& signs = group.signs[cell];
  const std::uint32_t all = (std::uint32_t{1} << shape.count) - 1;
  const bool likely = pass.kind == PassKind::kLikely;
  // Coefficients that this pass tells of.
  std::uint32_t open = all & ~static_cast<std::uint32_t>(signs.nonzero >> first_k);
  if (!likely && !fresh) {
    open &= ~static_cast<std::uint32_t>(signs.seen >> first_k);
    signs.seen &= ~(std::uint64_t{all} << first_k);
  }
  if (open == 0) return;
  std::int8_t* const own = group.strengths.data() + cell * group.stride;
  std::int8_t* const strengths = own + first_k;

  PatchContexts<kBlocks> contexts;
  for (std::size_t b = 0; b < kBlocks; ++b) {
    const std::size_t at = b * kVector;
    auto score = hn::LoadU(d, model.bias.data() + at);
    for (std::size_t n = 0; n < kAround; ++n) {
      const auto strength = LoadStrengths(strengths + constants.distances[n] + at);
      score = hn::Add(score, hn::Mul(strength, hn::LoadU(d, model.neighbours.data() + n * kColumns + at)));
    }
    if (pass.luma_band != nullptr) {
      const std::int8_t* luma = pass.luma->strengths.data() + cell * pass.luma->stride + first_k + at - 1;
      for (std::size_t n = 0; n < 3; ++n) {
        const auto weights = hn::LoadU(d, constants.luma.data() + n * kColumns + at);
        score = hn::Add(score, hn::Mul(LoadStrengths(luma + n), weights));
      }
    }
    if (pass.other_band != nullptr) {
      const std::int8_t* other = pass.other->strengths.data() + cell * pass.other->stride + first_k + at;
      score = hn::Add(score, hn::Mul(LoadStrengths(other), hn::LoadU(d, model.other.data() + at)));
    }
    if (fresh) score = hn::Add(score, hn::LoadU(d, model.fresh.data() + at));
    contexts.scores[b] = score;
  }
  for (std::uint64_t left = signs.nonzero; left != 0; left &= left - 1) {
    const auto k = static_cast<std::size_t>(std::countr_zero(left));
    const auto times = hn::Set(d, own[k]);
    for (std::size_t b = 0; b < kBlocks; ++b) {
      contexts.scores[b] = hn::Add(contexts.scores[b],
                                   hn::Mul(times, hn::LoadU(d, model.patch.data() + k * kColumns + b * kVector)));
    }
  }
  std::uint32_t left = likely ? open & contexts.Likely() : open;
  if (left == 0) return;
  contexts.Index(constants);

  const std::size_t count = shape.count;
  bool changed = false;
  // In a register until all are known: who reads at once what was just written in parts waits for it.
  const hn::FixedTag<std::int8_t, kColumns> bytes;
  auto mine = hn::LoadU(bytes, strengths);
  std::uint32_t zeros = 0;
  auto sums_low = hn::Zero(d);
  auto sums_high = hn::Zero(d);
  while (left != 0) {
    const auto i = static_cast<std::size_t>(std::countr_zero(left));
    left &= left - 1;
    const bool implied = fresh && i + 1 == count;  // the patch is active, and it was none of the others
    if (!implied && !coder.Significant(cell, i, fresh, constants.contexts[contexts.indices[i]])) {
      zeros |= std::uint32_t{1} << i;
      continue;
    }
    const std::size_t k = first_k + i;
    const auto sign = [&](std::size_t n) {
      const auto neighbour = static_cast<std::size_t>(static_cast<std::ptrdiff_t>(cell) + pass.around[n]);
      const GroupState::Signs& there = group.signs[neighbour];
      return static_cast<int>(there.nonzero >> k & 1) - 2 * static_cast<int>(there.negative >> k & 1);
    };
    const int sum = 5 * (sign(0) + sign(1)) + sign(2) + sign(3);
    const std::size_t row = shape.first_row + std::min<std::size_t>(i, shape.last_row - shape.first_row);
    const std::uint32_t inverted = sum < 0 ? 1 : 0;
    const std::size_t at = kSignAt + row * kSignContexts + static_cast<std::size_t>(sum < 0 ? -sum : sum);
    const std::uint32_t negative = coder.Negative(cell, i, inverted, constants.contexts[at]);
    const std::uint32_t magnitude = std::uint32_t{1} << pass.plane;
    group.magnitudes.Set(first + i, magnitude);
    coder.Tell(cell, i, 0, magnitude);
    constexpr std::int8_t kStrength = 2;  // StrengthOf(1)
    mine = hn::Or(mine, hn::LoadU(bytes, kOneStrength + 15 - i));
    signs.nonzero |= std::uint64_t{1} << k;
    signs.negative |= std::uint64_t{negative} << k;
    if (fresh) {
      fresh = false;
      for (std::size_t b = 0; b < kBlocks; ++b) {
        contexts.scores[b] = hn::Sub(contexts.scores[b], hn::LoadU(d, model.fresh.data() + b * kVector));
      }
    }
    const auto times = hn::Set(d, kStrength);
    sums_low = hn::Add(sums_low, hn::Mul(times, hn::LoadU(d, pass.sum_weights + k * kMaxSums)));
    sums_high = hn::Add(sums_high, hn::Mul(times, hn::LoadU(d, pass.sum_weights + k * kMaxSums + kVector)));
    for (std::size_t b = 0; b < kBlocks; ++b) {
      contexts.scores[b] = hn::Add(contexts.scores[b],
                                   hn::Mul(times, hn::LoadU(d, model.patch.data() + k * kColumns + b * kVector)));
    }
    contexts.Index(constants);
    // Those behind this one.
    if (likely) left = open & contexts.Likely() & ~((std::uint32_t{2} << i) - 1);
    changed = true;
  }
  if (likely) signs.seen |= std::uint64_t{zeros} << first_k;
  if (!changed) return;
  static_assert(kMaxSums == 2 * kVector);
  alignas(16) std::int16_t sums[kMaxSums];
  hn::Store(sums_low, d, sums);
  hn::Store(sums_high, d, sums + kVector);
  group.AddToSums(cell, sums);
  hn::StoreU(mine, bytes, strengths);
  const auto words = hn::BitCast(hn::FixedTag<std::uint64_t, kBlocks>(), mine);
  pass.band.levels[cell] =
      constants.band_sum.LevelOf(hn::GetLane(words), kBlocks == 1 ? 0 : hn::ExtractLane(words, kBlocks - 1));
}

// The next bits of what was significant before this plane: of which the strength is more than that of a 1.
template <std::size_t kBlocks, class Coder>
HWY_INLINE void RefinePatch(const Pass& pass, const Constants& constants, std::size_t cell, Coder& coder) {
  const Scores d;
  const BandShape& shape = pass.band.shape;
  const std::size_t first = cell * pass.group.stride + shape.first_k;
  const std::int8_t* const strengths = pass.group.strengths.data() + first;
  Magnitudes& magnitudes = pass.group.magnitudes;
  std::uint32_t left = 0;
  for (std::size_t b = 0; b < kBlocks; ++b) {
    left |= BitsOf(d, hn::Gt(LoadStrengths(strengths + b * kVector), hn::Set(d, 2))) << (b * kVector);
  }
  left &= (std::uint32_t{1} << shape.count) - 1;
  if (left == 0) return;
  const std::size_t contexts_at = kRefinementAt + shape.context_class * kRefinementContexts;
  alignas(16) std::int16_t indices[kBlocks * kVector];
  for (std::size_t b = 0; b < kBlocks; ++b) {
    auto sides = hn::Zero(d);
    for (std::size_t n = 0; n < 4; ++n) {
      const auto strength = LoadStrengths(strengths + constants.distances[n] + b * kVector);
      sides = hn::Sub(sides, hn::VecFromMask(d, hn::Gt(strength, hn::Zero(d))));
      sides = hn::Sub(sides, hn::VecFromMask(d, hn::Gt(strength, hn::Set(d, 2))));
    }
    // (sides + 1) / 3 is at least 1 from 2 on, at least 2 from 5 on.
    const auto one = hn::Sub(hn::Zero(d), hn::VecFromMask(d, hn::Gt(sides, hn::Set(d, 1))));
    const auto two = hn::Sub(one, hn::VecFromMask(d, hn::Gt(sides, hn::Set(d, 4))));
    const auto is_first = hn::Eq(LoadStrengths(strengths + b * kVector), hn::Set(d, 3));
    const auto index = hn::IfThenElse(is_first, two, hn::Add(one, hn::Set(d, 3)));
    hn::Store(hn::Add(index, hn::Set(d, static_cast<std::int16_t>(contexts_at))), d, indices + b * kVector);
  }
  for (; left != 0; left &= left - 1) {
    const auto i = static_cast<std::size_t>(std::countr_zero(left));
    const std::uint32_t magnitude = magnitudes.Get(first + i);
    const bool large = (magnitude >> pass.plane >> 1) >= 4;
    const std::size_t at = large ? contexts_at + 5 : static_cast<std::size_t>(indices[i]);
    const std::uint32_t after = magnitude | coder.Refinement(cell, i, constants.contexts[at]) << pass.plane;
    magnitudes.Set(first + i, after);
    coder.Tell(cell, i, magnitude, after);
  }
}

// The scores of "becomes active" of 16 cells from `at` on, without the left neighbour.
struct ActiveScores {
  ScoreVector low;
  ScoreVector high;

  HWY_INLINE ActiveScores(const Pass& pass, std::size_t at) {
    const Scores d;
    const Cells cells;
    const std::int8_t* weights = pass.model.active;
    low = high = hn::Set(d, weights[activity::kBias]);
    const auto add = [&](const std::vector<std::uint8_t>& levels, std::ptrdiff_t distance, std::size_t table) HWY_ATTR {
      const auto level = hn::LoadU(cells, reinterpret_cast<const std::int8_t*>(
                                              levels.data() + static_cast<std::ptrdiff_t>(at) + distance));
      const auto weight = hn::TableLookupBytes(hn::LoadU(cells, weights + table), level);
      low = hn::Add(low, hn::PromoteTo(d, hn::LowerHalf(weight)));
      high = hn::Add(high, hn::PromoteTo(d, hn::UpperHalf(hn::Half<Cells>(), weight)));
    };
    for (std::size_t n = 1; n < kAround; ++n) {
      add(pass.band.levels, pass.around[n], activity::kNeighbours + n * 8);
    }
    if (pass.luma_band != nullptr) add(pass.luma_band->levels, 0, activity::kLuma);
    if (pass.other_band != nullptr) add(pass.other_band->levels, 0, activity::kOther);
    // Far from where levels end, a sum that is cut off does as well.
    const std::int16_t* own = pass.group.SumsOf(pass.band.shape.index) + at;
    low = hn::SaturatedAdd(low, hn::LoadU(d, own));
    high = hn::SaturatedAdd(high, hn::LoadU(d, own + kVector));
  }
  // A bit for each score that is at least `least` once `more` is added.
  [[nodiscard]] HWY_INLINE std::uint32_t AtLeast(int least, int more) const {
    const Scores d;
    const auto below = hn::Set(d, static_cast<std::int16_t>(least - more - 1));
    return BitsOf(d, hn::Gt(low, below)) | BitsOf(d, hn::Gt(high, below)) << kVector;
  }
};

// A bit for each of 16 cells of which the activity is as told.
HWY_INLINE std::uint32_t CellsThatAre(Activity activity, const Activity* first) {
  const Cells d;
  const auto there = hn::LoadU(d, reinterpret_cast<const std::int8_t*>(first));
  return BitsOf(d, hn::Eq(there, hn::Set(d, static_cast<std::int8_t>(activity))));
}

// The cells from `begin` to `end` in a row, at most 16, of a pass that is of active patches only. Returns the cell at
// which it stopped as `coder` may not hold enough for one more patch.
template <std::size_t kBlocks, class Coder>
HWY_INLINE std::size_t CodeActive(const Pass& pass, const Constants& constants, std::size_t begin, std::size_t end,
                                  std::size_t decisions, Coder& coder) {
  std::uint32_t left = CellsThatAre(Activity::kYes, pass.band.active.data() + begin) & ((1u << (end - begin)) - 1);
  for (; left != 0; left &= left - 1) {
    const std::size_t cell = begin + static_cast<std::size_t>(std::countr_zero(left));
    if (!coder.Holds(decisions)) return cell;
    if (pass.kind == PassKind::kRefinement) {
      RefinePatch<kBlocks>(pass, constants, cell, coder);
    } else {
      CodePatch<kBlocks>(pass, constants, cell, false, coder);
    }
  }
  return end;
}

// The same of a pass that is of other patches, too.
template <std::size_t kBlocks, class Coder>
HWY_INLINE std::size_t CodeAny(const Pass& pass, const Constants& constants, std::size_t begin, std::size_t end,
                               std::size_t decisions, Coder& coder) {
  Activity* const active = pass.band.active.data() + begin;
  const std::uint32_t all = (1u << (end - begin)) - 1;
  const bool rest = pass.kind == PassKind::kRest;
  std::uint32_t left = CellsThatAre(rest ? Activity::kNo : Activity::kYes, active) & all;
  std::uint32_t seen = rest ? CellsThatAre(Activity::kSeenNo, active) & all : 0;
  alignas(16) std::int16_t scores[2 * kVector];
  if (!rest || left != 0) {
    const ActiveScores row(pass, begin);
    hn::Store(row.low, Scores(), scores);
    hn::Store(row.high, Scores(), scores + kVector);
    if (!rest) left |= row.AtLeast(activity::kLeastLikely, constants.most_left) & all;
  }
  std::size_t stop = end;
  for (; left != 0; left &= left - 1) {
    const auto i = static_cast<std::size_t>(std::countr_zero(left));
    const std::size_t cell = begin + i;
    if (!coder.Holds(decisions)) {
      stop = cell;
      seen &= (1u << i) - 1;
      break;
    }
    const bool fresh = active[i] != Activity::kYes;
    if (fresh) {
      const int score = scores[i] + pass.model.active[activity::kNeighbours + pass.band.levels[cell - 1]];
      const std::size_t level = activity::LevelOf(score);
      if (!rest && level < activity::kLikely) continue;
      const std::size_t at = kActiveAt + pass.band.shape.context_class * activity::kLevels + level;
      if (!coder.Active(cell, constants.contexts[at])) {
        if (!rest) active[i] = Activity::kSeenNo;
        continue;
      }
      active[i] = Activity::kYes;
    }
    CodePatch<kBlocks>(pass, constants, cell, fresh, coder);
  }
  for (; seen != 0; seen &= seen - 1) active[std::countr_zero(seen)] = Activity::kNo;
  return stop;
}

// The patches from `first` on; returns the first one that is not coded.
template <std::size_t kBlocks, class Coder>
HWY_INLINE std::size_t PatchesOf(const Pass& pass, const Constants& constants, std::size_t first, Coder& coder) {
  const TileState& tile = pass.tile;
  const std::size_t decisions = 2 * pass.band.shape.count + 1;
  const bool only_active = pass.kind == PassKind::kLikely || pass.kind == PassKind::kRefinement;
  std::size_t column = first % tile.columns;
  for (std::size_t row = first / tile.columns; row < tile.rows; ++row, column = 0) {
    const std::size_t row_begin = tile.CellOf(0, static_cast<std::uint32_t>(row));
    const std::size_t row_end = row_begin + tile.columns;
    for (std::size_t begin = row_begin + column; begin < row_end; begin += 16) {
      const std::size_t end = std::min(begin + 16, row_end);
      const std::size_t stop = only_active ? CodeActive<kBlocks>(pass, constants, begin, end, decisions, coder)
                                           : CodeAny<kBlocks>(pass, constants, begin, end, decisions, coder);
      if (stop != end) return row * tile.columns + (stop - row_begin);
    }
  }
  return std::size_t{tile.rows} * tile.columns;
}

template <std::size_t kBlocks>
std::size_t DecodeOf(const Pass& pass, entropy::RangeDecoder& decoder, std::size_t first) {
  Decoding decoding(decoder);
  const std::size_t next = PatchesOf<kBlocks>(pass, Constants(pass), first, decoding);
  decoding.Return(decoder);
  return next;
}

std::size_t Decode(const Pass& pass, entropy::RangeDecoder& decoder, std::size_t first) {
  return pass.model.columns == kVector ? DecodeOf<1>(pass, decoder, first) : DecodeOf<2>(pass, decoder, first);
}

template <std::size_t kBlocks>
void EncodeOf(const Pass& pass, Encoding& encoding) {
  Coding coding(pass, encoding);
  (void)PatchesOf<kBlocks>(pass, Constants(pass), 0, coding);
}

void Encode(const Pass& pass, Encoding& encoding) {
  return pass.model.columns == kVector ? EncodeOf<1>(pass, encoding) : EncodeOf<2>(pass, encoding);
}

#endif

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace holo::codec
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace holo::codec {

HWY_EXPORT(Works);
HWY_EXPORT(Lower);
HWY_EXPORT(Decode);
HWY_EXPORT(Encode);

bool CanUseKernels(const TileState& tile) {
  bool fits = HWY_DYNAMIC_DISPATCH(Works)() && tile.columns <= kMaxTileColumns;
  for (const GroupState& group : tile.groups) fits = fits && group.shape.count <= kInside;
  return fits;
}

void UseKernels(TileState& tile) {
  for (GroupState& group : tile.groups) {
    group.sum_stride = group.cells() + kMaxSums;
    group.sums.assign(group.bands * group.sum_stride, 0);
  }
}

void Resum(GroupState& group, TileKind kind, std::uint32_t family, std::size_t cell) {
  const std::array<std::int16_t, kInside * kMaxSums>& weights = SumWeights(kind, family);
  std::array<std::int16_t, kMaxSums> sums{};
  const std::int8_t* strengths = group.strengths.data() + cell * group.stride;
  for (std::uint64_t left = group.signs[cell].nonzero; left != 0; left &= left - 1) {
    const auto k = static_cast<std::size_t>(std::countr_zero(left));
    for (std::size_t b = 0; b < kMaxSums; ++b) {
      sums[b] = static_cast<std::int16_t>(sums[b] + weights[k * kMaxSums + b] * strengths[k]);
    }
  }
  for (std::size_t b = 0; b < group.bands; ++b) group.sums[b * group.sum_stride + cell] = sums[b];
}

void LowerPlanes(TileState& tile, int slot) {
  HWY_DYNAMIC_DISPATCH(Lower)(tile, slot);
}

std::size_t DecodePatches(const Pass& pass, entropy::RangeDecoder& decoder, std::size_t first) {
  return HWY_DYNAMIC_DISPATCH(Decode)(pass, decoder, first);
}

void EncodePatches(const Pass& pass, Encoding& encoding) {
  HWY_DYNAMIC_DISPATCH(Encode)(pass, encoding);
}

}  // namespace holo::codec

#endif  // HWY_ONCE

#endif  // HOLO_PLAIN_KERNELS
