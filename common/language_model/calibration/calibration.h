// From a text to the basis in which a model's memory is stored.
//
// Collect() runs the model over a text and gathers, for every layer, the covariance of what a cache could store and how
// much an error in it would move the layer's output. The latent basis diagonalises both: with S the covariance of
// normalised rows and G the quadratic form of an error's cost, G^(1/2) S G^(1/2) = U Lambda U^T, and the encoder is
// G^(1/2) U, so that coordinates are uncorrelated and equally dear; bits go where Lambda is large. (After KQ-SVD, arXiv
// 2512.05916, and A3, arXiv 2505.12942.) For one head and one query q with attention weights a_j over values v_j and
// their mean o,
//
//     G_keys   = W_k [ q q^T sum_j a_j^2 |(v_j - o) W_o|^2 ] W_k^T / head_width
//     G_values = W_v W_o W_o^T W_v^T sum_j a_j^2
//
// summed over heads, averaged over queries, each divided by the squared norm of the residual stream it is added to.
//
// Where keys are rotated by their positions (Llama), the query in G_keys is turned back by each key's position, so that
// the metric is of keys before their rotation; and keys and values have coordinates of their own, as keys are rebuilt
// for every tile and few coordinates pay. All are whole numbers of one step in the same metric.
//
// Everything is deterministic: the same text and model give the same basis with any number of threads. Statistics are
// filled by one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/language_model/compute/compute.h"
#include "common/language_model/kv_cache/kv_cache.h"
#include "common/language_model/transformer/transformer.h"
#include "common/language_model/weights/weights.h"
#include "common/spectrum/spectrum.h"
#include "common/status/status.h"

namespace holo::calibration {

// Fewer tokens than this make no basis worth the name for any model.
inline constexpr std::uint64_t kMinTokens = 1000;

struct LayerStatistics {
  spectrum::Covariance hidden;            // the residual stream before ln_1
  spectrum::Covariance normalised;        // ln_1's output without gain and bias
  spectrum::Covariance normalised_exact;  // of the first kv_cache::kExactTokens of each window, also in `normalised`
  // [heads, head_width, head_width]: the bracket of G_keys. With rotated keys from a few keys of each query, drawn in
  // proportion to what they weigh in the sum.
  std::vector<double> query_moments;
  std::vector<double> value_weights;      // [heads]: the sum of G_values
};

struct Statistics {
  std::vector<LayerStatistics> layers;
  std::uint64_t tokens = 0;
  std::uint64_t queries = 0;  // those that the last two are sums over
};

// Tokens of a window: the model's context, but no more than this, as every query looks at all keys before it.
inline constexpr std::size_t kMostWindow = 1024;

// Called now and then with the fraction done; false cancels (kCancelled).
using Progress = std::function<bool(double)>;

// Windows of as many tokens as the context has, at most kMostWindow, without overlap. `model` was made of `weights`.
// kInvalidArgument for fewer than kMinTokens tokens.
[[nodiscard]] Result<Statistics> Collect(const transformer::Model& model, const weights::Weights& weights,
                                         std::span<const std::uint32_t> tokens, compute::ThreadPool& pool,
                                         const Progress& progress = nullptr);

struct BasisRequest {
  // What one token may take in all layers; the result takes no more. kInvalidArgument if that does not hold a group of
  // one bit in every layer.
  double bytes_per_token = 0;
  std::array<std::uint8_t, 32> base_fingerprint{};
  std::string calibration;
};
[[nodiscard]] Result<kv_cache::Basis> MakeLatentBasis(Statistics& statistics, const weights::Weights& weights,
                                                      const BasisRequest& request, const Progress& progress = nullptr);
// The stored tier: all coordinates that matter, at one step. `tokens` (at least kMinTokens; some thousands of the
// calibration's) are run once more with the cache, to fit the coder and to measure it: the result takes about
// request.bytes_per_token as SaveBlock() writes them, headers and the tokens themselves included, in windows as
// of Collect(). kInvalidArgument for fewer tokens or bytes than can be met.
[[nodiscard]] Result<kv_cache::Basis> MakeStoredBasis(Statistics& statistics, const transformer::Model& model,
                                                      const weights::Weights& weights,
                                                      std::span<const std::uint32_t> tokens,
                                                      const BasisRequest& request, compute::ThreadPool& pool,
                                                      const Progress& progress = nullptr);
// The normalised row itself, every coordinate with `bits` bits (1..8). kUnimplemented where keys are rotated.
[[nodiscard]] Result<kv_cache::Basis> MakeIdentityBasis(Statistics& statistics, const weights::Weights& weights,
                                                        unsigned bits, const BasisRequest& request);
// `k` principal components of keys, before they are rotated, and as many of values; kInvalidArgument unless
// 1 <= k <= the width of all heads of keys.
[[nodiscard]] Result<kv_cache::Basis> MakeReportBasis(Statistics& statistics, const weights::Weights& weights,
                                                      std::uint32_t k, const BasisRequest& request,
                                                      const Progress& progress = nullptr);

// A basis and the model that it was made for, ready for caches. kFailedPrecondition, with both fingerprints, if the
// weights are others.
[[nodiscard]] Result<std::shared_ptr<const kv_cache::Scheme>> MakeScheme(const kv_cache::Basis& basis,
                                                                         const weights::Weights& weights);

// Effective ranks, as the source report has them.
struct LayerRanks {
  double hidden = 0, keys = 0, values = 0;  // sum(l)^2 / sum(l^2)
  double hidden_shannon = 0, keys_shannon = 0, values_shannon = 0;
};
[[nodiscard]] Result<std::vector<LayerRanks>> EffectiveRanks(Statistics& statistics,
                                                             const weights::Weights& weights);

}  // namespace holo::calibration
