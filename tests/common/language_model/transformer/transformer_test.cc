#include "common/language_model/transformer/transformer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "common/files/files.h"
#include "tests/common/language_model/transformer/small_model.h"

namespace holo::transformer {
namespace {

using compute::ThreadPool;
using compute::WeightType;
using kv_cache::Cache;
using kv_cache::Precision;

std::shared_ptr<const kv_cache::Scheme> PlainScheme(const Model& model, Precision precision = Precision::kF32) {
  return kv_cache::MakePlainScheme(model.geometry(), precision).value();
}

std::vector<std::uint32_t> GoldenTokens() {
  std::vector<std::uint32_t> tokens;
  for (std::uint32_t i = 0; i < 75; ++i) tokens.push_back((7 * i * i + 3 * i + 5) % 61);
  return tokens;
}

std::vector<float> GoldenLogits() {
  const auto bytes = files::ReadFile(testing::SourceFolder() / "golden_logits.f32").value();
  std::vector<float> logits(bytes.size() / sizeof(float));
  std::memcpy(logits.data(), bytes.data(), bytes.size());
  return logits;
}

// All logits of `tokens`, in calls of `per_call` tokens.
std::vector<float> Logits(const Model& model, std::span<const std::uint32_t> tokens, std::size_t per_call,
                          unsigned threads = 1, Precision precision = Precision::kF32) {
  ThreadPool pool(threads);
  Workspace workspace;
  Cache cache(PlainScheme(model, precision));
  std::vector<float> all;
  for (std::size_t from = 0; from < tokens.size(); from += per_call) {
    const Sequence sequence{tokens.subspan(from, std::min(per_call, tokens.size() - from)), &cache, true};
    const auto logits = model.Forward({&sequence, 1}, workspace, pool).value();
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

double WorstDifference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  return worst;
}

TEST_CASE("logits agree with PyTorch in double precision") {
  const auto model = testing::GoldenModel(WeightType::kF32);
  const std::vector<float> golden = GoldenLogits();
  const std::vector<float> logits = Logits(*model, GoldenTokens(), 75);
  // Each of the 7 steps (two layers, each with two additions to the residual stream and a softmax; the head) sums at
  // most 128 products in order: a relative error of about sqrt(128) 2^-24 = 7e-7 of the sum's magnitude, random in
  // sign. The matrices amplify a row's error by up to 2 in each layer (norms of the weights are near 2), so 7 * 4 *
  // 7e-7 = 2e-5 of a logit's standard deviation, 2.7; the largest of 4,575 lies within 4 standard deviations.
  CHECK(WorstDifference(logits, golden) < 4 * 2e-5 * 2.7);
}

TEST_CASE("prefill and decoding give the same bits, on any number of threads") {
  for (const WeightType type : {WeightType::kF32, WeightType::kBf16, WeightType::kInt8}) {
    CAPTURE(compute::WeightTypeName(type));
    const auto model = testing::GoldenModel(type);
    const std::vector<float> at_once = Logits(*model, GoldenTokens(), 75);
    CHECK(Logits(*model, GoldenTokens(), 1) == at_once);
    CHECK(Logits(*model, GoldenTokens(), 7, 3) == at_once);
    CHECK(Logits(*model, GoldenTokens(), 75, 2) == at_once);
  }
}

TEST_CASE("sequences of unequal length give the same bits together and alone") {
  const auto model = testing::GoldenModel(WeightType::kF32);
  const std::vector<std::uint32_t> tokens = GoldenTokens();
  const std::span<const std::uint32_t> all = tokens;
  const std::span<const std::uint32_t> parts[] = {all.first(40), all.subspan(10, 1), all.subspan(3, 33)};
  ThreadPool pool(2);
  Workspace workspace;
  std::vector<Cache> caches;
  for (std::size_t i = 0; i < 3; ++i) caches.emplace_back(PlainScheme(*model));
  std::vector<Sequence> batch;
  for (std::size_t i = 0; i < 3; ++i) batch.push_back({parts[i], &caches[i], i == 2});
  const auto prefill = model->Forward(batch, workspace, pool).value();
  REQUIRE(prefill.size() == (1 + 1 + 33) * 61);
  std::vector<float> together(prefill.begin(), prefill.end());
  const std::uint32_t next[] = {1, 2, 3};
  for (std::size_t i = 0; i < 3; ++i) batch[i] = {{next + i, 1}, &caches[i], false};
  const auto decoded = model->Forward(batch, workspace, pool).value();
  together.insert(together.end(), decoded.begin(), decoded.end());

  std::vector<float> expected;
  const auto last_of = [&](std::size_t i, bool with_next) {
    std::vector<std::uint32_t> own(parts[i].begin(), parts[i].end());
    if (with_next) own.push_back(next[i]);
    const std::vector<float> logits = Logits(*model, own, own.size());
    return std::vector<float>(logits.end() - 61, logits.end());
  };
  const auto append = [&](const std::vector<float>& logits) {
    expected.insert(expected.end(), logits.begin(), logits.end());
  };
  append(last_of(0, false));
  append(last_of(1, false));
  append(Logits(*model, parts[2], 33));
  for (std::size_t i = 0; i < 3; ++i) append(last_of(i, true));
  CHECK(together == expected);
}

TEST_CASE("lighter weights change logits a little") {
  const std::vector<float> golden = GoldenLogits();
  double sum = 0;
  for (const float value : golden) sum += double{value} * value;
  const double scale = std::sqrt(sum / static_cast<double>(golden.size()));
  struct Row {
    WeightType type;
    double most;
  };
  for (const Row& row : {Row{WeightType::kBf16, 0.03}, Row{WeightType::kInt8, 0.06}}) {
    CAPTURE(compute::WeightTypeName(row.type));
    const std::vector<float> logits = Logits(*testing::GoldenModel(row.type), GoldenTokens(), 75);
    double error = 0;
    for (std::size_t i = 0; i < golden.size(); ++i) error += std::pow(double{logits[i]} - golden[i], 2);
    // Rounding a weight costs 2^-9 / sqrt(3) of it (bf16), or 1/254 of its row's largest, about 3 sigma, / sqrt(3)
    // (int8): 0.1 % and 0.7 %; ten matrices in a row, amplified as above.
    CHECK(std::sqrt(error / static_cast<double>(golden.size())) < row.most * scale);
  }
}

TEST_CASE("wrong input is refused and leaves the cache as it was") {
  const auto model = testing::GoldenModel(WeightType::kF32);
  ThreadPool pool(1);
  Workspace workspace;
  Cache cache(PlainScheme(*model));
  const auto message = [&](std::vector<std::uint32_t> tokens, Cache& in) {
    const Sequence sequence{tokens, &in, false};
    const auto result = model->Forward({&sequence, 1}, workspace, pool);
    return result ? "" : ToString(result.error());
  };
  CHECK(message({}, cache) == "INVALID_ARGUMENT: tokens: expected at least one, found none");
  CHECK(message({0, 61}, cache) == "INVALID_ARGUMENT: tokens: expected numbers below the vocabulary's 61, found 61");
  CHECK(message(std::vector<std::uint32_t>(81), cache) ==
        "OUT_OF_RANGE: tokens: expected at most 80 in the model's context, found 81");
  CHECK(cache.tokens() == 0);
  CHECK(message(std::vector<std::uint32_t>(80), cache).empty());
  CHECK(message({1}, cache) == "OUT_OF_RANGE: tokens: expected at most 80 in the model's context, found 81");
  CHECK(cache.tokens() == 80);
  Cache other(kv_cache::MakePlainScheme({2, 2, 8}, Precision::kF32).value());
  CHECK(message({1}, other) == "INVALID_ARGUMENT: cache: expected 2 layers of 2 heads of 16, found 2 of 2 of 8");
}

TEST_CASE("an observer sees every layer's rows") {
  const auto model = testing::GoldenModel(WeightType::kF32);
  ThreadPool pool(1);
  Workspace workspace;
  Cache cache(PlainScheme(*model));
  const std::vector<std::uint32_t> tokens = {1, 2, 3, 4};
  const Sequence sequence{tokens, &cache, false};
  std::vector<std::size_t> layers;
  const auto observe = [&](const LayerView& view) {
    layers.push_back(view.layer);
    CHECK(view.rows == 4);
    double squares = 0;
    for (std::size_t i = 0; i < 32; ++i) squares += view.normalised[3 * 32 + i] * view.normalised[3 * 32 + i];
    CHECK(squares == doctest::Approx(32).epsilon(1e-3));
    CHECK(std::isfinite(view.keys[3 * view.key_stride] + view.values[3 * view.key_stride + 31]));
  };
  REQUIRE(model->Forward({&sequence, 1}, workspace, pool, observe));
  CHECK(layers == std::vector<std::size_t>{0, 1});
}

}  // namespace
}  // namespace holo::transformer
