// HTTP/1.1 and WebSocket on one port.
//
//   GET  /                     a page that lists the assets
//   GET  /healthz              200 "ok", or 503 once the server is stopping
//   GET  /metrics              Prometheus text
//   GET  /v1/assets            JSON; ?after=NAME&limit=N for more
//   GET  /assets/NAME.holo     the file: one Range, ETag, If-None-Match, If-Range; HEAD too
//   GET  /v1/stream            upgrade to WebSocket: a streaming session, one binary message per protocol message
//
// Everything may be asked from any origin (CORS). Requests have at most 16 KiB of header and 64 KiB of body. The
// session itself is streaming::Stream's; nothing is decided here. All members may be called from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/status/status.h"

namespace holo::assets {
class Store;
}
namespace holo::streaming {
class Service;
}

namespace holo::transports::http {

struct Options {
  std::string host = "0.0.0.0";  // a name, or an address without brackets
  int port = 8080;               // 0: any free one
  unsigned threads = 2;
  std::uint32_t max_connections = 2000;
  // Between requests, and for a client that takes no bytes of an answer.
  std::chrono::milliseconds idle_timeout{60'000};
  // Pings go out after half of it without a message; a client silent for all of it is gone.
  std::chrono::milliseconds websocket_idle_timeout{60'000};
  std::function<std::string()> metrics;         // for /metrics; empty: 404
  std::function<void(const std::string&)> log;  // one line at a time, from any thread; may be empty
};

struct Statistics {
  std::uint64_t connections = 0;  // now
  std::uint64_t requests = 0;
  std::uint64_t file_bytes = 0;  // of answers to /assets/
};

class Server {
 public:
  // kUnavailable where the address cannot be bound. `store` and `service` must outlive the server.
  [[nodiscard]] static Result<std::unique_ptr<Server>> Start(Options options, assets::Store& store,
                                                             streaming::Service& service);
  // As Stop(now).
  ~Server();

  [[nodiscard]] int port() const;
  [[nodiscard]] Statistics statistics() const;
  // Accepts no more connections; /healthz says 503 to those that are there, and each is closed after its answer.
  void BeginDrain();
  // Closes plain connections at once; WebSockets are streaming::Service's to abort.
  void CloseNow();
  // Waits for connections to end, closes at `deadline` those that are left, and returns when all have ended.
  void Stop(std::chrono::steady_clock::time_point deadline);

  struct State;  // shared with the connections

 private:
  explicit Server(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace holo::transports::http
