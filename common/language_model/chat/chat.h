// Conversation with a model that only goes on with a text: how turns are written down, and what of them still fits.
//
// A Template is explicit and comes from the model's directory (holo.json) or from the user; nothing is added to a
// prompt that is not in it. A Conversation keeps the exchanges as tokens and forgets the oldest when the context is
// full. Everything is a value, for one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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

class Conversation {
 public:
  // The tokenizer must outlive the conversation. The template has passed Check().
  Conversation(Template value, const tokenizer::Tokenizer& tokenizer);

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

  [[nodiscard]] const Template& form() const { return template_; }
  [[nodiscard]] std::size_t exchanges() const { return exchanges_.size(); }

 private:
  [[nodiscard]] std::vector<tokenizer::TokenId> Encode(std::string_view message, std::string_view reply) const;

  Template template_;
  const tokenizer::Tokenizer* tokenizer_;
  std::vector<tokenizer::TokenId> start_;
  std::vector<std::vector<tokenizer::TokenId>> exchanges_;
  std::string asked_;
};

}  // namespace holo::chat
