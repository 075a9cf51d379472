// Streams: one protocol session per connection, joined to the store and watched by one clock. Knows no transport.
//
// A transport makes a Stream with Service::Connect, gives it every message that arrives, and whenever it can write asks
// Next() and writes what it gets, one message at a time. Nothing is queued here: what to send is decided in Next(), so
// a slow client costs what its session costs and no more. When there may be something new, or time has passed, the
// stream's `wake` is called; a transport that is not writing then asks Next() again.
//
// All members may be called from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/protocol/protocol.h"
#include "common/status/status.h"

namespace holo::assets {
class Store;
}

namespace holo::streaming {

struct Options {
  protocol::ServerOptions session;
  std::uint32_t max_streams = 1000;
  // A client that has not said hello by then is dropped.
  std::chrono::milliseconds hello_timeout{10'000};
  // A client that acknowledges nothing for so long although bytes wait for it, or whose connection takes no message for
  // so long, is dropped.
  std::chrono::milliseconds stall_timeout{60'000};
  std::function<void(const std::string&)> log;  // one line at a time, from any thread; may be empty
};

struct Statistics {
  std::uint64_t streams = 0;  // now
  std::uint64_t streams_total = 0;
  std::uint64_t refused = 0;  // connections above the limit or while stopping
  std::uint64_t failed = 0;   // sessions that ended with an error
  std::uint64_t stalled = 0;  // of these, dropped by a deadline
  std::uint64_t messages_in = 0;
  std::uint64_t messages_out = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t views_completed = 0;
  std::uint64_t unacknowledged_bytes = 0;  // now
};

class Service;

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  struct Callbacks {
    // There may be something to send or to end. Called with no lock held, from any thread, also from inside Receive();
    // never after Disconnect() has returned... save for a call already under way, so keep what it touches alive.
    std::function<void()> wake;
    // Tear the connection down now: a write has not completed in time, or the server is being stopped by force.
    std::function<void()> abort;
  };

  ~Stream();

  void Receive(const v1::ClientMessage& message);
  // For what is wrong below the messages: the client is told and the stream ends.
  void Fail(Error error);
  // The client is gone: Next() says kFinished from now on.
  void Disconnect();

  struct Next {
    enum class Kind : std::uint8_t { kMessage, kIdle, kFinished };
    Kind kind = Kind::kIdle;
    v1::ServerMessage message;
  };
  // Only while no write is under way: it takes the one before as complete.
  [[nodiscard]] Next NextMessage();
  // Why it finished, if something was wrong.
  [[nodiscard]] std::optional<Error> failure() const;

 private:
  friend class Service;
  struct State;
  explicit Stream(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class Service {
 public:
  // `store` must outlive the service; the service must outlive its streams.
  Service(Options options, assets::Store& store);
  ~Service();

  // kResourceExhausted above max_streams, kUnavailable after Drain(). `peer` is for the log.
  [[nodiscard]] Result<std::shared_ptr<Stream>> Connect(std::string peer, Stream::Callbacks callbacks);

  // Lets streams complete their views and refuses new ones.
  void Drain(const std::string& reason);
  // True once no stream is left; false if `deadline` comes first.
  [[nodiscard]] bool WaitUntilEmpty(std::chrono::steady_clock::time_point deadline);
  // Aborts what is left.
  void AbortAll();

  [[nodiscard]] Statistics statistics() const;

  struct State;  // shared with the streams

 private:
  std::shared_ptr<State> state_;
};

}  // namespace holo::streaming
