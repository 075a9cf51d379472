#include "server/transports/grpc/generation_service.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

namespace holo::transports::grpc_transport {
namespace {

using completion::Clock;
using completion::Reply;

// What a client is for fairness: its address without the port.
std::string PeerOf(const ::grpc::CallbackServerContext& context) {
  const std::string peer = context.peer();
  return peer.substr(0, peer.rfind(':'));
}

Error Wrong(const std::string& field, const std::string& problem) {
  return {Code::kInvalidArgument, field + ": " + problem};
}

Result<chat_template::Message> ToMessage(const v1::ChatMessage& message, const std::string& field) {
  switch (message.role()) {
    case v1::ChatMessage::ROLE_SYSTEM:
      return chat_template::Message{chat_template::Role::kSystem, message.content()};
    case v1::ChatMessage::ROLE_USER:
      return chat_template::Message{chat_template::Role::kUser, message.content()};
    case v1::ChatMessage::ROLE_ASSISTANT:
      return chat_template::Message{chat_template::Role::kAssistant, message.content()};
    default:
      return tl::unexpected(Wrong(field + ".role", "expected system, user or assistant"));
  }
}

void ReadOptions(const v1::GenerationOptions& options, completion::Request& request) {
  request.choices = request.best_of = std::max(1u, options.choices());
  if (options.has_max_tokens()) request.max_tokens = options.max_tokens();
  if (options.has_seed()) request.seed = options.seed();
  if (options.has_temperature()) request.sampling.temperature = options.temperature();
  if (options.has_top_p()) request.sampling.top_p = options.top_p();
  request.sampling.top_k = options.top_k();
  if (options.has_repetition_penalty()) request.sampling.repetition_penalty = options.repetition_penalty();
  request.sampling.presence_penalty = options.presence_penalty();
  request.sampling.frequency_penalty = options.frequency_penalty();
  request.stops.assign(options.stops().begin(), options.stops().end());
  for (const auto& [token, bias] : options.logit_bias()) request.sampling.logit_bias.emplace_back(token, bias);
  // A map's order is by chance.
  std::sort(request.sampling.logit_bias.begin(), request.sampling.logit_bias.end());
  request.sampling.logprobs = options.logprobs();
  request.scores_prompt = options.scores_prompt();
  request.ignores_end_token = options.ignores_end_token();
}

Result<completion::Request> ToRequest(const v1::GenerateRequest& asked) {
  completion::Request request;
  request.model = asked.model();
  request.session = asked.session();
  switch (asked.prompt_case()) {
    case v1::GenerateRequest::kText:
      request.prompts.emplace_back(asked.text());
      break;
    case v1::GenerateRequest::kTokens:
      request.prompts.emplace_back(
          std::vector<tokenizer::TokenId>(asked.tokens().ids().begin(), asked.tokens().ids().end()));
      break;
    case v1::GenerateRequest::kMessages:
      for (int i = 0; i < asked.messages().messages_size(); ++i) {
        HOLO_ASSIGN_OR_RETURN(chat_template::Message message,
                              ToMessage(asked.messages().messages(i), "messages[" + std::to_string(i) + "]"));
        request.messages.push_back(std::move(message));
      }
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return tl::unexpected(Wrong("prompt", "expected text, tokens or messages, found nothing"));
  }
  ReadOptions(asked.options(), request);
  return request;
}

void SetDeadline(const ::grpc::CallbackServerContext& context, completion::Request& request) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return;
  const auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return;  // none, in another way
  request.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(left);
}

void Write(const completion::Token& token, const tokenizer::Tokenizer& tokenizer, v1::ScoredToken& out) {
  out.set_id(token.id);
  out.set_text(std::string(tokenizer.Bytes(token.id)));
  if (token.logprob) out.set_logprob(*token.logprob);
  for (const auto& [id, logprob] : token.top) {
    v1::ScoredToken* top = out.add_top();
    top->set_id(id);
    top->set_text(std::string(tokenizer.Bytes(id)));
    top->set_logprob(logprob);
  }
}

v1::GenerateResponse ToResponse(const completion::Event& event, const tokenizer::Tokenizer& tokenizer, bool has_tokens) {
  v1::GenerateResponse response;
  response.set_choice(static_cast<std::uint32_t>(event.choice));
  response.set_text(event.text);
  for (const completion::Token& token : event.prompt) Write(token, tokenizer, *response.add_prompt());
  if (has_tokens) {
    for (const completion::Token& token : event.tokens) Write(token, tokenizer, *response.add_tokens());
  }
  switch (event.finish) {
    case generation::Finish::kNone:
      break;
    case generation::Finish::kStop:
    case generation::Finish::kEndToken:
      response.set_finish(v1::GenerateResponse::FINISH_STOP);
      break;
    case generation::Finish::kMaxTokens:
    case generation::Finish::kContext:
      response.set_finish(v1::GenerateResponse::FINISH_LENGTH);
      break;
  }
  return response;
}

v1::GenerateResponse ToResponse(const completion::Usage& usage) {
  v1::GenerateResponse response;
  response.mutable_usage()->set_prompt_tokens(usage.prompt_tokens);
  response.mutable_usage()->set_cached_tokens(usage.cached_tokens);
  response.mutable_usage()->set_completion_tokens(usage.completion_tokens);
  return response;
}

// What the log, and the client's metadata, call a call.
struct CallName {
  std::function<void(const std::string&)> log;  // or none
  std::string id;
  std::string about;  // the method and who called it

