#include "common/language_model/compute/compute.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/language_model/compute/plain.h"

namespace holo::compute {
namespace {

std::vector<float> Noise(std::size_t count, std::uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = scale * (static_cast<float>(random() >> 8) / 8388608.0f - 1.0f);
  return values;
}

struct Shape {
  std::size_t inputs, outputs;
};
constexpr Shape kShapes[] = {{1, 1}, {7, 5}, {64, 16}, {65, 48}, {128, 200}};
constexpr WeightType kTypes[] = {WeightType::kF32, WeightType::kBf16, WeightType::kInt8};

TEST_CASE("Multiply agrees with a sum in double, for every type of weights") {
  ThreadPool pool(2);
  Scratch scratch;
  for (const WeightType type : kTypes) {
    for (const Shape& shape : kShapes) {
      CAPTURE(WeightTypeName(type));
      CAPTURE(shape.inputs);
      CAPTURE(shape.outputs);
      const std::vector<float> weights = Noise(shape.inputs * shape.outputs, 1);
      const std::vector<float> bias = Noise(shape.outputs, 2);
      const Matrix matrix = Matrix::Pack(type, shape.inputs, shape.outputs, weights, bias);
      constexpr std::size_t kRows = 9;
      const std::vector<float> x = Noise(kRows * shape.inputs, 3);
      std::vector<float> y(kRows * shape.outputs, 100.0f);
      Multiply(matrix, x.data(), kRows, y.data(), Store::kReplace, scratch, pool);
      std::vector<float> column(shape.inputs);
      double worst = 0;
      for (std::size_t output = 0; output < shape.outputs; ++output) {
        matrix.CopyOutput(output, column);
        for (std::size_t row = 0; row < kRows; ++row) {
          double exact = bias[output];
          double magnitude = std::abs(exact);
          double largest = 0;
          double weight_sum = 0;
          for (std::size_t i = 0; i < shape.inputs; ++i) {
            const double product = double{x[row * shape.inputs + i]} * column[i];
            exact += product;
            magnitude += std::abs(product);
            largest = std::max(largest, std::abs(double{x[row * shape.inputs + i]}));
            weight_sum += std::abs(column[i]);
          }
          // n additions and products of relative error 2^-24; beside int8 every activation is off by half a step, of
          // its block's largest at most.
          double tolerance = (static_cast<double>(shape.inputs) + 2) * 0x1p-24 * magnitude;
          // An activation in bf16 is off by 2^-9 of itself.
          if (type == WeightType::kBf16) tolerance += 0x1.01p-9 * magnitude;
          if (type == WeightType::kInt8) tolerance += 0.5001 * largest / 127 * weight_sum + 4 * 0x1p-24 * magnitude;
          worst = std::max(worst, std::abs(y[row * shape.outputs + output] - exact) / (tolerance + 1e-30));
        }
      }
      CHECK(worst <= 1);
    }
  }
}

TEST_CASE("A row gives the same bits alone and in company, on one thread and on three") {
  for (const WeightType type : kTypes) {
    CAPTURE(WeightTypeName(type));
    constexpr std::size_t kInputs = 130;
    constexpr std::size_t kOutputs = 1000;
    constexpr std::size_t kRows = 13;
    const std::vector<float> weights = Noise(kInputs * kOutputs, 1);
    const Matrix matrix = Matrix::PackTransposed(type, kInputs, kOutputs, weights, {});
    const std::vector<float> x = Noise(kRows * kInputs, 3);
    std::vector<float> together(kRows * kOutputs);
    std::vector<float> alone(kRows * kOutputs);
    Scratch scratch;
    ThreadPool three(3);
    ThreadPool one(1);
    Multiply(matrix, x.data(), kRows, together.data(), Store::kReplace, scratch, three);
    for (std::size_t row = 0; row < kRows; ++row) {
      Multiply(matrix, x.data() + row * kInputs, 1, alone.data() + row * kOutputs, Store::kReplace, scratch, one);
    }
    CHECK(together == alone);
  }
}

TEST_CASE("Store::kAdd adds to what is there") {
  const std::vector<float> weights = {1, 2, 3, 4, 5, 6};  // [2, 3]
  const std::vector<float> bias = {10, 20, 30};
  const Matrix matrix = Matrix::Pack(WeightType::kF32, 2, 3, weights, bias);
  Scratch scratch;
  ThreadPool pool(1);
  const std::vector<float> x = {1, -1};
  std::vector<float> y = {100, 200, 300};
  Multiply(matrix, x.data(), 1, y.data(), Store::kAdd, scratch, pool);
  CHECK(y == std::vector<float>{107, 217, 327});
}

TEST_CASE("The vector kernels agree with the plain ones") {
  for (const WeightType type : kTypes) {
    CAPTURE(WeightTypeName(type));
    constexpr std::size_t kInputs = 96;
    constexpr std::size_t kOutputs = 40;
    const Matrix matrix = Matrix::Pack(type, kInputs, kOutputs, Noise(kInputs * kOutputs, 1), Noise(kOutputs, 2));
    std::vector<std::uint16_t> bf16(kInputs * 2);
    for (std::size_t i = 0; i < bf16.size(); ++i) {
      bf16[i] = static_cast<std::uint16_t>(0x3C00 + i * 37 % 0x400 + i % 2 * 0x8000);  // of -2 to 2
    }
    std::vector<std::int8_t> codes(kInputs * 2);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::int8_t>(static_cast<int>(i * 37 % 255) - 127);
    const std::vector<float> scales = {0.5f, 2.0f, 1.0f, 3.0f};
    std::vector<std::int32_t> offsets;
    for (const std::size_t row : {0, 1}) {
      for (const std::size_t first : {std::size_t{0}, kInt8Block}) {
        std::int32_t sum = 0;
        for (std::size_t i = first; i < std::min(kInputs, first + kInt8Block); ++i) sum += codes[row * kInputs + i];
        offsets.push_back(-128 * sum);
      }
    }
    const std::vector<float> x = Noise(2 * kInputs, 3);
    std::vector<float> fast(2 * kOutputs);
    std::vector<float> slow(2 * kOutputs);
    PanelJob job;
    job.matrix = &matrix;
    job.x = x.data();
    job.bf16 = bf16.data();
    job.codes = codes.data();
    job.scales = scales.data();
    job.offsets = offsets.data();
    job.x_stride = kInputs;
    job.y_stride = kOutputs;
    job.rows = 2;
    job.last = 3;
    job.y = fast.data();
    job.y = slow.data();
    plain::MultiplyPanels(job);
    for (const auto multiply : {MultiplyPanels, MultiplyPanelsOnAny}) {
      job.y = fast.data();
      multiply(job);
      for (std::size_t i = 0; i < fast.size(); ++i) {
        // Sums of 96 products below 2; or of two whole numbers below 64 * 127 * 127 times 3 / 127, rounded four times.
        CHECK(std::abs(fast[i] - slow[i]) <=
              (type == WeightType::kInt8 ? 4 * 2 * 64 * 127 * 3 * 0x1p-24 : 2 * 96 * 96 * 0x1p-24));
      }
    }
  }
  std::vector<float> fast = Noise(64, 5, 12);
  fast[0] = 0;
  fast[1] = 1e20f;
  fast[2] = -1e20f;
  std::vector<float> slow = fast;
  Gelu(fast.data(), fast.size());
  plain::Gelu(slow.data(), slow.size());
  // 1 + tanh cancels for negative values: the plain form is off by an epsilon of 0.5 x.
  for (std::size_t i = 0; i < fast.size(); ++i) CHECK(std::abs(fast[i] - slow[i]) <= 1e-6 * (1 + std::abs(slow[i])));
}

TEST_CASE("the vector kernel gates as the plain one does, at every count and far from 0") {
  for (const std::size_t count : {1, 15, 16, 50}) {
    CAPTURE(count);
    std::vector<float> gates = Noise(count, 5, 12);
    gates[0] = -1e20f;
    if (count > 2) gates[1] = 1e4f, gates[2] = 0;
    const std::vector<float> values = Noise(count, 6);
    std::vector<float> fast = values;
    std::vector<float> slow(count);
    GateBySilu(gates.data(), fast.data(), count, fast.data());
    plain::GateBySilu(gates.data(), values.data(), count, slow.data());
    CHECK(std::abs(fast[0]) < 1e-15f);
    for (std::size_t i = 0; i < count; ++i) CHECK(std::abs(fast[i] - slow[i]) <= 1e-6f * (1 + std::abs(slow[i])));
  }
}

TEST_CASE("codes of every width come back, and the vector kernels expand them as the plain ones do") {
  std::mt19937 random(1);
  for (unsigned bits = 1; bits <= 8; ++bits) {
    CAPTURE(bits);
    std::uint8_t values[kPlaneCodes];
    for (std::uint8_t& value : values) value = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
    std::uint8_t codes[32];
    PackPlanes(values, bits, codes);
    float fast[kPlaneCodes], slow[kPlaneCodes];
    ExpandPlanes(codes, bits, 0.5f, fast);
    plain::ExpandPlanes(codes, bits, 0.5f, slow);
    for (std::size_t i = 0; i < kPlaneCodes; ++i) {
      CHECK(fast[i] == (static_cast<float>(values[i]) - static_cast<float>((1u << bits) - 1) / 2) * 0.5f);
      CHECK(slow[i] == fast[i]);
    }
  }
  const std::vector<float> tile = Noise(kTileTokens * 48, 3);
  std::vector<float> fast(tile.size()), slow(tile.size());
  TransposeTile(tile.data(), 48, fast.data());
  plain::TransposeTile(tile.data(), 48, slow.data());
  CHECK(fast == slow);
}

TEST_CASE("Attention over tiles is the softmax over all that each row sees") {
  constexpr std::size_t kRows = 9;
  constexpr std::size_t kDims = 32;
  constexpr std::size_t kTiles = 3;
  const std::vector<float> queries = Noise(kRows * kDims, 1, 3);
  const std::vector<float> keys = Noise(kTiles * kDims * kTileTokens, 2);
  const std::vector<float> values = Noise(kTiles * kDims * kTileTokens, 3);
  std::vector<float> sums(kRows * kDims), largest(kRows, -std::numeric_limits<float>::infinity()), total(kRows),
      weights(kRows * kTileTokens);
  AttentionRows rows;
  rows.rows = kRows;
  rows.dims = kDims;
  rows.queries = queries.data();
  rows.sums = sums.data();
  rows.largest = largest.data();
  rows.total = total.data();
  rows.weights = weights.data();
  const auto seen_by = [](std::size_t row) { return 1 + row * 10; };
  for (std::size_t tile = 0; tile < kTiles; ++tile) {
    std::uint8_t visible[kRows];
    for (std::size_t row = 0; row < kRows; ++row) {
      const std::size_t from = tile * kTileTokens;
      visible[row] = static_cast<std::uint8_t>(std::clamp<std::size_t>(seen_by(row), from, from + kTileTokens) - from);
    }
    AttendTile(rows, keys.data() + tile * kDims * kTileTokens, values.data() + tile * kDims * kTileTokens, visible);
  }
  for (std::size_t row = 0; row < kRows; ++row) {
    CAPTURE(row);
    std::vector<double> scores;
    for (std::size_t token = 0; token < std::min(seen_by(row), kTiles * kTileTokens); ++token) {
      double score = 0;
      for (std::size_t i = 0; i < kDims; ++i) {
        score += double{queries[row * kDims + i]} *
                 keys[(token / kTileTokens * kDims + i) * kTileTokens + token % kTileTokens];
      }
      scores.push_back(score);
    }
    const double most = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - most);
    double worst = 0;
    for (std::size_t i = 0; i < kDims; ++i) {
      double expected = 0;
      for (std::size_t token = 0; token < scores.size(); ++token) {
        expected += scores[token] / sum * values[token * kDims + i];
      }
      worst = std::max(worst, std::abs(sums[row * kDims + i] / total[row] - expected));
    }
    // A score sums 32 products of at most 3: error 32 * 96 * 2^-24 = 1.8e-4 at worst; weights change by as much.
    CHECK(worst <= 4e-4);
  }
}

TEST_CASE("Activations beside int8 weights are rounded to the nearest code of their block's scale") {
  for (const std::size_t inputs : {1, 63, 64, 130}) {
    CAPTURE(inputs);
    std::vector<float> x = Noise(inputs, 3, 7);
    if (inputs > 64) std::fill(x.begin(), x.begin() + 64, 0.0f);
    const std::size_t blocks = Int8Blocks(inputs);
    std::vector<std::int8_t> codes(RoundUp(inputs, 4), 99), plain_codes(codes);
    std::vector<float> scales(blocks), plain_scales(blocks);
    std::vector<std::int32_t> offsets(blocks), plain_offsets(blocks);
    RoundToInt8(x.data(), inputs, codes.data(), scales.data(), offsets.data());
    plain::RoundToInt8(x.data(), inputs, plain_codes.data(), plain_scales.data(), plain_offsets.data());
    CHECK(codes == plain_codes);
    CHECK(scales == plain_scales);
    CHECK(offsets == plain_offsets);
    for (std::size_t i = 0; i < inputs; ++i) {
      CHECK(std::abs(static_cast<float>(codes[i]) * scales[i / kInt8Block] - x[i]) <= 0.50001f * scales[i / kInt8Block]);
    }
    for (std::size_t i = inputs; i < codes.size(); ++i) CHECK(codes[i] == 0);
    for (std::size_t block = 0; block < blocks; ++block) {
      std::int32_t sum = 0;
      for (std::size_t i = block * 64; i < std::min(inputs, block * 64 + 64); ++i) sum += codes[i];
      CHECK(offsets[block] == -128 * sum);
    }
  }
}

TEST_CASE("A stored tile is expanded as the plain loops do it, and attended to with the same bits where it lies") {
  struct Row {
    const char* name;
    TileType type;
    std::size_t code_bits;
  };
  constexpr Row kRows[] = {{"fp32", TileType::kF32, 32},
                           {"fp16", TileType::kF16, 16},
                           {"int8", TileType::kInt8, 8},
                           {"int4", TileType::kInt4, 4}};
  for (const Row& row : kRows) {
    for (const std::size_t dims : {16, 48, 64, 96, 128}) {
      CAPTURE(row.name);
      CAPTURE(dims);
      const std::size_t count = dims * kTileTokens;
      StoredTile tile;
      tile.type = row.type;
      tile.dims = dims;
      tile.group = dims % 32 == 0 ? 32 : 16;
      const std::vector<float> numbers = Noise(2 * count, 4);
      std::vector<std::uint16_t> halves(2 * count);
      ToHalf(numbers.data(), numbers.size(), halves.data());
      std::vector<std::uint8_t> codes(2 * count);
      std::mt19937 random(5);
      for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random());
      tile.keys = row.type == TileType::kF32   ? reinterpret_cast<const std::uint8_t*>(numbers.data())
                  : row.type == TileType::kF16 ? reinterpret_cast<const std::uint8_t*>(halves.data())
                                               : codes.data();
      tile.values = tile.keys + count * row.code_bits / 8;
      const std::vector<float> scales = Noise(2 * kTileTokens * (dims / tile.group), 6);
      std::vector<std::uint16_t> half_scales(scales.size());
      ToHalf(scales.data(), scales.size(), half_scales.data());
      tile.key_scales = half_scales.data();
      tile.value_scales = half_scales.data() + scales.size() / 2;

      std::vector<float> keys(count), values(count), plain_keys(count), plain_values(count);
      ExpandTile(tile, keys.data(), values.data());
      plain::ExpandTile(tile, plain_keys.data(), plain_values.data());
      CHECK(keys == plain_keys);
      CHECK(values == plain_values);

      constexpr std::size_t kQueries = 2;
      const std::uint8_t visible[] = {kTileTokens, 5};
      const std::vector<float> queries = Noise(kQueries * dims, 7, 0.2f);
      struct State {
        std::vector<float> sums, largest, total, weights;
      };
      const State before = {Noise(kQueries * dims, 8), {-0.5f, 0.5f}, {1, 2}, std::vector<float>(kQueries * kTileTokens)};
      State there = before;
      State expanded = before;
      const auto rows = [&](State& state) {
        return AttentionRows{kQueries, dims, queries.data(), state.sums.data(), state.largest.data(),
                             state.total.data(), state.weights.data()};
      };
      AttendStoredTile(rows(there), tile, visible, codes.data(), codes.size());
      AttendTile(rows(expanded), keys.data(), values.data(), visible);
      CHECK(there.sums == expanded.sums);
      CHECK(there.largest == expanded.largest);
      CHECK(there.total == expanded.total);
      CHECK(there.sums != before.sums);
    }
  }
}

