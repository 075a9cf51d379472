// The streaming session as two pure state machines: messages in, messages out. No sockets, no clocks, no threads.
//
// proto/holo/v1/stream.proto says what the messages mean; a transport only moves them. ServerSession is the half that
// holds assets, ClientSession the half that shows them; connect one's output to the other's input and pictures flow.
// Both treat the other side as hostile: whatever it sends costs bounded memory and ends in an Error at worst.
//
// Not synchronised: a session is used by one thread at a time. An Asset is immutable and shared by any number.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/basis/basis.h"
#include "common/container/container.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"
#include "holo/v1/stream.pb.h"

namespace holo::protocol {

inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr std::string_view kWebSocketPath = "/v1/stream";
inline constexpr std::size_t kMaxClientMessageBytes = 1u << 20;
inline constexpr std::size_t kMaxServerMessageBytes = 4u << 20;
inline constexpr std::size_t kMaxPartBytes = 64u << 10;  // payload of one Chunk or Basis message
inline constexpr std::size_t kMaxNameBytes = 1024;
inline constexpr std::size_t kMaxBasisHashes = 4096;
inline constexpr std::uint32_t kMaxPriority = 1000;
inline constexpr std::uint64_t kDefaultWindowBytes = 256u << 10;

using Clock = std::chrono::steady_clock;

// One message from its bytes; kInvalidArgument if they are no such message or too many.
[[nodiscard]] Result<v1::ClientMessage> ParseClientMessage(std::span<const std::uint8_t> bytes);
[[nodiscard]] Result<v1::ServerMessage> ParseServerMessage(std::span<const std::uint8_t> bytes);

// ---------------------------------------------------------------------------------------------------------------------
// Held chunks

// How many layers of each tile a client holds: every existing layer below that number. One byte a tile.
class HeldChunks {
 public:
  HeldChunks() = default;
  // Nothing held, of an asset with these levels.
  explicit HeldChunks(const std::vector<container::Level>& levels);
  // From Open.held. kInvalidArgument for levels or tiles that the asset has not, a level named twice, or odd runs.
  [[nodiscard]] static Result<HeldChunks> Parse(const google::protobuf::RepeatedPtrField<v1::HeldLevel>& held,
                                                const std::vector<container::Level>& levels);
  void Serialize(google::protobuf::RepeatedPtrField<v1::HeldLevel>& out) const;

  // 0 for a tile that does not exist.
  [[nodiscard]] std::uint32_t Layers(std::uint32_t level, std::uint32_t tile) const;
  // The tile must exist.
  void SetLayers(std::uint32_t level, std::uint32_t tile, std::uint32_t layers);
  [[nodiscard]] bool Has(const container::ChunkId& id) const { return Layers(id.level, id.tile) > id.layer; }
  [[nodiscard]] bool Exists(std::uint32_t level, std::uint32_t tile) const;

 private:
  std::vector<std::vector<std::uint8_t>> layers_;  // [level][tile]
};

// What a client needs to go on after a lost connection, with any server: small and self-contained. The chunks
// themselves are in the client's keeping.
struct ResumeState {
  struct Asset {
    std::string name;
    basis::Hash content_hash{};
    std::vector<v1::HeldLevel> held;
  };
  std::vector<basis::Hash> bases;
  std::vector<Asset> assets;

  [[nodiscard]] std::vector<std::uint8_t> Serialize() const;
  // kDataLoss, naming what was expected and where. Only form and limits are checked: geometry is checked on opening.
  [[nodiscard]] static Result<ResumeState> Parse(std::span<const std::uint8_t> bytes);
};

// ---------------------------------------------------------------------------------------------------------------------
// Server

// An opened file with its chunks grouped by tile: what every session on it shares.
class Asset {
 public:
  explicit Asset(container::AssetReader reader);

  [[nodiscard]] const container::AssetReader& reader() const { return reader_; }
  // Whole chunks of a tile by rising layer, as indices into reader().chunks(). The tile must exist.
  [[nodiscard]] std::span<const std::uint32_t> ChunksOf(std::uint32_t level, std::uint32_t tile) const;
  // Of the chunks that are whole: the end of a file that is cut short does not count.
  [[nodiscard]] std::uint64_t chunk_bytes() const { return chunk_bytes_; }
  [[nodiscard]] std::uint32_t chunk_count() const { return static_cast<std::uint32_t>(order_.size()); }
  // Memory that this object holds, for caches.
  [[nodiscard]] std::size_t memory_bytes() const;

