#include "server/transports/grpc/grpc.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "common/protocol/protocol.h"
#include "holo/v1/stream.grpc.pb.h"
#include "server/assets/assets.h"
#include "server/completion/completion.h"
#include "server/streaming/streaming.h"
#include "server/transports/grpc/generation_service.h"
#include "server/transports/grpc/live_calls.h"

namespace holo::transports::grpc_transport {
namespace {

constexpr std::size_t kMaxPageSize = 1000;
constexpr std::size_t kMaxPromptBytes = std::size_t{8} << 20;

// One call of Streaming.Session. It owns itself until OnDone; callbacks of the stream hold it weakly. One read and one
// write are in flight at most, and no lock is held while gRPC or the stream is called.
class SessionReactor final : public ::grpc::ServerBidiReactor<v1::ClientMessage, v1::ServerMessage>,
                             public std::enable_shared_from_this<SessionReactor> {
 public:
  static SessionReactor* Make(::grpc::CallbackServerContext* context, streaming::Service& service, LiveCalls& live) {
    const auto reactor = std::make_shared<SessionReactor>(context, live);
    reactor->self_ = reactor;
    reactor->Begin(service);
    return reactor.get();
  }

  SessionReactor(::grpc::CallbackServerContext* context, LiveCalls& live) : context_(context), live_(live) {
    live_.Add();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      // The client will say no more, and so acknowledge no more: the same as goodbye.
      v1::ClientMessage goodbye;
      goodbye.mutable_goodbye();
      stream_->Receive(goodbye);
      Pump();
      return;
    }
    stream_->Receive(incoming_);
    incoming_.Clear();
    bool is_finished = false;
    {
      const std::lock_guard lock(mutex_);
      is_finished = is_finished_;
    }
    if (is_finished) return;
    StartRead(&incoming_);
    Pump();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) stream_->Disconnect();
    {
      const std::lock_guard lock(mutex_);
      is_writing_ = false;
    }
    Pump();
  }

  void OnCancel() override {
    if (stream_) stream_->Disconnect();
    Pump();
  }

  void OnDone() override {
    if (stream_) stream_->Disconnect();
    stream_.reset();  // its service may be gone once live_ says so
    LiveCalls& live = live_;
    self_.reset();  // *this may be gone from here on
    live.Remove();
  }

 private:
  void Begin(streaming::Service& service) {
    const std::weak_ptr<SessionReactor> weak = weak_from_this();
    Result<std::shared_ptr<streaming::Stream>> stream =
        service.Connect(context_->peer(), {[weak] {
                                             if (const auto self = weak.lock()) self->Pump();
                                           },
                                           [weak] {
                                             if (const auto self = weak.lock()) self->Abort();
                                           }});
    if (!stream) {
      is_finished_ = true;
      Finish(ToStatus(stream.error()));
      return;
    }
    stream_ = std::move(stream).value();
    {
      const std::lock_guard lock(mutex_);
      is_ready_ = true;
    }
    StartRead(&incoming_);
    Pump();
  }

  void Abort() {
    {
      // After Finish() the context may be gone.
      const std::lock_guard lock(mutex_);
      if (is_finished_) return;
      context_->TryCancel();
    }
  }

  // Writes the next message if none is under way, and finishes when the stream has.
  void Pump() {
    streaming::Stream::Next next;
    {
      const std::lock_guard lock(mutex_);
      if (!is_ready_ || is_writing_ || is_finished_) {
        asked_again_ = true;
        return;
      }
      is_writing_ = true;  // from here to StartWrite nobody else comes past
    }
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        asked_again_ = false;
      }
      next = stream_->NextMessage();
      if (next.kind != streaming::Stream::Next::Kind::kIdle) break;
      const std::lock_guard lock(mutex_);
      if (asked_again_) continue;
      is_writing_ = false;
      return;
    }
    if (next.kind == streaming::Stream::Next::Kind::kMessage) {
      outgoing_ = std::move(next.message);
      StartWrite(&outgoing_);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      is_finished_ = true;
    }
    const std::optional<Error> failure = stream_->failure();
    if (failure) {
      Finish(ToStatus(*failure));
    } else {
      Finish(context_->IsCancelled() ? ::grpc::Status::CANCELLED : ::grpc::Status::OK);
    }
  }

  ::grpc::CallbackServerContext* context_;
  LiveCalls& live_;                            // outlives this: Server::Stop() waits
  std::shared_ptr<streaming::Stream> stream_;  // constant from Begin() to OnDone()
  v1::ClientMessage incoming_;                 // gRPC's between StartRead and OnReadDone
  v1::ServerMessage outgoing_;                 // gRPC's between StartWrite and OnWriteDone

  std::mutex mutex_;
  bool is_ready_ = false;     // guarded by mutex_
  bool is_writing_ = false;   // guarded by mutex_
  bool is_finished_ = false;  // guarded by mutex_
  bool asked_again_ = false;  // guarded by mutex_; while somebody else was in Pump()

  std::shared_ptr<SessionReactor> self_;
};