TEST_CASE("A tile of coded coordinates is attended to as if it had been expanded") {
  const std::vector<std::uint8_t> bits = {8, 7, 6, 5, 4, 3, 2, 1};
  std::size_t record_bytes = bits.size();
  for (const std::uint8_t of_group : bits) record_bytes += std::size_t{4} * of_group;
  const std::size_t dims = bits.size() * kPlaneCodes;
  std::vector<std::uint8_t> records(kTileTokens * record_bytes);
  std::mt19937 random(5);
  for (std::uint8_t& byte : records) byte = static_cast<std::uint8_t>(random());
  std::vector<float> scales(256);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01f + 0.001f * static_cast<float>(i);
  std::vector<CodedGroup> groups;
  std::size_t codes_at = bits.size();
  for (std::size_t i = 0; i < bits.size(); ++i) {
    groups.push_back({bits[i], i * kPlaneCodes, i, codes_at});
    codes_at += std::size_t{4} * bits[i];
  }
  const CodedTile tile = {records.data(), record_bytes, groups, scales.data()};
  const std::size_t most_rows = 9;
  const std::vector<float> queries = Noise(most_rows * dims, 7, 0.01f);
  const std::vector<float> sums = Noise(most_rows * dims, 8);
  std::vector<float> of_all;
  for (const std::size_t count : {9, 6, 2, 1}) {
    CAPTURE(count);
    std::vector<std::uint8_t> visible(count, kTileTokens);
    visible[0] = 5;
    struct State {
      std::vector<float> sums, largest, total, weights;
    };
    const State before = {sums, std::vector<float>(count, 0.1f), std::vector<float>(count, 2),
                          std::vector<float>(count * kTileTokens)};
    State fast = before;
    State slow = before;
    const auto rows = [&](State& state) {
      return AttentionRows{count, dims, queries.data(), state.sums.data(), state.largest.data(), state.total.data(),
                           state.weights.data()};
    };
    AttendCodedTile(rows(fast), tile, visible.data(), records.data());
    plain::AttendCodedTile(rows(slow), tile, visible.data());
    // A score is a sum of products of which each is below 0.05 * 127.5 * 0.265, a value below 127.5 * 0.265: their
    // roundings, one for each of dims, come to an error of a weight, and 32 weighted values follow.
    const double score_error = 1.7 * static_cast<double>(dims) * 0x1p-24 * static_cast<double>(dims);
    for (std::size_t row = 0; row < count; ++row) {
      CHECK(std::abs(fast.largest[row] - slow.largest[row]) <= score_error);
      CHECK(std::abs(fast.total[row] - slow.total[row]) <= 34 * score_error);
      double worst = 0;
      for (std::size_t i = row * dims; i < (row + 1) * dims; ++i) {
        worst = std::max(worst, std::abs(double{fast.sums[i]} - slow.sums[i]));
      }
      CHECK(worst <= 34 * 34 * score_error);
    }
    CHECK(fast.sums != sums);
    if (of_all.empty()) of_all = fast.sums;
    CHECK(std::equal(fast.sums.begin(), fast.sums.begin() + static_cast<std::ptrdiff_t>(count * dims), of_all.begin()));
  }
}

