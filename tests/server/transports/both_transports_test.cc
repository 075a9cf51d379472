// One table of behaviours over both transports.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "client/core/client.h"
#include "common/codec/codec.h"
#include "common/render/render.h"
#include "tests/common/protocol/sample_asset.h"
#include "tests/server/running_server.h"

namespace holo {
namespace {

using testing::AckMessage;
using testing::HelloMessage;
using testing::kPatience;
using testing::kTransports;
using testing::OpenMessage;
using testing::RawClient;
using testing::RunningServer;
using testing::Transport;
using testing::ViewMessage;
using ServerKind = v1::ServerMessage::KindCase;

pixels::Picture Scene(std::uint32_t width, std::uint32_t height) {
  auto picture =
      pixels::Picture::Create({width, height, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false}).value();
  std::mt19937 random(1);
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      for (std::uint32_t c = 0; c < 3; ++c) {
        const double wave = 128 + 70 * std::sin(x * 0.07 + c) * std::cos(y * 0.05 + x * 0.01);
        picture.Set(x, y, c, static_cast<std::uint16_t>(wave + random() % 30));
      }
    }
  }
  return picture;
}

const std::vector<std::uint8_t>& SceneFile() {
  static const std::vector<std::uint8_t> file = [] {
    codec::EncodeOptions options;
    options.quality = 90;
    options.basis_choice = codec::BasisChoice::kOwn;  // so that a basis is sent, too
    return codec::Encode(Scene(701, 533), options).value().file;
  }();
  return file;
}

// Noise in chunks of about 20 kB: 1 MB and more of it.
std::vector<std::uint8_t> LargeFile() {
  testing::SampleOptions options;
  options.chunk_bytes = 20'000;
  return testing::SampleFile(options);
}

struct Local {
  container::AssetReader reader;
  codec::Decoder decoder;

  static Local Of(const std::vector<std::uint8_t>& file) {
    auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(file)).value();
    auto decoder = codec::Decoder::Create(reader.header(), [&](const basis::Hash& hash) {
                     const std::vector<std::uint8_t>* bytes = reader.EmbeddedBasis(hash);
                     return bytes != nullptr ? basis::Basis::Parse(*bytes).value() : basis::FindBuiltIn(hash);
                   }).value();
    for (const container::ChunkInfo& chunk : reader.chunks()) {
      REQUIRE(decoder.AddChunk(chunk.id, reader.ReadChunk(chunk).value()).has_value());
    }
    return {std::move(reader), std::move(decoder)};
  }
  [[nodiscard]] std::uint64_t chunk_bytes() const {
    std::uint64_t bytes = 0;
    for (const container::ChunkInfo& chunk : reader.chunks()) bytes += chunk.size_bytes;
    return bytes;
  }
};

bool LooksTheSame(const codec::Decoder& a, const codec::Decoder& b, const render::View& view) {
  const auto x = render::Render(a, view);
  const auto y = render::Render(b, view);
  return x && y && std::ranges::equal(x->bytes(), y->bytes());
}

// Waits until the newest view is complete, acknowledging; at most `changes` changes.
Result<bool> Complete(client::RemotePicture& picture, int changes = 1'000'000) {
  for (int i = 0; i < changes; ++i) {
    HOLO_ASSIGN_OR_RETURN(const auto change, picture.Wait(client::Clock::now() + kPatience));
    picture.Acknowledge();
    if (change.view_complete) return true;
    if (change.payload_bytes == 0 && change.region.empty()) return Fail(Code::kDeadlineExceeded, "no change");
  }
  return false;
}

RawClient Connected(const RunningServer& server, Transport transport) {
  auto client = RawClient::Connect(server, transport);
  REQUIRE_MESSAGE(client.has_value(), client.error().message);
  return std::move(*client);
}

