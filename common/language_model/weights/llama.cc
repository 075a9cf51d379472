// The Llama family: its configuration, and its tensors under the names that Hugging Face and GGUF give them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>

#include "common/bytes/bytes.h"
#include "common/json/json.h"
#include "common/language_model/weights/config_reader.h"
#include "common/language_model/weights/weights.h"

namespace holo::weights {
namespace {

std::vector<double> Frequencies(std::uint32_t head_width, double base) {
  std::vector<double> frequencies(head_width / 2);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(base, -2.0 * static_cast<double>(i) / head_width);
  }
  return frequencies;
}

Result<void> CheckHeads(const Config& config, std::string_view name) {
  const auto fail = [&](const std::string& problem) {
    return Fail(Code::kInvalidArgument, std::string(name) + ": " + problem);
  };
  if (config.width % config.heads != 0 || config.head_width() % 2 != 0) {
    return fail("expected heads of an even width, found " + std::to_string(config.heads) + " heads in a width of " +
                std::to_string(config.width));
  }
  if (config.heads % config.keys() != 0) {
    return fail("expected heads of keys and values that divide the " + std::to_string(config.heads) +
                " heads of queries, found " + std::to_string(config.keys()));
  }
  return {};
}

// A number above 0 of an object in the configuration.
Result<double> Positive(const nlohmann::json& object, const char* key, std::string_view name) {
  const auto found = object.find(key);
  const double value = found != object.end() && found->is_number() ? found->get<double>() : -1;
  if (!(value > 0 && std::isfinite(value))) {
    return Fail(Code::kInvalidArgument, std::string(name) + ": \"" + key + "\": expected a number above 0, found " +
                                            (found == object.end() ? "nothing" : found->dump().substr(0, 100)));
  }
  return value;
}

// What stretches the context: Llama 3 leaves high frequencies alone and divides low ones by a factor.
Result<void> Scale(const nlohmann::json& scaling, std::string_view name, std::vector<double>& frequencies) {
  std::string type = "default";
  for (const char* key : {"rope_type", "type"}) {
    const auto found = scaling.find(key);
    if (found == scaling.end()) continue;
    type = found->is_string() ? found->get<std::string>() : found->dump().substr(0, 100);
    break;
  }
  if (type == "default") return {};
  if (type != "linear" && type != "llama3") {
    return Fail(Code::kUnimplemented, std::string(name) +
                                          ": \"rope_scaling\": expected the type default, linear or llama3, found \"" +
                                          type + "\"");
  }
  HOLO_ASSIGN_OR_RETURN(const double factor, Positive(scaling, "factor", name));
  if (type == "linear") {
    for (double& frequency : frequencies) frequency /= factor;
    return {};
  }
  HOLO_ASSIGN_OR_RETURN(const double low, Positive(scaling, "low_freq_factor", name));
  HOLO_ASSIGN_OR_RETURN(const double high, Positive(scaling, "high_freq_factor", name));
  HOLO_ASSIGN_OR_RETURN(const double original, Positive(scaling, "original_max_position_embeddings", name));
  if (!(high > low)) {
    return Fail(Code::kInvalidArgument, std::string(name) + ": \"rope_scaling\": expected a \"high_freq_factor\" above "
                                                            "\"low_freq_factor\"");
  }
  for (double& frequency : frequencies) {
    const double turns = original * frequency / (2 * std::numbers::pi);  // in the original context
    const double kept = std::min(1.0, std::max(0.0, (turns - low) / (high - low)));
    frequency = kept * frequency + (1 - kept) * frequency / factor;
  }
  return {};
}

bool IsFloat(gguf::Type type) {
  return gguf::BlockElements(type) == 1;
}

// Takes tensors by name, checked; what is left afterwards is not known here.
class Taker {
 public:
  explicit Taker(std::string_view name) : name_(name) {}
  void Add(StoredTensor tensor) {
    std::string key = tensor.name;
    tensors_.emplace(std::move(key), std::move(tensor));
  }
  [[nodiscard]] bool Has(const std::string& tensor) const { return tensors_.contains(tensor); }
  [[nodiscard]] Result<StoredTensor> Take(const std::string& tensor, std::vector<std::uint64_t> shape) {
    auto node = tensors_.extract(tensor);
    if (node.empty()) {
      return Fail(Code::kInvalidArgument, name_ + ": tensor " + tensor + ": expected " + ShapeToString(shape) +
                                              ", found no tensor of that name");
    }
    StoredTensor found = std::move(node.mapped());
    const bool is_vector = shape.size() == 1;
    if (found.shape != shape || (is_vector && !IsFloat(found.type))) {
      return Fail(Code::kInvalidArgument, name_ + ": tensor " + tensor + ": expected shape " + ShapeToString(shape) +
                                              (is_vector ? " of F32, F16 or BF16" : "") + ", found " +
                                              std::string(gguf::TypeName(found.type)) + " of shape " +
                                              ShapeToString(found.shape));
    }
    return found;
  }
  [[nodiscard]] const std::map<std::string, StoredTensor>& left() const { return tensors_; }

