// The files that a model's numbers come from: safetensors, memory-mapped, with the config.json of a GPT-2 or a Llama,
// and GGUF files of Llamas.
//
// A model directory is what people have from Hugging Face: `config.json` and `model.safetensors`, or the shards that
// `model.safetensors.index.json` names. OpenGpt2, OpenLlama and LlamaFromGguf check all of it against each other, so
// that whoever uses the result finds every tensor, with the shape that the configuration promises. Below them,
// OpenTensors and ParseSafetensors know nothing of any architecture.
//
// Tensors are views into mapped files: nothing is copied, and pages are read when they are first touched. Everything is
// constant after construction and may be used from any thread.
//
// Errors: kNotFound for missing files, kDataLoss for damaged ones, kInvalidArgument for tensors that are missing, or
// not of the expected shape or type, kUnimplemented for architectures and variants that are not supported. Messages
// name the file and the tensor, what was expected and what was found.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/files/files.h"
#include "common/language_model/gguf/gguf.h"
#include "common/status/status.h"

namespace holo::weights {

inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
inline constexpr std::uint32_t kMaxDimensions = 8;

enum class Dtype : std::uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kU16,
  kI16,
  kF16,
  kBF16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64
};
// "F32", "BF16", ...: as in the files.
[[nodiscard]] std::string_view DtypeName(Dtype dtype);
[[nodiscard]] std::size_t DtypeBytes(Dtype dtype);

// Row-major, little-endian. `bytes` holds exactly the product of `shape` (1 for none) elements, at any alignment.
struct Tensor {
  std::string name;  // as in the file, or without a prefix where a function says so
  Dtype dtype = Dtype::kF32;
  std::vector<std::uint64_t> shape;
  std::span<const std::uint8_t> bytes;

  [[nodiscard]] std::uint64_t elements() const { return bytes.size() / DtypeBytes(dtype); }
  // The values themselves where they are float32 and aligned to it; otherwise nothing, and CopyToFloat serves.
  [[nodiscard]] std::optional<std::span<const float>> AsFloat() const;
};

// "[768, 2304]".
[[nodiscard]] std::string ShapeToString(std::span<const std::uint64_t> shape);

// The tensors of one safetensors file, which must outlive them, in the order of their data. The file is: 8 bytes N, N
// bytes of JSON, then data that the tensors cover without overlap or gap to the last byte.
[[nodiscard]] Result<std::vector<Tensor>> ParseSafetensors(std::span<const std::uint8_t> file, std::string_view name);

// Elements first .. first + out.size() - 1 of an F32, F16 or BF16 tensor as float32. kInvalidArgument, with the
// position, at the first NaN or infinity, and for any other type. The range must be inside the tensor.
[[nodiscard]] Result<void> CopyToFloat(const Tensor& tensor, std::uint64_t first, std::span<float> out);
// All of it.
[[nodiscard]] Result<std::vector<float>> ToFloat(const Tensor& tensor);
// The check of CopyToFloat for a whole tensor that is used where it lies.
[[nodiscard]] Result<void> CheckFinite(const Tensor& tensor);

// Exact; NaN and infinity stay what they are.
[[nodiscard]] float HalfToFloat(std::uint16_t bits);
[[nodiscard]] float BFloat16ToFloat(std::uint16_t bits);

// The tensors of a model directory by name, and what keeps them mapped; copies share the mapping.
struct TensorSet {
  std::map<std::string, Tensor, std::less<>> tensors;
  std::vector<std::shared_ptr<const files::MappedFile>> files;

  // nullptr if there is none.
  [[nodiscard]] const Tensor* Find(std::string_view name) const;
};

// model.safetensors; without it, the shards of model.safetensors.index.json, of each only the tensors that the index
// places there.
[[nodiscard]] Result<TensorSet> OpenTensors(const std::filesystem::path& model_dir);

enum class Architecture : std::uint8_t { kGpt2, kLlama };
// "gpt2", "llama".
[[nodiscard]] std::string_view ArchitectureName(Architecture architecture);

