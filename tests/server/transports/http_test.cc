#include "server/transports/http/http.h"

#include <doctest/doctest.h>

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/assets/assets.h"
#include "server/streaming/streaming.h"
#include "tests/common/protocol/sample_asset.h"
#include "tests/server/stream_client.h"
#include "tests/temporary_folder.h"

namespace holo::transports::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace wire = boost::beast::http;
using boost::system::error_code;
using tcp = asio::ip::tcp;
using testing::Outcome;

struct Fixture {
  testing::TemporaryFolder folder;
  std::unique_ptr<assets::Store> store;
  std::unique_ptr<streaming::Service> service;
  std::unique_ptr<Server> server;

  explicit Fixture(streaming::Options streams = {}, Options options = {}) {
    REQUIRE(folder.Write("noise.holo", testing::SampleFile({})));
    REQUIRE(folder.Write("sub/\xC3\xBC x.holo", testing::SampleFile({})));
    REQUIRE(folder.Write("damaged.holo", "no hologram"));
    assets::Options store_options;
    store_options.folder = folder.path();
    store_options.watch = false;
    store = assets::Store::Open(std::move(store_options)).value();
    service = std::make_unique<streaming::Service>(std::move(streams), *store);
    options.host = "127.0.0.1";
    options.port = 0;
    options.metrics = [] { return std::string("holo_streams 0\n"); };
    server = Server::Start(std::move(options), *store, *service).value();
  }
};

using Response = wire::response<wire::string_body>;

class Connection {
 public:
  explicit Connection(const Server& server) : socket_(context_) {
    socket_.connect({asio::ip::make_address("127.0.0.1"), static_cast<unsigned short>(server.port())});
  }
  Response Ask(wire::verb method, const std::string& target,
               const std::vector<std::pair<wire::field, std::string>>& fields = {}) {
    wire::request<wire::empty_body> request{method, target, 11};
    request.set(wire::field::host, "test");
    for (const auto& [field, value] : fields) request.set(field, value);
    wire::write(socket_, request);
    wire::response_parser<wire::string_body> parser;
    parser.body_limit(64u << 20);
    parser.skip(method == wire::verb::head);
    wire::read(socket_, buffer_, parser);
    return parser.release();
  }
  Response Get(const std::string& target, const std::vector<std::pair<wire::field, std::string>>& fields = {}) {
    return Ask(wire::verb::get, target, fields);
  }
  // Whatever bytes; the answer is all until the server closes.
  std::string Raw(const std::string& bytes) {
    asio::write(socket_, asio::buffer(bytes));
    std::string answer;
    error_code error;
    asio::read(socket_, asio::dynamic_buffer(answer), error);
    return answer;
  }

 private:
  asio::io_context context_;
  tcp::socket socket_;
  beast::flat_buffer buffer_;
};

std::string FileText() {
  const std::vector<std::uint8_t> bytes = testing::SampleFile({});
  return {bytes.begin(), bytes.end()};
}

TEST_CASE("health, metrics, lists and the page are served on one connection, to any origin") {
  Fixture fixture;
  Connection connection(*fixture.server);
  const Response health = connection.Get("/healthz");
  CHECK(health.result_int() == 200);
  CHECK(health.body() == "ok\n");
  CHECK(health[wire::field::access_control_allow_origin] == "*");
  CHECK(connection.Get("/metrics").body() == "holo_streams 0\n");
  const Response list = connection.Get("/v1/assets?limit=2");
  CHECK(list[wire::field::content_type] == "application/json");
  CHECK(list.body().find("\"name\":\"noise\"") != std::string::npos);
  CHECK(list.body().find("next_after") != std::string::npos);
  CHECK(connection.Get("/").body().find("/assets/sub/%C3%BC%20x.holo") != std::string::npos);
  CHECK(connection.Get("/nowhere").result_int() == 404);
  CHECK(connection.Get("/v1/assets?limit=x").result_int() == 400);
  CHECK(connection.Get("/%zz").result_int() == 400);
  const auto refused = connection.Ask(wire::verb::delete_, "/assets/noise.holo");
  CHECK(refused.result_int() == 405);
  CHECK(refused.body().find("\"code\":405") != std::string::npos);
  const Response options = connection.Ask(wire::verb::options, "/assets/noise.holo");
  CHECK(options.result_int() == 204);
  CHECK(options[wire::field::access_control_allow_headers].find("Range") != std::string_view::npos);
  CHECK(connection.Get("/v1/stream").result_int() == 426);
}