// Records of random codes, of groups that lie backwards.
struct RandomCodes {
  explicit RandomCodes(std::size_t count) {
    record_bytes = count;
    for (std::size_t i = 0; i < count; ++i) {
      const auto bits = static_cast<unsigned>(1 + i % 8);
      groups.push_back({bits, (count - 1 - i) * kPlaneCodes, i, record_bytes});
      record_bytes += std::size_t{4} * bits;
    }
    records.resize(kTileTokens * record_bytes);
    std::mt19937 random(5);
    for (std::uint8_t& byte : records) byte = static_cast<std::uint8_t>(random());
    for (std::size_t i = 0; i < 256; ++i) scales.push_back(0.01f + 0.001f * static_cast<float>(i));
  }
  CodedTile Tile() const { return {records.data(), record_bytes, groups, scales.data()}; }

  std::size_t record_bytes = 0;
  std::vector<CodedGroup> groups;
  std::vector<std::uint8_t> records;
  std::vector<float> scales;
};

TEST_CASE("coded coordinates are expanded as the plain loops do it, to the last bit") {
  const RandomCodes codes(9);
  const std::size_t columns = 10 * kPlaneCodes;
  std::vector<float> fast(kTileTokens * columns, 7), slow(fast);
  ExpandCodedTile(codes.Tile(), columns, fast.data());
  plain::ExpandCodedTile(codes.Tile(), columns, slow.data());
  CHECK(fast == slow);
  CHECK(fast[9 * kPlaneCodes] == 7);
}