 private:
  std::string name_;
  std::map<std::string, StoredTensor> tensors_;
};

struct Names {
  const char* layers;
  const char *embedding, *norm, *head;
  const char *attention_norm, *queries, *keys, *values, *projection, *inner_norm, *gate, *up, *down;
};
constexpr Names kHuggingFace = {"model.layers.",
                                "model.embed_tokens.weight",
                                "model.norm.weight",
                                "lm_head.weight",
                                "input_layernorm.weight",
                                "self_attn.q_proj.weight",
                                "self_attn.k_proj.weight",
                                "self_attn.v_proj.weight",
                                "self_attn.o_proj.weight",
                                "post_attention_layernorm.weight",
                                "mlp.gate_proj.weight",
                                "mlp.up_proj.weight",
                                "mlp.down_proj.weight"};
constexpr Names kGguf = {"blk.",          "token_embd.weight", "output_norm.weight", "output.weight",
                         "attn_norm.weight", "attn_q.weight",     "attn_k.weight",      "attn_v.weight",
                         "attn_output.weight", "ffn_norm.weight",   "ffn_gate.weight",    "ffn_up.weight",
                         "ffn_down.weight"};

Result<LlamaWeights> Assemble(const Config& config, Taker& taker, const Names& names, std::string_view name) {
  LlamaWeights weights;
  weights.config = config;
  const std::uint64_t width = config.width;
  const std::uint64_t keys = config.key_width();
  const std::uint64_t inner = config.inner_width;
  HOLO_ASSIGN_OR_RETURN(weights.embedding, taker.Take(names.embedding, {config.vocabulary, width}));
  for (std::uint32_t i = 0; i < config.layers; ++i) {
    const std::string at = names.layers + std::to_string(i) + ".";
    LlamaLayer& layer = weights.layers.emplace_back();
    HOLO_ASSIGN_OR_RETURN(layer.attention_norm, taker.Take(at + names.attention_norm, {width}));
    HOLO_ASSIGN_OR_RETURN(layer.queries, taker.Take(at + names.queries, {width, width}));
    HOLO_ASSIGN_OR_RETURN(layer.keys, taker.Take(at + names.keys, {keys, width}));
    HOLO_ASSIGN_OR_RETURN(layer.values, taker.Take(at + names.values, {keys, width}));
    HOLO_ASSIGN_OR_RETURN(layer.projection, taker.Take(at + names.projection, {width, width}));
    HOLO_ASSIGN_OR_RETURN(layer.inner_norm, taker.Take(at + names.inner_norm, {width}));
    HOLO_ASSIGN_OR_RETURN(layer.gate, taker.Take(at + names.gate, {inner, width}));
    HOLO_ASSIGN_OR_RETURN(layer.up, taker.Take(at + names.up, {inner, width}));
    HOLO_ASSIGN_OR_RETURN(layer.down, taker.Take(at + names.down, {width, inner}));
  }
  HOLO_ASSIGN_OR_RETURN(weights.norm, taker.Take(names.norm, {width}));
  weights.head = weights.embedding;
  if (!config.tied_head) {
    HOLO_ASSIGN_OR_RETURN(weights.head, taker.Take(names.head, {config.vocabulary, width}));
  }
  for (const auto& [tensor, ignored] : taker.left()) {
    // Old files keep what the frequencies say, and some a copy of the embedding.
    if (!tensor.ends_with("rotary_emb.inv_freq") && tensor != names.head) {
      return Fail(Code::kUnimplemented,
                  std::string(name) + ": tensor " + tensor +
                      ": expected none but those of a Llama without biases, of as many layers as it says (" +
                      std::to_string(config.layers) + ")");
    }
    weights.ignored.push_back(tensor);
  }
  return weights;
}

}  // namespace

