// A conversation with a model that a server has, over OpenAI's HTTP or gRPC.
//
// A Conversation belongs to one thread at a time. Replies come while they are written; one that is stopped is stopped on
// the server, too, and what it said up to there stays said.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/status/status.h"

namespace holo::chat_client {

struct Options {
  std::string model;   // empty: the server's first
  std::string key;     // empty: none
  std::string system;  // what the system says; empty: nothing
  std::optional<std::uint32_t> max_tokens;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<std::uint64_t> seed;            // of the first reply; the i-th has seed + i
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds idle_timeout{60'000};  // in which a server says nothing at all
};

struct Reply {
  std::string text;
  bool was_stopped = false;
  bool was_cut = false;  // by max_tokens or the context
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;
  std::uint64_t tokens = 0;
};

class Conversation {
 public:
  // Called with each piece of the reply, and with "" now and then while nothing comes; false stops the reply.
  using OnText = std::function<bool(std::string_view)>;

  virtual ~Conversation() = default;
  // Errors of the server are its own; kUnavailable for a connection that is lost, kDeadlineExceeded for a silent server.
  // After an error of the message (kInvalidArgument, kOutOfRange, kResourceExhausted) it is as if nothing had been said.
  [[nodiscard]] virtual Result<Reply> Ask(const std::string& message, const OnText& on_text) = 0;
};

// http://HOST[:8080] or grpc://HOST[:50051]; connects when something is asked. kInvalidArgument for other addresses.
[[nodiscard]] Result<std::unique_ptr<Conversation>> Open(std::string_view url, Options options);

}  // namespace holo::chat_client
