// The one bounds-checked reader and writer of bytes, and their checksums. Every parser in the project reads through
// ByteReader.
//
// All integers are little-endian; a varint is LEB128 (7 bits a byte, lowest first, at most 10 bytes, the shortest form
// only). Neither class owns its bytes when reading; the span must outlive the reader. Not synchronised: one thread at a
// time per object.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"

namespace holo::bytes {

// Reads forward through a span. Every error is kDataLoss and names `what`, the offset, what was needed and what was
// left.
class ByteReader {
 public:
  // `what` names the input in errors ("asset header"); it must outlive the reader.
  explicit ByteReader(std::span<const std::uint8_t> data, std::string_view what) : data_(data), what_(what) {}

  [[nodiscard]] std::size_t offset() const { return offset_; }
  [[nodiscard]] std::size_t remaining() const { return data_.size() - offset_; }

  [[nodiscard]] Result<std::uint8_t> ReadU8();
  [[nodiscard]] Result<std::uint16_t> ReadU16();
  [[nodiscard]] Result<std::uint32_t> ReadU32();
  [[nodiscard]] Result<std::uint64_t> ReadU64();
  // A float32 by its bits; NaN and infinity are refused.
  [[nodiscard]] Result<float> ReadFiniteF32();
  // A varint of at most `limit`.
  [[nodiscard]] Result<std::uint64_t> ReadVarint(std::uint64_t limit = UINT64_MAX);
  // The next `count` bytes, still owned by the input.
  [[nodiscard]] Result<std::span<const std::uint8_t>> ReadSpan(std::size_t count);
  // Fails unless the input is consumed exactly.
  [[nodiscard]] Result<void> ExpectEnd() const;

 private:
  [[nodiscard]] Result<void> Need(std::size_t count) const;

  std::span<const std::uint8_t> data_;
  std::string_view what_;
  std::size_t offset_ = 0;
};

// Appends to a vector that it owns.
class ByteWriter {
 public:
  void WriteU8(std::uint8_t value) { out_.push_back(value); }
  void WriteU16(std::uint16_t value);
  void WriteU32(std::uint32_t value);
  void WriteU64(std::uint64_t value);
  void WriteF32(float value);
  void WriteVarint(std::uint64_t value);
  void WriteSpan(std::span<const std::uint8_t> data) { out_.insert(out_.end(), data.begin(), data.end()); }

  [[nodiscard]] std::size_t size() const { return out_.size(); }
  [[nodiscard]] const std::vector<std::uint8_t>& bytes() const { return out_; }
  [[nodiscard]] std::vector<std::uint8_t> Take() { return std::move(out_); }

 private:
  std::vector<std::uint8_t> out_;
};

// Encoded length of `value` as a varint, 1 to 10.
[[nodiscard]] std::size_t VarintSize(std::uint64_t value);

// CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320, as in zlib and PNG) of `data`; pass an earlier result to
// continue.
[[nodiscard]] std::uint32_t Crc32(std::span<const std::uint8_t> data, std::uint32_t crc = 0);

// SHA-256 (FIPS 180-4) of `data`.
[[nodiscard]] std::array<std::uint8_t, 32> Sha256(std::span<const std::uint8_t> data);

// Two lower-case digits a byte.
[[nodiscard]] std::string ToHex(std::span<const std::uint8_t> data);
// The inverse; kInvalidArgument for odd length or a character that is no hexadecimal digit.
[[nodiscard]] Result<std::vector<std::uint8_t>> FromHex(std::string_view text);

}  // namespace holo::bytes
