#include "common/protocol/protocol.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "tests/common/protocol/sample_asset.h"

namespace holo::protocol {
namespace {

using testing::SampleAsset;
using testing::SampleBasis;
using testing::SampleOptions;
using Reason = v1::ViewComplete;
using namespace std::chrono_literals;

ClientOptions WithBasis() {
  ClientOptions options;
  options.bases = {basis::HashOf(SampleBasis())};
  return options;
}

// Both sessions in one room: messages pass as bytes, as they would on a wire.
class Loop {
 public:
  explicit Loop(ClientOptions client = WithBasis(), ServerOptions server = {})
      : client_(std::move(client)), server_(std::move(server)) {}

  void Serve(const std::string& name, std::shared_ptr<const Asset> asset) { assets_[name] = std::move(asset); }

  // The client's messages reach the server.
  void Upload() {
    while (std::optional<v1::ClientMessage> message = client_.NextMessage()) {
      const std::string wire = message->SerializeAsString();
      const auto* data = reinterpret_cast<const std::uint8_t*>(wire.data());
      const Result<v1::ClientMessage> parsed = ParseClientMessage({data, wire.size()});
      REQUIRE(parsed.has_value());
      server_.Receive(*parsed, now_);
    }
    while (std::optional<ServerSession::OpenRequest> request = server_.TakeOpenRequest()) {
      const auto found = assets_.find(request->name);
      if (found == assets_.end()) {
        server_.CompleteOpen(request->handle, Fail(Code::kNotFound, "asset " + request->name + ": there is none"));
      } else {
        server_.CompleteOpen(request->handle, found->second);
      }
    }
  }

  // One message reaches the client; false if the server has none.
  bool Download() {
    ServerSession::Next next = server_.NextMessage(now_);
    last_kind_ = next.kind;
    if (next.kind == ServerSession::Next::Kind::kWait) wait_until_ = next.time;
    if (next.kind != ServerSession::Next::Kind::kMessage) return false;
    const std::string wire = next.message.SerializeAsString();
    const auto* data = reinterpret_cast<const std::uint8_t*>(wire.data());
    Result<v1::ServerMessage> parsed = ParseServerMessage({data, wire.size()});
    REQUIRE(parsed.has_value());
    Result<ClientEvent> event = client_.Receive(std::move(*parsed));
    if (!event) {
      failure_ = event.error();
      return true;
    }
    if (const auto* chunk = std::get_if<ChunkReceived>(&*event)) chunks_.push_back(*chunk);
    if (const auto* done = std::get_if<ViewCompleted>(&*event)) completed_.push_back(*done);
    if (const auto* opened = std::get_if<AssetOpened>(&*event)) opened_.push_back(*opened);
    if (const auto* failed = std::get_if<AssetFailed>(&*event)) failed_.push_back(*failed);
    if (const auto* refused = std::get_if<ViewRefused>(&*event)) refused_.push_back(*refused);
    if (const auto* basis = std::get_if<BasisReceived>(&*event)) bases_.push_back(basis->hash);
    if (std::holds_alternative<GoingAway>(*event)) is_going_away_ = true;
    if (std::holds_alternative<AssetClosed>(*event)) ++closed_;
    if (acknowledges_) client_.Acknowledge(client_.received_payload_bytes());
    return true;
  }

  void Run() {
    Upload();
    while (Download()) Upload();
  }