// What a model is, of either architecture.
struct Config {
  Architecture architecture = Architecture::kGpt2;
  std::uint32_t vocabulary = 0;  // rows of the embedding
  std::uint32_t context = 0;     // the most tokens that fit: rows of wpe, or what the model was trained for
  std::uint32_t width = 0;
  std::uint32_t layers = 0;
  std::uint32_t heads = 0;        // of queries; width is a multiple
  std::uint32_t key_heads = 0;    // of keys and values, a divisor of `heads`; 0: as many
  std::uint32_t inner_width = 0;  // GPT-2: 4 * width unless the file says otherwise
  float layer_norm_epsilon = 1e-5f;
  bool tied_head = true;
  // Llama: radians a token by which the pairs of a head are turned, [head_width / 2]. GPT-2: empty.
  std::vector<double> frequencies;
  // Nothing where the file names none, or one beyond the vocabulary: GPT-2's default is 50256 at any size.
  std::optional<std::uint32_t> begin_token;
  std::vector<std::uint32_t> end_tokens;  // each ends a text

  [[nodiscard]] std::uint32_t head_width() const { return width / heads; }
  [[nodiscard]] std::uint32_t keys() const { return key_heads == 0 ? heads : key_heads; }
  [[nodiscard]] std::uint32_t key_width() const { return keys() * head_width(); }
};

// config.json of GPT-2, every size. kUnimplemented, by name, for another architecture and for variants that compute
// something else (an activation other than the tanh form of GELU, unscaled attention, cross-attention).
[[nodiscard]] Result<Config> ParseGpt2Config(std::span<const std::uint8_t> json, std::string_view name);

// All tensors of one layer. Matrices are stored [in, out], as in GPT-2: y = x W + b.
struct Gpt2Layer {
  Tensor ln_1_weight, ln_1_bias;                    // [width]
  Tensor attention_weight, attention_bias;          // [width, 3 * width], [3 * width]: queries, keys, values
  Tensor projection_weight, projection_bias;        // [width, width], [width]
  Tensor ln_2_weight, ln_2_bias;                    // [width]
  Tensor fc_weight, fc_bias;                        // [width, inner_width], [inner_width]
  Tensor fc_projection_weight, fc_projection_bias;  // [inner_width, width], [width]
};

struct Gpt2Weights {
  Config config;
  Tensor wte;  // [vocabulary, width]
  Tensor wpe;  // [context, width]
  std::vector<Gpt2Layer> layers;
  Tensor ln_f_weight, ln_f_bias;  // [width]
  Tensor head;                    // [vocabulary, width]; wte itself when tied
  // Tensors of the files that GPT-2 does not use, by their names there (masks: h.N.attn.bias, h.N.attn.masked_bias).
  std::vector<std::string> ignored;
  std::vector<std::shared_ptr<const files::MappedFile>> files;  // keep the tensors mapped

  // Calls visit(tensor) for every tensor once, always in the same order; the head only when it is not wte.
  template <typename Visit>
  void ForEach(Visit visit) const;

  // Gives back the memory of tensors that were read; as of files::MappedFile.
  void ReleasePages() const;
};

// Names may have the prefix "transformer." or not (all or none). Every tensor is F32, F16 or BF16; they need not be all
// of the same type. Values are not read: NaN is found by CopyToFloat and CheckFinite. Refused are also a directory with
// more layers than its configuration says, and one that is said to have a tied head and has another one.
[[nodiscard]] Result<Gpt2Weights> OpenGpt2(const std::filesystem::path& model_dir);
// The same of a directory's parts, for tests and other sources.
[[nodiscard]] Result<Gpt2Weights> AssembleGpt2(const Config& config, TensorSet tensors, std::string_view name);

// What a compressed cache or a saved session was made for: SHA-256 over the configuration and every tensor (shape, type
// and bytes), independent of file layout and name prefixes. Reads everything once.
[[nodiscard]] std::array<std::uint8_t, 32> Fingerprint(const Gpt2Weights& weights);

// A tensor of a file of either kind, as it lies there.
struct StoredTensor {
  std::string name;
  gguf::Type type = gguf::Type::kF32;
  std::vector<std::uint64_t> shape;
  std::span<const std::uint8_t> bytes;  // whole rows
};

// The Llama family: RMSNorm, rotary positions, grouped queries, SwiGLU, no biases. Matrices are stored [out, in].
struct LlamaLayer {
  StoredTensor attention_norm;  // [width], F32, F16 or BF16, as are all norms
  StoredTensor queries;         // [width, width]
  StoredTensor keys, values;    // [key_width, width]
  StoredTensor projection;      // [width, width]
  StoredTensor inner_norm;      // [width]
  StoredTensor gate, up;        // [inner_width, width]
  StoredTensor down;            // [width, inner_width]
};

