// A safetensors file, and the same bytes as a config.json.
#include <algorithm>
#include <cstdlib>

#include "common/language_model/weights/weights.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> input(data, size);
  (void)holo::weights::ParseGpt2Config(input, "input");
  auto tensors = holo::weights::ParseSafetensors(input, "input");
  if (!tensors) return 0;
  holo::weights::TensorSet set;
  const std::uint8_t* end = nullptr;
  for (auto& tensor : *tensors) {
    (void)holo::weights::CheckFinite(tensor);
    // Inside the input, one after another.
    if (tensor.bytes.data() < std::max(end, data) || tensor.bytes.data() + tensor.bytes.size() > data + size)
      std::abort();
    end = tensor.bytes.data() + tensor.bytes.size();
    set.tensors.emplace(tensor.name, std::move(tensor));
  }
  holo::weights::Config config;
  config.vocabulary = 3;
  config.context = 2;
  config.width = 2;
  config.layers = 1;
  config.heads = 1;
  config.inner_width = 8;
  const auto weights = holo::weights::AssembleGpt2(config, std::move(set), "input");
  if (weights) (void)holo::weights::Fingerprint(*weights);
  return 0;
}
