// The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#include "common/language_model/gguf/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "common/bytes/bytes.h"
#include "common/language_model/gguf/quoted.h"

namespace holo::gguf {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::string_view kAlignmentKey = "general.alignment";

std::string At(std::uint64_t offset) {
  return " at offset " + std::to_string(offset);
}

// Bytes of a value that is no string or array.
std::optional<std::size_t> ScalarBytes(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
      return 8;
    case ValueType::kString:
    case ValueType::kArray:
      return std::nullopt;
  }
  return std::nullopt;
}

// The fewest bytes that a value of this type takes in a file.
std::size_t LeastBytes(ValueType type) {
  // A string's length; an array's element type and length.
  return ScalarBytes(type).value_or(type == ValueType::kString ? 8 : 12);
}

std::string ShapeToString(std::span<const std::uint64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace

// Reads one file, or the elements of one array that has been read before. Its messages are completed by File::Parse.
class Reader {
 public:
  Reader(std::span<const std::uint8_t> bytes, std::string_view name, std::uint64_t base = 0)
      : bytes_(bytes), reader_(bytes, "cut off"), name_(name), base_(base) {}

  [[nodiscard]] Result<File> ReadFile();
  [[nodiscard]] Result<Value> ReadValue(ValueType type, std::uint32_t depth);

 private:
  [[nodiscard]] tl::unexpected<Error> Damaged(std::string message) const {
    return Fail(Code::kDataLoss, std::move(message));
  }
  // Offset of the next byte in the file.
  [[nodiscard]] std::uint64_t offset() const { return base_ + reader_.offset(); }
  [[nodiscard]] Result<ValueType> ReadType();
  [[nodiscard]] Result<std::string_view> ReadText(std::uint64_t max_bytes);
  [[nodiscard]] Result<void> ReadHeader();
  [[nodiscard]] Result<void> ReadMetadata();
  [[nodiscard]] Result<void> ReadAlignment();
  [[nodiscard]] Result<void> ReadTensors();
  [[nodiscard]] Result<Tensor> ReadTensor();
  [[nodiscard]] Result<void> PlaceTensors();

  std::span<const std::uint8_t> bytes_;
  bytes::ByteReader reader_;
  std::string_view name_;
  std::uint64_t base_;
  std::uint64_t entries_ = 0;
  std::uint64_t tensors_ = 0;
  File file_;
};

Result<ValueType> Reader::ReadType() {
  const std::uint64_t at = offset();
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t number, reader_.ReadU32());
  if (number > static_cast<std::uint32_t>(ValueType::kF64)) {
    return Damaged("expected the type of a value, 0 to 12," + At(at) + ", found " + std::to_string(number));
  }
  return static_cast<ValueType>(number);
}

Result<std::string_view> Reader::ReadText(std::uint64_t max_bytes) {
  const std::uint64_t at = offset();
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t length, reader_.ReadU64());
  const std::uint64_t most = std::min<std::uint64_t>(max_bytes, reader_.remaining());
  if (length > most) {
    return Damaged("expected a string of at most " + std::to_string(most) + " bytes" + At(at) + ", found the length " +
                   std::to_string(length));
  }
  HOLO_ASSIGN_OR_RETURN(const auto span, reader_.ReadSpan(length));
  return std::string_view(reinterpret_cast<const char*>(span.data()), span.size());
}

