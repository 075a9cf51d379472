// A client for tests of anything that moves messages: opens an asset, takes all of it, and counts.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>

#include "common/protocol/protocol.h"
#include "tests/common/protocol/sample_asset.h"

namespace holo::testing {

struct Transport {
  std::function<bool(const v1::ClientMessage&)> send;
  std::function<std::optional<v1::ServerMessage>()> receive;  // nothing at the end of the stream
};

struct Outcome {
  std::uint64_t payload_bytes = 0;
  std::uint64_t duplicate_bytes = 0;
  std::uint64_t expected_bytes = 0;  // all chunks of the asset, as the server said
  std::set<container::ChunkId> chunks;
  std::optional<v1::ViewComplete::Reason> completed;
  std::optional<Error> failure;  // of the asset or of the session
  bool is_going_away = false;
  bool has_ended = false;  // the stream, before the view was complete
};

// Until the view is complete, something fails or the stream ends. Then says goodbye and reads to the end.
inline Outcome FetchAll(const Transport& transport, const std::string& name, const protocol::View& view = {},
                        std::uint64_t window_bytes = 0) {
  Outcome outcome;
  protocol::ClientOptions options;
  options.bases = {basis::HashOf(SampleBasis())};
  options.window_bytes = window_bytes;
  protocol::ClientSession session(options);
  if (!session.Open(name, nullptr, view)) return outcome;
  const auto upload = [&] {
    while (const std::optional<v1::ClientMessage> message = session.NextMessage()) {
      if (!transport.send(*message)) return;
    }
  };
  upload();
  while (!outcome.completed && !outcome.failure) {
    std::optional<v1::ServerMessage> message = transport.receive();
    if (!message) {
      outcome.has_ended = true;
      break;
    }
    Result<protocol::ClientEvent> event = session.Receive(std::move(*message));
    if (!event) {
      outcome.failure = event.error();
      break;
    }
    if (const auto* opened = std::get_if<protocol::AssetOpened>(&*event)) outcome.expected_bytes = opened->chunk_bytes;
    if (const auto* chunk = std::get_if<protocol::ChunkReceived>(&*event)) outcome.chunks.insert(chunk->id);
    if (const auto* done = std::get_if<protocol::ViewCompleted>(&*event)) outcome.completed = done->reason;
    if (const auto* failed = std::get_if<protocol::AssetFailed>(&*event)) outcome.failure = failed->error;
    if (const auto* refused = std::get_if<protocol::ViewRefused>(&*event)) outcome.failure = refused->error;
    if (std::holds_alternative<protocol::GoingAway>(*event)) outcome.is_going_away = true;
    session.Acknowledge(session.received_payload_bytes());
    upload();
  }
  outcome.payload_bytes = session.received_payload_bytes();
  outcome.duplicate_bytes = session.duplicate_bytes();
  if (!outcome.has_ended) {
    session.Goodbye();
    upload();
    while (transport.receive()) {
    }
  }
  return outcome;
}

}  // namespace holo::testing
