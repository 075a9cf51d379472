#include "common/bytes/bytes.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "common/bytes/sha256.h"

namespace holo::bytes {
namespace {

TEST_CASE("what is written is read back, little-endian") {
  ByteWriter writer;
  writer.WriteU8(0x01);
  writer.WriteU16(0x0203);
  writer.WriteU32(0x04050607);
  writer.WriteU64(0x08090A0B0C0D0E0F);
  writer.WriteF32(-1.5f);
  writer.WriteVarint(300);
  CHECK(ToHex(writer.bytes()) == "010302070605040f0e0d0c0b0a09080000c0bfac02");

  ByteReader reader(writer.bytes(), "test");
  CHECK(reader.ReadU8().value() == 0x01);
  CHECK(reader.ReadU16().value() == 0x0203);
  CHECK(reader.ReadU32().value() == 0x04050607);
  CHECK(reader.ReadU64().value() == 0x08090A0B0C0D0E0F);
  CHECK(reader.ReadFiniteF32().value() == -1.5f);
  CHECK(reader.ReadVarint().value() == 300);
  CHECK(reader.ExpectEnd().has_value());
}

TEST_CASE("reading past the end says what was expected, found and where") {
  const std::vector<std::uint8_t> data = {1, 2, 3};
  ByteReader reader(data, "asset header");
  CHECK(reader.ReadU16().has_value());
  const auto failed = reader.ReadU32();
  REQUIRE_FALSE(failed.has_value());
  CHECK(failed.error().code == Code::kDataLoss);
  CHECK(failed.error().message == "asset header: expected 4 bytes at offset 2, found 1");
  CHECK(reader.remaining() == 1);
  CHECK_FALSE(reader.ExpectEnd().has_value());
  CHECK_FALSE(reader.ReadSpan(std::numeric_limits<std::size_t>::max()).has_value());
}

TEST_CASE("varints round-trip and have one form only") {
  const std::uint64_t values[] = {0, 1, 127, 128, 16383, 16384, 1u << 31, UINT64_MAX};
  for (const std::uint64_t value : values) {
    CAPTURE(value);
    ByteWriter writer;
    writer.WriteVarint(value);
    CHECK(writer.size() == VarintSize(value));
    ByteReader reader(writer.bytes(), "test");
    CHECK(reader.ReadVarint().value() == value);
    for (std::size_t cut = 0; cut < writer.size(); ++cut) {
      const std::vector<std::uint8_t> prefix(writer.bytes().begin(),
                                             writer.bytes().begin() + static_cast<std::ptrdiff_t>(cut));
      CHECK_FALSE(ByteReader(prefix, "test").ReadVarint().has_value());
    }
  }
  const std::vector<std::uint8_t> padded = {0x80, 0x00};
  CHECK_FALSE(ByteReader(padded, "test").ReadVarint().has_value());
  const std::vector<std::uint8_t> too_long(10, 0xFF);
  CHECK_FALSE(ByteReader(too_long, "test").ReadVarint().has_value());
  const std::vector<std::uint8_t> nine = {9};
  CHECK_FALSE(ByteReader(nine, "test").ReadVarint(8).has_value());
}

TEST_CASE("a number that is not finite is refused") {
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    ByteWriter writer;
    writer.WriteF32(value);
    CHECK_FALSE(ByteReader(writer.bytes(), "test").ReadFiniteF32().has_value());
  }
}

TEST_CASE("CRC-32 has the check value of its definition and can be continued") {
  const std::vector<std::uint8_t> digits = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
  CHECK(Crc32(digits) == 0xCBF43926u);
  const std::span<const std::uint8_t> all = digits;
  CHECK(Crc32(all.subspan(4), Crc32(all.first(4))) == 0xCBF43926u);
}

TEST_CASE("CRC-32 of many bytes at a time is that of one after the other") {
  std::mt19937 random(1);
  std::vector<std::uint8_t> data(100);
  for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random());
  const std::span<const std::uint8_t> all = data;
  std::uint32_t one_by_one = 0;
  for (std::size_t size = 1; size <= all.size(); ++size) {
    one_by_one = Crc32(all.subspan(size - 1, 1), one_by_one);
    CHECK(Crc32(all.first(size)) == one_by_one);
  }
}

TEST_CASE("SHA-256 has the values of FIPS 180-4's examples") {
  struct Row {
    const char* name;
    std::string message;
    const char* digest;
  };
  const Row rows[] = {
      {"empty", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"one block", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"two blocks", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"a million", std::string(1'000'000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const std::vector<std::uint8_t> message(row.message.begin(), row.message.end());
    CHECK(ToHex(Sha256(message)) == row.digest);
    CHECK(ToHex(plain::Sha256(message)) == row.digest);
  }
}

TEST_CASE("SHA-256 pads messages of every length modulo a block") {
  std::vector<std::uint8_t> message;
  std::vector<std::uint8_t> digests;
  for (std::size_t i = 0; i <= 300; ++i) {
    const auto digest = Sha256(message);
    CHECK(digest == plain::Sha256(message));
    digests.insert(digests.end(), digest.begin(), digest.end());
    message.push_back(static_cast<std::uint8_t>(i * 37 + 11));
  }
  // Computed with Python's hashlib.
  CHECK(ToHex(Sha256(digests)) == "04fb0a96a55968fbda07295fecba14af486380896cc1d6946aa2da7478e5d0ba");
}

TEST_CASE("hexadecimal round-trips and refuses what is not") {
  const std::vector<std::uint8_t> data = {0x00, 0x9A, 0xFF};
  CHECK(ToHex(data) == "009aff");
  CHECK(FromHex("009AfF").value() == data);
  CHECK_FALSE(FromHex("123").has_value());
  CHECK_FALSE(FromHex("0g").has_value());
}

}  // namespace
}  // namespace holo::bytes
