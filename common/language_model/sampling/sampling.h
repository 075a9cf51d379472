// From logits to a token, and from text to the place where it stops.
//
// A Sampler is one sequence's: it knows what has been said. Its random numbers depend on the seed and on how many
// tokens it has chosen, nothing else, so the same seed over the same logits gives the same tokens. A StopFilter watches
// the text of one sequence for strings that end it. Both belong to one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status/status.h"

namespace holo::sampling {

inline constexpr std::size_t kMaxLogprobs = 100;
inline constexpr std::size_t kMaxStops = 64;
inline constexpr std::size_t kMaxStopBytes = 4096;

// In the order in which they are applied.
struct Options {
  std::vector<std::pair<std::uint32_t, float>> logit_bias;  // token, what is added: -100..100
  // Of tokens in the prompt or the text so far, logits are divided (positive) or multiplied (negative) by this (Keskar
  // et al., CTRL, 2019); 1 does nothing.
  float repetition_penalty = 1;
  // Taken from logits of tokens that this sampler has chosen: once, and for every time. -2..2.
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float temperature = 1;    // 0: the likeliest token, of equal ones the lowest
  std::uint32_t top_k = 0;  // only so many of the likeliest; 0: all
  float top_p = 1;          // of these the fewest that have this much probability together; above 0
  std::uint64_t seed = 0;
  std::size_t logprobs = 0;  // how many of the likeliest tokens to report, at most kMaxLogprobs
};

// kInvalidArgument, naming the option, what was expected and what was found.
[[nodiscard]] Result<void> Check(const Options& options, std::uint32_t vocabulary);

struct Choice {
  std::uint32_t token = 0;
  float logprob = 0;  // natural logarithm, of the model's own distribution, before any option
  std::vector<std::pair<std::uint32_t, float>> top;  // the likeliest by that distribution, likeliest first
};

class Sampler {
 public:
  [[nodiscard]] static Result<Sampler> Create(const Options& options, std::uint32_t vocabulary);

  // Tokens that were there before, for the repetition penalty.
  void Observe(std::span<const std::uint32_t> tokens);
  // `logits` [vocabulary], finite.
  [[nodiscard]] Choice Next(std::span<const float> logits);

 private:
  Sampler(const Options& options, std::uint32_t vocabulary);

  Options options_;
  std::uint64_t chosen_ = 0;
  std::vector<std::uint8_t> seen_;     // [vocabulary]: in prompt or text
  std::vector<std::uint32_t> counts_;  // [vocabulary]: chosen by Next
  std::vector<float> logits_;          // scratch
  std::vector<std::uint32_t> order_;   // scratch
  std::vector<double> probabilities_;  // scratch
};

// What Next() would report of `token`, had it chosen it: for texts that are there already. `logprobs` as in Options.
[[nodiscard]] Choice Score(std::span<const float> logits, std::uint32_t token, std::size_t logprobs);

// Log-softmax of one token: logits[token] - log sum exp(logits), summed in double.
[[nodiscard]] double LogProbability(std::span<const float> logits, std::uint32_t token);

class StopFilter {
 public:
  // kInvalidArgument for an empty string, or beyond kMaxStops and kMaxStopBytes.
  [[nodiscard]] static Result<StopFilter> Create(std::vector<std::string> stops);

  // Takes more text and returns what is certain to stand before any stop string. From the first whole stop string on,
  // to its first byte, everything is dropped and stopped() is true.
  [[nodiscard]] std::string Push(std::string_view text);
  // What was held back as the possible beginning of a stop string, at the end of the text.
  [[nodiscard]] std::string Finish();
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace holo::sampling
