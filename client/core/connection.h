// A connection that carries the session's messages. Private to client/core.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>

#include "client/core/client.h"

namespace holo::client {

// Used by one thread. After an error the connection is dead.
class Connection {
 public:
  virtual ~Connection() = default;
  // kDeadlineExceeded if the message is not on its way by `deadline`. Success does not mean that the server takes it:
  // where it has ended the session meanwhile, Receive() gives what it said last.
  [[nodiscard]] virtual Result<void> Send(const v1::ClientMessage& message, Clock::time_point deadline) = 0;
  // The next message, or nothing at `deadline`. kUnavailable when the connection has ended.
  [[nodiscard]] virtual Result<std::optional<v1::ServerMessage>> Receive(Clock::time_point deadline) = 0;
};

[[nodiscard]] Result<std::unique_ptr<Connection>> ConnectWebSocket(const Endpoint& endpoint, const Options& options);
[[nodiscard]] Result<std::unique_ptr<Connection>> ConnectGrpc(const Endpoint& endpoint, const Options& options);

// How often waits look at the stop token.
inline constexpr std::chrono::milliseconds kStopPollInterval{50};

}  // namespace holo::client
