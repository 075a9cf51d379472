// Conversation with a model: how turns are written down, and what of them still fits.
//
// A model that was trained to converse has its own way (chat_template). For one that only goes on with a text, a Template
// is explicit and comes from the model's directory (holo.json) or from the user; nothing is added to a prompt that is not
// in it. A Conversation keeps the exchanges and forgets the oldest when the context is full. Everything is a value, for
// one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/language_model/chat_template/chat_template.h"
#include "common/language_model/tokenizer/tokenizer.h"
#include "common/status/status.h"

namespace holo::chat {

inline constexpr std::size_t kMaxTemplateBytes = 65536;

// A conversation is `start`, then for every exchange `prompt`, with what the user says in place of "{user}", the reply,
// and `stop`, which also ends the reply. Special tokens are recognised in the template where they look like
// "<|endoftext|>", never in what the user or the model says.
struct Template {
  std::string start;
  std::string prompt;
  std::string stop;

  friend bool operator==(const Template&, const Template&) = default;
};

// For models that bring none: a script of "User:" and "Assistant:".
[[nodiscard]] Template PlainTemplate(const tokenizer::Tokenizer& tokenizer);

// kInvalidArgument unless `prompt` has "{user}" exactly once, `stop` is not empty, and all are short enough.
[[nodiscard]] Result<void> Check(const Template& value);

// {"template": {"start": ..., "prompt": ..., "stop": ...}}, start may be left out, other keys are ignored. kDataLoss for
// what is not JSON, otherwise kInvalidArgument, with the key, what was expected and what was found.
[[nodiscard]] Result<Template> ParseTemplate(std::span<const std::uint8_t> json, std::string_view name);

using Form = std::variant<Template, chat_template::ChatTemplate>;

class Conversation {
 public:
  // The tokenizer must outlive the conversation. A Template has passed Check(). `system` is what the system says; empty:
  // what the form has by itself. A Template has no place for it, and leaves it out.
  Conversation(Form form, const tokenizer::Tokenizer& tokenizer, std::string system = "");

  struct Prompt {
    std::vector<tokenizer::TokenId> tokens;
    std::size_t dropped = 0;  // exchanges that were forgotten for this one
  };
  // What the model is to go on with, so that `reply_tokens` still fit into `context`; the oldest exchanges are forgotten
  // as far as that needs it. kOutOfRange, and nothing changed, if the message does not fit by itself. A second Ask()
  // without Answer() replaces the first.
  [[nodiscard]] Result<Prompt> Ask(std::string_view message, std::size_t context, std::size_t reply_tokens);
  // The reply to the last Ask(), without the stop string; it may be cut short.
  void Answer(std::string_view reply);
  void Forget();

  [[nodiscard]] const Form& form() const { return form_; }
  // What ends a reply: one of these strings, or tokens, for generation::Options.
  [[nodiscard]] std::vector<std::string> stops() const;
  [[nodiscard]] std::vector<tokenizer::TokenId> end_tokens() const;
  [[nodiscard]] std::size_t exchanges() const { return exchanges_.size(); }

 private:
  struct Exchange {
    std::string message, reply;
    std::vector<tokenizer::TokenId> tokens;  // of a Template
  };
  // The exchanges from `first` on, and a message that wants a reply.
  [[nodiscard]] Result<std::vector<tokenizer::TokenId>> Write(std::size_t first, std::string_view message) const;

  Form form_;
  const tokenizer::Tokenizer* tokenizer_;
  std::string system_;
  std::vector<tokenizer::TokenId> start_;  // of a Template
  std::vector<Exchange> exchanges_;
  std::string asked_;
};

}  // namespace holo::chat
