// Weights in the types of GGUF: expanded to float32, and multiplied as they are.
//
// A Matrix is as large as the tensor that it was packed from: its blocks are only put in another order, sixteen outputs
// side by side, and products are computed on their codes. Activations are rounded to 12 bits and a sign around the
// largest of each 32, so that all products and their sums within 32 inputs are exact in int32. A rounded activation is
// off by at most 1/4094 of the largest in its 32, root mean square 1/7091 of it; with 8 bits, as others have it, it
// would be 1/254 and 1/440.
//
// For F32, F16 and BF16 nothing is rounded: products are of float32.
//
// As in compute, every number that comes out depends on its own row alone. With block types the result is moreover the
// same, bit for bit, on every machine: the sums of 32 inputs are whole numbers, and are added up one by one, in the
// order of the inputs. With float types the sum of the products of an output is in the order of the inputs, but a
// machine may or may not round a product before it is added.
//
// With HOLO_PLAIN_KERNELS the plain loops of plain.h are all there is; otherwise Google Highway's vectors, chosen when
// the program runs. Shapes are [rows, columns], row-major.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/language_model/compute/compute.h"
#include "common/language_model/gguf/gguf.h"
#include "common/status/status.h"

namespace holo::blocks {

using gguf::Type;

// True for the types that are codes with common scales, false for floats.
[[nodiscard]] bool IsQuantised(Type type);

// `out.size()` elements, a multiple of BlockElements(type), of the blocks in `bytes`, which has exactly as many.
// Rounded as ggml rounds: the same float32. NaN and infinity stay what they are.
void Expand(Type type, std::span<const std::uint8_t> bytes, std::span<float> out);

// Memory that kernels need between calls. Belongs to one caller of Multiply at a time; grows and stays.
struct Scratch {
  std::vector<std::int16_t> codes;  // [rows, inputs]: activations in units of their scale, -2047..2047
  std::vector<std::int32_t> sums;   // [rows, inputs / 16]: of 16 codes
  std::vector<float> scales;        // [rows, inputs / 32]
};

// The weights of y = x W + b, packed in the order in which they are read. Constant after construction.
class Matrix {
 public:
  Matrix() = default;
  // `rows` are the bytes of a tensor [outputs, inputs]; `bias` is [outputs] or empty. kInvalidArgument, after `name`,
  // for a size that does not fit the shape, and for scales, mins or floats that are NaN or infinite.
  [[nodiscard]] static Result<Matrix> Pack(Type type, std::size_t inputs, std::size_t outputs,
                                           std::span<const std::uint8_t> rows, std::span<const float> bias,
                                           std::string_view name);
  // Of a tensor of two dimensions, with its name.
  [[nodiscard]] static Result<Matrix> Pack(const gguf::Tensor& tensor, std::span<const float> bias);

  [[nodiscard]] std::size_t inputs() const { return inputs_; }
  [[nodiscard]] std::size_t outputs() const { return outputs_; }
  [[nodiscard]] Type type() const { return type_; }
  // What Multiply reads: the bytes of the tensor and the bias, with the padding of the last panel.
  [[nodiscard]] std::size_t bytes() const;
  // The weights of one output as Expand has them: a row of an embedding. `out` has `inputs` values.
  void CopyOutput(std::size_t output, std::span<float> out) const;

  // Panel p holds outputs 16 p .. 16 p + 15; plain.h has the order within.
  [[nodiscard]] const compute::AlignedBytes& panels() const { return panels_; }
  [[nodiscard]] std::size_t panel_bytes() const;
  [[nodiscard]] std::span<const float> bias() const { return bias_; }  // [outputs rounded up]

 private:
  Type type_ = Type::kF32;
  std::size_t inputs_ = 0;
  std::size_t outputs_ = 0;
  compute::AlignedBytes panels_;
  std::vector<float> bias_;
};

// y [rows, outputs] = x [rows, inputs] W + b, or y += that. x and y do not overlap. With block types, a row that has
// NaN or infinity among 32 inputs becomes NaN, and 32 inputs that are all below 2^-100 in magnitude count as 0.
void Multiply(const Matrix& matrix, const float* x, std::size_t rows, float* y, compute::Store store, Scratch& scratch,
              compute::ThreadPool& pool);

// Several matrices of as many inputs by the same x, together; rows of y are y_stride values apart.
struct Product {
  const Matrix* matrix = nullptr;
  float* y = nullptr;
  std::size_t y_stride = 0;
};
void Multiply(std::span<const Product> products, const float* x, std::size_t rows, compute::Store store,
              Scratch& scratch, compute::ThreadPool& pool);

}  // namespace holo::blocks
