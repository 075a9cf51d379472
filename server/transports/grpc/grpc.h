// holo.v1.Streaming and, where there are models, holo.v1.Generation over gRPC, with the standard health and reflection
// services beside them.
//
// Moves messages between connections and streaming::Stream or completion::Service, and decides nothing. All members may be called from any
// thread; gRPC brings its own.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/status/status.h"
#include "server/completion/completion.h"

namespace holo::assets {
class Store;
}
namespace holo::streaming {
class Service;
}

namespace holo::transports::grpc_transport {

struct Options {
  std::string host = "0.0.0.0";  // a name, or an address without brackets
  int port = 50051;              // 0: any free one
  completion::Service* texts = nullptr;  // null: no models; must outlive the server
  completion::ApiKeys keys = {};         // for Generation
  std::function<void(const std::string&)> log = {};  // a line for each call that asks for text; from any thread
};

class Server {
 public:
  // kUnavailable where the address cannot be bound. `store` and `service` must outlive the server.
  [[nodiscard]] static Result<std::unique_ptr<Server>> Start(const Options& options, assets::Store& store,
                                                             streaming::Service& service);
  // As Stop(now).
  ~Server();

  [[nodiscard]] int port() const;
  // The health service says NOT_SERVING from now on; nothing else changes.
  void BeginDrain();
  // Takes no more calls, cancels at `deadline` those that are left, and returns when all have ended.
  void Stop(std::chrono::system_clock::time_point deadline);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace holo::transports::grpc_transport
