// Tensor types, and the values of metadata.
#include <bit>
#include <cmath>
#include <cstring>

#include "common/language_model/gguf/gguf.h"
#include "common/language_model/gguf/quoted.h"

namespace holo::gguf {
namespace {

static_assert(std::endian::native == std::endian::little, "values are used where they lie in the file");

struct TypeRow {
  Type type;
  std::uint32_t number;
  std::string_view name;
  std::size_t elements;
  std::size_t bytes;
};
// In the order of Type.
constexpr TypeRow kRows[] = {{Type::kF32, 0, "F32", 1, 4},       {Type::kF16, 1, "F16", 1, 2},
                             {Type::kBf16, 30, "BF16", 1, 2},    {Type::kQ8_0, 8, "Q8_0", 32, 34},
                             {Type::kQ4_0, 2, "Q4_0", 32, 18},   {Type::kQ4_1, 3, "Q4_1", 32, 20},
                             {Type::kQ5_0, 6, "Q5_0", 32, 22},   {Type::kQ5_1, 7, "Q5_1", 32, 24},
                             {Type::kQ4K, 12, "Q4_K", 256, 144}, {Type::kQ6K, 14, "Q6_K", 256, 210}};

struct OtherType {
  std::uint32_t number;
  std::string_view name;
};
constexpr OtherType kOtherTypes[] = {
    {4, "Q4_2"},      {5, "Q4_3"},      {9, "Q8_1"},      {10, "Q2_K"},  {11, "Q3_K"},   {13, "Q5_K"},  {15, "Q8_K"},
    {16, "IQ2_XXS"},  {17, "IQ2_XS"},   {18, "IQ3_XXS"},  {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},
    {23, "IQ4_XS"},   {24, "I8"},       {25, "I16"},      {26, "I32"},   {27, "I64"},    {28, "F64"},   {29, "IQ1_M"},
    {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {34, "TQ1_0"}, {35, "TQ2_0"},  {39, "MXFP4"}};

const TypeRow& Row(Type type) {
  return kRows[static_cast<std::size_t>(type)];
}

constexpr std::string_view kValueTypeNames[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                                "bool",  "string", "array",  "uint64", "int64",  "float64"};

template <typename T>
T Load(std::span<const std::uint8_t> bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

}  // namespace

std::string_view TypeName(Type type) {
  return Row(type).name;
}

std::size_t BlockElements(Type type) {
  return Row(type).elements;
}

std::size_t BlockBytes(Type type) {
  return Row(type).bytes;
}

std::uint32_t TypeNumber(Type type) {
  return Row(type).number;
}

Result<Type> TypeFromNumber(std::uint32_t number) {
  for (const TypeRow& row : kRows) {
    if (row.number == number) return row.type;
  }
  std::string found = "type " + std::to_string(number);
  for (const OtherType& other : kOtherTypes) {
    if (other.number == number) found = std::string(other.name) + " (" + found + ")";
  }
  std::string known;
  for (const TypeRow& row : kRows) known += (known.empty() ? "" : ", ") + std::string(row.name);
  return Fail(Code::kUnimplemented, "expected one of the types " + known + ", found " + found);
}

std::string_view ValueTypeName(ValueType type) {
  return kValueTypeNames[static_cast<std::size_t>(type)];
}

std::optional<std::int64_t> Value::AsSigned() const {
  switch (type_) {
    case ValueType::kU8:
      return Load<std::uint8_t>(bytes_);
    case ValueType::kI8:
      return Load<std::int8_t>(bytes_);
    case ValueType::kU16:
      return Load<std::uint16_t>(bytes_);
    case ValueType::kI16:
      return Load<std::int16_t>(bytes_);
    case ValueType::kU32:
      return Load<std::uint32_t>(bytes_);
    case ValueType::kI32:
      return Load<std::int32_t>(bytes_);
    case ValueType::kI64:
      return Load<std::int64_t>(bytes_);
    case ValueType::kU64: {
      const auto value = Load<std::uint64_t>(bytes_);
      if (value > INT64_MAX) return std::nullopt;
      return static_cast<std::int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<std::uint64_t> Value::AsUnsigned() const {
  if (type_ == ValueType::kU64) return Load<std::uint64_t>(bytes_);
  const std::optional<std::int64_t> value = AsSigned();
  if (!value || *value < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*value);
}

std::optional<double> Value::AsFloat() const {
  if (type_ == ValueType::kF32) return Load<float>(bytes_);
  if (type_ == ValueType::kF64) return Load<double>(bytes_);
  return std::nullopt;
}

std::optional<bool> Value::AsBool() const {
  if (type_ != ValueType::kBool) return std::nullopt;
  return bytes_[0] != 0;
}

std::optional<std::string_view> Value::AsString() const {
  if (type_ != ValueType::kString) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
}

std::string Value::Shown() const {
  const std::string name(ValueTypeName(type_));
  if (type_ == ValueType::kArray) {
    return "array of " + std::to_string(count_) + " " + std::string(ValueTypeName(element_type_));
  }
  if (const auto text = AsString()) return name + " " + Quoted(*text);
  if (const auto value = AsFloat()) return name + " " + std::to_string(*value);
  if (const auto value = AsBool()) return name + (*value ? " true" : " false");
  if (const auto value = AsUnsigned()) return name + " " + std::to_string(*value);
  return name + " " + std::to_string(*AsSigned());
}

}  // namespace holo::gguf