TEST_CASE("a linear map of coded coordinates comes close to the exact one, and the kernels to each other") {
  for (const std::size_t count : {1, 6, 17}) {
    CAPTURE(count);
    const RandomCodes codes(count);
    constexpr std::size_t kOutputs = 48;
    const std::size_t columns = count * kPlaneCodes;
    const std::vector<float> weights = Noise(columns * kOutputs, 3);
    const std::vector<float> offset = Noise(kOutputs, 4);
    const CodeMap map = CodeMap::Pack(codes.groups, weights, offset);
    std::vector<float> fast(kOutputs * kTileTokens), on_any(fast), slow(fast);
    MapCodedTile(map, codes.Tile(), fast.data());
    MapCodedTileOnAny(map, codes.Tile(), on_any.data());
    plain::MapCodedTile(map, codes.Tile(), slow.data());
    std::vector<float> coordinates(kTileTokens * columns);
    plain::ExpandCodedTile(codes.Tile(), columns, coordinates.data());
    double worst = 0, worst_of_kernels = 0, error = 0, energy = 0, size = 0;
    for (std::size_t token = 0; token < kTileTokens; ++token) {
      double norm = 0;
      for (std::size_t i = 0; i < columns; ++i) norm += std::abs(coordinates[token * columns + i]);
      size = std::max(size, norm);
      for (std::size_t output = 0; output < kOutputs; ++output) {
        double exact = offset[output];
        for (std::size_t i = 0; i < columns; ++i) {
          exact += double{coordinates[token * columns + i]} * weights[i * kOutputs + output];
        }
        const std::size_t at = output * kTileTokens + token;
        worst = std::max(worst, std::abs(slow[at] - exact));
        error += (slow[at] - exact) * (slow[at] - exact);
        energy += exact * exact;
        worst_of_kernels = std::max({worst_of_kernels, std::abs(double{fast[at]} - slow[at]),
                                     std::abs(double{on_any[at]} - slow[at])});
      }
    }
    // Weights of up to 1 are rounded by half of 1/127 at most.
    CHECK(worst <= size / 254);
    CHECK(error <= 1e-4 * energy);
    CHECK(worst_of_kernels <= 4 * static_cast<double>(count) * size * 0x1p-24);
  }
}

