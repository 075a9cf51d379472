// GGUF files: the metadata and tensors of a model in one file, memory-mapped. What is read of the format, and what is
// refused, is in FORMAT.md.
//
// File::Open checks the whole structure once, before anything is used: every length against the bytes that are left,
// every tensor against the others and the end of the file. Nothing is copied: strings, arrays and tensors are views
// into the mapping, and pages of tensors are read when they are first touched. What the metadata mean, and which
// tensors a model needs, is the business of whoever asks.
//
// Everything is constant after construction and may be used from any thread.
//
// Errors: kNotFound for a missing file, kDataLoss for a damaged one, kUnimplemented, by name, for versions and tensor
// types that are not supported, kInvalidArgument for metadata that are missing or of another type than asked for.
// Messages name the file, the key or tensor, what was expected, what was found, and the offset in the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/files/files.h"
#include "common/status/status.h"

namespace holo::gguf {

inline constexpr std::uint64_t kMaxEntries = 65536;
inline constexpr std::uint64_t kMaxTensors = 65536;
inline constexpr std::uint64_t kMaxKeyBytes = 65535;
inline constexpr std::uint64_t kMaxTensorNameBytes = 64;
inline constexpr std::uint64_t kMaxStringBytes = std::uint64_t{16} << 20;
inline constexpr std::uint64_t kMaxArrayElements = std::uint64_t{1} << 24;
inline constexpr std::uint32_t kMaxNesting = 4;  // arrays in each other
inline constexpr std::uint32_t kMaxDimensions = 4;
inline constexpr std::uint32_t kDefaultAlignment = 32;
inline constexpr std::uint32_t kMaxAlignment = 65536;

// How the elements of a tensor are stored: floats, or blocks of 32 or 256 neighbouring elements with common scales.
enum class Type : std::uint8_t { kF32, kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4K, kQ6K };
inline constexpr Type kTypes[] = {Type::kF32,  Type::kF16,  Type::kBf16, Type::kQ8_0, Type::kQ4_0,
                                  Type::kQ4_1, Type::kQ5_0, Type::kQ5_1, Type::kQ4K,  Type::kQ6K};
// "F32", "Q4_K", ...: as others write them.
[[nodiscard]] std::string_view TypeName(Type type);
// Elements that are stored together, and the bytes that they take; 1 for floats.
[[nodiscard]] std::size_t BlockElements(Type type);
[[nodiscard]] std::size_t BlockBytes(Type type);
// The type of a number in a file; kUnimplemented, with the name where there is one, for those that are not supported.
[[nodiscard]] Result<Type> TypeFromNumber(std::uint32_t number);
// The inverse.
[[nodiscard]] std::uint32_t TypeNumber(Type type);

struct Tensor {
  std::string_view name;
  Type type = Type::kF32;
  // Row-major: the last extent is that of neighbouring elements, a multiple of BlockElements(type). (Files have the
  // reverse order.) 1 to kMaxDimensions extents, none of them 0.
  std::vector<std::uint64_t> shape;
  // Exactly the elements, in whole blocks; at a multiple of the file's alignment from the beginning of its data.
  std::span<const std::uint8_t> bytes;
  std::uint64_t offset = 0;  // in the file
};

enum class ValueType : std::uint8_t {  // numbered as in files
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
// "uint32", "string", ...
[[nodiscard]] std::string_view ValueTypeName(ValueType type);

// One value of the metadata: a view of its bytes in the file.
class Value {
 public:
  [[nodiscard]] ValueType type() const { return type_; }
  [[nodiscard]] ValueType element_type() const { return element_type_; }  // arrays only
  [[nodiscard]] std::uint64_t count() const { return count_; }            // arrays only
  [[nodiscard]] std::uint64_t offset() const { return offset_; }          // of its bytes in the file

  // Nothing if it is of another type. Whole numbers of any width, where they fit; floats of both widths, with NaN and
  // infinity as they are. Strings may hold any bytes.
  [[nodiscard]] std::optional<std::uint64_t> AsUnsigned() const;
  [[nodiscard]] std::optional<std::int64_t> AsSigned() const;
  [[nodiscard]] std::optional<double> AsFloat() const;
  [[nodiscard]] std::optional<bool> AsBool() const;
  [[nodiscard]] std::optional<std::string_view> AsString() const;
  // Of an array, in order; nothing also if there are more than `max_count`.
  [[nodiscard]] std::optional<std::vector<Value>> AsArray(std::uint64_t max_count) const;
  // "array of 12 string", "uint32 7", "string \"llama\"" (its beginning): for messages.
  [[nodiscard]] std::string Shown() const;

 private:
  friend class Reader;

  ValueType type_ = ValueType::kU8;
  ValueType element_type_ = ValueType::kU8;
  std::uint64_t count_ = 0;
  std::uint64_t offset_ = 0;
  std::span<const std::uint8_t> bytes_;  // of a string its characters, of an array its elements
};

class File {
 public:
  [[nodiscard]] static Result<File> Open(const std::filesystem::path& path);
  // Of bytes in memory, which must outlive the file and its copies. `name` stands before every message.
  [[nodiscard]] static Result<File> Parse(std::span<const std::uint8_t> bytes, std::string_view name);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::uint32_t version() const { return version_; }
  [[nodiscard]] std::uint32_t alignment() const { return alignment_; }
  [[nodiscard]] std::uint64_t data_offset() const { return data_offset_; }
  [[nodiscard]] const std::map<std::string_view, Value>& metadata() const { return metadata_; }
  // In the order of their data.
  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }

  // nullptr if there is none.
  [[nodiscard]] const Value* Find(std::string_view key) const;
  [[nodiscard]] const Tensor* FindTensor(std::string_view tensor) const;

  // A value that has to be there: a whole number of any width that is at most `max`, a finite float of either width,
  // ...
  [[nodiscard]] Result<std::uint64_t> Unsigned(std::string_view key, std::uint64_t max) const;
  [[nodiscard]] Result<double> Float(std::string_view key) const;
  [[nodiscard]] Result<bool> Bool(std::string_view key) const;
  [[nodiscard]] Result<std::string_view> String(std::string_view key) const;
  [[nodiscard]] Result<std::vector<std::string_view>> Strings(std::string_view key, std::uint64_t max_count) const;
  [[nodiscard]] Result<std::vector<std::int64_t>> Integers(std::string_view key, std::uint64_t max_count) const;
  // As of files::MappedFile; nothing for Parse.
  void ReleasePages() const {
    if (mapping_ != nullptr) mapping_->ReleasePages();
  }

 private:
  friend class Reader;

  [[nodiscard]] Result<const Value*> Require(std::string_view key, std::string_view expected) const;

  std::string name_;
  std::uint32_t version_ = 0;
  std::uint32_t alignment_ = kDefaultAlignment;
  std::uint64_t data_offset_ = 0;
  std::map<std::string_view, Value> metadata_;
  std::vector<Tensor> tensors_;
  std::map<std::string_view, std::size_t> tensor_by_name_;
  std::shared_ptr<const files::MappedFile> mapping_;  // nullptr for Parse
};

}  // namespace holo::gguf
