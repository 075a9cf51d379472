// GPT-2's configuration, and its tensors under the names that Hugging Face gives them.
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/bytes/bytes.h"
#include "common/json/json.h"
#include "common/language_model/weights/config_reader.h"
#include "common/language_model/weights/weights.h"

namespace holo::weights {
namespace {

Result<void> ExpectGpt2(const ConfigReader& reader) {
  if (const nlohmann::json* type = reader.Find("model_type")) {
    if (*type != "gpt2") return reader.Problem(Code::kUnimplemented, "model_type", "\"gpt2\"");
    return {};
  }
  // The oldest files have no model_type, and some no architectures; then n_embd tells.
  const nlohmann::json* architectures = reader.Find("architectures");
  if (architectures == nullptr) {
    if (reader.Find("n_embd") != nullptr) return {};
    return reader.Problem(Code::kUnimplemented, "model_type", "\"gpt2\"");
  }
  const bool is_gpt2 = architectures->is_array() && architectures->size() == 1 && architectures->front().is_string() &&
                       architectures->front().get_ref<const std::string&>().starts_with("GPT2");
  if (!is_gpt2) return reader.Problem(Code::kUnimplemented, "architectures", "[\"GPT2LMHeadModel\"]");
  return {};
}

// The number N of "h.N.rest"; nothing for other names.
std::optional<std::uint64_t> LayerOf(std::string_view name) {
  if (!name.starts_with("h.")) return std::nullopt;
  std::uint64_t layer = 0;
  const auto [end, problem] = std::from_chars(name.data() + 2, name.data() + name.size(), layer);
  if (problem != std::errc() || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return layer;
}

// Takes tensors out of a set, checked.
class Taker {
 public:
  Taker(TensorSet& set, std::string prefix, std::string_view name)
      : set_(set), prefix_(std::move(prefix)), name_(name) {}

  [[nodiscard]] Result<Tensor> Take(const std::string& tensor_name, std::vector<std::uint64_t> shape) {
    auto node = set_.tensors.extract(prefix_ + tensor_name);
    if (node.empty()) {
      return Fail(Code::kInvalidArgument, std::string(name_) + ": tensor " + prefix_ + tensor_name + ": expected " +
                                              ShapeToString(shape) + ", found no tensor of that name");
    }
    Tensor tensor = std::move(node.mapped());
    const bool is_float = tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kF16 || tensor.dtype == Dtype::kBF16;
    if (!is_float || tensor.shape != shape) {
      return Fail(Code::kInvalidArgument, std::string(name_) + ": tensor " + tensor.name +
                                              ": expected F32, F16 or BF16 of shape " + ShapeToString(shape) +
                                              ", found " + std::string(DtypeName(tensor.dtype)) + " of shape " +
                                              ShapeToString(tensor.shape));
    }
    tensor.name = tensor_name;
    return tensor;
  }

  // NAME.weight and NAME.bias.
  [[nodiscard]] Result<void> TakePair(const std::string& base, std::vector<std::uint64_t> weight_shape,
                                      std::uint64_t bias_size, Tensor& weight, Tensor& bias) {
    HOLO_ASSIGN_OR_RETURN(weight, Take(base + ".weight", std::move(weight_shape)));
    HOLO_ASSIGN_OR_RETURN(bias, Take(base + ".bias", {bias_size}));
    return {};
  }

 private:
  TensorSet& set_;
  std::string prefix_;
  std::string_view name_;
};

}  // namespace

Result<Config> ParseGpt2Config(std::span<const std::uint8_t> text, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const nlohmann::json parsed, json::Parse(text, name));
  if (!parsed.is_object()) {
    return Fail(Code::kDataLoss,
                std::string(name) + ": expected an object, found " + std::string(json::KindOf(parsed)));
  }
  const ConfigReader reader(parsed, name);
  HOLO_RETURN_IF_ERROR(ExpectGpt2(reader));
  Config config;
  HOLO_ASSIGN_OR_RETURN(config.vocabulary, reader.Number("vocab_size", kMaxVocabulary));
  HOLO_ASSIGN_OR_RETURN(config.context, reader.Number({"n_positions", "n_ctx"}, kMaxContext));
  HOLO_ASSIGN_OR_RETURN(config.width, reader.Number("n_embd", kMaxWidth));
  HOLO_ASSIGN_OR_RETURN(config.layers, reader.Number("n_layer", kMaxLayers));
  HOLO_ASSIGN_OR_RETURN(config.heads, reader.Number("n_head", kMaxHeads));
  config.inner_width = 4 * config.width;
  if (reader.Find("n_inner") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(config.inner_width, reader.Number("n_inner", kMaxInnerWidth));
  }
  if (config.width % config.heads != 0) {
    return reader.Problem(Code::kInvalidArgument, "n_head", "a divisor of n_embd, " + std::to_string(config.width));
  }
  if (const nlohmann::json* epsilon = reader.Find("layer_norm_epsilon")) {
    const double value = epsilon->is_number() ? epsilon->get<double>() : -1;
    if (!(value > 0 && value <= 1)) {
      return reader.Problem(Code::kInvalidArgument, "layer_norm_epsilon", "a number above 0, at most 1");
    }
    config.layer_norm_epsilon = static_cast<float>(value);
  }
  if (const nlohmann::json* activation = reader.Find("activation_function")) {
    // Three names of one function, the tanh form.
    if (*activation != "gelu_new" && *activation != "gelu_pytorch_tanh" && *activation != "gelu_fast") {
      return reader.Problem(Code::kUnimplemented, "activation_function", "\"gelu_new\"");
    }
  }
  HOLO_RETURN_IF_ERROR(reader.ExpectFlag("scale_attn_weights", true));
  HOLO_RETURN_IF_ERROR(reader.ExpectFlag("scale_attn_by_inverse_layer_idx", false));
  HOLO_RETURN_IF_ERROR(reader.ExpectFlag("add_cross_attention", false));
  HOLO_ASSIGN_OR_RETURN(config.tied_head, reader.Flag("tie_word_embeddings", true));
  config.begin_token = reader.Token("bos_token_id", config.vocabulary);
  config.end_tokens = reader.Tokens("eos_token_id", config.vocabulary);
  return config;
}

Result<Gpt2Weights> AssembleGpt2(const Config& config, TensorSet set, std::string_view name) {
  const std::string prefix = set.Find("transformer.wte.weight") != nullptr ? "transformer." : "";
  for (const auto& [tensor_name, tensor] : set.tensors) {
    if (!tensor_name.starts_with(prefix)) continue;
    const auto layer = LayerOf(std::string_view(tensor_name).substr(prefix.size()));
    if (layer && *layer >= config.layers) {
      return Fail(Code::kInvalidArgument, std::string(name) + ": tensor " + tensor_name + ": expected " +
                                              std::to_string(config.layers) + " layers as in config.json, found more");
    }
  }
  Gpt2Weights weights;
  weights.config = config;
  Taker taker(set, prefix, name);
  const std::uint64_t width = config.width;
  const std::uint64_t inner = config.inner_width;
  HOLO_ASSIGN_OR_RETURN(weights.wte, taker.Take("wte.weight", {config.vocabulary, width}));
  HOLO_ASSIGN_OR_RETURN(weights.wpe, taker.Take("wpe.weight", {config.context, width}));
  for (std::uint32_t i = 0; i < config.layers; ++i) {
    const std::string layer_name = "h." + std::to_string(i) + ".";
    // Into the vector one by one, so that a configuration's claim of many layers costs nothing.
    Gpt2Layer& layer = weights.layers.emplace_back();
    HOLO_RETURN_IF_ERROR(taker.TakePair(layer_name + "ln_1", {width}, width, layer.ln_1_weight, layer.ln_1_bias));
    HOLO_RETURN_IF_ERROR(taker.TakePair(layer_name + "attn.c_attn", {width, 3 * width}, 3 * width,
                                        layer.attention_weight, layer.attention_bias));
    HOLO_RETURN_IF_ERROR(taker.TakePair(layer_name + "attn.c_proj", {width, width}, width, layer.projection_weight,
                                        layer.projection_bias));
    HOLO_RETURN_IF_ERROR(taker.TakePair(layer_name + "ln_2", {width}, width, layer.ln_2_weight, layer.ln_2_bias));
    HOLO_RETURN_IF_ERROR(
        taker.TakePair(layer_name + "mlp.c_fc", {width, inner}, inner, layer.fc_weight, layer.fc_bias));
    HOLO_RETURN_IF_ERROR(taker.TakePair(layer_name + "mlp.c_proj", {inner, width}, width, layer.fc_projection_weight,
                                        layer.fc_projection_bias));
  }
  HOLO_RETURN_IF_ERROR(taker.TakePair("ln_f", {width}, width, weights.ln_f_weight, weights.ln_f_bias));
  weights.head = weights.wte;
  if (!config.tied_head || set.Find("lm_head.weight") != nullptr) {
    HOLO_ASSIGN_OR_RETURN(Tensor head, Taker(set, "", name).Take("lm_head.weight", {config.vocabulary, width}));
    if (!config.tied_head) {
      weights.head = std::move(head);
    } else if (head.dtype != weights.wte.dtype ||
               std::memcmp(head.bytes.data(), weights.wte.bytes.data(), head.bytes.size()) != 0) {
      return Fail(Code::kInvalidArgument,
                  std::string(name) + ": tensor lm_head.weight: expected the values of " + prefix +
                      "wte.weight, as config.json has a tied head (\"tie_word_embeddings\"), found others");
    }
  }
  for (const auto& [tensor_name, tensor] : set.tensors) weights.ignored.push_back(tensor_name);
  weights.files = std::move(set.files);
  return weights;
}

Result<Gpt2Weights> OpenGpt2(const std::filesystem::path& model_dir) {
  const std::filesystem::path config_path = model_dir / "config.json";
  HOLO_ASSIGN_OR_RETURN(const auto config_text, files::ReadFile(config_path, kMaxConfigBytes));
  HOLO_ASSIGN_OR_RETURN(const Config config, ParseGpt2Config(config_text, config_path.string()));
  HOLO_ASSIGN_OR_RETURN(TensorSet tensors, OpenTensors(model_dir));
  return AssembleGpt2(config, std::move(tensors), model_dir.string());
}

void Gpt2Weights::ReleasePages() const {
  for (const auto& file : files) file->ReleasePages();
}

std::array<std::uint8_t, 32> Fingerprint(const Gpt2Weights& weights) {
  const Config& config = weights.config;
  bytes::ByteWriter writer;
  for (const std::uint32_t number : {config.vocabulary, config.context, config.width, config.layers, config.heads,
                                     config.inner_width, std::uint32_t{config.tied_head}}) {
    writer.WriteU32(number);
  }
  writer.WriteF32(config.layer_norm_epsilon);
  // The configuration says how many elements follow, and in which order.
  weights.ForEach([&](const Tensor& tensor) {
    writer.WriteU8(static_cast<std::uint8_t>(tensor.dtype));
    writer.WriteSpan(bytes::Sha256(tensor.bytes));
    weights.ReleasePages();
  });
  return bytes::Sha256(writer.bytes());
}

}  // namespace holo::weights
