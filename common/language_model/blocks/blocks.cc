#include "common/language_model/blocks/blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "common/language_model/blocks/plain.h"

namespace holo::blocks {
namespace {

// What one task of Multiply reads: as in compute.
constexpr std::size_t kTaskBytes = std::size_t{256} << 10;
// The least magnitude that has an inverse far from overflow.
constexpr float kLeastMagnitude = 0x1p-100f;

std::uint32_t High32(const std::uint8_t* bytes) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// The code of element `i` of a block of a file, without its offset.
template <Type kType>
std::int32_t CodeOf(const std::uint8_t* block, std::size_t i) {
  // Two codes of 4 bits in each of 16 bytes.
  const auto half_bytes = [&](const std::uint8_t* bytes) -> std::uint32_t {
    return i < 16 ? bytes[i] & 15u : bytes[i - 16] >> 4u;
  };
  std::uint32_t code = 0;
  if constexpr (kType == Type::kQ8_0) return static_cast<std::int8_t>(block[2 + i]);
  if constexpr (kType == Type::kQ4_0) code = half_bytes(block + 2);
  if constexpr (kType == Type::kQ4_1) code = half_bytes(block + 4);
  if constexpr (kType == Type::kQ5_0) code = half_bytes(block + 6) | (High32(block + 2) >> i & 1u) << 4;
  if constexpr (kType == Type::kQ5_1) code = half_bytes(block + 8) | (High32(block + 4) >> i & 1u) << 4;
  if constexpr (kType == Type::kQ4K) {
    const std::uint32_t two = block[16 + i / 64 * 32 + i % 32];
    code = i / 32 % 2 == 0 ? two & 15u : two >> 4;
  }
  if constexpr (kType == Type::kQ6K) {
    const std::size_t quarter = i % 128 / 32;
    const std::uint32_t two = block[i / 128 * 64 + quarter % 2 * 32 + i % 32];
    const std::uint32_t four = block[128 + i / 128 * 32 + i % 32];
    code = (quarter < 2 ? two & 15u : two >> 4) | (four >> 2 * quarter & 3u) << 4;
  }
  return static_cast<std::int32_t>(code);
}

// Where a block of a file has what plain.h calls scale, least and inner.
struct Place {
  std::size_t scale = 0, least = 2, inner = 0, inner_bytes = 0;
};
template <Type kType>
constexpr Place PlaceOf() {
  if (kType == Type::kQ4K) return {0, 2, 4, 12};
  if (kType == Type::kQ6K) return {208, 0, 192, 16};
  return {};
}

template <Type kType>
void ExpandBlocks(const std::uint8_t* block, std::size_t count, float* out) {
  constexpr Layout kLayout = LayoutOf(kType);
  constexpr Place kPlace = PlaceOf<kType>();
  for (; count > 0; --count, block += kLayout.bytes / kPanel) {
    for (std::size_t group = 0; group < kLayout.elements; group += kLayout.group, out += kLayout.group) {
      float scale = HalfAt(block + kPlace.scale);
      float least = kLayout.has_least ? HalfAt(block + kPlace.least) : 0;
      if constexpr (kType == Type::kQ4K) {
        const Inner inner = InnerOf(block + kPlace.inner, 1, group / kUnit);
        scale *= inner.scale;
        least *= -static_cast<float>(inner.least);
      }
      if constexpr (kType == Type::kQ6K) scale *= static_cast<std::int8_t>(block[kPlace.inner + group / kLayout.group]);
      for (std::size_t i = 0; i < kLayout.group; ++i) {
        out[i] =
            scale * static_cast<float>(CodeOf<kType>(block, group + i) - static_cast<std::int32_t>(kLayout.offset));
        if constexpr (kLayout.has_least) out[i] += least;
      }
    }
  }
}

// Puts `bits` bits of the input `i` of the output `lane` into a part of a panel block that is zero there.
void PutBits(std::uint8_t* part, unsigned bits, std::size_t lane, std::size_t i, std::uint32_t value) {
  const std::size_t pair = i % kUnit / 2;
  const std::size_t in_word = 16 / bits;
  const std::size_t word = i / kUnit * 2 * kPanel * bits + pair / in_word * 2 * kPanel + 2 * lane + i % 2;
  const std::size_t shift = pair % in_word * bits;
  part[2 * word + shift / 8] = static_cast<std::uint8_t>(part[2 * word + shift / 8] | value << shift % 8);
}

template <Type kType>
void PackBlocks(const std::uint8_t* block, std::size_t count, std::size_t lane, std::uint8_t* panel) {
  constexpr Layout kLayout = LayoutOf(kType);
  constexpr Place kPlace = PlaceOf<kType>();
  for (; count > 0; --count, block += kLayout.bytes / kPanel, panel += kLayout.bytes) {
    std::memcpy(panel + 2 * lane, block + kPlace.scale, 2);
    if constexpr (kLayout.has_least) std::memcpy(panel + kLayout.least + 2 * lane, block + kPlace.least, 2);
    for (std::size_t i = 0; i < kPlace.inner_bytes; ++i) {
      panel[kLayout.inner + i * kPanel + lane] = block[kPlace.inner + i];
    }
    for (std::size_t i = 0; i < kLayout.elements; ++i) {
      const auto code = static_cast<std::uint32_t>(CodeOf<kType>(block, i));
      PutBits(panel + kLayout.codes, kLayout.code_bits, lane, i, code & ((1u << kLayout.code_bits) - 1));
      if constexpr (kLayout.high_bits > 0) PutBits(panel + kLayout.high, kLayout.high_bits, lane, i, code >> 4);
    }
  }
}

template <typename T>
void PackFloats(const std::uint8_t* row, std::size_t inputs, std::size_t lane, std::uint8_t* panel) {
  for (std::size_t i = 0; i < inputs; ++i) {
    std::memcpy(panel + (i * kPanel + lane) * sizeof(T), row + i * sizeof(T), sizeof(T));
  }
}

// Calls visit.operator()<type>() for a block type.
template <typename Visit>
void ForType(Type type, const Visit& visit) {
  switch (type) {
    case Type::kQ8_0:
      return visit.template operator()<Type::kQ8_0>();
    case Type::kQ4_0:
      return visit.template operator()<Type::kQ4_0>();
    case Type::kQ4_1:
      return visit.template operator()<Type::kQ4_1>();
    case Type::kQ5_0:
      return visit.template operator()<Type::kQ5_0>();
    case Type::kQ5_1:
      return visit.template operator()<Type::kQ5_1>();
    case Type::kQ4K:
      return visit.template operator()<Type::kQ4K>();
    case Type::kQ6K:
      return visit.template operator()<Type::kQ6K>();
    case Type::kF32:
    case Type::kF16:
    case Type::kBf16:
      return;
  }
}

// The first element of a row from which on something is NaN or infinite; `inputs` if nothing is.
std::size_t FirstNotFinite(Type type, std::span<const std::uint8_t> row, std::size_t inputs) {
  const auto half_is_finite = [&](std::size_t at) { return std::isfinite(HalfAt(row.data() + at)); };
  if (!IsQuantised(type)) {
    std::vector<float> values(inputs);
    Expand(type, row, values);
    return static_cast<std::size_t>(
        std::find_if_not(values.begin(), values.end(), [](float value) { return std::isfinite(value); }) -
        values.begin());
  }
  const Layout layout = LayoutOf(type);
  const std::size_t bytes = gguf::BlockBytes(type);
  const std::size_t scale = type == Type::kQ6K ? 208 : 0;
  for (std::size_t block = 0; block < inputs / layout.elements; ++block) {
    if (!half_is_finite(block * bytes + scale) || (layout.has_least && !half_is_finite(block * bytes + 2))) {
      return block * layout.elements;
    }
  }
  return inputs;
}

}  // namespace

bool IsQuantised(Type type) {
  return gguf::BlockElements(type) > 1;
}

void Expand(Type type, std::span<const std::uint8_t> bytes, std::span<float> out) {
  switch (type) {
    case Type::kF32:
      std::memcpy(out.data(), bytes.data(), out.size_bytes());
      return;
    case Type::kF16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = HalfAt(bytes.data() + 2 * i);
      return;
    case Type::kBf16:
      for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bytes[2 * i]) << 16 |
                                      static_cast<std::uint32_t>(bytes[2 * i + 1]) << 24);
      }
      return;
    default:
      ForType(type, [&]<Type kType>() {
        ExpandBlocks<kType>(bytes.data(), out.size() / LayoutOf(kType).elements, out.data());
      });
  }
}

