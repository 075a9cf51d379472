#include <algorithm>
#include <cmath>
#include <utility>

#include "common/protocol/protocol.h"

namespace holo::protocol {
namespace {

constexpr std::uint64_t kDefaultMaxPartialBytes = 64u << 20;

Error Broken(std::string what) {
  return {Code::kDataLoss, "server message: " + std::move(what)};
}

Result<basis::Hash> HashFrom(const std::string& bytes, std::string_view what) {
  basis::Hash hash{};
  if (bytes.size() != hash.size()) {
    return tl::unexpected<Error>(
        Broken("expected a " + std::string(what) + " of 16 bytes, found " + std::to_string(bytes.size())));
  }
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return hash;
}

Result<v1::View> ToMessage(const View& view, std::uint32_t view_id) {
  if (!std::isfinite(view.scale) || view.scale < 0 || !std::isfinite(view.target_psnr_db) || view.target_psnr_db < 0) {
    return Fail(Code::kInvalidArgument, "view: expected finite numbers of at least 0 for scale and target");
  }
  if ((view.region.width == 0) != (view.region.height == 0)) {
    return Fail(Code::kInvalidArgument, "view: expected width and height both 0 or neither");
  }
  if (view.priority > kMaxPriority) {
    return Fail(Code::kInvalidArgument, "view: expected a priority of at most " + std::to_string(kMaxPriority));
  }
  v1::View message;
  message.set_view_id(view_id);
  message.set_x(view.region.x);
  message.set_y(view.region.y);
  message.set_width(view.region.width);
  message.set_height(view.region.height);
  message.set_scale(view.scale);
  message.set_focus_k(view.focus_k);
  message.set_target_psnr_db(view.target_psnr_db);
  message.set_byte_budget(view.byte_budget);
  message.set_priority(view.priority);
  return message;
}

bool IsInside(const pixels::Rect& region, const pixels::Layout& layout) {
  if (region.empty()) return region.x == 0 && region.y == 0;
  return std::uint64_t{region.x} + region.width <= layout.width &&
         std::uint64_t{region.y} + region.height <= layout.height;
}

Code CodeFrom(std::uint32_t number) {
  const bool is_code = number >= 1 && number <= static_cast<std::uint32_t>(Code::kUnauthenticated);
  return is_code ? static_cast<Code>(number) : Code::kUnknown;
}

}  // namespace

ClientSession::ClientSession(ClientOptions options)
    : options_(std::move(options)), known_bases_(options_.bases.begin(), options_.bases.end()) {}

Result<std::uint32_t> ClientSession::Open(std::string name, const ResumeState::Asset* held,
                                          const std::optional<View>& view) {
  if (said_goodbye_) return Fail(Code::kFailedPrecondition, "open: the session has said goodbye");
  if (name.empty() || name.size() > kMaxNameBytes) {
    return Fail(Code::kInvalidArgument, "open: expected a name of 1 to " + std::to_string(kMaxNameBytes) +
                                            " bytes, found " + std::to_string(name.size()));
  }
  if (assets_.size() >= options_.max_open_assets) {
    return Fail(Code::kResourceExhausted,
                "open: expected at most " + std::to_string(options_.max_open_assets) + " open assets");
  }
  OpenAsset asset;
  asset.name = name;
  v1::ClientMessage message;
  v1::Open* open = message.mutable_open();
  open->set_name(std::move(name));
  if (view) {
    HOLO_ASSIGN_OR_RETURN(*open->mutable_view(), ToMessage(*view, 1));
    asset.last_view_id = 1;
  }
  if (held != nullptr && !held->held.empty()) {
    asset.offered = held->held;
    asset.content_hash = held->content_hash;
    open->set_expected_content_hash(held->content_hash.data(), held->content_hash.size());
    for (const v1::HeldLevel& level : held->held) *open->add_held() = level;
    // More than fits would end the session; what is not offered is only sent again.
    while (open->held_size() > 0 && message.ByteSizeLong() > kMaxClientMessageBytes / 2) {
      open->mutable_held()->RemoveLast();
      asset.offered.pop_back();
    }
  }
  open->set_handle(++last_handle_);
  outgoing_.push_back(std::move(message));
  assets_.emplace(last_handle_, std::move(asset));
  return last_handle_;
}

Result<std::uint32_t> ClientSession::SetView(std::uint32_t handle, const View& view) {
  const auto found = assets_.find(handle);
  if (found == assets_.end() || found->second.is_closing) {
    return Fail(Code::kNotFound, "set view: handle " + std::to_string(handle) + " is not open");
  }
  OpenAsset& asset = found->second;
  if (asset.is_opened && !IsInside(view.region, asset.header.layout)) {
    return Fail(Code::kOutOfRange, "set view: expected a region inside " + std::to_string(asset.header.layout.width) +
                                       " x " + std::to_string(asset.header.layout.height));
  }
  HOLO_ASSIGN_OR_RETURN(asset.unsent_view, ToMessage(view, asset.last_view_id + 1));
  return ++asset.last_view_id;
}

void ClientSession::Acknowledge(std::uint64_t payload_bytes) {
  acknowledged_bytes_ = std::max(acknowledged_bytes_, std::min(payload_bytes, received_bytes_));
}

void ClientSession::Close(std::uint32_t handle) {
  const auto found = assets_.find(handle);
  if (found == assets_.end() || found->second.is_closing) return;
  OpenAsset& asset = found->second;
  asset.is_closing = true;
  asset.unsent_view.reset();
  for (const auto& [tile, partial] : asset.parts) partial_bytes_ -= partial.data.size();
  asset.parts.clear();
  v1::ClientMessage message;
  message.mutable_close()->set_handle(handle);
  outgoing_.push_back(std::move(message));
}

void ClientSession::Goodbye() {
  if (said_goodbye_) return;
  said_goodbye_ = true;
  for (auto& [handle, asset] : assets_) asset.unsent_view.reset();
  v1::ClientMessage message;
  message.mutable_goodbye();
  outgoing_.push_back(std::move(message));
}

std::optional<v1::ClientMessage> ClientSession::NextMessage() {
  v1::ClientMessage message;
  if (!said_hello_) {
    said_hello_ = true;
    v1::Hello* hello = message.mutable_hello();
    hello->set_protocol_version(kProtocolVersion);
    hello->set_client(options_.client_name);
    hello->set_token(options_.token);
    for (const basis::Hash& hash : known_bases_) {
      if (static_cast<std::size_t>(hello->basis_hashes_size()) == kMaxBasisHashes) break;
      hello->add_basis_hashes(hash.data(), hash.size());
    }
    hello->mutable_limits()->set_bytes_per_second(options_.bytes_per_second);
    hello->mutable_limits()->set_window_bytes(options_.window_bytes);
    hello->mutable_limits()->set_memory_bytes(options_.memory_bytes);
    return message;
  }
  if (!outgoing_.empty()) {
    message = std::move(outgoing_.front());
    outgoing_.pop_front();
    return message;
  }
  for (auto& [handle, asset] : assets_) {
    if (!asset.unsent_view) continue;
    v1::SetView* set_view = message.mutable_set_view();
    set_view->set_handle(handle);
    *set_view->mutable_view() = std::move(*asset.unsent_view);
    asset.unsent_view.reset();
    return message;
  }
  if (acknowledged_bytes_ > sent_acknowledgement_ && !said_goodbye_) {
    sent_acknowledgement_ = acknowledged_bytes_;
    message.mutable_ack()->set_bytes(acknowledged_bytes_);
    return message;
  }
  return std::nullopt;
}

Result<ClientEvent> ClientSession::Receive(v1::ServerMessage message) {
  const auto kind = message.kind_case();
  if (!is_welcome_ && kind != v1::ServerMessage::kWelcome && kind != v1::ServerMessage::kError) {
    return tl::unexpected<Error>(Broken("expected welcome first"));
  }
  switch (kind) {
    case v1::ServerMessage::kWelcome:
      return OnWelcome(message.welcome());
    case v1::ServerMessage::kOpened:
      return OnOpened(message.opened());
    case v1::ServerMessage::kBasis:
      return OnBasis(*message.mutable_basis());
    case v1::ServerMessage::kChunk:
      return OnChunk(*message.mutable_chunk());
    case v1::ServerMessage::kViewComplete:
      return OnViewComplete(message.view_complete());
    case v1::ServerMessage::kError:
      return OnError(message.error());
    case v1::ServerMessage::kClosed:
      return OnClosed(message.closed());
    case v1::ServerMessage::kGoAway:
      return GoingAway{message.go_away().reason()};
    case v1::ServerMessage::KIND_NOT_SET:
      break;
  }
  return tl::unexpected<Error>(Broken("expected a message, found none of the known kinds"));
}

Result<ClientEvent> ClientSession::OnWelcome(const v1::Welcome& welcome) {
  if (is_welcome_) return tl::unexpected<Error>(Broken("expected welcome once, found twice"));
  if (welcome.protocol_version() != kProtocolVersion) {
    return Fail(Code::kUnimplemented, "server message: expected protocol version " + std::to_string(kProtocolVersion) +
                                          ", found " + std::to_string(welcome.protocol_version()));
  }
  is_welcome_ = true;
  options_.max_open_assets = std::min(options_.max_open_assets, welcome.max_open_assets());
  return Welcomed{welcome.server(), welcome.limits(), welcome.max_open_assets()};
}

Result<ClientEvent> ClientSession::OnOpened(const v1::Opened& opened) {
  const auto found = assets_.find(opened.handle());
  if (found == assets_.end() || found->second.is_opened) {
    return tl::unexpected<Error>(
        Broken("opened: handle " + std::to_string(opened.handle()) + " does not wait to be opened"));
  }
  OpenAsset& asset = found->second;
  HOLO_ASSIGN_OR_RETURN(const basis::Hash hash, HashFrom(opened.content_hash(), "content hash"));
  const auto* header = reinterpret_cast<const std::uint8_t*>(opened.header().data());
  HOLO_ASSIGN_OR_RETURN(asset.header, container::ParseHeader({header, opened.header().size()}));
  if (opened.held_accepted()) {
    if (asset.offered.empty() || hash != asset.content_hash) {
      return tl::unexpected<Error>(Broken("opened: accepts held chunks that were not offered"));
    }
    google::protobuf::RepeatedPtrField<v1::HeldLevel> held(asset.offered.begin(), asset.offered.end());
    HOLO_ASSIGN_OR_RETURN(asset.held, HeldChunks::Parse(held, asset.header.levels));
  } else {
    asset.held = HeldChunks(asset.header.levels);
  }
  asset.offered.clear();
  asset.content_hash = hash;
  asset.is_opened = true;
  if (asset.is_closing) return NoEvent{};
  return AssetOpened{
      opened.handle(),       hash, asset.header, opened.file_bytes(), opened.chunk_bytes(), opened.chunk_count(),
      opened.held_accepted()};
}

Result<ClientEvent> ClientSession::OnBasis(v1::Basis& basis) {
  HOLO_ASSIGN_OR_RETURN(const basis::Hash hash, HashFrom(basis.hash(), "basis hash"));
  const std::string& data = basis.data();
  const std::uint32_t total = basis.total_bytes();
  if (basis.offset() == 0) {
    if (!partial_basis_.empty()) return tl::unexpected<Error>(Broken("basis: another one is not complete"));
    partial_basis_hash_ = hash;
    partial_basis_total_ = total;
  }
  if (hash != partial_basis_hash_ || total != partial_basis_total_ || basis.offset() != partial_basis_.size()) {
    return tl::unexpected<Error>(Broken("basis: expected the part at " + std::to_string(partial_basis_.size()) +
                                        ", found " + std::to_string(basis.offset())));
  }
  if (total > basis::kMaxBasisBytes || data.empty() || data.size() > kMaxPartBytes ||
      data.size() > total - partial_basis_.size()) {
    return tl::unexpected<Error>(Broken("basis: a part of " + std::to_string(data.size()) + " bytes at " +
                                        std::to_string(basis.offset()) + " of " + std::to_string(total)));
  }
  received_bytes_ += data.size();
  if (known_bases_.count(hash) != 0) duplicate_bytes_ += data.size();
  partial_basis_.insert(partial_basis_.end(), data.begin(), data.end());
  if (partial_basis_.size() < total) return NoEvent{};
  BasisReceived event{hash, std::exchange(partial_basis_, {})};
  if (basis::HashOf(event.bytes) != hash) {
    return tl::unexpected<Error>(Broken("basis: expected bytes of its hash, found others"));
  }
  known_bases_.insert(hash);
  return event;
}

Result<ClientSession::OpenAsset*> ClientSession::FindOpened(std::uint32_t handle, std::string_view message) {
  const auto found = assets_.find(handle);
  if (found == assets_.end() || !found->second.is_opened) {
    return tl::unexpected<Error>(Broken(std::string(message) + ": handle " + std::to_string(handle) + " is not open"));
  }
  return &found->second;
}

Result<ClientEvent> ClientSession::OnChunk(v1::Chunk& chunk) {
  HOLO_ASSIGN_OR_RETURN(OpenAsset * found, FindOpened(chunk.handle(), "chunk"));
  OpenAsset& asset = *found;
  const std::string where = "chunk of layer " + std::to_string(chunk.layer()) + ", level " +
                            std::to_string(chunk.level()) + ", tile " + std::to_string(chunk.tile());
  const std::string& data = chunk.data();
  if (data.empty() || data.size() > kMaxPartBytes) {
    return tl::unexpected<Error>(Broken(where + ": expected 1 to " + std::to_string(kMaxPartBytes) + " bytes, found " +
                                        std::to_string(data.size())));
  }
  received_bytes_ += data.size();
  if (asset.is_closing) return NoEvent{};

  if (!asset.held.Exists(chunk.level(), chunk.tile()) || chunk.layer() >= asset.header.layer_count ||
      chunk.layer() >= container::kMaxLayers) {
    return tl::unexpected<Error>(Broken(where + ": outside the asset"));
  }
  if (!asset.has_bases) {
    for (const basis::Hash& hash : asset.header.bases) {
      if (known_bases_.count(hash) == 0) return tl::unexpected<Error>(Broken(where + ": came before its basis"));
    }
    asset.has_bases = true;
  }
  if (asset.held.Layers(chunk.level(), chunk.tile()) > chunk.layer()) {
    duplicate_bytes_ += data.size();
    return NoEvent{};
  }

  const container::ChunkId id{static_cast<std::uint8_t>(chunk.layer()), static_cast<std::uint8_t>(chunk.level()),
                              chunk.tile()};
  ChunkReceived event{chunk.handle(), id, chunk.view_id(), {}};
  const auto key = std::make_pair(chunk.level(), chunk.tile());
  if (chunk.total_bytes() == 0) {
    if (chunk.offset() != 0 || asset.parts.count(key) != 0) {
      return tl::unexpected<Error>(Broken(where + ": a whole one among parts"));
    }
    event.bytes.assign(data.begin(), data.end());
  } else {
    OpenAsset::Partial& partial = asset.parts[key];
    if (partial.data.empty()) {
      partial.layer = chunk.layer();
      partial.total_bytes = chunk.total_bytes();
    }
    if (partial.layer != chunk.layer() || partial.total_bytes != chunk.total_bytes() ||
        chunk.total_bytes() > container::kMaxChunkBytes || chunk.offset() != partial.data.size() ||
        data.size() > chunk.total_bytes() - partial.data.size()) {
      return tl::unexpected<Error>(Broken(where + ": a part of " + std::to_string(data.size()) + " bytes at " +
                                          std::to_string(chunk.offset()) + " of " +
                                          std::to_string(chunk.total_bytes()) + " does not follow"));
    }
    partial.data.insert(partial.data.end(), data.begin(), data.end());
    partial_bytes_ += data.size();
    if (partial.data.size() < partial.total_bytes) {
      const std::uint64_t limit = options_.memory_bytes == 0 ? kDefaultMaxPartialBytes : options_.memory_bytes;
      if (partial_bytes_ > limit) return tl::unexpected<Error>(Broken("chunks: too many that are not complete"));
      return NoEvent{};
    }
    event.bytes = std::move(partial.data);
    partial_bytes_ -= event.bytes.size();
    asset.parts.erase(key);
  }
  asset.held.SetLayers(chunk.level(), chunk.tile(), chunk.layer() + 1);
  return event;
}

Result<ClientEvent> ClientSession::OnViewComplete(const v1::ViewComplete& complete) {
  HOLO_ASSIGN_OR_RETURN(const OpenAsset* asset, FindOpened(complete.handle(), "view_complete"));
  if (complete.view_id() == 0 || complete.view_id() > asset->last_view_id) {
    return tl::unexpected<Error>(
        Broken("view_complete: view " + std::to_string(complete.view_id()) + " was never set"));
  }
  if (asset->is_closing) return NoEvent{};
  return ViewCompleted{complete.handle(),  complete.view_id(),   complete.reason(), complete.remaining_squared_error(),
                       complete.psnr_db(), complete.bytes_sent()};
}

Result<ClientEvent> ClientSession::OnError(const v1::Error& error) {
  Error ours{CodeFrom(error.code()), error.message()};
  if (error.handle() == 0) return tl::unexpected<Error>(std::move(ours));
  const auto found = assets_.find(error.handle());
  if (found == assets_.end()) {
    return tl::unexpected<Error>(Broken("error: handle " + std::to_string(error.handle()) + " is not open"));
  }
  if (error.view_id() != 0) return ViewRefused{error.handle(), error.view_id(), std::move(ours)};
  const bool is_closing = found->second.is_closing;
  for (const auto& [tile, partial] : found->second.parts) partial_bytes_ -= partial.data.size();
  assets_.erase(found);
  // It crossed with our Close, which the server then ignores.
  if (is_closing) return AssetClosed{error.handle()};
  return AssetFailed{error.handle(), std::move(ours)};
}

Result<ClientEvent> ClientSession::OnClosed(const v1::Closed& closed) {
  const auto found = assets_.find(closed.handle());
  if (found == assets_.end() || !found->second.is_closing) {
    return tl::unexpected<Error>(Broken("closed: handle " + std::to_string(closed.handle()) + " does not close"));
  }
  assets_.erase(found);
  return AssetClosed{closed.handle()};
}

ResumeState ClientSession::Resume() const {
  ResumeState state;
  state.bases.assign(known_bases_.begin(), known_bases_.end());
  for (const auto& [handle, asset] : assets_) {
    if (asset.is_closing) continue;
    ResumeState::Asset& entry = state.assets.emplace_back();
    entry.name = asset.name;
    entry.content_hash = asset.content_hash;
    if (asset.is_opened) {
      google::protobuf::RepeatedPtrField<v1::HeldLevel> held;
      asset.held.Serialize(held);
      entry.held.assign(held.begin(), held.end());
    } else {
      entry.held = asset.offered;
    }
  }
  return state;
}

const HeldChunks* ClientSession::Held(std::uint32_t handle) const {
  const auto found = assets_.find(handle);
  return found == assets_.end() || !found->second.is_opened ? nullptr : &found->second.held;
}

}  // namespace holo::protocol
