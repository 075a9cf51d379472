#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/websocket.hpp>
#include <string>
#include <utility>

#include "client/core/connection.h"

namespace holo::client {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;
using boost::system::error_code;

// Asynchronous operations on an io_context that only runs while somebody waits: no thread of its own, and a read stays
// pending between calls, so that pings are answered whenever the context runs.
class WebSocketConnection final : public Connection {
 public:
  WebSocketConnection(const Endpoint& endpoint, std::stop_token stop) : endpoint_(endpoint), stop_(std::move(stop)) {}

  ~WebSocketConnection() override {
    error_code ignored;
    beast::get_lowest_layer(stream_).socket().close(ignored);
    // Handlers that are still pending, Beast's timers among them, are destroyed with the context and never run.
    context_.restart();
    context_.poll();
  }

  Result<void> Connect(Clock::time_point deadline) {
    asio::ip::tcp::resolver resolver(context_);
    Operation resolve;
    asio::ip::tcp::resolver::results_type addresses;
    resolver.async_resolve(endpoint_.host, std::to_string(endpoint_.port),
                           [&](error_code error, asio::ip::tcp::resolver::results_type found) {
                             addresses = std::move(found);
                             resolve.Finish(error);
                           });
    HOLO_RETURN_IF_ERROR(RunUntilDone(resolve, deadline, "finding the host", [&] { resolver.cancel(); }));
    Operation connect;
    beast::get_lowest_layer(stream_).async_connect(
        addresses, [&](error_code error, const asio::ip::tcp::endpoint&) { connect.Finish(error); });
    HOLO_RETURN_IF_ERROR(RunUntilDone(connect, deadline, "connecting", [this] { Close(); }));
    beast::get_lowest_layer(stream_).socket().set_option(asio::ip::tcp::no_delay(true));

    websocket::permessage_deflate deflate;
    deflate.client_enable = false;
    stream_.set_option(deflate);
    stream_.set_option(websocket::stream_base::timeout{std::chrono::seconds(10), std::chrono::seconds(60), true});
    stream_.read_message_max(protocol::kMaxServerMessageBytes);
    stream_.binary(true);
    Operation handshake;
    const std::string host = endpoint_.host + ":" + std::to_string(endpoint_.port);
    stream_.async_handshake(host, std::string(protocol::kWebSocketPath),
                            [&](error_code error) { handshake.Finish(error); });
    return RunUntilDone(handshake, deadline, "shaking hands", [this] { Close(); });
  }

  Result<void> Send(const v1::ClientMessage& message, Clock::time_point deadline) override {
    outgoing_ = message.SerializeAsString();
    Operation write;
    stream_.async_write(asio::buffer(outgoing_), [&](error_code error, std::size_t) { write.Finish(error); });
    return RunUntilDone(write, deadline, "writing", [this] { Close(); });
  }

  Result<std::optional<v1::ServerMessage>> Receive(Clock::time_point deadline) override {
    if (!reading_) {
      reading_ = true;
      read_ = {};
      stream_.async_read(incoming_, [this](error_code error, std::size_t) { read_.Finish(error); });
    }
    HOLO_RETURN_IF_ERROR(RunUntil(read_, deadline));
    if (!read_.done) return std::nullopt;
    reading_ = false;
    if (read_.error) return Lost("reading", read_.error);
    const auto data = incoming_.cdata();
    auto message = protocol::ParseServerMessage(
        {static_cast<const std::uint8_t*>(data.data()), static_cast<std::size_t>(data.size())});
    incoming_.consume(incoming_.size());
    if (!message) return Fail(Code::kDataLoss, "server: " + message.error().message);
    return std::optional<v1::ServerMessage>(std::move(*message));
  }

 private:
  struct Operation {
    bool done = false;
    error_code error;
    void Finish(error_code result) {
      done = true;
      error = result;
    }
  };

  void Close() {
    error_code ignored;
    beast::get_lowest_layer(stream_).socket().close(ignored);
  }

  tl::unexpected<Error> Lost(const std::string& action, error_code error) const {
    std::string reason = error.message();
    if (error == websocket::error::closed && !stream_.reason().reason.empty()) {
      reason = std::string(stream_.reason().reason.data(), stream_.reason().reason.size());
    }
    if (error == websocket::error::upgrade_declined) reason = "this is no holo server, or it takes no more connections";
    return Fail(Code::kUnavailable,
                "ws://" + endpoint_.host + ":" + std::to_string(endpoint_.port) + ", " + action + ": " + reason);
  }

  // Runs the context until `operation` is done or the deadline has come.
  Result<void> RunUntil(const Operation& operation, Clock::time_point deadline) {
    while (!operation.done) {
      if (stop_.stop_requested()) return Fail(Code::kCancelled, "cancelled");
      const Clock::time_point now = Clock::now();
      context_.restart();
      context_.run_one_until(std::min(std::max(deadline, now), now + kStopPollInterval));
      if (!operation.done && Clock::now() >= deadline) {
        context_.poll();
        break;
      }
    }
    return {};
  }

  // The same for an operation that refers to the caller's frame: it is ended, and waited for, before this returns.
  template <typename Abort>
  Result<void> RunUntilDone(Operation& operation, Clock::time_point deadline, const std::string& action,
                            const Abort& abort) {
    const Result<void> ran = RunUntil(operation, deadline);
    if (!operation.done) {
      abort();
      while (!operation.done) {
        context_.restart();
        if (context_.run_one() == 0) break;
      }
      if (!ran) return ran;
      return Fail(Code::kDeadlineExceeded, "ws://" + endpoint_.host + ":" + std::to_string(endpoint_.port) + ", " +
                                               action + ": no answer in time");
    }
    if (operation.error) return Lost(action, operation.error);
    return {};
  }

  Endpoint endpoint_;
  std::stop_token stop_;
  asio::io_context context_{1};
  websocket::stream<beast::tcp_stream> stream_{context_};
  beast::flat_buffer incoming_;
  std::string outgoing_;
  bool reading_ = false;
  Operation read_;
};

}  // namespace

Result<std::unique_ptr<Connection>> ConnectWebSocket(const Endpoint& endpoint, const Options& options) {
  auto connection = std::make_unique<WebSocketConnection>(endpoint, options.stop);
  HOLO_RETURN_IF_ERROR(connection->Connect(Clock::now() + options.connect_timeout));
  return std::unique_ptr<Connection>(std::move(connection));
}

}  // namespace holo::client
