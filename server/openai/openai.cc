#include "server/openai/openai.h"

#include <algorithm>
#include <mutex>

#include "common/json/json.h"

namespace holo::openai {
namespace {

using nlohmann::json;
using transports::http::ApiAnswer;
using transports::http::ApiProgress;
using transports::http::ApiRequest;

constexpr std::string_view kModels = "/v1/models";
constexpr std::string_view kCompletions = "/v1/completions";
constexpr std::string_view kChat = "/v1/chat/completions";
constexpr std::string_view kTokenize = "/tokenize";
constexpr std::string_view kDetokenize = "/detokenize";
constexpr std::string_view kSessions = "/v1/sessions";
constexpr std::string_view kSave = "/save";
constexpr std::string_view kPosts[] = {kCompletions, kChat, kTokenize, kDetokenize};

std::span<const std::uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

json ToJson(const completion::Model& model) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", model.created_unix()},
          {"owned_by", "holo"},
          {"max_model_len", model.context()},
          {"cache", {{"method", model.files().method}, {"bytes_per_token", model.engine().scheme->bytes_per_token()}}},
          {"chat_template", {{"name", model.form().name}, {"text", model.form().description}}}};
}

json ToJson(const completion::SessionInfo& info) {
  return {{"id", info.id},
          {"object", "session"},
          {"model", info.model},
          {"created", info.created_unix},
          {"last_used", info.used_unix},
          {"turns", info.turns},
          {"tokens", info.tokens},
          {"parked_bytes", info.parked_bytes},
          {"saved", info.is_saved}};
}

bool IsSessions(std::string_view path) {
  return path == kSessions || path.starts_with(std::string(kSessions) + "/");
}

// The id in "/v1/sessions/ID" and "/v1/sessions/ID/save".
std::string SessionOf(std::string_view path) {
  path.remove_prefix(std::min(path.size(), kSessions.size() + 1));
  if (path.ends_with(kSave)) path.remove_suffix(kSave.size());
  return std::string(path);
}

// The methods of a path.
std::vector<std::string_view> MethodsOf(std::string_view path) {
  if (path == kSessions) return {"GET", "POST"};
  if (IsSessions(path)) {
    if (path.ends_with(kSave)) return {"POST"};
    return {"GET", "DELETE"};
  }
  if (path.starts_with(kModels)) return {"GET"};
  return {"POST"};
}

// What is asked for, while it is worked out on other threads.
struct State {
  std::mutex mutex;
  bool is_abandoned = false;                        // guarded by mutex
  std::optional<Error> error;                       // guarded by mutex
  std::string allowed;                              // guarded by mutex; methods, where the error is that it was another
  std::optional<std::string> whole;                 // guarded by mutex; an answer that is no text generation
  std::shared_ptr<completion::Reply> reply;         // guarded by mutex
  std::unique_ptr<Writer> writer;                   // set with `reply`, then Take()'s alone
  bool streams = false;                             // likewise
  std::string id;
  std::function<void()> wake;
};

class Answer : public ApiAnswer {
 public:
  explicit Answer(std::shared_ptr<State> state) : state_(std::move(state)) {}
  ~Answer() override {
    const std::lock_guard lock(state_->mutex);
    state_->is_abandoned = true;
    if (state_->reply) state_->reply->Cancel();
  }

  ApiProgress Take() override {
    std::shared_ptr<completion::Reply> reply;
    {
      const std::lock_guard lock(state_->mutex);
      if (state_->error) {
        ApiProgress refused = Finished(Refused(*state_->error));
        if (!state_->allowed.empty()) {
          refused.status = 405;
          refused.fields.emplace_back("Allow", state_->allowed);
        }
        return refused;
      }
      if (state_->whole) {
        ApiProgress progress;
        progress.has_begun = progress.is_over = true;
        progress.bytes = std::move(*state_->whole);
        return Finished(std::move(progress));
      }
      reply = state_->reply;
    }
    if (!reply) return {};
    completion::Reply::News news = reply->Take();
    ApiProgress progress;
    for (completion::Event& event : news.events) progress.bytes += state_->writer->Add(std::move(event));
    if (!state_->streams) {
      if (news.failure) return Finished(Refused(*news.failure));
      progress.has_begun = progress.is_over = news.is_over;
      if (news.is_over) progress.bytes = state_->writer->End(reply->usage());
      return Finished(std::move(progress));
    }
    progress.has_begun = progress.is_stream = true;
    progress.content_type = "text/event-stream; charset=utf-8";
    progress.idle_bytes = ": keep-alive\n\n";
    progress.is_over = news.is_over;
    if (news.failure) {
      progress.bytes += "data: " + Dump(ToProblem(*news.failure).body) + "\n\n";
    } else if (news.is_over) {
      progress.bytes += state_->writer->End(reply->usage());
    }
    return Finished(std::move(progress));
  }

