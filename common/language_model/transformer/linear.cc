#include "common/language_model/transformer/linear.h"

namespace holo::transformer {

std::size_t Linear::outputs() const {
  if (const auto* matrix = std::get_if<compute::Matrix>(&form_)) return matrix->outputs();
  std::size_t sum = 0;
  for (const blocks::Matrix& part : std::get<1>(form_)) sum += part.outputs();
  return sum;
}

std::size_t Linear::bytes() const {
  if (const auto* matrix = std::get_if<compute::Matrix>(&form_)) return matrix->bytes();
  std::size_t sum = 0;
  for (const blocks::Matrix& part : std::get<1>(form_)) sum += part.bytes();
  return sum;
}

std::string_view Linear::type_name() const {
  if (const auto* matrix = std::get_if<compute::Matrix>(&form_)) return compute::WeightTypeName(matrix->type());
  const auto& parts = std::get<1>(form_);
  return parts.empty() ? "" : gguf::TypeName(parts.front().type());
}

void Linear::CopyOutput(std::size_t output, std::span<float> out) const {
  if (const auto* matrix = std::get_if<compute::Matrix>(&form_)) return matrix->CopyOutput(output, out);
  std::get<1>(form_).front().CopyOutput(output, out);
}

void Linear::Multiply(const float* x, std::size_t rows, float* y, compute::Store store, Scratch& scratch,
                      compute::ThreadPool& pool) const {
  if (const auto* matrix = std::get_if<compute::Matrix>(&form_)) {
    return compute::Multiply(*matrix, x, rows, y, store, scratch.compute, pool);
  }
  const auto& parts = std::get<1>(form_);
  constexpr std::size_t kMostParts = 4;
  blocks::Product products[kMostParts];
  const std::size_t stride = outputs();
  for (std::size_t i = 0; i < parts.size(); y += parts[i].outputs(), ++i) products[i] = {&parts[i], y, stride};
  blocks::Multiply({products, parts.size()}, x, rows, store, scratch.blocks, pool);
}

}  // namespace holo::transformer