std::string_view ArchitectureName(Architecture architecture) {
  return architecture == Architecture::kGpt2 ? "gpt2" : "llama";
}

Result<Config> ParseLlamaConfig(std::span<const std::uint8_t> text, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const nlohmann::json parsed, json::Parse(text, name));
  if (!parsed.is_object()) {
    return Fail(Code::kDataLoss,
                std::string(name) + ": expected an object, found " + std::string(json::KindOf(parsed)));
  }
  const ConfigReader reader(parsed, name);
  const nlohmann::json* type = reader.Find("model_type");
  if (type == nullptr || *type != "llama") {
    return reader.Problem(Code::kUnimplemented, "model_type", "\"gpt2\" or \"llama\"");
  }
  Config config;
  config.architecture = Architecture::kLlama;
  HOLO_ASSIGN_OR_RETURN(config.vocabulary, reader.Number("vocab_size", kMaxVocabulary));
  HOLO_ASSIGN_OR_RETURN(config.context, reader.Number("max_position_embeddings", kMaxContext));
  HOLO_ASSIGN_OR_RETURN(config.width, reader.Number("hidden_size", kMaxWidth));
  HOLO_ASSIGN_OR_RETURN(config.layers, reader.Number("num_hidden_layers", kMaxLayers));
  HOLO_ASSIGN_OR_RETURN(config.heads, reader.Number("num_attention_heads", kMaxHeads));
  HOLO_ASSIGN_OR_RETURN(config.inner_width, reader.Number("intermediate_size", kMaxInnerWidth));
  config.key_heads = config.heads;
  if (reader.Find("num_key_value_heads") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(config.key_heads, reader.Number("num_key_value_heads", kMaxHeads));
  }
  HOLO_RETURN_IF_ERROR(CheckHeads(config, name));
  if (reader.Find("head_dim") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t head_width, reader.Number("head_dim", kMaxWidth));
    if (head_width != config.head_width()) {
      return reader.Problem(Code::kUnimplemented, "head_dim", std::to_string(config.head_width()));
    }
  }
  HOLO_ASSIGN_OR_RETURN(const double epsilon, Positive(parsed, "rms_norm_eps", name));
  config.layer_norm_epsilon = static_cast<float>(epsilon);
  if (const nlohmann::json* activation = reader.Find("hidden_act"); activation != nullptr && *activation != "silu") {
    return reader.Problem(Code::kUnimplemented, "hidden_act", "\"silu\"");
  }
  HOLO_RETURN_IF_ERROR(reader.ExpectFlag("attention_bias", false));
  HOLO_RETURN_IF_ERROR(reader.ExpectFlag("mlp_bias", false));
  HOLO_ASSIGN_OR_RETURN(config.tied_head, reader.Flag("tie_word_embeddings", false));
  // Newer files have all of it in "rope_parameters".
  const nlohmann::json* parameters = reader.Find("rope_parameters");
  if (parameters == nullptr) parameters = reader.Find("rope_scaling");
  if (parameters != nullptr && !parameters->is_object()) {
    return reader.Problem(Code::kInvalidArgument, "rope_scaling", "an object");
  }
  double base = 10000;
  if (parameters != nullptr && parameters->contains("rope_theta")) {
    HOLO_ASSIGN_OR_RETURN(base, Positive(*parameters, "rope_theta", name));
  } else if (reader.Find("rope_theta") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(base, Positive(parsed, "rope_theta", name));
  }
  config.frequencies = Frequencies(config.head_width(), base);
  if (parameters != nullptr) HOLO_RETURN_IF_ERROR(Scale(*parameters, name, config.frequencies));
  config.begin_token = reader.Token("bos_token_id", config.vocabulary);
  config.end_tokens = reader.Tokens("eos_token_id", config.vocabulary);
  return config;
}

