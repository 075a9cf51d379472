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
void LowerPlanes(TileState&, int) {}
std::size_t DecodePatches(const Pass&, entropy::RangeDecoder&, std::size_t first, bool) {
  return first;
}
void EncodePatches(const Pass&, Encoding&) {}

}  // namespace holo::codec

#else

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

// Vectors whose length is unknown when compiling do not fit registers that hold a band; those of AVX-512 are longer than a
// band, and its masks no faster.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | HWY_AVX3 | HWY_AVX3_DL)
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
std::size_t Decode(const Pass&, entropy::RangeDecoder&, std::size_t first, bool) {
  return first;
}
void Encode(const Pass&, Encoding&) {}

#else

namespace hn = hwy::HWY_NAMESPACE;
using Cells = hn::FixedTag<std::int8_t, 16>;
constexpr std::size_t kMaxColumns = 2 * kVector;
constexpr std::size_t kAtOnce = 2;  // coefficients of a patch
constexpr std::size_t kCellsAtOnce = 16;

bool Works() {
  return true;
}

// A bit for each lane: of at most sixteen.
template <class Tag>
HWY_INLINE std::uint32_t BitsOf(Tag tag, hn::Mask<Tag> mask) {
  std::uint8_t bits[8] = {};
  hn::StoreMaskBits(tag, mask, bits);
  if constexpr (hn::MaxLanes(tag) <= 8) return bits[0] & ((1u << hn::MaxLanes(tag)) - 1);
  std::uint16_t both;
  std::memcpy(&both, bits, sizeof both);
  return both;
}

// 8 or 16 numbers of 16 bits, in as few vectors as the target needs.
template <std::size_t kCount>
struct Numbers {
  static constexpr std::size_t kLanes = std::min(kCount, hn::MaxLanes(hn::ScalableTag<std::int16_t>()));
  static constexpr std::size_t kBlocks = kCount / kLanes;
  static constexpr hn::FixedTag<std::int16_t, kLanes> kTag{};
  using Vector = hn::Vec<hn::FixedTag<std::int16_t, kLanes>>;

  Vector blocks[kBlocks];

  static HWY_INLINE Numbers Zero() {
    Numbers out;
    for (std::size_t b = 0; b < kBlocks; ++b) out.blocks[b] = hn::Zero(kTag);
    return out;
  }
  static HWY_INLINE Numbers Load(const std::int16_t* from) {
    Numbers out;
    for (std::size_t b = 0; b < kBlocks; ++b) out.blocks[b] = hn::LoadU(kTag, from + b * kLanes);
    return out;
  }
  static HWY_INLINE Numbers Strengths(const std::int8_t* from) {
    const hn::FixedTag<std::int8_t, kLanes> bytes;
    Numbers out;
    for (std::size_t b = 0; b < kBlocks; ++b) out.blocks[b] = hn::PromoteTo(kTag, hn::LoadU(bytes, from + b * kLanes));
    return out;
  }
  // Of 16 numbers of 8 bits.
  static HWY_INLINE Numbers Widen(hn::Vec<Cells> bytes) {
    Numbers out;
    if constexpr (kBlocks == 1) {
      out.blocks[0] = hn::PromoteTo(kTag, bytes);
    } else {
      const hn::Half<Cells> half;
      out.blocks[0] = hn::PromoteTo(kTag, hn::LowerHalf(half, bytes));
      out.blocks[1] = hn::PromoteTo(kTag, hn::UpperHalf(half, bytes));
    }
    return out;
  }
  HWY_INLINE void Store(std::int16_t* to) const {
    for (std::size_t b = 0; b < kBlocks; ++b) hn::StoreU(blocks[b], kTag, to + b * kLanes);
  }
  HWY_INLINE void Add(const Numbers& more) {
    for (std::size_t b = 0; b < kBlocks; ++b) blocks[b] = hn::Add(blocks[b], more.blocks[b]);
  }
  HWY_INLINE void Subtract(const Numbers& less) {
    for (std::size_t b = 0; b < kBlocks; ++b) blocks[b] = hn::Sub(blocks[b], less.blocks[b]);
  }
  HWY_INLINE void AddProduct(const Numbers& a, const std::int16_t* b) {
    for (std::size_t i = 0; i < kBlocks; ++i) {
      blocks[i] = hn::Add(blocks[i], hn::Mul(a.blocks[i], hn::LoadU(kTag, b + i * kLanes)));
    }
  }
  HWY_INLINE void AddTimes(std::int16_t times, const std::int16_t* weights) {
    const auto factor = hn::Set(kTag, times);
    for (std::size_t b = 0; b < kBlocks; ++b) {
      blocks[b] = hn::Add(blocks[b], hn::Mul(factor, hn::LoadU(kTag, weights + b * kLanes)));
    }
  }
  // A bit for each that is larger.
  [[nodiscard]] HWY_INLINE std::uint32_t Above(std::int16_t limit) const {
    std::uint32_t bits = 0;
    for (std::size_t b = 0; b < kBlocks; ++b) {
      bits |= BitsOf(kTag, hn::Gt(blocks[b], hn::Set(kTag, limit))) << (b * kLanes);
    }
    return bits;
  }
  // Of scores: score / 16 + middle, within 0 to top.
  [[nodiscard]] HWY_INLINE Numbers Levels(std::int16_t middle, std::int16_t top) const {
    Numbers out;
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const auto level = hn::Add(hn::ShiftRight<4>(blocks[b]), hn::Set(kTag, middle));
      out.blocks[b] = hn::Min(hn::Max(level, hn::Zero(kTag)), hn::Set(kTag, top));
    }
    return out;
  }
};

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

