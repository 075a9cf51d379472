#include "common/language_model/compute/plain.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace holo::compute::plain {
namespace {

constexpr std::size_t kTogether = kPanelsTogether * kPanel;

float FromBf16(std::uint32_t bits) {
  return std::bit_cast<float>(bits << 16);
}

// Sums of one output over all inputs, in order. `units` are the output's, kTogether apart.
float DotF32(const std::uint32_t* units, std::size_t inputs, const float* x) {
  float sum = 0;
  for (std::size_t i = 0; i < inputs; ++i) sum += x[i] * std::bit_cast<float>(units[i * kTogether]);
  return sum;
}

float DotBf16(const std::uint32_t* units, std::size_t count, const std::uint16_t* x) {
  float sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t pair = units[i * kTogether];
    sum += FromBf16(x[2 * i]) * FromBf16(pair & 0xFFFFu);
    sum += FromBf16(x[2 * i + 1]) * FromBf16(pair >> 16);
  }
  return sum;
}

float DotInt8(const std::uint32_t* units, std::size_t count, const std::int8_t* x, const float* scales,
              const std::int32_t* offsets) {
  constexpr std::size_t kUnits = kInt8Block / 4;
  float sum = 0;
  for (std::size_t first = 0; first < count; first += kUnits) {
    std::int32_t of_block = offsets[first / kUnits];
    for (std::size_t i = first; i < std::min(count, first + kUnits); ++i) {
      for (std::size_t j = 0; j < 4; ++j) {
        of_block += static_cast<std::int32_t>(units[i * kTogether] >> 8 * j & 0xFFu) * x[4 * i + j];
      }
    }
    sum += static_cast<float>(of_block) * scales[first / kUnits];
  }
  return sum;
}

}  // namespace

void RoundToInt8(const float* from, std::size_t inputs, std::int8_t* codes, float* scales, std::int32_t* offsets) {
  for (std::size_t first = 0; first < inputs; first += kInt8Block) {
    const std::size_t end = std::min(inputs, first + kInt8Block);
    float largest = 0;
    for (std::size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(from[i]));
    const float inverse = largest > 0 ? kCodeMax / largest : 0.0f;
    std::int32_t sum = 0;
    for (std::size_t i = first; i < end; ++i) {
      // The bias by 2^23 * 1.5 rounds to nearest even.
      const float shifted = from[i] * inverse + 12582912.0f;
      codes[i] = static_cast<std::int8_t>(std::bit_cast<std::int32_t>(shifted) -
                                          std::bit_cast<std::int32_t>(12582912.0f));
      sum += codes[i];
    }
    *scales++ = largest / kCodeMax;
    *offsets++ = -128 * sum;
  }
  std::fill(codes + inputs, codes + RoundUp(inputs, 4), std::int8_t{0});
}

void MultiplyPanels(const PanelJob& job) {
  const Matrix& matrix = *job.matrix;
  const std::size_t inputs = matrix.inputs();
  const std::size_t units = matrix.units();
  const std::size_t blocks = Int8Blocks(inputs);
  for (std::size_t output = job.first * kPanel; output < std::min(job.last * kPanel, matrix.outputs()); ++output) {
    const std::uint32_t* const of_output = matrix.Panel(output / kPanel) + output % kPanel;
    for (std::size_t row = 0; row < job.rows; ++row) {
      float sum = 0;
      switch (matrix.type()) {
        case WeightType::kF32:
          sum = DotF32(of_output, inputs, job.x + row * job.x_stride);
          break;
        case WeightType::kBf16:
          sum = DotBf16(of_output, units, job.bf16 + row * 2 * units);
          break;
        case WeightType::kInt8:
          sum = DotInt8(of_output, units, job.codes + row * 4 * units, job.scales + row * blocks,
                        job.offsets + row * blocks);
          sum *= matrix.scales()[output];
          break;
      }
      sum += matrix.bias()[output];
      float& y = job.y[row * job.y_stride + output];
      y = job.store == Store::kAdd ? y + sum : sum;
    }
  }
}

void NormaliseRow(const float* x, std::size_t width, float epsilon, const float* gain, const float* bias, float* out) {
  // Sixteen sums side by side, in double, so that vectors of any length add in the same order.
  const auto sum = [&](const auto& term) {
    double lanes[kPanel] = {};
    for (std::size_t i = 0; i < width; ++i) lanes[i % kPanel] += term(i);
    for (std::size_t step = kPanel / 2; step > 0; step /= 2) {
      for (std::size_t lane = 0; lane < step; ++lane) lanes[lane] += lanes[lane + step];
    }
    return lanes[0];
  };
  const double mean = sum([&](std::size_t i) { return double{x[i]}; }) / static_cast<double>(width);
  const double variance = sum([&](std::size_t i) { return (x[i] - mean) * (x[i] - mean); }) / static_cast<double>(width);
  const auto centre = static_cast<float>(mean);
  const auto scale = static_cast<float>(1 / std::sqrt(variance + epsilon));
  for (std::size_t i = 0; i < width; ++i) out[i] = (x[i] - centre) * scale;
  if (gain == nullptr) return;
  for (std::size_t i = 0; i < width; ++i) out[i] = out[i] * gain[i] + bias[i];
}

