#include "common/language_model/compute/plain.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace holo::compute::plain {
namespace {

constexpr std::size_t kTogether = kPanelsTogether * kPanel;

// Sums of one output over all inputs, in order.
float DotF32(const float* panel, std::size_t inputs, const float* x) {
  float sum = 0;
  for (std::size_t i = 0; i < inputs; ++i) sum += x[i] * panel[i * kTogether];
  return sum;
}

float FromBf16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

float DotBf16(const std::uint16_t* panel, std::size_t inputs, const std::int16_t* x) {
  float sum = 0;
  for (std::size_t i = 0; i < inputs; i += 2) {
    sum += FromBf16(static_cast<std::uint16_t>(x[i])) * FromBf16(panel[i * kTogether]);
    sum += FromBf16(static_cast<std::uint16_t>(x[i + 1])) * FromBf16(panel[i * kTogether + 1]);
  }
  return sum;
}

std::int32_t DotInt8(const std::int8_t* panel, std::size_t inputs, const std::int16_t* x) {
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < inputs; i += 2) {
    sum += panel[i * kTogether] * x[i] + panel[i * kTogether + 1] * x[i + 1];
  }
  return sum;
}

}  // namespace

void MultiplyPanels(const PanelJob& job) {
  const Matrix& matrix = *job.matrix;
  const std::size_t inputs = matrix.inputs();
  const std::size_t padded = RoundUp(inputs, 2);
  for (std::size_t output = job.first * kPanel; output < std::min(job.last * kPanel, matrix.outputs()); ++output) {
    const std::size_t panel = output / kPanel;
    const std::size_t lane = output % kPanel;
    for (std::size_t row = 0; row < job.rows; ++row) {
      float sum = 0;
      switch (matrix.type()) {
        case WeightType::kF32:
          sum = DotF32(matrix.Panel<float>(panel) + lane, inputs, job.x + row * job.x_stride);
          break;
        case WeightType::kBf16:
          sum = DotBf16(reinterpret_cast<const std::uint16_t*>(matrix.Panel<std::uint32_t>(panel) + lane), padded, job.rounded + row * padded);
          break;
        case WeightType::kInt8:
          sum = static_cast<float>(
              DotInt8(reinterpret_cast<const std::int8_t*>(matrix.Panel<std::uint16_t>(panel) + lane), padded, job.rounded + row * padded));
          sum *= job.row_scales[row] * matrix.scales()[output];
          break;
      }
      sum += matrix.bias()[output];
      float& y = job.y[row * job.y_stride + output];
      y = job.store == Store::kAdd ? y + sum : sum;
    }
  }
}

