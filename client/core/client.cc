#include "client/core/client.h"

#include <algorithm>
#include <charconv>
#include <thread>
#include <utility>

#include "client/core/connection.h"
#include "common/bytes/bytes.h"

namespace holo::client {
namespace {

constexpr std::chrono::milliseconds kFirstBackoff{250};

// Errors after which another connection may work.
bool IsTransient(const Error& error) {
  return error.code == Code::kUnavailable || error.code == Code::kDeadlineExceeded;
}

// Until then; kCancelled if stopped before.
Result<void> Sleep(Clock::time_point until, const std::stop_token& stop) {
  for (Clock::time_point now; (now = Clock::now()) < until;) {
    if (stop.stop_requested()) return Fail(Code::kCancelled, "cancelled");
    std::this_thread::sleep_for(std::min<Clock::duration>(kStopPollInterval, until - now));
  }
  return {};
}

}  // namespace

Result<Endpoint> Endpoint::Parse(std::string_view url) {
  const auto refuse = [url] {
    return Fail(Code::kInvalidArgument,
                "address: expected ws://HOST[:PORT] or grpc://HOST[:PORT], found '" + std::string(url) + "'");
  };
  Endpoint endpoint;
  std::string_view rest = url;
  if (rest.starts_with("ws://")) {
    endpoint.transport = Transport::kWebSocket;
    endpoint.port = 8080;
    rest.remove_prefix(5);
  } else if (rest.starts_with("grpc://")) {
    endpoint.transport = Transport::kGrpc;
    endpoint.port = 50051;
    rest.remove_prefix(7);
  } else {
    return refuse();
  }
  if (rest.ends_with('/')) rest.remove_suffix(1);
  std::string_view port;
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == std::string_view::npos) return refuse();
    endpoint.host = rest.substr(1, end - 1);
    port = rest.substr(end + 1);
    if (!port.empty() && port.front() != ':') return refuse();
  } else {
    const std::size_t colon = rest.find(':');
    endpoint.host = rest.substr(0, colon);
    if (colon != std::string_view::npos) port = rest.substr(colon);
  }
  if (endpoint.host.empty() || endpoint.host.find_first_of("/@?# ") != std::string::npos) return refuse();
  if (!port.empty()) {
    port.remove_prefix(1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), endpoint.port);
    if (error != std::errc() || end != port.data() + port.size() || endpoint.port == 0) return refuse();
  }
  return endpoint;
}

RemotePicture::RemotePicture(Endpoint endpoint, std::string name, BasisCache& cache, Options options)
    : endpoint_(std::move(endpoint)), name_(std::move(name)), cache_(cache), options_(std::move(options)) {}

RemotePicture::~RemotePicture() {
  if (connection_ == nullptr || session_ == nullptr) return;
  session_->Goodbye();
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(200);
  while (auto message = session_->NextMessage()) {
    if (!connection_->Send(*message, deadline)) return;
  }
}

Result<std::unique_ptr<RemotePicture>> RemotePicture::Open(const std::string& url, const std::string& name,
                                                           const std::optional<protocol::View>& view, BasisCache& cache,
                                                           Options options) {
  HOLO_ASSIGN_OR_RETURN(Endpoint endpoint, Endpoint::Parse(url));
  std::unique_ptr<RemotePicture> picture(new RemotePicture(std::move(endpoint), name, cache, std::move(options)));
  picture->view_ = view;
  HOLO_RETURN_IF_ERROR(picture->Connect());
  const Clock::time_point deadline = Clock::now() + picture->options_.idle_timeout;
  Change change;
  while (!picture->decoder_) {
    Result<std::optional<v1::ServerMessage>> message = picture->connection_->Receive(deadline);
    if (!message) {
      if (!IsTransient(message.error()) || picture->options_.reconnect_attempts == 0) {
        return tl::unexpected<Error>(std::move(message).error());
      }
      HOLO_RETURN_IF_ERROR(picture->Reconnect());
      continue;
    }
    if (!*message) {
      return Fail(Code::kDeadlineExceeded,
                  url + ": opened no picture within " + std::to_string(picture->options_.idle_timeout.count()) + " ms");
    }
    HOLO_RETURN_IF_ERROR(picture->Handle(std::move(**message), change));
    // Nothing can be rendered yet, and a basis may be larger than the window.
    picture->Acknowledge();
    HOLO_RETURN_IF_ERROR(picture->Flush());
  }
  return picture;
}