HWY_INLINE void AddToSums(GroupState& group, std::size_t cell, const Numbers<kMaxSums>& more) {
  std::int16_t* const at = group.sums.data() + cell * kMaxSums;
  auto sums = Numbers<kMaxSums>::Load(at);
  sums.Add(more);
  sums.Store(at);
}

// Makes the first `count` strengths of a cell those of doubled magnitudes; returns a bit for each that changes.
HWY_INLINE std::uint64_t DoubleStrengths(std::int8_t* strengths, std::size_t count) {
  const Cells d;
  alignas(16) static constexpr std::int8_t kDoubled[16] = {0, 2, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};
  const auto doubled = hn::Load(d, kDoubled);
  std::uint64_t changed = 0;
  for (std::size_t k = 0; k < count; k += 16) {
    const auto before = hn::LoadU(d, strengths + k);
    const auto after = hn::TableLookupBytes(doubled, before);
    changed |= std::uint64_t{BitsOf(d, hn::Ne(before, after))} << k;
    hn::StoreU(after, d, strengths + k);
  }
  return changed;
}

void Lower(TileState& tile, int slot) {
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
    std::array<std::uint8_t, kInside> of_k{};
    for (Band& band : tile.bands) {
      const BandShape& shape = band.shape;
      if (shape.group != g) continue;
      const std::uint64_t mask = ((std::uint64_t{1} << shape.count) - 1) << shape.first_k;
      std::fill_n(of_k.data() + shape.first_k, shape.count, static_cast<std::uint8_t>(bands.size()));
      bands.push_back({band.levels.data(), shape.first_k, mask, BandSum(shape.count)});
    }
    const std::int16_t* weights = SumWeights(tile.kind, g == 0 ? 0 : 1).data();
    // Row by row: what has just been written is not read at once, and not yet far away.
    std::array<std::uint64_t, kMaxTileColumns + 2> changed;
    for (std::size_t row = 0; row < group.cells(); row += tile.stride()) {
      for (std::size_t i = 0; i < tile.stride(); ++i) {
        std::int8_t* strengths = group.strengths.data() + (row + i) * group.stride;
        const std::uint64_t nonzero = group.signs[row + i].nonzero;
        changed[i] = nonzero == 0 ? 0 : DoubleStrengths(strengths, static_cast<std::size_t>(std::bit_width(nonzero)));
      }
      for (std::size_t i = 0; i < tile.stride(); ++i) {
        if (changed[i] == 0) continue;
        const std::size_t cell = row + i;
        const std::int8_t* strengths = group.strengths.data() + cell * group.stride;
        auto sums = Numbers<kMaxSums>::Zero();
        for (std::uint64_t left = changed[i]; left != 0;) {
          for (std::size_t n = 0; n < kAtOnce; ++n, left &= left - 1) {
            const auto k = static_cast<std::size_t>(std::countr_zero(left));
            sums.AddTimes(static_cast<std::int16_t>(strengths[k] >> 1), weights + k * kMaxSums);  // from 2 to 3, or 3 to 5
          }
        }
        AddToSums(group, cell, sums);
        for (std::uint64_t left = changed[i]; left != 0;) {
          const OfBand& band = bands[of_k[static_cast<std::size_t>(std::countr_zero(left))]];
          band.levels[cell] = band.sum.LevelOf(strengths + band.first_k);
          left &= ~band.mask;
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
    row = static_cast<std::ptrdiff_t>(pass.tile.stride());
    active_at = kActiveAt + shape.context_class * activity::kLevels;
  }

  BandSum band_sum;
  entropy::Probability* contexts;
  std::ptrdiff_t row;     // cells
  std::size_t active_at;  // the first context of "becomes active"
  std::array<std::ptrdiff_t, kAround> distances;  // to strengths of patches around
  std::array<std::int16_t, kMaxColumns> significance_at{};
  std::array<std::int16_t, 3 * kMaxColumns> luma{};
};

// The contexts of the coefficients of a patch's band, and the scores from which they come.
template <std::size_t kColumns>
struct PatchContexts {
  Numbers<kColumns> scores;
  alignas(32) std::int16_t indices[kColumns];

  HWY_INLINE void Index(const Constants& constants) {
    auto at = scores.Levels(9, 15);
    at.Add(Numbers<kColumns>::Load(constants.significance_at.data()));
    at.Store(indices);
  }
  // A bit for each coefficient that is likely to become significant.
  [[nodiscard]] HWY_INLINE std::uint32_t Likely() const {
    return scores.Above(static_cast<std::int16_t>((significance::kLikely - 9) * 16 - 1));
  }
};

// From 15 - i on, the strength of a 1 at i and nothing else.
alignas(32) constexpr std::int8_t kOneStrength[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};

// The two directions. What one knows it tells; both return what is coded.
class Decoding {
 public:
  // Of a patch, at most.
  static constexpr std::size_t kMaxDecisions = 2 * kMaxColumns + 1;
  static_assert(entropy::RangeDecoder::MostBytesOf(kMaxDecisions) + entropy::kImpliedZeros + 1 <=
                entropy::RangeDecoder::kPadding);

  Decoding(entropy::RangeDecoder& decoder, std::size_t decisions, bool partial) : burst_(decoder, decisions, partial) {}
  void Return(entropy::RangeDecoder& decoder) const { burst_.Return(decoder); }

  // Whether one more patch can be coded, or so many decisions.
  [[nodiscard]] HWY_INLINE bool Holds() const { return burst_.Holds(); }
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
  // The next bit of the magnitude at `at` of the band.
  [[nodiscard]] HWY_INLINE std::uint32_t Refinement(std::size_t /*at*/, entropy::Probability& context) {
    return burst_.CodeMask(context) & 1;
  }
  HWY_INLINE void Tell(std::size_t /*at*/, std::uint32_t, std::uint32_t) {}

 private:
  entropy::RangeDecoder::Burst burst_;
};

class Coding {
 public:
  Coding(const Pass& pass, Encoding& encoding)
      : pass_(pass), encoding_(encoding), values_(encoding.target->values.data()) {}

  [[nodiscard]] static bool Holds() { return true; }
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
  [[nodiscard]] HWY_INLINE std::uint32_t Refinement(std::size_t at, entropy::Probability& context) {
    const std::uint32_t bit = values_[at] >> 1 >> pass_.plane & 1;
    encoding_.encoder.Code(bit != 0, context);
    return bit;
  }
  // That more is known of a magnitude.
  HWY_INLINE void Tell(std::size_t at, std::uint32_t before, std::uint32_t after) {
    Count(pass_, encoding_, at, before, after);
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
template <std::size_t kColumns, class Coder>
HWY_INLINE void CodePatch(const Pass& pass, const Constants& constants, std::size_t cell, bool fresh, Coder& coder) {
  using Row = Numbers<kColumns>;
  const BandModel& model = pass.model;
  GroupState& group = pass.group;
  const BandShape& shape = pass.band.shape;
  const std::size_t first_k = shape.first_k;
  GroupState::Signs& signs = group.signs[cell];
  const std::uint32_t all = (std::uint32_t{1} << shape.count) - 1;
  const bool likely = pass.kind == PassKind::kLikely;
  // Coefficients that this pass tells of.
  std::uint32_t open = all & ~static_cast<std::uint32_t>(signs.nonzero >> first_k);
  if (!likely && !fresh) {
    open &= ~static_cast<std::uint32_t>(signs.seen >> first_k);
    signs.seen &= ~(std::uint64_t{all} << first_k);
  }
  if (open == 0) {
    if (likely) pass.band.active[cell] = Activity::kTold;
    return;
  }
  std::int8_t* const own = group.strengths.data() + cell * group.stride;
  std::int8_t* const strengths = own + first_k;

  PatchContexts<kColumns> contexts;
  Row& scores = contexts.scores;
  scores = Row::Load(model.bias.data());
  for (std::size_t n = 0; n < kAround; ++n) {
    scores.AddProduct(Row::Strengths(strengths + constants.distances[n]), model.neighbours.data() + n * kColumns);
  }
  if (pass.luma_band != nullptr) {
    const std::int8_t* luma = pass.luma->strengths.data() + cell * pass.luma->stride + first_k - 1;
    for (std::size_t n = 0; n < 3; ++n) {
      scores.AddProduct(Row::Strengths(luma + n), constants.luma.data() + n * kColumns);
    }
  }
  if (pass.other_band != nullptr) {
    const std::int8_t* other = pass.other->strengths.data() + cell * pass.other->stride + first_k;
    scores.AddProduct(Row::Strengths(other), model.other.data());
  }
  if (fresh) scores.Add(Row::Load(model.fresh.data()));
  // Several at a time, as it cannot be foreseen how many there are; behind the last one is a row of zeros.
  for (std::uint64_t left = signs.nonzero; left != 0;) {
    for (std::size_t n = 0; n < kAtOnce; ++n, left &= left - 1) {
      const auto k = static_cast<std::size_t>(std::countr_zero(left));
      scores.AddTimes(own[k], model.patch.data() + k * kColumns);
    }
  }
  std::uint32_t left = likely ? open & contexts.Likely() : open;
  if (left == 0) {
    pass.band.active[cell] = Activity::kYes;
    return;
  }
  contexts.Index(constants);

  const std::size_t count = shape.count;
  bool changed = false;
  // In a register until all are known: who reads at once what was just written in parts waits for it.
  const hn::FixedTag<std::int8_t, kColumns> bytes;
  auto mine = hn::LoadU(bytes, strengths);
  std::uint32_t zeros = 0;
  auto sums = Numbers<kMaxSums>::Zero();
  while (left != 0) {
    const auto i = static_cast<std::size_t>(std::countr_zero(left));
    left &= left - 1;
    const bool implied = fresh && i + 1 == count;  // the patch is active, and it was none of the others
    if (!implied && !coder.Significant(cell, i, fresh, constants.contexts[contexts.indices[i]])) {
      zeros |= std::uint32_t{1} << i;
      continue;
    }
    const std::size_t k = first_k + i;
    const auto sign_of = [k](const GroupState::Signs& there) {
      return static_cast<int>(there.nonzero >> k & 1) - 2 * static_cast<int>(there.negative >> k & 1);
    };
    const GroupState::Signs* const here = &signs;
    const int beside = sign_of(here[-1]) + sign_of(here[1]);
    const int sum = 5 * beside + sign_of(*(here - constants.row)) + sign_of(*(here + constants.row));
    const std::uint32_t inverted = sum < 0 ? 1 : 0;
    const std::size_t row = shape.first_row + std::min<std::size_t>(i, shape.last_row - shape.first_row);
    const std::size_t at = kSignAt + row * kSignContexts + static_cast<std::size_t>(sum < 0 ? -sum : sum);
    const std::uint32_t negative = coder.Negative(cell, i, inverted, constants.contexts[at]);
    const std::uint32_t magnitude = std::uint32_t{1} << pass.plane;
    pass.band.magnitudes.Set(cell * count + i, magnitude);
    coder.Tell(cell * count + i, 0, magnitude);
    constexpr std::int8_t kStrength = 2;  // StrengthOf(1)
    mine = hn::Or(mine, hn::LoadU(bytes, kOneStrength + 15 - i));
    signs.nonzero |= std::uint64_t{1} << k;
    signs.negative |= std::uint64_t{negative} << k;
    if (fresh) {
      fresh = false;
      scores.Subtract(Row::Load(model.fresh.data()));
    }
    sums.AddTimes(kStrength, pass.sum_weights + k * kMaxSums);
    scores.AddTimes(kStrength, model.patch.data() + k * kColumns);
    contexts.Index(constants);
    // Those behind this one.
    if (likely) left = open & contexts.Likely() & ~((std::uint32_t{2} << i) - 1);
    changed = true;
  }
  if (likely) {
    const bool all_told = (open & ~zeros & ~static_cast<std::uint32_t>(signs.nonzero >> first_k)) == 0;
    pass.band.active[cell] = all_told ? Activity::kTold : Activity::kYes;
    signs.seen |= std::uint64_t{all_told ? 0 : zeros} << first_k;
  }
  if (!changed) return;
  AddToSums(group, cell, sums);
  hn::StoreU(mine, bytes, strengths);
  constexpr std::size_t kWords = kColumns / 8;
  const auto words = hn::BitCast(hn::FixedTag<std::uint64_t, kWords>(), mine);
  pass.band.levels[cell] =
      constants.band_sum.LevelOf(hn::GetLane(words), kWords == 1 ? 0 : hn::ExtractLane(words, kWords - 1));
}

// The coefficients of some cells that were significant before this plane, of which the strength is more than that of a 1:
// where their magnitudes are and the contexts of their next bits, but for large ones.
template <std::size_t kColumns>
struct Refinements {
  using Row = Numbers<kColumns>;
  static constexpr std::size_t kMost = kCellsAtOnce * kColumns;

  std::size_t count = 0;
  std::int16_t at[kMost + 1];  // (cell - `begin`) * the band's count + i
  std::int16_t contexts[kMost + 1];

  // `cells` has a bit for each cell from `begin` on.
  HWY_INLINE Refinements(const Pass& pass, const Constants& constants, std::size_t begin, std::uint32_t cells) {
    constexpr auto kTag = Row::kTag;
    const BandShape& shape = pass.band.shape;
    const std::size_t contexts_at = ContextsAt(shape);
    for (; cells != 0; cells &= cells - 1) {
      const auto offset = static_cast<std::size_t>(std::countr_zero(cells));
      const std::int8_t* const strengths =
          pass.group.strengths.data() + (begin + offset) * pass.group.stride + shape.first_k;
      const Row mine = Row::Strengths(strengths);
      Row sides = Row::Zero();
      for (std::size_t n = 0; n < 4; ++n) {
        const Row there = Row::Strengths(strengths + constants.distances[n]);
        for (std::size_t b = 0; b < Row::kBlocks; ++b) {
          const auto strength = there.blocks[b];
          sides.blocks[b] = hn::Sub(sides.blocks[b], hn::VecFromMask(kTag, hn::Gt(strength, hn::Zero(kTag))));
          sides.blocks[b] = hn::Sub(sides.blocks[b], hn::VecFromMask(kTag, hn::Gt(strength, hn::Set(kTag, 2))));
        }
      }
      Row of_patch;
      for (std::size_t b = 0; b < Row::kBlocks; ++b) {
        // (sides + 1) / 3 is at least 1 from 2 on, at least 2 from 5 on.
        const auto one = hn::Sub(hn::Zero(kTag), hn::VecFromMask(kTag, hn::Gt(sides.blocks[b], hn::Set(kTag, 1))));
        const auto two = hn::Sub(one, hn::VecFromMask(kTag, hn::Gt(sides.blocks[b], hn::Set(kTag, 4))));
        const auto is_first = hn::Eq(mine.blocks[b], hn::Set(kTag, 3));
        const auto index = hn::IfThenElse(is_first, two, hn::Add(one, hn::Set(kTag, 3)));
        of_patch.blocks[b] = hn::Add(index, hn::Set(kTag, static_cast<std::int16_t>(contexts_at)));
      }
      alignas(32) std::int16_t indices[kColumns];
      of_patch.Store(indices);
      // Without a branch: each is written, and written over unless it counts.
      const std::size_t first = offset * shape.count;
      std::uint32_t told = mine.Above(2);
      for (std::size_t i = 0; i < shape.count; ++i, told >>= 1) {
        at[count] = static_cast<std::int16_t>(first + i);
        contexts[count] = indices[i];
        count += told & 1;
      }
    }
  }
  [[nodiscard]] static std::size_t ContextsAt(const BandShape& shape) {
    return kRefinementAt + shape.context_class * kRefinementContexts;
  }
};

// The next bits of what was significant before this plane. All contexts are known beforehand, so that one loop codes
// those of many cells: how many a cell has cannot be foreseen.
template <std::size_t kColumns, class Coder>
HWY_INLINE void Refine(const Pass& pass, const Refinements<kColumns>& told, std::size_t begin, Coder& coder) {
  const BandShape& shape = pass.band.shape;
  Magnitudes& magnitudes = pass.band.magnitudes;
  const std::size_t first = begin * shape.count;
  const std::size_t of_large = told.ContextsAt(shape) + 5;
  for (std::size_t n = 0; n < told.count; ++n) {
    const std::size_t at = first + static_cast<std::size_t>(told.at[n]);
    const std::uint32_t magnitude = magnitudes.Get(at);
    // Without a branch, as it cannot be foreseen.
    const std::size_t large = 0u - static_cast<std::size_t>((magnitude >> pass.plane >> 1) >= 4);
    const std::size_t context = (static_cast<std::size_t>(told.contexts[n]) & ~large) | (of_large & large);
    const std::uint32_t after = magnitude | coder.Refinement(at, pass.tile.contexts.all[context]) << pass.plane;
    magnitudes.Set(at, after);
    coder.Tell(at, magnitude, after);
  }
}

// Of 16 cells from `at` on, the scores of "becomes active", and the contexts to which they lead.
struct ActiveContexts {
  using Row = Numbers<kCellsAtOnce>;
  alignas(32) std::int16_t scores[kCellsAtOnce];
  alignas(32) std::int16_t indices[kCellsAtOnce];

  HWY_INLINE ActiveContexts(const Pass& pass, const Constants& constants, std::size_t at) {
    const std::int8_t* weights = pass.model.active;
    Row sum = LoadColumn(pass.group.sums.data() + at * kMaxSums + pass.band.shape.index);
    Row rest;
    for (auto& block : rest.blocks) block = hn::Set(Row::kTag, weights[activity::kBias]);
    const auto add = [&](const std::vector<std::uint8_t>& levels, std::ptrdiff_t distance, std::size_t table) HWY_ATTR {
      const Cells cells;
      const auto level = hn::LoadU(cells, reinterpret_cast<const std::int8_t*>(
                                              levels.data() + static_cast<std::ptrdiff_t>(at) + distance));
      const auto weight = hn::TableLookupBytes(hn::LoadU(cells, weights + table), level);
      rest.Add(Row::Widen(weight));
    };
    for (std::size_t n = 0; n < kAround; ++n) {
      add(pass.band.levels, pass.around[n], activity::kNeighbours + n * 8);
    }
    if (pass.luma_band != nullptr) add(pass.luma_band->levels, 0, activity::kLuma);
    if (pass.other_band != nullptr) add(pass.other_band->levels, 0, activity::kOther);
    // Far from where levels end, a sum that is cut off does as well.
    for (std::size_t b = 0; b < Row::kBlocks; ++b) sum.blocks[b] = hn::SaturatedAdd(sum.blocks[b], rest.blocks[b]);
    sum.Store(scores);
    Row index = sum.Levels(activity::kMiddle, activity::kLevels - 1);
    for (auto& block : index.blocks) {
      block = hn::Add(block, hn::Set(Row::kTag, static_cast<std::int16_t>(constants.active_at)));
    }
    index.Store(indices);
  }
  // A bit for each of which the context is that of a likely one.
  [[nodiscard]] HWY_INLINE std::uint32_t Likely() const {
    return Row::Load(scores).Above(activity::kLeastLikely - 1);
  }
  [[nodiscard]] HWY_INLINE bool IsLikely(std::size_t i) const { return scores[i] >= activity::kLeastLikely; }
  // What a level next to a cell adds to its score has changed.
  HWY_INLINE void Add(const Constants& constants, std::size_t i, int more) {
    const int score = std::clamp(scores[i] + more, -32768, 32767);
    scores[i] = static_cast<std::int16_t>(score);
    indices[i] = static_cast<std::int16_t>(constants.active_at + activity::LevelOf(score));
  }

  // Every kMaxSums-th number.
  static HWY_INLINE Row LoadColumn(const std::int16_t* from) {
    using Raw = std::int16_t __attribute__((vector_size(2 * Row::kLanes)));
    Row out;
    for (std::size_t b = 0; b < Row::kBlocks; ++b) {
      Raw raw;
      for (std::size_t i = 0; i < Row::kLanes; ++i) raw[i] = from[(b * Row::kLanes + i) * kMaxSums];
      alignas(32) std::int16_t numbers[Row::kLanes];
      std::memcpy(numbers, &raw, sizeof raw);
      out.blocks[b] = hn::Load(Row::kTag, numbers);
    }
    return out;
  }
};

// A bit for each of 16 cells of which the activity is as told.
HWY_INLINE std::uint32_t CellsThatAre(Activity activity, const Activity* first) {
  const Cells d;
  const auto there = hn::LoadU(d, reinterpret_cast<const std::int8_t*>(first));
  return BitsOf(d, hn::Eq(there, hn::Set(d, static_cast<std::int8_t>(activity))));
}

// Of those that are active.
HWY_INLINE std::uint32_t ActiveCells(const Activity* first) {
  const Cells d;
  const auto there = hn::LoadU(d, reinterpret_cast<const std::int8_t*>(first));
  return BitsOf(d, hn::Gt(there, hn::Set(d, static_cast<std::int8_t>(Activity::kYes) - 1)));
}

// The cells from `begin` to `end` in a row, at most 16, of a pass that is of active patches only. Returns the cell before
// which it stopped, as `coder` does not hold one more patch.
template <std::size_t kColumns, class Coder>
HWY_INLINE std::size_t CodeActive(const Pass& pass, const Constants& constants, std::size_t begin, std::size_t end,
                                  Coder& coder) {
  std::uint32_t left = ActiveCells(pass.band.active.data() + begin) & ((1u << (end - begin)) - 1);
  const bool refines = pass.kind == PassKind::kRefinement;
  bool all_at_once = refines;
  while (left != 0) {
    const auto i = static_cast<std::size_t>(std::countr_zero(left));
    const std::uint32_t some = all_at_once ? left : std::uint32_t{1} << i;
    if (refines) {
      const Refinements<kColumns> told(pass, constants, begin, some);
      if (all_at_once && !coder.Holds(told.count)) {
        all_at_once = false;
        continue;
      }
      Refine<kColumns>(pass, told, begin, coder);
    } else {
      CodePatch<kColumns>(pass, constants, begin + i, false, coder);
    }
    left &= ~some;
    if (!coder.Holds()) return begin + static_cast<std::size_t>(std::bit_width(some));
  }
  return end;
}

// The same of a pass that is of other patches, too.
template <std::size_t kColumns, class Coder>
HWY_INLINE std::size_t CodeAny(const Pass& pass, const Constants& constants, std::size_t begin, std::size_t end,
                               Coder& coder) {
  Activity* const active = pass.band.active.data() + begin;
  const std::uint32_t all = (1u << (end - begin)) - 1;
  const bool rest = pass.kind == PassKind::kRest;
  std::uint32_t no = CellsThatAre(Activity::kNo, active) & all;
  const std::uint32_t others = CellsThatAre(rest ? Activity::kSeenNo : Activity::kYes, active) & all;
  std::size_t stop = end;
  if ((rest ? no : no | others) != 0) {
    ActiveContexts contexts(pass, constants, begin);
    const std::int8_t* const of_left = pass.model.active + activity::kNeighbours;
    std::uint32_t left = rest ? no : others | (no & contexts.Likely());
    for (; left != 0; left &= left - 1) {
      // A loop of its own for those that stay as they are, which is most of them.
      std::uint32_t told = 0;
      std::size_t i = 0;
      bool fresh = false;
      bool holds = true;
      for (; left != 0 && holds; left &= left - 1) {
        i = static_cast<std::size_t>(std::countr_zero(left));
        if ((no >> i & 1) == 0) break;
        fresh = coder.Active(begin + i, constants.contexts[contexts.indices[i]]);
        if (fresh) break;
        told |= std::uint32_t{1} << i;
        holds = coder.Holds();
      }
      if (!rest) {
        for (; told != 0; told &= told - 1) active[std::countr_zero(told)] = Activity::kSeenNo;
      }
      const std::size_t cell = begin + i;
      if (!holds) stop = cell + 1;
      if (left == 0 || !holds) break;
      active[i] = Activity::kYes;
      const std::uint8_t before = pass.band.levels[cell];
      CodePatch<kColumns>(pass, constants, cell, fresh, coder);
      if (!coder.Holds()) {
        stop = cell + 1;
        break;
      }
      const std::uint8_t after = pass.band.levels[cell];
      if (before == after || i + 1 == kCellsAtOnce) continue;
      contexts.Add(constants, i + 1, of_left[after] - of_left[before]);
      if (!rest) {
        const std::uint32_t next = std::uint32_t{2} << i & no;
        left = contexts.IsLikely(i + 1) ? left | next : left & ~next;
      }
    }
  }
  if (rest) {
    std::uint32_t seen = others & ((1u << (stop - begin)) - 1);
    for (; seen != 0; seen &= seen - 1) active[std::countr_zero(seen)] = Activity::kNo;
  }
  return stop;
}

// The patches from `first` on; returns the first one that is not coded.
template <std::size_t kColumns, class Coder>
HWY_INLINE std::size_t PatchesOf(const Pass& pass, const Constants& constants, std::size_t first, Coder& coder) {
  const TileState& tile = pass.tile;
  const bool only_active = pass.kind == PassKind::kLikely || pass.kind == PassKind::kRefinement;
  std::size_t column = first % tile.columns;
  for (std::size_t row = first / tile.columns; row < tile.rows; ++row, column = 0) {
    const std::size_t row_begin = tile.CellOf(0, static_cast<std::uint32_t>(row));
    const std::size_t row_end = row_begin + tile.columns;
    for (std::size_t begin = row_begin + column; begin < row_end;) {
      if (!coder.Holds()) return row * tile.columns + (begin - row_begin);
      const std::size_t end = std::min(begin + 16, row_end);
      begin = only_active ? CodeActive<kColumns>(pass, constants, begin, end, coder)
                          : CodeAny<kColumns>(pass, constants, begin, end, coder);
    }
  }
  return std::size_t{tile.rows} * tile.columns;
}

template <std::size_t kColumns>
std::size_t DecodeOf(const Pass& pass, entropy::RangeDecoder& decoder, std::size_t first, bool partial) {
  Decoding decoding(decoder, 2 * pass.band.shape.count + 1, partial);
  const std::size_t next = PatchesOf<kColumns>(pass, Constants(pass), first, decoding);
  decoding.Return(decoder);
  return next;
}

std::size_t Decode(const Pass& pass, entropy::RangeDecoder& decoder, std::size_t first, bool partial) {
  return pass.model.columns == kVector ? DecodeOf<kVector>(pass, decoder, first, partial)
                                       : DecodeOf<kMaxColumns>(pass, decoder, first, partial);
}

template <std::size_t kColumns>
void EncodeOf(const Pass& pass, Encoding& encoding) {
  Coding coding(pass, encoding);
  (void)PatchesOf<kColumns>(pass, Constants(pass), 0, coding);
}

void Encode(const Pass& pass, Encoding& encoding) {
  return pass.model.columns == kVector ? EncodeOf<kVector>(pass, encoding) : EncodeOf<kMaxColumns>(pass, encoding);
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
    constexpr std::size_t kMore = 16;  // cells are read so many at a time
    group.sums.assign((group.cells() + kMore) * kMaxSums, 0);
  }
}

void LowerPlanes(TileState& tile, int slot) {
  HWY_DYNAMIC_DISPATCH(Lower)(tile, slot);
}

std::size_t DecodePatches(const Pass& pass, entropy::RangeDecoder& decoder, std::size_t first, bool partial) {
  return HWY_DYNAMIC_DISPATCH(Decode)(pass, decoder, first, partial);
}

void EncodePatches(const Pass& pass, Encoding& encoding) {
  HWY_DYNAMIC_DISPATCH(Encode)(pass, encoding);
}

}  // namespace holo::codec

#endif  // HWY_ONCE

#endif  // HOLO_PLAIN_KERNELS
