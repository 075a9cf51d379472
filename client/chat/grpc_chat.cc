#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "client/chat/kinds.h"
#include "holo/v1/generation.grpc.pb.h"

namespace holo::chat_client {
namespace {

// One stream of Generation.Chat, with a thread that reads it.
class GrpcConversation final : public Conversation {
 public:
  GrpcConversation(const client::Endpoint& endpoint, Options options) : options_(std::move(options)) {
    const bool is_ipv6 = endpoint.host.find(':') != std::string::npos;
    const std::string host = is_ipv6 ? "[" + endpoint.host + "]" : endpoint.host;
    where_ = host + ":" + std::to_string(endpoint.port);
    channel_ = ::grpc::CreateChannel(where_, ::grpc::InsecureChannelCredentials());
  }
  ~GrpcConversation() override { Close(); }

  Result<Reply> Ask(const std::string& message, const OnText& on_text) override {
    if (!stream_) HOLO_RETURN_IF_ERROR(Connect());
    v1::ChatRequest request;
    request.set_message(message);
    if (!stream_->Write(request)) return Lost();
    Reply reply;
    auto last_heard = std::chrono::steady_clock::now();
    for (;;) {
      std::deque<v1::GenerateResponse> responses;
      bool is_over = false;
      {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, kLookEvery, [this] { return is_over_ || !received_.empty(); });
        responses.swap(received_);
        is_over = is_over_;
      }
      const auto now = std::chrono::steady_clock::now();
      if (!responses.empty()) last_heard = now;
      bool goes_on = responses.empty() ? on_text("") : true;
      for (const v1::GenerateResponse& response : responses) {
        reply.text += response.text();
        if (!response.text().empty()) goes_on = on_text(response.text()) && goes_on;
        if (response.finish() == v1::GenerateResponse::FINISH_LENGTH) reply.was_cut = true;
        if (!response.has_usage()) continue;
        reply.was_stopped = response.finish() == v1::GenerateResponse::FINISH_CANCELLED;
        reply.prompt_tokens = response.usage().prompt_tokens();
        reply.cached_tokens = response.usage().cached_tokens();
        reply.tokens = response.usage().completion_tokens();
        return reply;
      }
      if (is_over) return Lost();
      if (!goes_on && !reply.was_stopped) {
        reply.was_stopped = true;
        v1::ChatRequest stop;
        stop.mutable_stop();
        stream_->Write(stop);
      }
      // A queue or a long prompt may take its time; the channel's own pings tell whether the server is there.
      if (reply.was_stopped && now - last_heard > options_.idle_timeout) {
        Close();
        return Fail(Code::kDeadlineExceeded, "grpc: " + where_ + " does not stop the reply");
      }
    }
  }

 private:
  Result<void> Connect() {
    if (!channel_->WaitForConnected(std::chrono::system_clock::now() + options_.connect_timeout)) {
      return Fail(Code::kUnavailable, "grpc: cannot connect to " + where_);
    }
    context_ = std::make_unique<::grpc::ClientContext>();
    if (!options_.key.empty()) context_->AddMetadata("authorization", "Bearer " + options_.key);
    stub_ = v1::Generation::NewStub(channel_);
    stream_ = stub_->Chat(context_.get());
    is_over_ = false;
    received_.clear();
    reader_ = std::thread([this] {
      for (v1::GenerateResponse response; stream_->Read(&response);) {
        const std::lock_guard lock(mutex_);
        received_.push_back(std::move(response));
        changed_.notify_all();
      }
      const std::lock_guard lock(mutex_);
      is_over_ = true;
      changed_.notify_all();
    });
    v1::ChatRequest request;
    v1::ChatRequest::Start& start = *request.mutable_start();
    start.set_model(options_.model);
    start.set_system(options_.system);
    if (options_.max_tokens) start.mutable_options()->set_max_tokens(*options_.max_tokens);
    if (options_.temperature) start.mutable_options()->set_temperature(*options_.temperature);
    if (options_.top_p) start.mutable_options()->set_top_p(*options_.top_p);
    if (options_.seed) start.mutable_options()->set_seed(*options_.seed);
    if (!stream_->Write(request)) return Lost();
    return {};
  }
  // What ended the stream.
  tl::unexpected<Error> Lost() {
    reader_.join();
    const ::grpc::Status status = stream_->Finish();
    stream_.reset();
    if (status.ok()) return Fail(Code::kUnavailable, "grpc: " + where_ + " has ended the conversation");
    const auto code = static_cast<Code>(status.error_code());
    return Fail(code, status.error_message());
  }
  void Close() {
    if (!stream_) return;
    context_->TryCancel();
    reader_.join();
    (void)stream_->Finish();
    stream_.reset();
  }

  Options options_;
  std::string where_;
  std::shared_ptr<::grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
  std::unique_ptr<::grpc::ClientContext> context_;
  std::unique_ptr<::grpc::ClientReaderWriter<v1::ChatRequest, v1::GenerateResponse>> stream_;
  std::thread reader_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<v1::GenerateResponse> received_;  // guarded by mutex_
  bool is_over_ = false;                       // guarded by mutex_
};

}  // namespace

std::unique_ptr<Conversation> OpenGrpc(const client::Endpoint& endpoint, Options options) {
  return std::make_unique<GrpcConversation>(endpoint, std::move(options));
}

}  // namespace holo::chat_client
