#include "common/language_model/calibration/calibration.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/common/language_model/transformer/small_llama.h"

namespace holo::calibration {
namespace {

using compute::ThreadPool;

std::vector<std::uint32_t> Text(std::size_t count, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<std::uint32_t> tokens(count);
  for (std::uint32_t& token : tokens) token = random() % 61;
  return tokens;
}

struct Calibrated {
  weights::Weights weights;
  std::shared_ptr<const transformer::Model> model;
  Statistics statistics;

  explicit Calibrated(unsigned threads = 1, std::size_t tokens = 4000, weights::Weights of = testing::GoldenWeights())
      : weights(std::move(of)), model(transformer::Model::Create(weights, compute::WeightType::kF32).value()) {
    ThreadPool pool(threads);
    statistics = Collect(*model, weights, Text(tokens), pool).value();
  }
  BasisRequest Request(double bytes = 0) const {
    BasisRequest request;
    request.bytes_per_token = bytes;
    request.base_fingerprint = weights::Fingerprint(weights);
    request.calibration = R"({"text":"noise"})";
    return request;
  }
  // Root mean square difference of logits to the exact ones, relative to their standard deviation.
  double Error(const std::shared_ptr<const kv_cache::Scheme>& scheme, std::size_t per_call = 75) const {
    const std::vector<std::uint32_t> tokens = Text(75, 2);
    const auto exact =
        Logits(kv_cache::MakePlainScheme(model->geometry(), kv_cache::Precision::kF32).value(), tokens, 75);
    const auto logits = Logits(scheme, tokens, per_call);
    double error = 0, energy = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      error += std::pow(double{exact[i]} - logits[i], 2);
      energy += std::pow(double{exact[i]}, 2);
    }
    return std::sqrt(error / energy);
  }
  std::vector<float> Logits(const std::shared_ptr<const kv_cache::Scheme>& scheme,
                            std::span<const std::uint32_t> tokens, std::size_t per_call, unsigned threads = 2) const {
    ThreadPool pool(threads);
    transformer::Workspace workspace;
    kv_cache::Cache cache(scheme);
    std::vector<float> all;
    for (std::size_t from = 0; from < tokens.size(); from += per_call) {
      const transformer::Sequence sequence{tokens.subspan(from, std::min(per_call, tokens.size() - from)), &cache,
                                           true};
      const auto logits = model->Forward({&sequence, 1}, workspace, pool).value();
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }
};

TEST_CASE("the report's components at full rank lose nothing but half precision") {
  Calibrated calibrated;
  const auto basis = MakeReportBasis(calibrated.statistics, calibrated.weights, 32, calibrated.Request()).value();
  const auto scheme = MakeScheme(basis, calibrated.weights).value();
  CHECK(scheme->bytes_per_token() == 2 * 2 * 32 * 2);
  // 11 bits of mantissa, attenuated by the average over tokens.
  CHECK(calibrated.Error(scheme) < 1e-3);
}

TEST_CASE("fewer components cost more, and take the bytes that they should") {
  Calibrated calibrated;
  double last = 1e-3;
  for (const std::uint32_t k : {24u, 12u, 3u}) {
    CAPTURE(k);
    const auto basis = MakeReportBasis(calibrated.statistics, calibrated.weights, k, calibrated.Request()).value();
    const auto scheme = MakeScheme(basis, calibrated.weights).value();
    CHECK(scheme->bytes_per_token() == 2 * 2 * k * 2);
    const double error = calibrated.Error(scheme);
    CHECK(error > last);
    last = error;
  }
}

TEST_CASE("attention in the latent space with 8 bits is attention") {
  Calibrated calibrated;
  // Groups of 32 uniform steps over twice 2.5 standard deviations in 255: 0.6 % of one, less after averaging over
  // tokens; two layers, amplified by about 2 in each.
  const auto identity = MakeIdentityBasis(calibrated.statistics, calibrated.weights, 8, calibrated.Request()).value();
  CHECK(calibrated.Error(MakeScheme(identity, calibrated.weights).value()) < 0.01);
  const auto latent = MakeLatentBasis(calibrated.statistics, calibrated.weights, calibrated.Request(66)).value();
  const auto scheme = MakeScheme(latent, calibrated.weights).value();
  CHECK(scheme->bytes_per_token() == 66);  // 2 layers of 32 bytes and a scale
  CHECK(calibrated.Error(scheme) < 0.01);
}

TEST_CASE("a latent sequence gives the same bits in one call and token by token") {
  Calibrated calibrated;
  const auto basis = MakeLatentBasis(calibrated.statistics, calibrated.weights, calibrated.Request(30)).value();
  const auto scheme = MakeScheme(basis, calibrated.weights).value();
  CHECK(scheme->bytes_per_token() <= 30);
  const std::vector<std::uint32_t> tokens = Text(75, 3);
  const std::vector<float> at_once = calibrated.Logits(scheme, tokens, 75);
  CHECK(calibrated.Logits(scheme, tokens, 1) == at_once);
  CHECK(calibrated.Logits(scheme, tokens, 10) == at_once);
  CHECK(calibrated.Logits(scheme, tokens, 75, 1) == at_once);
  CHECK(calibrated.Logits(scheme, tokens, 7, 3) == at_once);
}

TEST_CASE("keys that are rotated when they are attended to are keys, and the more bytes, the better") {
  // With and without the scaling of frequencies; two heads of keys of 8.
  for (const char* name : {"scaled", "tied"}) {
    CAPTURE(name);
    Calibrated calibrated(2, 4000, testing::GoldenLlama(name));
    // Per layer 16 coordinates of keys and 16 of values, in a group each.
    const auto basis = MakeLatentBasis(calibrated.statistics, calibrated.weights, calibrated.Request(132)).value();
    for (const kv_cache::BasisLayer& layer : basis.layers) {
      CHECK(layer.rank == 64);
      CHECK(layer.key_rank == 32);
      CHECK(layer.bits == std::vector<std::uint8_t>{8, 8});
    }
    CHECK(kv_cache::ParseBasis(kv_cache::SerialiseBasis(basis), "basis").value() == basis);
    const auto scheme = MakeScheme(basis, calibrated.weights).value();
    CHECK(scheme->takes_unrotated_keys());
    CHECK(scheme->bytes_per_token() == 132);
    // As for a GPT-2's latent space above, and groups that are half empty have larger steps: their 16 coordinates. Keys
    // are rebuilt by a map in int8.
    CHECK(calibrated.Error(scheme) < 0.03);
    // At a step of next to nothing what is rebuilt is what it was.
    ThreadPool pool(2);
    const auto fine = MakeStoredBasis(calibrated.statistics, *calibrated.model, calibrated.weights, Text(1600, 1),
                                      calibrated.Request(90), pool)
                          .value();
    CHECK(calibrated.Error(MakeScheme(fine, calibrated.weights).value()) < 2e-3);
    double last = 0;
    for (const double bytes : {80.0, 50.0, 30.0}) {
      CAPTURE(bytes);
      const auto smaller =
          MakeLatentBasis(calibrated.statistics, calibrated.weights, calibrated.Request(bytes)).value();
      const auto of_smaller = MakeScheme(smaller, calibrated.weights).value();
      CHECK(of_smaller->bytes_per_token() <= bytes);
      const double error = calibrated.Error(of_smaller);
      CHECK(error > last);
      CHECK(error < 1);
      last = error;
      const std::vector<std::uint32_t> tokens = Text(75, 3);
      const std::vector<float> at_once = calibrated.Logits(of_smaller, tokens, 75);
      CHECK(calibrated.Logits(of_smaller, tokens, 1) == at_once);
      CHECK(calibrated.Logits(of_smaller, tokens, 7, 3) == at_once);
    }
  }
}

TEST_CASE("a Llama's memory is saved and restored, in every scheme, and its statistics do not depend on threads") {
  Calibrated calibrated(1, 2000, testing::GoldenLlama("scaled"));
  Calibrated other(3, 2000, testing::GoldenLlama("scaled"));
  const auto basis = MakeLatentBasis(calibrated.statistics, calibrated.weights, calibrated.Request(60)).value();
  CHECK(basis == MakeLatentBasis(other.statistics, other.weights, other.Request(60)).value());
  const std::vector<std::uint32_t> tokens = Text(75, 3);
  for (const auto& scheme :
       {MakeScheme(basis, calibrated.weights).value(),
        kv_cache::MakePlainScheme(calibrated.model->geometry(), kv_cache::Precision::kF16).value()}) {
    CAPTURE(scheme->name());
    const std::vector<float> at_once = calibrated.Logits(scheme, tokens, 75);
    ThreadPool pool(1);
    transformer::Workspace workspace;
    kv_cache::Cache cache(scheme);
    const transformer::Sequence first{std::span(tokens).first(40), &cache, true};
    REQUIRE(calibrated.model->Forward({&first, 1}, workspace, pool));
    const auto saved = kv_cache::SaveCache(cache, basis.base_fingerprint, std::span(tokens).first(40));
    kv_cache::SavedCache restored = kv_cache::RestoreCache(saved, "saved", scheme, basis.base_fingerprint).value();
    const transformer::Sequence rest{std::span(tokens).subspan(40), &restored.cache, true};
    const auto logits = calibrated.model->Forward({&rest, 1}, workspace, pool).value();
    CHECK(std::equal(logits.begin(), logits.end(), at_once.begin() + 40 * 61, at_once.end()));
  }
}

TEST_CASE("the report's components of rotated keys lose nothing at full rank, and more with fewer") {
  Calibrated calibrated(1, 2000, testing::GoldenLlama("scaled"));
  double last = -1;
  for (const std::uint32_t k : {16u, 12u, 4u}) {
    CAPTURE(k);
    const auto basis = MakeReportBasis(calibrated.statistics, calibrated.weights, k, calibrated.Request()).value();
    CHECK(kv_cache::ParseBasis(kv_cache::SerialiseBasis(basis), "basis").value() == basis);
    const auto scheme = MakeScheme(basis, calibrated.weights).value();
    CHECK(scheme->bytes_per_token() == 2 * 2 * k * 2);
    const double error = calibrated.Error(scheme);
    CHECK(error > last);
    if (k == 16) CHECK(error < 2e-3);
    last = error;
    const std::vector<std::uint32_t> tokens = Text(75, 3);
    CHECK(calibrated.Logits(scheme, tokens, 1) == calibrated.Logits(scheme, tokens, 75));
  }
  CHECK(MakeReportBasis(calibrated.statistics, calibrated.weights, 17, calibrated.Request()).error().code ==
        Code::kInvalidArgument);
}

TEST_CASE("the normalised row itself is no form for rotated keys") {
  Calibrated calibrated(1, 1000, testing::GoldenLlama("tied"));
  const auto refused = MakeIdentityBasis(calibrated.statistics, calibrated.weights, 8, calibrated.Request());
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == Code::kUnimplemented);
  CHECK(refused.error().message.find("rotated") != std::string::npos);
}

TEST_CASE("a stored sequence takes what was asked for, and gives the same bits parked and restored") {
  for (const bool is_llama : {false, true}) {
    CAPTURE(is_llama);
    Calibrated calibrated(
        1, 4000,
        is_llama ? weights::Weights(testing::GoldenLlama("scaled")) : weights::Weights(testing::GoldenWeights()));
    ThreadPool pool(2);
    const std::vector<std::uint32_t> fit = Text(1600, 1);
    double last = 0;
    for (const double bytes : {70.0, 40.0, 25.0}) {
      CAPTURE(bytes);
      const auto basis = MakeStoredBasis(calibrated.statistics, *calibrated.model, calibrated.weights, fit,
                                         calibrated.Request(bytes), pool)
                             .value();
      const auto scheme = MakeScheme(basis, calibrated.weights).value();
      const std::vector<std::uint32_t> tokens = Text(75, 3);
      const std::vector<float> at_once = calibrated.Logits(scheme, tokens, 75);
      CHECK(calibrated.Logits(scheme, tokens, 1) == at_once);
      CHECK(calibrated.Logits(scheme, tokens, 10) == at_once);
      CHECK(calibrated.Logits(scheme, tokens, 75, 1) == at_once);
      CHECK(calibrated.Logits(scheme, tokens, 7, 3) == at_once);
      const double error = calibrated.Error(scheme);
      CHECK(error > last);
      last = error;
      // Parked after every step, block by block.
      transformer::Workspace workspace;
      kv_cache::Cache cache(scheme);
      std::vector<float> parked;
      for (std::size_t from = 0; from < 75; from += 25) {
        kv_cache::Cache restored(scheme);
        for (std::size_t first = 0; first < from; first += kv_cache::kBlockTokens) {
          const auto of_block = std::span(tokens).subspan(first, std::min(kv_cache::kBlockTokens, from - first));
          const auto saved =
              kv_cache::SaveBlock(cache, first / kv_cache::kBlockTokens, basis.base_fingerprint, of_block);
          REQUIRE(kv_cache::RestoreBlock(saved, "block", restored, basis.base_fingerprint));
        }
        cache = std::move(restored);
        const transformer::Sequence sequence{std::span(tokens).subspan(from, 25), &cache, true};
        const auto logits = calibrated.model->Forward({&sequence, 1}, workspace, pool).value();
        parked.insert(parked.end(), logits.begin(), logits.end());
      }
      CHECK(parked == at_once);
      // 75 tokens against the fit's windows of 80: the same share of fine tokens. Noise is not all alike.
      const double taken = static_cast<double>(kv_cache::SavedBytes(cache, tokens)) / 75;
      CHECK(taken == doctest::Approx(bytes).epsilon(0.1));
    }
  }
}

TEST_CASE("statistics do not depend on threads") {
  Calibrated one(1, 1000);
  Calibrated three(3, 1000);
  const auto a = MakeLatentBasis(one.statistics, one.weights, one.Request(40)).value();
  const auto b = MakeLatentBasis(three.statistics, three.weights, three.Request(40)).value();
  CHECK(a == b);
}

TEST_CASE("effective ranks lie between one and the width") {
  Calibrated calibrated;
  const std::vector<LayerRanks> layers = EffectiveRanks(calibrated.statistics, calibrated.weights).value();
  for (const LayerRanks& ranks : layers) {
    for (const double rank : {ranks.hidden, ranks.keys, ranks.values}) {
      CHECK(rank >= 1);
      CHECK(rank <= 32);
    }
    CHECK(ranks.keys_shannon >= ranks.keys);
  }
}

TEST_CASE("requests that cannot be met are refused") {
  Calibrated calibrated(1, 1000);
  const auto message = [](const auto& result) { return result ? "" : ToString(result.error()); };
  Statistics& statistics = calibrated.statistics;
  CHECK(message(MakeReportBasis(statistics, calibrated.weights, 33, {})) ==
        "INVALID_ARGUMENT: k: expected 1 to 32, found 33");
  CHECK(message(MakeReportBasis(statistics, calibrated.weights, 0, {})) ==
        "INVALID_ARGUMENT: k: expected 1 to 32, found 0");
  CHECK(message(MakeLatentBasis(statistics, calibrated.weights, calibrated.Request(9))) ==
        "INVALID_ARGUMENT: bytes per token: expected at least 10 for 2 layers, found 9.000000");
  ThreadPool pool(1);
  CHECK(message(Collect(*calibrated.model, calibrated.weights, Text(999), pool)) ==
        "INVALID_ARGUMENT: calibration: expected a text of at least 1000 tokens, found 999");
  CHECK(message(Collect(*calibrated.model, calibrated.weights, Text(2000), pool, [](double) { return false; })) ==
        "CANCELLED: calibration: cancelled");
  auto basis = MakeReportBasis(statistics, calibrated.weights, 3, calibrated.Request()).value();
  basis.base_fingerprint[0] = static_cast<std::uint8_t>(basis.base_fingerprint[0] ^ 1);
  CHECK(MakeScheme(basis, calibrated.weights).error().code == Code::kFailedPrecondition);
}

}  // namespace
}  // namespace holo::calibration
