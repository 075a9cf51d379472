#include "common/language_model/chat_template/chat_template.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace holo::chat_template {
namespace {

using tokenizer::TokenId;

constexpr std::string_view kNames[] = {"chatml", "llama2", "llama3"};  // in the order of Format
constexpr std::string_view kKey = "tokenizer.chat_template";
constexpr std::string_view kKnowledgeDate = "Cutting Knowledge Date: December 2023";

std::string Choices() {
  return "choose one of chatml, llama2 and llama3";
}

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kSystem:
      return "system";
    case Role::kUser:
      return "user";
    case Role::kAssistant:
      return "assistant";
  }
  return "";
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\n\v\f\r";
  const std::size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) + 1 - begin);
}

// The first message of the system that stands in a ChatML template as a literal, otherwise "".
std::string DefaultSystem(std::string_view jinja) {
  constexpr std::string_view kOpen = "<|im_start|>system";
  for (std::size_t at = jinja.find(kOpen); at != std::string_view::npos; at = jinja.find(kOpen, at + 1)) {
    std::string_view rest = jinja.substr(at + kOpen.size());
    // A line end, or how Jinja writes one.
    if (!rest.starts_with('\n') && !rest.starts_with("\\n")) continue;
    rest.remove_prefix(rest.front() == '\n' ? 1 : 2);
    const std::size_t end = rest.find("<|im_end|>");
    if (end == std::string_view::npos) continue;
    const std::string_view literal = rest.substr(0, end);
    if (literal.find_first_of("'\"{}") != std::string_view::npos) continue;
    std::string system;
    for (std::size_t i = 0; i < literal.size(); ++i) {
      const bool is_line_end = literal.substr(i, 2) == "\\n";
      system += is_line_end ? '\n' : literal[i];
      i += is_line_end ? 1 : 0;
    }
    return system;
  }
  return "";
}

}  // namespace

std::string_view FormatName(Format format) {
  return kNames[static_cast<std::size_t>(format)];
}

Result<Format> ParseFormat(std::string_view name) {
  for (const Format format : kFormats) {
    if (FormatName(format) == name) return format;
  }
  return Fail(Code::kInvalidArgument, "chat template: expected chatml, llama2 or llama3, found \"" +
                                          tokenizer::ToValidUtf8(name.substr(0, 100)) + "\"");
}

Result<Style> Recognise(std::string_view jinja, std::string_view name) {
  const auto has = [&](std::string_view text) { return jinja.find(text) != std::string_view::npos; };
  // Phi writes its roles between <|im_start|> and <|im_sep|>, Mistral has [INST] without <<SYS>>: both are others.
  const bool is_chatml = has("<|im_start|>") && has("<|im_end|>") && !has("<|im_sep|>");
  const bool is_llama2 = has("[INST]") && has("<<SYS>>");
  const bool is_llama3 = has("<|start_header_id|>") && has("<|end_header_id|>") && has("<|eot_id|>");
  const int found = int{is_chatml} + int{is_llama2} + int{is_llama3};
  if (found != 1) {
    return Fail(Code::kUnimplemented, std::string(name) +
                                          ": chat template: expected ChatML, Llama 2's or Llama 3's, found " +
                                          (found > 1 ? "marks of more than one" : "another") + ", which begins \"" +
                                          tokenizer::ToValidUtf8(jinja.substr(0, 60)) + "\"; " + Choices());
  }
  Style style;
  style.format = is_chatml ? Format::kChatMl : is_llama2 ? Format::kLlama2 : Format::kLlama3;
  if (is_chatml) {
    style.default_system = DefaultSystem(jinja);
    style.has_begin_token = has("bos_token");
  }
  if (is_llama3 && has(kKnowledgeDate)) {
    style.preamble = std::string(kKnowledgeDate) + "\nToday Date: 26 Jul 2024\n\n";
  }
  return style;
}

Result<Style> Recognise(const gguf::File& file) {
  if (file.Find(kKey) == nullptr) {
    return Fail(Code::kNotFound, file.name() + ": key \"" + std::string(kKey) +
                                     "\": expected a chat template, found none; " + Choices());
  }
  HOLO_ASSIGN_OR_RETURN(const std::string_view jinja, file.String(kKey));
  return Recognise(jinja, file.name());
}

