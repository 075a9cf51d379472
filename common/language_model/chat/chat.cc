#include "common/language_model/chat/chat.h"

#include <algorithm>
#include <utility>

#include "common/json/json.h"

namespace holo::chat {
namespace {

constexpr std::string_view kUser = "{user}";

// Ordinary tokens, except for what stands between "<|" and "|>" and is a special token.
void EncodeWithSpecials(const tokenizer::Tokenizer& tokenizer, std::string_view text,
                        std::vector<tokenizer::TokenId>& out) {
  std::size_t from = 0;
  for (std::size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at + 1)) {
    const std::size_t end = text.find("|>", at);
    if (end == std::string_view::npos) break;
    const auto special = tokenizer.SpecialToken(text.substr(at, end + 2 - at));
    if (!special) continue;
    tokenizer.Encode(text.substr(from, at - from), out);
    out.push_back(*special);
    from = end + 2;
    at = end + 1;
  }
  tokenizer.Encode(text.substr(from), out);
}

// The part of `text` behind its last special token, which is encoded together with what follows it.
std::string_view AfterLastSpecial(const tokenizer::Tokenizer& tokenizer, std::string_view text) {
  std::size_t from = 0;
  for (std::size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at + 1)) {
    const std::size_t end = text.find("|>", at);
    if (end == std::string_view::npos) break;
    if (tokenizer.SpecialToken(text.substr(at, end + 2 - at))) from = end + 2;
  }
  return text.substr(from);
}

// Likewise the part before its first one.
std::string_view BeforeFirstSpecial(const tokenizer::Tokenizer& tokenizer, std::string_view text) {
  for (std::size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at + 1)) {
    const std::size_t end = text.find("|>", at);
    if (end == std::string_view::npos) break;
    if (tokenizer.SpecialToken(text.substr(at, end + 2 - at))) return text.substr(0, at);
  }
  return text;
}

Result<std::string> Text(const nlohmann::json& object, const char* key, bool may_be_missing, std::string_view name) {
  const auto found = object.find(key);
  if (found == object.end() && may_be_missing) return std::string();
  if (found == object.end() || !found->is_string()) {
    return Fail(Code::kInvalidArgument,
                std::string(name) + ": \"template\": \"" + key + "\": expected a string, found " +
                    (found == object.end() ? "nothing" : std::string(json::KindOf(*found))));
  }
  return found->get<std::string>();
}

}  // namespace

Template PlainTemplate(const tokenizer::Tokenizer& tokenizer) {
  const bool has_end = tokenizer.SpecialToken("<|endoftext|>").has_value();
  return {has_end ? "<|endoftext|>" : "", "User: {user}\nAssistant:", "\nUser:"};
}

Result<void> Check(const Template& value) {
  if (value.start.size() + value.prompt.size() + value.stop.size() > kMaxTemplateBytes) {
    return Fail(Code::kInvalidArgument,
                "template: expected at most " + std::to_string(kMaxTemplateBytes) + " bytes, found " +
                    std::to_string(value.start.size() + value.prompt.size() + value.stop.size()));
  }
  const std::size_t first = value.prompt.find(kUser);
  if (first == std::string::npos || value.prompt.find(kUser, first + 1) != std::string::npos) {
    return Fail(Code::kInvalidArgument, "template: \"prompt\": expected {user} exactly once, found \"" +
                                            value.prompt.substr(0, 100) + "\"");
  }
  if (value.stop.empty() || value.stop.size() > 4096) {
    return Fail(Code::kInvalidArgument, "template: \"stop\": expected 1 to 4096 bytes, found " +
                                            std::to_string(value.stop.size()));
  }
  return {};
}

Result<Template> ParseTemplate(std::span<const std::uint8_t> json, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const nlohmann::json root, json::Parse(json, name));
  const auto found = root.is_object() ? root.find("template") : root.end();
  if (!root.is_object() || found == root.end() || !found->is_object()) {
    return Fail(Code::kInvalidArgument, std::string(name) + ": expected an object with an object \"template\"");
  }
  Template value;
  HOLO_ASSIGN_OR_RETURN(value.start, Text(*found, "start", /*may_be_missing=*/true, name));
  HOLO_ASSIGN_OR_RETURN(value.prompt, Text(*found, "prompt", /*may_be_missing=*/false, name));
  HOLO_ASSIGN_OR_RETURN(value.stop, Text(*found, "stop", /*may_be_missing=*/false, name));
  if (auto checked = Check(value); !checked) return tl::unexpected(WithContext(std::move(checked).error(), name));
  return value;
}

