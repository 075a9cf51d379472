#include "server/streaming/streaming.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "server/assets/assets.h"

namespace holo::streaming {

using protocol::Clock;

struct Service::State {
  Options options;
  assets::Store& store;

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::map<const Stream*, std::weak_ptr<Stream>> streams;            // guarded by mutex
  std::multimap<Clock::time_point, std::weak_ptr<Stream>> wake_ups;  // guarded by mutex
  bool is_draining = false;                                          // guarded by mutex
  bool is_stopping = false;                                          // guarded by mutex
  std::string drain_reason;                                          // guarded by mutex
  Statistics counts;                                                 // guarded by mutex
  std::thread clock;

  State(Options given, assets::Store& assets) : options(std::move(given)), store(assets) {}

  void WakeAt(Clock::time_point time, std::weak_ptr<Stream> stream) {
    const std::lock_guard lock(mutex);
    wake_ups.emplace(time, std::move(stream));
    changed.notify_all();
  }
  std::vector<std::shared_ptr<Stream>> All() const {
    std::vector<std::shared_ptr<Stream>> all;
    const std::lock_guard lock(mutex);
    for (const auto& [key, weak] : streams) {
      if (std::shared_ptr<Stream> stream = weak.lock()) all.push_back(std::move(stream));
    }
    return all;
  }
  void RunClock();
};

struct Stream::State {
  // Constant after construction.
  std::shared_ptr<Service::State> service;
  std::string peer;
  Callbacks callbacks;

  mutable std::mutex mutex;
  protocol::ServerSession session;               // guarded by mutex
  bool is_disconnected = false;                  // guarded by mutex
  Clock::time_point connected_at;                // guarded by mutex
  std::optional<Clock::time_point> write_since;  // guarded by mutex; a message is being written
  Clock::time_point progress_at;                 // guarded by mutex; of acknowledgements
  std::optional<Clock::time_point> wake_at;      // guarded by mutex; asked of the clock
  std::map<std::uint32_t, std::string> names;    // guarded by mutex; of handles, for what is found damaged
  std::uint64_t counted_views = 0;               // guarded by mutex
  std::uint64_t counted_unacknowledged = 0;      // guarded by mutex
  bool counted_failure = false;                  // guarded by mutex

  State(std::shared_ptr<Service::State> of, std::string who, Callbacks calls)
      : service(std::move(of)), peer(std::move(who)), callbacks(std::move(calls)), session(service->options.session) {
    connected_at = progress_at = Clock::now();
  }

  // Requires the mutex.
  void Count(std::uint64_t messages_in, std::uint64_t messages_out, std::uint64_t payload_bytes) {
    const std::lock_guard lock(service->mutex);
    Statistics& counts = service->counts;
    counts.messages_in += messages_in;
    counts.messages_out += messages_out;
    counts.payload_bytes += payload_bytes;
    counts.views_completed += session.completed_views() - counted_views;
    counted_views = session.completed_views();
    const std::uint64_t unacknowledged = is_disconnected ? 0 : session.unacknowledged_bytes();
    counts.unacknowledged_bytes += unacknowledged;
    counts.unacknowledged_bytes -= counted_unacknowledged;
    counted_unacknowledged = unacknowledged;
    if (session.failure() && !counted_failure) {
      counted_failure = true;
      ++counts.failed;
      if (session.failure()->code == Code::kDeadlineExceeded) ++counts.stalled;
    }
  }

  // When the session must have made progress. Requires the mutex.
  [[nodiscard]] std::optional<Clock::time_point> Deadline() const {
    if (!session.is_welcome()) return connected_at + service->options.hello_timeout;
    if (session.unacknowledged_bytes() > 0) return progress_at + service->options.stall_timeout;
    return std::nullopt;
  }
};

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}

Stream::~Stream() {
  Disconnect();
  Service::State& service = *state_->service;
  const std::lock_guard lock(service.mutex);
  service.streams.erase(this);
  service.changed.notify_all();
}

