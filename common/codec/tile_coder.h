// The bit-plane coder of one tile: integer coefficients <-> an embedded code that may be cut after any pass.
//
// Private to codec/. A tile's coefficients are grouped in bands: consecutive k of one component group, band 0 holding
// the lowest k. A *pass* codes a part of one bit-plane of one band over all patches of the tile: see PassKind. Passes
// run from the most significant plane down, inside a plane from the kind that improves the picture most a byte to the
// one that does so least, inside a kind from low bands to high ones: every prefix of passes is a picture. Which planes
// of different groups are coded side by side is told by *slots*: see GroupShape.
//
// One template serves both directions, so that encoder and decoder cannot drift apart. Not synchronised.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/codec/codec.h"
#include "common/codec/context_model.h"
#include "common/entropy/entropy.h"

namespace holo::codec {

// Where in an interval a value is put: magnitude m of which planes from p up are known stands for
// m + 2^p * kMidpoint - kOffset steps, about the middle of what is rounded to it; if it has just become significant,
// for m + 2^p * kFirstMidpoint - kOffset, as small values are likelier.
inline constexpr float kMidpoint = 0.49f;
inline constexpr float kFirstMidpoint = 0.46f;
inline constexpr std::array<float, 2> kMidpoints = {kMidpoint, kFirstMidpoint};
inline constexpr float kOffset = 0.43f;

// How the encoder rounds. Nothing that a decoder knows.
struct Quantiser {
  float rounding = 0.43f;  // magnitude = floor(|c| / step + rounding)
  // Squared steps that a bit must save: single ones that save less become zeros. 0: all are coded.
  double bit_price = 0.07;
};

inline constexpr int kMaxPlanes = 28;

// Coefficients of one group in a patch, and which of its planes are coded when. The tile is coded from its top slot down
// to slot 0, in each slot one plane of every group that is not idle there. So a group that is idle in slot s is one plane
// ahead in the slots above s: its share of a short code is larger than that of a long one.
struct GroupShape {
  std::uint32_t count = 0;
  std::uint32_t idle_slots = 0;  // a bit each

  [[nodiscard]] bool IsIdle(int slot) const { return (idle_slots >> slot & 1) != 0; }
  // How many planes it is ahead in a slot.
  [[nodiscard]] int Lead(int slot) const { return std::popcount(idle_slots & ((std::uint32_t{1} << slot) - 1)); }
  // The plane that is coded in a slot; where the group is idle, the one that was coded last.
  [[nodiscard]] int PlaneIn(int slot) const { return slot - Lead(slot); }
  [[nodiscard]] int SlotOf(int plane) const {
    int slot = plane;
    while (IsIdle(slot) || PlaneIn(slot) < plane) ++slot;
    return slot;
  }
};
inline constexpr int kMaxSlots = kMaxPlanes + container::kMaxIdleSlots;

// Patches in a row of a tile.
inline constexpr std::size_t kMaxTileColumns = 128;

inline constexpr std::size_t kNoBand = static_cast<std::size_t>(-1);

// A patch is *active* in a band once a coefficient of it is not zero, a coefficient *significant* once it is not zero.
enum class PassKind : std::uint8_t {
  kLikely,      // what is likely to become significant in active patches
  kActive,      // the rest of active patches, and patches that are likely to become active
  kRest,        // all other patches
  kRefinement,  // the next bits of what was significant before this plane
};
inline constexpr std::size_t kPassKinds = 4;  // of every band in every slot, in this order

// What is fixed about a band: which coefficients, and which contexts.
struct BandShape {
  std::uint32_t group = 0;
  std::uint32_t first_k = 0;
  std::uint32_t count = 0;
  std::uint32_t index = 0;  // within its group
  std::uint32_t context_class = 0;
  std::uint32_t first_row = 0;  // of the weights and contexts of its coefficients
  std::uint32_t last_row = 0;
  const BandModel* model = nullptr;
  // Indices into the tile's bands, or kNoBand: the same band of the first group, for later groups, and of the group
  // before if that is not the first.
  std::size_t luma_band = kNoBand;
  std::size_t other_band = kNoBand;
};

// The bands of a tile in coding order.
[[nodiscard]] std::vector<BandShape> MakeBands(TileKind kind, std::span<const GroupShape> shapes);

// Unsigned numbers in as few bytes each as the largest that can be needs: most of what a tile holds is memory that is
// touched for the first time.
class Magnitudes {
 public:
  // `count` zeros that may grow to `planes` bits, 1 to 32.
  void Reset(std::size_t count, int planes);
  [[nodiscard]] std::uint32_t Get(std::size_t at) const { return width_ == 1 ? bytes_[at] : GetWide(at); }
  void Set(std::size_t at, std::uint32_t magnitude) {
    if (width_ == 1) {
      bytes_[at] = static_cast<std::uint8_t>(magnitude);
    } else {
      SetWide(at, magnitude);
    }
  }
  [[nodiscard]] const std::vector<std::uint8_t>& bytes() const { return bytes_; }

