// Byte-pair encoding over tables that are built once.
#include "common/language_model/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <map>
#include <unordered_map>

#include "common/language_model/tokenizer/byte_alphabet.h"
#include "common/language_model/tokenizer/pre_tokenizer.h"
#include "common/language_model/tokenizer/utf8.h"

namespace holo::tokenizer {
namespace {

constexpr std::uint32_t kNone = UINT32_MAX;

// Longer words are not looked up as a whole: tokens of that length are rare, and it bounds what building costs.
constexpr std::size_t kMaxWholeWordBytes = 64;

std::string Quoted(std::string_view text) {
  return "\"" + ToValidUtf8(text.substr(0, 100)) + "\"";
}

std::uint64_t Mix(std::uint64_t value) {
  value *= 0x9E3779B97F4A7C15u;
  return value ^ value >> 32;
}

std::uint64_t HashBytes(std::string_view bytes) {
  std::uint64_t hash = bytes.size();
  while (bytes.size() >= 8) {
    std::uint64_t part = 0;
    std::memcpy(&part, bytes.data(), 8);
    hash = Mix(hash ^ part);
    bytes.remove_prefix(8);
  }
  std::uint64_t part = 0;
  for (const char byte : bytes) part = part << 8 | static_cast<std::uint8_t>(byte);
  return Mix(hash ^ part);
}

// Two neighbouring symbols -> their place in the list of merges, and what they become. Open addressing, at most half
// full.
class MergeTable {
 public:
  struct Entry {
    std::uint64_t pair = kEmpty;
    std::uint32_t rank = kNone;
    TokenId result = 0;
  };

  void Reserve(std::size_t count) { entries_.resize(std::bit_ceil(2 * count + 1)); }

  // Keeps the earlier one of two merges of the same pair.
  void Insert(TokenId left, TokenId right, std::uint32_t rank, TokenId result) {
    Entry& entry = entries_[Slot(left, right)];
    if (entry.pair == kEmpty) entry = {Pair(left, right), rank, result};
  }

  // Its rank is kNone if the pair is not in the list.
  [[nodiscard]] const Entry& Find(TokenId left, TokenId right) const { return entries_[Slot(left, right)]; }

 private:
  // No pair: token numbers stay far below.
  static constexpr std::uint64_t kEmpty = UINT64_MAX;

  static std::uint64_t Pair(TokenId left, TokenId right) { return std::uint64_t{left} << 32 | right; }

  [[nodiscard]] std::size_t Slot(TokenId left, TokenId right) const {
    const std::uint64_t pair = Pair(left, right);
    const std::size_t mask = entries_.size() - 1;
    std::size_t slot = Mix(Mix(pair)) & mask;
    while (entries_[slot].pair != pair && entries_[slot].pair != kEmpty) slot = (slot + 1) & mask;
    return slot;
  }

  std::vector<Entry> entries_;
};

// The symbols of one word while they are merged; kept from word to word for its memory.
struct Workspace {
  struct Symbol {
    TokenId id = 0;
    std::uint32_t next = 0;      // index; the number of symbols after the last one
    std::uint32_t previous = 0;  // kNone before the first one
    std::uint32_t rank = kNone;  // of merging it with the next one; kNone if they do not, or it is part of another
    TokenId merged = 0;          // what they become
  };
  std::vector<Symbol> symbols;
  // Rank << 32 | index: a heap with the earliest rank, then the leftmost place, on top. Outdated ones, whose rank is
  // not the symbol's any more, stay until they come up.
  std::vector<std::uint64_t> heap;
};

}  // namespace

struct Tokenizer::Tables {
  struct Token {
    std::uint32_t offset = 0;  // into text
    std::uint32_t bytes = 0;
    bool is_token = false;
    bool is_special = false;
    bool is_in_alphabet = false;  // text can be made of it
  };

  PreTokenizer pre_tokenizer = PreTokenizer::kGpt2;
  std::vector<Token> tokens;  // by number
  std::string text;           // of all tokens
  std::array<TokenId, 256> of_byte{};
  MergeTable merges;
  // Words that are one token in the end. Open addressing, at most half full.
  std::vector<TokenId> whole_words;
  std::size_t longest_whole_word = kMaxWholeWordBytes;
  bool ignores_merges = false;
  std::map<std::string, TokenId, std::less<>> special;
  std::vector<std::size_t> special_lengths;  // each once, the longest first
  std::array<bool, 256> begins_special{};    // by first byte
  std::optional<TokenId> begin_token;
  std::optional<TokenId> end_token;
  bool wants_begin_token = false;