void Stream::Receive(const v1::ClientMessage& message) {
  std::vector<protocol::ServerSession::OpenRequest> requests;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->is_disconnected) return;
    const Clock::time_point now = Clock::now();
    const std::uint64_t unacknowledged = state_->session.unacknowledged_bytes();
    state_->session.Receive(message, now);
    if (state_->session.unacknowledged_bytes() < unacknowledged) state_->progress_at = now;
    while (std::optional<protocol::ServerSession::OpenRequest> request = state_->session.TakeOpenRequest()) {
      state_->names[request->handle] = request->name;
      requests.push_back(std::move(*request));
    }
    if (message.has_close()) state_->names.erase(message.close().handle());
    state_->Count(1, 0, 0);
  }
  // Without the lock: what is open already is answered from inside Get().
  for (protocol::ServerSession::OpenRequest& request : requests) {
    state_->service->store.Get(request.name, [weak = weak_from_this(), handle = request.handle](
                                                 Result<std::shared_ptr<const assets::OpenAsset>> result) {
      const std::shared_ptr<Stream> self = weak.lock();
      if (!self) return;
      {
        const std::lock_guard lock(self->state_->mutex);
        if (self->state_->is_disconnected) return;
        if (result) {
          self->state_->session.CompleteOpen(handle, (*result)->asset);
        } else {
          self->state_->session.CompleteOpen(handle, tl::unexpected<Error>(std::move(result).error()));
        }
      }
      self->state_->callbacks.wake();
    });
  }
}

void Stream::Fail(Error error) {
  const std::lock_guard lock(state_->mutex);
  if (state_->is_disconnected) return;
  state_->session.Fail(std::move(error));
  state_->Count(0, 0, 0);
}

void Stream::Disconnect() {
  const std::lock_guard lock(state_->mutex);
  if (std::exchange(state_->is_disconnected, true)) return;
  state_->Count(0, 0, 0);
  // What the session holds is given back at once, whoever still holds the stream.
  state_->session = protocol::ServerSession(protocol::ServerOptions{});
  state_->names.clear();
}

Stream::Next Stream::NextMessage() {
  const std::lock_guard lock(state_->mutex);
  Next next;
  state_->write_since.reset();
  if (state_->is_disconnected) {
    next.kind = Next::Kind::kFinished;
    return next;
  }
  const Clock::time_point now = Clock::now();
  if (const auto deadline = state_->Deadline(); deadline && now >= *deadline) {
    state_->session.Fail({Code::kDeadlineExceeded, state_->session.is_welcome()
                                                       ? "session: nothing was acknowledged in time"
                                                       : "session: expected hello in time"});
  }
  const std::uint64_t sent = state_->session.sent_payload_bytes();
  if (state_->session.unacknowledged_bytes() == 0) state_->progress_at = now;
  protocol::ServerSession::Next decided = state_->session.NextMessage(now);
  using Kind = protocol::ServerSession::Next::Kind;
  switch (decided.kind) {
    case Kind::kMessage:
      next.kind = Next::Kind::kMessage;
      next.message = std::move(decided.message);
      state_->write_since = now;
      break;
    case Kind::kFinished:
      next.kind = Next::Kind::kFinished;
      break;
    case Kind::kWait:
    case Kind::kIdle: {
      std::optional<Clock::time_point> wake_at = state_->Deadline();
      if (decided.kind == Kind::kWait) wake_at = wake_at ? std::min(*wake_at, decided.time) : decided.time;
      // One entry with the clock at a time, unless an earlier one is needed.
      if (wake_at && (!state_->wake_at || *wake_at < *state_->wake_at || *state_->wake_at <= now)) {
        state_->wake_at = wake_at;
        state_->service->WakeAt(*wake_at, weak_from_this());
      }
      break;
    }
  }
  std::optional<std::string> damaged;
  if (next.kind == Next::Kind::kMessage && next.message.has_error() && next.message.error().handle() != 0 &&
      next.message.error().view_id() == 0) {
    const auto name = state_->names.find(next.message.error().handle());
    if (name != state_->names.end()) {
      if (next.message.error().code() == static_cast<std::uint32_t>(Code::kDataLoss)) damaged = name->second;
      state_->names.erase(name);
    }
  }
  state_->Count(0, next.kind == Next::Kind::kMessage ? 1 : 0, state_->session.sent_payload_bytes() - sent);
  if (damaged) state_->service->store.ReportDamage(*damaged, {Code::kDataLoss, next.message.error().message()});
  return next;
}

