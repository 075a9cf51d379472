// One character of UTF-8 at a time, as RFC 3629 and table 3-7 of the Unicode standard have it: no surrogates, no
// overlong forms, nothing beyond U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace holo::tokenizer {

struct Character {
  enum class Kind : std::uint8_t {
    kWhole,
    // `bytes` bytes that begin no character, or the beginning of one that something else follows.
    kInvalid,
    // The text ends inside a character, after `bytes` bytes of it.
    kUnfinished,
  };
  Kind kind = Kind::kInvalid;
  std::uint8_t bytes = 1;  // at least 1
  char32_t code_point = 0;
};

// The character at the start of `text`, which is not empty.
inline Character FirstCharacter(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {Character::Kind::kWhole, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {};
  const std::uint8_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range is narrower after four lead bytes.
  const std::uint8_t second_min = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const std::uint8_t second_max = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code_point = lead & (0x7Fu >> length);
  for (std::uint8_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Character::Kind::kUnfinished, i, 0};
    const bool continues = i == 1 ? byte(1) >= second_min && byte(1) <= second_max : (byte(i) & 0xC0) == 0x80;
    if (!continues) return {Character::Kind::kInvalid, i, 0};
    code_point = code_point << 6 | (byte(i) & 0x3Fu);
  }
  return {Character::Kind::kWhole, length, code_point};
}

inline void AppendUtf8(char32_t code_point, std::string& out) {
  const auto put = [&](std::uint32_t value) { out.push_back(static_cast<char>(value)); };
  const std::uint32_t c = code_point;
  if (c < 0x80) {
    put(c);
    return;
  }
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xE0 | c >> 12);
    } else {
      put(0xF0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3F));
    }
    put(0x80 | (c >> 6 & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

}  // namespace holo::tokenizer