  static ApiProgress Refused(const Error& error) {
    const Problem problem = ToProblem(error);
    ApiProgress progress;
    progress.has_begun = progress.is_over = true;
    progress.status = problem.status;
    progress.bytes = Dump(problem.body);
    if (problem.may_retry) progress.fields.emplace_back("Retry-After", "1");
    if (problem.status == 401) progress.fields.emplace_back("WWW-Authenticate", "Bearer");
    return progress;
  }

 private:
  ApiProgress Finished(ApiProgress progress) const {
    progress.fields.emplace_back("X-Request-Id", state_->id);
    return progress;
  }
  std::shared_ptr<State> state_;
};

class OpenAi : public transports::http::Api {
 public:
  OpenAi(Options options, completion::Service& service) : options_(std::move(options)), service_(service) {}

  bool Has(std::string_view path) const override {
    return path == kModels || path.starts_with(std::string(kModels) + "/") || IsSessions(path) ||
           std::find(std::begin(kPosts), std::end(kPosts), path) != std::end(kPosts);
  }
  std::size_t max_body_bytes() const override { return kMaxBodyBytes; }
  ApiProgress Refuse(const Error& error, int status) const override {
    ApiProgress progress = Answer::Refused(error);
    if (status != 0) progress.status = status;
    return progress;
  }

  std::unique_ptr<ApiAnswer> Answer(ApiRequest request, std::function<void()> wake) override {
    const auto state = std::make_shared<State>();
    state->wake = std::move(wake);
    auto answer = std::make_unique<openai::Answer>(state);
    const bool is_chat = request.path == kChat;
    state->id = (is_chat ? "chatcmpl-" : "cmpl-") + completion::RandomLetters(24);
    const Result<std::string> client = options_.keys.Admit(request.authorization, request.peer);
    if (!client) {
      state->error = client.error();
      return answer;
    }
    const bool is_models = request.path.starts_with(kModels);
    const std::vector<std::string_view> methods = MethodsOf(request.path);
    if (std::find(methods.begin(), methods.end(), request.method) == methods.end()) {
      for (const std::string_view method : methods) {
        state->allowed += (state->allowed.empty() ? "" : ", ") + std::string(method);
      }
      state->error = Error{Code::kInvalidArgument, "method: expected " + state->allowed + " for " + request.path};
      return answer;
    }
    if (is_models) {
      Models(request.path, *state);
      return answer;
    }
    const auto shared = std::make_shared<ApiRequest>(std::move(request));
    const bool is_posted = service_.Post([this, state, shared, client = *client] { Work(*shared, client, state); });
    if (!is_posted) {
      state->error = Error{Code::kResourceExhausted, "queue: expected room for another request, found none"};
    }
    return answer;
  }

 private:
  void Models(const std::string& path, State& state) const {
    if (path == kModels) {
      json data = json::array();
      for (const auto& model : service_.models()) data.push_back(ToJson(*model));
      state.whole = Dump({{"object", "list"}, {"data", std::move(data)}});
      return;
    }
    const auto model = service_.Find(path.substr(kModels.size() + 1));
    if (model) {
      state.whole = Dump(ToJson(**model));
    } else {
      state.error = model.error();
    }
  }

  // On the thread that prepares.
  void Work(const ApiRequest& request, const std::string& client, const std::shared_ptr<State>& state) const {
    {
      const std::lock_guard lock(state->mutex);
      if (state->is_abandoned) return;
    }
    if (request.path == kCompletions || request.path == kChat) {
      Generate(request, client, state);
    } else {
      Result<std::string> whole = IsSessions(request.path)   ? Session(request, options_.keys.OwnerOf(client))
                                  : request.path == kTokenize ? Tokenize(request)
                                                              : Detokenize(request);
      const std::lock_guard lock(state->mutex);
      if (whole) {
        state->whole = std::move(*whole);
      } else {
        state->error = whole.error();
      }
    }
    state->wake();
  }

