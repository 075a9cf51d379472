// HTTP/1.1 and WebSocket on one port.
//
//   GET  /                     a page that lists the assets
//   GET  /healthz              200 "ok", or 503 once the server is stopping
//   GET  /readyz               200 "ready", or 503 where more work should go elsewhere
//   GET  /metrics              Prometheus text
//   GET  /v1/assets            JSON; ?after=NAME&limit=N for more
//   GET  /assets/NAME.holo     the file: one Range, ETag, If-None-Match, If-Range; HEAD too
//   GET  /v1/stream            upgrade to WebSocket: a streaming session, one binary message per protocol message
//
// and whatever Options::api has. Everything may be asked from any origin (CORS). Requests have at most 16 KiB of header
// and 64 KiB of body, to the api as much as it says. The session itself is streaming::Stream's, what an
// api's answer says is the api's; nothing is decided here. All members may be called from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status/status.h"

namespace holo::assets {
class Store;
}
namespace holo::streaming {
class Service;
}

namespace holo::transports::http {

// A request for an Api.
struct ApiRequest {
  std::string method;  // "POST"
  std::string path;    // decoded, without the query
  std::string body;
  std::string authorization;  // the header, or empty
  std::string peer;           // the address of who asks
};

// What is known of an answer.
struct ApiProgress {
  bool has_begun = false;  // false: nothing else means anything yet
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> fields;
  bool is_stream = false;  // `bytes` go out as they come; otherwise the answer goes out when it is over
  std::string bytes;       // since the last call
  bool is_over = false;
  std::string idle_bytes;  // of a stream: what goes out when nothing else has for a while
};

// The answer to one request. It is destroyed when it is over or the client has gone away.
class ApiAnswer {
 public:
  virtual ~ApiAnswer() = default;
  // On an I/O thread, first at once and then after each wake. `has_begun` and what belongs to it do not change again.
  [[nodiscard]] virtual ApiProgress Take() = 0;
};

// What answers requests to some paths. Called from any thread; must not block.
class Api {
 public:
  virtual ~Api() = default;
  [[nodiscard]] virtual bool Has(std::string_view path) const = 0;
  [[nodiscard]] virtual std::size_t max_body_bytes() const = 0;
  // `wake` may be called from any thread, also when the answer is gone; kept for ever it would keep the server's memory.
  [[nodiscard]] virtual std::unique_ptr<ApiAnswer> Answer(ApiRequest request, std::function<void()> wake) = 0;
  // The whole answer to a request that does not come so far; `status` 0: the error's.
  [[nodiscard]] virtual ApiProgress Refuse(const Error& error, int status) const = 0;
};

struct Options {
  std::string host = "0.0.0.0";  // a name, or an address without brackets
  int port = 8080;               // 0: any free one
  unsigned threads = 2;
  std::uint32_t max_connections = 2000;
  // Between requests, and for a client that takes no bytes of an answer.
  std::chrono::milliseconds idle_timeout{60'000};
  // Pings go out after half of it without a message; a client silent for all of it is gone.
  std::chrono::milliseconds websocket_idle_timeout{60'000};
  // A stream of an api that has nothing to say says so this often.
  std::chrono::milliseconds idle_stream_interval{10'000};
  std::shared_ptr<Api> api;                     // may be null
  std::uint64_t max_body_bytes = std::uint64_t{256} << 20;  // of all requests for the api together; others get 503
  std::function<bool()> ready;                  // for /readyz; empty: always
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
