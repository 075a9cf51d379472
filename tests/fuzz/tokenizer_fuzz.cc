// The first byte says what the rest is: 0, a tokenizer.json; 1, a vocab.json and, after a zero byte, a merges.txt; 3, a
// GGUF file; otherwise a text for a small tokenizer. Whatever tokenizer comes out has to give back what it encodes.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/language_model/tokenizer/tokenizer.h"

namespace {

using holo::tokenizer::Definition;
using holo::tokenizer::PreTokenizer;
using holo::tokenizer::StreamDecoder;
using holo::tokenizer::Tokenizer;
using holo::tokenizer::ToValidUtf8;

void Require(bool holds) {
  if (!holds) std::abort();
}

void CheckRoundTrip(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text);
  const std::string decoded = tokenizer.Decode(ids).value();
  bool has_every_byte = true;
  for (const char byte : text) has_every_byte &= tokenizer.TokenOfByte(static_cast<std::uint8_t>(byte)).has_value();
  Require(has_every_byte ? decoded == text : decoded.size() <= text.size());
  StreamDecoder decoder(tokenizer);
  std::string streamed;
  for (const auto id : ids) {
    Require(!tokenizer.IsSpecial(id));
    const std::string part = decoder.Push(id).value();
    Require(ToValidUtf8(part) == part);
    streamed += part;
  }
  Require(streamed + decoder.Finish() == ToValidUtf8(decoded));
  // The same tokens where no special one is written out, and any special ones otherwise.
  std::vector<holo::tokenizer::TokenId> with_special;
  tokenizer.EncodeWithSpecial(text, with_special);
  Require(tokenizer.Decode(with_special).has_value());
  Require(!has_every_byte || tokenizer.Decode(with_special).value() == text);
}

const Tokenizer& Small(PreTokenizer pre_tokenizer) {
  const auto make = [](PreTokenizer of) {
    Definition definition;
    definition.pre_tokenizer = of;
    // The byte alphabet: printable bytes are themselves, the others U+0100 and up.
    std::uint32_t stand_in = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool is_itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
      const std::uint32_t c = is_itself ? byte : stand_in++;
      std::string text(1, static_cast<char>(c));
      if (c >= 0x80) text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
      definition.tokens.push_back({text, byte});
    }
    for (const auto& [left, right] : {std::pair("e", "r"),
                                      {"\u0120", "t"},
                                      {"\u0120t", "h"},
                                      {"\u0120", "\u0120"},
                                      {"\u0120\u0120", "\u0120\u0120"},
                                      {"er", "er"},
                                      {"\u00C3", "\u00A9"}}) {
      definition.merges.emplace_back(left, right);
      definition.tokens.push_back({std::string(left) + right, static_cast<std::uint32_t>(definition.tokens.size())});
    }
    return Tokenizer::Create(definition, "small").value();
  };
  static const Tokenizer all[] = {make(PreTokenizer::kGpt2), make(PreTokenizer::kSmolLm2), make(PreTokenizer::kLlama3)};
  return all[static_cast<std::size_t>(pre_tokenizer)];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> rest(data + 1, size - 1);
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), rest.size());
  if (data[0] == 0) {
    const auto tokenizer = Tokenizer::FromTokenizerJson(rest, "input");
    if (tokenizer) CheckRoundTrip(*tokenizer, text);
  } else if (data[0] == 1) {
    const std::size_t zero = std::min(text.find('\0'), text.size());
    const auto tokenizer =
        Tokenizer::FromVocabulary(rest.first(zero), rest.subspan(std::min(zero + 1, rest.size())), "input");
    if (tokenizer) CheckRoundTrip(*tokenizer, text);
  } else if (data[0] == 3) {
    const auto file = holo::gguf::File::Parse(rest, "input");
    if (!file) return 0;
    const auto tokenizer = Tokenizer::FromGguf(*file);
    if (tokenizer) CheckRoundTrip(*tokenizer, text);
  } else {
    for (const PreTokenizer pre_tokenizer : {PreTokenizer::kGpt2, PreTokenizer::kSmolLm2, PreTokenizer::kLlama3}) {
      CheckRoundTrip(Small(pre_tokenizer), text);
    }
  }
  return 0;
}
