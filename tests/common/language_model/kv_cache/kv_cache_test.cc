#include "common/language_model/kv_cache/kv_cache.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "common/bytes/bytes.h"
#include "common/language_model/kv_cache/block_coder.h"

namespace holo::kv_cache {
namespace {

using compute::ThreadPool;
using Bytes = std::vector<std::uint8_t>;

constexpr std::array<std::uint8_t, 32> kFingerprint = {1, 2, 3};

std::vector<float> Noise(std::size_t count, std::uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// The rows of a sequence, the same in every layer.
struct Sequence {
  explicit Sequence(const Geometry& geometry, std::size_t tokens, std::uint32_t seed = 1)
      : width(geometry.width()),
        normalised(Noise(tokens * width, seed)),
        keys(Noise(tokens * width, seed + 1)),
        values(Noise(tokens * width, seed + 2)),
        queries(Noise(tokens * width, seed + 3, 2)) {}

  Rows RowsOf(std::size_t from, std::size_t count) const {
    return {count, normalised.data() + from * width, keys.data() + from * width, values.data() + from * width, width};
  }

  std::size_t width;
  std::vector<float> normalised, keys, values, queries;
};

// Appends tokens `from` .. `from + count - 1` in every layer and returns the last layer's attention of them.
std::vector<float> Step(Cache& cache, const Sequence& sequence, std::size_t from, std::size_t count) {
  ThreadPool pool(2);
  AttentionScratch attention_scratch;
  compute::Scratch scratch;
  std::vector<float> out(count * sequence.width);
  for (std::size_t layer = 0; layer < cache.scheme().geometry().layers; ++layer) {
    std::vector<float> prepared(count * cache.scheme().prepared_width(layer));
    cache.scheme().Prepare(layer, sequence.RowsOf(from, count), prepared.data(), scratch, pool);
    cache.Append(layer, sequence.RowsOf(from, count), prepared.data());
    const Request request{&cache, count, sequence.queries.data() + from * sequence.width, out.data()};
    Attend(layer, {&request, 1}, attention_scratch, pool);
  }
  cache.Commit(count);
  return out;
}

std::vector<double> ExactAttention(const Geometry& geometry, const Sequence& sequence, std::size_t tokens) {
  const std::size_t width = geometry.width();
  std::vector<double> out(tokens * width);
  for (std::size_t row = 0; row < tokens; ++row) {
    for (std::size_t head = 0; head < geometry.heads; ++head) {
      const std::size_t first = head * geometry.head_width;
      std::vector<double> weights(row + 1);
      double total = 0;
      for (std::size_t j = 0; j <= row; ++j) {
        double score = 0;
        for (std::size_t i = first; i < first + geometry.head_width; ++i) {
          score += double{sequence.queries[row * width + i]} * sequence.keys[j * width + i];
        }
        total += weights[j] = std::exp(score / std::sqrt(double{static_cast<double>(geometry.head_width)}));
      }
      for (std::size_t j = 0; j <= row; ++j) {
        for (std::size_t i = first; i < first + geometry.head_width; ++i) {
          out[row * width + i] += weights[j] / total * sequence.values[j * width + i];
        }
      }
    }
  }
  return out;
}

// A basis that keeps everything: identity, with eight bits.
Basis IdentityBasis(const Geometry& geometry, std::uint8_t bits = 8) {
  Basis basis;
  basis.geometry = geometry;
  basis.base_fingerprint = kFingerprint;
  basis.calibration = "{}";
  const auto width = static_cast<std::uint32_t>(geometry.width());
  for (std::uint32_t i = 0; i < geometry.layers; ++i) {
    BasisLayer layer;
    layer.rank = width;
    layer.mean.assign(width, 0.25f);
    layer.encoder.assign(std::size_t{width} * width, 0.0f);
    for (std::size_t j = 0; j < width; ++j) layer.encoder[j * width + j] = 1;
    layer.decoder = layer.encoder;
    layer.bits.assign(width / kGroup, bits);
    basis.layers.push_back(layer);
  }
  return basis;
}

// The same as whole numbers of a twentieth.
Basis StoredBasis(const Geometry& geometry) {
  Basis basis = IdentityBasis(geometry);
  basis.method = Method::kStored;
  for (BasisLayer& layer : basis.layers) {
    layer.bits.clear();
    for (float& value : layer.encoder) value *= 20;
    for (float& value : layer.decoder) value /= 20;
    layer.classes.assign(layer.rank, 33);  // 2^(17/4) = 19
  }
  basis.table = MakeCoderTable({});
  return basis;
}

Basis ReportExample() {
  Basis basis;
  basis.method = Method::kReport;
  basis.geometry = {1, 1, 1};
  basis.calibration = "{}";
  BasisLayer layer;
  layer.rank = 1;
  layer.mean = {1, 2};
  layer.encoder = {1, -1};
  basis.layers.push_back(layer);
  return basis;
}

TEST_CASE("a group without bits is kept of the exact tokens only") {
  // Keys are the first half of a row, values the second.
  Basis basis;
  basis.geometry = {1, 2, 32, 1};
  basis.calibration = "{}";
  BasisLayer layer;
  layer.rank = 64;
  layer.key_rank = 32;
  layer.mean.assign(64, 0.5f);
  layer.encoder.assign(64 * 64, 0.0f);
  for (std::size_t i = 0; i < 64; ++i) layer.encoder[i * 64 + i] = 1;
  layer.decoder = layer.encoder;
  layer.bits = {8, 0};
  basis.layers = {layer};
  CHECK(ParseBasis(SerialiseBasis(basis), "basis").value() == basis);
  LayerWeights weights{std::vector<float>(64 * 32), std::vector<float>(64 * 32), std::vector<float>(32)};
  for (std::size_t i = 0; i < 32; ++i) weights.key_weights[i * 32 + i] = weights.value_weights[(32 + i) * 32 + i] = 1;
  const std::vector<double> frequencies(16, 0.25);
  const auto rotation = std::make_shared<const Rotation>(frequencies, 64);
  const auto scheme = MakeProjectedScheme(basis, {&weights, 1}, rotation).value();
  CHECK(scheme->bytes_per_token() == 1 + 32);
  const std::vector<float> rows = Noise(6 * 64, 3);
  std::vector<float> coordinates = rows;
  for (float& value : coordinates) value -= 0.5f;
  std::vector<std::uint8_t> stored(scheme->block_bytes(0));
  for (std::size_t token = 0; token < 6; ++token) {
    scheme->Write(0, 0, token, {}, token, coordinates.data() + token * 64, stored.data());
  }
  std::vector<float> scratch(scheme->scratch_floats(0));
  const Scheme::Tile tile = scheme->Expand(0, 0, 0, 6, stored.data(), scratch.data());
  // Keys are rebuilt and rotated, values stay coordinates.
  for (std::size_t token = 0; token < 6; ++token) {
    std::vector<float> key(rows.begin() + token * 64, rows.begin() + token * 64 + 32);
    rotation->Turn(token, 1, key.data());
    for (std::size_t i = 0; i < 32; ++i) {
      CHECK(std::abs(tile.keys[i * kBlockTokens + token] - key[i]) < 0.05f);
      const float value = token < kExactTokens ? coordinates[token * 64 + 32 + i] : 0;
      CHECK(std::abs(tile.values[token * 32 + i] - value) < 2e-3f);
    }
  }
  // Both heads of queries have the one head of values, of each of two tokens, and the mean is added.
  const std::vector<float> means = Noise(2 * 2 * 32, 4);
  std::vector<float> out(2 * 64);
  scheme->Finish(0, 0, means.data(), 2, out.data());
  for (std::size_t i = 0; i < out.size(); ++i) CHECK(std::abs(out[i] - (means[i] + 0.5f)) < 1e-6f);
  // It is the same where tokens come alone.
  std::vector<float> alone(2 * 64);
  scheme->Finish(0, 0, means.data(), 1, alone.data());
  scheme->Finish(0, 0, means.data() + 64, 1, alone.data() + 64);
  CHECK(alone == out);
  CHECK(MakeProjectedScheme(basis, {&weights, 1}, nullptr).error().code == Code::kUnimplemented);
  basis.layers[0].key_rank = 0;
  CHECK(ParseBasis(SerialiseBasis(basis), "basis").error().code == Code::kDataLoss);
}

TEST_CASE("plain schemes attend as the definition says, as exactly as they store") {
  struct Row {
    const char* name;
    Precision precision;
    double error;  // root mean square, of values with deviation 1
    double bytes;
  };
  const Geometry geometry{2, 3, 64};
  // fp16: 2^-11 / sqrt(3) of a value, in scores and values. int8: a step is 1/127 of the largest of 32, about 2.3
  // sigma: 0.5 % of one; int4: 1/8 of it, 8 %. Scores have a deviation of 2, so weights are off by twice as much as
  // keys.
  constexpr Row kRows[] = {{"fp32", Precision::kF32, 1e-5, 3 * 64 * 2 * 4 * 2},
                           {"fp16", Precision::kF16, 1e-3, 3 * 64 * 2 * 2 * 2},
                           {"int8", Precision::kInt8, 0.02, 3 * 68 * 2 * 2},
                           {"int4", Precision::kInt4, 0.25, 3 * 36 * 2 * 2}};
  const Sequence sequence(geometry, 70);
  const std::vector<double> exact = ExactAttention(geometry, sequence, 70);
  for (const Row& row : kRows) {
    CAPTURE(row.name);
    Cache cache(MakePlainScheme(geometry, row.precision).value());
    CHECK(cache.scheme().name() == row.name);
    CHECK(cache.scheme().bytes_per_token() == row.bytes);
    const std::vector<float> out = Step(cache, sequence, 0, 70);
    double error = 0;
    for (std::size_t i = 0; i < out.size(); ++i) error += std::pow(out[i] - exact[i], 2);
    CHECK(std::sqrt(error / static_cast<double>(out.size())) < row.error);
  }
}

TEST_CASE("a head width that is no multiple of 16 is padded") {
  const Geometry geometry{1, 2, 20};
  const Sequence sequence(geometry, 40);
  Cache cache(MakePlainScheme(geometry, Precision::kF32).value());
  const std::vector<float> out = Step(cache, sequence, 0, 40);
  const std::vector<double> exact = ExactAttention(geometry, sequence, 40);
  double worst = 0;
  for (std::size_t i = 0; i < out.size(); ++i) worst = std::max(worst, std::abs(out[i] - exact[i]));
  CHECK(worst < 1e-4);
}

std::vector<std::shared_ptr<const Scheme>> AllSchemes(const Geometry& geometry) {
  std::vector<std::shared_ptr<const Scheme>> schemes;
  for (const Precision precision : {Precision::kF32, Precision::kF16, Precision::kInt8, Precision::kInt4}) {
    schemes.push_back(MakePlainScheme(geometry, precision).value());
  }
  const std::size_t width = geometry.width();
  const std::vector<LayerWeights> weights(
      geometry.layers, {Noise(width * width, 7, 0.2f), Noise(width * width, 8, 0.2f), Noise(width, 9)});
  for (const std::uint8_t bits : {8, 5, 3, 2, 1}) {
    schemes.push_back(MakeProjectedScheme(IdentityBasis(geometry, bits), weights).value());
  }
  schemes.push_back(MakeProjectedScheme(StoredBasis(geometry), weights).value());
  return schemes;
}

TEST_CASE("a fork continues as the original would, and neither disturbs the other") {
  const Geometry geometry{2, 2, 32};
  for (const auto& scheme : AllSchemes(geometry)) {
    CAPTURE(scheme->name());
    const Sequence sequence(geometry, 80);
    const Sequence other(geometry, 80, 100);
    Cache original(scheme);
    Step(original, sequence, 0, 40);
    Cache fork = original.Fork();
    Step(fork, other, 40, 30);
    const std::vector<float> expected = Step(original, sequence, 40, 40);
    Cache again(scheme);
    Step(again, sequence, 0, 40);
    Cache second = again.Fork();
    CHECK(Step(second, sequence, 40, 40) == expected);
  }
}

TEST_CASE("after Truncate a sequence continues as if the rest had never been") {
  const Geometry geometry{2, 2, 32};
  for (const auto& scheme : AllSchemes(geometry)) {
    CAPTURE(scheme->name());
    const Sequence sequence(geometry, 80);
    Cache straight(scheme);
    Step(straight, sequence, 0, 35);
    Cache fork = straight.Fork();
    const std::vector<float> expected = Step(straight, sequence, 35, 10);
    Step(fork, sequence, 40, 30);
    fork.Truncate(35);
    CHECK(fork.tokens() == 35);
    CHECK(Step(fork, sequence, 35, 10) == expected);
    fork.Truncate(0);
    Step(fork, sequence, 0, 35);
    CHECK(Step(fork, sequence, 35, 10) == expected);
  }
}

TEST_CASE("attention over many blocks has the same bits for one token and for many, on one thread and on three") {
  const Geometry geometry{1, 4, 32};
  std::vector<std::shared_ptr<const Scheme>> schemes = AllSchemes(geometry);
  const std::vector<double> frequencies(16, 0.1);
  const auto rotation = std::make_shared<const Rotation>(frequencies, 400);
  const std::vector<LayerWeights> weights = {{Noise(128 * 64, 7, 0.2f), Noise(128 * 64, 8, 0.2f), Noise(64, 9)}};
  for (Basis basis : {IdentityBasis({1, 4, 32, 2}, 4), StoredBasis({1, 4, 32, 2})}) {
    schemes.push_back(MakeProjectedScheme(basis, weights, rotation).value());
    basis.layers[0].key_rank = 64;
    schemes.push_back(MakeProjectedScheme(basis, weights, rotation).value());
  }
  constexpr std::size_t kTokens = 300;  // of three spans
  const Sequence sequence(geometry, kTokens);
  for (const auto& scheme : schemes) {
    CAPTURE(scheme->name());
    const auto attend = [&](std::size_t at_once, unsigned threads) {
      ThreadPool pool(threads);
      AttentionScratch attention_scratch;
      compute::Scratch scratch;
      Cache cache(scheme);
      std::vector<float> out(kTokens * sequence.width);
      std::vector<float> prepared(kTokens * scheme->prepared_width(0));
      scheme->Prepare(0, sequence.RowsOf(0, kTokens), prepared.data(), scratch, pool);
      for (std::size_t first = 0; first < kTokens; first += at_once) {
        const std::size_t count = std::min(at_once, kTokens - first);
        cache.Append(0, sequence.RowsOf(first, count), prepared.data() + first * scheme->prepared_width(0));
        const Request request{&cache, count, sequence.queries.data() + first * sequence.width,
                              out.data() + first * sequence.width};
        Attend(0, {&request, 1}, attention_scratch, pool);
        cache.Commit(count);
      }
      return out;
    };
    const std::vector<float> expected = attend(kTokens, 1);
    CHECK(attend(1, 1) == expected);
    CHECK(attend(1, 3) == expected);
    CHECK(attend(kTokens, 3) == expected);
    CHECK(attend(70, 2) == expected);
  }
}

TEST_CASE("scales come back from their code, which is shorter than they are") {
  const std::vector<std::uint8_t> starts = {80, 120, 171};
  std::mt19937 random(3);
  std::normal_distribution<double> normal(0, 4);
  std::vector<std::uint8_t> scales;
  for (std::size_t i = 0; i < 3000; ++i) {
    scales.push_back(static_cast<std::uint8_t>(std::lround(starts[i % 3] + 10 + normal(random))));
  }
  scales[7] = 0;
  scales[8] = 255;
  const Bytes code = EncodeScales(starts, scales);
  // Of normally distributed numbers of a deviation of 4 each has log2(4 sqrt(2 pi e)) = 4.05 bits, and expecting the mean
  // of only the last few costs a quarter.
  CHECK(static_cast<double>(code.size()) < 4.5 / 8 * static_cast<double>(scales.size()));
  std::vector<std::uint8_t> decoded(scales.size(), 9);
  REQUIRE(DecodeScales(code, "block", starts, decoded));
  CHECK(decoded == scales);
  CHECK(DecodeScales({}, "block", starts, decoded).error().code == Code::kDataLoss);
  Bytes longer = code;
  longer.resize(longer.size() + 20, 0xAA);
  CHECK(DecodeScales(longer, "block", starts, decoded).error().code == Code::kDataLoss);
  CHECK(DecodeScales(Bytes(5000, 0xFF), "block", starts, decoded).error().code == Code::kDataLoss);
  CHECK(EncodeScales(starts, {}).empty());
  CHECK(DecodeScales({}, "block", starts, {}));
}

TEST_CASE("a saved cache continues as the original would") {
  const Geometry geometry{2, 2, 32};
  for (const auto& scheme : AllSchemes(geometry)) {
    CAPTURE(scheme->name());
    const Sequence sequence(geometry, 60);
    Cache original(scheme);
    Step(original, sequence, 0, 40);
    std::vector<std::uint32_t> tokens(40);
    for (std::uint32_t i = 0; i < 40; ++i) tokens[i] = i * i;
    const Bytes bytes = SaveCache(original, kFingerprint, tokens);
    auto restored = RestoreCache(bytes, "saved", scheme, kFingerprint);
    REQUIRE(restored);
    CHECK(restored->tokens == tokens);
    CHECK(Step(restored->cache, sequence, 40, 20) == Step(original, sequence, 40, 20));
  }
}

TEST_CASE("blocks are saved and restored one by one") {
  const Geometry geometry{2, 2, 32};
  for (const auto& scheme : AllSchemes(geometry)) {
    CAPTURE(scheme->name());
    const Sequence sequence(geometry, 90);
    Cache original(scheme);
    Step(original, sequence, 0, 80);
    std::vector<std::uint32_t> tokens(80);
    for (std::uint32_t i = 0; i < 80; ++i) tokens[i] = 1000 * i;
    std::vector<Bytes> blocks;
    std::size_t bytes = 0;
    for (std::size_t block = 0; block < 3; ++block) {
      const auto of_block = std::span(tokens).subspan(32 * block, std::min<std::size_t>(32, 80 - 32 * block));
      blocks.push_back(SaveBlock(original, block, kFingerprint, of_block));
      bytes += blocks.back().size();
    }
    CHECK(SavedBytes(original, tokens) == bytes);
    Cache restored(scheme);
    CHECK(RestoreBlock(blocks[1], "block", restored, kFingerprint).error().code == Code::kFailedPrecondition);
    std::vector<std::uint32_t> found;
    for (const Bytes& block : blocks) {
      const auto of_block = RestoreBlock(block, "block", restored, kFingerprint);
      REQUIRE(of_block);
      found.insert(found.end(), of_block->begin(), of_block->end());
    }
    CHECK(found == tokens);
    CHECK(RestoreBlock(blocks[2], "block", restored, kFingerprint).error().code == Code::kFailedPrecondition);
    CHECK(Step(restored, sequence, 80, 10) == Step(original, sequence, 80, 10));
  }
}

TEST_CASE("a damaged or foreign block is refused and leaves the cache as it was") {
  const Geometry geometry{1, 1, 32};
  const std::vector<LayerWeights> weights(1, {Noise(32 * 32, 7), Noise(32 * 32, 8), Noise(32, 9)});
  const auto scheme = MakeProjectedScheme(StoredBasis(geometry), weights).value();
  Cache cache(scheme);
  Step(cache, Sequence(geometry, 3), 0, 3);
  const std::uint32_t tokens[] = {5, 600, 70000};
  const Bytes bytes = SaveBlock(cache, 0, kFingerprint, tokens);
  Cache restored(scheme);
  const auto code = [&](const Bytes& damaged) {
    const auto result = RestoreBlock(damaged, "block", restored, kFingerprint);
    return result ? 0 : static_cast<int>(result.error().code);
  };
  constexpr int kDamaged = static_cast<int>(Code::kDataLoss);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK(code(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length))) == kDamaged);
  }
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    CAPTURE(at);
    Bytes flipped = bytes;
    flipped[at] = static_cast<std::uint8_t>(flipped[at] ^ 0x40);
    CHECK(code(flipped) == (at == 4 ? static_cast<int>(Code::kUnimplemented) : kDamaged));
  }
  Bytes trailing = bytes;
  trailing.push_back(0);
  CHECK(code(trailing) == kDamaged);
  constexpr std::array<std::uint8_t, 32> kOther = {9};
  CHECK(RestoreBlock(bytes, "block", restored, kOther).error().code == Code::kFailedPrecondition);
  Cache plain(MakePlainScheme(geometry, Precision::kF16).value());
  CHECK(RestoreBlock(bytes, "block", plain, kFingerprint).error().code == Code::kFailedPrecondition);
  CHECK(restored.tokens() == 0);
  CHECK(code(bytes) == 0);
}

