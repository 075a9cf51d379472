// GPT-2 and Llama: tokens in, logits out, with the memory of each sequence in a kv_cache::Cache of any form.
//
// A block is: x += projection(attention(normalise(x))), x += down(inner(normalise(x))). The two architectures are made of
// the same parts:
//                 GPT-2                                 Llama
//   positions     learned, added to the embedding       queries and keys are rotated (kv_cache::Rotation)
//   normalise     LayerNorm; gains and biases are       RMSNorm with its gain
//                 folded into the matrices behind it
//   heads         one key and value for each query      one for several (grouped queries)
//   inner         gelu(x fc)                            silu(x gate) * (x up)
//   head          the embedding, or a matrix of its own
// What a cache sees of a token is the normalised row that keys and values are made from. A sequence gets the same logits,
// bit for bit, whatever else is in the batch, into however many calls its tokens are divided, and with any number of
// threads.
//
// A Model is constant and may be used from any thread; a Workspace and the caches of a call belong to one call at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/language_model/compute/compute.h"
#include "common/language_model/kv_cache/kv_cache.h"
#include "common/language_model/transformer/linear.h"
#include "common/language_model/weights/weights.h"
#include "common/status/status.h"

namespace holo::transformer {

// One sequence's share of a call.
struct Sequence {
  std::span<const std::uint32_t> tokens;  // those that the cache does not have yet, at least one
  kv_cache::Cache* cache = nullptr;       // gets them; no two sequences of a call have the same one
  bool all_logits = false;                // for every token, not only the last
};

// The matrices of one layer's attention, [inputs, outputs], as float32. GPT-2: with the gain and bias of ln_1 folded into
// the first three. Llama: without biases, and rows of heads in the order of kv_cache::Rotation.
struct AttentionWeights {
  std::vector<float> queries;                           // [width, width]
  std::vector<float> keys, values;                      // [width, key_width]
  std::vector<float> query_bias, key_bias, value_bias;  // [width], and twice [key_width]
  std::vector<float> projection;                        // [width, width]
};
[[nodiscard]] Result<AttentionWeights> LoadAttention(const weights::Gpt2Layer& layer);
[[nodiscard]] Result<AttentionWeights> LoadAttention(const weights::Weights& weights, std::size_t layer);

// Null for an architecture that does not rotate.
[[nodiscard]] std::shared_ptr<const kv_cache::Rotation> MakeRotation(const weights::Config& config);

// What one layer computes for the rows of all sequences of a call, in order. All [rows, width], but for keys and values,
// [rows, key_width], and their stride. Neither queries nor keys are rotated yet.
struct LayerView {
  std::size_t layer = 0;
  std::size_t rows = 0;
  const float* hidden = nullptr;      // before the first norm
  const float* normalised = nullptr;  // behind it: GPT-2's without gain and bias, Llama's with its gain
  const float* queries = nullptr;
  const float* keys = nullptr;    // rows key_stride apart
  const float* values = nullptr;  // likewise
  std::size_t key_stride = 0;
};
// Called once for each layer of a call, on the calling thread.
using Observer = std::function<void(const LayerView&)>;

// The memory of Forward(): grows with the number of rows in a call and stays.
struct Workspace {
  std::vector<float> hidden, normalised, queries, keys_and_values, prepared, attention, inner, gated, last, logits;
  std::vector<std::size_t> positions;  // of each row
  std::vector<kv_cache::Request> requests;
  struct Write {  // a part of what a sequence's cache appends
    kv_cache::Cache* cache = nullptr;
    kv_cache::Rows rows;
    const float* prepared = nullptr;
    std::size_t part = 0;
  };
  std::vector<Write> writes;
  Scratch scratch;
  kv_cache::AttentionScratch attention_scratch;
};

class Model {
 public:
  // Reads all weights and packs them; without a type, in the one in which they lose nothing: bf16 where all are, blocks
  // as they are in a GGUF file, otherwise fp32. kInvalidArgument for NaN or infinite weights, by name.
  [[nodiscard]] static Result<std::shared_ptr<const Model>> Create(const weights::Weights& weights,
                                                                   std::optional<compute::WeightType> type);

  [[nodiscard]] const weights::Config& config() const { return config_; }
  [[nodiscard]] kv_cache::Geometry geometry() const;
  // Null where positions are learned.
  [[nodiscard]] const std::shared_ptr<const kv_cache::Rotation>& rotation() const { return rotation_; }
  // "fp32", "Q4_1", ...: of the matrices of the first layer.
  [[nodiscard]] std::string_view weight_type() const { return layers_.front().projection.type_name(); }
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
    std::vector<float> attention_gain, inner_gain;  // [width]; empty where they are folded into the matrices
    Linear queries;                                 // width -> width
    Linear keys_and_values;                         // width -> 2 key_width
    Linear projection;                              // width -> width
    Linear inner;                                   // width -> inner; Llama: gates, then values, 2 inner
    Linear down;                                    // inner -> width
  };

  Model() = default;
  [[nodiscard]] Result<void> LoadGpt2(const weights::Gpt2Weights& weights, compute::WeightType type);
  [[nodiscard]] Result<void> LoadLlama(const weights::LlamaWeights& weights, std::optional<compute::WeightType> type);
  [[nodiscard]] bool is_llama() const { return config_.architecture == weights::Architecture::kLlama; }
  void Normalise(const float* row, const std::vector<float>& gain, const std::vector<float>& bias, float* out) const;
  [[nodiscard]] Result<void> Check(std::span<const Sequence> sequences) const;
  void RunLayer(std::size_t index, std::span<const Sequence> sequences, std::size_t rows, bool needs_keys_and_values,
                Workspace& workspace, compute::ThreadPool& pool, const Observer& observer) const;

  weights::Config config_;
  Linear embedding_;              // of tokens, [vocabulary, width]; the head too, where that is tied
  Linear untied_head_;            // empty where it is tied
  std::vector<float> positions_;  // [context, width]; empty where they are rotated
  std::shared_ptr<const kv_cache::Rotation> rotation_;
  std::vector<Layer> layers_;
  std::vector<float> final_gain_, final_bias_;
};

}  // namespace holo::transformer
