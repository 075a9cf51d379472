// How instruction-tuned models want a conversation written down: messages to tokens, in ChatML, Llama 2's or Llama 3's
// way.
//
// Models bring their way as a program in Jinja. It is not run: Recognise tells from its text which of the three it is,
// and what it adds of its own; any other has to be chosen explicitly. Special tokens come from the template alone: what
// a message says is always ordinary text, "<|im_end|>" included.
//
//   ChatML   <|im_start|>role \n content <|im_end|> \n ... <|im_start|>assistant \n
//   Llama 2  begin [INST] <<SYS>>\n system \n<</SYS>>\n\n user [/INST] assistant end begin [INST] user [/INST] ...
//   Llama 3  begin <|start_header_id|>role<|end_header_id|> \n\n content <|eot_id|> ... <|start_header_id|>assistant
//   ...
//
// Everything is a value, constant after construction, and may be used from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/language_model/gguf/gguf.h"
#include "common/language_model/tokenizer/tokenizer.h"
#include "common/status/status.h"

namespace holo::chat_template {

enum class Format : std::uint8_t { kChatMl, kLlama2, kLlama3 };
inline constexpr Format kFormats[] = {Format::kChatMl, Format::kLlama2, Format::kLlama3};
// "chatml", "llama2", "llama3".
[[nodiscard]] std::string_view FormatName(Format format);
// kInvalidArgument for any other name.
[[nodiscard]] Result<Format> ParseFormat(std::string_view name);

// A format, and what a model's template adds to it.
struct Style {
  Format format = Format::kChatMl;
  // What the system says where the conversation does not begin with it; nothing if empty. (SmolLM2 has one.)
  std::string default_system;
  // Stands before whatever the system says, which then always speaks. (Llama 3.1 and later: "Cutting Knowledge Date:
  // December 2023\nToday Date: 26 Jul 2024\n\n", the date being the one that their templates have by default.)
  std::string preamble;
  // ChatML only: the tokenizer's begin token stands before everything. The others always have it.
  bool has_begin_token = false;

  friend bool operator==(const Style&, const Style&) = default;
};

// What a template's text, a program in Jinja, is. kUnimplemented, with the names to choose from, for what is none of
// the three or could be two; `name` stands before the message.
[[nodiscard]] Result<Style> Recognise(std::string_view jinja, std::string_view name);
// Of the key tokenizer.chat_template; kNotFound, with the names to choose from, if there is none.
[[nodiscard]] Result<Style> Recognise(const gguf::File& file);

enum class Role : std::uint8_t { kSystem, kUser, kAssistant };

struct Message {
  Role role = Role::kUser;
  std::string content;
};

class ChatTemplate {
 public:
  // The tokenizer must outlive the template. kInvalidArgument, with its name, for a special token that it does not
  // have.
  [[nodiscard]] static Result<ChatTemplate> Create(Style style, const tokenizer::Tokenizer& tokenizer);

  // The tokens of a conversation and, with `asks_for_reply`, of what a reply begins with. Llama 2 and 3 take spaces,
  // tabs and line ends off both ends of contents, as their templates do. kInvalidArgument for no messages, and in Llama
  // 2, unless user and assistant alternate, the user first, after at most one message of the system.
  [[nodiscard]] Result<std::vector<tokenizer::TokenId>> Render(std::span<const Message> messages,
                                                               bool asks_for_reply) const;

  [[nodiscard]] const Style& style() const { return style_; }
  // A reply ends with one of these.
  [[nodiscard]] std::span<const tokenizer::TokenId> stop_tokens() const { return stop_tokens_; }

 private:
  class Writer;

  ChatTemplate(Style style, const tokenizer::Tokenizer& tokenizer) : style_(std::move(style)), tokenizer_(&tokenizer) {}
  void WriteLlama2(std::span<const Message> messages, Writer& writer) const;
  void WriteMessage(std::string_view role, std::string_view content, Writer& writer) const;

  Style style_;
  const tokenizer::Tokenizer* tokenizer_;
  // Before a role, behind it (Llama 3 only), behind a message; the begin token.
  tokenizer::TokenId open_ = 0;
  tokenizer::TokenId close_ = 0;
  tokenizer::TokenId end_ = 0;
  tokenizer::TokenId begin_ = 0;
  std::vector<tokenizer::TokenId> stop_tokens_;
};

}  // namespace holo::chat_template
