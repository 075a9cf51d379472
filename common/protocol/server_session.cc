#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "common/bytes/bytes.h"
#include "common/protocol/protocol.h"
#include "common/protocol/schedule.h"

namespace holo::protocol {
namespace {

constexpr std::size_t kMaxQueuedMessages = 1024;
constexpr std::size_t kMaxErrorMessageBytes = 2048;
constexpr std::size_t kMaxClientNameBytes = 256;
constexpr std::size_t kMaxTokenBytes = 8u << 10;
constexpr std::size_t kMessageOverheadBytes = 4096;

// The preview: the best so many bytes of the whole picture, seen no larger than this.
constexpr std::uint32_t kPreviewPx = 512;
constexpr std::uint64_t kMinPreviewBytes = 1024;
constexpr std::uint64_t kMaxPreviewBytes = 3584;
constexpr std::uint64_t kPreviewFraction = 40;  // of the file: 2.5 %

// So many units per second on average, and at once at most `burst`; what is taken may overdraw it.
class TokenBucket {
 public:
  TokenBucket(double per_second, double burst) : per_second_(per_second), burst_(burst), level_(burst) {}

  void Advance(Clock::time_point now) {
    if (last_ && now > *last_) {
      level_ = std::min(burst_, level_ + per_second_ * std::chrono::duration<double>(now - *last_).count());
    }
    if (!last_ || now > *last_) last_ = now;
  }
  [[nodiscard]] bool is_positive() const { return level_ > 0; }
  void Take(double amount) { level_ -= amount; }
  // From `now`, just advanced to, until is_positive().
  [[nodiscard]] Clock::duration UntilPositive() const {
    const double seconds = std::min(3600.0, std::max(0.0, -level_) / per_second_ + 1e-3);
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

 private:
  double per_second_;
  double burst_;
  double level_;
  std::optional<Clock::time_point> last_;
};

// Protocol strings must be UTF-8, but messages may quote file names and foreign libraries: other bytes become '?'.
std::string ErrorText(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size() && out.size() < kMaxErrorMessageBytes;) {
    const auto lead = static_cast<unsigned char>(text[i]);
    std::size_t length = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : 0;
    for (std::size_t j = 1; j < length; ++j) {
      if (i + j >= text.size() || (static_cast<unsigned char>(text[i + j]) & 0xC0) != 0x80) length = 0;
    }
    // Overlong forms and surrogates.
    if (length == 3) {
      const auto second = static_cast<unsigned char>(text[i + 1]);
      if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second >= 0xA0)) length = 0;
    }
    if (length == 0) {
      out += '?';
      ++i;
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out;
}

v1::ServerMessage ErrorMessage(const Error& error, std::uint32_t handle, std::uint32_t view_id) {
  v1::ServerMessage message;
  v1::Error* body = message.mutable_error();
  body->set_code(static_cast<std::uint32_t>(error.code));
  body->set_message(ErrorText(error.message));
  body->set_handle(handle);
  body->set_view_id(view_id);
  return message;
}

std::optional<basis::Hash> HashFrom(const std::string& bytes) {
  basis::Hash hash{};
  if (bytes.size() != hash.size()) return std::nullopt;
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return hash;
}

std::uint64_t SmallerWish(std::uint64_t a, std::uint64_t b) {
  if (a == 0) return b;
  return b == 0 ? a : std::min(a, b);
}

// What can be said of a view without knowing the picture.
Result<void> CheckView(const v1::View& view, std::uint32_t last_view_id) {
  if (view.view_id() <= last_view_id) {
    return Fail(Code::kInvalidArgument, "view_id: expected more than " + std::to_string(last_view_id) + ", found " +
                                            std::to_string(view.view_id()));
  }
  if (!std::isfinite(view.scale()) || view.scale() < 0) {
    return Fail(Code::kInvalidArgument, "view.scale: expected a finite number of at least 0");
  }
  if (!std::isfinite(view.target_psnr_db()) || view.target_psnr_db() < 0) {
    return Fail(Code::kInvalidArgument, "view.target_psnr_db: expected a finite number of at least 0");
  }
  if ((view.width() == 0) != (view.height() == 0)) {
    return Fail(Code::kInvalidArgument, "view: expected width and height both 0 or neither, found " +
                                            std::to_string(view.width()) + " x " + std::to_string(view.height()));
  }
  if (view.priority() > kMaxPriority) {
    return Fail(Code::kInvalidArgument, "view.priority: expected at most " + std::to_string(kMaxPriority) + ", found " +
                                            std::to_string(view.priority()));
  }
  return {};
}

Result<pixels::Rect> RegionOf(const v1::View& view, const pixels::Layout& layout) {
  if (view.width() == 0 && view.x() == 0 && view.y() == 0) return pixels::Rect{0, 0, layout.width, layout.height};
  if (view.width() == 0 || std::uint64_t{view.x()} + view.width() > layout.width ||
      std::uint64_t{view.y()} + view.height() > layout.height) {
    return Fail(Code::kOutOfRange, "view: expected a region inside " + std::to_string(layout.width) + " x " +
                                       std::to_string(layout.height) + ", found " + std::to_string(view.width()) +
                                       " x " + std::to_string(view.height()) + " at " + std::to_string(view.x()) + "," +
                                       std::to_string(view.y()));
  }
  return pixels::Rect{view.x(), view.y(), view.width(), view.height()};
}

}  // namespace

struct ServerSession::State {
  struct BasisBytes {
    basis::Hash hash{};
    std::shared_ptr<const std::vector<std::uint8_t>> bytes;
  };
  struct Opening {
    v1::Open open;
    bool taken = false;  // by TakeOpenRequest
  };
  struct Stream {
    std::uint32_t handle = 0;
    std::uint32_t last_view_id = 0;
    std::optional<Opening> opening;  // until the asset is there
    SentChunks sent;                 // from then on
    std::vector<BasisBytes> bases;   // still to be looked at before the first chunk
    std::optional<Schedule> preview;
    std::uint64_t preview_bytes_left = 0;
    std::optional<v1::View> view;  // the newest
    bool is_view_complete = true;
    std::optional<Schedule> schedule;  // of `view`, built when it is its turn
    std::uint64_t view_bytes = 0;      // sent since `view` was set
    // The chunk that is being sent in parts, so that it is read once.
    container::ChunkId buffered_id;
    std::vector<std::uint8_t> buffered;
  };
  struct Queued {
    v1::ServerMessage message;
    std::shared_ptr<const Asset> header_of;  // Opened gets its header when it is sent
  };
  struct Choice {
    Stream* stream = nullptr;
    Schedule* schedule = nullptr;
    Schedule::Pick pick;
  };

