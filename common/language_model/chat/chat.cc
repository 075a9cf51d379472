#include "common/language_model/chat/chat.h"

#include <algorithm>
#include <numeric>

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

Conversation::Conversation(Template value, const tokenizer::Tokenizer& tokenizer)
    : template_(std::move(value)), tokenizer_(&tokenizer) {
  EncodeWithSpecials(tokenizer, template_.start, start_);
}

std::vector<tokenizer::TokenId> Conversation::Encode(std::string_view message, std::string_view reply) const {
  const std::size_t at = template_.prompt.find(kUser);
  const std::string_view before = std::string_view(template_.prompt).substr(0, at);
  const std::string_view after = std::string_view(template_.prompt).substr(at + kUser.size());
  // Words go over the borders of the template's parts, as in one text; special tokens come from the template only.
  std::vector<tokenizer::TokenId> tokens;
  const std::string_view head = AfterLastSpecial(*tokenizer_, before);
  EncodeWithSpecials(*tokenizer_, before.substr(0, before.size() - head.size()), tokens);
  const std::string_view tail = BeforeFirstSpecial(*tokenizer_, after);
  std::string text = std::string(head) + std::string(message) + std::string(tail);
  if (tail.size() < after.size()) {
    tokenizer_->Encode(text, tokens);
    text = AfterLastSpecial(*tokenizer_, after);
    EncodeWithSpecials(*tokenizer_, after.substr(tail.size(), after.size() - tail.size() - text.size()), tokens);
  }
  tokenizer_->Encode(text + std::string(reply), tokens);
  return tokens;
}

Result<Conversation::Prompt> Conversation::Ask(std::string_view message, std::size_t context,
                                               std::size_t reply_tokens) {
  const std::vector<tokenizer::TokenId> own = Encode(message, "");
  const std::size_t least = start_.size() + own.size() + reply_tokens;
  if (least > context) {
    return Fail(Code::kOutOfRange, "message: expected at most " +
                                       std::to_string(context - std::min(context, start_.size() + reply_tokens)) +
                                       " tokens, so that a reply of " + std::to_string(reply_tokens) +
                                       " fits into the context of " + std::to_string(context) + ", found " +
                                       std::to_string(own.size()));
  }
  std::size_t total = std::accumulate(exchanges_.begin(), exchanges_.end(), least,
                                      [](std::size_t sum, const auto& exchange) { return sum + exchange.size(); });
  Prompt prompt;
  while (total > context) total -= exchanges_[prompt.dropped++].size();
  exchanges_.erase(exchanges_.begin(), exchanges_.begin() + static_cast<std::ptrdiff_t>(prompt.dropped));
  prompt.tokens = start_;
  for (const auto& exchange : exchanges_) prompt.tokens.insert(prompt.tokens.end(), exchange.begin(), exchange.end());
  prompt.tokens.insert(prompt.tokens.end(), own.begin(), own.end());
  asked_ = message;
  return prompt;
}

void Conversation::Answer(std::string_view reply) {
  std::vector<tokenizer::TokenId> exchange = Encode(asked_, reply);
  EncodeWithSpecials(*tokenizer_, template_.stop, exchange);
  exchanges_.push_back(std::move(exchange));
}

void Conversation::Forget() {
  exchanges_.clear();
}

}  // namespace holo::chat