TEST_CASE("a file is served whole, in ranges, and by validator") {
  Fixture fixture;
  Connection connection(*fixture.server);
  const std::string file = FileText();
  const Response whole = connection.Get("/assets/noise.holo");
  CHECK(whole.result_int() == 200);
  CHECK(whole.body() == file);
  CHECK(whole[wire::field::accept_ranges] == "bytes");
  const std::string etag(whole[wire::field::etag]);
  CHECK(connection.Get("/assets/sub/%C3%BC%20x.holo").body() == file);

  const Response head = connection.Ask(wire::verb::head, "/assets/noise.holo");
  CHECK(head.result_int() == 200);
  CHECK(head[wire::field::content_length] == std::to_string(file.size()));

  const Response part = connection.Get("/assets/noise.holo", {{wire::field::range, "bytes=10-19"}});
  CHECK(part.result_int() == 206);
  CHECK(part.body() == file.substr(10, 10));
  CHECK(part[wire::field::content_range] == "bytes 10-19/" + std::to_string(file.size()));
  const Response beyond =
      connection.Get("/assets/noise.holo", {{wire::field::range, "bytes=" + std::to_string(file.size()) + "-"}});
  CHECK(beyond.result_int() == 416);
  CHECK(beyond[wire::field::content_range] == "bytes */" + std::to_string(file.size()));

  CHECK(connection.Get("/assets/noise.holo", {{wire::field::if_none_match, "W/" + etag}}).result_int() == 304);
  CHECK(connection.Get("/assets/noise.holo", {{wire::field::if_none_match, "\"x\""}}).result_int() == 200);
  const std::vector<std::pair<wire::field, std::string>> same = {{wire::field::range, "bytes=0-3"},
                                                                 {wire::field::if_range, etag}};
  CHECK(connection.Get("/assets/noise.holo", same).result_int() == 206);
  const std::vector<std::pair<wire::field, std::string>> other = {{wire::field::range, "bytes=0-3"},
                                                                  {wire::field::if_range, "\"x\""}};
  CHECK(connection.Get("/assets/noise.holo", other).body() == file);
}

TEST_CASE("what is not there, damaged or outside is an error that says so") {
  Fixture fixture;
  Connection connection(*fixture.server);
  const Response missing = connection.Get("/assets/none.holo");
  CHECK(missing.result_int() == 404);
  CHECK(missing.body().find("none") != std::string::npos);
  CHECK(connection.Get("/assets/damaged.holo").result_int() == 500);
  for (const char* target : {"/assets/../noise.holo", "/assets/%2e%2e/noise.holo", "/assets//etc/passwd.holo"}) {
    CAPTURE(target);
    CHECK(connection.Get(target).result_int() == 404);
  }
  CHECK(connection.Get("/assets/%00.holo").result_int() == 400);
}

TEST_CASE("requests that are none, or too large, are answered and closed") {
  Fixture fixture;
  CHECK(Connection(*fixture.server).Raw("NONSENSE\r\n\r\n").find("400") != std::string::npos);
  const std::string large = "GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(20'000, 'x') + "\r\n\r\n";
  CHECK(Connection(*fixture.server).Raw(large).find("400") != std::string::npos);
  CHECK(Connection(*fixture.server).Get("/healthz").result_int() == 200);
}

// ---- WebSocket

