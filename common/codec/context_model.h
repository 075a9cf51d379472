// How likely a decision of the tile coder is, before anything was learnt from the tile itself: linear models over what is
// known around a coefficient, trained on photographs. Their scores, cut into levels, choose adaptive contexts.
//
// Private to codec/. Integers only: encoder and decoder get the same scores on every machine. See FORMAT.md.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace holo::codec {

// The kind of tile decides which rows are used. Drawings, whose patches the lapped filter does not join, have rows of
// their own.
enum class TileKind : std::uint8_t { kPicture, kMeans, kTop, kDrawing, kDrawingMeans, kDrawingTop };
inline constexpr std::size_t kTileKinds = 6;

// What a magnitude counts in a score, from 0 up: 0, 2, 3, 3, 5, 5, ... A coefficient's own bit of a plane, which may be
// coded before or after others, makes no difference once it is significant.
[[nodiscard]] inline std::int8_t StrengthOf(std::uint32_t magnitude) {
  constexpr std::array<std::int8_t, 5> kStrength = {0, 2, 3, 3, 5};
  return kStrength[std::min(magnitude, 4u)];
}
// The sum of a band's strengths in one patch, in eight levels.
inline constexpr std::array<std::uint8_t, 24> kBandLevel = {0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5,
                                                            5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 7, 7};
[[nodiscard]] inline std::uint8_t BandLevelOf(std::uint32_t strengths) {
  return kBandLevel[std::min<std::uint32_t>(strengths, kBandLevel.size() - 1)];
}

// Coefficients of the patch that count: the first 64 of the group.
inline constexpr std::size_t kInside = 64;
inline constexpr std::size_t kAround = 8;

// Weights of "becomes significant", one row for each k: what multiplies what.
namespace significance {
inline constexpr std::size_t kBias = 0;             // 1
inline constexpr std::size_t kFresh = 1;            // 1 if the patch has just become active and all before are zero
inline constexpr std::size_t kNeighbours = 2;       // [8] strength of the same k in the patches around
inline constexpr std::size_t kLuma = 10;            // [3] of k-1, k, k+1 of the first group, inside the band
inline constexpr std::size_t kOther = 13;           // of the same k of the group before, if that is not the first
inline constexpr std::size_t kPatch = 14;           // [64] of all k of the patch
inline constexpr std::size_t kWeights = kPatch + kInside;
inline constexpr std::size_t kRowsOfPhotographs = 2 * 63 + 2 * 15 + 2;
inline constexpr std::size_t kRows = 2 * kRowsOfPhotographs;
inline constexpr std::size_t kLevels = 16;
inline constexpr std::size_t kLikely = 6;  // from this level up: see PassKind
// Of score / 16.
[[nodiscard]] inline std::size_t LevelOf(int score) {
  return static_cast<std::size_t>(std::clamp((score >> 4) + 9, 0, static_cast<int>(kLevels) - 1));
}
[[nodiscard]] inline std::size_t RowOf(TileKind kind, std::uint32_t family, std::uint32_t k) {
  switch (kind) {
    case TileKind::kPicture:
      return family * 63 + std::min(k, 62u);
    case TileKind::kMeans:
      return 126 + family * 15 + std::min(k, 14u);
    case TileKind::kTop:
      return 156 + family;
    case TileKind::kDrawing:
      return kRowsOfPhotographs + RowOf(TileKind::kPicture, family, k);
    case TileKind::kDrawingMeans:
      return kRowsOfPhotographs + RowOf(TileKind::kMeans, family, k);
    case TileKind::kDrawingTop:
      break;
  }
  return kRowsOfPhotographs + RowOf(TileKind::kTop, family, k);
}
}  // namespace significance

