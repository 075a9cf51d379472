// The reference: plain loops that say what the kernels compute. Private to compute/ and its tests.
#pragma once

#include "common/language_model/compute/compute.h"

namespace holo::compute {

// A part of one multiplication: panels first .. last - 1 for all rows; `first` is a multiple of kPanelsTogether.
struct PanelJob {
  const Matrix* matrix = nullptr;
  const float* x = nullptr;               // [rows, inputs], rows x_stride apart
  // bf16: the rows as such; int8: as integers. [rows, inputs rounded up to 2]
  const std::int16_t* rounded = nullptr;
  const float* row_scales = nullptr;      // int8 only: [rows]
  std::size_t rows = 0;
  float* y = nullptr;  // [rows, outputs], rows y_stride apart
  std::size_t x_stride = 0;
  std::size_t y_stride = 0;
  Store store = Store::kReplace;
  std::size_t first = 0;
  std::size_t last = 0;
};

// The largest magnitude that an activation is rounded to beside int8 weights.
inline constexpr float kRoundedMax = 2047.0f;

namespace plain {

void MultiplyPanels(const PanelJob& job);
void Gelu(float* x, std::size_t count);
void AttendTile(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible);
void ToHalf(const float* values, std::size_t count, std::uint16_t* out);
void FromHalf(const std::uint16_t* values, std::size_t count, float* out);
void ExpandTile(const StoredTile& tile, float* keys, float* values);
void ExpandPlanes(const std::uint8_t* codes, unsigned bits, float scale, float* out);
void TransposeTile(const float* in, std::size_t columns, float* out);

}  // namespace plain

// kernels.cc: with what this machine has, and without dot_products.cc.
void MultiplyPanels(const PanelJob& job);
void MultiplyPanelsOnAny(const PanelJob& job);

// dot_products.cc: bf16 and int8 weights with AVX-512's instructions for them (BF16, VNNI), where there are any.
[[nodiscard]] bool HasDotProducts();
void MultiplyPanelsByDotProducts(const PanelJob& job);

}  // namespace holo::compute