  [[nodiscard]] std::string_view Bytes(TokenId id) const {
    if (id >= tokens.size()) return {};
    return std::string_view(text).substr(tokens[id].offset, tokens[id].bytes);
  }

  [[nodiscard]] Result<void> Add(const Definition::Token& token, std::string_view bytes, bool is_special,
                                 std::string_view name);

  // The slot that holds `word`, or the empty one where it would be.
  [[nodiscard]] std::size_t WholeWordSlot(std::string_view word) const {
    const std::size_t mask = whole_words.size() - 1;
    std::size_t slot = HashBytes(word) & mask;
    while (whole_words[slot] != kNone && Bytes(whole_words[slot]) != word) slot = (slot + 1) & mask;
    return slot;
  }

  void FindWholeWords();
  void MergeWord(std::string_view word, Workspace& workspace, std::vector<TokenId>& out) const;
};

Result<void> Tokenizer::Tables::Add(const Definition::Token& token, std::string_view bytes, bool is_special,
                                    std::string_view name) {
  const auto problem = [&](const std::string& what) {
    return Fail(Code::kDataLoss, std::string(name) + ": token " + Quoted(token.text) + ": " + what);
  };
  if (token.id >= kMaxTokens) {
    return problem("expected a number below " + std::to_string(kMaxTokens) + ", found " + std::to_string(token.id));
  }
  if (bytes.empty() || bytes.size() > kMaxTokenBytes) {
    return problem("expected 1 to " + std::to_string(kMaxTokenBytes) + " bytes, found " + std::to_string(bytes.size()));
  }
  if (token.id >= tokens.size()) tokens.resize(token.id + 1);
  Token& entry = tokens[token.id];
  if (entry.is_token) {
    return problem("expected a number of its own, found that " + std::to_string(token.id) + " is also " +
                   Quoted(Bytes(token.id)));
  }
  entry = {static_cast<std::uint32_t>(text.size()), static_cast<std::uint32_t>(bytes.size()), true, is_special, false};
  text += bytes;
  return {};
}

void Tokenizer::Tables::FindWholeWords() {
  whole_words.assign(std::bit_ceil(2 * tokens.size() + 1), kNone);
  Workspace workspace;
  std::vector<TokenId> parts;
  for (TokenId id = 0; id < tokens.size(); ++id) {
    const std::string_view bytes = Bytes(id);
    if (!tokens[id].is_token || tokens[id].is_special || !tokens[id].is_in_alphabet) continue;
    if (ignores_merges) {
      longest_whole_word = std::max(longest_whole_word, bytes.size());
      whole_words[WholeWordSlot(bytes)] = id;
      continue;
    }
    if (bytes.size() > kMaxWholeWordBytes) continue;
    parts.clear();
    MergeWord(bytes, workspace, parts);
    if (parts.size() == 1 && parts[0] == id) whole_words[WholeWordSlot(bytes)] = id;
  }
}

void Tokenizer::Tables::MergeWord(std::string_view word, Workspace& workspace, std::vector<TokenId>& out) const {
  std::vector<Workspace::Symbol>& symbols = workspace.symbols;
  std::vector<std::uint64_t>& heap = workspace.heap;
  symbols.resize(word.size());
  heap.clear();
  std::uint32_t count = 0;
  for (const char byte : word) {
    const TokenId id = of_byte[static_cast<std::uint8_t>(byte)];
    if (id == kNone) continue;
    symbols[count] = {id, count + 1, count == 0 ? kNone : count - 1, kNone, 0};
    ++count;
  }
  // Notes how the symbol merges with the next one; true if it does.
  const auto note = [&](std::uint32_t at) {
    Workspace::Symbol& symbol = symbols[at];
    symbol.rank = kNone;
    if (symbol.next == count) return false;
    const MergeTable::Entry& merge = merges.Find(symbol.id, symbols[symbol.next].id);
    if (merge.rank == kNone) return false;
    symbol.rank = merge.rank;
    symbol.merged = merge.result;
    heap.push_back(std::uint64_t{merge.rank} << 32 | at);
    return true;
  };
  for (std::uint32_t i = 0; i < count; ++i) note(i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto at = static_cast<std::uint32_t>(heap.back());
    const auto rank = static_cast<std::uint32_t>(heap.back() >> 32);
    heap.pop_back();
    Workspace::Symbol& left = symbols[at];
    if (left.rank != rank) continue;
    Workspace::Symbol& right = symbols[left.next];
    left.id = left.merged;
    left.next = right.next;
    right.rank = kNone;
    if (left.next != count) symbols[left.next].previous = at;
    if (note(at)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    if (left.previous != kNone && note(left.previous)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }
  for (std::uint32_t i = 0; i < count; i = symbols[i].next) out.push_back(symbols[i].id);
}

Tokenizer::Tokenizer(std::unique_ptr<const Tables> tables) : tables_(std::move(tables)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::Create(const Definition& definition, std::string_view name) {
  auto tables = std::make_unique<Tables>();
  tables->pre_tokenizer = definition.pre_tokenizer;
  tables->ignores_merges = definition.ignores_merges;
  if (definition.merges.size() > kMaxMerges) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected at most " + std::to_string(kMaxMerges) +
                                     " merges, found " + std::to_string(definition.merges.size()));
  }

  for (const Definition::Token& token : definition.special_tokens) {
    HOLO_RETURN_IF_ERROR(tables->Add(token, token.text, true, name));
    if (!tables->special.emplace(token.text, token.id).second) {
      return Fail(Code::kDataLoss, std::string(name) + ": special token " + Quoted(token.text) + ": expected once");
    }
    tables->begins_special[static_cast<std::uint8_t>(token.text[0])] = true;
    tables->special_lengths.push_back(token.text.size());
  }
  std::sort(tables->special_lengths.begin(), tables->special_lengths.end(), std::greater<>());
  tables->special_lengths.erase(std::unique(tables->special_lengths.begin(), tables->special_lengths.end()),
                                tables->special_lengths.end());
  std::unordered_map<std::string_view, TokenId> by_text;
  by_text.reserve(definition.tokens.size());
  for (const Definition::Token& token : definition.tokens) {
    if (!by_text.emplace(token.text, token.id).second) {
      return Fail(Code::kDataLoss, std::string(name) + ": token " + Quoted(token.text) + ": expected once");
    }
    const auto special = tables->special.find(token.text);
    if (special != tables->special.end() && special->second == token.id) continue;
    // A text with other characters than the alphabet's is what it says; no merge leads to it.
    const std::optional<std::string> bytes = BytesOfAlphabet(token.text);
    HOLO_RETURN_IF_ERROR(tables->Add(token, bytes.value_or(token.text), false, name));
    tables->tokens[token.id].is_in_alphabet = bytes.has_value();
  }
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const std::string character = AlphabetOfByte(static_cast<std::uint8_t>(byte));
    const auto found = by_text.find(character);
    tables->of_byte[byte] = found == by_text.end() ? kNone : found->second;
    const bool is_common = (byte >= 0x20 && byte < 0x7F) || byte == '\n';
    if (found == by_text.end() && is_common) {
      return Fail(Code::kDataLoss,
                  std::string(name) + ": expected a token for every printable byte, found none for byte " +
                      std::to_string(byte) + " (" + Quoted(character) + "): this is no byte-level vocabulary");
    }
  }

  tables->merges.Reserve(definition.merges.size());
  std::string merged;
  for (std::uint32_t rank = 0; rank < definition.merges.size(); ++rank) {
    const std::string& left = definition.merges[rank].first;
    const std::string& right = definition.merges[rank].second;
    merged = left;
    merged += right;
    const auto token_of = [&](const std::string& text) -> Result<TokenId> {
      const auto found = by_text.find(text);
      if (found != by_text.end()) return found->second;
      return Fail(Code::kDataLoss, std::string(name) + ": merge " + std::to_string(rank + 1) + " of " + Quoted(left) +
                                       " and " + Quoted(right) + ": expected " + Quoted(text) +
                                       " in the vocabulary, found no such token");
    };
    HOLO_ASSIGN_OR_RETURN(const TokenId left_id, token_of(left));
    HOLO_ASSIGN_OR_RETURN(const TokenId right_id, token_of(right));
    HOLO_ASSIGN_OR_RETURN(const TokenId result_id, token_of(merged));
    tables->merges.Insert(left_id, right_id, rank, result_id);
  }
  tables->FindWholeWords();
  for (const auto& [role, id] : {std::pair("begin", definition.begin_token), {"end", definition.end_token}}) {
    if (id && (*id >= tables->tokens.size() || !tables->tokens[*id].is_token)) {
      return Fail(Code::kDataLoss, std::string(name) + ": " + role + " token: expected the number of a token, found " +
                                       std::to_string(*id));
    }
  }
  tables->begin_token = definition.begin_token;
  tables->end_token = definition.end_token;
  tables->wants_begin_token = definition.wants_begin_token;
  return Tokenizer(std::move(tables));
}

std::uint32_t Tokenizer::vocabulary() const {
  return static_cast<std::uint32_t>(tables_->tokens.size());
}

void Tokenizer::Encode(std::string_view text, std::vector<TokenId>& out) const {
  // Positions inside a word are 32 bits; a longer word is cut, which nobody has seen.
  constexpr std::size_t kMaxWordBytes = std::size_t{1} << 31;
  Workspace workspace;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, std::min(FirstWord(tables_->pre_tokenizer, text), kMaxWordBytes));
    text.remove_prefix(word.size());
    if (word.size() <= tables_->longest_whole_word) {
      const TokenId whole = tables_->whole_words[tables_->WholeWordSlot(word)];
      if (whole != kNone) {
        out.push_back(whole);
        continue;
      }
    }
    tables_->MergeWord(word, workspace, out);
  }
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text) const {
  std::vector<TokenId> ids;
  Encode(text, ids);
  return ids;
}