Result<Matrix> Matrix::Pack(Type type, std::size_t inputs, std::size_t outputs, std::span<const std::uint8_t> rows,
                            std::span<const float> bias, std::string_view name) {
  const std::size_t elements = gguf::BlockElements(type);
  const std::size_t row_bytes = inputs / elements * gguf::BlockBytes(type);
  const std::string where = std::string(name) + ": ";
  if (inputs == 0 || outputs == 0 || inputs % elements != 0 || rows.size() / outputs != row_bytes ||
      rows.size() % outputs != 0 || (!bias.empty() && bias.size() != outputs)) {
    return Fail(Code::kInvalidArgument,
                where + "expected " + std::to_string(outputs) + " rows of " + std::to_string(inputs) +
                    " elements of type " + std::string(gguf::TypeName(type)) + " and as many or no biases, found " +
                    std::to_string(rows.size()) + " bytes and " + std::to_string(bias.size()) + " biases");
  }
  Matrix matrix;
  matrix.type_ = type;
  matrix.inputs_ = inputs;
  matrix.outputs_ = outputs;
  const std::size_t padded = compute::RoundUp(outputs, kPanel);
  matrix.bias_.assign(padded, 0.0f);
  std::copy(bias.begin(), bias.end(), matrix.bias_.begin());
  matrix.panels_ = compute::AlignedBytes(padded / kPanel * matrix.panel_bytes());
  for (std::size_t output = 0; output < outputs; ++output) {
    const auto row = rows.subspan(output * row_bytes, row_bytes);
    if (const std::size_t at = FirstNotFinite(type, row, inputs); at < inputs) {
      return Fail(Code::kInvalidArgument, where + "expected finite numbers, found NaN or infinity at element " +
                                              std::to_string(at) + " of row " + std::to_string(output));
    }
    std::uint8_t* panel = matrix.panels_.as<std::uint8_t>() + output / kPanel * matrix.panel_bytes();
    const std::size_t lane = output % kPanel;
    if (type == Type::kF32) {
      PackFloats<float>(row.data(), inputs, lane, panel);
    } else if (!IsQuantised(type)) {
      PackFloats<std::uint16_t>(row.data(), inputs, lane, panel);
    } else {
      ForType(type, [&]<Type kType>() { PackBlocks<kType>(row.data(), inputs / elements, lane, panel); });
    }
  }
  return matrix;
}

