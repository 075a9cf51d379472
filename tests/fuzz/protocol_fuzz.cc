// Messages of the streaming session in both directions, and resume states. The first byte says which, the rest is a
// list of messages, each two bytes of length and as many bytes.
#include <algorithm>

#include "common/codec/codec.h"
#include "common/protocol/protocol.h"

namespace {

using namespace holo;

std::shared_ptr<const protocol::Asset> SomeAsset() {
  static const auto asset = [] {
    const auto picture =
        pixels::Picture::Create({40, 30, 1, pixels::SampleType::kU8, pixels::ColorModel::kGray, false});
    const auto encoded = codec::Encode(*picture, {});
    auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(encoded->file));
    return std::make_shared<const protocol::Asset>(std::move(*reader));
  }();
  return asset;
}

void FeedServer(const std::vector<std::span<const std::uint8_t>>& messages) {
  protocol::ServerSession session({});
  protocol::Clock::time_point now{};
  for (const auto& bytes : messages) {
    const auto message = protocol::ParseClientMessage(bytes);
    if (!message) continue;
    now += std::chrono::milliseconds(10);
    session.Receive(*message, now);
    while (const auto request = session.TakeOpenRequest()) session.CompleteOpen(request->handle, SomeAsset());
    for (int i = 0; i < 100; ++i) {
      const auto next = session.NextMessage(now);
      if (next.kind != protocol::ServerSession::Next::Kind::kMessage) break;
    }
  }
}

void FeedClient(const std::vector<std::span<const std::uint8_t>>& messages) {
  protocol::ClientSession session({});
  (void)session.Open("picture");
  while (session.NextMessage()) {
  }
  for (const auto& bytes : messages) {
    auto message = protocol::ParseServerMessage(bytes);
    if (!message) continue;
    if (!session.Receive(std::move(*message))) break;
    session.Acknowledge(session.received_payload_bytes());
    while (session.NextMessage()) {
    }
  }
  const auto resume = session.Resume().Serialize();
  (void)protocol::ResumeState::Parse(resume);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const unsigned kind = data[0] % 3;
  if (kind == 2) {
    (void)protocol::ResumeState::Parse({data + 1, size - 1});
    return 0;
  }
  std::vector<std::span<const std::uint8_t>> messages;
  for (std::size_t at = 1; at + 2 <= size;) {
    const std::size_t length = std::min<std::size_t>(data[at] | data[at + 1] << 8, size - at - 2);
    messages.emplace_back(data + at + 2, length);
    at += 2 + length;
  }
  if (kind == 0) {
    FeedServer(messages);
  } else {
    FeedClient(messages);
  }
  return 0;
}