 private:
  // Not inline: what is seldom needed makes a loop slower that it stands in.
  [[nodiscard]] std::uint32_t GetWide(std::size_t at) const;
  void SetWide(std::size_t at, std::uint32_t magnitude);

  std::size_t width_ = 1;
  std::vector<std::uint8_t> bytes_;
};

// Coefficients of one group over the tile, as far as known. A *cell* is a patch; around the patches lies a border of
// cells that stay zero.
struct GroupState {
  GroupShape shape;
  std::size_t stride = 0;  // `shape.count` rounded up
  // [cells, stride] StrengthOf() each magnitude at the plane of the last pass, and then some more zeros.
  std::vector<std::int8_t> strengths;
  // Of 64 coefficients, a bit each.
  struct Signs {
    std::uint64_t nonzero = 0;
    std::uint64_t negative = 0;
    // The first pass of a plane has seen it stay zero; the second clears the bit. None where there is nothing for that.
    std::uint64_t seen = 0;
  };
  std::size_t words = 0;     // Signs of a cell
  std::vector<Signs> signs;  // [cells, words]
  std::vector<std::size_t> band_of;  // [count] the tile's band that each coefficient belongs to
  // [cells and then some, kMaxSums] what a cell's own strengths add to the score of "becomes active" of each band; empty
  // where tile_kernels.h is not used.
  std::vector<std::int16_t> sums;

  [[nodiscard]] std::size_t cells() const { return signs.size() / words; }
  [[nodiscard]] Signs& SignsOf(std::size_t cell, std::size_t k) { return signs[cell * words + k / 64]; }
  [[nodiscard]] const Signs& SignsOf(std::size_t cell, std::size_t k) const { return signs[cell * words + k / 64]; }
  [[nodiscard]] static std::uint64_t BitOf(std::size_t k) { return std::uint64_t{1} << k % 64; }
};

// The last plane that is known of a magnitude that is not 0, where `plane` is the last of which anything is known:
// `refined` tells whether that is known of what was significant before it, too.
[[nodiscard]] inline int PlaneOf(std::uint32_t magnitude, int plane, bool refined) {
  // A plane may be the 31st. Without a branch, as this cannot be foreseen.
  const auto was_significant = static_cast<unsigned>(magnitude >> plane >> 1 != 0);
  return plane + static_cast<int>(was_significant & static_cast<unsigned>(!refined));
}

enum class Activity : std::uint8_t {
  kNo,
  kSeenNo,  // no, as the second pass of this plane has told; the third makes it kNo again
  kYes,     // some coefficient of the patch is not zero
  kTold,    // yes, and the first pass of this plane has told of all that are zero: the second has nothing to tell
};
[[nodiscard]] inline bool IsActive(Activity activity) {
  return activity >= Activity::kYes;
}

// One band over the tile.
struct Band {
  BandShape shape;
  std::vector<Activity> active;      // [cells]
  std::vector<std::uint8_t> levels;  // [cells] BandLevelOf() the strengths
  bool started = false;
  Magnitudes magnitudes;  // [cells, shape.count] once it has started
  int plane = 0;            // the last of which anything is known
  std::size_t refined = 0;  // patches in which it is known of coefficients that were significant before it, too
  // To how many quarters of a step coefficients are known: 8 * 2^plane before the passes of a plane, one less after each.
  std::uint64_t known_quarters = 0;
};

inline constexpr std::size_t kRefinementContexts = 8;
inline constexpr std::size_t kSignContexts = 13;
inline constexpr std::size_t kSignificanceAt = 0;
inline constexpr std::size_t kSignAt = kSignificanceAt + significance::kRows * significance::kLevels;
inline constexpr std::size_t kActiveAt = kSignAt + significance::kRows * kSignContexts;
inline constexpr std::size_t kRefinementAt = kActiveAt + activity::kRows * activity::kLevels;
inline constexpr std::size_t kStartedAt = kRefinementAt + activity::kRows * kRefinementContexts;
inline constexpr std::size_t kContexts = kStartedAt + activity::kRows;

// Probabilities of a fresh tile, trained on photographs. Part of the format.
[[nodiscard]] const std::array<std::uint16_t, kContexts>& InitialProbabilities();

struct Contexts {
  std::vector<entropy::Probability> all;
  Contexts();
  // `row` as significance::RowOf() and activity::RowOf() give it.
  entropy::Probability& Significance(std::size_t row, std::size_t i) {
    return all[kSignificanceAt + row * significance::kLevels + i];
  }
  entropy::Probability& Sign(std::size_t row, std::size_t i) { return all[kSignAt + row * kSignContexts + i]; }
  entropy::Probability& Active(std::size_t row, std::size_t i) { return all[kActiveAt + row * activity::kLevels + i]; }
  entropy::Probability& Refinement(std::size_t row, std::size_t i) {
    return all[kRefinementAt + row * kRefinementContexts + i];
  }
  entropy::Probability& Started(std::size_t row) { return all[kStartedAt + row]; }
};

// The state that both directions share.
struct TileState {
  std::uint32_t columns = 0;  // patches
  std::uint32_t rows = 0;
  TileKind kind = TileKind::kPicture;
  std::vector<GroupState> groups;
  std::vector<Band> bands;
  Contexts contexts;
  int top_slot = -1;       // -1: not known yet
  std::size_t passes = 0;  // completed