Result<LlamaWeights> AssembleLlama(const Config& config, TensorSet set, std::string_view name) {
  Taker taker(name);
  for (const auto& [tensor_name, tensor] : set.tensors) {
    gguf::Type type = gguf::Type::kF32;
    if (tensor.dtype == Dtype::kF16) type = gguf::Type::kF16;
    if (tensor.dtype == Dtype::kBF16) type = gguf::Type::kBf16;
    if (type == gguf::Type::kF32 && tensor.dtype != Dtype::kF32) {
      return Fail(Code::kInvalidArgument, std::string(name) + ": tensor " + tensor_name +
                                              ": expected F32, F16 or BF16, found " +
                                              std::string(DtypeName(tensor.dtype)));
    }
    taker.Add({tensor_name, type, tensor.shape, tensor.bytes});
  }
  HOLO_ASSIGN_OR_RETURN(LlamaWeights weights, Assemble(config, taker, kHuggingFace, name));
  weights.files = std::move(set.files);
  return weights;
}

Result<LlamaWeights> OpenLlama(const std::filesystem::path& model_dir) {
  const std::filesystem::path config_path = model_dir / "config.json";
  HOLO_ASSIGN_OR_RETURN(const auto config_text, files::ReadFile(config_path, kMaxConfigBytes));
  HOLO_ASSIGN_OR_RETURN(const Config config, ParseLlamaConfig(config_text, config_path.string()));
  HOLO_ASSIGN_OR_RETURN(TensorSet tensors, OpenTensors(model_dir));
  return AssembleLlama(config, std::move(tensors), model_dir.string());
}