TEST_CASE("rows of a tile are turned as the plain loop does it") {
  constexpr std::size_t kPairs = 5;
  const std::vector<float> cosines = Noise(kPairs * kTileTokens, 1), sines = Noise(kPairs * kTileTokens, 2);
  std::vector<float> fast = Noise(2 * kPairs * kTileTokens, 3), slow(fast);
  TurnTile(cosines.data(), sines.data(), kPairs, fast.data());
  plain::TurnTile(cosines.data(), sines.data(), kPairs, slow.data());
  CHECK(fast == slow);
}

TEST_CASE("rows of several sets of keys see their own, and two stretches joined are one") {
  constexpr std::size_t kSets = 3, kOfSet = 4, kRows = kSets * kOfSet, kDims = 16, kValues = 48;
  const std::vector<float> queries = Noise(kRows * kDims, 1, 2);
  const std::vector<float> keys = Noise(2 * kSets * kDims * kTileTokens, 2);
  const std::vector<float> values = Noise(2 * kTileTokens * kValues, 3);
  struct State {
    std::vector<float> sums = std::vector<float>(kRows * kValues);
    std::vector<float> largest = std::vector<float>(kRows, -std::numeric_limits<float>::infinity());
    std::vector<float> total = std::vector<float>(kRows);
    std::vector<float> weights = std::vector<float>(kRows * kTileTokens);
  };
  State whole, first, second, reference, joined_slowly;
  const auto rows = [&](State& state) {
    return AttentionRows{kRows, kDims, queries.data(), state.sums.data(), state.largest.data(), state.total.data(),
                         state.weights.data(), kValues, kSets};
  };
  const std::vector<std::uint8_t> all(kRows, kTileTokens);
  std::vector<std::uint8_t> some(kRows, 9);
  some[5] = 0;
  const float* const later_keys = keys.data() + kSets * kDims * kTileTokens;
  const float* const later_values = values.data() + kTileTokens * kValues;
  AttendTile(rows(whole), keys.data(), values.data(), all.data());
  AttendTile(rows(whole), later_keys, later_values, some.data());
  plain::AttendTile(rows(reference), keys.data(), values.data(), all.data());
  plain::AttendTile(rows(reference), later_keys, later_values, some.data());
  AttendTile(rows(first), keys.data(), values.data(), all.data());
  AttendTile(rows(second), later_keys, later_values, some.data());
  joined_slowly = first;
  const State before = first;
  JoinAttention(rows(first), rows(second));
  plain::JoinAttention(rows(joined_slowly), rows(second));
  for (std::size_t row = 0; row < kRows; ++row) {
    CAPTURE(row);
    double worst = 0;
    for (std::size_t i = row * kValues; i < (row + 1) * kValues; ++i) {
      const double expected = double{reference.sums[i]} / reference.total[row];
      worst = std::max({worst, std::abs(whole.sums[i] / whole.total[row] - expected),
                        std::abs(first.sums[i] / first.total[row] - expected),
                        std::abs(joined_slowly.sums[i] / joined_slowly.total[row] - expected)});
    }
    // A score sums 16 products of at most 2: its error is 16 * 32 * 2^-24 = 3e-5 at worst; weights change by as much.
    CHECK(worst <= 1e-4);
  }
  CHECK(std::equal(first.sums.begin() + 5 * kValues, first.sums.begin() + 6 * kValues, before.sums.begin() + 5 * kValues));
}

