// A GGUF file: whatever opens has its tensors and arrays inside the input, and can be read to the end.
#include <algorithm>
#include <cstdlib>

#include "common/language_model/gguf/gguf.h"

namespace {

using holo::gguf::Value;
using holo::gguf::ValueType;

void Require(bool holds) {
  if (!holds) std::abort();
}

void Visit(const Value& value) {
  (void)value.Shown();
  (void)value.AsFloat();
  (void)value.AsUnsigned();
  const auto elements = value.AsArray(holo::gguf::kMaxArrayElements);
  Require(elements.has_value() == (value.type() == ValueType::kArray));
  if (!elements) return;
  Require(elements->size() == value.count());
  for (const Value& element : *elements) Visit(element);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = holo::gguf::File::Parse({data, size}, "input");
  if (!file) return 0;
  for (const auto& [key, value] : file->metadata()) {
    Visit(value);
    (void)file->Strings(key, 100);
    (void)file->Integers(key, 100);
  }
  const std::uint8_t* end = data;
  for (const auto& tensor : file->tensors()) {
    // Inside the input, one after another.
    Require(tensor.bytes.data() >= end && tensor.bytes.data() + tensor.bytes.size() <= data + size);
    end = tensor.bytes.data() + tensor.bytes.size();
    Require(file->FindTensor(tensor.name) == &tensor);
  }
  return 0;
}