TEST_CASE("what is fetched is the local picture byte for byte, and nothing comes twice") {
  RunningServer server;
  REQUIRE(server.folder.Write("dir/scene.holo", SceneFile()));
  server.Start();
  const Local local = Local::Of(SceneFile());
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    client::BasisCache cache({});
    auto opened = client::RemotePicture::Open(server.UrlOf(transport), "dir/scene", protocol::View{}, cache, {});
    REQUIRE_MESSAGE(opened.has_value(), opened.error().message);
    client::RemotePicture& picture = **opened;
    CHECK(picture.file_bytes() == SceneFile().size());
    CHECK(Complete(picture).value());
    CHECK(LooksTheSame(picture.decoder(), local.decoder, {}));
    CHECK(picture.statistics().duplicate_bytes == 0);
    CHECK(picture.statistics().chunks == local.reader.chunks().size());
    CHECK(picture.statistics().bases > 0);

    // A second time, with the bases at hand.
    auto again = client::RemotePicture::Open(server.UrlOf(transport), "dir/scene", protocol::View{}, cache, {});
    REQUIRE(again.has_value());
    CHECK(Complete(**again).value());
    CHECK((*again)->statistics().bases == 0);
    CHECK((*again)->statistics().payload_bytes == local.chunk_bytes());
  }
}

TEST_CASE("panning, zooming and lost connections send no byte twice") {
  RunningServer server;
  REQUIRE(server.folder.Write("scene.holo", SceneFile()));
  server.Start();
  const Local local = Local::Of(SceneFile());
  struct Row {
    pixels::Rect region;
    float scale;
    std::uint32_t scale_log2;
    int dropped_after;  // changes; -1: not
  };
  const Row rows[] = {
      {{0, 0, 0, 0}, 0.125f, 3, -1}, {{400, 300, 200, 150}, 1, 0, 2}, {{300, 200, 400, 333}, 0.5f, 1, 0},
      {{0, 0, 64, 64}, 1, 0, -1},    {{10, 500, 691, 33}, 1, 0, 1},   {{0, 0, 0, 0}, 0.25f, 2, 3},
      {{699, 531, 2, 2}, 1, 0, -1},  {{0, 0, 0, 0}, 1, 0, 5},
  };
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    client::BasisCache cache({});
    auto opened = client::RemotePicture::Open(server.UrlOf(transport), "scene", std::nullopt, cache, {});
    REQUIRE_MESSAGE(opened.has_value(), opened.error().message);
    client::RemotePicture& picture = **opened;
    for (const Row& row : rows) {
      CAPTURE(row.region.x);
      CAPTURE(row.region.width);
      protocol::View view;
      view.region = row.region;
      view.scale = row.scale;
      REQUIRE(picture.SetView(view).has_value());
      bool is_complete = false;
      if (row.dropped_after >= 0) {
        is_complete = Complete(picture, row.dropped_after).value();
        picture.DropConnectionForTest();
      }
      if (!is_complete) CHECK(Complete(picture).value());
      CHECK(LooksTheSame(picture.decoder(), local.decoder, {row.region, row.scale_log2, 0}));
      CHECK(picture.statistics().duplicate_bytes == 0);
    }
    CHECK(picture.statistics().reconnects > 0);
    CHECK(picture.statistics().chunks == local.reader.chunks().size());
    std::uint64_t basis_bytes = 0;
    for (const basis::Hash& hash : local.reader.header().bases) basis_bytes += cache.Find(hash)->bytes().size();
    CHECK(picture.statistics().payload_bytes <= local.chunk_bytes() + basis_bytes);
  }
}