  Result<std::string> Session(const ApiRequest& request, const std::string& owner) const {
    completion::Sessions& sessions = service_.sessions();
    const std::string id = SessionOf(request.path);
    if (request.path == kSessions && request.method == "GET") {
      json data = json::array();
      for (const completion::SessionInfo& info : sessions.List(owner)) data.push_back(ToJson(info));
      return Dump({{"object", "list"}, {"data", std::move(data)}});
    }
    if (request.path == kSessions) {
      HOLO_ASSIGN_OR_RETURN(const NewSession asked, ParseNewSession(Bytes(request.body)));
      HOLO_ASSIGN_OR_RETURN(auto model, service_.Find(asked.model));
      const std::uint64_t seed = asked.seed ? *asked.seed : completion::SeedByChance();
      HOLO_ASSIGN_OR_RETURN(const auto info, sessions.Create(owner, std::move(model), seed));
      return Dump(ToJson(info));
    }
    if (request.method == "DELETE") {
      HOLO_RETURN_IF_ERROR(sessions.Delete(owner, id));
      return Dump({{"id", id}, {"object", "session.deleted"}, {"deleted", true}});
    }
    HOLO_ASSIGN_OR_RETURN(const auto info,
                          request.method == "POST" ? sessions.Save(owner, id) : sessions.Find(owner, id));
    return Dump(ToJson(info));
  }

  void Generate(const ApiRequest& request, const std::string& client, const std::shared_ptr<State>& state) const {
    Result<Asked> asked =
        request.path == kChat ? ParseChat(Bytes(request.body)) : ParseCompletion(Bytes(request.body));
    Result<std::shared_ptr<completion::Reply>> reply = tl::unexpected(Error{});
    if (asked) {
      completion::Request own = asked->request;
      own.client = client;
      own.owner = options_.keys.OwnerOf(client);
      reply = service_.Submit(std::move(own), state->wake);
    } else {
      reply = tl::unexpected(asked.error());
    }
    if (options_.log) {
      options_.log(state->id + " " + request.path + " from " + request.peer + ": " +
                   (reply ? std::to_string((*reply)->usage().prompt_tokens) + " prompt tokens"
                          : ToString(reply.error()).substr(0, 200)));
    }
    const std::lock_guard lock(state->mutex);
    if (!reply) {
      state->error = reply.error();
      return;
    }
    state->streams = asked->streams;
    state->writer = std::make_unique<Writer>(*asked, (*reply)->model(), state->id, completion::UnixNow(), (*reply)->prompts());
    state->reply = std::move(*reply);
    if (state->is_abandoned) state->reply->Cancel();
  }

  struct Named {
    json root;
    std::shared_ptr<const completion::Model> model;
  };
  Result<Named> Read(const ApiRequest& request) const {
    holo::json::Limits limits;
    limits.max_values = 400'000;
    auto root = holo::json::Parse(Bytes(request.body), "body", limits);
    if (!root) return Fail(Code::kInvalidArgument, root.error().message);
    if (!root->is_object()) return Fail(Code::kInvalidArgument, "body: expected an object");
    std::string name;
    if (const auto found = root->find("model"); found != root->end() && !found->is_null()) {
      if (!found->is_string()) return Fail(Code::kInvalidArgument, "model: expected a string");
      name = found->get<std::string>();
    }
    HOLO_ASSIGN_OR_RETURN(auto model, service_.Find(name));
    return Named{std::move(*root), std::move(model)};
  }

  Result<std::string> Tokenize(const ApiRequest& request) const {
    HOLO_ASSIGN_OR_RETURN(const Named named, Read(request));
    auto text = named.root.find("content");
    if (text == named.root.end()) text = named.root.find("prompt");
    if (text == named.root.end() || !text->is_string()) {
      return Fail(Code::kInvalidArgument, "content: expected a string");
    }
    const std::vector<tokenizer::TokenId> tokens = named.model->tokenizer().Encode(text->get_ref<const std::string&>());
    return Dump({{"tokens", tokens}, {"count", tokens.size()}, {"max_model_len", named.model->context()}});
  }

  Result<std::string> Detokenize(const ApiRequest& request) const {
    HOLO_ASSIGN_OR_RETURN(const Named named, Read(request));
    const auto found = named.root.find("tokens");
    if (found == named.root.end() || !found->is_array()) {
      return Fail(Code::kInvalidArgument, "tokens: expected an array of token numbers");
    }
    std::vector<tokenizer::TokenId> tokens;
    for (const json& value : *found) {
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= named.model->tokenizer().vocabulary()) {
        return Fail(Code::kInvalidArgument, "tokens: expected numbers below " +
                                                std::to_string(named.model->tokenizer().vocabulary()) + ", found " +
                                                Dump(value).substr(0, 40));
      }
      tokens.push_back(value.get<tokenizer::TokenId>());
    }
    const std::string text = named.model->Decode(tokens);
    return Dump({{"content", text}, {"prompt", text}});
  }

  const Options options_;
  completion::Service& service_;
};

}  // namespace

std::shared_ptr<transports::http::Api> MakeApi(Options options, completion::Service& service) {
  return std::make_shared<OpenAi>(std::move(options), service);
}

}  // namespace holo::openai