  ClientSession client_;
  ServerSession server_;
  std::map<std::string, std::shared_ptr<const Asset>> assets_;
  Clock::time_point now_{};
  Clock::time_point wait_until_{};
  ServerSession::Next::Kind last_kind_ = ServerSession::Next::Kind::kIdle;
  bool acknowledges_ = true;
  std::optional<Error> failure_;
  std::vector<ChunkReceived> chunks_;
  std::vector<ViewCompleted> completed_;
  std::vector<AssetOpened> opened_;
  std::vector<AssetFailed> failed_;
  std::vector<ViewRefused> refused_;
  std::vector<basis::Hash> bases_;
  int closed_ = 0;
  bool is_going_away_ = false;
};

std::uint64_t PayloadOf(const std::vector<ChunkReceived>& chunks) {
  std::uint64_t bytes = 0;
  for (const ChunkReceived& chunk : chunks) bytes += chunk.bytes.size();
  return bytes;
}

TEST_CASE("an asset opened with a view arrives whole, each tile's layers in order, and nothing twice") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  const std::uint32_t handle = loop.client_.Open("noise", nullptr, View{}).value();
  loop.Run();
  REQUIRE_FALSE(loop.failure_.has_value());
  REQUIRE(loop.opened_.size() == 1);
  CHECK(loop.opened_[0].content_hash == asset->reader().content_hash());
  CHECK(loop.opened_[0].chunk_bytes == asset->chunk_bytes());
  CHECK(loop.opened_[0].header.layout == asset->reader().header().layout);
  CHECK(loop.chunks_.size() == asset->reader().chunks().size());
  CHECK(PayloadOf(loop.chunks_) == asset->chunk_bytes());
  CHECK(loop.client_.duplicate_bytes() == 0);
  std::map<std::pair<int, std::uint32_t>, int> next_layer;
  for (const ChunkReceived& chunk : loop.chunks_) {
    CHECK(chunk.handle == handle);
    CHECK(next_layer[{chunk.id.level, chunk.id.tile}]++ == chunk.id.layer);
    const container::ChunkInfo* info = asset->reader().FindChunk(chunk.id);
    REQUIRE(info != nullptr);
    CHECK(chunk.bytes == asset->reader().ReadChunk(*info).value());
  }
  REQUIRE(loop.completed_.size() == 1);
  CHECK(loop.completed_[0].reason == Reason::EVERYTHING_SENT);
  CHECK(loop.completed_[0].bytes_sent == asset->chunk_bytes());
  // Only the encoder's own loss remains: final_mse is 2.
  CHECK(loop.completed_[0].remaining_squared_error == doctest::Approx(2.0 * 1100 * 700));
  CHECK(loop.completed_[0].psnr_db == doctest::Approx(10 * std::log10(255.0 * 255.0 / 2)));
}

TEST_CASE("opening without a view brings a preview of the whole picture and no more") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  REQUIRE(loop.client_.Open("noise").has_value());
  loop.Run();
  const auto top = static_cast<std::uint8_t>(asset->reader().header().levels.size() - 1);
  REQUIRE_FALSE(loop.chunks_.empty());
  CHECK(loop.chunks_.front().id.level == top);
  CHECK(PayloadOf(loop.chunks_) <= 3584);
  CHECK(loop.completed_.empty());
  CHECK(loop.last_kind_ == ServerSession::Next::Kind::kIdle);
}

TEST_CASE("chunks come by falling squared error per byte in view") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  REQUIRE(loop.client_.Open("noise", nullptr, View{}).has_value());
  loop.Run();
  double worst_rise = 1;
  double previous = 1e300;
  std::size_t refinement = 0;
  while (PayloadOf({loop.chunks_.begin(), loop.chunks_.begin() + static_cast<std::ptrdiff_t>(refinement)}) < 3584) {
    ++refinement;
  }
  for (std::size_t i = refinement; i < loop.chunks_.size(); ++i) {
    const container::ChunkInfo* info = asset->reader().FindChunk(loop.chunks_[i].id);
    const double slope = info->distortion / info->size_bytes;
    worst_rise = std::max(worst_rise, slope / previous);
    previous = slope;
  }
  // A rise is possible only inside a tile whose next layer is better than the one before it.
  CHECK(worst_rise < 3.0);
}

TEST_CASE("a small region at its own scale costs only the tiles that touch it") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  View view;
  view.region = {300, 300, 100, 100};
  REQUIRE(loop.client_.Open("noise", nullptr, view).has_value());
  loop.Run();
  REQUIRE(loop.completed_.size() == 1);
  const container::AssetHeader& header = asset->reader().header();
  std::size_t level0_tiles = 0;
  for (std::uint32_t tile = 0; tile < header.levels[0].tile_count(); ++tile) {
    const bool touches = !pixels::Intersect(header.TileRect(0, tile), view.region).empty();
    const bool held = loop.client_.Held(1)->Layers(0, tile) == header.layer_count;
    if (touches) CHECK(held);
    if (held) ++level0_tiles;
  }
  CHECK(level0_tiles <= 4);
}