Result<LlamaWeights> LlamaFromGguf(const gguf::File& file) {
  const std::string& name = file.name();
  HOLO_ASSIGN_OR_RETURN(const std::string_view architecture, file.String("general.architecture"));
  if (architecture != "llama") {
    std::string shown;
    for (const char c : architecture.substr(0, 40)) shown += c >= 32 && c < 127 ? c : '?';
    return Fail(Code::kUnimplemented,
                name + ": key \"general.architecture\": expected \"llama\", found \"" + shown + "\"");
  }
  const auto number = [&](const char* key, std::uint32_t max) -> Result<std::uint32_t> {
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t value, file.Unsigned(key, max));
    if (value == 0) return Fail(Code::kInvalidArgument, name + ": key \"" + key + "\": expected 1 or more, found 0");
    return static_cast<std::uint32_t>(value);
  };
  Config config;
  config.architecture = Architecture::kLlama;
  HOLO_ASSIGN_OR_RETURN(config.context, number("llama.context_length", kMaxContext));
  HOLO_ASSIGN_OR_RETURN(config.width, number("llama.embedding_length", kMaxWidth));
  HOLO_ASSIGN_OR_RETURN(config.layers, number("llama.block_count", kMaxLayers));
  HOLO_ASSIGN_OR_RETURN(config.heads, number("llama.attention.head_count", kMaxHeads));
  HOLO_ASSIGN_OR_RETURN(config.inner_width, number("llama.feed_forward_length", kMaxInnerWidth));
  config.key_heads = config.heads;
  if (file.Find("llama.attention.head_count_kv") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(config.key_heads, number("llama.attention.head_count_kv", kMaxHeads));
  }
  HOLO_RETURN_IF_ERROR(CheckHeads(config, name));
  for (const char* key : {"llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"}) {
    if (file.Find(key) == nullptr) continue;
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t found, number(key, kMaxWidth));
    if (found != config.head_width()) {
      return Fail(Code::kUnimplemented, name + ": key \"" + key + "\": expected " +
                                            std::to_string(config.head_width()) + ", the width of a head, found " +
                                            std::to_string(found));
    }
  }
  if (file.Find("llama.expert_count") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t experts, file.Unsigned("llama.expert_count", 1u << 16));
    if (experts > 0) {
      return Fail(Code::kUnimplemented, name + ": key \"llama.expert_count\": expected 0, found " +
                                            std::to_string(experts) + ": mixtures of experts are not supported");
    }
  }
  HOLO_ASSIGN_OR_RETURN(const double epsilon, file.Float("llama.attention.layer_norm_rms_epsilon"));
  if (!(epsilon > 0 && epsilon <= 1)) {
    return Fail(Code::kInvalidArgument,
                name + ": key \"llama.attention.layer_norm_rms_epsilon\": expected a number above 0, at most 1, found " +
                    std::to_string(epsilon));
  }
  config.layer_norm_epsilon = static_cast<float>(epsilon);
  double base = 10000;
  if (file.Find("llama.rope.freq_base") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(base, file.Float("llama.rope.freq_base"));
  }
  if (!(base > 1)) {
    return Fail(Code::kInvalidArgument,
                name + ": key \"llama.rope.freq_base\": expected a number above 1, found " + std::to_string(base));
  }
  config.frequencies = Frequencies(config.head_width(), base);
  if (file.Find("llama.rope.scaling.type") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(const std::string_view scaling, file.String("llama.rope.scaling.type"));
    if (scaling == "linear") {
      HOLO_ASSIGN_OR_RETURN(const double factor, file.Float("llama.rope.scaling.factor"));
      if (!(factor > 0)) {
        return Fail(Code::kInvalidArgument, name + ": key \"llama.rope.scaling.factor\": expected a number above 0");
      }
      for (double& frequency : config.frequencies) frequency /= factor;
    } else if (scaling != "none") {
      return Fail(Code::kUnimplemented,
                  name + ": key \"llama.rope.scaling.type\": expected none or linear, found another");
    }
  }
  Taker taker(name);
  for (const gguf::Tensor& tensor : file.tensors()) {
    taker.Add({std::string(tensor.name), tensor.type, tensor.shape, tensor.bytes});
  }
  // How files of Llama 3 say what stretches the context: what each frequency is divided by.
  if (taker.Has("rope_freqs.weight")) {
    HOLO_ASSIGN_OR_RETURN(const StoredTensor factors,
                          taker.Take("rope_freqs.weight", {config.frequencies.size()}));
    if (factors.type != gguf::Type::kF32) {
      return Fail(Code::kInvalidArgument, name + ": tensor rope_freqs.weight: expected F32, found " +
                                              std::string(gguf::TypeName(factors.type)));
    }
    for (std::size_t i = 0; i < config.frequencies.size(); ++i) {
      float factor = 0;
      std::memcpy(&factor, factors.bytes.data() + i * sizeof(float), sizeof(float));
      if (!(factor > 0 && std::isfinite(factor))) {
        return Fail(Code::kInvalidArgument, name + ": tensor rope_freqs.weight: expected numbers above 0");
      }
      config.frequencies[i] /= factor;
    }
  }
  const gguf::Tensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > kMaxVocabulary) {
    return Fail(Code::kInvalidArgument, name + ": tensor token_embd.weight: expected at most " +
                                            std::to_string(kMaxVocabulary) + " rows of " +
                                            std::to_string(config.width) + ", found " +
                                            (embedding == nullptr ? "none" : ShapeToString(embedding->shape)));
  }
  config.vocabulary = static_cast<std::uint32_t>(embedding->shape[0]);
  config.tied_head = !taker.Has(kGguf.head);
  const auto token = [&](const char* key) -> std::optional<std::uint32_t> {
    const gguf::Value* value = file.Find(key);
    const auto number_of = value == nullptr ? std::nullopt : value->AsUnsigned();
    if (!number_of || *number_of >= config.vocabulary) return std::nullopt;
    return static_cast<std::uint32_t>(*number_of);
  };
  config.begin_token = token("tokenizer.ggml.bos_token_id");
  // The end of a text, and of a turn.
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto found = token(key);
    if (found && std::find(config.end_tokens.begin(), config.end_tokens.end(), *found) == config.end_tokens.end()) {
      config.end_tokens.push_back(*found);
    }
  }
  HOLO_ASSIGN_OR_RETURN(LlamaWeights weights, Assemble(config, taker, kGguf, name));
  weights.pairs_are_neighbours = true;
  weights.gguf = file;
  return weights;
}

