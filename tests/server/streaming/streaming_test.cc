#include "server/streaming/streaming.h"

#include <doctest/doctest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "server/assets/assets.h"
#include "tests/common/protocol/sample_asset.h"
#include "tests/server/stream_client.h"
#include "tests/temporary_folder.h"

namespace holo::streaming {
namespace {

using testing::Outcome;
using testing::SampleFile;

struct Fixture {
  testing::TemporaryFolder folder;
  std::unique_ptr<assets::Store> store;
  std::unique_ptr<Service> service;

  explicit Fixture(Options options = {}) {
    REQUIRE(folder.Write("noise.holo", SampleFile({})));
    assets::Options store_options;
    store_options.folder = folder.path();
    store_options.watch = false;
    store = assets::Store::Open(std::move(store_options)).value();
    service = std::make_unique<Service>(std::move(options), *store);
  }
};

// What a transport does, without a network: waits to be woken.
class Peer {
 public:
  explicit Peer(Service& service) {
    auto connected = service.Connect("test", {[shared = shared_] {
                                                const std::lock_guard lock(shared->mutex);
                                                shared->is_awake = true;
                                                shared->changed.notify_all();
                                              },
                                              [shared = shared_] {
                                                const std::lock_guard lock(shared->mutex);
                                                shared->is_aborted = true;
                                                shared->changed.notify_all();
                                              }});
    if (connected) {
      stream_ = std::move(connected).value();
    } else {
      refusal_ = connected.error();
    }
  }

  std::optional<v1::ServerMessage> Receive() {
    for (;;) {
      {
        const std::lock_guard lock(shared_->mutex);
        shared_->is_awake = false;
      }
      Stream::Next next = stream_->NextMessage();
      if (next.kind == Stream::Next::Kind::kFinished) return std::nullopt;
      if (next.kind == Stream::Next::Kind::kMessage) return std::move(next.message);
      std::unique_lock lock(shared_->mutex);
      shared_->changed.wait(lock, [this] { return shared_->is_awake || shared_->is_aborted; });
      if (shared_->is_aborted) return std::nullopt;
    }
  }
  void WaitForAbort() {
    std::unique_lock lock(shared_->mutex);
    shared_->changed.wait(lock, [this] { return shared_->is_aborted; });
  }
  testing::Transport transport() {
    return {[this](const v1::ClientMessage& message) {
              stream_->Receive(message);
              return true;
            },
            [this] { return Receive(); }};
  }

