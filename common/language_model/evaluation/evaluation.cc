#include "common/language_model/evaluation/evaluation.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace holo::evaluation {
namespace {

// Rows of logits at a time: what a large vocabulary's take, and what a multiplication wants to be fast.
constexpr std::size_t kRowsPerCall = 64;

struct Row {
  double loss = 0, exact_loss = 0, divergence = 0;
  bool agrees = false;
};

double LogSum(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

Row ScoreRow(std::span<const float> logits, std::span<const float> exact, std::uint32_t target) {
  Row row;
  const double sum = LogSum(logits);
  row.loss = sum - logits[target];
  if (exact.empty()) return row;
  const double exact_sum = LogSum(exact);
  row.exact_loss = exact_sum - exact[target];
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double log_exact = exact[i] - exact_sum;
    row.divergence += std::exp(log_exact) * (log_exact - (logits[i] - sum));
  }
  row.agrees = std::max_element(logits.begin(), logits.end()) - logits.begin() ==
               std::max_element(exact.begin(), exact.end()) - exact.begin();
  return row;
}

Result<Score> Run(const transformer::Model& model, std::shared_ptr<const kv_cache::Scheme> scheme, bool compare,
                  std::span<const std::uint32_t> tokens, const Options& options, compute::ThreadPool& pool,
                  const Progress& progress) {
  const std::size_t context = model.config().context;
  const std::size_t window = options.window == 0 ? context : options.window;
  const std::size_t stride = options.stride == 0 ? window : options.stride;
  if (tokens.size() < 2 || window < 2 || window > context || stride > window) {
    return Fail(Code::kInvalidArgument, "evaluation: expected 2 tokens or more, a window of 2 to " +
                                            std::to_string(context) + " and a stride of at most the window, found " +
                                            std::to_string(tokens.size()) + " tokens, window " +
                                            std::to_string(window) + ", stride " + std::to_string(stride));
  }
  const std::size_t vocabulary = model.config().vocabulary;
  HOLO_ASSIGN_OR_RETURN(const auto exact_scheme,
                        kv_cache::MakePlainScheme(model.geometry(), kv_cache::Precision::kF32));
  kv_cache::Cache cache(std::move(scheme));
  kv_cache::Cache exact_cache(exact_scheme);
  transformer::Workspace workspace;
  transformer::Workspace exact_workspace;
  std::vector<Row> rows;
  Score score;
  std::size_t predicted_to = 1;  // tokens before it are predicted, or have nothing before them
  for (std::size_t begin = 0; predicted_to < tokens.size(); begin += stride) {
    const std::size_t end = std::min(begin + window, tokens.size());
    // Where windows do not overlap, the first token of each has nothing that predicts it.
    const std::size_t first = std::max(predicted_to, begin + 1);
    cache.Truncate(0);
    exact_cache.Truncate(0);
    for (std::size_t from = begin; from + 1 < end; from += kRowsPerCall) {
      const std::size_t count = std::min(kRowsPerCall, end - 1 - from);
      const transformer::Sequence sequence{tokens.subspan(from, count), &cache, true};
      HOLO_ASSIGN_OR_RETURN(const std::span<const float> logits, model.Forward({&sequence, 1}, workspace, pool));
      std::span<const float> exact;
      if (compare) {
        const transformer::Sequence exact_sequence{tokens.subspan(from, count), &exact_cache, true};
        HOLO_ASSIGN_OR_RETURN(exact, model.Forward({&exact_sequence, 1}, exact_workspace, pool));
      }
      rows.assign(count, {});
      pool.ForEach(count, [&](std::size_t i, unsigned) {
        if (from + i + 1 < first) return;
        rows[i] = ScoreRow(logits.subspan(i * vocabulary, vocabulary),
                           compare ? exact.subspan(i * vocabulary, vocabulary) : exact, tokens[from + i + 1]);
      });
      for (std::size_t i = 0; i < count; ++i) {
        if (from + i + 1 < first) continue;
        ++score.predictions;
        score.loss += rows[i].loss;
        score.exact_loss += rows[i].exact_loss;
        score.divergence += rows[i].divergence;
        score.agreements += rows[i].agrees ? 1 : 0;
      }
      if (progress && !progress(static_cast<double>(from + count) / static_cast<double>(tokens.size()))) {
        return Fail(Code::kCancelled, "evaluation: cancelled");
      }
    }
    predicted_to = std::max(predicted_to, end);
  }
  return score;
}

}  // namespace

double Score::Perplexity() const {
  return std::exp(loss / static_cast<double>(predictions));
}

double Score::ExactPerplexity() const {
  return std::exp(exact_loss / static_cast<double>(predictions));
}

Result<Score> Evaluate(const transformer::Model& model, std::shared_ptr<const kv_cache::Scheme> scheme,
                       std::span<const std::uint32_t> tokens, const Options& options, compute::ThreadPool& pool,
                       const Progress& progress) {
  return Run(model, std::move(scheme), /*compare=*/false, tokens, options, pool, progress);
}

Result<Score> Compare(const transformer::Model& model, std::shared_ptr<const kv_cache::Scheme> scheme,
                      std::span<const std::uint32_t> tokens, const Options& options, compute::ThreadPool& pool,
                      const Progress& progress) {
  return Run(model, std::move(scheme), /*compare=*/true, tokens, options, pool, progress);
}

}  // namespace holo::evaluation