  static CallName Make(::grpc::CallbackServerContext& context, std::function<void(const std::string&)> log,
                       const char* method) {
    CallName name = {std::move(log), "call-" + completion::RandomLetters(24),
                     std::string(" /holo.v1.Generation/") + method + " from " + PeerOf(context) + ": "};
    context.AddInitialMetadata("x-request-id", name.id);
    return name;
  }
  void Log(const std::string& what) const {
    if (log) log(id + about + what);
  }
};

// One call that writes text. It owns itself until OnDone; callbacks of replies hold it weakly. One write is in flight at
// most, and no lock is held while gRPC is called.
template <typename Reactor>
class TextReactor : public Reactor, public std::enable_shared_from_this<TextReactor<Reactor>> {
 public:
  TextReactor(LiveCalls& live, CallName name) : live_(live), name_(std::move(name)) { live_.Add(); }

  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      is_writing_ = false;
      // Writing never fails but for a call that is over.
      if (!ok) is_gone_ = true;
    }
    Pump();
  }
  void OnCancel() override {
    {
      const std::lock_guard lock(mutex_);
      is_gone_ = true;
      if (reply_) reply_->Cancel();
    }
    Pump();
  }
  void OnDone() override {
    LiveCalls& live = live_;
    {
      const std::lock_guard lock(mutex_);
      if (reply_) reply_->Cancel();
      reply_.reset();
    }
    auto self = std::move(self_);
    self.reset();  // *this may be gone from here on
    live.Remove();
  }

 protected:
  // Nothing more comes after the reply, or at once with an error.
  void End(Error error) {
    name_.Log(ToString(error).substr(0, 200));
    {
      const std::lock_guard lock(mutex_);
      if (!end_) end_ = ToStatus(error);
      if (reply_) reply_->Cancel();
    }
    Pump();
  }

  void Submit(completion::Service& service, completion::Request request, bool has_tokens) {
    const std::weak_ptr<TextReactor> weak = this->weak_from_this();
    auto reply = service.Submit(std::move(request), [weak] {
      if (const auto self = weak.lock()) self->Pump();
    });
    if (!reply) return End(std::move(reply).error());
    name_.Log(std::to_string((*reply)->usage().prompt_tokens) + " prompt tokens");
    {
      const std::lock_guard lock(mutex_);
      reply_ = std::move(*reply);
      has_tokens_ = has_tokens;
      // It may have been stopped, or its call may have failed, while it waited to be submitted.
      if (is_gone_ || was_stopped_ || end_) reply_->Cancel();
    }
    Pump();
  }

  // With mutex_ held: what a reply's events mean besides being sent, and its end.
  virtual void Note(const completion::Event& event) = 0;
  virtual void ReplyEnded() = 0;

  void Pump() {
    // The last pump may be the one in which everything ends.
    const auto self = self_guard();
    const v1::GenerateResponse* to_write = nullptr;
    std::optional<::grpc::Status> end;
    {
      const std::lock_guard lock(mutex_);
      if (is_writing_ || is_finished_) return;
      if (reply_) {
        Reply::News news = reply_->Take();
        const tokenizer::Tokenizer& tokenizer = reply_->model().tokenizer();
        for (const completion::Event& event : news.events) {
          Note(event);
          to_send_.push_back(ToResponse(event, tokenizer, has_tokens_));
        }
        if (news.is_over) {
          if (news.failure && !(was_stopped_ && news.failure->code == Code::kCancelled)) {
            if (!end_) end_ = ToStatus(*news.failure);
          } else {
            to_send_.push_back(ToResponse(reply_->usage()));
            if (news.failure) to_send_.back().set_finish(v1::GenerateResponse::FINISH_CANCELLED);
          }
          reply_.reset();
          was_stopped_ = false;
          ReplyEnded();
        }
      }
      if (is_gone_) {
        is_finished_ = true;
        end = ::grpc::Status(::grpc::StatusCode::CANCELLED, "the call has been cancelled");
      } else if (!to_send_.empty()) {
        writing_ = std::move(to_send_.front());
        to_send_.pop_front();
        is_writing_ = true;
        to_write = &writing_;
      } else if (end_ && !reply_) {
        is_finished_ = true;
        end = *end_;
      }
    }
    if (to_write != nullptr) this->StartWrite(to_write);
    if (end) this->Finish(*end);
  }

  std::shared_ptr<TextReactor> self_guard() { return this->weak_from_this().lock(); }

  std::shared_ptr<TextReactor> self_;
  LiveCalls& live_;
  const CallName name_;

  std::mutex mutex_;
  std::shared_ptr<Reply> reply_;               // guarded by mutex_, and so is what follows
  std::deque<v1::GenerateResponse> to_send_;
  v1::GenerateResponse writing_;               // gRPC's while is_writing_
  std::optional<::grpc::Status> end_;          // once nothing more comes
  bool has_tokens_ = false;
  bool is_writing_ = false;
  bool is_finished_ = false;
  bool is_gone_ = false;
  bool was_stopped_ = false;
};

