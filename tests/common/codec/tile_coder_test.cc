#include "common/codec/tile_coder.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "common/codec/tile_kernels.h"
#include "tests/common/every_target.h"

namespace holo::codec {
namespace {

struct Tile {
  const char* name;
  TileKind kind;
  std::uint32_t columns;
  std::uint32_t rows;
  std::vector<GroupShape> shapes;
};

const Tile kTiles[] = {
    {"a whole tile of a picture", TileKind::kPicture, 32, 32, {{63}, {63}, {63}}},
    {"a large one", TileKind::kPicture, 64, 35, {{63}, {63}}},
    {"a narrow one", TileKind::kPicture, 5, 17, {{63}, {63}, {63}}},
    {"few dimensions", TileKind::kPicture, 19, 4, {{11}, {3}}},
    {"groups that are ahead", TileKind::kPicture, 23, 14, {{63}, {63, 0b101}, {63, 0b1110}}},
    {"groups that are ahead, with more dimensions", TileKind::kPicture, 5, 4, {{65, 1}, {70, 0b11}}},
    {"one group", TileKind::kPicture, 16, 9, {{64}}},
    {"groups of different sizes", TileKind::kPicture, 31, 3, {{63}, {20}, {20}, {41}}},
    {"more dimensions than the kernels know", TileKind::kPicture, 6, 5, {{65}, {320}}},
    {"means", TileKind::kMeans, 32, 12, {{15}, {15}, {15}}},
    {"the top", TileKind::kTop, 7, 9, {{1}, {1}, {1}}},
    {"one sample", TileKind::kTop, 1, 1, {{1}}},
    {"of a drawing", TileKind::kDrawing, 21, 32, {{63}, {63}, {63}}},
    {"a drawing's means", TileKind::kDrawingMeans, 14, 9, {{15}, {15}, {15}}},
    {"a drawing's top", TileKind::kDrawingTop, 3, 5, {{1}, {1}, {1}}},
};

// Coefficients that fall with k, busy in some places and empty in others.
TileCode Encode(const Tile& tile, double largest, unsigned seed, bool plain = false) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<std::vector<float>> targets, weights;
  for (const auto& [count, idle_slots] : tile.shapes) {
    std::vector<float>& target = targets.emplace_back();
    for (std::uint32_t patch = 0; patch < tile.columns * tile.rows; ++patch) {
      const double busy = (patch / 4 % 3) * 0.5;
      for (std::uint32_t k = 0; k < count; ++k) {
        target.push_back(static_cast<float>(normal(random) * busy * largest / (1 + k * k * 0.2)));
      }
    }
    weights.emplace_back(count, 1.0f);
  }
  return EncodeTile(tile.kind, tile.columns, tile.rows, tile.shapes, targets, weights, Quantiser{}, nullptr, plain);
}

template <class T>
bool Same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// What differs, or nothing.
std::string Difference(const TileState& a, const TileState& b) {
  if (a.top_slot != b.top_slot || a.passes != b.passes) return "passes";
  for (std::size_t g = 0; g < a.groups.size(); ++g) {
    if (!Same(a.groups[g].strengths, b.groups[g].strengths)) return "strengths of group " + std::to_string(g);
    if (!Same(a.groups[g].signs, b.groups[g].signs)) return "signs of group " + std::to_string(g);
  }
  for (std::size_t i = 0; i < a.bands.size(); ++i) {
    const Band& x = a.bands[i];
    const Band& y = b.bands[i];
    if (!Same(x.magnitudes.bytes(), y.magnitudes.bytes())) return "magnitudes of band " + std::to_string(i);
    if (!Same(x.active, y.active) || !Same(x.levels, y.levels) || x.started != y.started || x.plane != y.plane ||
        x.refined != y.refined || x.known_quarters != y.known_quarters) {
      return "band " + std::to_string(i);
    }
  }
  return Same(a.contexts.all, b.contexts.all) ? "" : "contexts";
}

// Decodes `bytes` in pieces that end at `ends`, both ways, and says what differs.
std::string DifferenceOf(const Tile& tile, const std::vector<std::uint8_t>& bytes, const std::vector<CutPoint>& cuts,
                         std::size_t pieces, bool partial) {
  TileDecoder plain(tile.kind, tile.columns, tile.rows, tile.shapes, true);
  TileDecoder fast(tile.kind, tile.columns, tile.rows, tile.shapes);
  std::size_t passes = 0;
  std::size_t begin = 0;
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    const std::size_t last = piece + 1 == pieces ? cuts.size() : cuts.size() * (piece + 1) / pieces;
    const std::size_t end = std::min<std::size_t>(last > 0 ? cuts[last - 1].bytes : 0, bytes.size());
    const std::span<const std::uint8_t> part(bytes.data() + begin, end - begin);
    plain.Decode(last - passes, part, partial);
    fast.Decode(last - passes, part, partial);
    passes = last;
    begin = end;
    const std::string difference = Difference(plain.state(), fast.state());
    if (!difference.empty()) return difference + " after " + std::to_string(piece + 1) + " pieces";
  }
  return "";
}

