// Text to tokens and back: byte-level byte-pair encoding (BPE), as GPT-2 and its relatives have it.
//
// A text is split into words by the pre-tokenizer's pattern; each word's bytes are the first symbols, and of all
// neighbouring pairs of symbols the one that stands first in the list of merges becomes one symbol, until none is in
// the list. Every byte has a token, so any bytes encode, and Decode gives exactly those bytes back.
//
// What is not UTF-8 has no reference behaviour; here each byte that belongs to no character counts as a character that
// is neither letter, number nor space.
//
// Special tokens (<|endoftext|>, <|im_start|>) never come out of Encode: the text "<|endoftext|>" is seven ordinary
// tokens of GPT-2. Who builds a prompt puts them in by number (SpecialToken).
//
// A Tokenizer is constant after construction and may be used from any thread; a StreamDecoder by one at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status/status.h"

namespace holo::tokenizer {

using TokenId = std::uint32_t;

inline constexpr std::uint32_t kMaxTokens = 1u << 20;
inline constexpr std::uint32_t kMaxMerges = 1u << 20;
inline constexpr std::size_t kMaxTokenBytes = 4096;
inline constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;

// How a text is split into words. One more model family, one more value.
enum class PreTokenizer : std::uint8_t {
  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kGpt2,
};

// What a tokenizer is made of, whichever file it came from.
struct Definition {
  // Written in GPT-2's byte alphabet: one printable character for each byte ("\u0120the" is " the").
  struct Token {
    std::string text;
    TokenId id = 0;
  };
  std::vector<Token> tokens;
  // First the one that is applied first; both sides and what they make are in `tokens`.
  std::vector<std::pair<std::string, std::string>> merges;
  // Written as they are; never produced from text. They may, but need not, be in `tokens` too.
  std::vector<Token> special_tokens;
  PreTokenizer pre_tokenizer = PreTokenizer::kGpt2;
};

class Tokenizer {
 public:
  // tokenizer.json of a model directory; without it vocab.json and merges.txt, or encoder.json and vocab.bpe, as the
  // same files were first called. kNotFound if it has none of them; errors as of the functions below.
  [[nodiscard]] static Result<Tokenizer> Open(const std::filesystem::path& model_dir);

  // Tokens that are neither a byte nor made by a merge are special. kDataLoss for damaged files.
  [[nodiscard]] static Result<Tokenizer> FromVocabulary(std::span<const std::uint8_t> vocab_json,
                                                        std::span<const std::uint8_t> merges_txt,
                                                        std::string_view name);

  // Hugging Face's tokenizer.json. Added tokens are special. kUnimplemented, by name, for what is no byte-level BPE
  // (SentencePiece, WordPiece), another pre-tokenizer, and options that change the tokens.
  [[nodiscard]] static Result<Tokenizer> FromTokenizerJson(std::span<const std::uint8_t> json, std::string_view name);

  // kDataLoss, naming what is wrong: a byte without token, a merge whose parts or result are no token, a number or text
  // twice, a token that is too long. `name` stands before every message.
  [[nodiscard]] static Result<Tokenizer> Create(const Definition& definition, std::string_view name);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // One more than the highest token number; a model needs at least as many rows. Numbers in between may be unused.
  [[nodiscard]] std::uint32_t vocabulary() const;

  // Appends the tokens of `text`, of any length, to `out`. Texts encoded in parts give other tokens than in one, except
  // where the parts meet at a special token.
  void Encode(std::string_view text, std::vector<TokenId>& out) const;
  [[nodiscard]] std::vector<TokenId> Encode(std::string_view text) const;

  // The bytes that the token stands for, which need not be whole characters; special tokens as they are written. Empty
  // for numbers that are no token. Valid as long as the tokenizer.
  [[nodiscard]] std::string_view Bytes(TokenId id) const;
  [[nodiscard]] bool IsToken(TokenId id) const;
  [[nodiscard]] bool IsSpecial(TokenId id) const;
  // By its text ("<|endoftext|>").
  [[nodiscard]] std::optional<TokenId> SpecialToken(std::string_view text) const;

  // The bytes of all of them, special tokens included. kInvalidArgument for a number that is no token.
  [[nodiscard]] Result<std::string> Decode(std::span<const TokenId> ids) const;

 private:
  struct Tables;
  explicit Tokenizer(std::unique_ptr<const Tables> tables);

  std::unique_ptr<const Tables> tables_;
};

// Turns tokens into text while they arrive. What comes out, put together, is valid UTF-8 however it is cut: a character
// comes out when its last byte is there, and bytes that are no UTF-8 as U+FFFD, one for each longest piece that could
// have begun a character (as in Unicode 15, section 3.9, and in browsers).
class StreamDecoder {
 public:
  // The tokenizer must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  // The characters that are complete with this token, often none. kInvalidArgument, and nothing changed, for a number
  // that is no token.
  [[nodiscard]] Result<std::string> Push(TokenId id);
  // What an unfinished character at the end becomes: "" or U+FFFD. The decoder is then as new.
  [[nodiscard]] std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;  // at most 3 bytes: the beginning of a character
};

// `bytes` as valid UTF-8, replaced in the same way.
[[nodiscard]] std::string ToValidUtf8(std::string_view bytes);

}  // namespace holo::tokenizer