class Socket {
 public:
  explicit Socket(const Server& server) : socket_(context_) {
    socket_.next_layer().connect({asio::ip::make_address("127.0.0.1"), static_cast<unsigned short>(server.port())});
    socket_.binary(true);
    socket_.read_message_max(protocol::kMaxServerMessageBytes);
    wire::response<wire::string_body> response;
    error_code error;
    socket_.handshake(response, "test", "/v1/stream", error);
    status_ = response.result_int();
  }
  bool Send(const std::string& bytes) {
    error_code error;
    socket_.write(asio::buffer(bytes), error);
    return !error;
  }
  std::optional<v1::ServerMessage> Receive() {
    beast::flat_buffer buffer;
    error_code error;
    socket_.read(buffer, error);
    if (error) return std::nullopt;
    v1::ServerMessage message;
    REQUIRE(message.ParseFromArray(buffer.cdata().data(), static_cast<int>(buffer.size())));
    return message;
  }
  testing::Transport transport() {
    return {[this](const v1::ClientMessage& message) { return Send(message.SerializeAsString()); },
            [this] { return Receive(); }};
  }

  asio::io_context context_;
  beast::websocket::stream<tcp::socket> socket_;
  unsigned status_ = 0;
};

std::string HelloText(std::uint32_t version) {
  v1::ClientMessage message;
  message.mutable_hello()->set_protocol_version(version);
  return message.SerializeAsString();
}

TEST_CASE("a whole asset comes over WebSocket, nothing twice, and the close is a normal one") {
  Fixture fixture;
  Socket socket(*fixture.server);
  const Outcome outcome = testing::FetchAll(socket.transport(), "noise");
  CHECK(outcome.completed == v1::ViewComplete::EVERYTHING_SENT);
  CHECK(outcome.payload_bytes == outcome.expected_bytes);
  CHECK(outcome.duplicate_bytes == 0);
  CHECK(socket.socket_.reason().code == beast::websocket::close_code::normal);
}

TEST_CASE("the same small window works over WebSocket") {
  Fixture fixture;
  Socket socket(*fixture.server);
  const Outcome outcome = testing::FetchAll(socket.transport(), "sub/\xC3\xBC x", {}, 500);
  CHECK(outcome.payload_bytes == outcome.expected_bytes);
}

TEST_CASE("broken rules close the WebSocket with an error and a code") {
  struct Row {
    const char* name;
    std::string bytes;
    bool is_text;
    Code code;
  };
  const Row rows[] = {
      {"wrong version", HelloText(99), false, Code::kUnimplemented},
      {"noise", "\xFF\xFF\xFF", false, Code::kInvalidArgument},
      {"text", HelloText(1), true, Code::kInvalidArgument},
      {"empty", "", false, Code::kFailedPrecondition},
  };
  Fixture fixture;
  for (const Row& row : rows) {
    CAPTURE(row.name);
    Socket socket(*fixture.server);
    socket.socket_.text(row.is_text);
    CHECK(socket.Send(row.bytes));
    const std::optional<v1::ServerMessage> message = socket.Receive();
    REQUIRE(message.has_value());
    CHECK(message->error().code() == static_cast<std::uint32_t>(row.code));
    CHECK_FALSE(socket.Receive().has_value());
    CHECK(socket.socket_.reason().code == static_cast<unsigned>(ToWebSocketCloseCode(row.code)));
  }
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
}

TEST_CASE("a message above the limit ends the WebSocket, and nobody else's") {
  Fixture fixture;
  Socket other(*fixture.server);
  {
    Socket socket(*fixture.server);
    socket.Send(std::string(protocol::kMaxClientMessageBytes + 1, 'x'));
    while (socket.Receive()) {
    }
  }
  CHECK(testing::FetchAll(other.transport(), "noise").completed.has_value());
}

TEST_CASE("a client that vanishes leaves no stream") {
  Fixture fixture;
  {
    Socket socket(*fixture.server);
    CHECK(socket.Send(HelloText(1)));
    CHECK(socket.Receive().has_value());
  }
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
}

