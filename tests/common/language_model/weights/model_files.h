// Safetensors files and model directories made for a test.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/bytes/bytes.h"

namespace holo::testing {

struct TensorBytes {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::vector<std::uint8_t> data;
};

// `header` and `data` as a safetensors file, whatever they are.
inline std::vector<std::uint8_t> Safetensors(const std::string& header, const std::vector<std::uint8_t>& data) {
  bytes::ByteWriter writer;
  writer.WriteU64(header.size());
  writer.WriteSpan({reinterpret_cast<const std::uint8_t*>(header.data()), header.size()});
  writer.WriteSpan(data);
  return writer.Take();
}

inline std::vector<std::uint8_t> Safetensors(const std::map<std::string, TensorBytes>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::vector<std::uint8_t> data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.data.size()}}};
    data.insert(data.end(), tensor.data.begin(), tensor.data.end());
  }
  return Safetensors(header.dump(), data);
}

inline TensorBytes FloatTensor(std::vector<std::uint64_t> shape, const std::vector<float>& values) {
  const auto* raw = reinterpret_cast<const std::uint8_t*>(values.data());
  return {"F32", std::move(shape), {raw, raw + 4 * values.size()}};
}

// Every tensor of a GPT-2 of these sizes; the values count up, so that all differ.
inline std::map<std::string, TensorBytes> Gpt2Tensors(std::uint64_t vocabulary, std::uint64_t context,
                                                      std::uint64_t width, std::uint32_t layers,
                                                      const std::string& prefix = "") {
  std::map<std::string, TensorBytes> tensors;
  float next = 0;
  const auto add = [&](const std::string& name, std::vector<std::uint64_t> shape) {
    std::uint64_t count = 1;
    for (const std::uint64_t extent : shape) count *= extent;
    std::vector<float> values(count);
    for (float& value : values) value = next += 0.25f;
    tensors[prefix + name] = FloatTensor(std::move(shape), values);
  };
  add("wte.weight", {vocabulary, width});
  add("wpe.weight", {context, width});
  for (std::uint32_t i = 0; i < layers; ++i) {
    const std::string layer = "h." + std::to_string(i) + ".";
    for (const char* norm : {"ln_1", "ln_2"}) {
      add(layer + norm + ".weight", {width});
      add(layer + norm + ".bias", {width});
    }
    add(layer + "attn.c_attn.weight", {width, 3 * width});
    add(layer + "attn.c_attn.bias", {3 * width});
    add(layer + "attn.c_proj.weight", {width, width});
    add(layer + "attn.c_proj.bias", {width});
    add(layer + "mlp.c_fc.weight", {width, 4 * width});
    add(layer + "mlp.c_fc.bias", {4 * width});
    add(layer + "mlp.c_proj.weight", {4 * width, width});
    add(layer + "mlp.c_proj.bias", {width});
  }
  add("ln_f.weight", {width});
  add("ln_f.bias", {width});
  return tensors;
}

inline nlohmann::json Gpt2ConfigJson(std::uint64_t vocabulary, std::uint64_t context, std::uint64_t width,
                                     std::uint32_t layers, std::uint32_t heads) {
  return {{"model_type", "gpt2"}, {"vocab_size", vocabulary}, {"n_positions", context},
          {"n_embd", width},      {"n_layer", layers},        {"n_head", heads}};
}

}  // namespace holo::testing
