// Text to tokens and back: byte-level byte-pair encoding (BPE), as GPT-2 and its relatives have it.
//
// A text is split into words by the pre-tokenizer's pattern; each word's bytes are the first symbols, and of all
// neighbouring pairs of symbols the one that stands first in the list of merges becomes one symbol, until none is in
// the list. Where every byte has a token, as in GPT-2, Decode gives exactly the bytes back that were encoded. A
// vocabulary may lack bytes that are not printable ASCII or a line feed (SmolLM2 has 21 such: control characters and
// bytes that begin no assigned character); they are left out of the text before it is merged, as by Hugging Face's
// tokenizers.
//
// What is not UTF-8 has no reference behaviour; here each byte that belongs to no character counts as a character that
// is neither letter, number nor space.
//
// Special tokens (<|endoftext|>, <|im_start|>) never come out of Encode: the text "<|endoftext|>" is seven ordinary
// tokens of GPT-2. Who builds a prompt puts them in by number (SpecialToken), or has them recognised in a text of their
// own (EncodeWithSpecial).
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

#include "common/language_model/gguf/gguf.h"
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
  // The same, after every \p{N} has become a word of its own, so that \s+(?!\S) also ends before one.
  kSmolLm2,
  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
  // \s+(?!\S)|\s+, in one line. Case is ignored as Unicode has it: U+017F is an s.
  kLlama3,
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
  // A word that is a token as a whole is that token, whatever its merges would make of it (Llama 3).
  bool ignores_merges = false;
  // Tokens before the first and after the last of a text, and whether the model was trained to have the first one
  // before every text. For whoever builds prompts: Encode adds neither.
  std::optional<TokenId> begin_token;
  std::optional<TokenId> end_token;
  bool wants_begin_token = false;
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
  // (SentencePiece, WordPiece), another pre-tokenizer, and options that change the tokens. It does not say which tokens
  // begin and end a text.
  [[nodiscard]] static Result<Tokenizer> FromTokenizerJson(std::span<const std::uint8_t> json, std::string_view name);

  // Of a GGUF file's metadata (tokenizer.ggml.*), which it does not keep. Control, unknown and unused tokens are
  // special; without types of tokens, those of FromVocabulary. kUnimplemented, by name, for SentencePiece and other
  // kinds, for a pre-tokenizer that is not one of PreTokenizer, and for tokens that would have to be searched for in
  // the text; kInvalidArgument for missing metadata.
  [[nodiscard]] static Result<Tokenizer> FromGguf(const gguf::File& file);

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

  // The same where special tokens, as they are written, become themselves, the longest one first. Only for texts that
  // the program or its operator wrote: whoever else writes in it can put in any special token.
  void EncodeWithSpecial(std::string_view text, std::vector<TokenId>& out) const;

  // As the file or the definition says; nothing where it does not.
  [[nodiscard]] std::optional<TokenId> begin_token() const;
  [[nodiscard]] std::optional<TokenId> end_token() const;
  [[nodiscard]] bool wants_begin_token() const;

  // The bytes that the token stands for, which need not be whole characters; special tokens as they are written. Empty
  // for numbers that are no token. Valid as long as the tokenizer.
  [[nodiscard]] std::string_view Bytes(TokenId id) const;
  [[nodiscard]] bool IsToken(TokenId id) const;
  [[nodiscard]] bool IsSpecial(TokenId id) const;
  [[nodiscard]] std::optional<TokenId> TokenOfByte(std::uint8_t byte) const;
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