TEST_CASE("a view at an eighth of the size gets nothing of the level that it cannot show") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  View view;
  view.scale = 1.0f / 8;
  REQUIRE(loop.client_.Open("noise", nullptr, view).has_value());
  loop.Run();
  REQUIRE(loop.completed_.size() == 1);
  std::size_t fine = 0;
  // What came with the preview is seen at half the size at most.
  for (const ChunkReceived& chunk : loop.chunks_) fine += chunk.id.level == 0 ? 1 : 0;
  std::size_t coarse = loop.chunks_.size() - fine;
  std::size_t expected_coarse = 0;
  for (const container::ChunkInfo& info : asset->reader().chunks()) expected_coarse += info.id.level > 0 ? 1 : 0;
  CHECK(coarse == expected_coarse);
  CHECK(fine < 12);
}

TEST_CASE("panning and zooming never brings a byte twice, and the whole is complete in the end") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  const std::uint32_t handle = loop.client_.Open("noise").value();
  loop.Run();
  const pixels::Rect regions[] = {{0, 0, 200, 200}, {100, 50, 400, 300}, {700, 500, 400, 200}, {}};
  for (const pixels::Rect& region : regions) {
    View view;
    view.region = region;
    REQUIRE(loop.client_.SetView(handle, view).has_value());
    loop.Run();
  }
  CHECK(loop.completed_.size() == 4);
  CHECK(loop.client_.duplicate_bytes() == 0);
  CHECK(PayloadOf(loop.chunks_) == asset->chunk_bytes());
}

TEST_CASE("the newest view wins: a replaced one costs nothing more once the server has heard of it") {
  ClientOptions options = WithBasis();
  options.window_bytes = 8000;
  Loop loop(options);
  loop.Serve("noise", SampleAsset({}));
  View left;
  left.region = {0, 0, 200, 700};
  const std::uint32_t handle = loop.client_.Open("noise", nullptr, left).value();
  loop.Upload();
  for (int i = 0; i < 20; ++i) {
    REQUIRE(loop.Download());
    loop.Upload();
  }
  View right;
  right.region = {900, 0, 200, 700};
  REQUIRE(loop.client_.SetView(handle, left).has_value());
  const std::uint32_t newest = loop.client_.SetView(handle, right).value();
  const std::size_t before = loop.chunks_.size();
  loop.Run();
  for (std::size_t i = before; i < loop.chunks_.size(); ++i) CHECK(loop.chunks_[i].view_id == newest);
  REQUIRE(loop.completed_.size() == 1);
  CHECK(loop.completed_[0].view_id == newest);
}

TEST_CASE("a client that does not acknowledge gets a window and one part, and the rest once it does") {
  ClientOptions options = WithBasis();
  options.window_bytes = 10000;
  Loop loop(options);
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  loop.acknowledges_ = false;
  REQUIRE(loop.client_.Open("noise", nullptr, View{}).has_value());
  loop.Run();
  CHECK(loop.client_.received_payload_bytes() >= 10000);
  CHECK(loop.client_.received_payload_bytes() < 10000 + 1000);
  CHECK(loop.server_.unacknowledged_bytes() == loop.client_.received_payload_bytes());
  CHECK(loop.last_kind_ == ServerSession::Next::Kind::kIdle);
  loop.acknowledges_ = true;
  loop.client_.Acknowledge(loop.client_.received_payload_bytes());
  loop.Run();
  CHECK(loop.client_.received_payload_bytes() == asset->chunk_bytes());
}

TEST_CASE("a byte budget is kept to the byte, and said to be spent") {
  Loop loop;
  loop.Serve("noise", SampleAsset({}));
  View view;
  view.byte_budget = 20000;
  REQUIRE(loop.client_.Open("noise", nullptr, view).has_value());
  loop.Run();
  REQUIRE(loop.completed_.size() == 1);
  CHECK(loop.completed_[0].reason == Reason::BUDGET_SPENT);
  CHECK(loop.completed_[0].bytes_sent <= 20000);
  CHECK(loop.completed_[0].bytes_sent > 20000 - 700);
  CHECK(loop.completed_[0].bytes_sent == PayloadOf(loop.chunks_));
}

TEST_CASE("a basis that has to be sent counts against the byte budget") {
  Loop loop(ClientOptions{});
  loop.Serve("noise", SampleAsset({}));
  View view;
  view.byte_budget = SampleBasis().size() + 20000;
  REQUIRE(loop.client_.Open("noise", nullptr, view).has_value());
  loop.Run();
  REQUIRE(loop.completed_.size() == 1);
  CHECK(loop.bases_.size() == 1);
  CHECK(loop.client_.received_payload_bytes() <= view.byte_budget);
  CHECK(PayloadOf(loop.chunks_) > 20000 - 700);
  CHECK(loop.completed_[0].bytes_sent == loop.client_.received_payload_bytes());
}

