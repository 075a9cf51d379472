// The small GPT-2 whose logits PyTorch has computed (make_golden.py), for tests of everything above it.
#pragma once

#include <filesystem>
#include <memory>

#include "common/files/files.h"
#include "common/language_model/transformer/transformer.h"

namespace holo::testing {

inline std::filesystem::path SourceFolder() {
  return std::filesystem::path(HOLO_SOURCE_DIR) / "tests/common/language_model/transformer";
}

// Vocabulary 61, context 80, 2 layers of 2 heads of 16.
inline weights::Gpt2Weights GoldenWeights() {
  const auto json = files::ReadFile(SourceFolder() / "golden_gpt2.json").value();
  const weights::Config config = weights::ParseGpt2Config(json, "golden_gpt2.json").value();
  const auto file = files::MappedFile::Open(SourceFolder() / "golden_gpt2.safetensors").value();
  weights::TensorSet set;
  const std::vector<weights::Tensor> tensors =
      weights::ParseSafetensors(file->bytes(), "golden_gpt2.safetensors").value();
  for (const weights::Tensor& tensor : tensors) set.tensors.emplace(tensor.name, tensor);
  set.files.push_back(file);
  return weights::AssembleGpt2(config, std::move(set), "golden_gpt2").value();
}

inline std::shared_ptr<const transformer::Model> GoldenModel(compute::WeightType type) {
  return transformer::Model::Create(GoldenWeights(), type).value();
}

}  // namespace holo::testing
