// The thin client: streams one picture from a holo server and keeps what has arrived ready to render.
//
//   auto picture = RemotePicture::Open("ws://host:8080", "kodim01", options);
//   while (!done) {
//     auto change = (*picture)->Wait(deadline);           // chunks go into the decoder
//     render::RenderInto((*picture)->decoder(), ...);     // only change.region looks different
//     (*picture)->Acknowledge();                          // what has come is on the screen
//   }
//
// The same over gRPC ("grpc://host:50051"). A lost connection is taken up again where it ended, with any server that
// has the same content: no chunk comes twice. Every wait has a deadline, and a stop_token ends it early with
// kCancelled. One thread at a time per object. This module opens sockets, but knows no windows and prints nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/basis/basis.h"
#include "common/codec/codec.h"
#include "common/pixels/pixels.h"
#include "common/protocol/protocol.h"
#include "common/render/render.h"
#include "common/status/status.h"

namespace holo::client {

using Clock = std::chrono::steady_clock;

// Where a server listens.
struct Endpoint {
  enum class Transport : std::uint8_t { kWebSocket, kGrpc };
  Transport transport = Transport::kWebSocket;
  std::string host;
  std::uint16_t port = 0;

  // ws://HOST[:8080] or grpc://HOST[:50051]; an IPv6 address stands in brackets. A trailing '/' is ignored.
  // kInvalidArgument, saying what was expected, for anything else.
  [[nodiscard]] static Result<Endpoint> Parse(std::string_view url);
};

// Bases at hand: the built-in ones, those remembered in this process, and those in a folder (HASH.basis). A file whose
// content does not have the hash of its name is ignored. Not synchronised.
class BasisCache {
 public:
  // An empty folder: nothing is kept on disk. The folder is made when the first basis is stored.
  explicit BasisCache(std::filesystem::path folder);
  // Of this user: files::UserCacheDir()/bases, or none where there is no such folder.
  [[nodiscard]] static BasisCache ForUser();

  [[nodiscard]] std::shared_ptr<const basis::Basis> Find(const basis::Hash& hash);
  // Checks and keeps the basis; failing to write it to disk is no error.
  [[nodiscard]] Result<std::shared_ptr<const basis::Basis>> Store(std::span<const std::uint8_t> bytes);
  // All that Find would find, at most `limit`.
  [[nodiscard]] std::vector<basis::Hash> List(std::size_t limit) const;

 private:
  std::filesystem::path folder_;
  std::map<basis::Hash, std::shared_ptr<const basis::Basis>> known_;
};

struct Options {
  std::string client_name = "holo";
  std::string token;
  std::uint64_t bytes_per_second = 0;  // 0: as fast as it goes
  std::uint64_t window_bytes = 0;      // 0: the server's default
  std::chrono::milliseconds connect_timeout{10'000};
  // With bytes still expected, a silent server counts as lost after this.
  std::chrono::milliseconds idle_timeout{30'000};
  // In a row without a payload byte, waiting 0.25 s, 0.5 s, 1 s, ... between them.
  unsigned reconnect_attempts = 5;
  codec::Decoder::Options decoder;
  std::stop_token stop;
};

struct Statistics {
  std::uint64_t payload_bytes = 0;    // of chunks and bases, over all connections
  std::uint64_t duplicate_bytes = 0;  // of it, what was here already: 0 unless a server breaks its word
  std::uint64_t chunks = 0;
  std::uint64_t bases = 0;
  std::uint64_t reconnects = 0;
};

class Connection;

class RemotePicture {
 public:
  // Connects and opens `name`; returns once its header and bases are here. kNotFound for an unknown name, kUnavailable
  // or kDeadlineExceeded where there is no server. `cache` must outlive the picture. Without a view only the preview of
  // the whole picture comes.
  [[nodiscard]] static Result<std::unique_ptr<RemotePicture>> Open(const std::string& url, const std::string& name,
                                                                   const std::optional<protocol::View>& view,
                                                                   BasisCache& cache, Options options);
  ~RemotePicture();
  RemotePicture(const RemotePicture&) = delete;
  RemotePicture& operator=(const RemotePicture&) = delete;

  [[nodiscard]] const container::AssetHeader& header() const { return decoder_->header(); }
  [[nodiscard]] const codec::Decoder& decoder() const { return *decoder_; }
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }
  [[nodiscard]] std::uint64_t file_bytes() const { return file_bytes_; }

  // Looks elsewhere; the newest view wins.
  [[nodiscard]] Result<void> SetView(const protocol::View& view);

  struct Change {
    pixels::Rect region;            // level-0 pixels that look different now; empty if none do
    bool content_replaced = false;  // the server has other content under this name now: everything is different
    bool view_complete = false;     // nothing more will come for the newest view
    double psnr_db = 0;             // with view_complete: estimated, of the view's region
    std::uint64_t payload_bytes = 0;
  };
  // Returns at the first change, or an empty one at `deadline`. Reconnects where needed. Fails for good with the
  // server's error, kUnavailable after the last attempt, kDeadlineExceeded, kDataLoss for a server that breaks the
  // rules, kCancelled.
  [[nodiscard]] Result<Change> Wait(Clock::time_point deadline);

  // Everything received is rendered: lets the server send more.
  void Acknowledge();

  // Cuts the connection as a network failure would; the next Wait takes it up again.
  void DropConnectionForTest();

 private:
  RemotePicture(Endpoint endpoint, std::string name, BasisCache& cache, Options options);

  [[nodiscard]] Result<void> Connect();
  [[nodiscard]] Result<void> Reconnect();
  [[nodiscard]] Result<void> Flush();
  // Takes one message; a change is added to `change`.
  [[nodiscard]] Result<void> Handle(v1::ServerMessage message, Change& change);
  [[nodiscard]] Result<void> OnOpened(protocol::AssetOpened opened, Change& change);
  // Makes the decoder once every basis is known.
  [[nodiscard]] Result<void> MakeDecoder();

  Endpoint endpoint_;
  std::string name_;
  BasisCache& cache_;
  Options options_;
  std::optional<protocol::View> view_;

  std::unique_ptr<Connection> connection_;
  std::unique_ptr<protocol::ClientSession> session_;
  std::uint32_t handle_ = 0;
  std::uint32_t view_id_ = 0;
  bool view_complete_ = false;
  bool went_away_ = false;
  unsigned attempts_without_progress_ = 0;
  std::optional<protocol::ResumeState::Asset> resume_;
  std::optional<container::AssetHeader> pending_header_;
  std::optional<codec::Decoder> decoder_;
  basis::Hash content_hash_{};
  std::uint64_t file_bytes_ = 0;
  Statistics statistics_;
};

// The pixels of one view, brought up to date piece by piece. Not synchronised.
class Canvas {
 public:
  // `view` must be a view of that asset (as render::Render takes it).
  [[nodiscard]] static Result<Canvas> Create(const codec::Decoder& decoder, const render::View& view);

  [[nodiscard]] const pixels::Picture& picture() const { return picture_; }
  [[nodiscard]] const render::View& view() const { return view_; }

  // Renders again what lies in `changed` (level-0 pixels). The result is the number of output pixels rendered.
  [[nodiscard]] Result<std::uint64_t> Update(const codec::Decoder& decoder, const pixels::Rect& changed);

 private:
  Canvas() = default;
  render::View view_;
  render::OutputRect rect_;
  pixels::Picture picture_;
};

}  // namespace holo::client