// Takes no memory that grows with what the file claims.
Result<Value> Reader::ReadValue(ValueType type, std::uint32_t depth) {
  Value value;
  value.type_ = type;
  value.offset_ = offset();
  if (const auto size = ScalarBytes(type)) {
    HOLO_ASSIGN_OR_RETURN(value.bytes_, reader_.ReadSpan(*size));
    if (type == ValueType::kBool && value.bytes_[0] > 1) {
      return Damaged("expected a bool, 0 or 1," + At(value.offset_) + ", found " + std::to_string(value.bytes_[0]));
    }
    return value;
  }
  if (type == ValueType::kString) {
    HOLO_ASSIGN_OR_RETURN(const std::string_view text, ReadText(kMaxStringBytes));
    value.bytes_ = {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
    return value;
  }
  if (depth == kMaxNesting) {
    return Damaged("expected at most " + std::to_string(kMaxNesting) + " arrays in each other" + At(value.offset_) +
                   ", found one more");
  }
  HOLO_ASSIGN_OR_RETURN(value.element_type_, ReadType());
  const std::uint64_t count_at = offset();
  HOLO_ASSIGN_OR_RETURN(value.count_, reader_.ReadU64());
  const std::uint64_t most =
      std::min<std::uint64_t>(kMaxArrayElements, reader_.remaining() / LeastBytes(value.element_type_));
  if (value.count_ > most) {
    return Damaged("expected an array of at most " + std::to_string(most) + " " +
                   std::string(ValueTypeName(value.element_type_)) + At(count_at) + ", found the count " +
                   std::to_string(value.count_));
  }
  const std::size_t begin = reader_.offset();
  if (const auto size = ScalarBytes(value.element_type_); size && value.element_type_ != ValueType::kBool) {
    HOLO_RETURN_IF_ERROR(reader_.ReadSpan(*size * value.count_));
  } else {
    for (std::uint64_t i = 0; i < value.count_; ++i) {
      HOLO_RETURN_IF_ERROR(ReadValue(value.element_type_, depth + 1));
    }
  }
  value.bytes_ = bytes_.subspan(begin, reader_.offset() - begin);
  value.offset_ = base_ + begin;
  return value;
}

Result<void> Reader::ReadHeader() {
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t magic, reader_.ReadU32());
  if (magic != kMagic) {
    return Damaged("expected a GGUF file, which begins with \"GGUF\", found " +
                   Quoted({reinterpret_cast<const char*>(bytes_.data()), 4}));
  }
  HOLO_ASSIGN_OR_RETURN(file_.version_, reader_.ReadU32());
  if (file_.version_ != 2 && file_.version_ != 3) {
    const bool is_big_endian = file_.version_ == 2u << 24 || file_.version_ == 3u << 24;
    return Fail(Code::kUnimplemented,
                std::string("expected GGUF version 2 or 3 at offset 4, found ") +
                    (is_big_endian ? "a file for big-endian machines" : "version " + std::to_string(file_.version_)));
  }
  HOLO_ASSIGN_OR_RETURN(tensors_, reader_.ReadU64());
  if (tensors_ > kMaxTensors) {
    return Damaged("expected at most " + std::to_string(kMaxTensors) + " tensors at offset 8, found the count " +
                   std::to_string(tensors_));
  }
  HOLO_ASSIGN_OR_RETURN(entries_, reader_.ReadU64());
  if (entries_ > kMaxEntries) {
    return Damaged("expected at most " + std::to_string(kMaxEntries) +
                   " entries of metadata at offset 16, found the count " + std::to_string(entries_));
  }
  return {};
}

Result<void> Reader::ReadMetadata() {
  for (std::uint64_t i = 0; i < entries_; ++i) {
    const std::uint64_t at = offset();
    const std::string where = "entry " + std::to_string(i + 1) + " of " + std::to_string(entries_);
    auto key = ReadText(kMaxKeyBytes);
    if (!key) return tl::unexpected(WithContext(std::move(key).error(), where));
    const auto read = [&]() -> Result<Value> {
      HOLO_ASSIGN_OR_RETURN(const ValueType type, ReadType());
      return ReadValue(type, 0);
    };
    auto value = read();
    if (!value) return tl::unexpected(WithContext(std::move(value).error(), "key " + Quoted(*key)));
    if (!file_.metadata_.emplace(*key, *value).second) {
      return Damaged("key " + Quoted(*key) + ": expected once, found again" + At(at));
    }
  }
  return {};
}

Result<void> Reader::ReadAlignment() {
  const Value* value = file_.Find(kAlignmentKey);
  if (value == nullptr) return {};
  const std::optional<std::uint64_t> alignment = value->AsUnsigned();
  if (!alignment || *alignment < 8 || *alignment > kMaxAlignment || !std::has_single_bit(*alignment)) {
    return Damaged("key \"general.alignment\": expected a power of two from 8 to " + std::to_string(kMaxAlignment) +
                   At(value->offset()) + ", found " + value->Shown());
  }
  file_.alignment_ = static_cast<std::uint32_t>(*alignment);
  return {};
}