// Normally distributed numbers, each of its class, but for the first tokens, which are 2^kFineShift times as large.
struct Coded {
  static constexpr std::size_t kTokens = 32;
  static constexpr std::size_t kFine = 4;
  std::vector<std::uint8_t> classes;
  std::vector<std::int16_t> numbers;
  std::vector<std::uint8_t> exponents;
  double bits = 0;  // their entropy

  explicit Coded(std::size_t rank, std::uint32_t seed = 1) {
    for (std::size_t i = 0; i < rank; ++i) {
      classes.push_back(static_cast<std::uint8_t>(44 - 38 * i / rank));
    }
    exponents.assign(kTokens, 0);
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0, 1);
    for (std::size_t token = 0; token < kTokens; ++token) {
      for (const std::uint8_t of_number : classes) {
        const double deviation = std::exp2((of_number - 16) / 4.0) * (token < kFine ? 1 << kFineShift : 1);
        const double number = std::round(deviation * normal(random));
        numbers.push_back(static_cast<std::int16_t>(number));
        const auto below = [&](double bound) { return 0.5 * (1 + std::erf(bound / deviation / std::sqrt(2.0))); };
        bits -= std::log2(std::max(1e-12, below(number + 0.5) - below(number - 0.5)));
      }
    }
  }
  CodedLayer Layer() { return {classes, numbers.data(), exponents.data()}; }
};

