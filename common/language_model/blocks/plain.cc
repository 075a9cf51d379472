#include "common/language_model/blocks/plain.h"

#include <algorithm>

namespace holo::blocks::plain {
namespace {

using compute::Store;

float FloatAt(Type type, const std::uint8_t* panel, std::size_t at) {
  if (type == Type::kF32) {
    float value = 0;
    std::memcpy(&value, panel + 4 * at, sizeof(value));
    return value;
  }
  if (type == Type::kF16) return HalfAt(panel + 2 * at);
  std::uint16_t bits = 0;
  std::memcpy(&bits, panel + 2 * at, sizeof(bits));
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

// The code of input `i` of a panel block for the output `lane`, without its offset.
std::int32_t CodeAt(const Layout& layout, const std::uint8_t* block, std::size_t lane, std::size_t i) {
  const std::size_t unit = i / kUnit;
  const std::size_t pair = i % kUnit / 2;
  const std::size_t word = 2 * lane + i % 2;
  // `bits` bits of the pair, in words of which each has those of 16 / bits pairs.
  const auto field = [&](const std::uint8_t* part, unsigned bits) -> std::uint32_t {
    const std::size_t in_word = 16 / bits;
    const std::uint8_t* unit_part = part + unit * 2 * kPanel * 2 * bits;
    std::uint16_t value = 0;
    std::memcpy(&value, unit_part + 2 * (pair / in_word * 2 * kPanel + word), sizeof(value));
    return value >> pair % in_word * bits & ((1u << bits) - 1);
  };
  const std::uint32_t low = field(block + layout.codes, layout.code_bits);
  if (layout.code_bits == 8) return static_cast<std::int8_t>(low);
  if (layout.high_bits == 0) return static_cast<std::int32_t>(low);
  return static_cast<std::int32_t>(low | field(block + layout.high, layout.high_bits) << 4);
}

struct Scale {
  float scale = 0;
  float least = 0;
};

// Of the group of inputs that `i` is in.
Scale ScaleAt(Type type, const Layout& layout, const std::uint8_t* block, std::size_t lane, std::size_t i) {
  Scale scale{HalfAt(block + 2 * lane), layout.has_least ? HalfAt(block + layout.least + 2 * lane) : 0};
  if (type == Type::kQ4K) {
    const Inner inner = InnerOf(block + layout.inner + lane, kPanel, i / kUnit);
    scale = {scale.scale * inner.scale, -(scale.least * inner.least)};
  } else if (type == Type::kQ6K) {
    scale.scale *= static_cast<std::int8_t>(block[layout.inner + i / layout.group * kPanel + lane]);
  }
  return scale;
}

float Dot(const PanelJob& job, const std::uint8_t* panel, std::size_t lane, std::size_t row) {
  const Type type = job.matrix->type();
  const Layout layout = LayoutOf(type);
  const std::size_t inputs = job.matrix->inputs();
  float sum = 0;
  if (!IsQuantised(type)) {
    for (std::size_t i = 0; i < inputs; ++i) sum += job.x[row * inputs + i] * FloatAt(type, panel, i * kPanel + lane);
    return sum;
  }
  const std::int16_t* codes = job.rounded->codes.data() + row * inputs;
  for (std::size_t unit = 0; unit < inputs / kUnit; ++unit) {
    const std::uint8_t* block = panel + unit * kUnit / layout.elements * layout.bytes;
    const std::size_t begin = unit * kUnit % layout.elements;  // in the block
    float of_unit = 0;
    for (std::size_t group = 0; group < kUnit; group += layout.group) {
      std::int32_t products = 0;
      std::int32_t total = 0;
      for (std::size_t i = group; i < group + layout.group; ++i) {
        const std::int32_t x = codes[unit * kUnit + i];
        products += CodeAt(layout, block, lane, begin + i) * x;
        total += x;
      }
      const Scale scale = ScaleAt(type, layout, block, lane, begin + group);
      products -= static_cast<std::int32_t>(layout.offset) * total;
      of_unit += scale.scale * static_cast<float>(products);
      if (layout.has_least) of_unit += scale.least * static_cast<float>(total);
    }
    sum += job.rounded->scales[row * (inputs / kUnit) + unit] * of_unit;
  }
  return sum;
}

}  // namespace

void MultiplyPanels(const PanelJob& job) {
  const Matrix& matrix = *job.matrix;
  for (std::size_t output = job.first * kPanel; output < std::min(job.last * kPanel, matrix.outputs()); ++output) {
    const std::uint8_t* panel = matrix.panels().as<std::uint8_t>() + output / kPanel * matrix.panel_bytes();
    for (std::size_t row = 0; row < job.rows; ++row) {
      const float sum = Dot(job, panel, output % kPanel, row) + matrix.bias()[output];
      float& y = job.y[row * job.y_stride + output];
      y = job.store == Store::kAdd ? y + sum : sum;
    }
  }
}

void ExpandOutput(Type type, std::size_t inputs, const std::uint8_t* panel, std::size_t lane, float* out) {
  const Layout layout = LayoutOf(type);
  for (std::size_t i = 0; i < inputs; ++i) {
    if (!IsQuantised(type)) {
      out[i] = FloatAt(type, panel, i * kPanel + lane);
      continue;
    }
    const std::uint8_t* block = panel + i / layout.elements * layout.bytes;
    const std::size_t in_block = i % layout.elements;
    const Scale scale = ScaleAt(type, layout, block, lane, in_block);
    const std::int32_t code = CodeAt(layout, block, lane, in_block) - static_cast<std::int32_t>(layout.offset);
    out[i] = scale.scale * static_cast<float>(code);
    if (layout.has_least) out[i] += scale.least;
  }
}

}  // namespace holo::blocks::plain