Result<Matrix> Matrix::Pack(const gguf::Tensor& tensor, std::span<const float> bias) {
  const std::string name = "tensor " + std::string(tensor.name);
  if (tensor.shape.size() != 2) {
    return Fail(Code::kInvalidArgument,
                name + ": expected two dimensions, found " + std::to_string(tensor.shape.size()));
  }
  return Pack(tensor.type, tensor.shape[1], tensor.shape[0], tensor.bytes, bias, name);
}

std::size_t Matrix::panel_bytes() const {
  const Layout layout = LayoutOf(type_);
  return inputs_ / layout.elements * layout.bytes;
}

std::size_t Matrix::bytes() const {
  return panels_.size() + bias_.size() * sizeof(float);
}

void Matrix::CopyOutput(std::size_t output, std::span<float> out) const {
  plain::ExpandOutput(type_, inputs_, panels_.as<std::uint8_t>() + output / kPanel * panel_bytes(), output % kPanel,
                      out.data());
}

void RoundRows(const float* x, std::size_t rows, std::size_t inputs, Scratch& scratch) {
  const std::size_t units = rows * inputs / kUnit;
  scratch.codes.resize(rows * inputs);
  scratch.sums.resize(2 * units);
  scratch.scales.resize(units);
  for (std::size_t unit = 0; unit < units; ++unit) {
    const float* from = x + unit * kUnit;
    std::int16_t* to = scratch.codes.data() + unit * kUnit;
    // Magnitudes in the order of their bits: infinity and NaN are the largest.
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < kUnit; ++i) bits = std::max(bits, std::bit_cast<std::uint32_t>(from[i]) & 0x7FFFFFFFu);
    const auto largest = std::bit_cast<float>(bits);
    const bool is_finite = bits < 0x7F800000u;
    const bool is_zero = !is_finite || largest < kLeastMagnitude;
    const float inverse = is_zero ? 0.0f : kRoundedMax / largest;
    scratch.scales[unit] = !is_finite ? std::numeric_limits<float>::quiet_NaN()
                           : is_zero  ? 0.0f
                                      : largest / kRoundedMax;
    if (is_zero) {
      std::fill(to, to + kUnit, std::int16_t{0});
    } else {
      for (std::size_t i = 0; i < kUnit; ++i) {
        // The bias by 2^23 * 1.5 rounds to nearest even, several values at a time.
        const float shifted = from[i] * inverse + 12582912.0f;
        to[i] =
            static_cast<std::int16_t>(std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(12582912.0f));
      }
    }
    for (std::size_t half = 0; half < 2; ++half) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < kUnit / 2; ++i) sum += to[half * kUnit / 2 + i];
      scratch.sums[2 * unit + half] = sum;
    }
  }
}

