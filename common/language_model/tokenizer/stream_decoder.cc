#include <utility>

#include "common/language_model/tokenizer/tokenizer.h"
#include "common/language_model/tokenizer/utf8.h"

namespace holo::tokenizer {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Appends the characters of `bytes` to `out`; returns how many bytes at the end are the beginning of a character.
std::size_t AppendCharacters(std::string_view bytes, std::string& out) {
  while (!bytes.empty()) {
    const Character character = FirstCharacter(bytes);
    if (character.kind == Character::Kind::kUnfinished) break;
    out += character.kind == Character::Kind::kWhole ? bytes.substr(0, character.bytes) : kReplacement;
    bytes.remove_prefix(character.bytes);
  }
  return bytes.size();
}

}  // namespace

Result<std::string> StreamDecoder::Push(TokenId id) {
  if (!tokenizer_->IsToken(id)) {
    return Fail(Code::kInvalidArgument, "decode: expected the number of a token, found " + std::to_string(id));
  }
  pending_ += tokenizer_->Bytes(id);
  std::string text;
  const std::size_t left = AppendCharacters(pending_, text);
  pending_.erase(0, pending_.size() - left);
  return text;
}

std::string StreamDecoder::Finish() {
  return std::string(std::exchange(pending_, {}).empty() ? "" : kReplacement);
}

std::string ToValidUtf8(std::string_view bytes) {
  std::string text;
  if (AppendCharacters(bytes, text) > 0) text += kReplacement;
  return text;
}

}  // namespace holo::tokenizer
