// A matrix of a transformer, in any of the forms that it may have. Part of transformer.h.
#pragma once

#include <string_view>
#include <variant>
#include <vector>

#include "common/language_model/blocks/blocks.h"
#include "common/language_model/compute/compute.h"

namespace holo::transformer {

struct Scratch {
  compute::Scratch compute;
  blocks::Scratch blocks;
};

// y = x W + b: packed by compute, or in blocks as a GGUF file has them. In blocks it may be of several matrices with the
// same inputs, whose outputs follow each other. Constant after construction.
class Linear {
 public:
  Linear() = default;
  explicit Linear(compute::Matrix matrix) : form_(std::move(matrix)) {}
  explicit Linear(std::vector<blocks::Matrix> parts) : form_(std::move(parts)) {}

  [[nodiscard]] std::size_t outputs() const;
  [[nodiscard]] std::size_t bytes() const;
  // "fp32", "bf16", "int8"; "Q4_1", ... of the first part; "" of none.
  [[nodiscard]] std::string_view type_name() const;
  // As of compute::Matrix, of the first part.
  void CopyOutput(std::size_t output, std::span<float> out) const;
  // y is [rows, outputs()].
  void Multiply(const float* x, std::size_t rows, float* y, compute::Store store, Scratch& scratch,
                compute::ThreadPool& pool) const;

 private:
  std::variant<compute::Matrix, std::vector<blocks::Matrix>> form_;
};

}  // namespace holo::transformer