  TileState(TileKind kind, std::uint32_t columns, std::uint32_t rows, std::span<const GroupShape> shapes);
  [[nodiscard]] std::size_t stride() const { return columns + 2; }
  [[nodiscard]] std::size_t CellOf(std::uint32_t column, std::uint32_t row) const {
    return (row + 1) * stride() + column + 1;
  }
  [[nodiscard]] bool finished() const {
    return top_slot >= 0 && passes >= kPassKinds * bands.size() * static_cast<std::size_t>(top_slot + 1);
  }
  // Of coefficient k of a group.
  [[nodiscard]] std::uint32_t MagnitudeOf(std::size_t group, std::size_t cell, std::size_t k) const {
    const Band& band = bands[groups[group].band_of[k]];
    return band.started ? band.magnitudes.Get(cell * band.shape.count + k - band.shape.first_k) : 0;
  }
  [[nodiscard]] std::size_t memory_bytes() const;
};

// What `magnitude` stands for, in steps, when planes from `plane` up are known.
[[nodiscard]] inline float Dequantise(std::uint32_t magnitude, int plane) {
  if (magnitude == 0) return 0.0f;
  const float width = static_cast<float>(std::uint32_t{1} << plane);
  return static_cast<float>(magnitude) + (width * kMidpoints[magnitude >> plane == 1 ? 1 : 0] - kOffset);
}

// Where a code may be cut.
struct CutPoint {
  std::uint32_t bytes = 0;  // of the code that the passes so far need
  // Squared error removed since the start. Seen: in squared steps of each coefficient; measured: the same, weighted.
  // Worth: as seen, where a group that is ahead counts as it would if its steps were as much wider.
  double seen_saved = 0;
  double measured_saved = 0;
  double worth = 0;
};

struct TileCode {
  std::vector<std::uint8_t> bytes;
  std::vector<CutPoint> cuts;  // after each pass
  CutPoint energy;             // what a code without any loss would save
};

// `targets[g]` is [rows * columns, shapes[g].count]: signed coefficients of group g in steps (not rounded); `weights[g]`
// is [shapes[g].count], what a squared step of each counts in measured error. All passes are coded. Tells `observer`, if
// not null, of every decision. `plain`: without vector kernels, which change nothing but the time.
[[nodiscard]] TileCode EncodeTile(TileKind kind, std::uint32_t columns, std::uint32_t rows,
                                  std::span<const GroupShape> shapes, std::span<const std::vector<float>> targets,
                                  std::span<const std::vector<float>> weights,
                                  const Quantiser& quantiser, ContextObserver* observer = nullptr,
                                  bool plain = false);

// Decodes further passes of a tile as its code arrives.
class TileDecoder {
 public:
  // `plain`: without vector kernels, which change nothing but the time.
  TileDecoder(TileKind kind, std::uint32_t columns, std::uint32_t rows, std::span<const GroupShape> shapes,
              bool plain = false);

  // Decodes `passes` more passes from the code so far and `bytes`. Any bytes decode to something. Stops for good soon
  // after the bytes end inside a pass; if `partial`, before the first decision that they do not hold.
  void Decode(std::size_t passes, std::span<const std::uint8_t> bytes, bool partial);

  [[nodiscard]] const TileState& state() const { return state_; }

 private:
  TileState state_;
  entropy::RangeDecoder decoder_;
  bool stopped_ = false;  // inside a pass, which cannot be taken up again
};

}  // namespace holo::codec