struct LlamaWeights {
  Config config;
  // How rows of queries and keys lie in a head: true, as in GGUF, the two of a pair side by side; false, as from Hugging
  // Face, first the first ones of all pairs, then the second ones.
  bool pairs_are_neighbours = false;
  StoredTensor embedding;  // [vocabulary, width]
  std::vector<LlamaLayer> layers;
  StoredTensor norm;  // [width]
  StoredTensor head;  // [vocabulary, width]; the embedding itself when tied
  std::vector<std::string> ignored;
  // Keep the tensors mapped.
  std::vector<std::shared_ptr<const files::MappedFile>> files;
  std::optional<gguf::File> gguf;

  // As for Gpt2Weights.
  template <typename Visit>
  void ForEach(Visit visit) const;
  void ReleasePages() const;
};

// config.json of a Llama. kUnimplemented, by name, for other architectures and variants (biases, another activation,
// heads of another width than width / heads, ways of stretching the context other than Llama 3's and the linear one).
[[nodiscard]] Result<Config> ParseLlamaConfig(std::span<const std::uint8_t> json, std::string_view name);
// A directory from Hugging Face, as OpenGpt2. Tensors that would change what is computed are refused by name.
[[nodiscard]] Result<LlamaWeights> OpenLlama(const std::filesystem::path& model_dir);
[[nodiscard]] Result<LlamaWeights> AssembleLlama(const Config& config, TensorSet tensors, std::string_view name);
// A GGUF file of the architecture "llama"; others are refused by name. A file from File::Parse must outlive the result.
[[nodiscard]] Result<LlamaWeights> LlamaFromGguf(const gguf::File& file);

// Of either architecture.
class Weights {
 public:
  Weights() = default;
  Weights(Gpt2Weights weights) : weights_(std::move(weights)) {}   // NOLINT: a Gpt2Weights is one kind of weights
  Weights(LlamaWeights weights) : weights_(std::move(weights)) {}  // NOLINT

  [[nodiscard]] const Config& config() const {
    return std::visit([](const auto& weights) -> const Config& { return weights.config; }, weights_);
  }
  // nullptr for the other one.
  [[nodiscard]] const Gpt2Weights* gpt2() const { return std::get_if<Gpt2Weights>(&weights_); }
  [[nodiscard]] const LlamaWeights* llama() const { return std::get_if<LlamaWeights>(&weights_); }
  void ReleasePages() const {
    std::visit([](const auto& weights) { weights.ReleasePages(); }, weights_);
  }

 private:
  std::variant<Gpt2Weights, LlamaWeights> weights_;
};

// A model directory of either architecture, as its config.json says.
[[nodiscard]] Result<Weights> Open(const std::filesystem::path& model_dir);

// As of a Gpt2Weights.
[[nodiscard]] std::array<std::uint8_t, 32> Fingerprint(const LlamaWeights& weights);
[[nodiscard]] std::array<std::uint8_t, 32> Fingerprint(const Weights& weights);

// What is said about tensors: their number, sizes and types.
struct TensorSummary {
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
  std::map<std::string, std::uint64_t> types;  // elements of each, by its name
};
[[nodiscard]] TensorSummary Summarise(const Weights& weights);

template <typename Visit>
void Gpt2Weights::ForEach(Visit visit) const {
  visit(wte);
  visit(wpe);
  for (const Gpt2Layer& layer : layers) {
    for (const Tensor* tensor :
         {&layer.ln_1_weight, &layer.ln_1_bias, &layer.attention_weight, &layer.attention_bias,
          &layer.projection_weight, &layer.projection_bias, &layer.ln_2_weight, &layer.ln_2_bias, &layer.fc_weight,
          &layer.fc_bias, &layer.fc_projection_weight, &layer.fc_projection_bias}) {
      visit(*tensor);
    }
  }
  visit(ln_f_weight);
  visit(ln_f_bias);
  if (!config.tied_head) visit(head);
}

template <typename Visit>
void LlamaWeights::ForEach(Visit visit) const {
  visit(embedding);
  for (const LlamaLayer& layer : layers) {
    for (const StoredTensor* tensor : {&layer.attention_norm, &layer.queries, &layer.keys, &layer.values,
                                       &layer.projection, &layer.inner_norm, &layer.gate, &layer.up, &layer.down}) {
      visit(*tensor);
    }
  }
  visit(norm);
  if (!config.tied_head) visit(head);
}

}  // namespace holo::weights