TEST_CASE("a quality target ends the view early and is reached") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  View view;
  view.target_psnr_db = 30;
  REQUIRE(loop.client_.Open("noise", nullptr, view).has_value());
  loop.Run();
  REQUIRE(loop.completed_.size() == 1);
  CHECK(loop.completed_[0].reason == Reason::TARGET_REACHED);
  CHECK(loop.completed_[0].psnr_db >= 30);
  CHECK(loop.completed_[0].psnr_db < 31);
  CHECK(PayloadOf(loop.chunks_) < asset->chunk_bytes());
}

TEST_CASE("chunks larger than a part come in parts, survive a change of view, and are put together") {
  SampleOptions sample;
  sample.width = sample.height = 300;
  sample.layers = 2;
  sample.chunk_bytes = 200000;
  const auto asset = SampleAsset(sample);
  Loop loop;
  loop.Serve("big", asset);
  const std::uint32_t handle = loop.client_.Open("big", nullptr, View{}).value();
  loop.Upload();
  for (int i = 0; i < 9; ++i) {
    REQUIRE(loop.Download());
    View view;
    view.region = {static_cast<std::uint32_t>(i % 2) * 200, 0, 100, 300};
    REQUIRE(loop.client_.SetView(handle, view).has_value());
    loop.Upload();
  }
  REQUIRE(loop.client_.SetView(handle, View{}).has_value());
  loop.Run();
  REQUIRE_FALSE(loop.failure_.has_value());
  CHECK(loop.chunks_.size() == asset->reader().chunks().size());
  for (const ChunkReceived& chunk : loop.chunks_) {
    CHECK(chunk.bytes == asset->reader().ReadChunk(*asset->reader().FindChunk(chunk.id)).value());
  }
  CHECK(loop.client_.received_payload_bytes() == asset->chunk_bytes());
}

TEST_CASE("previews of all open assets come before refinements of any") {
  Loop loop;
  for (int i = 0; i < 3; ++i) {
    SampleOptions sample;
    sample.seed = static_cast<std::uint32_t>(i + 1);
    const std::string name = "noise" + std::to_string(i);
    loop.Serve(name, SampleAsset(sample));
    REQUIRE(loop.client_.Open(name, nullptr, View{}).has_value());
  }
  loop.Run();
  std::map<std::uint32_t, std::uint64_t> bytes;
  std::uint64_t total = 0;
  for (const ChunkReceived& chunk : loop.chunks_) {
    bytes[chunk.handle] += chunk.bytes.size();
    total += chunk.bytes.size();
    if (total > 3 * 3584) break;
  }
  REQUIRE(bytes.size() == 3);
  for (const auto& [handle, count] : bytes) CHECK(count > 2500);
  CHECK(loop.completed_.size() == 3);
}

TEST_CASE("a view of higher priority is finished before others begin") {
  Loop loop;
  loop.Serve("a", SampleAsset({}));
  loop.Serve("b", SampleAsset({}));
  View urgent;
  urgent.priority = 5;
  REQUIRE(loop.client_.Open("a", nullptr, View{}).has_value());
  const std::uint32_t second = loop.client_.Open("b", nullptr, urgent).value();
  loop.Run();
  REQUIRE(loop.completed_.size() == 2);
  CHECK(loop.completed_[0].handle == second);
}

TEST_CASE("a client without the basis gets it once, before the first chunk, whatever it opens") {
  Loop loop(ClientOptions{});
  loop.Serve("a", SampleAsset({}));
  loop.Serve("b", SampleAsset({}));
  REQUIRE(loop.client_.Open("a", nullptr, View{}).has_value());
  REQUIRE(loop.client_.Open("b", nullptr, View{}).has_value());
  loop.Run();
  REQUIRE_FALSE(loop.failure_.has_value());
  REQUIRE(loop.bases_.size() == 1);
  CHECK(loop.bases_[0] == basis::HashOf(SampleBasis()));
  CHECK(loop.completed_.size() == 2);
  CHECK(loop.client_.duplicate_bytes() == 0);
}

