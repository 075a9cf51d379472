// GGUF files made for a test.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/bytes/bytes.h"
#include "common/language_model/gguf/gguf.h"

namespace holo::testing {

// Writes whatever it is told to, also what no reader accepts.
class GgufWriter {
 public:
  explicit GgufWriter(std::uint32_t version = 3) : version_(version) {}

  // The position in the metadata at which the next entry begins.
  [[nodiscard]] std::size_t size() const { return metadata_.size(); }
  void SetAlignment(std::uint32_t alignment) { alignment_ = alignment; }

  void AddKey(std::string_view key, gguf::ValueType type) {
    ++entries_;
    String(metadata_, key);
    metadata_.WriteU32(static_cast<std::uint32_t>(type));
  }
  void AddString(std::string_view key, std::string_view value) {
    AddKey(key, gguf::ValueType::kString);
    String(metadata_, value);
  }
  void AddU32(std::string_view key, std::uint32_t value) {
    AddKey(key, gguf::ValueType::kU32);
    metadata_.WriteU32(value);
  }
  void AddF32(std::string_view key, float value) {
    AddKey(key, gguf::ValueType::kF32);
    metadata_.WriteF32(value);
  }
  void AddBool(std::string_view key, bool value) {
    AddKey(key, gguf::ValueType::kBool);
    metadata_.WriteU8(value ? 1 : 0);
  }
  void AddArray(std::string_view key, gguf::ValueType element, std::uint64_t count) {
    AddKey(key, gguf::ValueType::kArray);
    metadata_.WriteU32(static_cast<std::uint32_t>(element));
    metadata_.WriteU64(count);
  }
  void AddStrings(std::string_view key, const std::vector<std::string>& values) {
    AddArray(key, gguf::ValueType::kString, values.size());
    for (const std::string& value : values) String(metadata_, value);
  }
  void AddI32s(std::string_view key, const std::vector<std::int32_t>& values) {
    AddArray(key, gguf::ValueType::kI32, values.size());
    for (const std::int32_t value : values) metadata_.WriteU32(static_cast<std::uint32_t>(value));
  }
  // Behind AddKey or AddArray.
  bytes::ByteWriter& values() { return metadata_; }

  // `shape` row-major, as gguf::Tensor has it.
  void AddTensor(std::string_view name, std::vector<std::uint64_t> shape, std::uint32_t type,
                 const std::vector<std::uint8_t>& data) {
    while (data_.size() % alignment_ != 0) data_.push_back(0);
    AddTensorAt(name, std::move(shape), type, data_.size());
    data_.insert(data_.end(), data.begin(), data.end());
  }
  void AddTensorAt(std::string_view name, std::vector<std::uint64_t> shape, std::uint32_t type,
                   std::uint64_t position) {
    ++tensors_;
    String(infos_, name);
    infos_.WriteU32(static_cast<std::uint32_t>(shape.size()));
    for (std::size_t i = shape.size(); i-- > 0;) infos_.WriteU64(shape[i]);
    infos_.WriteU32(type);
    infos_.WriteU64(position);
  }

  [[nodiscard]] std::vector<std::uint8_t> File() const {
    bytes::ByteWriter out;
    out.WriteU32(0x46554747);
    out.WriteU32(version_);
    out.WriteU64(tensors_);
    out.WriteU64(entries_);
    out.WriteSpan(metadata_.bytes());
    out.WriteSpan(infos_.bytes());
    if (tensors_ > 0) {
      while (out.size() % alignment_ != 0) out.WriteU8(0);
    }
    out.WriteSpan(data_);
    return out.Take();
  }

  static void String(bytes::ByteWriter& to, std::string_view text) {
    to.WriteU64(text.size());
    to.WriteSpan({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }

 private:
  std::uint32_t version_;
  std::uint32_t alignment_ = gguf::kDefaultAlignment;
  std::uint64_t entries_ = 0;
  std::uint64_t tensors_ = 0;
  bytes::ByteWriter metadata_;
  bytes::ByteWriter infos_;
  std::vector<std::uint8_t> data_;
};

}  // namespace holo::testing