// Weights of "becomes active", one row for each class of bands.
namespace activity {
inline constexpr std::size_t kBias = 0;        // 1
inline constexpr std::size_t kNeighbours = 1;  // [8][8] 1 for each patch around and the level of the band there
inline constexpr std::size_t kLuma = 65;       // [8] 1 for the level of the band of the first group
inline constexpr std::size_t kOther = 73;      // [8] 1 for the level of the band of the group before, if not the first
inline constexpr std::size_t kPatch = 81;      // [64] strengths of all k of the patch
inline constexpr std::size_t kWeights = kPatch + kInside;
inline constexpr std::size_t kRowsOfPhotographs = 2 * 12 + 2 * 6 + 2;
inline constexpr std::size_t kRows = 2 * kRowsOfPhotographs;
inline constexpr std::size_t kLevels = 32;
inline constexpr std::size_t kLikely = 22;  // from this level up: see PassKind
inline constexpr int kMiddle = 22;          // the level of a score of 0
[[nodiscard]] inline std::size_t LevelOf(int score) {
  return static_cast<std::size_t>(std::clamp((score >> 4) + kMiddle, 0, static_cast<int>(kLevels) - 1));
}
inline constexpr int kLeastLikely = (static_cast<int>(kLikely) - kMiddle) * 16;  // score of that level
[[nodiscard]] inline std::size_t RowOf(TileKind kind, std::uint32_t family, std::uint32_t band) {
  switch (kind) {
    case TileKind::kPicture:
      return family * 12 + std::min(band, 11u);
    case TileKind::kMeans:
      return 24 + family * 6 + std::min(band, 5u);
    case TileKind::kTop:
      return 36 + family;
    case TileKind::kDrawing:
      return kRowsOfPhotographs + RowOf(TileKind::kPicture, family, band);
    case TileKind::kDrawingMeans:
      return kRowsOfPhotographs + RowOf(TileKind::kMeans, family, band);
    case TileKind::kDrawingTop:
      break;
  }
  return kRowsOfPhotographs + RowOf(TileKind::kTop, family, band);
}
}  // namespace activity

// Units of a score per unit of log-odds (natural logarithm) as trained; a level is 16 units.
inline constexpr float kScorePerLogOdds = 41.6f;

// The trained weights (context_weights.cc): [kRows][kWeights].
[[nodiscard]] const std::array<std::int8_t, significance::kRows * significance::kWeights>& SignificanceWeights();
[[nodiscard]] const std::array<std::int8_t, activity::kRows * activity::kWeights>& ActivityWeights();

// Those of strengths in "becomes active", turned: [kInside + 1][kMaxSums], the bands of a group side by side. The last row
// is zero: who takes several bits of a mask at a time finds it behind the last one.
inline constexpr std::size_t kMaxSums = 16;
using GroupSums = std::array<std::int16_t, (kInside + 1) * kMaxSums>;
[[nodiscard]] const GroupSums& SumWeights(TileKind kind, std::uint32_t family);

// Sizes of successive bands of a group: small where most of the energy is.
inline constexpr std::array<std::uint32_t, 16> kBandSizes = {2, 3, 4, 5, 6, 8, 10, 12, 13, 16, 20, 24, 28, 32, 48, 64};
inline constexpr std::size_t kMaxBandSize = 64;

// The weights of one band, turned so that neighbours in k are neighbours in memory: arrays of `columns` entries.
struct BandModel {
  std::size_t columns = 0;  // the band's size, rounded up to whole vectors
  std::vector<std::int16_t> bias;
  std::vector<std::int16_t> fresh;
  std::vector<std::int16_t> neighbours;  // [8][columns]
  std::vector<std::int16_t> luma;        // [3][columns]
  std::vector<std::int16_t> other;
  std::vector<std::int16_t> patch;      // [64 + 1][columns], the last row zero
  const std::int8_t* active = nullptr;  // the row of ActivityWeights()
};
inline constexpr std::size_t kVector = 8;

// The model of band `index` of a group; family 0 is the first group. Made on first use; any thread.
[[nodiscard]] const BandModel& ModelOf(TileKind kind, std::uint32_t family, std::uint32_t index);

}  // namespace holo::codec
