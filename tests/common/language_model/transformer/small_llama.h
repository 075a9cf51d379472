// The small Llama whose logits PyTorch has computed (make_golden_llama.py): from its safetensors, and as a GGUF file.
#pragma once

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "common/language_model/gguf/gguf.h"
#include "tests/common/language_model/gguf/gguf_files.h"
#include "tests/common/language_model/transformer/small_model.h"

namespace holo::testing {

inline nlohmann::json GoldenLlamaConfig(const std::string& name) {
  const auto bytes = files::ReadFile(SourceFolder() / ("golden_llama_" + name + ".json")).value();
  return nlohmann::json::parse(bytes.begin(), bytes.end());
}

inline weights::TensorSet GoldenLlamaTensors() {
  const auto file = files::MappedFile::Open(SourceFolder() / "golden_llama.safetensors").value();
  weights::TensorSet set;
  const std::vector<weights::Tensor> tensors =
      weights::ParseSafetensors(file->bytes(), "golden_llama.safetensors").value();
  for (const weights::Tensor& tensor : tensors) set.tensors.emplace(tensor.name, tensor);
  set.files.push_back(file);
  return set;
}

// "scaled" or "tied".
inline weights::LlamaWeights GoldenLlama(const std::string& name) {
  const std::string json = GoldenLlamaConfig(name).dump();
  const auto config =
      weights::ParseLlamaConfig({reinterpret_cast<const std::uint8_t*>(json.data()), json.size()}, name).value();
  return weights::AssembleLlama(config, GoldenLlamaTensors(), name).value();
}

// What a GGUF file is made of: to be changed before it is written.
struct GgufParts {
  std::map<std::string, std::uint64_t> numbers;
  std::map<std::string, float> floats;
  std::map<std::string, std::string> strings;
  struct Part {
    std::vector<std::uint64_t> shape;
    std::vector<std::uint8_t> bytes;
    std::uint32_t type = 0;
  };
  std::map<std::string, Part> tensors;

  [[nodiscard]] std::vector<std::uint8_t> File() const {
    GgufWriter writer;
    for (const auto& [key, value] : strings) writer.AddString(key, value);
    for (const auto& [key, value] : numbers) writer.AddU32(key, static_cast<std::uint32_t>(value));
    for (const auto& [key, value] : floats) writer.AddF32(key, value);
    for (const auto& [name, part] : tensors) writer.AddTensor(name, part.shape, part.type, part.bytes);
    return writer.File();
  }
};

// Blocks of 32 codes of 8 bits after a scale in half precision.
inline std::vector<std::uint8_t> ToQ8(std::span<const float> values) {
  std::vector<std::uint8_t> out;
  for (std::size_t i = 0; i < values.size(); i += 32) {
    float largest = 0;
    for (std::size_t j = i; j < i + 32; ++j) largest = std::max(largest, std::abs(values[j]));
    std::uint16_t half = 0;
    float scale = largest / 127;
    compute::ToHalf(&scale, 1, &half);
    compute::FromHalf(&half, 1, &scale);
    out.push_back(static_cast<std::uint8_t>(half & 255));
    out.push_back(static_cast<std::uint8_t>(half >> 8));
    for (std::size_t j = i; j < i + 32; ++j) {
      const long code = scale == 0 ? 0 : std::lround(values[j] / scale);
      out.push_back(static_cast<std::uint8_t>(static_cast<std::int8_t>(std::clamp(code, -127L, 127L))));
    }
  }
  return out;
}

// The golden model with its scaling as GGUF has it: rows of queries and keys with the two of a pair side by side, and what
// each frequency is divided by as a tensor. Matrices of 32 inputs are Q8_0 if `is_quantised`.
inline GgufParts GoldenGguf(bool is_quantised = false) {
  GgufParts parts;
  parts.strings["general.architecture"] = "llama";
  parts.numbers = {{"llama.context_length", 80},        {"llama.embedding_length", 32},
                   {"llama.block_count", 2},            {"llama.attention.head_count", 4},
                   {"llama.attention.head_count_kv", 2}, {"llama.feed_forward_length", 48},
                   {"llama.rope.dimension_count", 8},   {"tokenizer.ggml.eos_token_id", 2},
                   {"tokenizer.ggml.eot_token_id", 60}};
  parts.floats = {{"llama.attention.layer_norm_rms_epsilon", 1e-5f}, {"llama.rope.freq_base", 500.0f}};
  const std::pair<const char*, const char*> kNames[] = {
      {"input_layernorm", "attn_norm"},   {"self_attn.q_proj", "attn_q"},          {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},     {"self_attn.o_proj", "attn_output"},     {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},      {"mlp.up_proj", "ffn_up"},               {"mlp.down_proj", "ffn_down"},
      {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"},         {"lm_head", "output"}};
  const weights::TensorSet set = GoldenLlamaTensors();
  for (const auto& [name, tensor] : set.tensors) {
    std::string renamed = name.starts_with("model.layers.") ? "blk." + name.substr(13) : name;
    for (const auto& [from, to] : kNames) {
      if (const auto at = renamed.find(from); at != std::string::npos) renamed.replace(at, std::strlen(from), to);
    }
    std::vector<float> values = weights::ToFloat(tensor).value();
    if (renamed.ends_with("attn_q.weight") || renamed.ends_with("attn_k.weight")) {
      const std::vector<float> rows = values;
      for (std::size_t row = 0; row < tensor.shape[0]; ++row) {
        const std::size_t in_head = row % 8;
        const std::size_t to = row - in_head + in_head % 4 * 2 + in_head / 4;
        std::copy_n(rows.data() + row * 32, 32, values.data() + to * 32);
      }
    }
    GgufParts::Part part;
    part.shape = tensor.shape;
    if (is_quantised && part.shape.size() == 2 && part.shape[1] == 32) {
      part.type = 8;
      part.bytes = ToQ8(values);
    } else {
      part.bytes.resize(values.size() * sizeof(float));
      std::memcpy(part.bytes.data(), values.data(), part.bytes.size());
    }
    parts.tensors[renamed] = std::move(part);
  }
  // Wavelengths of 6.3, 29.7, 140 and 664 tokens: the first is kept, the second in between, the others divided by 8.
  const double turns = 32 * std::pow(500.0, -0.25) / (2 * 3.14159265358979323846);
  const double kept = (turns - 1) / 3;
  const float factors[] = {1.0f, static_cast<float>(1 / (kept + (1 - kept) / 8)), 8.0f, 8.0f};
  GgufParts::Part part;
  part.shape = {4};
  part.bytes.resize(sizeof(factors));
  std::memcpy(part.bytes.data(), factors, sizeof(factors));
  parts.tensors["rope_freqs.weight"] = part;
  return parts;
}

}  // namespace holo::testing