class GenerateReactor final : public TextReactor<::grpc::ServerWriteReactor<v1::GenerateResponse>> {
 public:
  using TextReactor::TextReactor;

  static GenerateReactor* Make(::grpc::CallbackServerContext* context, const v1::GenerateRequest* asked,
                               const Result<std::string>& client, const std::string& owner,
                               completion::Service& service, LiveCalls& live, CallName name) {
    const auto reactor = std::make_shared<GenerateReactor>(live, std::move(name));
    reactor->self_ = reactor;
    Result<completion::Request> request = ToRequest(*asked);
    if (!client || !request) {
      reactor->End(!client ? client.error() : request.error());
      return reactor.get();
    }
    request->client = *client;
    request->owner = owner;
    SetDeadline(*context, *request);
    const bool has_tokens = asked->options().has_logprobs();
    const auto shared = std::make_shared<completion::Request>(std::move(*request));
    const std::weak_ptr<TextReactor> weak = reactor;
    const bool is_posted = service.Post([weak, shared, has_tokens, &service] {
      if (const auto self = weak.lock()) {
        static_cast<GenerateReactor&>(*self).Submit(service, std::move(*shared), has_tokens);
      }
    });
    if (!is_posted) reactor->End({Code::kResourceExhausted, "queue: expected room for another request, found none"});
    return reactor.get();
  }

 private:
  void Note(const completion::Event&) override {}
  void ReplyEnded() override {
    if (!end_) end_ = ::grpc::Status::OK;
  }
};

class ChatReactor final : public TextReactor<::grpc::ServerBidiReactor<v1::ChatRequest, v1::GenerateResponse>> {
 public:
  ChatReactor(LiveCalls& live, CallName name, completion::Service& service)
      : TextReactor(live, std::move(name)), service_(service) {}