TEST_CASE("a complete picture needs no server until the view moves") {
  for (const Transport transport : kTransports) {
    client::BasisCache cache({});
    client::Options options;
    options.reconnect_attempts = 1;
    std::unique_ptr<client::RemotePicture> picture;
    {
      RunningServer server;
      REQUIRE(server.folder.Write("scene.holo", SceneFile()));
      server.Start();
      CAPTURE(server.UrlOf(transport));
      picture = client::RemotePicture::Open(server.UrlOf(transport), "scene", protocol::View{}, cache, options).value();
      CHECK(Complete(*picture).value());
    }
    // Waiting means waiting: whoever draws frames between calls must not spin.
    for (int i = 0; i < 2; ++i) {
      const auto deadline = client::Clock::now() + std::chrono::milliseconds(80);
      const auto change = picture->Wait(deadline);
      REQUIRE_MESSAGE(change.has_value(), change.error().message);
      CHECK(change->region.empty());
      CHECK(client::Clock::now() >= deadline);
    }
    protocol::View view;
    view.region = {1, 2, 3, 4};
    CHECK(picture->SetView(view).has_value());
    const auto change = picture->Wait(client::Clock::now() + kPatience);
    REQUIRE_FALSE(change.has_value());
    CHECK(change.error().code == Code::kUnavailable);
  }
}

TEST_CASE("new content under a name is told after a reconnect and replaces the old") {
  RunningServer server;
  REQUIRE(server.folder.Write("scene.holo", SceneFile()));
  server.Start();
  codec::EncodeOptions options;
  options.basis_choice = codec::BasisChoice::kUniversal;
  const std::vector<std::uint8_t> other = codec::Encode(Scene(300, 200), options).value().file;
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    REQUIRE(server.folder.Write("scene.holo", SceneFile()));
    client::BasisCache cache({});
    auto picture = client::RemotePicture::Open(server.UrlOf(transport), "scene", std::nullopt, cache, {}).value();
    REQUIRE(server.folder.Write("scene.holo", other));
    picture->DropConnectionForTest();
    REQUIRE(picture->SetView({}).has_value());
    bool replaced = false;
    for (bool complete = false; !complete;) {
      const auto change = picture->Wait(client::Clock::now() + kPatience);
      REQUIRE_MESSAGE(change.has_value(), change.error().message);
      replaced = replaced || change->content_replaced;
      complete = change->view_complete;
      picture->Acknowledge();
    }
    CHECK(replaced);
    CHECK(picture->header().layout.width == 300);
    CHECK(LooksTheSame(picture->decoder(), Local::Of(other).decoder, {}));
  }
}