TEST_CASE("a client that is silent for too long, pings included, is dropped") {
  Options options;
  options.websocket_idle_timeout = std::chrono::milliseconds(100);
  Fixture fixture({}, std::move(options));
  Socket socket(*fixture.server);
  CHECK(socket.Send(HelloText(1)));
  // Not reading means not answering pings.
  CHECK(fixture.service->WaitUntilEmpty(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
}

TEST_CASE("sessions above the limit are refused before the upgrade") {
  streaming::Options streams;
  streams.max_streams = 1;
  Fixture fixture(streams);
  Socket first(*fixture.server);
  CHECK(first.status_ == 101);
  Socket second(*fixture.server);
  CHECK(second.status_ == 429);
}

TEST_CASE("stopping says so, lets the stream end, and closes idle connections") {
  Fixture fixture;
  Connection idle(*fixture.server);
  CHECK(idle.Get("/healthz").result_int() == 200);
  Socket socket(*fixture.server);
  CHECK(socket.Send(HelloText(1)));
  CHECK(socket.Receive()->has_welcome());
  fixture.server->BeginDrain();
  fixture.service->Drain("restart");
  CHECK(socket.Receive()->has_go_away());
  CHECK_FALSE(socket.Receive().has_value());
  fixture.server->Stop(std::chrono::steady_clock::now() + std::chrono::seconds(30));
  CHECK(fixture.server->statistics().connections == 0);
}

TEST_CASE("stopping by force ends a stream that is stuck") {
  Fixture fixture;
  Socket socket(*fixture.server);
  CHECK(socket.Send(HelloText(1)));
  CHECK(socket.Receive()->has_welcome());
  fixture.server->Stop(std::chrono::steady_clock::now());
  CHECK(fixture.server->statistics().connections == 0);
  CHECK_FALSE(socket.Receive().has_value());
}

// An api whose answers are played by the test.
struct PlayedAnswer {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<ApiProgress> to_come;  // guarded by mutex
  bool is_gone = false;              // guarded by mutex
  std::function<void()> wake;        // guarded by mutex; empty when the client is gone
  ApiRequest request;

  void Say(ApiProgress progress) {
    const std::lock_guard lock(mutex);
    to_come.push_back(std::move(progress));
    if (wake) wake();
  }
  bool WaitUntilGone() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(30), [this] { return is_gone; });
  }
};

class PlayedApi : public Api {
 public:
  bool Has(std::string_view path) const override { return path == "/played"; }
  std::size_t max_body_bytes() const override { return 100'000; }
  std::unique_ptr<ApiAnswer> Answer(ApiRequest request, std::function<void()> wake) override {
    const auto played = std::make_shared<PlayedAnswer>();
    played->request = std::move(request);
    played->wake = std::move(wake);
    {
      const std::lock_guard lock(mutex_);
      answers_.push_back(played);
    }
    changed_.notify_all();
    return std::make_unique<Taker>(played);
  }
  ApiProgress Refuse(const Error& error, int status) const override {
    ApiProgress progress;
    progress.has_begun = progress.is_over = true;
    progress.status = status == 0 ? ToHttpStatus(error.code) : status;
    progress.bytes = "refused: " + error.message;
    return progress;
  }
  std::shared_ptr<PlayedAnswer> Wait(std::size_t index) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(30), [&] { return answers_.size() > index; });
    return answers_.at(index);
  }

 private:
  struct Taker : ApiAnswer {
    std::shared_ptr<PlayedAnswer> played;
    explicit Taker(std::shared_ptr<PlayedAnswer> of) : played(std::move(of)) {}
    ~Taker() override {
      const std::lock_guard lock(played->mutex);
      played->is_gone = true;
      played->wake = nullptr;
      played->changed.notify_all();
    }
    ApiProgress Take() override {
      const std::lock_guard lock(played->mutex);
      ApiProgress all = last;
      for (ApiProgress& progress : std::exchange(played->to_come, {})) {
        progress.bytes.insert(0, all.bytes);
        all = std::move(progress);
      }
      last = all;
      last.bytes.clear();
      return all;
    }
    ApiProgress last;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<PlayedAnswer>> answers_;  // guarded by mutex_
};

ApiProgress Piece(const std::string& bytes, bool is_over = false) {
  ApiProgress progress;
  progress.has_begun = progress.is_stream = true;
  progress.content_type = "text/event-stream";
  progress.bytes = bytes;
  progress.is_over = is_over;
  progress.idle_bytes = ": idle\n\n";
  return progress;
}

struct ApiFixture {
  std::shared_ptr<PlayedApi> api = std::make_shared<PlayedApi>();
  Fixture fixture;
  asio::io_context context;
  tcp::socket socket{context};
  std::string received;

