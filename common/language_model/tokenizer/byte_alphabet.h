// GPT-2's byte alphabet: vocabularies write every byte as one printable character.
//
// The bytes 33-126, 161-172 and 174-255 are the characters of those numbers; the other 68, in rising order, are U+0100,
// U+0101, ... So a space is U+0120 and a line feed U+010A.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace holo::tokenizer {

// The character of `byte`, as UTF-8.
[[nodiscard]] std::string AlphabetOfByte(std::uint8_t byte);

// The bytes that the characters of `text` stand for; nothing if one of them is not in the alphabet.
[[nodiscard]] std::optional<std::string> BytesOfAlphabet(std::string_view text);

}  // namespace holo::tokenizer