std::optional<Error> Stream::failure() const {
  const std::lock_guard lock(state_->mutex);
  return state_->session.failure();
}

// Wakes streams whose time has come, and drops those whose connection takes nothing.
void Service::State::RunClock() {
  constexpr auto kSweep = std::chrono::milliseconds(500);
  Clock::time_point next_sweep = Clock::now() + kSweep;
  std::unique_lock lock(mutex);
  while (!is_stopping) {
    Clock::time_point until = next_sweep;
    if (!wake_ups.empty()) until = std::min(until, wake_ups.begin()->first);
    if (streams.empty()) {
      changed.wait(lock);
    } else {
      changed.wait_until(lock, until);
    }
    const Clock::time_point now = Clock::now();
    std::vector<std::shared_ptr<Stream>> due;
    while (!wake_ups.empty() && wake_ups.begin()->first <= now) {
      if (std::shared_ptr<Stream> stream = wake_ups.begin()->second.lock()) due.push_back(std::move(stream));
      wake_ups.erase(wake_ups.begin());
    }
    const bool sweep = now >= next_sweep;
    if (sweep) next_sweep = now + kSweep;
    lock.unlock();
    for (const std::shared_ptr<Stream>& stream : due) {
      {
        const std::lock_guard stream_lock(stream->state_->mutex);
        stream->state_->wake_at.reset();
      }
      stream->state_->callbacks.wake();
    }
    if (sweep) {
      for (const std::shared_ptr<Stream>& stream : All()) {
        bool is_stuck = false;
        {
          const std::lock_guard stream_lock(stream->state_->mutex);
          const auto since = stream->state_->write_since;
          is_stuck = since && now - *since > options.stall_timeout && !stream->state_->is_disconnected;
          if (is_stuck) {
            stream->state_->session.Fail({Code::kDeadlineExceeded, "session: the connection takes nothing"});
            stream->state_->Count(0, 0, 0);
          }
        }
        if (is_stuck) stream->state_->callbacks.abort();
      }
    }
    due.clear();  // a last reference may go here: not under the lock
    lock.lock();
  }
}

Service::Service(Options options, assets::Store& store) : state_(std::make_shared<State>(std::move(options), store)) {
  state_->clock = std::thread([raw = state_.get()] { raw->RunClock(); });
}

Service::~Service() {
  AbortAll();
  {
    const std::lock_guard lock(state_->mutex);
    state_->is_stopping = true;
    state_->changed.notify_all();
  }
  state_->clock.join();
}

Result<std::shared_ptr<Stream>> Service::Connect(std::string peer, Stream::Callbacks callbacks) {
  // Made before and, if refused, destroyed after the lock is held: its destructor takes it.
  const std::shared_ptr<Stream> stream(
      new Stream(std::make_unique<Stream::State>(state_, std::move(peer), std::move(callbacks))));
  const std::lock_guard lock(state_->mutex);
  if (state_->is_draining) {
    ++state_->counts.refused;
    return Fail(Code::kUnavailable, "session: the server is about to stop");
  }
  if (state_->streams.size() >= state_->options.max_streams) {
    ++state_->counts.refused;
    return Fail(Code::kResourceExhausted,
                "session: expected at most " + std::to_string(state_->options.max_streams) + " connections");
  }
  ++state_->counts.streams_total;
  state_->streams.emplace(stream.get(), stream);
  state_->changed.notify_all();
  return stream;
}

void Service::Drain(const std::string& reason) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->is_draining = true;
  }
  for (const std::shared_ptr<Stream>& stream : state_->All()) {
    {
      const std::lock_guard lock(stream->state_->mutex);
      stream->state_->session.GoAway(reason);
    }
    stream->state_->callbacks.wake();
  }
}

bool Service::WaitUntilEmpty(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(state_->mutex);
  return state_->changed.wait_until(lock, deadline, [this] { return state_->streams.empty(); });
}

void Service::AbortAll() {
  for (const std::shared_ptr<Stream>& stream : state_->All()) {
    stream->Disconnect();
    stream->state_->callbacks.abort();
  }
}

Statistics Service::statistics() const {
  const std::lock_guard lock(state_->mutex);
  Statistics statistics = state_->counts;
  statistics.streams = state_->streams.size();
  return statistics;
}

}  // namespace holo::streaming
