// How panels are laid out, and the reference: plain loops that say what the kernels compute. Private to blocks/ and its
// tests.
//
// A panel of a float type is [inputs, 16]. A panel of a block type is a row of panel blocks, each of the blocks of 16
// outputs at the same inputs and as large as they are together. It has these parts, numbers being bytes from its
// beginning (kLayouts):
//   scale   f16 [16]            d
//   least   f16 [16]            m, or e of Q4_K
//   inner   u8 [12, 16]         the twelve bytes of s and t of Q4_K; or i8 [16, 16], s of Q6_K
//   high    u16 [units, 1, 32]  bit j: of Q5_0 and Q5_1; u16 [units, 2, 32] of Q6_K, with two bits for each of 8 pairs
//   codes   u16 [units, 4, 32]  four codes of 4 bits each, the lowest first; u16 [units, 8, 32], two codes of 8 bits
// A unit is 32 inputs, 16 pairs of neighbours. The 32 words that lie side by side are [16 outputs, 2 of a pair]; the
// codes in a word, from the lowest bits on, are of pairs that follow each other, and so are the high bits.
#pragma once

#include <bit>
#include <cstring>

#include "common/language_model/blocks/blocks.h"

namespace holo::blocks {

inline constexpr std::size_t kPanel = compute::kPanel;
inline constexpr std::size_t kUnit = 32;
// The largest magnitude of a rounded activation: a sum of 32 products with 8 bits stays below 2^24.
inline constexpr float kRoundedMax = 2047.0f;

struct Layout {
  std::size_t elements = 1;   // of a block
  std::size_t group = kUnit;  // inputs with a scale of their own
  std::uint32_t offset = 0;   // what is subtracted from a code
  unsigned code_bits = 0;
  unsigned high_bits = 0;
  bool has_least = false;
  std::size_t least = 0, inner = 0, high = 0, codes = 0;
  std::size_t bytes = 0;  // of a panel block
};

constexpr Layout LayoutOf(Type type) {
  switch (type) {
    case Type::kF32:
      return {.bytes = 4 * kPanel};
    case Type::kF16:
    case Type::kBf16:
      return {.bytes = 2 * kPanel};
    case Type::kQ8_0:
      return {.elements = 32, .code_bits = 8, .codes = 32, .bytes = 34 * kPanel};
    case Type::kQ4_0:
      return {.elements = 32, .offset = 8, .code_bits = 4, .codes = 32, .bytes = 18 * kPanel};
    case Type::kQ4_1:
      return {.elements = 32, .code_bits = 4, .has_least = true, .least = 32, .codes = 64, .bytes = 20 * kPanel};
    case Type::kQ5_0:
      return {
          .elements = 32, .offset = 16, .code_bits = 4, .high_bits = 1, .high = 32, .codes = 96, .bytes = 22 * kPanel};
    case Type::kQ5_1:
      return {.elements = 32,
              .code_bits = 4,
              .high_bits = 1,
              .has_least = true,
              .least = 32,
              .high = 64,
              .codes = 128,
              .bytes = 24 * kPanel};
    case Type::kQ4K:
      return {.elements = 256,
              .code_bits = 4,
              .has_least = true,
              .least = 32,
              .inner = 64,
              .codes = 256,
              .bytes = 144 * kPanel};
    case Type::kQ6K:
      return {.elements = 256,
              .group = 16,
              .offset = 32,
              .code_bits = 4,
              .high_bits = 2,
              .inner = 32,
              .high = 288,
              .codes = 1312,
              .bytes = 210 * kPanel};
  }
  return {};
}

// A part of one multiplication: panels first .. last - 1 for all rows.
struct PanelJob {
  const Matrix* matrix = nullptr;
  const float* x = nullptr;          // float types: [rows, inputs]
  const Scratch* rounded = nullptr;  // block types
  std::size_t rows = 0;
  float* y = nullptr;  // [rows, outputs], rows y_stride apart
  std::size_t y_stride = 0;
  compute::Store store = compute::Store::kReplace;
  std::size_t first = 0;
  std::size_t last = 0;
};

// What `inner` of Q4_K says of 32 inputs, from twelve bytes that are `stride` apart.
struct Inner {
  std::uint8_t scale = 0;
  std::uint8_t least = 0;
};
inline Inner InnerOf(const std::uint8_t* bytes, std::size_t stride, std::size_t unit) {
  const auto byte = [&](std::size_t i) -> unsigned { return bytes[i * stride]; };
  if (unit < 4) {
    return {static_cast<std::uint8_t>(byte(unit) & 63), static_cast<std::uint8_t>(byte(unit + 4) & 63)};
  }
  return {static_cast<std::uint8_t>((byte(unit + 4) & 15) | byte(unit - 4) >> 6 << 4),
          static_cast<std::uint8_t>(byte(unit + 4) >> 4 | byte(unit) >> 6 << 4)};
}

inline float HalfAt(const std::uint8_t* bytes) {
  std::uint16_t half = 0;
  std::memcpy(&half, bytes, sizeof(half));
  float value = 0;
  compute::FromHalf(&half, 1, &value);
  return value;
}

// Fills `scratch` for block types.
void RoundRows(const float* x, std::size_t rows, std::size_t inputs, Scratch& scratch);

namespace plain {

void MultiplyPanels(const PanelJob& job);
// Of one output in a panel.
void ExpandOutput(Type type, std::size_t inputs, const std::uint8_t* panel, std::size_t lane, float* out);

}  // namespace plain

// kernels.cc
void MultiplyPanels(const PanelJob& job);

}  // namespace holo::blocks