Result<Tensor> Reader::ReadTensor() {
  Tensor tensor;
  HOLO_ASSIGN_OR_RETURN(tensor.name, ReadText(kMaxTensorNameBytes));
  const auto read = [&]() -> Result<void> {
    std::uint64_t at = offset();
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t dimensions, reader_.ReadU32());
    if (dimensions == 0 || dimensions > kMaxDimensions) {
      return Damaged("expected 1 to " + std::to_string(kMaxDimensions) + " dimensions" + At(at) + ", found " +
                     std::to_string(dimensions));
    }
    tensor.shape.resize(dimensions);
    at = offset();
    for (std::size_t i = dimensions; i-- > 0;) {
      HOLO_ASSIGN_OR_RETURN(tensor.shape[i], reader_.ReadU64());
    }
    const std::uint64_t type_at = offset();
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t number, reader_.ReadU32());
    const Result<Type> type = TypeFromNumber(number);
    if (!type) return Fail(type.error().code, type.error().message + At(type_at));
    tensor.type = *type;
    const std::uint64_t row = tensor.shape.back();
    if (row % BlockElements(*type) != 0) {
      return Damaged("expected rows of a multiple of " + std::to_string(BlockElements(*type)) + " elements, as " +
                     std::string(TypeName(*type)) + " has blocks of so many, found the shape " +
                     ShapeToString(tensor.shape) + At(at));
    }
    std::uint64_t size = BlockBytes(*type);
    for (std::size_t i = 0; i < dimensions; ++i) {
      const std::uint64_t extent = i + 1 == dimensions ? row / BlockElements(*type) : tensor.shape[i];
      if (extent == 0 || __builtin_mul_overflow(size, extent, &size)) {
        return Damaged("expected a shape that a file can hold, without 0, found " + ShapeToString(tensor.shape) +
                       At(at));
      }
    }
    if (size > bytes_.size()) {
      return Damaged("expected a shape that fits into a file of " + std::to_string(bytes_.size()) + " bytes, found " +
                     ShapeToString(tensor.shape) + " of type " + std::string(TypeName(*type)) + ", " +
                     std::to_string(size) + " bytes," + At(at));
    }
    at = offset();
    HOLO_ASSIGN_OR_RETURN(tensor.offset, reader_.ReadU64());
    if (tensor.offset % file_.alignment_ != 0 || tensor.offset > bytes_.size()) {
      return Damaged("expected the position of its data, a multiple of the alignment " +
                     std::to_string(file_.alignment_) + " inside the file," + At(at) + ", found " +
                     std::to_string(tensor.offset));
    }
    // Where it lies is not known before the last tensor has been read: so far only how long it is.
    tensor.bytes = bytes_.first(size);
    return {};
  };
  auto done = read();
  if (!done) return tl::unexpected(WithContext(std::move(done).error(), "tensor " + Quoted(tensor.name)));
  return tensor;
}

Result<void> Reader::ReadTensors() {
  for (std::uint64_t i = 0; i < tensors_; ++i) {
    const std::uint64_t at = offset();
    auto tensor = ReadTensor();
    if (!tensor) {
      // The name is known unless it is what cannot be read.
      if (tensor.error().message.starts_with("tensor ")) return tl::unexpected(std::move(tensor).error());
      return tl::unexpected(WithContext(std::move(tensor).error(),
                                        "tensor " + std::to_string(i + 1) + " of " + std::to_string(tensors_)));
    }
    if (!file_.tensor_by_name_.emplace(tensor->name, 0).second) {
      return Damaged("tensor " + Quoted(tensor->name) + ": expected once, found again" + At(at));
    }
    file_.tensors_.push_back(std::move(*tensor));
  }
  return {};
}

Result<void> Reader::PlaceTensors() {
  const std::uint64_t mask = file_.alignment_ - 1;
  file_.data_offset_ = (reader_.offset() + mask) & ~mask;
  std::stable_sort(file_.tensors_.begin(), file_.tensors_.end(),
                   [](const Tensor& a, const Tensor& b) { return a.offset < b.offset; });
  const std::uint64_t data_bytes = bytes_.size() - std::min<std::uint64_t>(file_.data_offset_, bytes_.size());
  std::uint64_t end = 0;
  std::string previous = "the description of the tensors";
  for (std::size_t i = 0; i < file_.tensors_.size(); ++i) {
    Tensor& tensor = file_.tensors_[i];
    const std::string where = "tensor " + Quoted(tensor.name) + ": ";
    const std::uint64_t expected = (end + mask) & ~mask;
    if (tensor.offset != expected) {
      return Damaged(where + "expected its data to begin at " + std::to_string(expected) +
                     " of the data, behind those of " + previous + ", found " + std::to_string(tensor.offset) +
                     (tensor.offset < expected ? ": they overlap" : ": a gap"));
    }
    end = tensor.offset + tensor.bytes.size();
    if (end > data_bytes) {
      return Damaged(where + "expected its data to end at offset " + std::to_string(file_.data_offset_ + end) +
                     ", found that the file ends at " + std::to_string(bytes_.size()));
    }
    tensor.bytes = bytes_.subspan(file_.data_offset_ + tensor.offset, tensor.bytes.size());
    tensor.offset += file_.data_offset_;
    file_.tensor_by_name_[tensor.name] = i;
    previous = Quoted(tensor.name);
  }
  // Some writers pad the last tensor, too.
  if (data_bytes - end > mask) {
    return Damaged("expected the file to end with its last tensor, at offset " +
                   std::to_string(file_.data_offset_ + end) + ", found " + std::to_string(data_bytes - end) +
                   " more bytes");
  }
  return {};
}

Result<File> Reader::ReadFile() {
  file_.name_ = name_;
  HOLO_RETURN_IF_ERROR(ReadHeader());
  HOLO_RETURN_IF_ERROR(ReadMetadata());
  HOLO_RETURN_IF_ERROR(ReadAlignment());
  HOLO_RETURN_IF_ERROR(ReadTensors());
  HOLO_RETURN_IF_ERROR(PlaceTensors());
  return std::move(file_);
}