Result<void> RemotePicture::Connect() {
  connection_.reset();
  protocol::ClientOptions session_options;
  session_options.client_name = options_.client_name;
  session_options.token = options_.token;
  session_options.bases = cache_.List(protocol::kMaxBasisHashes);
  session_options.bytes_per_second = options_.bytes_per_second;
  session_options.window_bytes = options_.window_bytes;
  session_ = std::make_unique<protocol::ClientSession>(std::move(session_options));
  if (endpoint_.transport == Endpoint::Transport::kWebSocket) {
    HOLO_ASSIGN_OR_RETURN(connection_, ConnectWebSocket(endpoint_, options_));
  } else {
    HOLO_ASSIGN_OR_RETURN(connection_, ConnectGrpc(endpoint_, options_));
  }
  went_away_ = false;
  HOLO_ASSIGN_OR_RETURN(handle_, session_->Open(name_, resume_ ? &*resume_ : nullptr, view_));
  // Open()'s view is the first of its handle.
  view_id_ = view_ ? 1 : 0;
  return Flush();
}

Result<void> RemotePicture::Reconnect() {
  // What the ended session knows of held chunks goes into the next one, unless that never got to open the picture.
  for (protocol::ResumeState::Asset& asset : session_->Resume().assets) {
    if (asset.name == name_) resume_ = std::move(asset);
  }
  Error last{Code::kUnavailable, "the connection was lost again and again"};
  while (attempts_without_progress_ < options_.reconnect_attempts) {
    if (attempts_without_progress_ > 0) {
      const auto backoff = kFirstBackoff * (1u << std::min(attempts_without_progress_ - 1, 10u));
      HOLO_RETURN_IF_ERROR(Sleep(Clock::now() + backoff, options_.stop));
    }
    ++attempts_without_progress_;
    Result<void> connected = Connect();
    if (connected) {
      ++statistics_.reconnects;
      return {};
    }
    last = std::move(connected).error();
    if (!IsTransient(last)) break;
  }
  return tl::unexpected<Error>(std::move(last));
}

Result<void> RemotePicture::Flush() {
  while (auto message = session_->NextMessage()) {
    HOLO_RETURN_IF_ERROR(connection_->Send(*message, Clock::now() + options_.idle_timeout));
  }
  return {};
}

Result<void> RemotePicture::SetView(const protocol::View& view) {
  view_ = view;
  view_complete_ = false;
  if (connection_ == nullptr) return {};  // goes with the next connection
  HOLO_ASSIGN_OR_RETURN(view_id_, session_->SetView(handle_, view));
  // Where the connection is lost, Wait notices and reconnects with this view.
  if (Result<void> sent = Flush(); !sent && !IsTransient(sent.error())) return sent;
  return {};
}

Result<RemotePicture::Change> RemotePicture::Wait(Clock::time_point deadline) {
  Change change;
  Clock::time_point last_sign = Clock::now();
  for (;;) {
    Error lost;
    if (connection_ == nullptr) {
      lost = {Code::kUnavailable, "the connection was dropped"};
    } else if (Result<void> flushed = Flush(); !flushed) {
      lost = std::move(flushed).error();
    } else {
      Result<std::optional<v1::ServerMessage>> message =
          connection_->Receive(std::min(deadline, last_sign + options_.idle_timeout));
      if (!message) {
        lost = std::move(message).error();
      } else if (*message) {
        last_sign = Clock::now();
        HOLO_RETURN_IF_ERROR(Handle(std::move(**message), change));
        if (!decoder_) Acknowledge();  // bases of new content
        const bool changed = !change.region.empty() || change.view_complete || change.content_replaced;
        if (changed && decoder_) return change;  // new content may still lack its bases
        continue;
      } else if (Clock::now() >= deadline || view_complete_) {
        return change;
      } else {
        lost = {Code::kDeadlineExceeded,
                "the server has been silent for " + std::to_string(options_.idle_timeout.count()) + " ms"};
      }
    }
    if (!IsTransient(lost)) return tl::unexpected<Error>(std::move(lost));
    connection_.reset();
    if (view_complete_) {
      // Nothing is missing: no need for a connection until the view moves.
      HOLO_RETURN_IF_ERROR(Sleep(deadline, options_.stop));
      return change;
    }
    if (options_.reconnect_attempts == 0) return tl::unexpected<Error>(std::move(lost));
    HOLO_RETURN_IF_ERROR(Reconnect());
    last_sign = Clock::now();
  }
}

void RemotePicture::Acknowledge() {
  if (session_ != nullptr) session_->Acknowledge(session_->received_payload_bytes());
}

void RemotePicture::DropConnectionForTest() {
  connection_.reset();
}

