// OpenAI's HTTP interface over completion::Service.
//
//   GET  /v1/models, /v1/models/NAME   the models, with their context and chat template
//   POST /v1/completions               prompt: a text, texts, token numbers, or lists of them
//   POST /v1/chat/completions          messages with roles; contents as text or parts of text
//   GET, POST /v1/sessions             those of who asks; a new one: {"model"?, "seed"?}
//   GET, DELETE /v1/sessions/ID        one; what is saved of it goes, too
//   POST /v1/sessions/ID/save          writes it to the server's folder of sessions
//   POST /tokenize                     {"content" or "prompt": TEXT, "model"?} -> {"tokens", "count", "max_model_len"}
//   POST /detokenize                   {"tokens": [...], "model"?} -> {"content"}
//
// With "session": ID a completion goes on with the session's text, and a chat completion with its conversation: its
// messages are those that are new. Without a seed, turn i of a session has the session's seed + i.
//
// Fields that OpenAI does not have, but others: top_k, repetition_penalty, ignore_eos. Fields that we do not know are
// ignored, null is as good as nothing, and a wrong type or value is refused with the field's name. Refused by name:
// suffix, tools, functions, response_format other than text. Errors are OpenAI's object {"error": {"message", "type",
// "param", "code"}}.
//
// Parsing and writing are functions without state; the Api may be used from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"
#include "server/completion/completion.h"
#include "server/transports/http/http.h"

namespace holo::openai {

inline constexpr std::size_t kMaxBodyBytes = std::size_t{8} << 20;

// A request as it was asked for.
struct Asked {
  completion::Request request;
  bool is_chat = false;
  bool streams = false;
  bool includes_usage = false;
  bool echoes = false;
  bool has_logprobs = false;
};
// kInvalidArgument and kUnimplemented; the message begins with the field's name and a colon, with "body" for what is
// none.
[[nodiscard]] Result<Asked> ParseCompletion(std::span<const std::uint8_t> body);
[[nodiscard]] Result<Asked> ParseChat(std::span<const std::uint8_t> body);

// A body of /v1/sessions; an empty one is as good as {}. Errors as of ParseCompletion.
struct NewSession {
  std::string model;
  std::optional<std::uint64_t> seed;
};
[[nodiscard]] Result<NewSession> ParseNewSession(std::span<const std::uint8_t> body);

struct Problem {
  int status = 500;
  nlohmann::json body;
  bool may_retry = false;  // Retry-After
};
[[nodiscard]] Problem ToProblem(const Error& error);

// What a reply's events become, one after the other. One thread at a time.
class Writer {
 public:
  // `prompts` is of each prompt the text to echo, empty unless asked.echoes. `model` must outlive the writer.
  Writer(const Asked& asked, const completion::Model& model, std::string id, std::int64_t created_unix,
         std::span<const std::vector<tokenizer::TokenId>> prompts);

  // Takes an event. In a stream, the result is its chunks as "data: ...\n\n", often none.
  [[nodiscard]] std::string Add(completion::Event event);
  // After all events: the end of a stream, or the whole answer. Of `best_of` texts, those whose tokens are the likeliest
  // on average.
  [[nodiscard]] std::string End(const completion::Usage& usage);

 private:
  struct Choice {
    std::string text;
    std::vector<completion::Token> tokens;  // with the prompt's, where they are scored and echoed
    std::size_t prompt_tokens = 0;          // of them
    std::size_t offset = 0;                 // of the next token, in characters
    generation::Finish finish = generation::Finish::kNone;
    double logprob = 0;
    std::size_t chosen = 0;
    bool has_begun = false;
  };
  [[nodiscard]] nlohmann::json Head(bool is_chunk) const;
  [[nodiscard]] std::string Chunk(nlohmann::json choice) const;
  [[nodiscard]] nlohmann::json Logprobs(std::span<const completion::Token> tokens, Choice& choice) const;
  [[nodiscard]] nlohmann::json ChatLogprobs(std::span<const completion::Token> tokens) const;

  Asked asked_;
  const completion::Model& model_;
  std::string id_;
  std::int64_t created_unix_;
  std::vector<std::string> echoes_;  // of each prompt
  std::vector<Choice> choices_;
};

struct Options {
  completion::ApiKeys keys;
  std::function<void(const std::string&)> log;
};
// `service` must outlive the result and its answers.
[[nodiscard]] std::shared_ptr<transports::http::Api> MakeApi(Options options, completion::Service& service);

}  // namespace holo::openai
