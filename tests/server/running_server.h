// A server in this process, on free ports of the loopback, over a folder of its own.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "client/core/connection.h"
#include "common/protocol/protocol.h"
#include "server/assets/assets.h"
#include "server/streaming/streaming.h"
#include "server/transports/grpc/grpc.h"
#include "server/transports/http/http.h"
#include "tests/temporary_folder.h"

namespace holo::testing {

using Transport = client::Endpoint::Transport;
inline constexpr Transport kTransports[] = {Transport::kWebSocket, Transport::kGrpc};

// Long enough for a slow machine; no test waits for it to pass.
inline constexpr std::chrono::seconds kPatience{30};

struct RunningServer {
  TemporaryFolder folder;
  std::unique_ptr<assets::Store> store;
  std::unique_ptr<streaming::Service> service;
  std::unique_ptr<transports::http::Server> http;
  std::unique_ptr<transports::grpc_transport::Server> grpc;

  // Write the files before. The addresses in the options are replaced.
  void Start(streaming::Options streaming_options = {}, transports::http::Options http_options = {}) {
    assets::Options store_options;
    store_options.folder = folder.path();
    store_options.watch = false;
    store = assets::Store::Open(std::move(store_options)).value();
    service = std::make_unique<streaming::Service>(std::move(streaming_options), *store);
    http_options.host = "127.0.0.1";
    http_options.port = 0;
    http = transports::http::Server::Start(std::move(http_options), *store, *service).value();
    transports::grpc_transport::Options grpc_options;
    grpc_options.host = "127.0.0.1";
    grpc_options.port = 0;
    grpc = transports::grpc_transport::Server::Start(grpc_options, *store, *service).value();
  }
  ~RunningServer() {
    if (service) service->AbortAll();
    grpc.reset();
    http.reset();
    service.reset();
  }
  RunningServer() = default;
  RunningServer(const RunningServer&) = delete;
  RunningServer& operator=(const RunningServer&) = delete;

  [[nodiscard]] client::Endpoint EndpointOf(Transport transport) const {
    const int port = transport == Transport::kGrpc ? grpc->port() : http->port();
    return {transport, "127.0.0.1", static_cast<std::uint16_t>(port)};
  }
  [[nodiscard]] std::string UrlOf(Transport transport) const {
    return (transport == Transport::kGrpc ? "grpc://127.0.0.1:" : "ws://127.0.0.1:") +
           std::to_string(EndpointOf(transport).port);
  }
  [[nodiscard]] bool WaitUntilNoStreams() const {
    return service->WaitUntilEmpty(std::chrono::steady_clock::now() + kPatience);
  }
};

// One connection that says what it is told to, right or wrong.
struct RawClient {
  std::unique_ptr<client::Connection> connection;

  [[nodiscard]] static Result<RawClient> Connect(const RunningServer& server, Transport transport) {
    const client::Endpoint endpoint = server.EndpointOf(transport);
    HOLO_ASSIGN_OR_RETURN(auto connection, transport == Transport::kGrpc ? client::ConnectGrpc(endpoint, {})
                                                                         : client::ConnectWebSocket(endpoint, {}));
    return RawClient{std::move(connection)};
  }

  // Whether the other side still listens is seen by what it says.
  void Send(const v1::ClientMessage& message) const {
    (void)connection->Send(message, client::Clock::now() + kPatience);
  }
  // The next message; the error that ended the connection; kDeadlineExceeded with "silence" if nothing comes.
  [[nodiscard]] Result<v1::ServerMessage> Next() const {
    HOLO_ASSIGN_OR_RETURN(std::optional<v1::ServerMessage> message,
                          connection->Receive(client::Clock::now() + kPatience));
    if (!message) return Fail(Code::kDeadlineExceeded, "silence");
    return std::move(*message);
  }
  // Skips what comes before a message of that kind; `payload_bytes` counts what is skipped.
  [[nodiscard]] Result<v1::ServerMessage> NextOf(v1::ServerMessage::KindCase kind,
                                                 std::uint64_t* payload_bytes = nullptr) const {
    for (;;) {
      HOLO_ASSIGN_OR_RETURN(v1::ServerMessage message, Next());
      if (payload_bytes != nullptr) *payload_bytes += message.chunk().data().size() + message.basis().data().size();
      if (message.kind_case() == kind) return message;
    }
  }
  // The error that ends the session, whatever comes before it.
  [[nodiscard]] Result<v1::Error> LastError(std::uint64_t* payload_bytes = nullptr) const {
    for (;;) {
      HOLO_ASSIGN_OR_RETURN(const v1::ServerMessage message, NextOf(v1::ServerMessage::kError, payload_bytes));
      if (message.error().handle() == 0) return message.error();
    }
  }
  [[nodiscard]] bool HasEnded() const {
    for (;;) {
      const auto message = Next();
      if (!message) return message.error().message != "silence";
    }
  }
};

inline v1::ClientMessage HelloMessage(std::uint64_t window_bytes = 0, const std::string& token = "",
                                      std::uint32_t version = protocol::kProtocolVersion) {
  v1::ClientMessage message;
  message.mutable_hello()->set_protocol_version(version);
  message.mutable_hello()->set_client("test");
  message.mutable_hello()->set_token(token);
  message.mutable_hello()->mutable_limits()->set_window_bytes(window_bytes);
  return message;
}
inline v1::ClientMessage OpenMessage(std::uint32_t handle, const std::string& name, bool with_view = false) {
  v1::ClientMessage message;
  message.mutable_open()->set_handle(handle);
  message.mutable_open()->set_name(name);
  if (with_view) message.mutable_open()->mutable_view()->set_view_id(1);
  return message;
}
inline v1::ClientMessage ViewMessage(std::uint32_t handle, std::uint32_t view_id, const pixels::Rect& region = {}) {
  v1::ClientMessage message;
  message.mutable_set_view()->set_handle(handle);
  v1::View* view = message.mutable_set_view()->mutable_view();
  view->set_view_id(view_id);
  view->set_x(region.x);
  view->set_y(region.y);
  view->set_width(region.width);
  view->set_height(region.height);
  return message;
}
inline v1::ClientMessage AckMessage(std::uint64_t bytes) {
  v1::ClientMessage message;
  message.mutable_ack()->set_bytes(bytes);
  return message;
}

}  // namespace holo::testing