  explicit ApiFixture(std::chrono::milliseconds idle = std::chrono::hours(1), std::uint64_t max_body_bytes = 1 << 20)
      : fixture({}, WithApi(api, idle, max_body_bytes)) {
    socket.connect({asio::ip::make_address("127.0.0.1"), static_cast<unsigned short>(fixture.server->port())});
  }
  static Options WithApi(std::shared_ptr<Api> api, std::chrono::milliseconds idle, std::uint64_t max_body_bytes) {
    Options options;
    options.max_body_bytes = max_body_bytes;
    options.api = std::move(api);
    options.idle_stream_interval = idle;
    return options;
  }
  void Send(const std::string& bytes) { asio::write(socket, asio::buffer(bytes)); }
  // Whether this comes next, sooner or later.
  bool Receives(const std::string& wanted) {
    error_code error;
    while (received.find(wanted) == std::string::npos && !error) {
      char buffer[1000];
      received.append(buffer, socket.read_some(asio::buffer(buffer), error));
    }
    const std::size_t at = received.find(wanted);
    if (at == std::string::npos) return false;
    received.erase(0, at + wanted.size());
    return true;
  }
};

constexpr const char* kPlayedPost = "POST /played?x=1 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer k\r\nContent-Length: 4\r\n\r\nbody";

TEST_CASE("an api's whole answer goes out when it is over, and the connection goes on") {
  ApiFixture fixture;
  for (std::size_t i = 0; i < 2; ++i) {
    fixture.Send(kPlayedPost);
    const auto played = fixture.api->Wait(i);
    CHECK(played->request.method == "POST");
    CHECK(played->request.path == "/played");
    CHECK(played->request.body == "body");
    CHECK(played->request.authorization == "Bearer k");
    CHECK(played->request.peer == "127.0.0.1");
    ApiProgress progress;
    progress.has_begun = progress.is_over = true;
    progress.status = 429;
    progress.fields = {{"Retry-After", "7"}};
    progress.bytes = "{}";
    played->Say(progress);
    CHECK(fixture.Receives("HTTP/1.1 429"));
    CHECK(fixture.Receives("Retry-After: 7\r\n"));
    CHECK(fixture.Receives("\r\n\r\n{}"));
    CHECK(played->WaitUntilGone());
  }
}

