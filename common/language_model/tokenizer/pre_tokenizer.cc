#include "common/language_model/tokenizer/pre_tokenizer.h"

#include <utf8proc.h>

#include <array>

#include "common/language_model/tokenizer/utf8.h"

namespace holo::tokenizer {
namespace {

// What the patterns tell apart.
enum class Class : std::uint8_t { kLetter, kNumber, kSpace, kOther };

// Unicode's property White_Space, which \s means; utf8proc does not have it.
bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Class ClassOf(char32_t code_point) {
  if (IsWhiteSpace(code_point)) return Class::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Class::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Class::kNumber;
    default:
      return Class::kOther;
  }
}

const std::array<Class, 128>& AsciiClasses() {
  static const std::array<Class, 128> classes = [] {
    std::array<Class, 128> table{};
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = ClassOf(static_cast<char32_t>(i));
    return table;
  }();
  return classes;
}

struct Unit {
  Class char_class = Class::kOther;
  std::size_t bytes = 1;
};

// The first character of `text`, which is not empty; a byte that is no UTF-8 is one of class kOther.
class Classifier {
 public:
  [[nodiscard]] Unit First(std::string_view text) const {
    const auto lead = static_cast<std::uint8_t>(text.front());
    if (lead < 0x80) return {ascii_[lead], 1};
    const Character character = FirstCharacter(text);
    if (character.kind != Character::Kind::kWhole) return {};
    return {ClassOf(character.code_point), character.bytes};
  }

 private:
  const std::array<Class, 128>& ascii_ = AsciiClasses();
};

// The length of 's, 't, 're, 've, 'm, 'll or 'd at the start of `text`, otherwise 0.
std::size_t Contraction(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  if (std::string_view("stmd").find(text[1]) != std::string_view::npos) return 2;
  const std::string_view two = text.substr(1, 2);
  return two == "re" || two == "ve" || two == "ll" ? 3 : 0;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::size_t FirstGpt2Word(std::string_view text) {
  if (const std::size_t length = Contraction(text)) return length;
  const Classifier classifier;
  std::size_t at = 0;
  Unit unit = classifier.First(text);
  // One space may begin a word that is no space.
  if (text[0] == ' ' && text.size() > 1) {
    const Unit next = classifier.First(text.substr(1));
    if (next.char_class != Class::kSpace) {
      unit = next;
      at = 1;
    }
  }
  const Class run = unit.char_class;
  std::size_t last_bytes = 0;
  while (unit.char_class == run) {
    at += unit.bytes;
    last_bytes = unit.bytes;
    if (at == text.size()) return at;
    unit = classifier.First(text.substr(at));
  }
  // \s+(?!\S) leaves the last space to the word after it, unless that leaves nothing.
  if (run == Class::kSpace && at > last_bytes) return at - last_bytes;
  return at;
}

}  // namespace

std::size_t FirstWord(PreTokenizer pre_tokenizer, std::string_view text) {
  switch (pre_tokenizer) {
    case PreTokenizer::kGpt2:
      return FirstGpt2Word(text);
  }
  return text.size();
}

}  // namespace holo::tokenizer
