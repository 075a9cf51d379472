// The bit-plane coder of one tile: integer coefficients <-> an embedded code that may be cut after any pass.
//
// Private to codec/. A tile's coefficients are grouped in bands: consecutive k of one component group, band 0 holding
// the lowest k. A *pass* codes one bit-plane of one band over all patches of the tile. Passes run from the most
// significant plane down and, inside a plane, from low bands to high ones: every prefix of passes is a picture.
//
// One template serves both directions, so that encoder and decoder cannot drift apart. Not synchronised.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/entropy/entropy.h"

namespace holo::codec {

// Quantiser: index = floor(|c| / step + kRounding); a 0 therefore covers (-(1 - kRounding), 1 - kRounding) steps.
inline constexpr float kRounding = 0.33f;
// Where in an interval of the quantiser a value is put: below the middle, as small values are likelier.
inline constexpr float kMidpoint = 0.39f;

inline constexpr int kMaxPlanes = 28;

// The kind of tile decides which contexts are used.
enum class TileKind : std::uint8_t { kPicture, kMeans, kTop };

// What is fixed about a band: which coefficients, and which contexts.
struct BandShape {
  std::uint32_t group = 0;
  std::uint32_t first_k = 0;
  std::uint32_t count = 0;
  std::uint32_t index = 0;  // within its group
  std::uint32_t context_class = 0;
  std::size_t lower_band = 0;  // the next lower band of the group, as an index into the tile's bands, or kNoBand
  std::size_t luma_band = 0;   // the same band of the first group, for later groups, or kNoBand
};
inline constexpr std::size_t kNoBand = static_cast<std::size_t>(-1);

// The bands of a tile in coding order. `counts[g]` is the number of coefficients of group g.
[[nodiscard]] std::vector<BandShape> MakeBands(TileKind kind, std::span<const std::uint32_t> counts);

// Coefficients of one band over the tile, as far as known.
struct Band {
  BandShape shape;
  // [ (rows + 2) * (columns + 2), count ]: magnitude << 1 | sign, with a border of zeros around the patches.
  std::vector<std::uint32_t> values;
  std::vector<std::uint8_t> active;  // [(rows + 2) * (columns + 2)] some coefficient of the patch is not zero
  bool started = false;
  int plane = 0;          // the lowest plane known for all patches
  std::size_t ahead = 0;  // patches for which plane - 1 is known, too
};

inline constexpr std::size_t kContextClasses = 2 * 12 + 2 * 6 + 2;
inline constexpr std::size_t kActiveContexts = 16;
inline constexpr std::size_t kSignificanceContexts = 64;
inline constexpr std::size_t kRefinementContexts = 8;
inline constexpr std::size_t kContextsPerClass = kActiveContexts + kSignificanceContexts + kRefinementContexts + 1;
inline constexpr std::size_t kContexts = kContextClasses * kContextsPerClass;

// Probabilities of a fresh tile, trained on photographs. Part of the format.
[[nodiscard]] const std::array<std::uint16_t, kContexts>& InitialProbabilities();

struct Contexts {
  std::vector<entropy::Probability> all;
  Contexts();
  entropy::Probability& Active(std::uint32_t c, std::size_t i) { return all[c * kContextsPerClass + i]; }
  entropy::Probability& Significance(std::uint32_t c, std::size_t i) {
    return all[c * kContextsPerClass + kActiveContexts + i];
  }
  entropy::Probability& Refinement(std::uint32_t c, std::size_t i) {
    return all[c * kContextsPerClass + kActiveContexts + kSignificanceContexts + i];
  }
  entropy::Probability& Started(std::uint32_t c) { return all[c * kContextsPerClass + kContextsPerClass - 1]; }
};

// The state that both directions share.
struct TileState {
  std::uint32_t columns = 0;  // patches
  std::uint32_t rows = 0;
  std::vector<Band> bands;
  Contexts contexts;
  int top_plane = -1;      // of the whole tile; -1: not known yet
  std::size_t passes = 0;  // completed

  TileState(TileKind kind, std::uint32_t columns, std::uint32_t rows, std::span<const std::uint32_t> counts);
  [[nodiscard]] std::size_t stride() const { return columns + 2; }
  [[nodiscard]] std::size_t CellOf(std::uint32_t column, std::uint32_t row) const {
    return (row + 1) * stride() + column + 1;
  }
  [[nodiscard]] bool finished() const {
    return top_plane >= 0 && passes >= bands.size() * static_cast<std::size_t>(top_plane + 1);
  }
  [[nodiscard]] std::size_t memory_bytes() const;
};

// The value that `bits` (magnitude << 1 | sign) stands for, in steps, when planes from `plane` up are known.
[[nodiscard]] inline float Dequantise(std::uint32_t bits, int plane) {
  const std::uint32_t magnitude = bits >> 1;
  if (magnitude == 0) return 0.0f;
  const float width = static_cast<float>(std::uint32_t{1} << plane);
  const float value = static_cast<float>(magnitude) + width * kMidpoint - kRounding;
  return (bits & 1) != 0 ? -value : value;
}

// Where a code may be cut.
struct CutPoint {
  std::uint32_t bytes = 0;  // of the code that the passes so far need
  // Squared error removed since the start. Seen: in squared steps of each coefficient. Measured: the same, weighted.
  double seen_saved = 0;
  double measured_saved = 0;
};

struct TileCode {
  std::vector<std::uint8_t> bytes;
  std::vector<CutPoint> cuts;  // after each pass
  CutPoint energy;             // what a code without any loss would save
};

// `targets[g]` is [rows * columns, counts[g]]: signed coefficients of group g in steps (not rounded); `weights[g]` is
// [counts[g]], what a squared step of each counts in measured error. A pass is coded for every plane of every band.
// Counts what each context coded in `statistics` ([kContexts][2]) if not null.
[[nodiscard]] TileCode EncodeTile(TileKind kind, std::uint32_t columns, std::uint32_t rows,
                                  std::span<const std::uint32_t> counts, std::span<const std::vector<float>> targets,
                                  std::span<const std::vector<float>> weights,
                                  std::vector<std::array<std::uint64_t, 2>>* statistics = nullptr);

// Decodes further passes of a tile as its code arrives.
class TileDecoder {
 public:
  TileDecoder(TileKind kind, std::uint32_t columns, std::uint32_t rows, std::span<const std::uint32_t> counts)
      : state_(kind, columns, rows, counts) {}

  // Decodes `passes` more passes from the code so far and `bytes`. Any bytes decode to something. Stops soon after the
  // bytes end; if `partial`, before the first decision that they do not hold.
  void Decode(std::size_t passes, std::span<const std::uint8_t> bytes, bool partial);

  [[nodiscard]] const TileState& state() const { return state_; }

 private:
  TileState state_;
  entropy::RangeDecoder decoder_;
};

}  // namespace holo::codec