TEST_CASE("Half precision is rounded to nearest even and comes back exactly") {
  struct Row {
    const char* name;
    float value;
    std::uint16_t half;
  };
  constexpr Row kRows[] = {
      {"zero", 0.0f, 0x0000},         {"negative zero", -0.0f, 0x8000},       {"one", 1.0f, 0x3C00},
      {"largest", 65504.0f, 0x7BFF},  {"tie to even, down", 2049.0f, 0x6800}, {"tie to even, up", 2051.0f, 0x6802},
      {"denormal", 0x1p-24f, 0x0001}, {"half a denormal", 0x1p-25f, 0x0000},  {"too large", 70000.0f, 0x7C00}};
  for (const Row& row : kRows) {
    CAPTURE(row.name);
    const std::vector<float> values(16, row.value);
    std::uint16_t halves[16];
    ToHalf(values.data(), 16, halves);
    CHECK(std::all_of(halves, halves + 16, [&](std::uint16_t half) { return half == row.half; }));
    plain::ToHalf(values.data(), 1, halves);
    CHECK(halves[0] == row.half);
  }
  std::vector<std::uint16_t> all;
  for (std::uint32_t half = 0; half < 65536; ++half) {
    if ((half >> 10 & 31) != 31) all.push_back(static_cast<std::uint16_t>(half));
  }
  std::vector<float> floats(all.size());
  std::vector<std::uint16_t> back(all.size());
  FromHalf(all.data(), all.size(), floats.data());
  ToHalf(floats.data(), floats.size(), back.data());
  CHECK(back == all);
  std::vector<float> slow(all.size());
  plain::FromHalf(all.data(), all.size(), slow.data());
  plain::ToHalf(slow.data(), slow.size(), back.data());
  CHECK(back == all);
  CHECK(slow == floats);
}

