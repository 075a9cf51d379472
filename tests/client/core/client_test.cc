#include "client/core/client.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/basis/train.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "tests/temporary_folder.h"

namespace holo::client {
namespace {

// A port on which connections are taken and never answered.
class SilentServer {
 public:
  SilentServer() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    const bool listens = ::bind(socket_, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                         ::listen(socket_, 16) == 0 &&
                         ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &length) == 0;
    REQUIRE(listens);
    port_ = ntohs(address.sin_port);
  }
  ~SilentServer() { ::close(socket_); }
  SilentServer(const SilentServer&) = delete;
  SilentServer& operator=(const SilentServer&) = delete;
  [[nodiscard]] std::string Url(const std::string& scheme) const {
    return scheme + "://127.0.0.1:" + std::to_string(port_);
  }

 private:
  int socket_;
  int port_ = 0;
};

pixels::Picture Waves() {
  pixels::Layout layout;
  layout.width = 333;
  layout.height = 277;
  layout.channels = 3;
  layout.color_model = pixels::ColorModel::kRgb;
  pixels::Picture picture = pixels::Picture::Create(layout).value();
  for (std::uint32_t y = 0; y < layout.height; ++y) {
    for (std::uint32_t x = 0; x < layout.width; ++x) {
      for (std::uint32_t c = 0; c < 3; ++c) {
        picture.Set(x, y, c, static_cast<std::uint16_t>((x * x / (40 + c) + y * (c + 1) + x * y / 50) % 256));
      }
    }
  }
  return picture;
}

TEST_CASE("addresses name a transport, a host and perhaps a port") {
  struct Row {
    std::string url;
    Endpoint::Transport transport;
    std::string host;
    std::uint16_t port;
  };
  const Row rows[] = {
      {"ws://host", Endpoint::Transport::kWebSocket, "host", 8080},
      {"ws://host:81/", Endpoint::Transport::kWebSocket, "host", 81},
      {"grpc://10.0.0.1", Endpoint::Transport::kGrpc, "10.0.0.1", 50051},
      {"grpc://[::1]:7", Endpoint::Transport::kGrpc, "::1", 7},
  };
  for (const Row& row : rows) {
    CAPTURE(row.url);
    const auto endpoint = Endpoint::Parse(row.url);
    CHECK_MESSAGE(endpoint.has_value(), (endpoint ? "" : endpoint.error().message));
    if (!endpoint) continue;
    CHECK(endpoint->transport == row.transport);
    CHECK(endpoint->host == row.host);
    CHECK(endpoint->port == row.port);
  }
  for (const std::string url : {"", "host", "http://host", "ws://", "ws://:80", "ws://host:0", "ws://host:65536",
                                "ws://host:80x", "grpc://[::1", "ws://host/path"}) {
    CAPTURE(url);
    CHECK(Endpoint::Parse(url).error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("bases are kept on disk by their hash and believed only if it fits") {
  const testing::TemporaryFolder folder;
  basis::Trainer trainer = basis::Trainer::Create(basis::TrainingPlanes::kJoint, 3).value();
  REQUIRE(trainer.AddPicture(Waves()).has_value());
  const auto basis = trainer.Finish("waves").value();
  const auto lists = [&](const BasisCache& cache) {
    const std::vector<basis::Hash> hashes = cache.List(100);
    return std::ranges::find(hashes, basis->hash()) != hashes.end();
  };
  BasisCache first(folder.path());
  CHECK(first.Find(basis->hash()) == nullptr);
  CHECK(first.Find(basis::BuiltInLuma()->hash()) != nullptr);
  REQUIRE(first.Store(basis->bytes()).has_value());
  CHECK(first.Find(basis->hash()) != nullptr);
  BasisCache second(folder.path());
  CHECK(lists(second));
  CHECK(second.Find(basis->hash()) != nullptr);
  CHECK_FALSE(second.Store(std::vector<std::uint8_t>(50)).has_value());

  const std::filesystem::path file = folder / (bytes::ToHex(basis->hash()) + ".basis");
  REQUIRE(files::AtomicWrite(file, std::vector<std::uint8_t>(50)).has_value());
  BasisCache third(folder.path());
  CHECK(third.Find(basis->hash()) == nullptr);
  CHECK_FALSE(lists(third));
  BasisCache none({});
  REQUIRE(none.Store(basis->bytes()).has_value());
  CHECK(none.Find(basis->hash()) != nullptr);
}

TEST_CASE("a server that says nothing costs the time agreed on, and no more") {
  const SilentServer server;
  BasisCache cache({});
  Options options;
  options.connect_timeout = std::chrono::milliseconds(100);
  options.idle_timeout = std::chrono::milliseconds(100);
  for (const std::string scheme : {"ws", "grpc"}) {
    CAPTURE(scheme);
    const auto picture = RemotePicture::Open(server.Url(scheme), "x", std::nullopt, cache, options);
    REQUIRE_FALSE(picture.has_value());
    const Code code = picture.error().code;
    CHECK((code == Code::kDeadlineExceeded || code == Code::kUnavailable));
  }
}

TEST_CASE("a stop that was asked for ends opening") {
  const SilentServer server;
  BasisCache cache({});
  std::stop_source stop;
  stop.request_stop();
  Options options;
  options.stop = stop.get_token();
  for (const std::string scheme : {"ws", "grpc"}) {
    CAPTURE(scheme);
    const auto picture = RemotePicture::Open(server.Url(scheme), "x", std::nullopt, cache, options);
    REQUIRE_FALSE(picture.has_value());
    CHECK(picture.error().code == Code::kCancelled);
  }
}

TEST_CASE("a canvas updated chunk by chunk equals a rendering of all") {
  const codec::Encoded encoded = codec::Encode(Waves(), {}).value();
  const auto reader = container::AssetReader::Open(std::make_shared<container::MemorySource>(encoded.file)).value();
  BasisCache cache({});
  for (const basis::Hash& hash : reader.header().bases) {
    if (const auto* bytes = reader.EmbeddedBasis(hash)) REQUIRE(cache.Store(*bytes).has_value());
  }
  const render::View views[] = {{{}, 0, 0}, {{13, 21, 200, 111}, 1, 0}, {{100, 0, 233, 277}, 2, 40}};
  for (const render::View& view : views) {
    CAPTURE(view.scale_log2);
    codec::Decoder decoder =
        codec::Decoder::Create(reader.header(), [&](const basis::Hash& hash) { return cache.Find(hash); }).value();
    Canvas canvas = Canvas::Create(decoder, view).value();
    for (const container::ChunkInfo& chunk : reader.chunks()) {
      const pixels::Rect changed = decoder.AddChunk(chunk.id, reader.ReadChunk(chunk).value()).value();
      REQUIRE(canvas.Update(decoder, changed).has_value());
    }
    CHECK(std::ranges::equal(canvas.picture().bytes(), render::Render(decoder, view).value().bytes()));
  }
}

}  // namespace
}  // namespace holo::client
