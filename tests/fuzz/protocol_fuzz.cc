// Hostile messages to both sessions, and hostile resume states.
//
// The first byte chooses: 0 messages to a server, 1 messages to a client, 2 a resume state. Messages follow each other,
// each after its length in two bytes, little-endian.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/protocol/protocol.h"
#include "tests/common/protocol/sample_asset.h"

namespace holo {
namespace {

using protocol::ServerSession;

constexpr int kMaxAnswers = 200;  // to one message

std::shared_ptr<const protocol::Asset> SmallAsset() {
  static const std::shared_ptr<const protocol::Asset> asset = [] {
    testing::SampleOptions options;
    options.width = 300;
    options.height = 200;
    options.layers = 2;
    options.chunk_bytes = 40;
    return testing::SampleAsset(options);
  }();
  return asset;
}

// The next message of the input; empty at its end.
std::span<const std::uint8_t> Take(std::span<const std::uint8_t>& input) {
  if (input.size() < 2) {
    input = {};
    return {};
  }
  const std::size_t length = std::min<std::size_t>(input[0] | std::size_t{input[1]} << 8, input.size() - 2);
  const std::span<const std::uint8_t> message = input.subspan(2, length);
  input = input.subspan(2 + length);
  return message;
}

void ToServer(std::span<const std::uint8_t> input) {
  ServerSession session{protocol::ServerOptions{}};
  protocol::Clock::time_point now{};
  while (!input.empty()) {
    const Result<v1::ClientMessage> message = protocol::ParseClientMessage(Take(input));
    if (message) {
      session.Receive(*message, now);
    } else {
      session.Fail(message.error());
    }
    now += std::chrono::milliseconds(10);
    while (std::optional<ServerSession::OpenRequest> request = session.TakeOpenRequest()) {
      if (request->name == "none") {
        session.CompleteOpen(request->handle, Fail(Code::kNotFound, "none"));
      } else if (request->name != "later") {
        session.CompleteOpen(request->handle, SmallAsset());
      }
    }
    for (int i = 0; i < kMaxAnswers; ++i) {
      const ServerSession::Next next = session.NextMessage(now);
      if (next.kind != ServerSession::Next::Kind::kMessage) break;
      if (next.message.ByteSizeLong() > protocol::kMaxServerMessageBytes) std::abort();
    }
    // What a client may count on: nothing beyond the largest window and one part is ever under way.
    if (session.unacknowledged_bytes() > (4u << 20) + protocol::kMaxPartBytes) std::abort();
  }
}

void ToClient(std::span<const std::uint8_t> input) {
  protocol::ClientOptions options;
  options.bases = {basis::HashOf(testing::SampleBasis())};
  options.memory_bytes = 1u << 20;
  protocol::ClientSession session(options);
  for (const char* name : {"a", "b"}) {
    if (!session.Open(name, nullptr, protocol::View{})) std::abort();
  }
  while (!input.empty()) {
    Result<v1::ServerMessage> message = protocol::ParseServerMessage(Take(input));
    if (!message || !session.Receive(std::move(*message))) break;
    session.Acknowledge(session.received_payload_bytes());
    while (session.NextMessage()) {
    }
  }
  if (!protocol::ResumeState::Parse(session.Resume().Serialize())) std::abort();
}

void Resume(std::span<const std::uint8_t> input) {
  const Result<protocol::ResumeState> state = protocol::ResumeState::Parse(input);
  if (!state) return;
  const std::vector<std::uint8_t> again = state->Serialize();
  if (!std::equal(input.begin(), input.end(), again.begin(), again.end())) std::abort();
  for (const protocol::ResumeState::Asset& asset : state->assets) {
    const google::protobuf::RepeatedPtrField<v1::HeldLevel> held(asset.held.begin(), asset.held.end());
    [[maybe_unused]] const auto parsed =
        protocol::HeldChunks::Parse(held, SmallAsset()->reader().header().levels).has_value();
  }
}

}  // namespace
}  // namespace holo

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> input(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      holo::ToServer(input);
      break;
    case 1:
      holo::ToClient(input);
      break;
    default:
      holo::Resume(input);
  }
  return 0;
}