TEST_CASE("the coder gives numbers back, in about the bytes that their distribution has") {
  Coded first(96);
  Coded second(7, 2);
  const Bytes table = MakeCoderTable({});
  const CodedLayer layers[] = {first.Layer(), second.Layer()};
  const Bytes code = EncodeBlock(layers, Coded::kTokens, Coded::kFine, table);
  // Probabilities lie on a grid of 1/256 and follow what is coded; digits behind the second are taken for random.
  CHECK(8 * static_cast<double>(code.size()) < 1.04 * (first.bits + second.bits));
  CHECK(8 * static_cast<double>(code.size()) > 0.99 * (first.bits + second.bits));
  Coded empty_first = first;
  Coded empty_second = second;
  std::fill(empty_first.numbers.begin(), empty_first.numbers.end(), std::int16_t{0});
  std::fill(empty_second.numbers.begin(), empty_second.numbers.end(), std::int16_t{0});
  const CodedLayer decoded[] = {empty_first.Layer(), empty_second.Layer()};
  REQUIRE(DecodeBlock(code, "block", decoded, Coded::kTokens, Coded::kFine, table));
  CHECK(empty_first.numbers == first.numbers);
  CHECK(empty_second.numbers == second.numbers);
}

TEST_CASE("the coder takes any numbers, also those that its table thinks impossible") {
  Coded coded(40);
  std::mt19937 random(3);
  for (std::int16_t& number : coded.numbers) {
    number = static_cast<std::int16_t>(static_cast<int>(random() % 65535) - 32767);
  }
  for (std::uint8_t& exponent : coded.exponents) exponent = static_cast<std::uint8_t>(random() % (kMostExponent + 1));
  const std::vector<std::int16_t> expected = coded.numbers;
  const std::vector<std::uint8_t> exponents = coded.exponents;
  const CodedLayer layer = coded.Layer();
  const Bytes table(kCoderTableBytes, 1);
  const Bytes code = EncodeBlock({&layer, 1}, Coded::kTokens, Coded::kFine, table);
  std::fill(coded.numbers.begin(), coded.numbers.end(), std::int16_t{0});
  std::fill(coded.exponents.begin(), coded.exponents.end(), std::uint8_t{0});
  REQUIRE(DecodeBlock(code, "block", {&layer, 1}, Coded::kTokens, Coded::kFine, table));
  CHECK(coded.numbers == expected);
  CHECK(coded.exponents == exponents);
}