TEST_CASE("A normalised row has mean 0 and variance 1") {
  const std::vector<float> x = Noise(50, 1, 40);
  std::vector<float> out(50);
  NormaliseRow(x.data(), 50, 0.0f, nullptr, nullptr, out.data());
  double mean = 0, variance = 0;
  for (const float value : out) mean += value / 50;
  for (const float value : out) variance += value * value / 50;
  CHECK(std::abs(mean) < 1e-6);
  CHECK(std::abs(variance - 1) < 1e-6);
}

TEST_CASE("The vector kernel normalises as the plain one does, to the last bit, with gain and without") {
  for (const std::size_t width : {5, 16, 50, 768}) {
    CAPTURE(width);
    const std::vector<float> x = Noise(width, 1, 40);
    const std::vector<float> gain = Noise(width, 2);
    const std::vector<float> bias = Noise(width, 3);
    std::vector<float> fast(width), slow(width);
    NormaliseRow(x.data(), width, 1e-5f, nullptr, nullptr, fast.data());
    plain::NormaliseRow(x.data(), width, 1e-5f, nullptr, nullptr, slow.data());
    CHECK(fast == slow);
    NormaliseRow(x.data(), width, 1e-5f, gain.data(), bias.data(), fast.data());
    plain::NormaliseRow(x.data(), width, 1e-5f, gain.data(), bias.data(), slow.data());
    CHECK(fast == slow);
  }
}

TEST_CASE("A thread pool runs every task once, call after call") {
  for (const unsigned threads : {1u, 2u, 5u}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    std::vector<std::atomic<int>> runs(100);
    for (int call = 0; call < 200; ++call)
      pool.ForEach(runs.size(), [&](std::size_t i, unsigned worker) { runs[i] += worker < threads ? 1 : 1000; });
    CHECK(std::all_of(runs.begin(), runs.end(), [](const std::atomic<int>& count) { return count == 200; }));
  }
}

}  // namespace
}  // namespace holo::compute