// Text is encoded in one piece from one special token to the next, as if the whole had been written down first.
class ChatTemplate::Writer {
 public:
  explicit Writer(const tokenizer::Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  void Text(std::string_view text) { text_ += text; }
  void Special(TokenId token) {
    tokenizer_->Encode(std::exchange(text_, {}), tokens_);
    tokens_.push_back(token);
  }
  [[nodiscard]] std::vector<TokenId> Finish() {
    tokenizer_->Encode(std::exchange(text_, {}), tokens_);
    return std::move(tokens_);
  }

 private:
  const tokenizer::Tokenizer* tokenizer_;
  std::string text_;
  std::vector<TokenId> tokens_;
};

Result<ChatTemplate> ChatTemplate::Create(Style style, const tokenizer::Tokenizer& tokenizer) {
  ChatTemplate result(std::move(style), tokenizer);
  const std::string where = "chat template " + std::string(FormatName(result.style_.format));
  const auto special = [&](std::string_view text) -> Result<TokenId> {
    const std::optional<TokenId> token = tokenizer.SpecialToken(text);
    if (token) return *token;
    return Fail(Code::kInvalidArgument,
                where + ": expected the special token \"" + std::string(text) + "\" in the vocabulary, found none");
  };
  const auto begin = [&](std::string_view text) -> Result<TokenId> {
    if (const auto token = tokenizer.begin_token()) return *token;
    return special(text);
  };
  switch (result.style_.format) {
    case Format::kChatMl: {
      HOLO_ASSIGN_OR_RETURN(result.open_, special("<|im_start|>"));
      HOLO_ASSIGN_OR_RETURN(result.end_, special("<|im_end|>"));
      if (result.style_.has_begin_token) {
        HOLO_ASSIGN_OR_RETURN(result.begin_, begin("<|begin_of_text|>"));
      }
      break;
    }
    case Format::kLlama2: {
      HOLO_ASSIGN_OR_RETURN(result.begin_, begin("<s>"));
      const std::optional<TokenId> end = tokenizer.end_token();
      HOLO_ASSIGN_OR_RETURN(result.end_, end ? Result<TokenId>(*end) : special("</s>"));
      break;
    }
    case Format::kLlama3: {
      HOLO_ASSIGN_OR_RETURN(result.begin_, begin("<|begin_of_text|>"));
      HOLO_ASSIGN_OR_RETURN(result.open_, special("<|start_header_id|>"));
      HOLO_ASSIGN_OR_RETURN(result.close_, special("<|end_header_id|>"));
      HOLO_ASSIGN_OR_RETURN(result.end_, special("<|eot_id|>"));
      break;
    }
  }
  result.stop_tokens_.push_back(result.end_);
  // A model may also end the whole text.
  if (const auto end = tokenizer.end_token(); end && *end != result.end_) result.stop_tokens_.push_back(*end);
  return result;
}

void ChatTemplate::WriteMessage(std::string_view role, std::string_view content, Writer& writer) const {
  writer.Special(open_);
  writer.Text(role);
  if (style_.format == Format::kLlama3) {
    writer.Special(close_);
    writer.Text("\n\n");
    writer.Text(role == RoleName(Role::kSystem) ? style_.preamble : "");
    writer.Text(Trimmed(content));
    writer.Special(end_);
    return;
  }
  writer.Text("\n");
  writer.Text(content);
  writer.Special(end_);
  writer.Text("\n");
}

void ChatTemplate::WriteLlama2(std::span<const Message> messages, Writer& writer) const {
  std::string system;
  for (const Message& message : messages) {
    switch (message.role) {
      case Role::kSystem:
        system = "<<SYS>>\n" + message.content + "\n<</SYS>>\n\n";
        break;
      case Role::kUser:
        writer.Special(begin_);
        writer.Text("[INST] ");
        writer.Text(Trimmed(std::exchange(system, {}) + message.content));
        writer.Text(" [/INST]");
        break;
      case Role::kAssistant:
        writer.Text(" ");
        writer.Text(Trimmed(message.content));
        writer.Text(" ");
        writer.Special(end_);
        break;
    }
  }
}

Result<std::vector<TokenId>> ChatTemplate::Render(std::span<const Message> messages, bool asks_for_reply) const {
  if (messages.empty()) return Fail(Code::kInvalidArgument, "chat: expected at least one message, found none");
  const bool begins_with_system = messages.front().role == Role::kSystem;
  std::vector<Message> with_default;
  if (!begins_with_system && !(style_.default_system.empty() && style_.preamble.empty())) {
    with_default.push_back({Role::kSystem, style_.default_system});
    with_default.insert(with_default.end(), messages.begin(), messages.end());
    messages = with_default;
  }
  Writer writer(*tokenizer_);
  if (style_.format == Format::kLlama2) {
    const std::size_t first = messages.front().role == Role::kSystem ? 1 : 0;
    if (first == messages.size()) {
      return Fail(Code::kInvalidArgument, "chat: expected a message of the user after the system's, found none");
    }
    for (std::size_t i = first; i < messages.size(); ++i) {
      const Role expected = (i - first) % 2 == 0 ? Role::kUser : Role::kAssistant;
      if (messages[i].role != expected) {
        return Fail(Code::kInvalidArgument,
                    "chat: expected user and assistant in turn, as Llama 2's template has it: message " +
                        std::to_string(i + 1) + " of the " + std::string(RoleName(expected)) + ", found the " +
                        std::string(RoleName(messages[i].role)));
      }
    }
    // A reply begins where a question ends.
    if (asks_for_reply && messages.back().role == Role::kAssistant) {
      return Fail(Code::kInvalidArgument, "chat: expected a message of the user last, found the assistant's");
    }
    WriteLlama2(messages, writer);
    return writer.Finish();
  }
  if (style_.format == Format::kLlama3 || style_.has_begin_token) writer.Special(begin_);
  for (const Message& message : messages) WriteMessage(RoleName(message.role), message.content, writer);
  if (asks_for_reply) {
    writer.Special(open_);
    writer.Text(RoleName(Role::kAssistant));
    if (style_.format == Format::kLlama3) writer.Special(close_);
    writer.Text(style_.format == Format::kLlama3 ? "\n\n" : "\n");
  }
  return writer.Finish();
}

}  // namespace holo::chat_template
