// A Hugging Face GPT-2 directory of random weights, with a tokenizer: every byte is a token, "th" one, and the end.
#pragma once

#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "tests/common/language_model/weights/model_files.h"
#include "tests/temporary_folder.h"

namespace holo::testing {

inline constexpr std::uint32_t kTinyVocabulary = 258;
inline constexpr std::uint32_t kTinyEnd = 257;

struct TinyModel {
  std::uint32_t context = 64;
  std::uint32_t seed = 1;
  std::uint32_t padding = 0;  // rows of the embedding behind the tokenizer's tokens
  std::string nan;            // the name of a tensor with a NaN in it
};

inline bool WriteTinyModel(const TemporaryFolder& folder, const std::string& name, const TinyModel& options = {}) {
  constexpr std::uint32_t kWidth = 32;
  constexpr std::uint32_t kLayers = 2;
  nlohmann::json vocabulary;
  std::uint32_t stand_in = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool is_itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const std::uint32_t c = is_itself ? byte : stand_in++;
    std::string text(1, static_cast<char>(c));
    if (c >= 0x80) text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    vocabulary[text] = byte;
  }
  vocabulary["th"] = 256;
  vocabulary["<|endoftext|>"] = kTinyEnd;
  nlohmann::json config = Gpt2ConfigJson(kTinyVocabulary + options.padding, options.context, kWidth, kLayers, 2);
  config["eos_token_id"] = kTinyEnd;
  auto tensors = Gpt2Tensors(kTinyVocabulary + options.padding, options.context, kWidth, kLayers);
  std::mt19937 random(options.seed);
  for (auto& [tensor_name, tensor] : tensors) {
    const bool is_gain = tensor_name.find("ln_") != std::string::npos && tensor_name.ends_with("weight");
    std::vector<float> values(tensor.data.size() / 4);
    // Not a distribution of the library's, which differ between libraries.
    for (float& value : values) {
      value = (static_cast<float>(random() % 20001) / 10000 - 1) * (is_gain ? 0.1f : 0.35f) + (is_gain ? 1.0f : 0.0f);
    }
    if (tensor_name == options.nan) values[3] = std::numeric_limits<float>::quiet_NaN();
    tensor = FloatTensor(tensor.shape, values);
  }
  return folder.Write(name + "/config.json", config.dump()) && folder.Write(name + "/vocab.json", vocabulary.dump()) &&
         folder.Write(name + "/merges.txt", "#version: 0.2\nt h\n") &&
         folder.Write(name + "/model.safetensors", Safetensors(tensors));
}

}  // namespace holo::testing
