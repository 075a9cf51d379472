// GPT-2: tokens in, logits out, with the memory of each sequence in a kv_cache::Cache of any form.
//
// A block is: x += projection(attention(normalise(x))), x += fc_projection(gelu(fc(normalise(x)))). The gains and
// biases of ln_1 and ln_2 are folded into the matrices behind them, so what a cache sees of a token is the normalised
// row itself. The arithmetic is compute's: a sequence gets the same logits, bit for bit, whatever else is in the batch,
// into however many calls its tokens are divided, and with any number of threads.
//
// A Model is constant and may be used from any thread; a Workspace and the caches of a call belong to one call at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/language_model/compute/compute.h"
#include "common/language_model/kv_cache/kv_cache.h"
#include "common/language_model/weights/weights.h"
#include "common/status/status.h"

namespace holo::transformer {

// One sequence's share of a call.
struct Sequence {
  std::span<const std::uint32_t> tokens;  // those that the cache does not have yet, at least one
  kv_cache::Cache* cache = nullptr;       // gets them; no two sequences of a call have the same one
  bool all_logits = false;                // for every token, not only the last
};

// The matrices of one layer's attention, [inputs, outputs], with the gain and bias of ln_1 folded into the first three.
struct AttentionWeights {
  std::vector<float> queries, keys, values;             // [width, width]
  std::vector<float> query_bias, key_bias, value_bias;  // [width]
  std::vector<float> projection;                        // [width, width]
};
[[nodiscard]] Result<AttentionWeights> LoadAttention(const weights::Gpt2Layer& layer);

// What one layer computes for the rows of all sequences of a call, in order. All [rows, width], but for the stride.
struct LayerView {
  std::size_t layer = 0;
  std::size_t rows = 0;
  const float* hidden = nullptr;      // before ln_1
  const float* normalised = nullptr;  // behind it, without gain and bias
  const float* queries = nullptr;
  const float* keys = nullptr;    // rows key_stride apart
  const float* values = nullptr;  // likewise
  std::size_t key_stride = 0;
};
// Called once for each layer of a call, on the calling thread.
using Observer = std::function<void(const LayerView&)>;

// The memory of Forward(): grows with the number of rows in a call and stays.
struct Workspace {
  std::vector<float> hidden, normalised, queries, keys_and_values, prepared, attention, inner, last, logits;
  std::vector<kv_cache::Request> requests;
  struct Write {  // a part of what a sequence's cache appends
    kv_cache::Cache* cache = nullptr;
    kv_cache::Rows rows;
    const float* prepared = nullptr;
    std::size_t part = 0;
  };
  std::vector<Write> writes;
  compute::Scratch scratch;
  kv_cache::AttentionScratch attention_scratch;
};

class Model {
 public:
  // Reads all weights and packs them. kInvalidArgument for NaN or infinite weights, by name.
  [[nodiscard]] static Result<std::shared_ptr<const Model>> Create(const weights::Gpt2Weights& weights,
                                                                   compute::WeightType type);

  [[nodiscard]] const weights::Gpt2Config& config() const { return config_; }
  [[nodiscard]] kv_cache::Geometry geometry() const;
  [[nodiscard]] compute::WeightType weight_type() const { return embedding_.type(); }
  // Of the weights as they are held; those that one token reads are all but the embeddings of positions.
  [[nodiscard]] std::size_t bytes() const;

  // Runs the new tokens of all sequences. The result is [rows, vocabulary], a row for every token of sequences with
  // all_logits and for the last one of the others, in order; it is valid until the workspace is used again. On an error
  // no cache has changed: kInvalidArgument for no tokens, a token beyond the vocabulary, or a cache of another
  // geometry; kOutOfRange for more tokens than the context has.
  [[nodiscard]] Result<std::span<const float>> Forward(std::span<const Sequence> sequences, Workspace& workspace,
                                                       compute::ThreadPool& pool,
                                                       const Observer& observer = nullptr) const;

 private:
  struct Layer {
    compute::Matrix queries;          // width -> width
    compute::Matrix keys_and_values;  // width -> 2 width
    compute::Matrix projection;       // width -> width
    compute::Matrix fc;               // width -> inner
    compute::Matrix fc_projection;    // inner -> width
  };

  Model() = default;
  [[nodiscard]] Result<void> Check(std::span<const Sequence> sequences) const;
  void RunLayer(std::size_t index, std::span<const Sequence> sequences, std::size_t rows, bool needs_keys_and_values,
                Workspace& workspace, compute::ThreadPool& pool, const Observer& observer) const;

  weights::Gpt2Config config_;
  compute::Matrix embedding_;     // of tokens, [vocabulary, width]; the head too, where that is tied
  compute::Matrix untied_head_;   // empty where it is tied
  std::vector<float> positions_;  // [context, width]
  std::vector<Layer> layers_;
  std::vector<float> final_gain_, final_bias_;
};

}  // namespace holo::transformer