namespace {

// One exchange; of an empty reply, what the model is to go on with.
std::vector<tokenizer::TokenId> EncodeExchange(const Template& form, const tokenizer::Tokenizer& tokenizer,
                                               std::string_view message, std::string_view reply) {
  const std::size_t at = form.prompt.find(kUser);
  const std::string_view before = std::string_view(form.prompt).substr(0, at);
  const std::string_view after = std::string_view(form.prompt).substr(at + kUser.size());
  // Words go over the borders of the template's parts, as in one text; special tokens come from the template only.
  std::vector<tokenizer::TokenId> tokens;
  const std::string_view head = AfterLastSpecial(tokenizer, before);
  EncodeWithSpecials(tokenizer, before.substr(0, before.size() - head.size()), tokens);
  const std::string_view tail = BeforeFirstSpecial(tokenizer, after);
  std::string text = std::string(head) + std::string(message) + std::string(tail);
  if (tail.size() < after.size()) {
    tokenizer.Encode(text, tokens);
    text = AfterLastSpecial(tokenizer, after);
    EncodeWithSpecials(tokenizer, after.substr(tail.size(), after.size() - tail.size() - text.size()), tokens);
  }
  tokenizer.Encode(text + std::string(reply), tokens);
  return tokens;
}

}  // namespace

Conversation::Conversation(Form form, const tokenizer::Tokenizer& tokenizer, std::string system)
    : form_(std::move(form)), tokenizer_(&tokenizer), system_(std::move(system)) {
  if (const auto* own = std::get_if<Template>(&form_)) EncodeWithSpecials(tokenizer, own->start, start_);
}

std::vector<std::string> Conversation::stops() const {
  if (const auto* own = std::get_if<Template>(&form_)) return {own->stop};
  return {};
}

std::vector<tokenizer::TokenId> Conversation::end_tokens() const {
  const auto* own = std::get_if<chat_template::ChatTemplate>(&form_);
  if (own == nullptr) return {};
  return {own->stop_tokens().begin(), own->stop_tokens().end()};
}

Result<std::vector<tokenizer::TokenId>> Conversation::Write(std::size_t first, std::string_view message) const {
  if (const auto* own = std::get_if<chat_template::ChatTemplate>(&form_)) {
    using chat_template::Role;
    std::vector<chat_template::Message> messages;
    if (!system_.empty()) messages.push_back({Role::kSystem, system_});
    for (std::size_t i = first; i < exchanges_.size(); ++i) {
      messages.push_back({Role::kUser, exchanges_[i].message});
      messages.push_back({Role::kAssistant, exchanges_[i].reply});
    }
    messages.push_back({Role::kUser, std::string(message)});
    return own->Render(messages, /*asks_for_reply=*/true);
  }
  std::vector<tokenizer::TokenId> tokens = start_;
  for (std::size_t i = first; i < exchanges_.size(); ++i) {
    tokens.insert(tokens.end(), exchanges_[i].tokens.begin(), exchanges_[i].tokens.end());
  }
  const auto last = EncodeExchange(std::get<Template>(form_), *tokenizer_, message, "");
  tokens.insert(tokens.end(), last.begin(), last.end());
  return tokens;
}

Result<Conversation::Prompt> Conversation::Ask(std::string_view message, std::size_t context,
                                               std::size_t reply_tokens) {
  HOLO_ASSIGN_OR_RETURN(std::vector<tokenizer::TokenId> tokens, Write(exchanges_.size(), message));
  if (tokens.size() + reply_tokens > context) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<tokenizer::TokenId> empty, Write(exchanges_.size(), ""));
    const std::size_t around = std::min(tokens.size(), empty.size());
    return Fail(Code::kOutOfRange, "message: expected at most " +
                                       std::to_string(context - std::min(context, around + reply_tokens)) +
                                       " tokens, so that a reply of " + std::to_string(reply_tokens) +
                                       " fits into the context of " + std::to_string(context) + ", found " +
                                       std::to_string(tokens.size() - around));
  }
  Prompt prompt;
  for (; prompt.dropped < exchanges_.size(); ++prompt.dropped) {
    HOLO_ASSIGN_OR_RETURN(std::vector<tokenizer::TokenId> all, Write(prompt.dropped, message));
    if (all.size() + reply_tokens > context) continue;
    tokens = std::move(all);
    break;
  }
  exchanges_.erase(exchanges_.begin(), exchanges_.begin() + static_cast<std::ptrdiff_t>(prompt.dropped));
  prompt.tokens = std::move(tokens);
  asked_ = message;
  return prompt;
}

void Conversation::Answer(std::string_view reply) {
  Exchange exchange{asked_, std::string(reply), {}};
  if (const auto* own = std::get_if<Template>(&form_)) {
    exchange.tokens = EncodeExchange(*own, *tokenizer_, asked_, reply);
    EncodeWithSpecials(*tokenizer_, own->stop, exchange.tokens);
  }
  exchanges_.push_back(std::move(exchange));
}

void Conversation::Forget() {
  exchanges_.clear();
}

}  // namespace holo::chat