TEST_CASE("after a lost connection another server sends the missing chunks only") {
  const auto asset = SampleAsset({});
  Loop first;
  first.Serve("noise", asset);
  REQUIRE(first.client_.Open("noise", nullptr, View{}).has_value());
  first.Upload();
  for (int i = 0; i < 40; ++i) {
    REQUIRE(first.Download());
    first.Upload();
  }
  const std::vector<std::uint8_t> saved = first.client_.Resume().Serialize();
  CHECK(saved.size() < 300);

  const ResumeState state = ResumeState::Parse(saved).value();
  REQUIRE(state.assets.size() == 1);
  ClientOptions options;
  options.bases = state.bases;
  Loop second(options);
  second.Serve("noise", asset);
  REQUIRE(second.client_.Open(state.assets[0].name, state.assets.data(), View{}).has_value());
  second.Run();
  REQUIRE(second.opened_.size() == 1);
  CHECK(second.opened_[0].resumed);
  CHECK(second.bases_.empty());
  CHECK(second.client_.duplicate_bytes() == 0);
  CHECK(first.chunks_.size() + second.chunks_.size() == asset->reader().chunks().size());
}

TEST_CASE("held chunks of another content are refused, and the asset begins anew") {
  Loop loop;
  SampleOptions other;
  other.seed = 7;
  const auto asset = SampleAsset(other);
  loop.Serve("noise", asset);
  ResumeState::Asset held;
  held.name = "noise";
  held.content_hash = SampleAsset({})->reader().content_hash();
  v1::HeldLevel& level = held.held.emplace_back();
  level.add_runs(3);
  level.add_runs(2);
  REQUIRE(loop.client_.Open("noise", &held, View{}).has_value());
  loop.Run();
  REQUIRE(loop.opened_.size() == 1);
  CHECK_FALSE(loop.opened_[0].resumed);
  CHECK(PayloadOf(loop.chunks_) == asset->chunk_bytes());
}