TEST_CASE("what breaks a rule is answered with its error, and others are served on") {
  RunningServer server;
  REQUIRE(server.folder.Write("a.holo", testing::SampleFile({})));
  server.Start();
  v1::ClientMessage huge_name = OpenMessage(1, std::string(2000, 'x'));
  v1::ClientMessage bad_scale = ViewMessage(1, 1);
  bad_scale.mutable_set_view()->mutable_view()->set_scale(-1);
  std::vector<v1::ClientMessage> rising = {HelloMessage(), OpenMessage(1, "a")};
  for (std::uint32_t i = 1; i < 3000; ++i) rising.push_back(ViewMessage(1, i));
  struct Row {
    const char* what;
    std::vector<v1::ClientMessage> messages;
    Code code;
    std::uint32_t handle;  // 0: the session ends
    std::string text;
  };
  const Row rows[] = {
      {"unknown asset", {HelloMessage(), OpenMessage(1, "no/such")}, Code::kNotFound, 1, "no/such"},
      {"a name that leads out", {HelloMessage(), OpenMessage(1, "../a")}, Code::kNotFound, 1, "../a"},
      {"a view outside",
       {HelloMessage(), OpenMessage(1, "a"), ViewMessage(1, 1, {1000, 600, 200, 100})},
       Code::kOutOfRange,
       1,
       "1100 x 700"},
      {"a view whose end overflows",
       {HelloMessage(), OpenMessage(1, "a"), ViewMessage(1, 1, {0xFFFFFFFF, 0, 0xFFFFFFFF, 1})},
       Code::kOutOfRange,
       1,
       "1100 x 700"},
      {"another version", {HelloMessage(0, "", 99)}, Code::kUnimplemented, 0, "version"},
      {"no hello", {OpenMessage(1, "a")}, Code::kFailedPrecondition, 0, "hello"},
      {"two hellos", {HelloMessage(), HelloMessage()}, Code::kFailedPrecondition, 0, "hello"},
      {"an empty message", {HelloMessage(), v1::ClientMessage()}, Code::kInvalidArgument, 0, "kinds"},
      {"more acknowledged than sent", {HelloMessage(), AckMessage(1u << 30)}, Code::kInvalidArgument, 0, "ack"},
      {"a handle never opened", {HelloMessage(), ViewMessage(7, 1)}, Code::kNotFound, 0, "7"},
      {"a long name", {HelloMessage(), huge_name}, Code::kInvalidArgument, 0, "name"},
      {"a negative scale", {HelloMessage(), OpenMessage(1, "a"), bad_scale}, Code::kInvalidArgument, 0, "scale"},
      {"a flood of views", rising, Code::kResourceExhausted, 0, "messages a second"},
  };
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    const RawClient bystander = Connected(server, transport);
    bystander.Send(HelloMessage());
    CHECK(bystander.Next().value().has_welcome());
    std::uint32_t handle = 0;
    for (const Row& row : rows) {
      CAPTURE(row.what);
      const RawClient client = Connected(server, transport);
      for (const v1::ClientMessage& message : row.messages) client.Send(message);
      const auto message = client.NextOf(ServerKind::kError);
      CHECK_MESSAGE(message.has_value(), message.error().message);
      if (message) {
        CHECK(message->error().code() == static_cast<std::uint32_t>(row.code));
        CHECK(message->error().handle() == row.handle);
        CHECK(message->error().message().find(row.text) != std::string::npos);
      }
      if (row.handle == 0) {
        CHECK(client.HasEnded());
      } else {
        client.Send(OpenMessage(2, "a"));
        CHECK(client.NextOf(ServerKind::kOpened).has_value());
      }
      bystander.Send(OpenMessage(++handle, "a"));
      CHECK(bystander.NextOf(ServerKind::kOpened).value().opened().handle() == handle);
      v1::ClientMessage close;
      close.mutable_close()->set_handle(handle);
      bystander.Send(close);
    }
  }
  CHECK(server.service->statistics().failed > 0);
  CHECK(server.WaitUntilNoStreams());
}

TEST_CASE("who acknowledges nothing gets a window and one part, and is dropped for stalling") {
  RunningServer server;
  REQUIRE(server.folder.Write("large.holo", LargeFile()));
  streaming::Options options;
  options.stall_timeout = std::chrono::milliseconds(300);
  server.Start(options);
  constexpr std::uint64_t kWindow = 200'000;
  std::uint64_t stalled = 0;
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    const RawClient client = Connected(server, transport);
    client.Send(HelloMessage(kWindow));
    client.Send(OpenMessage(1, "large", true));
    std::uint64_t payload_bytes = 0;
    const auto error = client.LastError(&payload_bytes);
    REQUIRE_MESSAGE(error.has_value(), error.error().message);
    CHECK(error->code() == static_cast<std::uint32_t>(Code::kDeadlineExceeded));
    CHECK(payload_bytes >= kWindow);
    CHECK(payload_bytes < kWindow + protocol::kMaxPartBytes);
    CHECK(client.HasEnded());
    CHECK(server.service->statistics().stalled == ++stalled);
    CHECK(server.WaitUntilNoStreams());
    CHECK(server.service->statistics().unacknowledged_bytes == 0);
  }
}