TEST_CASE("an api's stream goes out piece by piece, and the connection goes on") {
  ApiFixture fixture;
  fixture.Send(kPlayedPost);
  const auto played = fixture.api->Wait(0);
  played->Say(Piece("one"));
  CHECK(fixture.Receives("Transfer-Encoding: chunked\r\n"));
  CHECK(fixture.Receives("3\r\none\r\n"));
  played->Say(Piece(std::string(20, 'x')));
  CHECK(fixture.Receives("14\r\nxxxxxxxxxxxxxxxxxxxx\r\n"));
  played->Say(Piece("end", true));
  CHECK(fixture.Receives("3\r\nend\r\n0\r\n\r\n"));
  fixture.Send("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
  CHECK(fixture.Receives("ok\n"));
}

TEST_CASE("an api's stream of HTTP/1.0 has no chunks and ends with the connection") {
  ApiFixture fixture;
  fixture.Send("GET /played HTTP/1.0\r\n\r\n");
  const auto played = fixture.api->Wait(0);
  played->Say(Piece("one"));
  played->Say(Piece("end", true));
  CHECK(fixture.Receives("\r\n\r\noneend"));
  CHECK_FALSE(fixture.Receives("more"));
}

TEST_CASE("a stream that has nothing to say says so, and before it begins nothing is said") {
  ApiFixture fixture(std::chrono::milliseconds(20));
  fixture.Send(kPlayedPost);
  const auto played = fixture.api->Wait(0);
  played->Say(Piece(""));
  CHECK(fixture.Receives("8\r\n: idle\n\n\r\n"));
  CHECK(fixture.Receives("8\r\n: idle\n\n\r\n"));
  played->Say(Piece("end", true));
  CHECK(fixture.Receives("end"));
}

TEST_CASE("an answer whose client has gone is given up, in a stream and before it") {
  for (const bool has_begun : {false, true}) {
    CAPTURE(has_begun);
    ApiFixture fixture;
    fixture.Send(kPlayedPost);
    const auto played = fixture.api->Wait(0);
    if (has_begun) {
      played->Say(Piece("one"));
      CHECK(fixture.Receives("one"));
    }
    fixture.socket.close();
    CHECK(played->WaitUntilGone());
  }
}

TEST_CASE("a body that is larger than an api takes is refused in its way, announced or not") {
  for (const std::string& length : {std::string("Content-Length: 100001"), std::string("Transfer-Encoding: chunked")}) {
    CAPTURE(length);
    ApiFixture fixture;
    fixture.Send("POST /played HTTP/1.1\r\nHost: t\r\n" + length + "\r\n\r\n186a1\r\n" + std::string(100'001, 'x'));
    CHECK(fixture.Receives("HTTP/1.1 413"));
    CHECK(fixture.Receives("refused: request too large: expected at most 100000 bytes"));
  }
  ApiFixture fixture;
  fixture.Send("POST /other HTTP/1.1\r\nHost: t\r\nContent-Length: 70000\r\n\r\n");
  CHECK(fixture.Receives("HTTP/1.1 400"));
}

TEST_CASE("all bodies together have a limit, whether they have come or are announced") {
  ApiFixture fixture(std::chrono::hours(1), 100'004);
  fixture.Send("POST /played HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
  CHECK(fixture.Receives("HTTP/1.1 100"));  // so it has been counted
  for (const bool fits : {true, false}) {
    CAPTURE(fits);
    tcp::socket other(fixture.context);
    other.connect({asio::ip::make_address("127.0.0.1"), static_cast<unsigned short>(fixture.fixture.server->port())});
    // The one that is not there yet counts as soon as its header has been read.
    if (fits) {
      asio::write(other, asio::buffer(std::string(kPlayedPost)));
      (void)fixture.api->Wait(0);
      ApiProgress progress;
      progress.has_begun = progress.is_over = true;
      fixture.api->Wait(0)->Say(progress);
    } else {
      asio::write(other, asio::buffer("POST /played HTTP/1.1\r\nHost: t\r\nContent-Length: 50000\r\n\r\n" +
                                      std::string(50'000, 'x')));
    }
    std::string answer(12, ' ');
    asio::read(other, asio::buffer(answer));
    CHECK(answer == (fits ? "HTTP/1.1 200" : "HTTP/1.1 503"));
  }
}

TEST_CASE("who asks whether to go on is told so") {
  ApiFixture fixture;
  fixture.Send("POST /played HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  CHECK(fixture.Receives("HTTP/1.1 100 Continue\r\n\r\n"));
  fixture.Send("body");
  CHECK(fixture.api->Wait(0)->request.body == "body");
}

TEST_CASE("stopping by force ends an api's stream") {
  ApiFixture fixture;
  fixture.Send(kPlayedPost);
  const auto played = fixture.api->Wait(0);
  played->Say(Piece("one"));
  CHECK(fixture.Receives("one"));
  fixture.fixture.server->Stop(std::chrono::steady_clock::now());
  CHECK(played->WaitUntilGone());
  CHECK_FALSE(fixture.Receives("more"));
}

TEST_CASE("readiness is apart from being alive") {
  Options options;
  std::atomic<bool> is_ready{false};
  options.ready = [&is_ready] { return is_ready.load(); };
  Fixture fixture({}, std::move(options));
  Connection connection(*fixture.server);
  CHECK(connection.Get("/healthz").result_int() == 200);
  CHECK(connection.Get("/readyz").result_int() == 503);
  is_ready = true;
  CHECK(connection.Get("/readyz").result_int() == 200);
}

TEST_CASE("a port in use is an error") {
  Fixture fixture;
  Options options;
  options.host = "127.0.0.1";
  options.port = fixture.server->port();
  const auto second = Server::Start(std::move(options), *fixture.store, *fixture.service);
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().code == Code::kUnavailable);
}

}  // namespace
}  // namespace holo::transports::http
