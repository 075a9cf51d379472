#include <doctest/doctest.h>
#include <grpcpp/grpcpp.h>

#include <future>
#include <mutex>

#include "holo/v1/generation.grpc.pb.h"
#include "server/assets/assets.h"
#include "server/streaming/streaming.h"
#include "server/transports/grpc/grpc.h"
#include "tests/server/completion/tiny_service.h"

namespace holo::transports::grpc_transport {
namespace {

struct Fixture {
  std::mutex log_mutex;
  std::vector<std::string> log;  // guarded by log_mutex
  testing::TinyService tiny;
  std::unique_ptr<assets::Store> store;
  std::unique_ptr<streaming::Service> streams;
  std::unique_ptr<Server> server;
  std::unique_ptr<v1::Generation::Stub> stub;

  explicit Fixture(std::uint32_t context = 64, completion::ApiKeys keys = {}) : tiny({}, ModelOf(context)) {
    store = assets::Store::Open({}).value();
    streams = std::make_unique<streaming::Service>(streaming::Options{}, *store);
    Options options;
    options.host = "127.0.0.1";
    options.port = 0;
    options.texts = tiny.service.get();
    options.keys = std::move(keys);
    options.log = [this](const std::string& line) {
      const std::lock_guard lock(log_mutex);
      log.push_back(line);
    };
    server = Server::Start(options, *store, *streams).value();
    stub = v1::Generation::NewStub(::grpc::CreateChannel("127.0.0.1:" + std::to_string(server->port()),
                                                         ::grpc::InsecureChannelCredentials()));
  }
  static testing::TinyModel ModelOf(std::uint32_t context) {
    testing::TinyModel model;
    model.context = context;
    return model;
  }
  bool WaitUntilIdle() { return tiny.service->WaitUntilEmpty(completion::Clock::now() + std::chrono::seconds(30)); }
};

v1::GenerateRequest TextOf(const std::string& prompt, std::uint32_t max_tokens, std::uint64_t seed) {
  v1::GenerateRequest request;
  request.set_text(prompt);
  request.mutable_options()->set_max_tokens(max_tokens);
  request.mutable_options()->set_seed(seed);
  request.mutable_options()->set_ignores_end_token(true);
  return request;
}

struct Outcome {
  std::vector<std::string> texts;
  std::vector<v1::GenerateResponse> responses;
  ::grpc::Status status;
};

Outcome Generate(Fixture& fixture, const v1::GenerateRequest& request) {
  ::grpc::ClientContext context;
  const auto reader = fixture.stub->Generate(&context, request);
  Outcome outcome;
  outcome.texts.resize(std::max(1u, request.options().choices()));
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    outcome.texts.at(response.choice()) += response.text();
    outcome.responses.push_back(response);
  }
  outcome.status = reader->Finish();
  return outcome;
}

TEST_CASE("generated text is the service's, token by token, with usage at the end") {
  Fixture fixture;
  v1::GenerateRequest request = TextOf("the end", 9, 4);
  request.mutable_options()->set_choices(2);
  request.mutable_options()->set_logprobs(2);
  request.mutable_options()->set_scores_prompt(true);
  const Outcome outcome = Generate(fixture, request);
  CHECK(outcome.status.ok());
  completion::Request same = testing::TextRequest("the end", 9, 4);
  same.choices = same.best_of = 2;
  CHECK(outcome.texts == testing::Write(*fixture.tiny.service, same).texts);
  REQUIRE(outcome.responses.size() == 19);
  CHECK(outcome.responses[0].prompt_size() == 6);
  CHECK_FALSE(outcome.responses[0].prompt(0).has_logprob());
  CHECK(outcome.responses[0].prompt(1).top_size() == 2);
  CHECK(outcome.responses[0].tokens_size() == 1);
  CHECK(outcome.responses.back().usage().completion_tokens() == 18);
  CHECK(outcome.responses.back().usage().prompt_tokens() == 6);
  CHECK(outcome.responses[17].finish() == v1::GenerateResponse::FINISH_LENGTH);
}

TEST_CASE("models, tokens and errors have their calls and codes") {
  Fixture fixture;
  v1::ModelsResponse models;
  {
    ::grpc::ClientContext context;
    CHECK(fixture.stub->Models(&context, {}, &models).ok());
  }
  REQUIRE(models.models_size() == 2);
  CHECK(models.models(0).name() == "tiny");
  CHECK(models.models(0).context() == 64);
  v1::TokenizeRequest text;
  text.set_text("the end");
  v1::TokenizeResponse tokens;
  {
    ::grpc::ClientContext context;
    CHECK(fixture.stub->Tokenize(&context, text, &tokens).ok());
  }
  CHECK(tokens.tokens_size() == 6);
  v1::DetokenizeRequest back;
  *back.mutable_tokens() = tokens.tokens();
  v1::DetokenizeResponse again;
  {
    ::grpc::ClientContext context;
    CHECK(fixture.stub->Detokenize(&context, back, &again).ok());
  }
  CHECK(again.text() == "the end");
  back.add_tokens(9999);
  {
    ::grpc::ClientContext context;
    CHECK(fixture.stub->Detokenize(&context, back, &again).error_code() == ::grpc::StatusCode::INVALID_ARGUMENT);
  }

  v1::GenerateRequest none = TextOf("x", 1, 1);
  none.set_model("none");
  CHECK(Generate(fixture, none).status.error_code() == ::grpc::StatusCode::NOT_FOUND);
  CHECK(Generate(fixture, {}).status.error_code() == ::grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Generate(fixture, TextOf(std::string(100, 'x'), 1, 1)).status.error_code() == ::grpc::StatusCode::OUT_OF_RANGE);
  v1::GenerateRequest hot = TextOf("x", 1, 1);
  hot.mutable_options()->set_temperature(-1);
  const Outcome refused = Generate(fixture, hot);
  CHECK(refused.status.error_code() == ::grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(refused.status.error_message().starts_with("temperature: "));
}

TEST_CASE("a call that is cancelled, or whose deadline passes, ends its text") {
  Fixture fixture(8192);
  const v1::GenerateRequest request = TextOf("x", 8000, 1);
  {
    ::grpc::ClientContext context;
    const auto reader = fixture.stub->Generate(&context, request);
    v1::GenerateResponse response;
    CHECK(reader->Read(&response));
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    CHECK(reader->Finish().error_code() == ::grpc::StatusCode::CANCELLED);
    CHECK(fixture.WaitUntilIdle());
  }
  {
    ::grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    const auto reader = fixture.stub->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    CHECK(reader->Finish().error_code() == ::grpc::StatusCode::DEADLINE_EXCEEDED);
    CHECK(fixture.WaitUntilIdle());
  }
  CHECK(fixture.tiny.service->statistics().cancelled == 2);
}

v1::ChatRequest Start(std::uint32_t max_tokens) {
  v1::ChatRequest request;
  request.mutable_start()->set_system("Be kind.");
  *request.mutable_start()->mutable_options() = TextOf("", max_tokens, 5).options();
  return request;
}
v1::ChatRequest Say(const std::string& text) {
  v1::ChatRequest request;
  request.set_message(text);
  return request;
}
std::string ReadReply(::grpc::ClientReaderWriter<v1::ChatRequest, v1::GenerateResponse>& stream,
                      v1::GenerateResponse& last) {
  std::string text;
  while (stream.Read(&last)) {
    text += last.text();
    if (last.has_usage()) break;
  }
  return text;
}

TEST_CASE("a conversation remembers what was said, and a reply can be stopped") {
  Fixture fixture(8192);
  ::grpc::ClientContext context;
  const auto stream = fixture.stub->Chat(&context);
  v1::GenerateResponse last;
  CHECK(stream->Write(Start(12)));
  CHECK(stream->Write(Say("Hi")));
  const std::string first = ReadReply(*stream, last);
  CHECK(stream->Write(Say("And?")));
  CHECK(stream->WritesDone());
  const std::string second = ReadReply(*stream, last);
  CHECK(last.usage().completion_tokens() == 12);
  CHECK_FALSE(stream->Read(&last));
  CHECK(stream->Finish().ok());
  // The same, written out.
  using chat_template::Role;
  completion::Request same = testing::TextRequest("", 12, 5);
  same.prompts.clear();
  same.messages = {{Role::kSystem, "Be kind."}, {Role::kUser, "Hi"}};
  CHECK(testing::Write(*fixture.tiny.service, same).texts[0] == first);
  same.messages.push_back({Role::kAssistant, first});
  same.messages.push_back({Role::kUser, "And?"});
  same.seed = 6;
  CHECK(testing::Write(*fixture.tiny.service, same).texts[0] == second);

  ::grpc::ClientContext other;
  const auto stopped = fixture.stub->Chat(&other);
  CHECK(stopped->Write(Start(8000)));
  CHECK(stopped->Write(Say("Hi")));
  CHECK(stopped->Read(&last));
  v1::ChatRequest stop;
  stop.mutable_stop();
  CHECK(stopped->Write(stop));
  (void)ReadReply(*stopped, last);
  CHECK(last.finish() == v1::GenerateResponse::FINISH_CANCELLED);
  CHECK(stopped->Write(Say("Go on")));
  CHECK(stopped->Read(&last));
  CHECK(stopped->Write(Say("At once")));
  (void)ReadReply(*stopped, last);
  const ::grpc::Status status = stopped->Finish();
  CHECK(status.error_code() == ::grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message().starts_with("message: "));
  CHECK(fixture.WaitUntilIdle());

  ::grpc::ClientContext hasty;
  const auto early = fixture.stub->Chat(&hasty);
  CHECK(early->Write(Say("Hi")));
  CHECK_FALSE(early->Read(&last));
  CHECK(early->Finish().error_code() == ::grpc::StatusCode::INVALID_ARGUMENT);

  ::grpc::ClientContext mute;
  const auto empty = fixture.stub->Chat(&mute);
  CHECK(empty->Write(Start(12)));
  CHECK(empty->Write({}));
  (void)empty->WritesDone();
  CHECK_FALSE(empty->Read(&last));
  const ::grpc::Status nothing = empty->Finish();
  CHECK(nothing.error_code() == ::grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(nothing.error_message().starts_with("request: "));
}

TEST_CASE("a reply that is stopped before it begins says nothing, and the conversation goes on") {
  Fixture fixture(8192);
  ::grpc::ClientContext context;
  const auto stream = fixture.stub->Chat(&context);
  CHECK(stream->Write(Start(8000)));
  v1::ChatRequest stop;
  stop.mutable_stop();
  for (int i = 0; i < 20; ++i) {
    // What prepares requests is held up until the server has very likely heard both.
    std::promise<void> is_sent;
    REQUIRE(fixture.tiny.service->Post([heard = is_sent.get_future().share()] { heard.wait(); }));
    CHECK(stream->Write(Say("Hi")));
    CHECK(stream->Write(stop));
    for (int call = 0; call < 3; ++call) {
      ::grpc::ClientContext other;
      v1::ModelsResponse models;
      CHECK(fixture.stub->Models(&other, {}, &models).ok());
    }
    is_sent.set_value();
    v1::GenerateResponse last;
    (void)ReadReply(*stream, last);
    CHECK(last.finish() == v1::GenerateResponse::FINISH_CANCELLED);
    CHECK(last.usage().completion_tokens() < 8000);
  }
  CHECK(stream->WritesDone());
  CHECK(stream->Finish().ok());
  CHECK(fixture.WaitUntilIdle());
  CHECK(fixture.tiny.service->statistics().cancelled == 20);
}

TEST_CASE("where there are keys, calls say one") {
  Fixture fixture(64, completion::ApiKeys({"secret"}));
  CHECK(Generate(fixture, TextOf("x", 1, 1)).status.error_code() == ::grpc::StatusCode::UNAUTHENTICATED);
  for (const auto& [key, code] : {std::pair("Bearer secret", ::grpc::StatusCode::OK),
                                  {"Bearer other", ::grpc::StatusCode::UNAUTHENTICATED},
                                  {"secret", ::grpc::StatusCode::UNAUTHENTICATED}}) {
    ::grpc::ClientContext context;
    context.AddMetadata("authorization", key);
    v1::ModelsResponse models;
    CHECK(fixture.stub->Models(&context, {}, &models).error_code() == code);
    ::grpc::ClientContext chat;
    chat.AddMetadata("authorization", key);
    const auto stream = fixture.stub->Chat(&chat);
    (void)stream->WritesDone();
    CHECK(stream->Finish().error_code() == code);
  }
}

// The status of a unary call, with a key where it is not empty.
template <typename Call>
::grpc::StatusCode StatusOf(const std::string& key, const Call& call) {
  ::grpc::ClientContext context;
  if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
  return call(&context).error_code();
}

TEST_CASE("a session is made, gone on with, listed, not saved without a folder, and deleted") {
  Fixture fixture(256, completion::ApiKeys({"one", "two"}));
  v1::Generation::Stub& stub = *fixture.stub;
  v1::CreateSessionRequest create;
  create.set_seed(40);
  v1::Session session;
  using ::grpc::StatusCode;
  CHECK(StatusOf("", [&](auto* context) { return stub.CreateSession(context, create, &session); }) ==
        StatusCode::UNAUTHENTICATED);
  CHECK(StatusOf("one", [&](auto* context) { return stub.CreateSession(context, create, &session); }) ==
        StatusCode::OK);
  CHECK(session.model() == "tiny");
  std::vector<std::string> texts;
  for (const char* prompt : {"the end", " of it"}) {
    v1::GenerateRequest request = TextOf(prompt, 9, 0);
    request.mutable_options()->clear_seed();
    request.set_session(session.id());
    ::grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer one");
    const auto reader = stub.Generate(&context, request);
    std::string text;
    v1::GenerateResponse response;
    while (reader->Read(&response)) text += response.text();
    CHECK(reader->Finish().ok());
    texts.push_back(text);
  }
  CHECK(texts[0] == testing::Write(*fixture.tiny.service, testing::TextRequest("the end", 9, 40)).texts[0]);
  v1::GetSessionRequest get;
  get.set_id(session.id());
  CHECK(StatusOf("two", [&](auto* context) { return stub.GetSession(context, get, &session); }) ==
        StatusCode::NOT_FOUND);
  CHECK(StatusOf("one", [&](auto* context) { return stub.GetSession(context, get, &session); }) == StatusCode::OK);
  CHECK(session.turns() == 2);
  CHECK(session.parked_bytes() > 0);
  for (const auto& [key, count] : {std::pair{"one", 1}, std::pair{"two", 0}}) {
    v1::ListSessionsResponse list;
    const std::string name = key;
    CHECK(StatusOf(name, [&](auto* context) { return stub.ListSessions(context, {}, &list); }) == StatusCode::OK);
    CHECK(list.sessions_size() == count);
  }
  v1::SaveSessionRequest save;
  save.set_id(session.id());
  CHECK(StatusOf("one", [&](auto* context) { return stub.SaveSession(context, save, &session); }) ==
        StatusCode::FAILED_PRECONDITION);
  v1::DeleteSessionRequest remove;
  remove.set_id(session.id());
  v1::DeleteSessionResponse removed;
  CHECK(StatusOf("two", [&](auto* context) { return stub.DeleteSession(context, remove, &removed); }) ==
        StatusCode::NOT_FOUND);
  CHECK(StatusOf("one", [&](auto* context) { return stub.DeleteSession(context, remove, &removed); }) ==
        StatusCode::OK);
  CHECK(StatusOf("one", [&](auto* context) { return stub.GetSession(context, get, &session); }) ==
        StatusCode::NOT_FOUND);
}

TEST_CASE("calls are logged by the id that their client is told, answered or refused") {
  Fixture fixture;
  v1::GenerateRequest wrong = TextOf("the old house", 3, 1);
  wrong.set_model("another");
  for (const v1::GenerateRequest& request : {TextOf("the old house", 3, 1), wrong}) {
    CAPTURE(request.model());
    ::grpc::ClientContext context;
    const auto reader = fixture.stub->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    const ::grpc::Status status = reader->Finish();
    CHECK(status.ok() == request.model().empty());
    std::string id;
    for (const auto* metadata : {&context.GetServerInitialMetadata(), &context.GetServerTrailingMetadata()}) {
      if (const auto found = metadata->find("x-request-id"); found != metadata->end()) {
        id.assign(found->second.data(), found->second.size());
      }
    }
    CHECK(id.starts_with("call-"));
    const std::lock_guard lock(fixture.log_mutex);
    REQUIRE(fixture.log.size() == 1);
    CHECK(fixture.log.back().starts_with(id + " /holo.v1.Generation/Generate from ipv4:127.0.0.1:"));
    CHECK(fixture.log.back().find(status.ok() ? "prompt tokens" : "another") != std::string::npos);
    fixture.log.clear();
  }
}

}  // namespace
}  // namespace holo::transports::grpc_transport