class StreamingService final : public v1::Streaming::CallbackService {
 public:
  StreamingService(assets::Store& store, streaming::Service& service) : store_(store), service_(service) {}

  ::grpc::ServerBidiReactor<v1::ClientMessage, v1::ServerMessage>* Session(
      ::grpc::CallbackServerContext* context) override {
    return SessionReactor::Make(context, service_, live_);
  }

  ::grpc::ServerUnaryReactor* ListAssets(::grpc::CallbackServerContext* context, const v1::ListAssetsRequest* request,
                                         v1::ListAssetsResponse* response) override {
    ::grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const std::size_t limit =
        request->page_size() == 0 ? kMaxPageSize : std::min<std::size_t>(request->page_size(), kMaxPageSize);
    std::vector<assets::Entry> entries = store_.List(request->page_token(), limit + 1);
    if (entries.size() > limit) {
      entries.resize(limit);
      response->set_next_page_token(entries.back().name);
    }
    for (assets::Entry& entry : entries) {
      v1::AssetEntry* asset = response->add_assets();
      asset->set_name(std::move(entry.name));
      asset->set_bytes(entry.bytes);
      asset->set_ready(entry.ready);
      asset->set_modified_unix_seconds(entry.modified_unix_seconds);
    }
    reactor->Finish(::grpc::Status::OK);
    return reactor;
  }

  void WaitForNone() { live_.WaitForNone(); }

 private:
  assets::Store& store_;
  streaming::Service& service_;
  LiveCalls live_;
};

}  // namespace

struct Server::State {
  StreamingService service;
  std::unique_ptr<GenerationService> texts;
  std::unique_ptr<::grpc::Server> server;
  int port = 0;

  State(assets::Store& store, streaming::Service& streams) : service(store, streams) {}
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  Stop(std::chrono::system_clock::now());
}

Result<std::unique_ptr<Server>> Server::Start(const Options& options, assets::Store& store,
                                              streaming::Service& service) {
  auto state = std::make_unique<State>(store, service);
  // It would print to standard error, also what clients send wrongly.
  gpr_set_log_function([](gpr_log_func_args*) {});
  ::grpc::EnableDefaultHealthCheckService(true);
  ::grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  ::grpc::ServerBuilder builder;
  const bool is_ipv6 = options.host.find(':') != std::string::npos;
  const std::string address = (is_ipv6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(options.port);
  builder.AddListeningPort(address, ::grpc::InsecureServerCredentials(), &state->port);
  builder.RegisterService(&state->service);
  builder.SetMaxReceiveMessageSize(static_cast<int>(protocol::kMaxClientMessageBytes));
  if (options.texts != nullptr) {
    state->texts = std::make_unique<GenerationService>(*options.texts, options.keys, options.log);
    builder.RegisterService(state->texts.get());
    // A prompt may be longer than what a picture's client says.
    builder.SetMaxReceiveMessageSize(static_cast<int>(std::max<std::size_t>(protocol::kMaxClientMessageBytes,
                                                                            kMaxPromptBytes)));
  }
  // Two servers must not share a port by accident.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients behind proxies are pinged, and may ping; one that does not answer is gone.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  // A client may hold many sessions on one connection, but not any number.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 100);
  state->server = builder.BuildAndStart();
  if (!state->server || state->port == 0) {
    return Fail(Code::kUnavailable,
                "grpc: cannot listen on " + address + ": expected a free port of an address of this machine");
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

int Server::port() const {
  return state_->port;
}

void Server::BeginDrain() {
  if (::grpc::HealthCheckServiceInterface* health = state_->server->GetHealthCheckService()) {
    health->SetServingStatus(false);
  }
}

void Server::Stop(std::chrono::system_clock::time_point deadline) {
  if (!state_->server) return;
  state_->server->Shutdown(deadline);
  state_->server->Wait();
  state_->service.WaitForNone();
  if (state_->texts) state_->texts->WaitForNone();
  state_->server.reset();
}

}  // namespace holo::transports::grpc_transport
