#include "common/language_model/evaluation/evaluation.h"

#include <doctest/doctest.h>

#include <cmath>

#include "common/language_model/sampling/sampling.h"
#include "tests/common/language_model/transformer/small_model.h"

namespace holo::evaluation {
namespace {

using kv_cache::Precision;

std::vector<std::uint32_t> Text(std::uint32_t count) {
  std::vector<std::uint32_t> tokens;
  for (std::uint32_t i = 0; i < count; ++i) tokens.push_back((i * i + 3 * i / 2) % 61);
  return tokens;
}

// -log p of tokens[at], predicted from tokens[from] on.
double Loss(const transformer::Model& model, std::span<const std::uint32_t> tokens, std::size_t from, std::size_t at) {
  compute::ThreadPool pool(1);
  transformer::Workspace workspace;
  kv_cache::Cache cache(kv_cache::MakePlainScheme(model.geometry(), Precision::kF32).value());
  const transformer::Sequence sequence{tokens.subspan(from, at - from), &cache, false};
  const auto logits = model.Forward({&sequence, 1}, workspace, pool).value();
  return -sampling::LogProbability(logits, tokens[at]);
}

TEST_CASE("every token but the first of a window is predicted once, from what its window holds") {
  const auto model = testing::GoldenModel(compute::WeightType::kF32);
  const auto scheme = kv_cache::MakePlainScheme(model->geometry(), Precision::kF32).value();
  const std::vector<std::uint32_t> tokens = Text(50);
  compute::ThreadPool pool(2);
  struct Row {
    Options options;
    std::uint64_t predictions;
  };
  for (const Row& row : {Row{{20, 20}, 47}, {{20, 8}, 49}, {{0, 0}, 49}, {{50, 50}, 49}}) {
    CAPTURE(row.options.window);
    CAPTURE(row.options.stride);
    const Score score = Evaluate(*model, scheme, tokens, row.options, pool).value();
    CHECK(score.predictions == row.predictions);
    const std::size_t window = row.options.window == 0 ? 80 : row.options.window;
    const std::size_t stride = row.options.stride == 0 ? window : row.options.stride;
    double expected = 0;
    std::size_t done = 1;
    for (std::size_t begin = 0; done < tokens.size(); begin += stride) {
      const std::size_t end = std::min(begin + window, tokens.size());
      for (std::size_t at = std::max(done, begin + 1); at < end; ++at) expected += Loss(*model, tokens, begin, at);
      done = std::max(done, end);
    }
    CHECK(score.loss == doctest::Approx(expected).epsilon(1e-9));
  }
}

TEST_CASE("an exact cache agrees with itself, a coarse one less") {
  const auto model = testing::GoldenModel(compute::WeightType::kF32);
  const std::vector<std::uint32_t> tokens = Text(70);
  compute::ThreadPool pool(1);
  const auto with = [&](Precision precision) {
    return Compare(*model, kv_cache::MakePlainScheme(model->geometry(), precision).value(), tokens, {}, pool).value();
  };
  const Score exact = with(Precision::kF32);
  CHECK(exact.agreements == 69);
  CHECK(exact.divergence == doctest::Approx(0).epsilon(1e-9));
  CHECK(exact.Perplexity() == exact.ExactPerplexity());
  const Score fine = with(Precision::kInt8);
  const Score coarse = with(Precision::kInt4);
  CHECK(fine.divergence > 0);
  CHECK(coarse.divergence > 10 * fine.divergence);
  CHECK(coarse.exact_loss == exact.loss);
}

TEST_CASE("texts and windows that predict nothing are refused") {
  const auto model = testing::GoldenModel(compute::WeightType::kF32);
  const auto scheme = kv_cache::MakePlainScheme(model->geometry(), Precision::kF32).value();
  compute::ThreadPool pool(1);
  CHECK(Evaluate(*model, scheme, Text(1), {}, pool).error().code == Code::kInvalidArgument);
  CHECK(Evaluate(*model, scheme, Text(9), {1, 1}, pool).error().code == Code::kInvalidArgument);
  CHECK(Evaluate(*model, scheme, Text(9), {81, 1}, pool).error().code == Code::kInvalidArgument);
  CHECK(Evaluate(*model, scheme, Text(9), {10, 11}, pool).error().code == Code::kInvalidArgument);
  CHECK(Evaluate(*model, scheme, Text(9), {}, pool, [](double) { return false; }).error().code == Code::kCancelled);
}

}  // namespace
}  // namespace holo::evaluation