void Tokenizer::EncodeWithSpecial(std::string_view text, std::vector<TokenId>& out) const {
  std::size_t begin = 0;  // of the text that is not encoded yet
  for (std::size_t at = 0; at < text.size();) {
    std::size_t found = 0;
    if (tables_->begins_special[static_cast<std::uint8_t>(text[at])]) {
      for (const std::size_t length : tables_->special_lengths) {
        if (length > text.size() - at) continue;
        const auto special = tables_->special.find(text.substr(at, length));
        if (special == tables_->special.end()) continue;
        Encode(text.substr(begin, at - begin), out);
        out.push_back(special->second);
        found = length;
        begin = at + length;
        break;
      }
    }
    at += std::max<std::size_t>(found, 1);
  }
  Encode(text.substr(begin), out);
}

std::optional<TokenId> Tokenizer::begin_token() const {
  return tables_->begin_token;
}

std::optional<TokenId> Tokenizer::end_token() const {
  return tables_->end_token;
}

bool Tokenizer::wants_begin_token() const {
  return tables_->wants_begin_token;
}

std::string_view Tokenizer::Bytes(TokenId id) const {
  return tables_->Bytes(id);
}

bool Tokenizer::IsToken(TokenId id) const {
  return id < tables_->tokens.size() && tables_->tokens[id].is_token;
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return id < tables_->tokens.size() && tables_->tokens[id].is_special;
}

std::optional<TokenId> Tokenizer::TokenOfByte(std::uint8_t byte) const {
  const TokenId id = tables_->of_byte[byte];
  if (id == kNone) return std::nullopt;
  return id;
}

std::optional<TokenId> Tokenizer::SpecialToken(std::string_view text) const {
  const auto found = tables_->special.find(text);
  if (found == tables_->special.end()) return std::nullopt;
  return found->second;
}

Result<std::string> Tokenizer::Decode(std::span<const TokenId> ids) const {
  std::string text;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (!IsToken(ids[i])) {
      return Fail(Code::kInvalidArgument, "decode: expected numbers of tokens, found " + std::to_string(ids[i]) +
                                              " in place " + std::to_string(i));
    }
    text += Bytes(ids[i]);
  }
  return text;
}

}  // namespace holo::tokenizer
