#include "common/language_model/sampling/sampling.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace holo::sampling {
namespace {

// Probabilities 0.4, 0.3, 0.2, 0.1.
const std::vector<float> kLogits = {std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};

// How often each token is chosen first, over many seeds.
std::vector<double> Frequencies(Options options, const std::vector<std::uint32_t>& said = {}) {
  std::vector<double> counts(kLogits.size());
  constexpr int kSeeds = 20000;
  for (int seed = 0; seed < kSeeds; ++seed) {
    options.seed = static_cast<std::uint64_t>(seed) * 7919;
    Sampler sampler = Sampler::Create(options, 4).value();
    sampler.Observe(said);
    counts[sampler.Next(kLogits).token] += 1.0 / kSeeds;
  }
  return counts;
}

struct Row {
  const char* name;
  Options options;
  std::vector<double> expected;
  std::vector<std::uint32_t> said = {};
};

TEST_CASE("tokens come as often as the options say") {
  const auto with = [](auto change) {
    Options options;
    change(options);
    return options;
  };
  const Row rows[] = {
      {"plain", {}, {0.4, 0.3, 0.2, 0.1}},
      {"temperature 0.5", with([](Options& o) { o.temperature = 0.5f; }), {16 / 30.0, 9 / 30.0, 4 / 30.0, 1 / 30.0}},
      {"temperature 0", with([](Options& o) { o.temperature = 0; }), {1, 0, 0, 0}},
      {"top_k 2", with([](Options& o) { o.top_k = 2; }), {4 / 7.0, 3 / 7.0, 0, 0}},
      {"top_k beyond the vocabulary", with([](Options& o) { o.top_k = 9; }), {0.4, 0.3, 0.2, 0.1}},
      {"top_p 0.65", with([](Options& o) { o.top_p = 0.65f; }), {4 / 7.0, 3 / 7.0, 0, 0}},
      {"top_p 0.75", with([](Options& o) { o.top_p = 0.75f; }), {4 / 9.0, 3 / 9.0, 2 / 9.0, 0}},
      {"top_k 3 and top_p 0.6",
       with([](Options& o) {
         o.top_k = 3;
         o.top_p = 0.6f;
       }),
       {4 / 7.0, 3 / 7.0, 0, 0}},
      {"bias",
       with([](Options& o) {
         o.logit_bias = {{3, std::log(4.0f)}, {0, -100}};
       }),
       {0, 3 / 9.0, 2 / 9.0, 4 / 9.0}},
      // log 0.4 doubled is log 0.16.
      {"repetition",
       with([](Options& o) { o.repetition_penalty = 2; }),
       {0.16 / 0.76, 0.3 / 0.76, 0.2 / 0.76, 0.1 / 0.76},
       {0}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const std::vector<double> found = Frequencies(row.options, row.said);
    // Three standard deviations of 20,000 draws are below 0.011.
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(found[i] - row.expected[i]) < 0.011);
  }
}

TEST_CASE("presence counts once, frequency every time") {
  Options options;
  options.temperature = 0;
  options.presence_penalty = 0.2f;  // log(4 / 3) = 0.29
  options.frequency_penalty = 0.06f;
  Sampler sampler = Sampler::Create(options, 4).value();
  std::vector<std::uint32_t> tokens;
  for (int i = 0; i < 4; ++i) tokens.push_back(sampler.Next(kLogits).token);
  // 0 is ahead of 1 by 0.29: after once by 0.03, after twice behind by 0.03; then 1 has 0.26 against it as well.
  CHECK(tokens == std::vector<std::uint32_t>{0, 0, 1, 0});
}

TEST_CASE("the same seed gives the same tokens, another seed others") {
  const auto draw = [](std::uint64_t seed) {
    Options options;
    options.seed = seed;
    Sampler sampler = Sampler::Create(options, 4).value();
    std::vector<std::uint32_t> tokens;
    for (int i = 0; i < 40; ++i) tokens.push_back(sampler.Next(kLogits).token);
    return tokens;
  };
  CHECK(draw(7) == draw(7));
  CHECK(draw(7) != draw(8));
}

TEST_CASE("logprobs are the model's own, whatever the options") {
  Options options;
  options.temperature = 0;
  options.logit_bias = {{2, 50}};
  options.logprobs = 2;
  Sampler sampler = Sampler::Create(options, 4).value();
  const Choice choice = sampler.Next(kLogits);
  CHECK(choice.token == 2);
  CHECK(choice.logprob == doctest::Approx(std::log(0.2)));
  REQUIRE(choice.top.size() == 2);
  CHECK(choice.top[0].first == 0);
  CHECK(choice.top[1].second == doctest::Approx(std::log(0.3)));
  CHECK(LogProbability(kLogits, 3) == doctest::Approx(std::log(0.1)));
}

TEST_CASE("options out of range are refused by name") {
  const auto message = [](auto change) {
    Options options;
    change(options);
    const auto checked = Check(options, 4);
    return checked ? "" : checked.error().message;
  };
  CHECK(message([](Options& o) { o.temperature = -1; }).starts_with("temperature: expected"));
  CHECK(
      message([](Options& o) { o.temperature = std::numeric_limits<float>::quiet_NaN(); }).starts_with("temperature"));
  CHECK(message([](Options& o) { o.top_p = 0; }).starts_with("top_p"));
  CHECK(message([](Options& o) { o.repetition_penalty = 0; }).starts_with("repetition_penalty"));
  CHECK(message([](Options& o) { o.presence_penalty = 3; }).starts_with("presence_penalty"));
  CHECK(message([](Options& o) { o.frequency_penalty = 3; }).starts_with("frequency_penalty"));
  CHECK(message([](Options& o) { o.logit_bias = {{4, 1}}; }) == "logit_bias: expected tokens below 4, found 4");
  CHECK(message([](Options& o) { o.logprobs = 101; }).starts_with("logprobs"));
}

TEST_CASE("a stop string is found however the text is cut, and nothing of it comes out") {
  const std::string text = "One. The En The End. Two";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    CAPTURE(piece);
    StopFilter filter = StopFilter::Create({"The End", "Never"}).value();
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += piece) out += filter.Push(text.substr(at, piece));
    out += filter.Finish();
    CHECK(out == "One. The En ");
    CHECK(filter.stopped());
  }
}

TEST_CASE("text that only begins like a stop string comes out at the end") {
  StopFilter filter = StopFilter::Create({"aab"}).value();
  CHECK(filter.Push("xaa") == "x");
  CHECK(filter.Push("a") == "a");
  CHECK(filter.Finish() == "aa");
  CHECK(!filter.stopped());
  CHECK(StopFilter::Create({""}).error().code == Code::kInvalidArgument);
  CHECK(StopFilter::Create(std::vector<std::string>(65, "x")).error().code == Code::kInvalidArgument);
}

}  // namespace
}  // namespace holo::sampling