 private:
  container::AssetReader reader_;
  std::vector<std::size_t> first_tile_;  // [level] into start_
  std::vector<std::uint32_t> start_;     // [tile of all levels + 1] into order_
  std::vector<std::uint32_t> order_;     // into reader_.chunks()
  std::uint64_t chunk_bytes_ = 0;
};

struct ServerOptions {
  std::string server_name = "holod";
  std::uint32_t max_open_assets = 16;
  std::uint64_t default_window_bytes = kDefaultWindowBytes;
  std::uint64_t max_window_bytes = 4u << 20;
  std::uint64_t max_bytes_per_second = 0;  // 0: no limit
  // Above these a client is flooding, and its session fails. Bursts of twice the number pass.
  double max_messages_per_second = 500;
  double max_acks_per_second = 5000;
  // Whether a client with these credentials may come in; empty: everybody.
  std::function<Result<void>(std::string_view token)> authorize;
  // Bases known beyond the built-in ones and those in the file; may be empty. The bytes, or null.
  std::function<std::shared_ptr<const std::vector<std::uint8_t>>(const basis::Hash&)> find_basis;
};

// One connection seen from the server. Call order: Receive() for every message as it comes; whenever the transport can
// write, NextMessage(). What to send is decided there and no earlier, so never ask ahead. Between them,
// TakeOpenRequest() until it is empty and CompleteOpen() for each, at any later time.
class ServerSession {
 public:
  explicit ServerSession(ServerOptions options);
  ServerSession(ServerSession&&) noexcept;
  ServerSession& operator=(ServerSession&&) noexcept;
  ~ServerSession();

  // Takes one message. What is wrong with it becomes an Error message, and the end of the session where it breaks a
  // rule.
  void Receive(const v1::ClientMessage& message, Clock::time_point now);
  // Ends the session with an Error message: for bytes that are no message, deadlines, and whatever else the transport
  // finds. The first failure counts.
  void Fail(Error error);
  // Sends GoAway, refuses to open more, and finishes once the views under way are complete and acknowledged.
  void GoAway(std::string reason);

  // An asset that the client wants: to be looked up by `name` and handed to CompleteOpen with the handle.
  struct OpenRequest {
    std::uint32_t handle = 0;
    std::string name;
  };
  [[nodiscard]] std::optional<OpenRequest> TakeOpenRequest();
  // Harmless if the client has closed the handle meanwhile.
  void CompleteOpen(std::uint32_t handle, Result<std::shared_ptr<const Asset>> asset);

  // What to do now that the last write is complete.
  struct Next {
    enum class Kind : std::uint8_t {
      kMessage,   // write `message`, then ask again
      kWait,      // ask again at `time`, or after the next event
      kIdle,      // ask again after the next event: Receive, CompleteOpen, GoAway, Fail
      kFinished,  // close the connection, with failure() as the reason if there is one
    };
    Kind kind = Kind::kIdle;
    v1::ServerMessage message;
    Clock::time_point time;
  };
  [[nodiscard]] Next NextMessage(Clock::time_point now);

  [[nodiscard]] const std::optional<Error>& failure() const;
  [[nodiscard]] std::uint64_t sent_payload_bytes() const;
  [[nodiscard]] std::uint64_t unacknowledged_bytes() const;
  // True after Welcome has been decided on.
  [[nodiscard]] bool is_welcome() const;
  [[nodiscard]] const std::string& client_name() const;
  [[nodiscard]] std::size_t open_assets() const;
  [[nodiscard]] std::uint64_t completed_views() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Client

struct ClientOptions {
  std::string client_name = "holo";
  std::string token;
  std::vector<basis::Hash> bases;  // every basis at hand, built-in ones included
  std::uint64_t bytes_per_second = 0;
  std::uint64_t window_bytes = 0;
  std::uint64_t memory_bytes = 0;
  std::uint32_t max_open_assets = 16;
};

// What to show. See v1::View.
struct View {
  pixels::Rect region;  // empty: the whole picture
  float scale = 1.0f;
  std::uint32_t focus_k = 0;
  float target_psnr_db = 0;
  std::uint64_t byte_budget = 0;
  std::uint32_t priority = 0;
};

// What a server message means to the program.
struct NoEvent {};  // a part of something; wait for the rest
struct Welcomed {
  std::string server;
  v1::Limits limits;
  std::uint32_t max_open_assets = 0;
};
struct AssetOpened {
  std::uint32_t handle = 0;
  basis::Hash content_hash{};
  container::AssetHeader header;
  std::uint64_t file_bytes = 0;
  std::uint64_t chunk_bytes = 0;
  std::uint32_t chunk_count = 0;
  // The chunks held before still count. False after Open with a resume state: the content is another one now, and what
  // was kept of it is worthless.
  bool resumed = false;
};
struct BasisReceived {
  basis::Hash hash{};
  std::vector<std::uint8_t> bytes;  // checked: they have that hash
};
struct ChunkReceived {
  std::uint32_t handle = 0;
  container::ChunkId id;
  std::uint32_t view_id = 0;
  std::vector<std::uint8_t> bytes;
};
struct ViewCompleted {
  std::uint32_t handle = 0;
  std::uint32_t view_id = 0;
  v1::ViewComplete::Reason reason = v1::ViewComplete::REASON_UNSPECIFIED;
  double remaining_squared_error = 0;
  double psnr_db = 0;
  std::uint64_t bytes_sent = 0;
};
struct ViewRefused {
  std::uint32_t handle = 0;
  std::uint32_t view_id = 0;
  Error error;
};
// The asset could not be opened, or cannot be read further; the handle is gone.
struct AssetFailed {
  std::uint32_t handle = 0;
  Error error;
};
struct AssetClosed {
  std::uint32_t handle = 0;
};
struct GoingAway {
  std::string reason;
};
using ClientEvent = std::variant<NoEvent, Welcomed, AssetOpened, BasisReceived, ChunkReceived, ViewCompleted,
                                 ViewRefused, AssetFailed, AssetClosed, GoingAway>;

// One connection seen from the client. Hello is the first message that NextMessage() gives. After a failure of
// Receive() the session is over: close the connection, keep Resume(), begin a new session.
class ClientSession {
 public:
  explicit ClientSession(ClientOptions options);