TEST_CASE("a token that is too large for the stored tier's step gets a larger one, and loses no more than half of it") {
  const Geometry geometry{1, 1, 32};
  const Basis basis = StoredBasis(geometry);  // steps of a twentieth, and of a 32nd of that for the first four tokens
  const std::vector<LayerWeights> weights = {{std::vector<float>(32 * 32), std::vector<float>(32 * 32), std::vector<float>(32)}};
  const auto scheme = MakeProjectedScheme(basis, weights).value();
  std::vector<float> prepared(8 * 32);
  for (std::size_t i = 0; i < prepared.size(); ++i) prepared[i] = 7.3f * static_cast<float>(i % 32) - 100;
  prepared[0] = 40000;       // 1.28 million 32nds, in the first token
  prepared[7 * 32] = -1e6f;  // behind the first four
  Cache cache(scheme);
  const Rows rows{8, prepared.data(), nullptr, nullptr, 32};
  cache.Append(0, rows, prepared.data());
  cache.Commit(8);
  std::vector<float> scratch(2 * 32 * kBlockTokens);
  const Scheme::Tile tile = scheme->Expand(0, 0, 0, 8, cache.Stored(0, 0), scratch.data());
  constexpr float kFine = 1.0f / 32;
  constexpr float kSteps[] = {2, kFine, kFine, kFine, 1, 1, 1, 32};  // 1.28e6 < 64 * 32767, 1e6 < 32 * 32767
  for (std::size_t token = 0; token < 8; ++token) {
    CAPTURE(token);
    for (std::size_t i = 0; i < 32; ++i) {
      CHECK(std::abs(tile.values[token * 32 + i] - prepared[token * 32 + i]) <= kSteps[token] / 2);
    }
  }
}