TEST_CASE("the vector kernels decode what the plain decoder does, in any number of pieces") {
  for (const Tile& tile : kTiles) {
    CAPTURE(tile.name);
    for (const double largest : {0.4, 30.0, 40000.0}) {
      CAPTURE(largest);
      const TileCode code = Encode(tile, largest, 3);
      OnEveryTarget([&](const char* target) {
        CAPTURE(target);
        for (const std::size_t pieces : {1, 3, 8}) {
          CAPTURE(pieces);
          CHECK(DifferenceOf(tile, code.bytes, code.cuts, pieces, false) == "");
        }
      });
    }
  }
}

TEST_CASE("the vector kernels encode what the plain encoder does") {
  for (const Tile& tile : kTiles) {
    CAPTURE(tile.name);
    for (const double largest : {0.4, 3.0, 30.0, 40000.0}) {
      CAPTURE(largest);
      const TileCode plain = Encode(tile, largest, 3, true);
      OnEveryTarget([&](const char* target) {
        CAPTURE(target);
        const TileCode fast = Encode(tile, largest, 3);
        CHECK(fast.bytes == plain.bytes);
        REQUIRE(fast.cuts.size() == plain.cuts.size());
        for (std::size_t i = 0; i < plain.cuts.size(); ++i) {
          CAPTURE(i);
          CHECK(fast.cuts[i].bytes == plain.cuts[i].bytes);
          CHECK(fast.cuts[i].seen_saved == plain.cuts[i].seen_saved);
          CHECK(fast.cuts[i].measured_saved == plain.cuts[i].measured_saved);
        }
      });
    }
  }
}

TEST_CASE("the vector kernels stop where the plain decoder does") {
  for (const Tile& tile : kTiles) {
    CAPTURE(tile.name);
    const TileCode code = Encode(tile, 20, 4);
    const std::size_t step = code.bytes.size() / 60 + 1;
    for (std::size_t size = 0; size <= code.bytes.size(); size += step) {
      CAPTURE(size);
      const std::vector<std::uint8_t> part(code.bytes.begin(), code.bytes.begin() + static_cast<std::ptrdiff_t>(size));
      CHECK(DifferenceOf(tile, part, code.cuts, 1, true) == "");
      CHECK(DifferenceOf(tile, part, code.cuts, 1, false) == "");
      // The pieces behind the end are empty.
      CHECK(DifferenceOf(tile, part, code.cuts, 3, false) == "");
    }
  }
}

TEST_CASE("the vector kernels decode damaged bytes as the plain decoder does") {
  std::mt19937 random(5);
  for (const Tile& tile : kTiles) {
    CAPTURE(tile.name);
    const TileCode code = Encode(tile, 20, 6);
    for (int attempt = 0; attempt < 20; ++attempt) {
      CAPTURE(attempt);
      std::vector<std::uint8_t> bytes = code.bytes;
      for (int i = 0; i < 4; ++i) bytes[random() % bytes.size()] ^= static_cast<std::uint8_t>(1 + random() % 255);
      CHECK(DifferenceOf(tile, bytes, code.cuts, 1 + static_cast<std::size_t>(attempt) % 4, false) == "");
      // Whatever the passes are said to be.
      const std::vector<CutPoint> more(300, CutPoint{static_cast<std::uint32_t>(bytes.size()), 0, 0, 0});
      CHECK(DifferenceOf(tile, bytes, more, 1, false) == "");
    }
  }
}

