#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <string>
#include <utility>

#include "client/core/connection.h"
#include "holo/v1/stream.grpc.pb.h"

namespace holo::client {
namespace {

// gRPC's completion queue, polled only while somebody waits; one read is always pending.
class GrpcConnection final : public Connection {
 public:
  GrpcConnection(const Endpoint& endpoint, std::stop_token stop) : stop_(std::move(stop)) {
    const bool is_ipv6 = endpoint.host.find(':') != std::string::npos;
    target_ = (is_ipv6 ? "[" + endpoint.host + "]" : endpoint.host) + ":" + std::to_string(endpoint.port);
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(static_cast<int>(protocol::kMaxServerMessageBytes));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
    // A connection of its own: gRPC would share it, and its back-off after failures, between pictures.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(target_, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Streaming::NewStub(channel_);
  }

  ~GrpcConnection() override {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  Result<void> Connect(Clock::time_point deadline) {
    for (;;) {
      if (stop_.stop_requested()) return Fail(Code::kCancelled, "cancelled");
      const auto until = std::min(deadline, Clock::now() + kStopPollInterval);
      if (channel_->WaitForConnected(ToSystemTime(until))) break;
      if (channel_->GetState(false) == GRPC_CHANNEL_TRANSIENT_FAILURE) {
        return Fail(Code::kUnavailable, "grpc://" + target_ + ": cannot connect");
      }
      if (Clock::now() >= deadline) {
        return Fail(Code::kDeadlineExceeded, "grpc://" + target_ + ": no answer in time");
      }
    }
    Slot start;
    stream_ = stub_->AsyncSession(&context_, &queue_, &start);
    HOLO_RETURN_IF_ERROR(RunUntilDone(start, deadline));
    return {};
  }

  Result<void> Send(const v1::ClientMessage& message, Clock::time_point deadline) override {
    if (is_ended_) return {};
    Slot write;
    stream_->Write(message, &write);
    Result<void> written = RunUntilDone(write, deadline);
    if (written || write.ok || written.error().code != Code::kUnavailable) return written;
    // The server has ended the stream: it may have said why, which is still to be received.
    is_ended_ = true;
    return {};
  }

  Result<std::optional<v1::ServerMessage>> Receive(Clock::time_point deadline) override {
    if (end_) return tl::unexpected<Error>(*end_);
    if (!reading_) {
      reading_ = true;
      read_ = {};
      stream_->Read(&incoming_, &read_);
    }
    HOLO_RETURN_IF_ERROR(RunUntil(read_, deadline));
    if (!read_.done) return std::nullopt;
    reading_ = false;
    if (!read_.ok) {
      is_ended_ = true;
      end_ = Ended();
      return tl::unexpected<Error>(*end_);
    }
    return std::optional<v1::ServerMessage>(std::move(incoming_));
  }

 private:
  // A tag of the completion queue.
  struct Slot {
    bool done = false;
    bool ok = false;
  };

  static std::chrono::system_clock::time_point ToSystemTime(Clock::time_point time) {
    return std::chrono::system_clock::now() +
           std::chrono::duration_cast<std::chrono::system_clock::duration>(time - Clock::now());
  }

  // The stream has ended: why.
  Error Ended() {
    grpc::Status status;
    Slot finish;
    stream_->Finish(&status, &finish);
    while (!finish.done) {
      if (!Step(Clock::now() + std::chrono::seconds(1))) {
        context_.TryCancel();
      }
    }
    if (status.ok()) return {Code::kUnavailable, "grpc://" + target_ + ": the server has ended the stream"};
    // Cancelled is what this side does. A server that cancels is being stopped, and another one may go on.
    const Code code =
        status.error_code() == grpc::CANCELLED ? Code::kUnavailable : static_cast<Code>(status.error_code());
    return {code, "grpc://" + target_ + ": " + status.error_message()};
  }

  // Handles one event; false if none came.
  bool Step(Clock::time_point until) {
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, ToSystemTime(until)) != grpc::CompletionQueue::GOT_EVENT) return false;
    auto* slot = static_cast<Slot*>(tag);
    slot->done = true;
    slot->ok = ok;
    return true;
  }

  Result<void> RunUntil(const Slot& slot, Clock::time_point deadline) {
    while (!slot.done) {
      if (stop_.stop_requested()) return Fail(Code::kCancelled, "cancelled");
      const Clock::time_point now = Clock::now();
      if (!Step(std::min(std::max(deadline, now), now + kStopPollInterval)) && Clock::now() >= deadline) break;
    }
    return {};
  }

  Result<void> RunUntilDone(Slot& slot, Clock::time_point deadline) {
    const Result<void> ran = RunUntil(slot, deadline);
    const bool timed_out = ran.has_value() && !slot.done;
    if (!slot.done) context_.TryCancel();
    while (!slot.done) Step(Clock::now() + std::chrono::seconds(1));
    if (!ran) return ran;
    if (timed_out) return Fail(Code::kDeadlineExceeded, "grpc://" + target_ + ": no answer in time");
    if (!slot.ok) return Fail(Code::kUnavailable, "grpc://" + target_ + ": the connection was lost");
    return {};
  }

  std::string target_;
  std::stop_token stop_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Streaming::Stub> stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::ClientMessage, v1::ServerMessage>> stream_;
  v1::ServerMessage incoming_;
  bool reading_ = false;
  Slot read_;
  bool is_ended_ = false;     // nothing more can be written
  std::optional<Error> end_;  // nothing more can be read
};

}  // namespace

Result<std::unique_ptr<Connection>> ConnectGrpc(const Endpoint& endpoint, const Options& options) {
  auto connection = std::make_unique<GrpcConnection>(endpoint, options.stop);
  HOLO_RETURN_IF_ERROR(connection->Connect(Clock::now() + options.connect_timeout));
  return std::unique_ptr<Connection>(std::move(connection));
}

}  // namespace holo::client