  // Opens an asset; the result is its handle. May be called before the server has said anything. `held` is what is kept
  // from an earlier session (ResumeState), null for nothing. `view`: where to look after the preview; without one only
  // the preview comes. kInvalidArgument for a name that is empty or too long, kResourceExhausted for too many assets,
  // kFailedPrecondition after Goodbye().
  [[nodiscard]] Result<std::uint32_t> Open(std::string name, const ResumeState::Asset* held = nullptr,
                                           const std::optional<View>& view = std::nullopt);
  // Replaces the view; the result is its view_id. A view not yet sent is forgotten. kNotFound for a handle not open,
  // kInvalidArgument for numbers that are none; a region outside the picture (if it is known) is kOutOfRange.
  [[nodiscard]] Result<std::uint32_t> SetView(std::uint32_t handle, const View& view);
  // Tells the server that everything up to `payload_bytes` (a value of received_payload_bytes()) is rendered or
  // dropped. Without acknowledgements the server stops when the window is full.
  void Acknowledge(std::uint64_t payload_bytes);
  void Close(std::uint32_t handle);
  void Goodbye();

  // The next message to write, if there is one. Ask after every call above and after Receive().
  [[nodiscard]] std::optional<v1::ClientMessage> NextMessage();

  // Takes one message. Fails with the server's own error where it ended the session, or with what is wrong: kDataLoss
  // for a message that breaks the rules.
  [[nodiscard]] Result<ClientEvent> Receive(v1::ServerMessage message);

  [[nodiscard]] std::uint64_t received_payload_bytes() const { return received_bytes_; }
  // Payload that the client held already: 0 with a server that keeps its word.
  [[nodiscard]] std::uint64_t duplicate_bytes() const { return duplicate_bytes_; }
  // Held chunks of every open asset and the bases known by now.
  [[nodiscard]] ResumeState Resume() const;
  // Null for a handle not open, or not yet opened by the server.
  [[nodiscard]] const HeldChunks* Held(std::uint32_t handle) const;

 private:
  struct OpenAsset {
    std::string name;
    bool is_opened = false;
    bool is_closing = false;
    bool has_bases = false;
    basis::Hash content_hash{};          // until opened: of what was offered as held
    std::vector<v1::HeldLevel> offered;  // until opened
    container::AssetHeader header;
    HeldChunks held;
    std::uint32_t last_view_id = 0;
    std::optional<v1::View> unsent_view;
    struct Partial {
      std::uint32_t layer = 0;
      std::uint32_t total_bytes = 0;
      std::vector<std::uint8_t> data;
    };
    std::map<std::pair<std::uint32_t, std::uint32_t>, Partial> parts;  // by (level, tile)
  };

  [[nodiscard]] Result<ClientEvent> OnWelcome(const v1::Welcome& welcome);
  [[nodiscard]] Result<ClientEvent> OnOpened(const v1::Opened& opened);
  [[nodiscard]] Result<ClientEvent> OnBasis(v1::Basis& basis);
  [[nodiscard]] Result<ClientEvent> OnChunk(v1::Chunk& chunk);
  [[nodiscard]] Result<ClientEvent> OnViewComplete(const v1::ViewComplete& complete);
  [[nodiscard]] Result<ClientEvent> OnError(const v1::Error& error);
  [[nodiscard]] Result<ClientEvent> OnClosed(const v1::Closed& closed);
  [[nodiscard]] Result<OpenAsset*> FindOpened(std::uint32_t handle, std::string_view message);

  ClientOptions options_;
  std::set<basis::Hash> known_bases_;
  bool said_hello_ = false;
  bool is_welcome_ = false;
  bool said_goodbye_ = false;
  std::deque<v1::ClientMessage> outgoing_;
  std::map<std::uint32_t, OpenAsset> assets_;
  std::uint32_t last_handle_ = 0;
  std::uint64_t received_bytes_ = 0;
  std::uint64_t acknowledged_bytes_ = 0;
  std::uint64_t sent_acknowledgement_ = 0;
  std::uint64_t duplicate_bytes_ = 0;
  basis::Hash partial_basis_hash_{};
  std::uint32_t partial_basis_total_ = 0;
  std::vector<std::uint8_t> partial_basis_;
  std::uint64_t partial_bytes_ = 0;  // of chunks, all assets
};

}  // namespace holo::protocol
