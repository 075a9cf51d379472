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
// With `numbers_stand_alone` each number is a word, and where one follows the text ends for the pattern.
std::size_t FirstGpt2Word(std::string_view text, bool numbers_stand_alone) {
  if (const std::size_t length = Contraction(text)) return length;
  const Classifier classifier;
  const auto is_end = [&](Unit unit) { return numbers_stand_alone && unit.char_class == Class::kNumber; };
  std::size_t at = 0;
  Unit unit = classifier.First(text);
  if (is_end(unit)) return unit.bytes;
  // One space may begin a word that is no space.
  if (text[0] == ' ' && text.size() > 1) {
    const Unit next = classifier.First(text.substr(1));
    if (is_end(next)) return 1;
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
    if (is_end(unit)) return at;
  }
  // \s+(?!\S) leaves the last space to the word after it, unless that leaves nothing.
  if (run == Class::kSpace && at > last_bytes) return at - last_bytes;
  return at;
}

// The length of (?i:'s|'t|'re|'ve|'m|'ll|'d) at the start of `text`, otherwise 0.
std::size_t ContractionOfAnyCase(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  // U+017F, the long s, is an s when case is ignored.
  if (text.substr(1, 2) == "\xC5\xBF") return 3;
  const auto lower = [&](std::size_t i) -> char {
    const char c = i < text.size() ? text[i] : '\0';
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  };
  if (std::string_view("stmd").find(lower(1)) != std::string_view::npos) return 2;
  const char two[] = {lower(1), lower(2)};
  const std::string_view pair(two, 2);
  return pair == "re" || pair == "ve" || pair == "ll" ? 3 : 0;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
std::size_t FirstLlama3Word(std::string_view text) {
  if (const std::size_t length = ContractionOfAnyCase(text)) return length;
  const Classifier classifier;
  constexpr std::size_t kAll = std::string_view::npos;
  // The end of the run of at most `most` characters of class `run` that begins at `at`.
  const auto end_of_run = [&](std::size_t at, Class run, std::size_t most) {
    for (; most > 0 && at < text.size(); --most) {
      const Unit unit = classifier.First(text.substr(at));
      if (unit.char_class != run) break;
      at += unit.bytes;
    }
    return at;
  };
  const auto is_line_end = [&](std::size_t at) { return text[at] == '\r' || text[at] == '\n'; };
  const Unit first = classifier.First(text);
  if (first.char_class == Class::kLetter) return end_of_run(0, Class::kLetter, kAll);
  if (first.char_class == Class::kNumber) return end_of_run(0, Class::kNumber, 3);
  Unit second{Class::kSpace, 0};
  if (first.bytes < text.size()) second = classifier.First(text.substr(first.bytes));
  if (second.char_class == Class::kLetter && !is_line_end(0)) return end_of_run(first.bytes, Class::kLetter, kAll);
  if (first.char_class == Class::kOther || (text[0] == ' ' && second.char_class == Class::kOther)) {
    std::size_t at = end_of_run(first.bytes, Class::kOther, kAll);
    while (at < text.size() && is_line_end(at)) ++at;
    return at;
  }
  // A run of spaces: to its last line end, or else to its end, which leaves the last space to what follows.
  std::size_t at = 0;
  std::size_t last = 0;
  std::size_t line_end = 0;
  while (at < text.size()) {
    const Unit unit = classifier.First(text.substr(at));
    if (unit.char_class != Class::kSpace) break;
    if (is_line_end(at)) line_end = at + 1;
    last = at;
    at += unit.bytes;
  }
  if (line_end > 0) return line_end;
  return at < text.size() && last > 0 ? last : at;
}

}  // namespace

std::size_t FirstWord(PreTokenizer pre_tokenizer, std::string_view text) {
  switch (pre_tokenizer) {
    case PreTokenizer::kGpt2:
      return FirstGpt2Word(text, false);
    case PreTokenizer::kSmolLm2:
      return FirstGpt2Word(text, true);
    case PreTokenizer::kLlama3:
      return FirstLlama3Word(text);
  }
  return text.size();
}

}  // namespace holo::tokenizer
