#include <algorithm>
#include <filesystem>
#include <numeric>

#include "common/language_model/chat/chat.h"
#include "server/completion/completion.h"

namespace holo::completion {
namespace {

// Where texts begin, if the model says so; GPT-2 begins and ends them with the same token.
std::optional<tokenizer::TokenId> BeginToken(const generation::Engine& engine) {
  if (const auto token = engine.tokenizer->begin_token()) return token;
  const weights::Config& config = engine.model->config();
  if (config.begin_token) return config.begin_token;
  if (!config.end_tokens.empty()) return config.end_tokens.front();
  return std::nullopt;
}

}  // namespace

Result<std::shared_ptr<const Model>> Model::Open(std::string name, const std::filesystem::path& path,
                                                 const model_directory::Options& options, std::string_view form) {
  // No make_shared: the constructor is private.
  const std::shared_ptr<Model> model(new Model());
  HOLO_ASSIGN_OR_RETURN(model->files_, model_directory::Open(path, options));
  if (name.empty()) {
    const std::filesystem::path whole = std::filesystem::absolute(path).lexically_normal();
    name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
    constexpr std::string_view kSuffix = ".gguf";
    if (name.size() > kSuffix.size() && name.ends_with(kSuffix)) name.resize(name.size() - kSuffix.size());
  }
  model->name_ = tokenizer::ToValidUtf8(name);
  model->engine_ = {model->files_.transformer, model->files_.base.tokenizer, model->files_.scheme};
  model->fingerprint_ = model->files_.manifest ? model->files_.manifest->base_fingerprint
                                               : weights::Fingerprint(model->files_.base.weights);
  model->chat_ = model_directory::ChatForm(model->files_.base, form);
  if (!model->chat_) {
    model->form_ = {"none", model->chat_.error().message};
  } else if (const auto* own = std::get_if<chat::Template>(&*model->chat_)) {
    model->form_.name = form.empty() && model->files_.base.chat_template ? "holo.json" : "plain";
    model->form_.description = own->start + own->prompt + "{assistant}" + own->stop;
  } else {
    const auto& style = std::get<chat_template::ChatTemplate>(*model->chat_).style();
    model->form_.name = std::string(chat_template::FormatName(style.format));
  }
  model->created_unix_ = UnixNow();
  return std::shared_ptr<const Model>(model);
}

std::uint64_t Model::BytesOf(std::size_t tokens) const {
  const std::size_t blocks = (tokens + kv_cache::kBlockTokens - 1) / kv_cache::kBlockTokens;
  if (blocks == 0) return 0;
  return engine_.scheme->block_bytes(0) + (blocks - 1) * std::uint64_t{engine_.scheme->block_bytes(1)};
}

Result<Model::Conversation> Model::Render(std::span<const chat_template::Message> messages) const {
  using chat_template::Role;
  if (!chat_) return tl::unexpected(WithContext(chat_.error(), "messages"));
  if (const auto* own = std::get_if<chat_template::ChatTemplate>(&*chat_)) {
    if (messages.back().role == Role::kAssistant) {
      return Fail(Code::kInvalidArgument, "messages: expected a message of the user at the end");
    }
    auto tokens = own->Render(messages, /*asks_for_reply=*/true);
    if (!tokens) return tl::unexpected(WithContext(std::move(tokens).error(), "messages"));
    return Conversation{std::move(*tokens), {}, {own->stop_tokens().begin(), own->stop_tokens().end()}};
  }
  chat::Conversation conversation(*chat_, *engine_.tokenizer);
  constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max() / 2;
  // What the user says, with what the system said before; both on lines of their own.
  std::string said;
  bool has_user = false;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const chat_template::Message& message = messages[i];
    if (message.role != Role::kAssistant) {
      if (!said.empty()) said += "\n";
      said += message.content;
      has_user = has_user || message.role == Role::kUser;
      continue;
    }
    if (!has_user) {
      return Fail(Code::kInvalidArgument, "messages[" + std::to_string(i) +
                                              "].role: expected a message of the user before one of the assistant");
    }
    HOLO_RETURN_IF_ERROR(conversation.Ask(said, kNoLimit, 0));
    conversation.Answer(message.content);
    said.clear();
    has_user = false;
  }
  if (!has_user) return Fail(Code::kInvalidArgument, "messages: expected a message of the user at the end");
  HOLO_ASSIGN_OR_RETURN(chat::Conversation::Prompt prompt, conversation.Ask(said, kNoLimit, 0));
  return Conversation{std::move(prompt.tokens), conversation.stops(), conversation.end_tokens()};
}

std::vector<tokenizer::TokenId> Model::Encode(std::string_view text) const {
  std::vector<tokenizer::TokenId> tokens;
  const std::optional<tokenizer::TokenId> begin = BeginToken(engine_);
  if (begin && (text.empty() || engine_.tokenizer->wants_begin_token())) tokens.push_back(*begin);
  engine_.tokenizer->Encode(text, tokens);
  return tokens;
}

std::string Model::Decode(std::span<const tokenizer::TokenId> tokens) const {
  std::string bytes;
  for (const tokenizer::TokenId token : tokens) bytes += engine_.tokenizer->Bytes(token);
  return tokenizer::ToValidUtf8(bytes);
}

}  // namespace holo::completion