void Multiply(const Matrix& matrix, const float* x, std::size_t rows, float* y, compute::Store store, Scratch& scratch,
              compute::ThreadPool& pool) {
  const Product product{&matrix, y, matrix.outputs()};
  Multiply({&product, 1}, x, rows, store, scratch, pool);
}

void Multiply(std::span<const Product> products, const float* x, std::size_t rows, compute::Store store,
              Scratch& scratch, compute::ThreadPool& pool) {
  if (rows == 0 || products.empty()) return;
  const auto panels_of = [](const Matrix& matrix) { return compute::RoundUp(matrix.outputs(), kPanel) / kPanel; };
  const auto per_task = [](const Matrix& matrix) {
    return std::clamp<std::size_t>(kTaskBytes / matrix.panel_bytes(), 1, 64);
  };
  std::size_t tasks = 0;
  bool is_rounded = false;
  for (const Product& product : products) {
    const std::size_t per = per_task(*product.matrix);
    tasks += (panels_of(*product.matrix) + per - 1) / per;
    if (!is_rounded && IsQuantised(product.matrix->type())) {
      RoundRows(x, rows, product.matrix->inputs(), scratch);
      is_rounded = true;
    }
  }
  pool.ForEach(tasks, [&](std::size_t task, unsigned) {
    for (const Product& product : products) {
      const Matrix& matrix = *product.matrix;
      const std::size_t panels = panels_of(matrix);
      const std::size_t per = per_task(matrix);
      const std::size_t own = (panels + per - 1) / per;
      if (task >= own) {
        task -= own;
        continue;
      }
      PanelJob job;
      job.matrix = &matrix;
      job.x = x;
      job.rounded = IsQuantised(matrix.type()) ? &scratch : nullptr;
      job.rows = rows;
      job.y = product.y;
      job.y_stride = product.y_stride;
      job.store = store;
      job.first = task * per;
      job.last = std::min(panels, job.first + per);
      return MultiplyPanels(job);
    }
  });
}

}  // namespace holo::blocks