TEST_CASE("a code with bytes missing or left over is refused") {
  Coded coded(40);
  const CodedLayer layer = coded.Layer();
  const Bytes table = MakeCoderTable({});
  const Bytes code = EncodeBlock({&layer, 1}, Coded::kTokens, Coded::kFine, table);
  const auto decodes = [&](std::span<const std::uint8_t> bytes) {
    return DecodeBlock(bytes, "block", {&layer, 1}, Coded::kTokens, Coded::kFine, table).has_value();
  };
  CHECK(decodes(code));
  for (std::size_t cut = 12; cut < code.size(); cut += 7) {
    CAPTURE(cut);
    // Without its end a code may still be one, of other numbers; not without all of it.
    const std::vector<std::int16_t> before = coded.numbers;
    const bool decoded = decodes(std::span(code).first(code.size() - cut));
    CHECK((!decoded || coded.numbers != before));
    coded.numbers = before;
  }
  CHECK_FALSE(decodes({}));
  Bytes longer = code;
  longer.resize(longer.size() + 20, 0xAA);
  CHECK_FALSE(decodes(longer));
}

TEST_CASE("a table fitted to what was coded codes it in fewer bytes") {
  Coded coded(60);
  for (std::int16_t& number : coded.numbers) number = static_cast<std::int16_t>(number / 3);
  const CodedLayer layer = coded.Layer();
  CoderCounts counts;
  counts.all.resize(kCoderTableBytes);
  counts.ones.resize(kCoderTableBytes);
  CountBlock({&layer, 1}, Coded::kTokens, Coded::kFine, counts);
  const std::size_t before = EncodeBlock({&layer, 1}, Coded::kTokens, Coded::kFine, MakeCoderTable({})).size();
  const std::size_t after = EncodeBlock({&layer, 1}, Coded::kTokens, Coded::kFine, MakeCoderTable(counts)).size();
  CHECK(after < before);
}

