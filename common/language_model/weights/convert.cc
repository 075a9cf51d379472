// Element types and their way to float32.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/language_model/weights/weights.h"

namespace holo::weights {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used where they lie in the file");

struct TypeRow {
  std::string_view name;
  std::size_t bytes;
};
// In the order of Dtype.
constexpr TypeRow kTypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                              {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},
                              {"I32", 4},  {"F32", 4}, {"U64", 8}, {"I64", 8},     {"F64", 8}};

// Values converted between two looks for NaN; they stay in the first-level cache.
constexpr std::size_t kBlock = 2048;

// `out.size()` elements that start at `bytes`, at any alignment.
void Convert(Dtype dtype, const std::uint8_t* bytes, std::span<float> out) {
  if (dtype == Dtype::kF32) {
    std::memcpy(out.data(), bytes, out.size_bytes());
    return;
  }
  std::uint16_t raw[kBlock];
  std::memcpy(raw, bytes, 2 * out.size());
  if (dtype == Dtype::kF16) {
    std::transform(raw, raw + out.size(), out.begin(), HalfToFloat);
  } else {
    std::transform(raw, raw + out.size(), out.begin(), BFloat16ToFloat);
  }
}

bool AllFinite(std::span<const float> values) {
  // The exponent of NaN and infinity is all ones, and no other's is.
  std::uint32_t largest = 0;
  for (const float value : values) largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7F800000u);
  return largest != 0x7F800000u;
}

Result<void> ExpectFloats(const Tensor& tensor) {
  if (tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kF16 || tensor.dtype == Dtype::kBF16) return {};
  return Fail(Code::kInvalidArgument, "tensor " + tensor.name + ": expected type F32, F16 or BF16, found " +
                                          std::string(DtypeName(tensor.dtype)));
}

Result<void> RefuseNotFinite(const Tensor& tensor, std::uint64_t first, std::span<const float> values) {
  if (AllFinite(values)) return {};
  const auto found = std::find_if_not(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  return Fail(Code::kInvalidArgument, "tensor " + tensor.name + ": expected finite numbers, found " +
                                          (std::isnan(*found) ? "NaN" : "infinity") + " as element " +
                                          std::to_string(first + static_cast<std::uint64_t>(found - values.begin())) +
                                          " of shape " + ShapeToString(tensor.shape));
}

}  // namespace

std::string_view DtypeName(Dtype dtype) {
  return kTypes[static_cast<std::size_t>(dtype)].name;
}

std::size_t DtypeBytes(Dtype dtype) {
  return kTypes[static_cast<std::size_t>(dtype)].bytes;
}

std::string ShapeToString(std::span<const std::uint64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

std::optional<std::span<const float>> Tensor::AsFloat() const {
  if (dtype != Dtype::kF32 || reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(float) != 0) return std::nullopt;
  return std::span(reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float));
}

float HalfToFloat(std::uint16_t bits) {
  // With the exponent moved to float32's place the value is 2^-112 of what it should be, subnormals included; the
  // product is exact.
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7FFFu) << 13;
  std::uint32_t value = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  if ((bits & 0x7C00u) == 0x7C00u) value = magnitude | 0x7F800000u;
  return std::bit_cast<float>(value | static_cast<std::uint32_t>(bits & 0x8000u) << 16);
}

float BFloat16ToFloat(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

Result<void> CopyToFloat(const Tensor& tensor, std::uint64_t first, std::span<float> out) {
  HOLO_RETURN_IF_ERROR(ExpectFloats(tensor));
  if (first > tensor.elements() || out.size() > tensor.elements() - first) {
    return Fail(Code::kOutOfRange, "tensor " + tensor.name + ": expected elements below " +
                                       std::to_string(tensor.elements()) + ", asked for " + std::to_string(out.size()) +
                                       " from " + std::to_string(first));
  }
  while (!out.empty()) {
    const std::span<float> block = out.first(std::min(out.size(), kBlock));
    Convert(tensor.dtype, tensor.bytes.data() + first * DtypeBytes(tensor.dtype), block);
    HOLO_RETURN_IF_ERROR(RefuseNotFinite(tensor, first, block));
    first += block.size();
    out = out.subspan(block.size());
  }
  return {};
}

Result<std::vector<float>> ToFloat(const Tensor& tensor) {
  HOLO_RETURN_IF_ERROR(ExpectFloats(tensor));
  std::vector<float> values(tensor.elements());
  HOLO_RETURN_IF_ERROR(CopyToFloat(tensor, 0, values));
  return values;
}

Result<void> CheckFinite(const Tensor& tensor) {
  HOLO_RETURN_IF_ERROR(ExpectFloats(tensor));
  float block[kBlock];
  for (std::uint64_t first = 0; first < tensor.elements(); first += kBlock) {
    const std::uint64_t count = std::min<std::uint64_t>(kBlock, tensor.elements() - first);
    HOLO_RETURN_IF_ERROR(CopyToFloat(tensor, first, std::span(block, count)));
  }
  return {};
}

}  // namespace holo::weights