Result<void> RemotePicture::Handle(v1::ServerMessage message, Change& change) {
  const std::uint64_t duplicates_before = session_->duplicate_bytes();
  const std::uint64_t payload_before = session_->received_payload_bytes();
  HOLO_ASSIGN_OR_RETURN(protocol::ClientEvent event, session_->Receive(std::move(message)));
  statistics_.duplicate_bytes += session_->duplicate_bytes() - duplicates_before;
  statistics_.payload_bytes += session_->received_payload_bytes() - payload_before;
  change.payload_bytes += session_->received_payload_bytes() - payload_before;
  if (session_->received_payload_bytes() > payload_before) attempts_without_progress_ = 0;
  if (auto* opened = std::get_if<protocol::AssetOpened>(&event)) return OnOpened(std::move(*opened), change);
  if (auto* basis = std::get_if<protocol::BasisReceived>(&event)) {
    HOLO_RETURN_IF_ERROR(cache_.Store(basis->bytes));
    ++statistics_.bases;
    return MakeDecoder();
  }
  if (auto* chunk = std::get_if<protocol::ChunkReceived>(&event)) {
    if (!decoder_) return Fail(Code::kDataLoss, "server: expected bases before the first chunk");
    if (decoder_->HasChunk(chunk->id)) {
      statistics_.duplicate_bytes += chunk->bytes.size();
      return {};
    }
    HOLO_ASSIGN_OR_RETURN(const pixels::Rect changed, decoder_->AddChunk(chunk->id, chunk->bytes));
    ++statistics_.chunks;
    change.region = pixels::Union(change.region, changed);
    return {};
  }
  if (auto* complete = std::get_if<protocol::ViewCompleted>(&event)) {
    if (complete->view_id != view_id_) return {};
    view_complete_ = true;
    change.view_complete = true;
    change.psnr_db = complete->psnr_db;
    return {};
  }
  if (auto* refused = std::get_if<protocol::ViewRefused>(&event)) {
    return tl::unexpected<Error>(std::move(refused->error));
  }
  if (auto* failed = std::get_if<protocol::AssetFailed>(&event)) return tl::unexpected<Error>(std::move(failed->error));
  return {};
}

Result<void> RemotePicture::OnOpened(protocol::AssetOpened opened, Change& change) {
  file_bytes_ = opened.file_bytes;
  const bool same = decoder_.has_value() && opened.resumed && opened.content_hash == content_hash_;
  content_hash_ = opened.content_hash;
  if (same) return {};
  change.content_replaced = decoder_.has_value();
  decoder_.reset();
  pending_header_ = std::move(opened.header);
  return MakeDecoder();
}

Result<void> RemotePicture::MakeDecoder() {
  if (!pending_header_) return {};
  for (const basis::Hash& hash : pending_header_->bases) {
    if (cache_.Find(hash) == nullptr) return {};  // on its way
  }
  HOLO_ASSIGN_OR_RETURN(decoder_, codec::Decoder::Create(
                                      std::move(*pending_header_),
                                      [this](const basis::Hash& hash) { return cache_.Find(hash); }, options_.decoder));
  pending_header_.reset();
  return {};
}

Result<Canvas> Canvas::Create(const codec::Decoder& decoder, const render::View& view) {
  Canvas canvas;
  canvas.view_ = view;
  const pixels::Layout& layout = decoder.header().layout;
  if (canvas.view_.region == pixels::Rect{}) canvas.view_.region = {0, 0, layout.width, layout.height};
  HOLO_ASSIGN_OR_RETURN(canvas.picture_, render::Render(decoder, canvas.view_));
  canvas.rect_ = render::OutputRectOf(canvas.view_);
  return canvas;
}

Result<std::uint64_t> Canvas::Update(const codec::Decoder& decoder, const pixels::Rect& changed) {
  // Output pixels are 2^scale wide: one that `changed` only touches changes as well, and is whole only if all of it is
  // in the view.
  const std::uint32_t size = 1u << view_.scale_log2;
  const auto outward = [size](std::uint32_t start, std::uint32_t length, std::uint32_t limit) {
    const std::uint32_t first = start / size * size;
    const std::uint64_t end = (std::uint64_t{start} + length + size - 1) / size * size;
    return std::pair(first, static_cast<std::uint32_t>(std::min<std::uint64_t>(end, limit) - first));
  };
  const pixels::Layout& layout = decoder.header().layout;
  if (changed.empty()) return 0;
  const auto [x, width] = outward(changed.x, changed.width, layout.width);
  const auto [y, height] = outward(changed.y, changed.height, layout.height);
  render::View part = view_;
  part.region = pixels::Intersect({x, y, width, height}, view_.region);
  if (part.region.empty()) return 0;
  HOLO_RETURN_IF_ERROR(render::RenderInto(decoder, part, rect_, picture_));
  const render::OutputRect rect = render::OutputRectOf(part);
  return std::uint64_t{rect.width} * rect.height;
}

}  // namespace holo::client