  std::shared_ptr<Stream> stream_;
  std::optional<Error> refusal_;

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_awake = false;
    bool is_aborted = false;
  };
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

v1::ClientMessage Hello() {
  v1::ClientMessage message;
  message.mutable_hello()->set_protocol_version(protocol::kProtocolVersion);
  message.mutable_hello()->add_basis_hashes(basis::HashOf(testing::SampleBasis()).data(), 16);
  return message;
}

v1::ClientMessage Open(const char* name) {
  v1::ClientMessage message;
  message.mutable_open()->set_handle(1);
  message.mutable_open()->set_name(name);
  message.mutable_open()->mutable_view()->set_view_id(1);
  return message;
}

TEST_CASE("a stream brings a stored asset, and is counted") {
  Fixture fixture;
  Peer peer(*fixture.service);
  const Outcome outcome = testing::FetchAll(peer.transport(), "noise");
  CHECK(outcome.completed == v1::ViewComplete::EVERYTHING_SENT);
  CHECK(outcome.payload_bytes == outcome.expected_bytes);
  const Statistics statistics = fixture.service->statistics();
  CHECK(statistics.streams == 1);
  CHECK(statistics.views_completed == 1);
  CHECK(statistics.payload_bytes == outcome.payload_bytes);
  peer.stream_.reset();
  // The service's clock may hold it for a moment.
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
  CHECK(fixture.service->statistics().unacknowledged_bytes == 0);
}

TEST_CASE("many streams at once share the store") {
  Fixture fixture;
  std::atomic<int> complete{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      Peer peer(*fixture.service);
      const Outcome outcome = testing::FetchAll(peer.transport(), "noise");
      if (outcome.completed && outcome.payload_bytes == outcome.expected_bytes && outcome.duplicate_bytes == 0)
        ++complete;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(complete == 8);
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(10)));
}

TEST_CASE("an unknown asset is an error of that asset, by name") {
  Fixture fixture;
  Peer peer(*fixture.service);
  const Outcome outcome = testing::FetchAll(peer.transport(), "nowhere");
  REQUIRE(outcome.failure.has_value());
  CHECK(outcome.failure->code == Code::kNotFound);
  CHECK(outcome.failure->message.find("nowhere") != std::string::npos);
}

TEST_CASE("a client that says nothing is dropped when its time is over") {
  Options options;
  options.hello_timeout = std::chrono::milliseconds(20);
  Fixture fixture(options);
  Peer peer(*fixture.service);
  const std::optional<v1::ServerMessage> message = peer.Receive();
  REQUIRE(message.has_value());
  CHECK(message->error().code() == static_cast<std::uint32_t>(Code::kDeadlineExceeded));
  CHECK_FALSE(peer.Receive().has_value());
  CHECK(fixture.service->statistics().stalled == 1);
}

TEST_CASE("a client that acknowledges nothing gets one window and is dropped when its time is over") {
  Options options;
  options.stall_timeout = std::chrono::milliseconds(50);
  Fixture fixture(options);
  Peer peer(*fixture.service);
  v1::ClientMessage hello = Hello();
  hello.mutable_hello()->mutable_limits()->set_window_bytes(3000);
  peer.stream_->Receive(hello);
  peer.stream_->Receive(Open("noise"));
  std::uint64_t bytes = 0;
  std::optional<Code> end;
  while (const std::optional<v1::ServerMessage> message = peer.Receive()) {
    bytes += message->chunk().data().size();
    if (message->has_error()) end = static_cast<Code>(message->error().code());
  }
  CHECK(end == Code::kDeadlineExceeded);
  CHECK(bytes < 4000);
}

TEST_CASE("a connection that takes no bytes is aborted") {
  Options options;
  options.stall_timeout = std::chrono::milliseconds(1);
  Fixture fixture(options);
  Peer peer(*fixture.service);
  peer.stream_->Receive(Hello());
  REQUIRE(peer.stream_->NextMessage().kind == Stream::Next::Kind::kMessage);
  // The write never completes: nobody asks for the next message.
  peer.WaitForAbort();
  CHECK(fixture.service->statistics().stalled == 1);
}

TEST_CASE("connections above the limit are refused, and one that ends makes room") {
  Options options;
  options.max_streams = 1;
  Fixture fixture(options);
  auto first = std::make_unique<Peer>(*fixture.service);
  {
    const Peer second(*fixture.service);
    REQUIRE(second.refusal_.has_value());
    CHECK(second.refusal_->code == Code::kResourceExhausted);
  }
  first.reset();
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
  CHECK_FALSE(Peer(*fixture.service).refusal_.has_value());
}

TEST_CASE("draining refuses new streams and ends those that are idle") {
  Fixture fixture;
  Peer peer(*fixture.service);
  peer.stream_->Receive(Hello());
  CHECK(peer.Receive()->has_welcome());
  fixture.service->Drain("restart");
  CHECK(peer.Receive()->has_go_away());
  CHECK_FALSE(peer.Receive().has_value());
  const Peer late(*fixture.service);
  REQUIRE(late.refusal_.has_value());
  CHECK(late.refusal_->code == Code::kUnavailable);
}

TEST_CASE("a client that vanishes in mid-stream leaves nothing behind") {
  Fixture fixture;
  Peer peer(*fixture.service);
  peer.stream_->Receive(Hello());
  peer.stream_->Receive(Open("noise"));
  for (int i = 0; i < 5; ++i) CHECK(peer.Receive().has_value());
  peer.stream_->Disconnect();
  CHECK_FALSE(peer.Receive().has_value());
  CHECK(fixture.service->statistics().unacknowledged_bytes == 0);
  peer.stream_->Receive(Hello());
  peer.stream_->Fail({Code::kInternal, "late"});
}

TEST_CASE("an asset damaged where it was not read before is refused from then on") {
  Fixture fixture;
  std::vector<std::uint8_t> bytes = SampleFile({});
  bytes[bytes.size() - 100] ^= 0xFF;
  REQUIRE(fixture.folder.Write("damaged.holo", bytes));
  fixture.store->Rescan();
  Peer peer(*fixture.service);
  const Outcome outcome = testing::FetchAll(peer.transport(), "damaged");
  REQUIRE(outcome.failure.has_value());
  CHECK(outcome.failure->code == Code::kDataLoss);
  Peer again(*fixture.service);
  const Outcome refused = testing::FetchAll(again.transport(), "damaged");
  REQUIRE(refused.failure.has_value());
  CHECK(refused.failure->code == Code::kDataLoss);
  CHECK(refused.payload_bytes == 0);
  // Others are served.
  Peer other(*fixture.service);
  CHECK(testing::FetchAll(other.transport(), "noise").completed.has_value());
}

}  // namespace
}  // namespace holo::streaming