void Gelu(float* x, std::size_t count) {
  constexpr float kScale = 0.7978845608028654f;  // sqrt(2 / pi)
  for (std::size_t i = 0; i < count; ++i) {
    x[i] = 0.5f * x[i] * (1 + std::tanh(kScale * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
  }
}

void AttendTile(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible) {
  for (std::size_t row = 0; row < rows.rows; ++row) {
    if (visible[row] == 0) continue;
    const float* query = rows.queries + row * rows.dims;
    float* sums = rows.sums + row * rows.dims;
    float* weights = rows.weights + row * kTileTokens;
    float largest = rows.largest[row];
    for (std::size_t token = 0; token < visible[row]; ++token) {
      float score = 0;
      for (std::size_t i = 0; i < rows.dims; ++i) score += query[i] * keys[i * kTileTokens + token];
      weights[token] = score;
      largest = std::max(largest, score);
    }
    const float shrink = std::exp(rows.largest[row] - largest);
    float total = rows.total[row] * shrink;
    for (std::size_t i = 0; i < rows.dims; ++i) sums[i] *= shrink;
    for (std::size_t token = 0; token < visible[row]; ++token) {
      const float weight = std::exp(weights[token] - largest);
      total += weight;
      for (std::size_t i = 0; i < rows.dims; ++i) sums[i] += weight * values[token * rows.dims + i];
    }
    rows.largest[row] = largest;
    rows.total[row] = total;
  }
}

void ToHalf(const float* values, std::size_t count, std::uint16_t* out) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    const std::uint32_t sign = bits >> 16 & 0x8000u;
    const float magnitude = std::abs(values[i]);
    std::uint32_t half = 0;
    if (std::isnan(magnitude)) {
      half = 0x7E00u;
    } else if (magnitude >= 65520.0f) {
      half = 0x7C00u;
    } else if (magnitude < 0x1p-14f) {
      // Adding 0.5 aligns the last bit that a denormal half has with the last one of a float32.
      half = std::bit_cast<std::uint32_t>(magnitude + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
    } else {
      const std::uint32_t rest = bits & 0x7FFFFFFFu;
      half = (rest - (112u << 23) + 0xFFFu + (rest >> 13 & 1u)) >> 13;
    }
    out[i] = static_cast<std::uint16_t>(sign | half);
  }
}

void FromHalf(const std::uint16_t* values, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t sign = (values[i] & 0x8000u) << 16;
    const std::uint32_t exponent = values[i] >> 10 & 31u;
    const std::uint32_t fraction = values[i] & 0x3FFu;
    float magnitude = 0;
    if (exponent == 31) {
      magnitude = fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    } else if (exponent == 0) {
      magnitude = static_cast<float>(fraction) * 0x1p-24f;
    } else {
      magnitude = std::bit_cast<float>((exponent + 112) << 23 | fraction << 13);
    }
    out[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
}

void ExpandTile(const StoredTile& tile, float* keys, float* values) {
  const std::size_t count = tile.dims * kTileTokens;
  if (tile.type == TileType::kF32) {
    std::memcpy(keys, tile.keys, count * sizeof(float));
    std::memcpy(values, tile.values, count * sizeof(float));
    return;
  }
  if (tile.type == TileType::kF16) {
    FromHalf(reinterpret_cast<const std::uint16_t*>(tile.keys), count, keys);
    FromHalf(reinterpret_cast<const std::uint16_t*>(tile.values), count, values);
    return;
  }
  const auto code = [&](const std::uint8_t* codes, std::size_t row, std::size_t length, std::size_t i) {
    if (tile.type == TileType::kInt8) return static_cast<float>(static_cast<std::int8_t>(codes[row * length + i]));
    const std::size_t half = length / 2;
    const std::uint8_t pair = codes[row * half + i % half];
    return static_cast<float>((i < half ? pair & 15 : pair >> 4) - 8);
  };
  const std::size_t groups = tile.dims / tile.group;
  for (std::size_t i = 0; i < tile.dims; ++i) {
    for (std::size_t token = 0; token < kTileTokens; ++token) {
      float scale = 0;
      FromHalf(tile.key_scales + i / tile.group * kTileTokens + token, 1, &scale);
      keys[i * kTileTokens + token] = code(tile.keys, i, kTileTokens, token) * scale;
      FromHalf(tile.value_scales + token * groups + i / tile.group, 1, &scale);
      values[token * tile.dims + i] = code(tile.values, token, tile.dims, i) * scale;
    }
  }
}

void ExpandPlanes(const std::uint8_t* codes, unsigned bits, float scale, float* out) {
  const float middle = static_cast<float>((1u << bits) - 1) / 2;
  std::array<unsigned, kPlaneCodes> values{};
  for (unsigned plane = 8; plane > 0; plane /= 2) {
    if ((bits & plane) == 0) continue;
    for (unsigned i = 0; i < kPlaneCodes; ++i) {
      const unsigned bit = i * plane;
      values[i] = values[i] << plane | (codes[bit / 8] >> bit % 8 & ((1u << plane) - 1));
    }
    codes += 4 * plane;
  }
  for (unsigned i = 0; i < kPlaneCodes; ++i) out[i] = (static_cast<float>(values[i]) - middle) * scale;
}

void TransposeTile(const float* in, std::size_t columns, float* out) {
  for (std::size_t i = 0; i < columns; ++i) {
    for (std::size_t token = 0; token < kTileTokens; ++token) out[i * kTileTokens + token] = in[token * columns + i];
  }
}

}  // namespace holo::compute::plain
