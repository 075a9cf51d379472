#include "common/bytes/bytes.h"

#include <array>
#include <bit>
#include <cmath>

namespace holo::bytes {
namespace {

// [n][b]: what a byte b does to a CRC once n more bytes have followed.
constexpr std::size_t kCrcSlices = 8;
using CrcTables = std::array<std::array<std::uint32_t, 256>, kCrcSlices>;
CrcTables MakeCrcTables() {
  CrcTables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0xEDB88320u : 0u);
    tables[0][byte] = value;
  }
  for (std::size_t n = 1; n < kCrcSlices; ++n) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[n - 1][byte];
      tables[n][byte] = before >> 8 ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

Result<void> ByteReader::Need(std::size_t count) const {
  if (count <= remaining()) return {};
  return Fail(Code::kDataLoss, std::string(what_) + ": expected " + std::to_string(count) + " bytes at offset " +
                                   std::to_string(offset_) + ", found " + std::to_string(remaining()));
}

Result<std::uint8_t> ByteReader::ReadU8() {
  HOLO_RETURN_IF_ERROR(Need(1));
  return data_[offset_++];
}

Result<std::uint16_t> ByteReader::ReadU16() {
  HOLO_RETURN_IF_ERROR(Need(2));
  const auto value = static_cast<std::uint16_t>(data_[offset_] | data_[offset_ + 1] << 8);
  offset_ += 2;
  return value;
}

Result<std::uint32_t> ByteReader::ReadU32() {
  HOLO_RETURN_IF_ERROR(Need(4));
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value |= static_cast<std::uint32_t>(data_[offset_ + i]) << (8 * i);
  offset_ += 4;
  return value;
}

Result<std::uint64_t> ByteReader::ReadU64() {
  HOLO_RETURN_IF_ERROR(Need(8));
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i) value |= static_cast<std::uint64_t>(data_[offset_ + i]) << (8 * i);
  offset_ += 8;
  return value;
}

Result<float> ByteReader::ReadFiniteF32() {
  const std::size_t at = offset_;
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t bits, ReadU32());
  const auto value = std::bit_cast<float>(bits);
  if (!std::isfinite(value)) {
    return Fail(Code::kDataLoss, std::string(what_) + ": expected a finite number at offset " + std::to_string(at) +
                                     ", found NaN or infinity");
  }
  return value;
}

Result<std::uint64_t> ByteReader::ReadVarint(std::uint64_t limit) {
  const std::size_t at = offset_;
  std::uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    HOLO_ASSIGN_OR_RETURN(const std::uint8_t byte, ReadU8());
    const bool overflows = shift == 63 && byte > 1;
    const bool padded = shift > 0 && byte == 0;
    if (overflows || padded) {
      return Fail(Code::kDataLoss, std::string(what_) + ": expected a varint in its shortest form at offset " +
                                       std::to_string(at) +
                                       (overflows ? ", found more than 64 bits" : ", found padding"));
    }
    value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) break;
  }
  if (value > limit) {
    return Fail(Code::kDataLoss, std::string(what_) + ": expected at most " + std::to_string(limit) + " at offset " +
                                     std::to_string(at) + ", found " + std::to_string(value));
  }
  return value;
}

Result<std::span<const std::uint8_t>> ByteReader::ReadSpan(std::size_t count) {
  HOLO_RETURN_IF_ERROR(Need(count));
  const std::span<const std::uint8_t> span = data_.subspan(offset_, count);
  offset_ += count;
  return span;
}

Result<void> ByteReader::ExpectEnd() const {
  if (remaining() == 0) return {};
  return Fail(Code::kDataLoss, std::string(what_) + ": expected the end at offset " + std::to_string(offset_) +
                                   ", found " + std::to_string(remaining()) + " more bytes");
}

void ByteWriter::WriteU16(std::uint16_t value) {
  for (unsigned i = 0; i < 2; ++i) out_.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

void ByteWriter::WriteU32(std::uint32_t value) {
  for (unsigned i = 0; i < 4; ++i) out_.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

void ByteWriter::WriteU64(std::uint64_t value) {
  for (unsigned i = 0; i < 8; ++i) out_.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

void ByteWriter::WriteF32(float value) {
  WriteU32(std::bit_cast<std::uint32_t>(value));
}

void ByteWriter::WriteVarint(std::uint64_t value) {
  while (value >= 0x80) {
    out_.push_back(static_cast<std::uint8_t>(value | 0x80));
    value >>= 7;
  }
  out_.push_back(static_cast<std::uint8_t>(value));
}

std::size_t VarintSize(std::uint64_t value) {
  std::size_t size = 1;
  while (value >= 0x80) {
    value >>= 7;
    ++size;
  }
  return size;
}

std::uint32_t Crc32(std::span<const std::uint8_t> data, std::uint32_t crc) {
  // Eight bytes at a time: Kounavis and Berry, "A systematic approach to building high performance software-based CRC
  // generators", 2005. Made when first needed, as the tables would be a good part of the browser's module.
  static const CrcTables tables = MakeCrcTables();
  crc = ~crc;
  for (; data.size() >= kCrcSlices; data = data.subspan(kCrcSlices)) {
    std::uint32_t next = 0;
    for (std::size_t i = 0; i < kCrcSlices; ++i) {
      const std::uint32_t of_crc = i < sizeof crc ? crc >> 8 * i : 0;
      next ^= tables[kCrcSlices - 1 - i][(of_crc ^ data[i]) & 0xFF];
    }
    crc = next;
  }
  for (const std::uint8_t byte : data) crc = tables[0][(crc ^ byte) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

std::string ToHex(std::span<const std::uint8_t> data) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(data.size() * 2);
  for (const std::uint8_t byte : data) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Result<std::vector<std::uint8_t>> FromHex(std::string_view text) {
  if (text.size() % 2 != 0) {
    return Fail(Code::kInvalidArgument,
                "hexadecimal: expected an even number of digits, found " + std::to_string(text.size()));
  }
  std::vector<std::uint8_t> data;
  data.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = HexDigit(text[i]);
    const int low = HexDigit(text[i + 1]);
    if (high < 0 || low < 0) {
      return Fail(Code::kInvalidArgument, "hexadecimal: expected digits 0-9 a-f at position " + std::to_string(i));
    }
    data.push_back(static_cast<std::uint8_t>(high * 16 + low));
  }
  return data;
}

}  // namespace holo::bytes