Result<Weights> Open(const std::filesystem::path& model_dir) {
  const std::filesystem::path config_path = model_dir / "config.json";
  HOLO_ASSIGN_OR_RETURN(const auto text, files::ReadFile(config_path, kMaxConfigBytes));
  HOLO_ASSIGN_OR_RETURN(const nlohmann::json parsed, json::Parse(text, config_path.string()));
  const auto type = parsed.is_object() ? parsed.find("model_type") : parsed.end();
  if (parsed.is_object() && type != parsed.end() && *type != "gpt2") {
    HOLO_ASSIGN_OR_RETURN(LlamaWeights weights, OpenLlama(model_dir));
    return Weights(std::move(weights));
  }
  HOLO_ASSIGN_OR_RETURN(Gpt2Weights weights, OpenGpt2(model_dir));
  return Weights(std::move(weights));
}

void LlamaWeights::ReleasePages() const {
  for (const auto& file : files) file->ReleasePages();
  if (gguf) gguf->ReleasePages();
}

std::array<std::uint8_t, 32> Fingerprint(const LlamaWeights& weights) {
  const Config& config = weights.config;
  bytes::ByteWriter writer;
  writer.WriteU32(0x616D616C);  // "lama": no GPT-2 begins so
  for (const std::uint32_t number :
       {config.vocabulary, config.context, config.width, config.layers, config.heads, config.keys(), config.inner_width,
        std::uint32_t{config.tied_head}, std::uint32_t{weights.pairs_are_neighbours}}) {
    writer.WriteU32(number);
  }
  writer.WriteF32(config.layer_norm_epsilon);
  for (const double frequency : config.frequencies) writer.WriteF32(static_cast<float>(frequency));
  weights.ForEach([&](const StoredTensor& tensor) {
    writer.WriteU8(static_cast<std::uint8_t>(tensor.type));
    writer.WriteSpan(bytes::Sha256(tensor.bytes));
    weights.ReleasePages();
  });
  return bytes::Sha256(writer.bytes());
}

std::array<std::uint8_t, 32> Fingerprint(const Weights& weights) {
  return weights.gpt2() != nullptr ? Fingerprint(*weights.gpt2()) : Fingerprint(*weights.llama());
}

TensorSummary Summarise(const Weights& weights) {
  TensorSummary summary;
  const auto add = [&](std::uint64_t elements, std::size_t bytes, std::string_view type) {
    summary.elements += elements;
    summary.bytes += bytes;
    summary.types[std::string(type)] += elements;
  };
  if (weights.gpt2() != nullptr) {
    weights.gpt2()->ForEach(
        [&](const Tensor& tensor) { add(tensor.elements(), tensor.bytes.size(), DtypeName(tensor.dtype)); });
  } else {
    weights.llama()->ForEach([&](const StoredTensor& tensor) {
      std::uint64_t elements = 1;
      for (const std::uint64_t extent : tensor.shape) elements *= extent;
      add(elements, tensor.bytes.size(), gguf::TypeName(tensor.type));
    });
  }
  return summary;
}

}  // namespace holo::weights