std::optional<std::vector<Value>> Value::AsArray(std::uint64_t max_count) const {
  if (type_ != ValueType::kArray || count_ > max_count) return std::nullopt;
  Reader reader(bytes_, "array", offset_);
  std::vector<Value> values;
  values.reserve(count_);
  for (std::uint64_t i = 0; i < count_; ++i) {
    // They have been read once, when the file was opened.
    values.push_back(reader.ReadValue(element_type_, 0).value());
  }
  return values;
}

Result<File> File::Parse(std::span<const std::uint8_t> bytes, std::string_view name) {
  auto file = Reader(bytes, name).ReadFile();
  if (!file) return tl::unexpected(WithContext(std::move(file).error(), name));
  return file;
}

Result<File> File::Open(const std::filesystem::path& path) {
  HOLO_ASSIGN_OR_RETURN(auto mapping, files::MappedFile::Open(path));
  HOLO_ASSIGN_OR_RETURN(File file, Parse(mapping->bytes(), path.string()));
  file.mapping_ = std::move(mapping);
  return file;
}

const Value* File::Find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

const Tensor* File::FindTensor(std::string_view tensor) const {
  const auto found = tensor_by_name_.find(tensor);
  return found == tensor_by_name_.end() ? nullptr : &tensors_[found->second];
}

Result<const Value*> File::Require(std::string_view key, std::string_view expected) const {
  const Value* value = Find(key);
  if (value == nullptr) {
    return Fail(Code::kInvalidArgument,
                name_ + ": key " + Quoted(key) + ": expected " + std::string(expected) + ", found no such key");
  }
  return value;
}

namespace {

tl::unexpected<Error> OfOtherType(const File& file, std::string_view key, const Value& value,
                                  const std::string& expected) {
  return Fail(Code::kInvalidArgument, file.name() + ": key " + Quoted(key) + ": expected " + expected +
                                          At(value.offset()) + ", found " + value.Shown());
}

}  // namespace

Result<std::uint64_t> File::Unsigned(std::string_view key, std::uint64_t max) const {
  const std::string expected = "a whole number from 0 to " + std::to_string(max);
  HOLO_ASSIGN_OR_RETURN(const Value* value, Require(key, expected));
  const std::optional<std::uint64_t> number = value->AsUnsigned();
  if (!number || *number > max) return OfOtherType(*this, key, *value, expected);
  return *number;
}

Result<double> File::Float(std::string_view key) const {
  HOLO_ASSIGN_OR_RETURN(const Value* value, Require(key, "a finite float"));
  const std::optional<double> number = value->AsFloat();
  if (!number || !std::isfinite(*number)) return OfOtherType(*this, key, *value, "a finite float");
  return *number;
}

Result<bool> File::Bool(std::string_view key) const {
  HOLO_ASSIGN_OR_RETURN(const Value* value, Require(key, "a bool"));
  const std::optional<bool> flag = value->AsBool();
  if (!flag) return OfOtherType(*this, key, *value, "a bool");
  return *flag;
}

Result<std::string_view> File::String(std::string_view key) const {
  HOLO_ASSIGN_OR_RETURN(const Value* value, Require(key, "a string"));
  const std::optional<std::string_view> text = value->AsString();
  if (!text) return OfOtherType(*this, key, *value, "a string");
  return *text;
}

Result<std::vector<std::string_view>> File::Strings(std::string_view key, std::uint64_t max_count) const {
  const std::string expected = "an array of at most " + std::to_string(max_count) + " string";
  HOLO_ASSIGN_OR_RETURN(const Value* value, Require(key, expected));
  const bool is_of_strings = value->type() == ValueType::kArray && value->element_type() == ValueType::kString;
  const auto elements = is_of_strings ? value->AsArray(max_count) : std::nullopt;
  if (!elements) return OfOtherType(*this, key, *value, expected);
  std::vector<std::string_view> texts;
  texts.reserve(elements->size());
  for (const Value& element : *elements) texts.push_back(*element.AsString());
  return texts;
}

Result<std::vector<std::int64_t>> File::Integers(std::string_view key, std::uint64_t max_count) const {
  const std::string expected = "an array of at most " + std::to_string(max_count) + " whole numbers";
  HOLO_ASSIGN_OR_RETURN(const Value* value, Require(key, expected));
  const auto elements = value->AsArray(max_count);
  if (!elements) return OfOtherType(*this, key, *value, expected);
  std::vector<std::int64_t> numbers;
  numbers.reserve(elements->size());
  for (const Value& element : *elements) {
    const std::optional<std::int64_t> number = element.AsSigned();
    if (!number) return OfOtherType(*this, key, *value, expected);
    numbers.push_back(*number);
  }
  return numbers;
}

}  // namespace holo::gguf
