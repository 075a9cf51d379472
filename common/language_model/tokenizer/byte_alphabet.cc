#include "common/language_model/tokenizer/byte_alphabet.h"

#include <array>

#include "common/language_model/tokenizer/utf8.h"

namespace holo::tokenizer {
namespace {

constexpr char32_t kFirstStandIn = 0x100;

constexpr bool IsItself(std::uint32_t byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
}

// The bytes that are not themselves, in rising order.
constexpr std::array<std::uint8_t, 68> kStandIns = [] {
  std::array<std::uint8_t, 68> bytes{};
  std::size_t count = 0;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    if (!IsItself(byte)) bytes[count++] = static_cast<std::uint8_t>(byte);
  }
  return bytes;
}();

}  // namespace

std::string AlphabetOfByte(std::uint8_t byte) {
  char32_t code_point = byte;
  if (!IsItself(byte)) {
    std::size_t index = 0;
    while (kStandIns[index] != byte) ++index;
    code_point = kFirstStandIn + static_cast<char32_t>(index);
  }
  std::string text;
  AppendUtf8(code_point, text);
  return text;
}

std::optional<std::string> BytesOfAlphabet(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const char32_t c = character.code_point;
    if (character.kind != Character::Kind::kWhole) return std::nullopt;
    if (c < 0x100 && IsItself(c)) {
      bytes.push_back(static_cast<char>(c));
    } else if (c >= kFirstStandIn && c < kFirstStandIn + kStandIns.size()) {
      bytes.push_back(static_cast<char>(kStandIns[c - kFirstStandIn]));
    } else {
      return std::nullopt;
    }
    text.remove_prefix(character.bytes);
  }
  return bytes;
}

}  // namespace holo::tokenizer