TEST_CASE("a saved cache is refused by another model, another scheme, and when it is damaged") {
  const Geometry geometry{1, 2, 16};
  const auto scheme = MakePlainScheme(geometry, Precision::kInt4).value();
  Cache cache(scheme);
  Step(cache, Sequence(geometry, 3), 0, 3);
  const std::uint32_t tokens[] = {5, 6, 7};
  const Bytes bytes = SaveCache(cache, kFingerprint, tokens);
  const auto code = [&](const Bytes& damaged) {
    const auto restored = RestoreCache(damaged, "saved", scheme, kFingerprint);
    return restored ? 0 : static_cast<int>(restored.error().code);
  };
  constexpr int kDamaged = static_cast<int>(Code::kDataLoss);
  CHECK(code(bytes) == 0);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK(code(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length))) == kDamaged);
  }
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    CAPTURE(at);
    Bytes flipped = bytes;
    flipped[at] = static_cast<std::uint8_t>(flipped[at] ^ 0x40);
    CHECK(code(flipped) == (at == 8 || at == 9 ? static_cast<int>(Code::kUnimplemented) : kDamaged));
  }
  constexpr std::array<std::uint8_t, 32> kOther = {9};
  CHECK(RestoreCache(bytes, "saved", scheme, kOther).error().code == Code::kFailedPrecondition);
  const auto other_scheme = MakePlainScheme(geometry, Precision::kInt8).value();
  CHECK(RestoreCache(bytes, "saved", other_scheme, kFingerprint).error().code == Code::kFailedPrecondition);
}