  explicit State(ServerOptions given)
      : options(std::move(given)),
        messages(options.max_messages_per_second, 2 * options.max_messages_per_second),
        acks(options.max_acks_per_second, 2 * options.max_acks_per_second) {}

  ServerOptions options;
  TokenBucket messages;
  TokenBucket acks;
  std::optional<TokenBucket> pace;
  bool is_welcome = false;
  bool said_goodbye = false;
  bool is_going_away = false;
  std::optional<Error> failure;
  std::string client_name;
  std::uint64_t window_bytes = 0;
  std::uint64_t client_memory_bytes = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t acknowledged_bytes = 0;
  std::uint64_t completed_views = 0;
  std::uint32_t last_handle = 0;
  std::set<basis::Hash> client_bases;
  // Addresses are stable: schedules point into their stream.
  std::map<std::uint32_t, std::unique_ptr<Stream>> streams;
  std::deque<Queued> queue;
  std::optional<BasisBytes> basis;  // being sent
  std::uint32_t basis_offset = 0;

  void Fail(Error error);
  void FailAsset(std::uint32_t handle, const Error& error);
  void Enqueue(v1::ServerMessage message);
  Result<void> OnHello(const v1::Hello& hello);
  Result<void> OnOpen(const v1::Open& open);
  Result<void> OnSetView(const v1::SetView& set_view);
  Result<void> OnAck(const v1::Ack& ack);
  Result<void> OnClose(const v1::Close& close);
  Result<void> Begin(Stream& stream, std::shared_ptr<const Asset> asset);
  Result<std::vector<BasisBytes>> FindBases(const container::AssetReader& reader) const;
  void SetView(Stream& stream, const v1::View& view);
  void CompleteView(Stream& stream, const Schedule& schedule);
  std::optional<Schedule::Pick> BestOfPreview(Stream& stream);
  std::optional<Schedule::Pick> BestOfView(Stream& stream);
  std::optional<Choice> Choose();
  bool StartBasis(Stream& stream);
  v1::ServerMessage BasisPart();
  Result<v1::ServerMessage> ChunkPart(const Choice& choice);
};

void ServerSession::State::Fail(Error error) {
  if (failure) return;
  streams.clear();
  queue.clear();
  basis.reset();
  queue.push_back({ErrorMessage(error, 0, 0), nullptr});
  failure = std::move(error);
}

void ServerSession::State::FailAsset(std::uint32_t handle, const Error& error) {
  streams.erase(handle);
  Enqueue(ErrorMessage(error, handle, 0));
}

void ServerSession::State::Enqueue(v1::ServerMessage message) {
  queue.push_back({std::move(message), nullptr});
  if (queue.size() > kMaxQueuedMessages) {
    Fail({Code::kResourceExhausted, "session: " + std::to_string(kMaxQueuedMessages) + " answers wait to be read"});
  }
}

Result<void> ServerSession::State::OnHello(const v1::Hello& hello) {
  if (is_welcome) return holo::Fail(Code::kFailedPrecondition, "hello: expected once, found twice");
  if (hello.protocol_version() != kProtocolVersion) {
    return holo::Fail(Code::kUnimplemented, "hello: expected protocol version " + std::to_string(kProtocolVersion) +
                                                ", found " + std::to_string(hello.protocol_version()));
  }
  if (hello.client().size() > kMaxClientNameBytes || hello.token().size() > kMaxTokenBytes) {
    return holo::Fail(Code::kInvalidArgument, "hello: client name or token too long");
  }
  if (static_cast<std::size_t>(hello.basis_hashes_size()) > kMaxBasisHashes) {
    return holo::Fail(Code::kInvalidArgument, "hello: expected at most " + std::to_string(kMaxBasisHashes) +
                                                  " basis hashes, found " + std::to_string(hello.basis_hashes_size()));
  }
  for (const std::string& bytes : hello.basis_hashes()) {
    const std::optional<basis::Hash> hash = HashFrom(bytes);
    if (!hash) {
      return holo::Fail(Code::kInvalidArgument,
                        "hello: expected basis hashes of 16 bytes, found " + std::to_string(bytes.size()));
    }
    client_bases.insert(*hash);
  }
  if (options.authorize) HOLO_RETURN_IF_ERROR(options.authorize(hello.token()));

  client_name = hello.client();
  window_bytes =
      std::min(hello.limits().window_bytes() == 0 ? options.default_window_bytes : hello.limits().window_bytes(),
               options.max_window_bytes);
  client_memory_bytes = hello.limits().memory_bytes();
  const std::uint64_t rate = SmallerWish(hello.limits().bytes_per_second(), options.max_bytes_per_second);
  if (rate > 0) {
    const auto bytes_per_second = static_cast<double>(rate);
    pace.emplace(bytes_per_second, std::min(static_cast<double>(kMaxPartBytes), bytes_per_second / 4));
  }
  is_welcome = true;

  v1::ServerMessage message;
  v1::Welcome* welcome = message.mutable_welcome();
  welcome->set_protocol_version(kProtocolVersion);
  welcome->set_server(options.server_name);
  welcome->set_max_open_assets(options.max_open_assets);
  welcome->mutable_limits()->set_bytes_per_second(rate);
  welcome->mutable_limits()->set_window_bytes(window_bytes);
  welcome->mutable_limits()->set_memory_bytes(client_memory_bytes);
  Enqueue(std::move(message));
  return {};
}

Result<void> ServerSession::State::OnOpen(const v1::Open& open) {
  const std::string where = "open of handle " + std::to_string(open.handle());
  if (open.handle() <= last_handle) {
    const bool is_open = streams.count(open.handle()) != 0;
    return holo::Fail(is_open ? Code::kAlreadyExists : Code::kInvalidArgument,
                      where + ": expected a handle above " + std::to_string(last_handle));
  }
  last_handle = open.handle();
  if (open.name().empty() || open.name().size() > kMaxNameBytes) {
    return holo::Fail(Code::kInvalidArgument, where + ": expected a name of 1 to " + std::to_string(kMaxNameBytes) +
                                                  " bytes, found " + std::to_string(open.name().size()));
  }
  if (!open.expected_content_hash().empty() && !HashFrom(open.expected_content_hash())) {
    return holo::Fail(Code::kInvalidArgument, where + ": expected a content hash of 16 bytes, found " +
                                                  std::to_string(open.expected_content_hash().size()));
  }
  if (open.held_size() > 0 && open.expected_content_hash().empty()) {
    return holo::Fail(Code::kInvalidArgument, where + ": held chunks need the hash of the content they are of");
  }
  if (open.has_view()) HOLO_RETURN_IF_ERROR(CheckView(open.view(), 0));
  // From here on the request is well formed, and refusing it ends this asset only.
  if (is_going_away) {
    Enqueue(ErrorMessage({Code::kUnavailable, where + ": the server is about to stop"}, open.handle(), 0));
    return {};
  }
  if (streams.size() >= options.max_open_assets) {
    Enqueue(ErrorMessage({Code::kResourceExhausted,
                          where + ": expected at most " + std::to_string(options.max_open_assets) + " open assets"},
                         open.handle(), 0));
    return {};
  }
  auto stream = std::make_unique<Stream>();
  stream->handle = open.handle();
  stream->opening = Opening{open, false};
  if (open.has_view()) {
    stream->last_view_id = open.view().view_id();
    stream->view = open.view();
  }
  streams.emplace(open.handle(), std::move(stream));
  return {};
}

Result<void> ServerSession::State::OnSetView(const v1::SetView& set_view) {
  if (set_view.handle() > last_handle || set_view.handle() == 0) {
    return holo::Fail(Code::kNotFound, "set_view: handle " + std::to_string(set_view.handle()) + " was never opened");
  }
  const auto found = streams.find(set_view.handle());
  if (found == streams.end()) return {};  // it has crossed with our Closed or Error
  Stream& stream = *found->second;
  HOLO_RETURN_IF_ERROR(CheckView(set_view.view(), stream.last_view_id));
  stream.last_view_id = set_view.view().view_id();
  if (stream.opening) {
    stream.view = set_view.view();
  } else {
    SetView(stream, set_view.view());
  }
  return {};
}

Result<void> ServerSession::State::OnAck(const v1::Ack& ack) {
  if (ack.bytes() < acknowledged_bytes || ack.bytes() > sent_bytes) {
    return holo::Fail(Code::kInvalidArgument, "ack: expected " + std::to_string(acknowledged_bytes) + " to " +
                                                  std::to_string(sent_bytes) + " bytes, found " +
                                                  std::to_string(ack.bytes()));
  }
  acknowledged_bytes = ack.bytes();
  return {};
}

Result<void> ServerSession::State::OnClose(const v1::Close& close) {
  if (close.handle() > last_handle || close.handle() == 0) {
    return holo::Fail(Code::kNotFound, "close: handle " + std::to_string(close.handle()) + " was never opened");
  }
  if (streams.erase(close.handle()) == 0) return {};
  v1::ServerMessage message;
  message.mutable_closed()->set_handle(close.handle());
  Enqueue(std::move(message));
  return {};
}

Result<std::vector<ServerSession::State::BasisBytes>> ServerSession::State::FindBases(
    const container::AssetReader& reader) const {
  std::vector<BasisBytes> found;
  for (const basis::Hash& hash : reader.header().bases) {
    if (client_bases.count(hash) != 0) continue;
    BasisBytes entry{hash, nullptr};
    if (const std::vector<std::uint8_t>* embedded = reader.EmbeddedBasis(hash)) {
      entry.bytes = std::make_shared<const std::vector<std::uint8_t>>(*embedded);
    } else if (const std::shared_ptr<const basis::Basis> built_in = basis::FindBuiltIn(hash)) {
      entry.bytes = {built_in, &built_in->bytes()};
    } else if (options.find_basis) {
      entry.bytes = options.find_basis(hash);
    }
    if (!entry.bytes || entry.bytes->empty() || entry.bytes->size() > basis::kMaxBasisBytes) {
      return holo::Fail(Code::kFailedPrecondition,
                        "basis " + bytes::ToHex(hash) + " is neither with the client nor with the server");
    }
    found.push_back(std::move(entry));
  }
  return found;
}

Result<void> ServerSession::State::Begin(Stream& stream, std::shared_ptr<const Asset> asset) {
  const v1::Open& open = stream.opening->open;
  const container::AssetReader& reader = asset->reader();
  if (reader.header_bytes().size() > kMaxServerMessageBytes - kMessageOverheadBytes) {
    return holo::Fail(Code::kResourceExhausted,
                      "header: expected at most " + std::to_string(kMaxServerMessageBytes - kMessageOverheadBytes) +
                          " bytes to stream, found " + std::to_string(reader.header_bytes().size()));
  }
  HOLO_ASSIGN_OR_RETURN(stream.bases, FindBases(reader));
  std::uint64_t needed_bytes = reader.header_bytes().size();
  for (const BasisBytes& entry : stream.bases) needed_bytes += entry.bytes->size();
  if (client_memory_bytes != 0 && needed_bytes > client_memory_bytes) {
    return holo::Fail(Code::kResourceExhausted, "header and bases: expected at most the client's limit of " +
                                                    std::to_string(client_memory_bytes) + " bytes, found " +
                                                    std::to_string(needed_bytes));
  }

  const bool accepts_held =
      !open.expected_content_hash().empty() && HashFrom(open.expected_content_hash()) == reader.content_hash();
  if (accepts_held) {
    HOLO_ASSIGN_OR_RETURN(stream.sent.held, HeldChunks::Parse(open.held(), reader.header().levels));
  } else {
    stream.sent.held = HeldChunks(reader.header().levels);
  }
  stream.sent.asset = asset;

  Queued queued;
  v1::Opened* opened = queued.message.mutable_opened();
  opened->set_handle(stream.handle);
  opened->set_content_hash(reader.content_hash().data(), reader.content_hash().size());
  opened->set_file_bytes(reader.file_bytes());
  opened->set_chunk_bytes(asset->chunk_bytes());
  opened->set_chunk_count(asset->chunk_count());
  opened->set_held_accepted(accepts_held);
  queued.header_of = std::move(asset);
  queue.push_back(std::move(queued));

  const pixels::Layout& layout = reader.header().layout;
  Schedule::Goal goal;
  goal.region = {0, 0, layout.width, layout.height};
  goal.scale = std::min(1.0, static_cast<double>(kPreviewPx) / std::max(layout.width, layout.height));
  stream.preview.emplace(stream.sent, goal);
  const std::uint64_t preview_bytes =
      std::clamp(reader.file_bytes() / kPreviewFraction, kMinPreviewBytes, kMaxPreviewBytes);
  stream.preview_bytes_left = preview_bytes - std::min(preview_bytes, stream.preview->bytes_held_before());

  stream.opening.reset();
  if (stream.view) SetView(stream, *std::exchange(stream.view, std::nullopt));
  return {};
}

void ServerSession::State::SetView(Stream& stream, const v1::View& view) {
  const Result<pixels::Rect> region = RegionOf(view, stream.sent.asset->reader().header().layout);
  if (!region) {
    Enqueue(ErrorMessage(region.error(), stream.handle, view.view_id()));
    return;
  }
  stream.view = view;
  stream.schedule.reset();
  stream.view_bytes = 0;
  stream.is_view_complete = false;
}

void ServerSession::State::CompleteView(Stream& stream, const Schedule& schedule) {
  stream.is_view_complete = true;
  ++completed_views;
  v1::ServerMessage message;
  v1::ViewComplete* complete = message.mutable_view_complete();
  complete->set_handle(stream.handle);
  complete->set_view_id(stream.view->view_id());
  complete->set_reason(schedule.reason());
  complete->set_remaining_squared_error(schedule.remaining_squared_error());
  complete->set_psnr_db(schedule.psnr_db());
  complete->set_bytes_sent(stream.view_bytes);
  stream.schedule.reset();
  Enqueue(std::move(message));
}

std::optional<Schedule::Pick> ServerSession::State::BestOfPreview(Stream& stream) {
  if (!stream.preview) return std::nullopt;
  std::optional<Schedule::Pick> pick;
  if (stream.preview_bytes_left > 0) pick = stream.preview->Best();
  const std::uint64_t budget = stream.view && !stream.is_view_complete ? stream.view->byte_budget() : 0;
  // One chunk at least, and then as many as fit.
  const bool fits = pick && (stream.preview->bytes_taken() == 0 || pick->size_bytes <= stream.preview_bytes_left) &&
                    (budget == 0 || stream.view_bytes + pick->size_bytes <= budget);
  if (fits) return pick;
  stream.preview.reset();
  return std::nullopt;
}

std::optional<Schedule::Pick> ServerSession::State::BestOfView(Stream& stream) {
  if (stream.is_view_complete) return std::nullopt;
  if (!stream.schedule) {
    const v1::View& view = *stream.view;
    Schedule::Goal goal;
    goal.region = RegionOf(view, stream.sent.asset->reader().header().layout).value();
    goal.scale = view.scale() == 0 ? 1.0 : view.scale();
    goal.target_psnr_db = view.target_psnr_db();
    if (view.byte_budget() != 0)
      goal.byte_budget = view.byte_budget() - std::min(view.byte_budget(), stream.view_bytes);
    stream.schedule.emplace(stream.sent, goal);
  }
  std::optional<Schedule::Pick> pick = stream.schedule->Best();
  if (!pick) CompleteView(stream, *stream.schedule);
  return pick;
}

std::optional<ServerSession::State::Choice> ServerSession::State::Choose() {
  const auto priority = [](const Stream& stream) { return stream.view ? stream.view->priority() : 0; };
  std::optional<Choice> best;
  // Previews before refinements; among them the one that has least of it.
  for (const auto& [handle, stream] : streams) {
    const std::optional<Schedule::Pick> pick = BestOfPreview(*stream);
    if (!pick) continue;
    if (!best || priority(*stream) > priority(*best->stream) ||
        (priority(*stream) == priority(*best->stream) &&
         stream->preview->bytes_taken() < best->schedule->bytes_taken())) {
      best = Choice{stream.get(), &*stream->preview, *pick};
    }
  }
  if (best) return best;
  for (const auto& [handle, stream] : streams) {
    const std::optional<Schedule::Pick> pick = BestOfView(*stream);
    if (!pick) continue;
    if (!best || priority(*stream) > priority(*best->stream) ||
        (priority(*stream) == priority(*best->stream) && pick->slope > best->pick.slope)) {
      best = Choice{stream.get(), &*stream->schedule, *pick};
    }
  }
  return best;
}

// The first basis of the stream that the client lacks becomes the one being sent; false if there is none.
bool ServerSession::State::StartBasis(Stream& stream) {
  while (!stream.bases.empty()) {
    BasisBytes next = std::move(stream.bases.front());
    stream.bases.erase(stream.bases.begin());
    if (!client_bases.insert(next.hash).second) continue;
    basis = std::move(next);
    basis_offset = 0;
    // It counts against the view's budget, which the schedule was made with.
    stream.view_bytes += basis->bytes->size();
    stream.schedule.reset();
    return true;
  }
  return false;
}

v1::ServerMessage ServerSession::State::BasisPart() {
  const std::vector<std::uint8_t>& all = *basis->bytes;
  const std::size_t size = std::min(all.size() - basis_offset, kMaxPartBytes);
  v1::ServerMessage message;
  v1::Basis* part = message.mutable_basis();
  part->set_hash(basis->hash.data(), basis->hash.size());
  part->set_offset(basis_offset);
  part->set_total_bytes(static_cast<std::uint32_t>(all.size()));
  part->set_data(all.data() + basis_offset, size);
  basis_offset += static_cast<std::uint32_t>(size);
  if (basis_offset == all.size()) basis.reset();
  return message;
}

Result<v1::ServerMessage> ServerSession::State::ChunkPart(const Choice& choice) {
  Stream& stream = *choice.stream;
  const container::ChunkInfo& info = *choice.pick.chunk;
  if (stream.buffered.empty() || !(stream.buffered_id == info.id)) {
    HOLO_ASSIGN_OR_RETURN(stream.buffered, stream.sent.asset->reader().ReadChunk(info));
    stream.buffered_id = info.id;
    if (stream.buffered.size() != info.size_bytes) {
      return holo::Fail(Code::kDataLoss, "chunk: expected " + std::to_string(info.size_bytes) + " bytes, found " +
                                             std::to_string(stream.buffered.size()));
    }
  }
  v1::ServerMessage message;
  v1::Chunk* chunk = message.mutable_chunk();
  chunk->set_handle(stream.handle);
  chunk->set_level(info.id.level);
  chunk->set_tile(info.id.tile);
  chunk->set_layer(info.id.layer);
  if (stream.view && !stream.is_view_complete) chunk->set_view_id(stream.view->view_id());
  if (choice.pick.size_bytes < info.size_bytes) {
    chunk->set_offset(choice.pick.offset);
    chunk->set_total_bytes(info.size_bytes);
  }
  chunk->set_data(stream.buffered.data() + choice.pick.offset, choice.pick.size_bytes);
  if (choice.pick.offset + choice.pick.size_bytes == info.size_bytes) stream.buffered = {};

  if (choice.schedule == (stream.preview ? &*stream.preview : nullptr)) {
    stream.preview_bytes_left -= std::min<std::uint64_t>(stream.preview_bytes_left, choice.pick.size_bytes);
  }
  stream.view_bytes += choice.pick.size_bytes;
  choice.schedule->Take(choice.pick);
  return message;
}

ServerSession::ServerSession(ServerOptions options) : state_(std::make_unique<State>(std::move(options))) {}
ServerSession::ServerSession(ServerSession&&) noexcept = default;
ServerSession& ServerSession::operator=(ServerSession&&) noexcept = default;
ServerSession::~ServerSession() = default;

void ServerSession::Receive(const v1::ClientMessage& message, Clock::time_point now) {
  State& state = *state_;
  if (state.failure || state.said_goodbye) return;
  const auto kind = message.kind_case();
  TokenBucket& bucket = kind == v1::ClientMessage::kAck ? state.acks : state.messages;
  bucket.Advance(now);
  bucket.Take(1);
  if (!bucket.is_positive()) {
    state.Fail({Code::kResourceExhausted,
                "session: expected at most " +
                    std::to_string(static_cast<std::uint64_t>(kind == v1::ClientMessage::kAck
                                                                  ? state.options.max_acks_per_second
                                                                  : state.options.max_messages_per_second)) +
                    " messages a second"});
    return;
  }
  if (!state.is_welcome && kind != v1::ClientMessage::kHello) {
    state.Fail({Code::kFailedPrecondition, "session: expected hello first"});
    return;
  }
  Result<void> result;
  switch (kind) {
    case v1::ClientMessage::kHello:
      result = state.OnHello(message.hello());
      break;
    case v1::ClientMessage::kOpen:
      result = state.OnOpen(message.open());
      break;
    case v1::ClientMessage::kSetView:
      result = state.OnSetView(message.set_view());
      break;
    case v1::ClientMessage::kAck:
      result = state.OnAck(message.ack());
      break;
    case v1::ClientMessage::kClose:
      result = state.OnClose(message.close());
      break;
    case v1::ClientMessage::kGoodbye:
      state.said_goodbye = true;
      state.streams.clear();
      state.basis.reset();
      break;
    case v1::ClientMessage::KIND_NOT_SET:
      result = holo::Fail(Code::kInvalidArgument, "session: expected a message, found none of the known kinds");
      break;
  }
  if (!result) state.Fail(std::move(result).error());
}

void ServerSession::Fail(Error error) {
  state_->Fail(std::move(error));
}

void ServerSession::GoAway(std::string reason) {
  State& state = *state_;
  if (state.failure || state.is_going_away) return;
  state.is_going_away = true;
  if (!state.is_welcome) {
    state.Fail({Code::kUnavailable, std::move(reason)});
    return;
  }
  v1::ServerMessage message;
  message.mutable_go_away()->set_reason(ErrorText(reason));
  state.Enqueue(std::move(message));
}

std::optional<ServerSession::OpenRequest> ServerSession::TakeOpenRequest() {
  for (const auto& [handle, stream] : state_->streams) {
    if (stream->opening && !stream->opening->taken) {
      stream->opening->taken = true;
      return OpenRequest{handle, stream->opening->open.name()};
    }
  }
  return std::nullopt;
}

void ServerSession::CompleteOpen(std::uint32_t handle, Result<std::shared_ptr<const Asset>> asset) {
  State& state = *state_;
  const auto found = state.streams.find(handle);
  if (found == state.streams.end() || !found->second->opening) return;
  if (!asset) {
    state.FailAsset(handle, asset.error());
    return;
  }
  const std::string name = found->second->opening->open.name();
  if (Result<void> begun = state.Begin(*found->second, std::move(asset).value()); !begun) {
    state.FailAsset(handle, WithContext(std::move(begun).error(), "asset " + name));
  }
}

ServerSession::Next ServerSession::NextMessage(Clock::time_point now) {
  State& state = *state_;
  Next next;
  for (;;) {
    if (!state.queue.empty()) {
      State::Queued queued = std::move(state.queue.front());
      state.queue.pop_front();
      if (queued.header_of) {
        const std::vector<std::uint8_t>& header = queued.header_of->reader().header_bytes();
        queued.message.mutable_opened()->set_header(header.data(), header.size());
      }
      next.kind = Next::Kind::kMessage;
      next.message = std::move(queued.message);
      return next;
    }
    if (state.failure || state.said_goodbye) {
      next.kind = Next::Kind::kFinished;
      return next;
    }

    // Even where the window is full: a view that needs nothing more is told so at once.
    std::optional<State::Choice> choice;
    if (!state.basis) choice = state.Choose();
    if (!state.queue.empty()) continue;
    if (!state.basis && !choice) {
      const bool is_opening = std::any_of(state.streams.begin(), state.streams.end(),
                                          [](const auto& entry) { return entry.second->opening.has_value(); });
      const bool is_done = state.is_going_away && !is_opening && unacknowledged_bytes() == 0;
      next.kind = is_done ? Next::Kind::kFinished : Next::Kind::kIdle;
      return next;
    }
    if (unacknowledged_bytes() >= state.window_bytes) return next;
    if (state.pace) {
      state.pace->Advance(now);
      if (!state.pace->is_positive()) {
        next.kind = Next::Kind::kWait;
        next.time = now + state.pace->UntilPositive();
        return next;
      }
    }
    if (choice && state.StartBasis(*choice->stream)) choice.reset();

    std::size_t payload_bytes = 0;
    if (state.basis) {
      next.message = state.BasisPart();
      payload_bytes = next.message.basis().data().size();
    } else {
      Result<v1::ServerMessage> message = state.ChunkPart(*choice);
      if (!message) {
        state.FailAsset(choice->stream->handle, message.error());
        continue;
      }
      next.message = std::move(message).value();
      payload_bytes = next.message.chunk().data().size();
    }
    next.kind = Next::Kind::kMessage;
    state.sent_bytes += payload_bytes;
    if (state.pace) state.pace->Take(static_cast<double>(payload_bytes));
    return next;
  }
}

const std::optional<Error>& ServerSession::failure() const {
  return state_->failure;
}
std::uint64_t ServerSession::sent_payload_bytes() const {
  return state_->sent_bytes;
}
std::uint64_t ServerSession::unacknowledged_bytes() const {
  return state_->sent_bytes - state_->acknowledged_bytes;
}
bool ServerSession::is_welcome() const {
  return state_->is_welcome;
}
const std::string& ServerSession::client_name() const {
  return state_->client_name;
}
std::size_t ServerSession::open_assets() const {
  return state_->streams.size();
}
std::uint64_t ServerSession::completed_views() const {
  return state_->completed_views;
}

}  // namespace holo::protocol