TEST_CASE("held chunks that the asset cannot have are refused") {
  const auto levels = container::DeriveLevels(1100, 700);
  struct Row {
    const char* name;
    std::uint32_t level;
    std::vector<std::uint32_t> runs;
    int times = 1;
  };
  const Row rows[] = {
      {"level outside", 99, {1, 1}},
      {"odd", 0, {1}},
      {"no tiles", 0, {0, 1}},
      {"too many tiles", 0, {100000, 1}},
      {"too many layers", 0, {1, 65}},
      {"twice", 0, {1, 1}, 2},
      {"sum of tiles too large", 0, {4000000000u, 1, 4000000000u, 1}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    google::protobuf::RepeatedPtrField<v1::HeldLevel> held;
    for (int i = 0; i < row.times; ++i) {
      v1::HeldLevel* level = held.Add();
      level->set_level(row.level);
      for (const std::uint32_t run : row.runs) level->add_runs(run);
    }
    const Result<HeldChunks> parsed = HeldChunks::Parse(held, levels);
    CHECK_FALSE(parsed.has_value());
    if (!parsed) CHECK(parsed.error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("every truncated or lengthened resume state is refused") {
  ResumeState state;
  state.bases.emplace_back();
  ResumeState::Asset& asset = state.assets.emplace_back();
  asset.name = "a/b";
  v1::HeldLevel& level = asset.held.emplace_back();
  level.set_level(2);
  level.add_runs(300);
  level.add_runs(4);
  std::vector<std::uint8_t> bytes = state.Serialize();
  CHECK(ResumeState::Parse(bytes).has_value());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CAPTURE(size);
    const std::vector<std::uint8_t> prefix(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_FALSE(ResumeState::Parse(prefix).has_value());
  }
  bytes.push_back(0);
  CHECK_FALSE(ResumeState::Parse(bytes).has_value());
  bytes.pop_back();
  bytes[4] = 2;
  CHECK_FALSE(ResumeState::Parse(bytes).has_value());
}

TEST_CASE("an unknown asset is named in the answer and leaves the session alive") {
  Loop loop;
  loop.Serve("noise", SampleAsset({}));
  REQUIRE(loop.client_.Open("nowhere", nullptr, View{}).has_value());
  REQUIRE(loop.client_.Open("noise", nullptr, View{}).has_value());
  loop.Run();
  REQUIRE(loop.failed_.size() == 1);
  CHECK(loop.failed_[0].error.code == Code::kNotFound);
  CHECK(loop.failed_[0].error.message.find("nowhere") != std::string::npos);
  CHECK(loop.completed_.size() == 1);
}

TEST_CASE("a view outside the picture is refused and the one before goes on") {
  Loop loop;
  loop.Serve("noise", SampleAsset({}));
  View outside;
  outside.region = {1000, 0, 101, 10};
  REQUIRE(loop.client_.Open("noise", nullptr, outside).has_value());
  loop.Run();
  REQUIRE(loop.refused_.size() == 1);
  CHECK(loop.refused_[0].error.code == Code::kOutOfRange);
  CHECK(loop.completed_.empty());
  // Once the size is known the client notices by itself.
  const Result<std::uint32_t> refused = loop.client_.SetView(1, outside);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == Code::kOutOfRange);
}

TEST_CASE("opening, closing and opening again works, and the session ends with goodbye") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  const std::uint32_t first = loop.client_.Open("noise", nullptr, View{}).value();
  loop.Upload();
  for (int i = 0; i < 10; ++i) loop.Download();
  loop.client_.Close(first);
  CHECK_FALSE(loop.client_.SetView(first, View{}).has_value());
  loop.Run();
  CHECK(loop.closed_ == 1);
  CHECK(loop.server_.open_assets() == 0);
  REQUIRE(loop.client_.Open("noise", nullptr, View{}).has_value());
  loop.Run();
  CHECK(loop.completed_.size() == 1);
  loop.client_.Goodbye();
  loop.Run();
  CHECK(loop.last_kind_ == ServerSession::Next::Kind::kFinished);
  CHECK_FALSE(loop.server_.failure().has_value());
}

TEST_CASE("going away completes views under way, opens nothing more, and finishes") {
  Loop loop;
  const auto asset = SampleAsset({});
  loop.Serve("noise", asset);
  REQUIRE(loop.client_.Open("noise", nullptr, View{}).has_value());
  loop.Upload();
  for (int i = 0; i < 10; ++i) {
    loop.Download();
    loop.Upload();
  }
  loop.server_.GoAway("restart");
  REQUIRE(loop.client_.Open("noise", nullptr, View{}).has_value());
  loop.Run();
  CHECK(loop.is_going_away_);
  CHECK(PayloadOf(loop.chunks_) == asset->chunk_bytes());
  REQUIRE(loop.failed_.size() == 1);
  CHECK(loop.failed_[0].error.code == Code::kUnavailable);
  CHECK(loop.last_kind_ == ServerSession::Next::Kind::kFinished);
  CHECK_FALSE(loop.server_.failure().has_value());
}

TEST_CASE("a rate limit is kept, and the session says until when to wait") {
  ClientOptions options = WithBasis();
  options.bytes_per_second = 20000;
  Loop loop(options);
  loop.Serve("noise", SampleAsset({}));
  REQUIRE(loop.client_.Open("noise", nullptr, View{}).has_value());
  const Clock::time_point start = loop.now_;
  for (int i = 0; i < 200 && loop.client_.received_payload_bytes() < 25000; ++i) {
    loop.Run();
    if (loop.last_kind_ == ServerSession::Next::Kind::kWait) {
      REQUIRE(loop.wait_until_ > loop.now_);
      loop.now_ = loop.wait_until_;
    }
  }
  const double seconds = std::chrono::duration<double>(loop.now_ - start).count();
  const auto bytes = static_cast<double>(loop.client_.received_payload_bytes());
  CHECK(bytes >= 25000);
  // A burst of a quarter of a second comes first.
  CHECK(seconds == doctest::Approx((bytes - 5000) / 20000).epsilon(0.1));
}

TEST_CASE("what breaks a rule is answered with an error, and the session ends") {
  const auto hello = [] {
    v1::ClientMessage message;
    message.mutable_hello()->set_protocol_version(kProtocolVersion);
    return message;
  };
  struct Row {
    const char* name;
    Code code;
    std::vector<v1::ClientMessage> messages;
  };
  std::vector<Row> rows;
  const auto add = [&](const char* name, Code code, bool greets) -> v1::ClientMessage& {
    rows.push_back({name, code, {}});
    if (greets) rows.back().messages.push_back(hello());
    return rows.back().messages.emplace_back();
  };
  add("wrong version", Code::kUnimplemented, false).mutable_hello()->set_protocol_version(9);
  add("no hello", Code::kFailedPrecondition, false).mutable_close()->set_handle(1);
  add("hello twice", Code::kFailedPrecondition, true).mutable_hello()->set_protocol_version(1);
  add("empty message", Code::kInvalidArgument, true);
  add("basis hash of 3 bytes", Code::kInvalidArgument, false).mutable_hello()->add_basis_hashes("abc");
  rows.back().messages[0].mutable_hello()->set_protocol_version(1);
  add("handle 0", Code::kInvalidArgument, true).mutable_open()->set_name("noise");
  add("no name", Code::kInvalidArgument, true).mutable_open()->set_handle(1);
  add("long name", Code::kInvalidArgument, true).mutable_open()->set_name(std::string(kMaxNameBytes + 1, 'x'));
  rows.back().messages[1].mutable_open()->set_handle(1);
  add("handle twice", Code::kAlreadyExists, true).mutable_open()->set_name("noise");
  rows.back().messages[1].mutable_open()->set_handle(4);
  rows.back().messages.push_back(rows.back().messages[1]);
  add("held without hash", Code::kInvalidArgument, true).mutable_open()->set_name("noise");
  rows.back().messages[1].mutable_open()->set_handle(1);
  rows.back().messages[1].mutable_open()->add_held();
  add("view of a handle never opened", Code::kNotFound, true).mutable_set_view()->set_handle(3);
  add("close of a handle never opened", Code::kNotFound, true).mutable_close()->set_handle(3);
  add("ack of bytes never sent", Code::kInvalidArgument, true).mutable_ack()->set_bytes(1);
  add("view id 0", Code::kInvalidArgument, true).mutable_open()->set_name("noise");
  rows.back().messages[1].mutable_open()->set_handle(1);
  rows.back().messages[1].mutable_open()->mutable_view()->set_scale(1);
  add("scale that is no number", Code::kInvalidArgument, true).mutable_open()->set_name("noise");
  rows.back().messages[1].mutable_open()->set_handle(1);
  rows.back().messages[1].mutable_open()->mutable_view()->set_view_id(1);
  rows.back().messages[1].mutable_open()->mutable_view()->set_scale(std::nanf(""));
  for (const Row& row : rows) {
    CAPTURE(row.name);
    ServerSession session{ServerOptions{}};
    for (const v1::ClientMessage& message : row.messages) session.Receive(message, {});
    REQUIRE(session.failure().has_value());
    CHECK(session.failure()->code == row.code);
    const ServerSession::Next last = session.NextMessage({});
    REQUIRE(last.kind == ServerSession::Next::Kind::kMessage);
    CHECK(last.message.error().code() == static_cast<std::uint32_t>(row.code));
    CHECK(last.message.error().handle() == 0);
    CHECK(session.NextMessage({}).kind == ServerSession::Next::Kind::kFinished);
    // Whatever comes afterwards changes nothing.
    session.Receive(hello(), {});
    CHECK(session.NextMessage({}).kind == ServerSession::Next::Kind::kFinished);
  }
}

TEST_CASE("a flood of messages ends the session") {
  ServerSession session{ServerOptions{}};
  v1::ClientMessage message;
  message.mutable_hello()->set_protocol_version(kProtocolVersion);
  session.Receive(message, {});
  message.mutable_open()->set_handle(1);
  message.mutable_open()->set_name("noise");
  session.Receive(message, {});
  for (std::uint32_t i = 1; i < 5000 && !session.failure(); ++i) {
    message.mutable_set_view()->set_handle(1);
    message.mutable_set_view()->mutable_view()->set_view_id(i);
    session.Receive(message, {});
  }
  REQUIRE(session.failure().has_value());
  CHECK(session.failure()->code == Code::kResourceExhausted);
}

TEST_CASE("more assets than allowed are refused one by one") {
  ServerOptions server;
  server.max_open_assets = 2;
  Loop loop(WithBasis(), server);
  loop.Serve("noise", SampleAsset({}));
  for (int i = 0; i < 3; ++i) REQUIRE(loop.client_.Open("noise").has_value());
  loop.Run();
  CHECK(loop.opened_.size() == 2);
  REQUIRE(loop.failed_.size() == 1);
  CHECK(loop.failed_[0].error.code == Code::kResourceExhausted);
  // The client has learnt the limit.
  CHECK(loop.client_.Open("noise").error().code == Code::kResourceExhausted);
}

TEST_CASE("an asset that the client has no memory for is refused") {
  ClientOptions options = WithBasis();
  options.memory_bytes = 10000;
  Loop loop(options);
  SampleOptions sample;
  sample.icc_profile.assign(20000, 7);
  loop.Serve("noise", SampleAsset(sample));
  REQUIRE(loop.client_.Open("noise").has_value());
  loop.Run();
  REQUIRE(loop.failed_.size() == 1);
  CHECK(loop.failed_[0].error.code == Code::kResourceExhausted);
}

TEST_CASE("credentials that are not accepted end the session") {
  ServerOptions server;
  server.authorize = [](std::string_view token) -> Result<void> {
    if (token == "open sesame") return {};
    return Fail(Code::kUnauthenticated, "hello: expected a token that this server knows");
  };
  Loop loop(WithBasis(), server);
  loop.Run();
  REQUIRE(loop.failure_.has_value());
  CHECK(loop.failure_->code == Code::kUnauthenticated);
}

TEST_CASE("a client refuses server messages that break the rules") {
  const auto asset = SampleAsset({});
  const auto opened_client = [&asset] {
    auto loop = std::make_unique<Loop>();
    loop->Serve("noise", asset);
    REQUIRE(loop->client_.Open("noise").has_value());
    loop->Run();
    return loop;
  };
  std::vector<std::pair<const char*, v1::ServerMessage>> rows;
  const auto add = [&rows](const char* name) -> v1::ServerMessage& {
    return rows.emplace_back(name, v1::ServerMessage{}).second;
  };
  add("nothing");
  add("welcome twice").mutable_welcome()->set_protocol_version(1);
  add("opened twice").mutable_opened()->set_handle(1);
  add("chunk of a handle not open").mutable_chunk()->set_handle(7);
  add("empty chunk").mutable_chunk()->set_handle(1);
  const auto chunk = [&add](const char* name) -> v1::Chunk& {
    v1::Chunk& body = *add(name).mutable_chunk();
    body.set_handle(1);
    body.set_data("abc");
    return body;
  };
  chunk("chunk of level 77").set_level(77);
  chunk("chunk of a tile outside").set_tile(4000000000u);
  chunk("chunk of layer 9").set_layer(9);
  chunk("whole chunk with an offset").set_offset(5);
  rows.back().second.mutable_chunk()->set_layer(3);
  chunk("part that does not follow").set_total_bytes(100000);
  rows.back().second.mutable_chunk()->set_offset(3);
  rows.back().second.mutable_chunk()->set_layer(3);
  chunk("part of a chunk too large").set_total_bytes(4000000000u);
  rows.back().second.mutable_chunk()->set_layer(3);
  chunk("chunk above 64 KiB").set_data(std::string(kMaxPartBytes + 1, 'x'));
  add("basis with a short hash").mutable_basis()->set_hash("abc");
  add("basis larger than any").mutable_basis()->set_hash(std::string(16, 'x'));
  rows.back().second.mutable_basis()->set_total_bytes(4000000000u);
  rows.back().second.mutable_basis()->set_data("abc");
  add("basis of another hash").mutable_basis()->set_hash(std::string(16, 'x'));
  rows.back().second.mutable_basis()->set_total_bytes(3);
  rows.back().second.mutable_basis()->set_data("abc");
  add("completion of a view never set").mutable_view_complete()->set_handle(1);
  rows.back().second.mutable_view_complete()->set_view_id(9);
  add("closed without close").mutable_closed()->set_handle(1);
  add("the server's own end").mutable_error()->set_code(13);
  for (const auto& row : rows) {
    CAPTURE(row.first);
    const std::unique_ptr<Loop> loop = opened_client();
    const Result<ClientEvent> event = loop->client_.Receive(row.second);
    CHECK_FALSE(event.has_value());
  }
}

TEST_CASE("bytes that are no message, or too many, are refused") {
  const std::vector<std::uint8_t> noise = {0xFF, 0x01, 0x02};
  CHECK(ParseClientMessage(noise).error().code == Code::kInvalidArgument);
  CHECK(ParseServerMessage(noise).error().code == Code::kInvalidArgument);
  const std::vector<std::uint8_t> huge(kMaxClientMessageBytes + 1, 0);
  CHECK(ParseClientMessage(huge).error().code == Code::kInvalidArgument);
}

}  // namespace
}  // namespace holo::protocol