TEST_CASE("a basis comes back from its bytes, which are those of FORMAT.md") {
  const Basis latent = IdentityBasis({2, 1, 32}, 5);
  CHECK(ParseBasis(SerialiseBasis(latent), "basis").value() == latent);
  const Basis stored = StoredBasis({2, 1, 32});
  CHECK(ParseBasis(SerialiseBasis(stored), "basis").value() == stored);
  const Basis report = ReportExample();
  const Bytes bytes = SerialiseBasis(report);
  CHECK(ParseBasis(bytes, "basis").value() == report);
  const std::string golden =
      "686f6c6f2d6b7662"
      "0100"
      "02"
      "010000000100000001000000"
      "0000000000000000000000000000000000000000000000000000000000000000"
      "02000000"
      "7b7d"
      "01000000"
      "0000803f00000040"
      "0000803f000080bf";
  CHECK(bytes::ToHex(bytes) == golden + bytes::ToHex(bytes::Sha256(bytes::FromHex(golden).value())));
}

TEST_CASE("a damaged basis is refused") {
  const Bytes bytes = SerialiseBasis(ReportExample());
  const auto message = [](const Bytes& damaged) {
    const auto parsed = ParseBasis(damaged, "basis");
    return parsed ? "" : ToString(parsed.error());
  };
  // With a digest that fits, so that what is inside is looked at.
  const auto sealed = [&](std::size_t at, std::uint8_t value) {
    Bytes changed(bytes.begin(), bytes.end() - 32);
    changed[at] = value;
    const auto digest = bytes::Sha256(changed);
    changed.insert(changed.end(), digest.begin(), digest.end());
    return changed;
  };
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK(message(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length))).starts_with("DATA_LOSS"));
  }
  CHECK(message(sealed(8, 2)) == "UNIMPLEMENTED: basis: expected version 1, found 2");
  CHECK(message(sealed(10, 4)) == "DATA_LOSS: basis: expected method 1 (latent), 2 (report) or 3 (stored), found 4");
  CHECK(message(sealed(11, 0)).starts_with("DATA_LOSS: basis: expected 1 to 1024 layers"));
  CHECK(message(sealed(11, 2)).starts_with("DATA_LOSS: basis"));
  CHECK(message(sealed(57, 1)).starts_with("DATA_LOSS: basis: expected at most 65536 bytes"));
  CHECK(message(sealed(61, 2)) == "DATA_LOSS: basis: expected a rank of 1 to 1, found 2");
  CHECK(message(sealed(68, 0x7F)).starts_with("DATA_LOSS: basis"));  // 1.0 becomes infinite
  Bytes trailing(bytes.begin(), bytes.end() - 32);
  trailing.push_back(0);
  const auto digest = bytes::Sha256(trailing);
  trailing.insert(trailing.end(), digest.begin(), digest.end());
  CHECK(message(trailing).starts_with("DATA_LOSS: basis"));
  Basis stored = StoredBasis({1, 1, 32});
  stored.layers[0].key_rank = stored.layers[0].rank;
  CHECK(message(SerialiseBasis(stored)).starts_with("DATA_LOSS: basis: expected keys of fewer than"));
  stored.layers[0].key_rank = 0;
  stored.geometry = {1, 2, 16, 1};
  CHECK(message(SerialiseBasis(stored)).empty());
  stored.geometry = {1, 4, 8, 3};
  CHECK(message(SerialiseBasis(stored)) ==
        "DATA_LOSS: basis: expected heads of keys that divide the 4 of queries, found 3");
  stored.geometry = {1, 1, 32};
  stored.layers[0].classes[3] = 64;
  CHECK(message(SerialiseBasis(stored)) == "DATA_LOSS: basis: expected classes below 64, found 64");
  stored.layers[0].classes[3] = 63;
  stored.table[5] = 0;
  CHECK(message(SerialiseBasis(stored)) == "DATA_LOSS: basis: expected probabilities of 1 to 255, found 0");
  Bytes flipped = bytes;
  flipped[70] = static_cast<std::uint8_t>(flipped[70] ^ 1);
  CHECK(message(flipped) == "DATA_LOSS: basis: its bytes do not have the digest at its end: it is damaged");
}

TEST_CASE("geometries and weights that do not fit are refused") {
  CHECK(MakePlainScheme({0, 1, 1}, Precision::kF32).error().code == Code::kInvalidArgument);
  CHECK(MakePlainScheme({1, 1, 513}, Precision::kF32).error().code == Code::kInvalidArgument);
  CHECK(MakeProjectedScheme(IdentityBasis({2, 1, 32}), {}).error().code == Code::kInvalidArgument);
}

}  // namespace
}  // namespace holo::kv_cache