void Gelu(float* x, std::size_t count) {
  constexpr float kScale = 0.7978845608028654f;  // sqrt(2 / pi)
  for (std::size_t i = 0; i < count; ++i) {
    x[i] = 0.5f * x[i] * (1 + std::tanh(kScale * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
  }
}

void GateBySilu(const float* gates, const float* values, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = gates[i] / (1 + std::exp(-gates[i])) * values[i];
}

void AttendTile(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible) {
  const std::size_t value_dims = rows.sum_dims();
  for (std::size_t row = 0; row < rows.rows; ++row) {
    if (visible[row] == 0) continue;
    const float* query = rows.queries + row * rows.dims;
    const float* own_keys = keys + row / (rows.rows / rows.key_sets) * rows.dims * kTileTokens;
    float* sums = rows.sums + row * value_dims;
    float* weights = rows.weights + row * kTileTokens;
    float largest = rows.largest[row];
    for (std::size_t token = 0; token < visible[row]; ++token) {
      float score = 0;
      for (std::size_t i = 0; i < rows.dims; ++i) score += query[i] * own_keys[i * kTileTokens + token];
      weights[token] = score;
      largest = std::max(largest, score);
    }
    const float shrink = std::exp(rows.largest[row] - largest);
    float total = rows.total[row] * shrink;
    for (std::size_t i = 0; i < value_dims; ++i) sums[i] *= shrink;
    for (std::size_t token = 0; token < visible[row]; ++token) {
      const float weight = std::exp(weights[token] - largest);
      total += weight;
      for (std::size_t i = 0; i < value_dims; ++i) sums[i] += weight * values[token * value_dims + i];
    }
    rows.largest[row] = largest;
    rows.total[row] = total;
  }
}

void JoinAttention(const AttentionRows& rows, const AttentionRows& later) {
  const std::size_t dims = rows.sum_dims();
  for (std::size_t row = 0; row < rows.rows; ++row) {
    if (later.total[row] == 0) continue;
    const float largest = std::max(rows.largest[row], later.largest[row]);
    const float of_own = std::exp(rows.largest[row] - largest);
    const float of_later = std::exp(later.largest[row] - largest);
    rows.largest[row] = largest;
    rows.total[row] = rows.total[row] * of_own + later.total[row] * of_later;
    float* const sums = rows.sums + row * dims;
    for (std::size_t i = 0; i < dims; ++i) sums[i] = sums[i] * of_own + later.sums[row * dims + i] * of_later;
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

void ExpandCodedTile(const CodedTile& tile, std::size_t columns, float* out) {
  for (std::size_t token = 0; token < kTileTokens; ++token) {
    const std::uint8_t* const record = tile.records + token * tile.record_bytes;
    for (const CodedGroup& group : tile.groups) {
      ExpandPlanes(record + group.codes_at, group.bits, tile.scales[record[group.scale_at]],
                   out + token * columns + group.column);
    }
  }
}

void AttendCodedTile(const AttentionRows& rows, const CodedTile& tile, const std::uint8_t* visible) {
  std::vector<float> values(kTileTokens * rows.dims);
  std::vector<float> keys(values.size());
  plain::ExpandCodedTile(tile, rows.dims, values.data());
  plain::TransposeTile(values.data(), rows.dims, keys.data());
  plain::AttendTile(rows, keys.data(), values.data(), visible);
}

void MapCodedTile(const CodeMap& map, const CodedTile& tile, float* out) {
  for (std::size_t token = 0; token < kTileTokens; ++token) {
    const std::uint8_t* const record = tile.records + token * tile.record_bytes;
    for (std::size_t output = 0; output < map.outputs(); ++output) {
      float sum = map.offset()[output];
      for (std::size_t g = 0; g < map.groups(); ++g) {
        const CodedGroup& group = tile.groups[g];
        float codes[kPlaneCodes];
        plain::ExpandPlanes(record + group.codes_at, group.bits, 1, codes);
        const std::size_t four = output / 4 * map.groups() + g;
        const std::int8_t* const weights = map.weights() + four * kPlaneCodes * 4 + output % 4 * 4;
        float of_group = 0;  // of halves: exact
        for (std::size_t i = 0; i < kPlaneCodes; ++i) of_group += codes[i] * static_cast<float>(weights[i / 4 * 16 + i % 4]);
        sum += of_group * map.scales()[four * 4 + output % 4] * tile.scales[record[group.scale_at]];
      }
      out[output * kTileTokens + token] = sum;
    }
  }
}

void TurnTile(const float* cosines, const float* sines, std::size_t pairs, float* rows) {
  for (std::size_t i = 0; i < pairs * kTileTokens; ++i) {
    const float a = rows[i];
    const float b = rows[pairs * kTileTokens + i];
    rows[i] = a * cosines[i] - b * sines[i];
    rows[pairs * kTileTokens + i] = a * sines[i] + b * cosines[i];
  }
}

void TransposeTile(const float* in, std::size_t columns, float* out) {
  for (std::size_t i = 0; i < columns; ++i) {
    for (std::size_t token = 0; token < kTileTokens; ++token) out[i * kTileTokens + token] = in[token * columns + i];
  }
}

}  // namespace holo::compute::plain