TEST_CASE("no sum of a patch's own strengths leaves 16 bits") {
  constexpr int kLargestStrength = 5;
  for (std::size_t kind = 0; kind < kTileKinds; ++kind) {
    for (const std::uint32_t family : {0u, 1u}) {
      const auto& weights = SumWeights(static_cast<TileKind>(kind), family);
      for (std::size_t band = 0; band < kMaxSums; ++band) {
        int most = 0;
        for (std::size_t k = 0; k < kInside; ++k) most += kLargestStrength * std::abs(weights[k * kMaxSums + band]);
        CHECK(most <= 32767);
      }
    }
  }
}

// GroupState::sums of a cell, by their definition.
void Resum(GroupState& group, TileKind kind, std::uint32_t family, std::size_t cell) {
  const GroupSums& weights = SumWeights(kind, family);
  for (std::size_t b = 0; b < kMaxSums; ++b) {
    int sum = 0;
    for (std::size_t k = 0; k < group.shape.count; ++k) {
      sum += weights[k * kMaxSums + b] * group.strengths[cell * group.stride + k];
    }
    group.sums[cell * kMaxSums + b] = static_cast<std::int16_t>(sum);
  }
}

TEST_CASE("sums that follow each change are those of the strengths") {
  for (const Tile& tile : kTiles) {
    CAPTURE(tile.name);
    const TileCode code = Encode(tile, 100, 7);
    TileDecoder decoder(tile.kind, tile.columns, tile.rows, tile.shapes);
    decoder.Decode(code.cuts.size(), code.bytes, false);
    TileState state = decoder.state();
    CHECK(state.finished());
    for (std::size_t g = 0; g < state.groups.size(); ++g) {
      GroupState& group = state.groups[g];
      if (group.sums.empty()) continue;
      const std::vector<std::int16_t> followed = group.sums;
      for (std::size_t cell = 0; cell < group.signs.size(); ++cell) Resum(group, tile.kind, g == 0 ? 0 : 1, cell);
      CHECK(group.sums == followed);
    }
  }
}

TEST_CASE("magnitudes of any width keep what they were set to") {
  for (const int planes : {1, 8, 9, 16, 17, 31, 32}) {
    CAPTURE(planes);
    Magnitudes magnitudes;
    magnitudes.Reset(3, planes);
    const auto largest = static_cast<std::uint32_t>((std::uint64_t{1} << planes) - 1);
    magnitudes.Set(1, largest);
    CHECK(magnitudes.Get(0) == 0);
    CHECK(magnitudes.Get(1) == largest);
    CHECK(magnitudes.Get(2) == 0);
    magnitudes.Set(1, 0);
    magnitudes.Set(2, largest & 0x5A5A5A5Au);
    CHECK(magnitudes.Get(1) == 0);
    CHECK(magnitudes.Get(2) == (largest & 0x5A5A5A5Au));
  }
}

TEST_CASE("what is known of the highest plane that a code can begin with has a value") {
  const std::vector<GroupShape> shapes = {{63}};
  for (const bool plain : {true, false}) {
    TileDecoder decoder(TileKind::kPicture, 3, 2, shapes, plain);
    const std::size_t passes = kPassKinds * MakeBands(TileKind::kPicture, shapes).size();
    decoder.Decode(passes, std::vector<std::uint8_t>(4000, 0), false);  // every decision is a 1
    const TileState& state = decoder.state();
    CHECK(state.top_slot == kMaxSlots - 1);
    CHECK(state.passes == passes);
    for (const Band& band : state.bands) {
      CHECK(band.plane == state.top_slot);
      for (std::size_t k = band.shape.first_k; k < band.shape.first_k + band.shape.count; ++k) {
        const std::uint32_t magnitude = state.MagnitudeOf(0, state.CellOf(1, 1), k);
        CHECK(PlaneOf(magnitude, band.plane, false) == band.plane);
        CHECK(Dequantise(magnitude, band.plane) > 1e9f);
      }
    }
  }
}

}  // namespace
}  // namespace holo::codec