  static ChatReactor* Make(::grpc::CallbackServerContext* context, const Result<std::string>& client,
                           completion::Service& service, LiveCalls& live, CallName name) {
    const auto reactor = std::make_shared<ChatReactor>(live, std::move(name), service);
    reactor->self_ = reactor;
    if (client) {
      reactor->base_.client = *client;
      SetDeadline(*context, reactor->base_);
      reactor->StartRead(&reactor->incoming_);
    } else {
      reactor->End(client.error());
    }
    return reactor.get();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      {
        const std::lock_guard lock(mutex_);
        has_no_more_ = true;
        if (!is_replying_ && !end_) end_ = ::grpc::Status::OK;
      }
      return Pump();
    }
    if (auto taken = Take(); !taken) return End(std::move(taken).error());
    StartRead(&incoming_);
  }

 private:
  Result<void> Take() {
    if (incoming_.has_start()) {
      if (has_started_) return tl::unexpected(Wrong("start", "expected once, at the beginning"));
      has_started_ = true;
      const v1::ChatRequest::Start& start = incoming_.start();
      base_.model = start.model();
      ReadOptions(start.options(), base_);
      if (base_.choices != 1) return tl::unexpected(Wrong("start.options.choices", "expected one"));
      has_logprobs_ = start.options().has_logprobs();
      HOLO_RETURN_IF_ERROR(service_.Find(base_.model));
      if (!start.system().empty()) messages_.push_back({chat_template::Role::kSystem, start.system()});
      return {};
    }
    if (!has_started_) return tl::unexpected(Wrong("start", "expected it before anything else"));
    if (incoming_.has_stop()) {
      const std::lock_guard lock(mutex_);
      if (is_replying_) {
        was_stopped_ = true;
        if (reply_) reply_->Cancel();
      }
      return {};
    }
    if (!incoming_.has_message()) {
      return tl::unexpected(Wrong("request", "expected start, a message or stop, found nothing"));
    }
    completion::Request request = base_;
    {
      const std::lock_guard lock(mutex_);
      if (is_replying_) return tl::unexpected(Wrong("message", "expected it after the reply to the one before"));
      is_replying_ = true;
      said_.clear();
      messages_.push_back({chat_template::Role::kUser, incoming_.message()});
      request.messages = messages_;
    }
    // Another one each time, or the same question would always have the same answer.
    if (request.seed) *request.seed += replies_++;
    const auto shared = std::make_shared<completion::Request>(std::move(request));
    const std::weak_ptr<TextReactor> weak = weak_from_this();
    const bool has_tokens = has_logprobs_;
    const bool is_posted = service_.Post([weak, shared, has_tokens] {
      if (const auto self = weak.lock()) {
        auto& chat = static_cast<ChatReactor&>(*self);
        chat.Submit(chat.service_, std::move(*shared), has_tokens);
      }
    });
    if (!is_posted) return Fail(Code::kResourceExhausted, "queue: expected room for another request, found none");
    return {};
  }
  void Note(const completion::Event& event) override { said_ += event.text; }
  void ReplyEnded() override {
    is_replying_ = false;
    if (has_no_more_ && !end_) end_ = ::grpc::Status::OK;
    messages_.push_back({chat_template::Role::kAssistant, said_});
  }

  completion::Service& service_;
  v1::ChatRequest incoming_;  // gRPC's between StartRead and OnReadDone; the reader's, as what follows
  completion::Request base_;
  bool has_started_ = false;
  bool has_logprobs_ = false;
  std::uint64_t replies_ = 0;
  std::vector<chat_template::Message> messages_;  // guarded by mutex_
  std::string said_;                              // guarded by mutex_
  bool is_replying_ = false;                      // guarded by mutex_
  bool has_no_more_ = false;                      // guarded by mutex_; the client
};

}  // namespace

Result<std::string> GenerationService::Admit(const ::grpc::CallbackServerContext& context) const {
  const auto found = context.client_metadata().find("authorization");
  return keys_.Admit(found == context.client_metadata().end()
                         ? std::string_view()
                         : std::string_view(found->second.data(), found->second.size()),
                     PeerOf(context));
}

template <typename Work>
::grpc::ServerUnaryReactor* GenerationService::Answer(::grpc::CallbackServerContext* context, const Work& work) {
  ::grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Result<void> done;
  if (const auto client = Admit(*context); !client) {
    done = tl::unexpected(client.error());
  } else {
    done = work();
  }
  reactor->Finish(done ? ::grpc::Status::OK : ToStatus(done.error()));
  return reactor;
}

template <typename Work>
::grpc::ServerUnaryReactor* GenerationService::AnswerLater(::grpc::CallbackServerContext* context, Work work) {
  ::grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const Result<std::string> client = Admit(*context);
  if (!client) {
    reactor->Finish(ToStatus(client.error()));
    return reactor;
  }
  // Request, response and reactor are there until Finish().
  const bool is_posted = service_.Post([reactor, work = std::move(work), owner = keys_.OwnerOf(*client)] {
    const Result<void> done = work(owner);
    reactor->Finish(done ? ::grpc::Status::OK : ToStatus(done.error()));
  });
  if (!is_posted) {
    reactor->Finish(ToStatus({Code::kResourceExhausted, "queue: expected room for another request, found none"}));
  }
  return reactor;
}

::grpc::ServerUnaryReactor* GenerationService::Models(::grpc::CallbackServerContext* context, const v1::ModelsRequest*,
                                                      v1::ModelsResponse* response) {
  return Answer(context, [&]() -> Result<void> {
    for (const auto& model : service_.models()) {
      v1::ModelsResponse::Model* out = response->add_models();
      out->set_name(model->name());
      out->set_context(model->context());
      out->set_cache(model->files().method);
      out->set_bytes_per_token(model->engine().scheme->bytes_per_token());
      out->set_chat_template(model->form().name);
    }
    return {};
  });
}

::grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Generate(::grpc::CallbackServerContext* context,
                                                                              const v1::GenerateRequest* request) {
  const Result<std::string> client = Admit(*context);
  return GenerateReactor::Make(context, request, client, client ? keys_.OwnerOf(*client) : "", service_, live_,
                               CallName::Make(*context, log_, "Generate"));
}

::grpc::ServerBidiReactor<v1::ChatRequest, v1::GenerateResponse>* GenerationService::Chat(
    ::grpc::CallbackServerContext* context) {
  return ChatReactor::Make(context, Admit(*context), service_, live_, CallName::Make(*context, log_, "Chat"));
}

::grpc::ServerUnaryReactor* GenerationService::Tokenize(::grpc::CallbackServerContext* context,
                                                        const v1::TokenizeRequest* request,
                                                        v1::TokenizeResponse* response) {
  return Answer(context, [&]() -> Result<void> {
    HOLO_ASSIGN_OR_RETURN(const auto model, service_.Find(request->model()));
    for (const tokenizer::TokenId token : model->tokenizer().Encode(request->text())) response->add_tokens(token);
    return {};
  });
}

::grpc::ServerUnaryReactor* GenerationService::Detokenize(::grpc::CallbackServerContext* context,
                                                          const v1::DetokenizeRequest* request,
                                                          v1::DetokenizeResponse* response) {
  return Answer(context, [&]() -> Result<void> {
    HOLO_ASSIGN_OR_RETURN(const auto model, service_.Find(request->model()));
    for (const tokenizer::TokenId token : request->tokens()) {
      if (token >= model->tokenizer().vocabulary()) {
        return tl::unexpected(Wrong("tokens", "expected numbers below " + std::to_string(model->tokenizer().vocabulary()) +
                                                  ", found " + std::to_string(token)));
      }
    }
    response->set_text(model->Decode(std::vector<tokenizer::TokenId>(request->tokens().begin(), request->tokens().end())));
    return {};
  });
}

namespace {

void Write(const completion::SessionInfo& info, v1::Session& out) {
  out.set_id(info.id);
  out.set_model(info.model);
  out.set_created_unix(info.created_unix);
  out.set_used_unix(info.used_unix);
  out.set_turns(info.turns);
  out.set_tokens(info.tokens);
  out.set_parked_bytes(info.parked_bytes);
  out.set_is_saved(info.is_saved);
}

Result<void> Write(const Result<completion::SessionInfo>& info, v1::Session& out) {
  if (!info) return tl::unexpected(info.error());
  Write(*info, out);
  return {};
}

}  // namespace

::grpc::ServerUnaryReactor* GenerationService::CreateSession(::grpc::CallbackServerContext* context,
                                                             const v1::CreateSessionRequest* request,
                                                             v1::Session* response) {
  return AnswerLater(context, [this, request, response](const std::string& owner) -> Result<void> {
    HOLO_ASSIGN_OR_RETURN(auto model, service_.Find(request->model()));
    const std::uint64_t seed = request->has_seed() ? request->seed() : completion::SeedByChance();
    return Write(service_.sessions().Create(owner, std::move(model), seed), *response);
  });
}

::grpc::ServerUnaryReactor* GenerationService::GetSession(::grpc::CallbackServerContext* context,
                                                          const v1::GetSessionRequest* request,
                                                          v1::Session* response) {
  return AnswerLater(context, [this, request, response](const std::string& owner) {
    return Write(service_.sessions().Find(owner, request->id()), *response);
  });
}

::grpc::ServerUnaryReactor* GenerationService::ListSessions(::grpc::CallbackServerContext* context,
                                                            const v1::ListSessionsRequest*,
                                                            v1::ListSessionsResponse* response) {
  return AnswerLater(context, [this, response](const std::string& owner) -> Result<void> {
    for (const completion::SessionInfo& info : service_.sessions().List(owner)) Write(info, *response->add_sessions());
    return {};
  });
}

::grpc::ServerUnaryReactor* GenerationService::SaveSession(::grpc::CallbackServerContext* context,
                                                           const v1::SaveSessionRequest* request,
                                                           v1::Session* response) {
  return AnswerLater(context, [this, request, response](const std::string& owner) {
    return Write(service_.sessions().Save(owner, request->id()), *response);
  });
}

::grpc::ServerUnaryReactor* GenerationService::DeleteSession(::grpc::CallbackServerContext* context,
                                                             const v1::DeleteSessionRequest* request,
                                                             v1::DeleteSessionResponse*) {
  return AnswerLater(context, [this, request](const std::string& owner) {
    return service_.sessions().Delete(owner, request->id());
  });
}

}  // namespace holo::transports::grpc_transport