TEST_CASE("who reads nothing or says no hello is dropped, whatever it asked for") {
  RunningServer server;
  testing::SampleOptions sample;
  sample.width = 3000;
  sample.height = 2000;
  sample.chunk_bytes = 50'000;
  REQUIRE(server.folder.Write("large.holo", testing::SampleFile(sample)));
  streaming::Options options;
  options.stall_timeout = std::chrono::milliseconds(300);
  options.hello_timeout = std::chrono::milliseconds(300);
  server.Start(options);
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    const RawClient deaf = Connected(server, transport);
    deaf.Send(HelloMessage(1u << 30));  // the server allows less
    deaf.Send(OpenMessage(1, "large", true));
    {
      const RawClient silent = Connected(server, transport);
      const auto error = silent.LastError();
      REQUIRE_MESSAGE(error.has_value(), error.error().message);
      CHECK(error->message().find("hello") != std::string::npos);
    }
    CHECK(server.WaitUntilNoStreams());
    CHECK(server.service->statistics().unacknowledged_bytes == 0);
  }
}

TEST_CASE("a client that vanishes frees its stream") {
  RunningServer server;
  REQUIRE(server.folder.Write("large.holo", LargeFile()));
  server.Start();
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    {
      const RawClient client = Connected(server, transport);
      client.Send(HelloMessage());
      client.Send(OpenMessage(1, "large", true));
      CHECK(client.NextOf(ServerKind::kChunk).has_value());
      CHECK(server.service->statistics().streams == 1);
    }
    CHECK(server.WaitUntilNoStreams());
    CHECK(server.service->statistics().unacknowledged_bytes == 0);
  }
}

TEST_CASE("streams above the limit are refused until one has gone") {
  RunningServer server;
  REQUIRE(server.folder.Write("a.holo", testing::SampleFile({})));
  streaming::Options options;
  options.max_streams = 2;
  server.Start(options);
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    {
      const RawClient first = Connected(server, Transport::kWebSocket);
      const RawClient second = Connected(server, Transport::kGrpc);
      for (const RawClient* client : {&first, &second}) {
        client->Send(HelloMessage());
        CHECK(client->Next().has_value());
      }
      auto third = RawClient::Connect(server, transport);
      Error error;
      if (third) {
        third->Send(HelloMessage());
        const auto message = third->Next();
        REQUIRE_FALSE(message.has_value());
        error = message.error();
      } else {
        error = third.error();
      }
      // A WebSocket is refused before it is one, and its client cannot tell why.
      CHECK(error.code == (transport == Transport::kGrpc ? Code::kResourceExhausted : Code::kUnavailable));
    }
    CHECK(server.WaitUntilNoStreams());
    const RawClient client = Connected(server, transport);
    client.Send(HelloMessage());
    CHECK(client.Next().has_value());
  }
  CHECK(server.service->statistics().refused == 2);
}

TEST_CASE("where a token is asked for, only who says it comes in") {
  RunningServer server;
  REQUIRE(server.folder.Write("scene.holo", SceneFile()));
  streaming::Options options;
  options.session.authorize = [](std::string_view token) -> Result<void> {
    if (token == "open sesame") return {};
    return Fail(Code::kUnauthenticated, "expected the token");
  };
  server.Start(options);
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    client::BasisCache cache({});
    client::Options client_options;
    for (const char* token : {"", "open", "open sesame "}) {
      CAPTURE(token);
      client_options.token = token;
      const auto refused =
          client::RemotePicture::Open(server.UrlOf(transport), "scene", std::nullopt, cache, client_options);
      REQUIRE_FALSE(refused.has_value());
      CHECK(refused.error().code == Code::kUnauthenticated);
    }
    client_options.token = "open sesame";
    CHECK(
        client::RemotePicture::Open(server.UrlOf(transport), "scene", std::nullopt, cache, client_options).has_value());
  }
}

