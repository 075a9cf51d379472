// The reference: plain loops that say what the kernels compute. Private to compute/ and its tests.
#pragma once

#include "common/language_model/compute/compute.h"

namespace holo::compute {

// A part of one multiplication: panels first .. last - 1 for all rows; `first` is a multiple of kPanelsTogether.
struct PanelJob {
  const Matrix* matrix = nullptr;
  const float* x = nullptr;               // [rows, inputs], rows x_stride apart
  const std::uint16_t* bf16 = nullptr;    // these four as in Scratch, where the weights' type wants them
  const std::int8_t* codes = nullptr;
  const float* scales = nullptr;
  const std::int32_t* offsets = nullptr;
  std::size_t rows = 0;
  float* y = nullptr;  // [rows, outputs], rows y_stride apart
  std::size_t x_stride = 0;
  std::size_t y_stride = 0;
  Store store = Store::kReplace;
  std::size_t first = 0;
  std::size_t last = 0;
};

[[nodiscard]] constexpr std::size_t Int8Blocks(std::size_t inputs) {
  return (inputs + kInt8Block - 1) / kInt8Block;
}
// The largest magnitude that an activation is rounded to beside int8 weights.
inline constexpr float kCodeMax = 127.0f;

// A part of one MapCodedTile(): groups first .. first + count - 1.
struct MapJob {
  const CodeMap* map = nullptr;
  std::size_t first = 0;
  std::size_t count = 0;
  const std::uint8_t* codes = nullptr;  // [count, kPlaneCodes / 4, kTileTokens, 4]
  const float* scales = nullptr;        // [count, kTileTokens]
  float* out = nullptr;                 // [outputs, kTileTokens], what the groups before have come to
};
// So many groups are made ready at a time.
inline constexpr std::size_t kMapGroups = 16;

namespace plain {

void MultiplyPanels(const PanelJob& job);
// One row as codes, scales and offsets of Scratch.
void RoundToInt8(const float* from, std::size_t inputs, std::int8_t* codes, float* scales, std::int32_t* offsets);
void NormaliseRow(const float* x, std::size_t width, float epsilon, const float* gain, const float* bias, float* out);
void Gelu(float* x, std::size_t count);
void GateBySilu(const float* gates, const float* values, std::size_t count, float* out);
void AttendTile(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible);
void JoinAttention(const AttentionRows& rows, const AttentionRows& later);
void ToHalf(const float* values, std::size_t count, std::uint16_t* out);
void FromHalf(const std::uint16_t* values, std::size_t count, float* out);
void ExpandTile(const StoredTile& tile, float* keys, float* values);
void ExpandPlanes(const std::uint8_t* codes, unsigned bits, float scale, float* out);
void ExpandCodedTile(const CodedTile& tile, std::size_t columns, float* out);
void MapCodedTile(const CodeMap& map, const CodedTile& tile, float* out);
void TurnTile(const float* cosines, const float* sines, std::size_t pairs, float* rows);
void AttendCodedTile(const AttentionRows& rows, const CodedTile& tile, const std::uint8_t* visible);
void TransposeTile(const float* in, std::size_t columns, float* out);

}  // namespace plain

// kernels.cc: with what this machine has, and without dot_products.cc.
void MultiplyPanels(const PanelJob& job);
void MultiplyPanelsOnAny(const PanelJob& job);
void MapCodedTileOnAny(const CodeMap& map, const CodedTile& tile, float* out);
void RoundToInt8(const float* from, std::size_t inputs, std::int8_t* codes, float* scales, std::int32_t* offsets);

// dot_products.cc: bf16 and int8 weights with AVX-512's instructions for them (BF16, VNNI), where there are any.
[[nodiscard]] bool HasDotProducts();
void MultiplyPanelsByDotProducts(const PanelJob& job);
void MapByDotProducts(const MapJob& job);

}  // namespace holo::compute
