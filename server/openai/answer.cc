#include <algorithm>
#include <numeric>

#include "server/openai/openai.h"

namespace holo::openai {
namespace {

using completion::Token;
using nlohmann::json;

json FinishReason(generation::Finish finish) {
  switch (finish) {
    case generation::Finish::kNone:
      return nullptr;
    case generation::Finish::kStop:
    case generation::Finish::kEndToken:
      return "stop";
    case generation::Finish::kMaxTokens:
    case generation::Finish::kContext:
      return "length";
  }
  return nullptr;
}

// Nothing that we write may throw: what is no UTF-8 is replaced.
std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string Line(const json& value) {
  return "data: " + Dump(value) + "\n\n";
}

// A token in the older interface, where one string has to tell tokens apart: "bytes:\xe2\x80" where it is no text.
std::string Name(std::string_view bytes) {
  if (tokenizer::ToValidUtf8(bytes) == bytes) return std::string(bytes);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string name = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    name += "\\x";
    name += kDigits[byte >> 4];
    name += kDigits[byte & 15];
  }
  return name;
}

std::size_t Characters(std::string_view bytes) {
  return static_cast<std::size_t>(
      std::count_if(bytes.begin(), bytes.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

json ToJson(const completion::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

// The field that a message begins with: "messages[0].role: expected ...".
json ParamOf(const std::string& message) {
  const std::size_t colon = message.find(": ");
  if (colon == std::string::npos || colon == 0) return nullptr;
  for (std::size_t i = 0; i < colon; ++i) {
    const char c = message[i];
    const bool is_name = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '[' || c == ']';
    if (!is_name) return nullptr;
  }
  const std::string name = message.substr(0, colon);
  return name == "body" || name == "queue" ? json(nullptr) : json(name);
}

}  // namespace

Problem ToProblem(const Error& error) {
  Problem problem;
  std::string type = "invalid_request_error";
  json code = nullptr;
  json param = ParamOf(error.message);
  switch (error.code) {
    case Code::kInvalidArgument:
    case Code::kFailedPrecondition:
      problem.status = 400;
      break;
    case Code::kOutOfRange:
      problem.status = 400;
      code = "context_length_exceeded";
      break;
    case Code::kUnimplemented:
      problem.status = 400;
      code = "unsupported_value";
      break;
    case Code::kUnauthenticated:
    case Code::kPermissionDenied:
      problem.status = 401;
      code = "invalid_api_key";
      param = nullptr;
      break;
    case Code::kNotFound:
      problem.status = 404;
      code = param == "model" ? "model_not_found" : "not_found";
      break;
    case Code::kAborted:
      problem.status = 409;
      code = "conflict";
      break;
    case Code::kResourceExhausted:
      problem.status = 429;
      type = "rate_limit_error";
      code = "rate_limit_exceeded";
      problem.may_retry = true;
      break;
    case Code::kUnavailable:
      problem.status = 503;
      type = "server_error";
      code = "service_unavailable";
      problem.may_retry = true;
      break;
    case Code::kDeadlineExceeded:
      problem.status = 504;
      type = "server_error";
      code = "timeout";
      break;
    default:
      problem.status = 500;
      type = "server_error";
  }
  problem.body = {{"error", {{"message", error.message}, {"type", type}, {"param", param}, {"code", code}}}};
  return problem;
}

Writer::Writer(const Asked& asked, const completion::Model& model, std::string id, std::int64_t created_unix,
               std::span<const std::vector<tokenizer::TokenId>> prompts)
    : asked_(asked), model_(model), id_(std::move(id)), created_unix_(created_unix) {
  const std::size_t best_of = asked.request.best_of;
  choices_.resize(prompts.size() * best_of);
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    std::size_t characters = 0;
    for (const tokenizer::TokenId token : prompts[p]) characters += Characters(model.tokenizer().Bytes(token));
    for (std::size_t i = 0; i < best_of; ++i) {
      // Where the prompt's tokens are reported, they bring their own length.
      choices_[p * best_of + i].offset = asked.request.scores_prompt ? 0 : characters;
    }
    echoes_.push_back(asked.echoes ? model.Decode(prompts[p]) : "");
  }
  // What was said is not needed any more.
  asked_.request.prompts.clear();
  asked_.request.messages.clear();
}

json Writer::Head(bool is_chunk) const {
  const char* object = asked_.is_chat ? (is_chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
  return {{"id", id_}, {"object", object}, {"created", created_unix_}, {"model", model_.name()}};
}

std::string Writer::Chunk(json choice) const {
  json chunk = Head(true);
  chunk["choices"] = json::array({std::move(choice)});
  if (asked_.includes_usage) chunk["usage"] = nullptr;
  return Line(chunk);
}

json Writer::Logprobs(std::span<const Token> tokens, Choice& choice) const {
  json out = {{"tokens", json::array()},
              {"token_logprobs", json::array()},
              {"top_logprobs", json::array()},
              {"text_offset", json::array()}};
  const tokenizer::Tokenizer& tokenizer = model_.tokenizer();
  for (const Token& token : tokens) {
    const std::string_view bytes = tokenizer.Bytes(token.id);
    out["tokens"].push_back(Name(bytes));
    out["text_offset"].push_back(choice.offset);
    choice.offset += Characters(bytes);
    if (!token.logprob) {
      out["token_logprobs"].push_back(nullptr);
      out["top_logprobs"].push_back(nullptr);
      continue;
    }
    out["token_logprobs"].push_back(*token.logprob);
    json top = json::object();
    for (const auto& [id, logprob] : token.top) top[Name(tokenizer.Bytes(id))] = logprob;
    if (asked_.request.sampling.logprobs > 0) top[Name(bytes)] = *token.logprob;
    out["top_logprobs"].push_back(std::move(top));
  }
  if (asked_.request.sampling.logprobs == 0) out["top_logprobs"] = nullptr;
  return out;
}

json Writer::ChatLogprobs(std::span<const Token> tokens) const {
  const auto entry = [this](std::uint32_t id, float logprob) {
    const std::string_view bytes = model_.tokenizer().Bytes(id);
    json numbers = json::array();
    for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
    return json{{"token", tokenizer::ToValidUtf8(bytes)}, {"logprob", logprob}, {"bytes", std::move(numbers)}};
  };
  json content = json::array();
  for (const Token& token : tokens) {
    json one = entry(token.id, token.logprob.value_or(0));
    one["top_logprobs"] = json::array();
    for (const auto& [id, logprob] : token.top) one["top_logprobs"].push_back(entry(id, logprob));
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

std::string Writer::Add(completion::Event event) {
  Choice& choice = choices_[event.choice];
  const std::size_t index = event.choice;  // in a stream, as many are made as are wanted
  const bool is_first = !choice.has_begun;
  choice.has_begun = true;
  choice.finish = event.finish;
  for (const Token& token : event.tokens) choice.logprob += token.logprob.value_or(0);
  choice.chosen += event.tokens.size();
  std::vector<Token> tokens = std::move(event.prompt);
  choice.prompt_tokens += tokens.size();
  tokens.insert(tokens.end(), std::make_move_iterator(event.tokens.begin()), std::make_move_iterator(event.tokens.end()));
  if (is_first) event.text.insert(0, echoes_[event.choice / asked_.request.best_of]);
  if (!asked_.streams) {
    choice.text += event.text;
    if (asked_.has_logprobs) {
      choice.tokens.insert(choice.tokens.end(), std::make_move_iterator(tokens.begin()),
                           std::make_move_iterator(tokens.end()));
    }
    return "";
  }
  std::string out;
  const bool has_tokens = asked_.has_logprobs && !tokens.empty();
  const bool is_last = event.finish != generation::Finish::kNone;
  if (!asked_.is_chat) {
    if (event.text.empty() && !has_tokens && !is_last) return "";
    return Chunk({{"index", index},
                  {"text", event.text},
                  {"logprobs", has_tokens ? Logprobs(tokens, choice) : json(nullptr)},
                  {"finish_reason", FinishReason(event.finish)}});
  }
  if (is_first) {
    out += Chunk({{"index", index},
                  {"delta", {{"role", "assistant"}, {"content", ""}}},
                  {"logprobs", nullptr},
                  {"finish_reason", nullptr}});
  }
  if (!event.text.empty() || has_tokens) {
    out += Chunk({{"index", index},
                  {"delta", {{"content", event.text}}},
                  {"logprobs", has_tokens ? ChatLogprobs(tokens) : json(nullptr)},
                  {"finish_reason", nullptr}});
  }
  if (is_last) {
    out += Chunk({{"index", index},
                  {"delta", json::object()},
                  {"logprobs", nullptr},
                  {"finish_reason", FinishReason(event.finish)}});
  }
  return out;
}

std::string Writer::End(const completion::Usage& usage) {
  if (asked_.streams) {
    std::string out;
    if (asked_.includes_usage) {
      json chunk = Head(true);
      chunk["choices"] = json::array();
      chunk["usage"] = ToJson(usage);
      out = Line(chunk);
    }
    return out + "data: [DONE]\n\n";
  }
  json answer = Head(false);
  answer["choices"] = json::array();
  const std::size_t best_of = asked_.request.best_of;
  for (std::size_t p = 0; p * best_of < choices_.size(); ++p) {
    std::vector<std::size_t> order(best_of);
    std::iota(order.begin(), order.end(), p * best_of);
    const auto mean = [this](std::size_t i) {
      return choices_[i].chosen == 0 ? 0 : choices_[i].logprob / static_cast<double>(choices_[i].chosen);
    };
    if (best_of > asked_.request.choices) {
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return mean(a) > mean(b); });
    }
    for (std::size_t i = 0; i < asked_.request.choices; ++i) {
      Choice& choice = choices_[order[i]];
      json one = {{"index", p * asked_.request.choices + i}, {"finish_reason", FinishReason(choice.finish)}};
      if (asked_.is_chat) {
        one["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
        one["logprobs"] = asked_.has_logprobs ? ChatLogprobs(choice.tokens) : json(nullptr);
      } else {
        one["text"] = choice.text;
        one["logprobs"] = asked_.has_logprobs ? Logprobs(choice.tokens, choice) : json(nullptr);
      }
      answer["choices"].push_back(std::move(one));
    }
  }
  answer["usage"] = ToJson(usage);
  return Dump(answer);
}

}  // namespace holo::openai