TEST_CASE("draining lets a view finish, says so, and takes nobody new") {
  for (const Transport transport : kTransports) {
    RunningServer server;
    REQUIRE(server.folder.Write("large.holo", LargeFile()));
    server.Start();
    CAPTURE(server.UrlOf(transport));
    const RawClient client = Connected(server, transport);
    client.Send(HelloMessage(100'000));
    client.Send(OpenMessage(1, "large", true));
    std::uint64_t payload_bytes = 0;
    // The basis fills the window: nothing more comes before it is acknowledged.
    while (payload_bytes < 100'000) REQUIRE(client.NextOf(ServerKind::kBasis, &payload_bytes).has_value());
    server.service->Drain("maintenance");
    bool is_told = false;
    bool is_complete = false;
    Result<v1::ServerMessage> message = Fail(Code::kUnknown, "");
    for (client.Send(AckMessage(payload_bytes)); (message = client.Next()); client.Send(AckMessage(payload_bytes))) {
      payload_bytes += message->chunk().data().size();
      is_told = is_told || message->go_away().reason() == "maintenance";
      is_complete = is_complete || message->view_complete().reason() == v1::ViewComplete::EVERYTHING_SENT;
    }
    CHECK(message.error().code == Code::kUnavailable);
    CHECK(is_told);
    CHECK(is_complete);
    CHECK(server.WaitUntilNoStreams());
    auto late = RawClient::Connect(server, transport);
    if (late) {
      late->Send(HelloMessage());
      const auto answer = late->Next();
      REQUIRE_FALSE(answer.has_value());
      CHECK(answer.error().code == Code::kUnavailable);
    }
  }
}

TEST_CASE("damage found while streaming ends the asset, for the next one at once") {
  RunningServer server;
  std::vector<std::uint8_t> file = LargeFile();
  std::fill(file.end() - 300'000, file.end(), std::uint8_t{0});
  REQUIRE(server.folder.Write("bad.holo", file));
  server.Start();
  for (const Transport transport : kTransports) {
    CAPTURE(server.UrlOf(transport));
    REQUIRE(server.folder.Write("bad.holo", file));  // a new file: it gets a new chance
    for (const bool is_first : {true, false}) {
      CAPTURE(is_first);
      const RawClient client = Connected(server, transport);
      client.Send(HelloMessage(4u << 20));
      client.Send(OpenMessage(1, "bad", true));
      std::uint64_t payload_bytes = 0;
      const auto error = client.NextOf(ServerKind::kError, &payload_bytes);
      REQUIRE_MESSAGE(error.has_value(), error.error().message);
      CHECK(error->error().code() == static_cast<std::uint32_t>(Code::kDataLoss));
      CHECK(error->error().handle() == 1);
      CHECK((payload_bytes > 0) == is_first);
    }
  }
}

TEST_CASE("stopping by force ends streams that would go on") {
  RunningServer server;
  REQUIRE(server.folder.Write("large.holo", LargeFile()));
  server.Start();
  const RawClient web = Connected(server, Transport::kWebSocket);
  const RawClient grpc = Connected(server, Transport::kGrpc);
  for (const RawClient* client : {&web, &grpc}) {
    client->Send(HelloMessage());
    client->Send(OpenMessage(1, "large", true));
    CHECK(client->NextOf(ServerKind::kOpened).has_value());
  }
  server.service->AbortAll();
  CHECK(web.HasEnded());
  CHECK(grpc.HasEnded());
  CHECK(server.WaitUntilNoStreams());
}

TEST_CASE("where nobody listens, opening says so, on both transports") {
  client::BasisCache cache({});
  client::Options options;
  options.connect_timeout = std::chrono::seconds(5);
  options.reconnect_attempts = 0;
  // Port 1 is not given to programs.
  for (const char* url : {"ws://127.0.0.1:1", "grpc://127.0.0.1:1"}) {
    CAPTURE(url);
    const auto picture = client::RemotePicture::Open(url, "a", std::nullopt, cache, options);
    REQUIRE_FALSE(picture.has_value());
    CHECK(picture.error().code == Code::kUnavailable);
    CHECK(picture.error().message.find("127.0.0.1:1") != std::string::npos);
  }
}

}  // namespace
}  // namespace holo
