#include "server/transports/grpc/grpc.h"

#include <doctest/doctest.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "holo/v1/stream.grpc.pb.h"
#include "server/assets/assets.h"
#include "server/streaming/streaming.h"
#include "tests/common/protocol/sample_asset.h"
#include "tests/server/stream_client.h"
#include "tests/temporary_folder.h"

namespace holo::transports::grpc_transport {
namespace {

using testing::Outcome;

struct Fixture {
  testing::TemporaryFolder folder;
  std::unique_ptr<assets::Store> store;
  std::unique_ptr<streaming::Service> service;
  std::unique_ptr<Server> server;
  std::unique_ptr<v1::Streaming::Stub> stub;

  explicit Fixture(streaming::Options options = {}) {
    for (const char* name : {"a.holo", "b.holo", "noise.holo"}) REQUIRE(folder.Write(name, testing::SampleFile({})));
    assets::Options store_options;
    store_options.folder = folder.path();
    store_options.watch = false;
    store = assets::Store::Open(std::move(store_options)).value();
    service = std::make_unique<streaming::Service>(std::move(options), *store);
    server = Server::Start({"127.0.0.1", 0}, *store, *service).value();
    stub = v1::Streaming::NewStub(
        ::grpc::CreateChannel("127.0.0.1:" + std::to_string(server->port()), ::grpc::InsecureChannelCredentials()));
  }
};

struct Call {
  ::grpc::ClientContext context;
  std::unique_ptr<::grpc::ClientReaderWriter<v1::ClientMessage, v1::ServerMessage>> stream;

  explicit Call(v1::Streaming::Stub& stub) : stream(stub.Session(&context)) {}
  testing::Transport transport() {
    return {[this](const v1::ClientMessage& message) { return stream->Write(message); },
            [this]() -> std::optional<v1::ServerMessage> {
              v1::ServerMessage message;
              if (!stream->Read(&message)) return std::nullopt;
              return message;
            }};
  }
};

TEST_CASE("a whole asset comes over gRPC, nothing twice, and the call ends well") {
  Fixture fixture;
  Call call(*fixture.stub);
  const Outcome outcome = testing::FetchAll(call.transport(), "noise");
  CHECK(outcome.completed == v1::ViewComplete::EVERYTHING_SENT);
  CHECK(outcome.payload_bytes == outcome.expected_bytes);
  CHECK(outcome.duplicate_bytes == 0);
  CHECK(call.stream->Finish().ok());
}

TEST_CASE("a client that stops writing has said goodbye") {
  Fixture fixture;
  Call call(*fixture.stub);
  v1::ClientMessage hello;
  hello.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
  CHECK(call.stream->Write(hello));
  CHECK(call.stream->WritesDone());
  v1::ServerMessage message;
  while (call.stream->Read(&message)) {
  }
  CHECK(call.stream->Finish().ok());
}

TEST_CASE("a broken rule ends the call with its code and message") {
  Fixture fixture;
  Call call(*fixture.stub);
  v1::ClientMessage hello;
  hello.mutable_hello()->set_protocol_version(99);
  CHECK(call.stream->Write(hello));
  v1::ServerMessage message;
  REQUIRE(call.stream->Read(&message));
  CHECK(message.error().code() == static_cast<std::uint32_t>(Code::kUnimplemented));
  CHECK_FALSE(call.stream->Read(&message));
  const ::grpc::Status status = call.stream->Finish();
  CHECK(status.error_code() == ::grpc::StatusCode::UNIMPLEMENTED);
  CHECK(status.error_message().find("99") != std::string::npos);
}

TEST_CASE("a cancelled call leaves no stream") {
  Fixture fixture;
  {
    Call call(*fixture.stub);
    v1::ClientMessage hello;
    hello.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
    CHECK(call.stream->Write(hello));
    v1::ServerMessage message;
    REQUIRE(call.stream->Read(&message));
    call.context.TryCancel();
    CHECK(call.stream->Finish().error_code() == ::grpc::StatusCode::CANCELLED);
  }
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
}

TEST_CASE("calls above the limit are refused") {
  streaming::Options options;
  options.max_streams = 1;
  Fixture fixture(options);
  Call first(*fixture.stub);
  v1::ClientMessage hello;
  hello.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
  CHECK(first.stream->Write(hello));
  v1::ServerMessage message;
  REQUIRE(first.stream->Read(&message));
  Call second(*fixture.stub);
  CHECK_FALSE(second.stream->Read(&message));
  CHECK(second.stream->Finish().error_code() == ::grpc::StatusCode::RESOURCE_EXHAUSTED);
  first.context.TryCancel();
  CHECK_FALSE(first.stream->Finish().ok());
}

TEST_CASE("assets are listed in pages") {
  Fixture fixture;
  v1::ListAssetsRequest request;
  request.set_page_size(2);
  v1::ListAssetsResponse response;
  {
    ::grpc::ClientContext context;
    REQUIRE(fixture.stub->ListAssets(&context, request, &response).ok());
  }
  REQUIRE(response.assets_size() == 2);
  CHECK(response.assets(0).name() == "a");
  CHECK(response.assets(0).ready());
  request.set_page_token(response.next_page_token());
  ::grpc::ClientContext context;
  REQUIRE(fixture.stub->ListAssets(&context, request, &response).ok());
  REQUIRE(response.assets_size() == 1);
  CHECK(response.assets(0).name() == "noise");
  CHECK(response.next_page_token().empty());
}

TEST_CASE("stopping lets a stream complete its view, and ends one that is stuck") {
  Fixture fixture;
  Call call(*fixture.stub);
  v1::ClientMessage message;
  message.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
  message.mutable_hello()->mutable_limits()->set_window_bytes(1000);
  CHECK(call.stream->Write(message));
  message.mutable_open()->set_handle(1);
  message.mutable_open()->set_name("noise");
  message.mutable_open()->mutable_view()->set_view_id(1);
  CHECK(call.stream->Write(message));
  v1::ServerMessage answer;
  while (!answer.has_basis()) REQUIRE(call.stream->Read(&answer));
  // It never acknowledges: the view cannot complete.
  fixture.service->Drain("restart");
  CHECK_FALSE(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now()));
  fixture.service->AbortAll();
  fixture.server->Stop(std::chrono::system_clock::now() + std::chrono::seconds(30));
  while (call.stream->Read(&answer)) {
  }
  CHECK_FALSE(call.stream->Finish().ok());
  // A timer of the service may hold the stream a moment longer.
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
}

TEST_CASE("a port in use is an error") {
  Fixture fixture;
  const auto second = Server::Start({"127.0.0.1", fixture.server->port()}, *fixture.store, *fixture.service);
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().code == Code::kUnavailable);
}

}  // namespace
}  // namespace holo::transports::grpc_transport
