// How well a model predicts a text, and how little a cache changes that.
//
// Every prediction is made through the cache's stored form, teacher-forced. Compare() runs a second, exact cache beside
// it. All functions may be called from any thread; results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "common/language_model/compute/compute.h"
#include "common/language_model/kv_cache/kv_cache.h"
#include "common/language_model/transformer/transformer.h"
#include "common/status/status.h"

namespace holo::evaluation {

struct Options {
  std::uint32_t window = 0;  // tokens seen at once, at least 2; 0: the model's context
  // Windows begin so far apart, and of each only what the one before did not predict counts; 0: the window, no overlap.
  std::uint32_t stride = 0;
};

struct Score {
  std::uint64_t predictions = 0;
  double loss = 0;  // sum of -log p, natural logarithm
  // Against the exact cache, by Compare() only.
  double exact_loss = 0;
  double divergence = 0;         // sum of KL(exact || this), natural logarithm
  std::uint64_t agreements = 0;  // predictions whose likeliest token is the same

  [[nodiscard]] double Perplexity() const;
  [[nodiscard]] double ExactPerplexity() const;
};

// Called now and then with the fraction done; false cancels (kCancelled).
using Progress = std::function<bool(double)>;

// kInvalidArgument for fewer than 2 tokens, a window beyond the context, a stride beyond the window.
[[nodiscard]] Result<Score> Evaluate(const transformer::Model& model, std::shared_ptr<const kv_cache::Scheme> scheme,
                                     std::span<const std::uint32_t> tokens, const Options& options,
                                     compute::ThreadPool& pool, const Progress& progress = nullptr);
[[nodiscard]] Result<Score> Compare(const transformer::Model& model, std::shared_ptr<const kv_cache::Scheme> scheme,
                                    std::span<const std::uint32_t> tokens, const Options& options,
                                    compute::ThreadPool& pool, const Progress& progress = nullptr);

}  // namespace holo::evaluation
