#include "server/transports/http/http.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <charconv>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/protocol/protocol.h"
#include "server/assets/assets.h"
#include "server/streaming/streaming.h"
#include "server/transports/http/respond.h"

namespace holo::transports::http {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace websocket = boost::beast::websocket;
namespace {

using tcp = asio::ip::tcp;
using boost::system::error_code;
using Strand = asio::strand<asio::io_context::executor_type>;
using Socket = asio::basic_stream_socket<tcp, Strand>;
using TcpStream = beast::basic_stream<tcp, Strand>;
using WebSocket = websocket::stream<TcpStream>;
using Request = http::request<http::string_body>;
using Timer =
    asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Strand>;

constexpr std::uint32_t kMaxHeaderBytes = 16u << 10;
constexpr std::uint64_t kMaxBodyBytes = 64u << 10;
constexpr std::size_t kFilePieceBytes = 64u << 10;
constexpr std::size_t kListLimit = 1000;
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

}  // namespace

struct Server::State : std::enable_shared_from_this<Server::State> {
  Options options;
  assets::Store& store;
  streaming::Service& service;
  asio::io_context context;
  Strand accept_strand{asio::make_strand(context)};
  asio::basic_socket_acceptor<tcp, Strand> acceptor{accept_strand};
  int port = 0;
  std::vector<std::thread> threads;

  std::atomic<bool> is_draining{false};
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> file_bytes{0};
  std::atomic<std::uint64_t> body_bytes{0};  // of requests for the api that are read or answered

  mutable std::mutex mutex;
  std::condition_variable changed;
  bool is_accepting = true;                                        // guarded by mutex
  bool is_stopped = false;                                         // guarded by mutex
  std::uint64_t next_connection = 1;                               // guarded by mutex
  std::map<std::uint64_t, std::function<void(bool)>> connections;  // guarded by mutex; closes one, by force or if idle

  State(Options given, assets::Store& of, streaming::Service& with)
      : options(std::move(given)), store(of), service(with) {}

  void Log(const std::string& line) const {
    if (options.log) options.log(line);
  }
  void CloseAll(bool force) {
    std::vector<std::function<void(bool)>> all;
    {
      const std::lock_guard lock(mutex);
      for (const auto& [id, close] : connections) all.push_back(close);
    }
    for (const auto& close : all) close(force);
  }
};

namespace {

using State = Server::State;

// A connection until it becomes a WebSocket. Strand-only but for construction.
struct Connection {
  std::shared_ptr<State> state;
  TcpStream stream;
  std::uint64_t id = 0;
  bool is_between_requests = true;
  bool is_websocket = false;

  Connection(std::shared_ptr<State> of, Socket&& socket) : state(std::move(of)), stream(std::move(socket)) {}
  ~Connection() {
    const std::lock_guard lock(state->mutex);
    state->connections.erase(id);
    state->changed.notify_all();
  }
};

// ---- WebSocket

// One session over WebSocket. Strand-only, but for Wake() and Abort().
struct WebSocketSession : std::enable_shared_from_this<WebSocketSession> {
  // Keeps the connection counted.
  std::shared_ptr<Connection> connection;
  WebSocket socket;
  Timer wake;
  std::shared_ptr<streaming::Stream> stream;

  explicit WebSocketSession(std::shared_ptr<Connection> from)
      : connection(std::move(from)), socket(std::move(connection->stream)), wake(socket.get_executor()) {}

  void Wake() {
    asio::post(socket.get_executor(), [self = shared_from_this()] { self->wake.cancel(); });
  }
  void Abort() {
    asio::post(socket.get_executor(), [self = shared_from_this()] {
      self->stream->Disconnect();
      beast::get_lowest_layer(self->socket).close();
      self->wake.cancel();
    });
  }
};

asio::awaitable<void> ReadMessages(std::shared_ptr<WebSocketSession> session) {
  beast::flat_buffer buffer;
  for (;;) {
    const auto [error, size] = co_await session->socket.async_read(buffer, kAwait);
    if (error) {
      if (error == websocket::error::message_too_big) {
        session->stream->Fail(
            {Code::kInvalidArgument,
             "client message: expected at most " + std::to_string(protocol::kMaxClientMessageBytes) + " bytes"});
        session->wake.cancel();
        co_return;
      }
      session->stream->Disconnect();
      session->wake.cancel();
      co_return;
    }
    if (!session->socket.got_binary()) {
      session->stream->Fail({Code::kInvalidArgument, "websocket: expected binary messages, found text"});
    } else {
      const auto data = buffer.cdata();
      const Result<v1::ClientMessage> message =
          protocol::ParseClientMessage({static_cast<const std::uint8_t*>(data.data()), data.size()});
      if (message) {
        session->stream->Receive(*message);
      } else {
        session->stream->Fail(message.error());
      }
    }
    buffer.consume(size);
    session->wake.cancel();
  }
}

asio::awaitable<void> WriteMessages(std::shared_ptr<WebSocketSession> session) {
  std::string bytes;
  for (;;) {
    const streaming::Stream::Next next = session->stream->NextMessage();
    if (next.kind == streaming::Stream::Next::Kind::kIdle) {
      // Nothing can be missed: who wants to wake us does so on this strand, after we have gone to sleep.
      session->wake.expires_at(std::chrono::steady_clock::time_point::max());
      co_await session->wake.async_wait(kAwait);
      continue;
    }
    if (next.kind == streaming::Stream::Next::Kind::kFinished) break;
    next.message.SerializeToString(&bytes);
    const auto [error, size] = co_await session->socket.async_write(asio::buffer(bytes), kAwait);
    if (error) {
      session->stream->Disconnect();
      break;
    }
  }
  const std::optional<Error> failure = session->stream->failure();
  websocket::close_reason reason(websocket::close_code::normal);
  if (failure) {
    reason.code = static_cast<std::uint16_t>(ToWebSocketCloseCode(failure->code));
    // The Error message before has the whole text; a close frame has room for 123 bytes, and must be UTF-8.
    reason.reason = std::string(CodeName(failure->code));
  }
  session->stream->Disconnect();
  co_await session->socket.async_close(reason, kAwait);
  beast::get_lowest_layer(session->socket).close();
}

asio::awaitable<void> RunWebSocket(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request) {
  const std::shared_ptr<State> state = connection->state;
  error_code ignored;
  const auto peer = connection->stream.socket().remote_endpoint(ignored);
  connection->stream.expires_never();
  connection->is_websocket = true;
  const auto session = std::make_shared<WebSocketSession>(std::move(connection));
  websocket::stream_base::timeout timeout{};
  timeout.handshake_timeout = std::chrono::seconds(10);
  timeout.idle_timeout = state->options.websocket_idle_timeout;
  timeout.keep_alive_pings = true;
  session->socket.set_option(timeout);
  session->socket.read_message_max(protocol::kMaxClientMessageBytes);
  session->socket.auto_fragment(false);
  session->socket.binary(true);
  const std::weak_ptr<WebSocketSession> weak = session;
  streaming::Stream::Callbacks callbacks;
  callbacks.wake = [weak] {
    if (const auto self = weak.lock()) self->Wake();
  };
  callbacks.abort = [weak] {
    if (const auto self = weak.lock()) self->Abort();
  };
  Result<std::shared_ptr<streaming::Stream>> stream =
      state->service.Connect(peer.address().to_string(ignored), std::move(callbacks));
  if (!stream) {
    http::response<http::string_body> response{static_cast<http::status>(ToHttpStatus(stream.error().code)),
                                               request->version()};
    response.set(http::field::content_type, "application/json");
    response.set(http::field::retry_after, "5");
    response.keep_alive(false);
    response.body() = ToHttpBody(stream.error());
    response.prepare_payload();
    beast::get_lowest_layer(session->socket).expires_after(std::chrono::seconds(10));
    co_await http::async_write(session->socket.next_layer(), response, kAwait);
    co_return;
  }
  session->stream = std::move(stream).value();
  const auto [error] = co_await session->socket.async_accept(*request, kAwait);
  if (error) {
    session->stream->Disconnect();
    co_return;
  }
  asio::co_spawn(session->socket.get_executor(), ReadMessages(session), asio::detached);
  co_await WriteMessages(session);
}

// ---- HTTP

void AddCommonFields(http::fields& fields) {
  fields.set(http::field::server, "holod");
  fields.set(http::field::access_control_allow_origin, "*");
  fields.set(http::field::access_control_expose_headers, "Accept-Ranges, Content-Length, Content-Range, ETag, Retry-After, X-Request-Id");
  fields.set("X-Content-Type-Options", "nosniff");
}

asio::awaitable<bool> Send(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
                           http::status status, std::string content_type, std::string body) {
  http::response<http::string_body> response{status, request->version()};
  AddCommonFields(response.base());
  response.set(http::field::content_type, content_type);
  if (content_type != "text/html; charset=utf-8") response.set(http::field::cache_control, "no-cache");
  if (status == http::status::method_not_allowed) response.set(http::field::allow, "GET, HEAD, OPTIONS");
  response.keep_alive(request->keep_alive() && !connection->state->is_draining);
  response.content_length(body.size());
  if (request->method() != http::verb::head) response.body() = std::move(body);
  http::response_serializer<http::string_body> serializer(response);
  connection->stream.expires_after(connection->state->options.idle_timeout);
  error_code error;
  std::size_t size = 0;
  if (request->method() == http::verb::head) {
    std::tie(error, size) = co_await http::async_write_header(connection->stream, serializer, kAwait);
  } else {
    std::tie(error, size) = co_await http::async_write(connection->stream, serializer, kAwait);
  }
  co_return !error && response.keep_alive();
}

asio::awaitable<bool> SendError(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
                                Error error, http::status status) {
  std::string body = ToHttpBody(error, static_cast<int>(status));
  co_return co_await Send(std::move(connection), request, status, "application/json", std::move(body));
}

asio::awaitable<bool> SendError(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
                                Error error) {
  const auto status = static_cast<http::status>(ToHttpStatus(error.code));
  co_return co_await SendError(std::move(connection), std::move(request), std::move(error), status);
}

asio::awaitable<bool> SendOptions(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request) {
  http::response<http::empty_body> response{http::status::no_content, request->version()};
  AddCommonFields(response.base());
  // Headers that clients' libraries add of their own are not known here: whatever is asked for may be sent.
  constexpr std::string_view kMethods = "GET, HEAD, POST, DELETE, OPTIONS";
  response.set(http::field::allow, kMethods);
  response.set(http::field::access_control_allow_methods, kMethods);
  const auto wanted = request->find(http::field::access_control_request_headers);
  response.set(http::field::access_control_allow_headers,
               wanted == request->end() ? "Range, If-Range, If-None-Match, Content-Type, Authorization" : wanted->value());
  response.set(http::field::access_control_max_age, "86400");
  response.keep_alive(request->keep_alive() && !connection->state->is_draining);
  connection->stream.expires_after(connection->state->options.idle_timeout);
  const auto [error, size] = co_await http::async_write(connection->stream, response, kAwait);
  co_return !error && response.keep_alive();
}

// ---- The api

// What wakes the coroutine that writes an answer. Strand-only, but for Wake().
struct ApiWaiter : std::enable_shared_from_this<ApiWaiter> {
  std::shared_ptr<State> state;  // keeps the context alive that the strand belongs to
  Strand strand;
  Timer timer;
  bool is_woken = false;
  bool is_gone = false;      // the client
  bool is_watched = false;   // whether it goes

  ApiWaiter(std::shared_ptr<State> of, const Strand& on) : state(std::move(of)), strand(on), timer(on) {}
  void Wake() {
    asio::post(strand, [self = shared_from_this()] {
      self->is_woken = true;
      self->timer.cancel();
    });
  }
};

// A client that has nothing more to send is gone. (One that sends its next request already is not watched any more.)
void Watch(const std::shared_ptr<Connection>& connection, const std::shared_ptr<ApiWaiter>& waiter) {
  waiter->is_watched = true;
  connection->stream.socket().async_wait(tcp::socket::wait_read, [connection, waiter](error_code error) {
    waiter->is_watched = false;
    if (!error) {
      Socket& socket = connection->stream.socket();
      char byte = 0;
      socket.non_blocking(true, error);
      if (!error) socket.receive(asio::buffer(&byte, 1), tcp::socket::message_peek, error);
      if (!error) return;
      // The reactor may tell again of bytes that have been read long ago.
      if (error == asio::error::would_block || error == asio::error::try_again) return Watch(connection, waiter);
    }
    waiter->is_gone = true;
    waiter->timer.cancel();
  });
}

void AddApiFields(const Connection& connection, const Request& request, const ApiProgress& progress,
                  http::response<http::empty_body>& response) {
  AddCommonFields(response.base());
  response.set(http::field::content_type, progress.content_type);
  response.set(http::field::cache_control, "no-cache");
  for (const auto& [name, value] : progress.fields) response.set(name, value);
  response.keep_alive(request.keep_alive() && !connection.state->is_draining);
}

asio::awaitable<bool> SendApi(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
                              std::shared_ptr<const ApiProgress> progress) {
  http::response<http::empty_body> head{static_cast<http::status>(progress->status), request->version()};
  AddApiFields(*connection, *request, *progress, head);
  http::response<http::string_body> response{std::move(head.base())};
  response.body() = progress->bytes;
  response.prepare_payload();
  connection->stream.expires_after(connection->state->options.idle_timeout);
  const auto [error, size] = co_await http::async_write(connection->stream, response, kAwait);
  co_return !error && response.keep_alive();
}

// Bytes of a stream, in chunks but for clients of HTTP/1.0.
asio::awaitable<bool> SendPiece(std::shared_ptr<Connection> connection, bool as_chunk,
                                std::shared_ptr<const std::string> bytes) {
  connection->stream.expires_after(connection->state->options.idle_timeout);
  error_code error;
  std::size_t size = 0;
  if (as_chunk) {
    std::tie(error, size) =
        co_await asio::async_write(connection->stream, http::make_chunk(asio::buffer(*bytes)), kAwait);
  } else {
    std::tie(error, size) = co_await asio::async_write(connection->stream, asio::buffer(*bytes), kAwait);
  }
  connection->stream.expires_never();
  co_return !error;
}

asio::awaitable<bool> AnswerApi(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
                                std::string path) {
  const std::shared_ptr<State> state = connection->state;
  auto executor = co_await asio::this_coro::executor;
  const auto waiter = std::make_shared<ApiWaiter>(state, *executor.target<Strand>());
  error_code ignored;
  const auto peer = connection->stream.socket().remote_endpoint(ignored);
  ApiRequest asked;
  asked.method = std::string(request->method_string());
  asked.path = std::move(path);
  asked.body = request->body();
  asked.authorization = std::string((*request)[http::field::authorization]);
  asked.peer = peer.address().to_string(ignored);
  const std::unique_ptr<ApiAnswer> answer =
      state->options.api->Answer(std::move(asked), [waiter] { waiter->Wake(); });
  connection->stream.expires_never();
  Watch(connection, waiter);
  const bool as_chunks = request->version() >= 11;
  bool has_begun = false;
  bool may_go_on = true;
  for (;;) {
    waiter->is_woken = false;
    const auto progress = std::make_shared<ApiProgress>(answer->Take());
    if (waiter->is_gone) {
      may_go_on = false;
      break;
    }
    if (progress->has_begun && !progress->is_stream && progress->is_over) {
      if (waiter->is_watched) connection->stream.socket().cancel(ignored);
      co_return co_await SendApi(connection, request, progress);
    }
    if (progress->is_stream) {
      if (!std::exchange(has_begun, true)) {
        http::response<http::empty_body> head{static_cast<http::status>(progress->status), request->version()};
        AddApiFields(*connection, *request, *progress, head);
        if (as_chunks) {
          head.chunked(true);
        } else {
          head.keep_alive(false);
        }
        may_go_on = head.keep_alive();
        http::response_serializer<http::empty_body> serializer(head);
        connection->stream.expires_after(state->options.idle_timeout);
        const auto [error, size] = co_await http::async_write_header(connection->stream, serializer, kAwait);
        connection->stream.expires_never();
        if (error) {
          may_go_on = false;
          break;
        }
      }
      if (!progress->bytes.empty()) {
        const std::shared_ptr<const std::string> bytes(progress, &progress->bytes);
        if (!co_await SendPiece(connection, as_chunks, bytes)) {
          may_go_on = false;
          break;
        }
      }
      if (progress->is_over) {
        if (as_chunks) {
          connection->stream.expires_after(state->options.idle_timeout);
          const auto [error, size] = co_await asio::async_write(connection->stream, http::make_chunk_last(), kAwait);
          may_go_on = may_go_on && !error;
        }
        break;
      }
    }
    if (waiter->is_woken || waiter->is_gone) continue;
    if (has_begun) {
      waiter->timer.expires_after(state->options.idle_stream_interval);
    } else {
      waiter->timer.expires_at(std::chrono::steady_clock::time_point::max());
    }
    co_await waiter->timer.async_wait(kAwait);
    if (!waiter->is_woken && !waiter->is_gone && has_begun && !progress->idle_bytes.empty()) {
      const std::shared_ptr<const std::string> bytes(progress, &progress->idle_bytes);
      if (!co_await SendPiece(connection, as_chunks, bytes)) {
        may_go_on = false;
        break;
      }
    }
  }
  if (waiter->is_watched) connection->stream.socket().cancel(ignored);
  co_return may_go_on;
}

using OpenResult = Result<std::shared_ptr<const assets::OpenAsset>>;

// Store::Get as something to wait for.
asio::awaitable<OpenResult> GetAsset(std::shared_ptr<State> state, std::string name) {
  auto executor = co_await asio::this_coro::executor;
  struct Slot {
    OpenResult result = Fail(Code::kCancelled, "asset: not looked up");
    Timer timer;
    explicit Slot(const Strand& strand) : timer(strand) {}
  };
  const auto strand = *executor.target<Strand>();
  const auto slot = std::make_shared<Slot>(strand);
  slot->timer.expires_at(std::chrono::steady_clock::time_point::max());
  // `state` keeps the context alive that the strand belongs to.
  state->store.Get(name, [state, slot, strand](OpenResult result) {
    // The strand runs this after the wait below has begun.
    asio::post(strand, [slot, result = std::move(result)]() mutable {
      slot->result = std::move(result);
      slot->timer.cancel();
    });
  });
  co_await slot->timer.async_wait(kAwait);
  co_return std::move(slot->result);
}

asio::awaitable<bool> SendAsset(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
                                std::string name) {
  const std::shared_ptr<State> state = connection->state;
  connection->stream.expires_never();
  OpenResult opened = co_await GetAsset(state, std::move(name));
  if (!opened) co_return co_await SendError(connection, request, std::move(opened).error());
  const std::shared_ptr<const assets::OpenAsset> open = std::move(opened).value();

  const std::uint64_t size = open->source->size();
  const std::string etag = ETagOf(*open);
  http::response<http::empty_body> response{http::status::ok, request->version()};
  AddCommonFields(response.base());
  response.set(http::field::etag, etag);
  response.set(http::field::accept_ranges, "bytes");
  response.set(http::field::cache_control, "no-cache");
  response.keep_alive(request->keep_alive() && !state->is_draining);
  ByteRange range{0, size};
  bool has_body = request->method() == http::verb::get;
  if (const auto match = request->find(http::field::if_none_match);
      match != request->end() && MatchesETag(match->value(), etag, true)) {
    response.result(http::status::not_modified);
    has_body = false;
  } else {
    const auto if_range = request->find(http::field::if_range);
    const bool may_be_part = if_range == request->end() || MatchesETag(if_range->value(), etag, false);
    const RangeKind kind =
        may_be_part && has_body ? ParseRange((*request)[http::field::range], size, range) : RangeKind::kWhole;
    if (kind == RangeKind::kUnsatisfiable) {
      response.result(http::status::range_not_satisfiable);
      response.set(http::field::content_range, "bytes */" + std::to_string(size));
      range.count = 0;
    } else if (kind == RangeKind::kPart) {
      response.result(http::status::partial_content);
      response.set(http::field::content_range, "bytes " + std::to_string(range.first) + "-" +
                                                   std::to_string(range.first + range.count - 1) + "/" +
                                                   std::to_string(size));
    }
    response.set(http::field::content_type, "application/octet-stream");
    response.content_length(range.count);
  }
  http::response_serializer<http::empty_body> serializer(response);
  connection->stream.expires_after(state->options.idle_timeout);
  const auto [header_error, header_bytes] = co_await http::async_write_header(connection->stream, serializer, kAwait);
  if (header_error) co_return false;
  if (!has_body) co_return response.keep_alive();

  std::vector<std::uint8_t> piece(static_cast<std::size_t>(std::min<std::uint64_t>(range.count, kFilePieceBytes)));
  for (std::uint64_t done = 0; done < range.count;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(range.count - done, piece.size()));
    // The status has gone out: a file that cannot be read any more ends the connection.
    if (!open->source->ReadAt(range.first + done, std::span(piece).first(count))) co_return false;
    connection->stream.expires_after(state->options.idle_timeout);
    const auto [error, written] =
        co_await asio::async_write(connection->stream, asio::buffer(piece.data(), count), kAwait);
    state->file_bytes += written;
    if (error) co_return false;
    done += count;
  }
  co_return response.keep_alive();
}

asio::awaitable<bool> SendList(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
                               Target target, bool as_html) {
  std::size_t limit = kListLimit;
  if (const auto text = target.Query("limit")) {
    std::size_t wished = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), wished);
    if (error != std::errc() || end != text->data() + text->size() || wished == 0) {
      Error bad{Code::kInvalidArgument, "limit: expected a number of 1 or more"};
      co_return co_await SendError(connection, request, std::move(bad));
    }
    limit = std::min(limit, wished);
  }
  std::vector<assets::Entry> entries = connection->state->store.List(target.Query("after").value_or(""), limit + 1);
  const bool has_more = entries.size() > limit;
  if (has_more) entries.resize(limit);
  std::string body = as_html ? ListHtml(entries, has_more) : ListJson(entries, has_more);
  std::string type = as_html ? "text/html; charset=utf-8" : "application/json";
  co_return co_await Send(connection, request, http::status::ok, std::move(type), std::move(body));
}

// Answers one request; true if the connection may be used for another.
asio::awaitable<bool> Answer(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request) {
  const std::shared_ptr<State> state = connection->state;
  ++state->requests;
  if (request->method() == http::verb::options) co_return co_await SendOptions(connection, request);
  if (state->options.api) {
    const Result<Target> asked = ParseTarget(request->target());
    if (asked && state->options.api->Has(asked->path)) {
      co_return co_await AnswerApi(connection, request, asked->path);
    }
  }
  if (request->method() != http::verb::get && request->method() != http::verb::head) {
    Error error{Code::kUnimplemented, "method: expected GET, HEAD or OPTIONS"};
    co_return co_await SendError(connection, request, std::move(error), http::status::method_not_allowed);
  }
  Result<Target> target = ParseTarget(request->target());
  if (!target) co_return co_await SendError(connection, request, std::move(target).error());
  const std::string path = target->path;
  if (path == "/healthz") {
    const http::status status = state->is_draining ? http::status::service_unavailable : http::status::ok;
    std::string body = state->is_draining ? "stopping\n" : "ok\n";
    co_return co_await Send(connection, request, status, "text/plain; charset=utf-8", std::move(body));
  }
  if (path == "/readyz") {
    const bool is_ready = !state->is_draining && (!state->options.ready || state->options.ready());
    std::string body = is_ready ? "ready\n" : "not ready\n";
    co_return co_await Send(connection, request, is_ready ? http::status::ok : http::status::service_unavailable,
                            "text/plain; charset=utf-8", std::move(body));
  }
  if (path == "/metrics" && state->options.metrics) {
    std::string body = state->options.metrics();
    co_return co_await Send(connection, request, http::status::ok, "text/plain; version=0.0.4; charset=utf-8",
                            std::move(body));
  }
  if (path == "/v1/assets") co_return co_await SendList(connection, request, std::move(target).value(), false);
  if (path == "/") co_return co_await SendList(connection, request, std::move(target).value(), true);
  if (path == protocol::kWebSocketPath) {
    Error error{Code::kInvalidArgument, "stream: expected a WebSocket upgrade"};
    co_return co_await SendError(connection, request, std::move(error), http::status::upgrade_required);
  }
  if (std::optional<std::string> name = AssetNameOf(path)) {
    co_return co_await SendAsset(connection, request, std::move(*name));
  }
  Error unknown{Code::kNotFound, "target: there is nothing at " + path};
  co_return co_await SendError(connection, request, std::move(unknown));
}

// Reads for a while what a client still sends: closed at once, the connection would be reset under the answer.
asio::awaitable<void> Discard(std::shared_ptr<Connection> connection) {
  constexpr std::size_t kMostBytes = std::size_t{256} << 20;
  error_code ignored;
  connection->stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
  std::vector<char> scratch(64u << 10);
  connection->stream.expires_after(std::chrono::seconds(10));
  for (std::size_t read = 0; read < kMostBytes;) {
    const auto [error, size] = co_await connection->stream.async_read_some(asio::buffer(scratch), kAwait);
    if (error) break;
    read += size;
  }
}

// What a request's body may take, while it is there.
class BodyShare {
 public:
  BodyShare(std::shared_ptr<State> state, std::uint64_t bytes) : state_(std::move(state)), bytes_(bytes) {
    state_->body_bytes += bytes_;
  }
  BodyShare(const BodyShare&) = delete;
  BodyShare& operator=(const BodyShare&) = delete;
  ~BodyShare() { state_->body_bytes -= bytes_; }

 private:
  std::shared_ptr<State> state_;
  std::uint64_t bytes_;
};

asio::awaitable<void> RunConnection(std::shared_ptr<Connection> connection) {
  const std::shared_ptr<State> state = connection->state;
  beast::flat_buffer buffer;
  for (;;) {
    http::request_parser<http::string_body> parser;
    parser.header_limit(kMaxHeaderBytes);
    const Api* const api = state->options.api.get();
    const std::uint64_t api_bytes = api == nullptr ? 0 : api->max_body_bytes();
    parser.body_limit(std::max(kMaxBodyBytes, api_bytes));
    connection->is_between_requests = true;
    connection->stream.expires_after(state->options.idle_timeout);
    auto [error, size] = co_await http::async_read_header(connection->stream, buffer, parser, kAwait);
    connection->is_between_requests = false;
    bool is_for_api = false;
    if (api != nullptr && (!error || error == http::error::body_limit)) {
      const Result<Target> target = ParseTarget(parser.get().target());
      is_for_api = target && api->Has(target->path);
    }
    if (!error && !is_for_api) {
      parser.body_limit(kMaxBodyBytes);
      if (parser.content_length().value_or(0) > kMaxBodyBytes) error = http::error::body_limit;
    }
    // A length is a claim, and what says none may be as long as any.
    std::uint64_t claimed = 0;
    if (!error && is_for_api) claimed = parser.content_length().value_or(parser.chunked() ? api_bytes : 0);
    const BodyShare share(state, claimed);
    if (claimed > 0 && state->body_bytes > state->options.max_body_bytes) {
      const auto none = std::make_shared<Request>();
      none->version(11);
      none->keep_alive(false);
      Error full{Code::kUnavailable, "the bodies of requests take too much memory now"};
      const auto refusal = std::make_shared<const ApiProgress>(api->Refuse(full, 0));
      co_await SendApi(connection, none, refusal);
      co_await Discard(connection);
      break;
    }
    if (!error && !parser.is_done() && parser.get()[http::field::expect] == "100-continue") {
      http::response<http::empty_body> go_on{http::status::continue_, parser.get().version()};
      std::tie(error, size) = co_await http::async_write(connection->stream, go_on, kAwait);
    }
    if (!error) std::tie(error, size) = co_await http::async_read(connection->stream, buffer, parser, kAwait);
    if (error) {
      const bool is_too_large = error == http::error::header_limit || error == http::error::body_limit;
      const bool is_ours = error.category() == http::make_error_code(http::error::bad_method).category();
      if (is_ours && error != http::error::end_of_stream && error != http::error::partial_message) {
        const auto none = std::make_shared<Request>();
        none->version(11);
        none->keep_alive(false);
        Error bad{Code::kInvalidArgument,
                  (is_too_large ? "request too large: " : "no HTTP request: ") + error.message()};
        if (is_for_api && error == http::error::body_limit) {
          bad.message = "request too large: expected at most " + std::to_string(api_bytes) + " bytes";
          const auto refusal = std::make_shared<const ApiProgress>(
              api->Refuse(bad, static_cast<int>(http::status::payload_too_large)));
          co_await SendApi(connection, none, refusal);
        } else {
          co_await SendError(connection, none, std::move(bad));
        }
        if (is_too_large) co_await Discard(connection);
      }
      break;
    }
    const auto request = std::make_shared<Request>(parser.release());
    if (websocket::is_upgrade(*request) &&
        std::string_view(request->target()).substr(0, std::string_view(request->target()).find('?')) ==
            protocol::kWebSocketPath) {
      ++state->requests;
      co_await RunWebSocket(std::move(connection), request);
      co_return;
    }
    if (!co_await Answer(connection, request)) break;
  }
  error_code ignored;
  connection->stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
}

// A root of coroutines: what foreign code throws ends this connection only.
void Launch(const std::shared_ptr<State>& state, Socket socket) {
  const Strand strand = socket.get_executor();
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  const auto connection = std::make_shared<Connection>(state, std::move(socket));
  {
    const std::lock_guard lock(state->mutex);
    connection->id = state->next_connection++;
    const std::weak_ptr<Connection> weak = connection;
    state->connections.emplace(connection->id, [weak, strand](bool force) {
      asio::post(strand, [weak, force] {
        const auto self = weak.lock();
        // A WebSocket's stream has been moved out; its session is told by the service.
        if (self && !self->is_websocket && (force || self->is_between_requests)) self->stream.close();
      });
    });
  }
  asio::co_spawn(strand, RunConnection(connection), [state](std::exception_ptr thrown) {
    if (!thrown) return;
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
      state->Log(std::string("http: a connection ended with ") + error.what());
    }
  });
}

asio::awaitable<void> Accept(std::shared_ptr<State> state) {
  for (;;) {
    auto [error, socket] = co_await state->acceptor.async_accept(asio::make_strand(state->context), kAwait);
    if (error == asio::error::operation_aborted || !state->acceptor.is_open()) break;
    if (error) {
      // Out of descriptors, most likely: give others time to close theirs.
      state->Log("http: cannot accept: " + error.message());
      Timer pause(state->accept_strand, std::chrono::milliseconds(100));
      co_await pause.async_wait(kAwait);
      continue;
    }
    bool is_full = false;
    {
      const std::lock_guard lock(state->mutex);
      is_full = state->connections.size() >= state->options.max_connections;
    }
    if (is_full) continue;  // the socket closes
    Launch(state, std::move(socket));
  }
  const std::lock_guard lock(state->mutex);
  state->is_accepting = false;
  state->changed.notify_all();
}

}  // namespace

Server::Server(std::shared_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  Stop(std::chrono::steady_clock::now());
}

Result<std::unique_ptr<Server>> Server::Start(Options options, assets::Store& store, streaming::Service& service) {
  auto state = std::make_shared<State>(std::move(options), store, service);
  const std::string where = state->options.host + ":" + std::to_string(state->options.port);
  error_code error;
  tcp::resolver resolver(state->context);
  const auto endpoints = resolver.resolve(state->options.host, std::to_string(state->options.port),
                                          tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error) return Fail(Code::kUnavailable, "http: cannot resolve " + where + ": " + error.message());
  const tcp::endpoint endpoint = endpoints.begin()->endpoint();
  state->acceptor.open(endpoint.protocol(), error);
  if (!error) state->acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) state->acceptor.bind(endpoint, error);
  if (!error) state->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return Fail(Code::kUnavailable, "http: cannot listen on " + where + ": " + error.message());
  state->port = state->acceptor.local_endpoint(error).port();

  asio::co_spawn(state->accept_strand, Accept(state), asio::detached);
  for (unsigned i = 0; i < std::max(1u, state->options.threads); ++i) {
    state->threads.emplace_back([raw = state.get()] { raw->context.run(); });
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

int Server::port() const {
  return state_->port;
}

Statistics Server::statistics() const {
  Statistics statistics;
  statistics.requests = state_->requests;
  statistics.file_bytes = state_->file_bytes;
  const std::lock_guard lock(state_->mutex);
  statistics.connections = state_->connections.size();
  return statistics;
}

void Server::CloseNow() {
  state_->CloseAll(true);
}

void Server::BeginDrain() {
  if (state_->is_draining.exchange(true)) return;
  asio::post(state_->accept_strand, [state = state_] {
    error_code ignored;
    state->acceptor.close(ignored);
  });
  state_->CloseAll(false);
}

void Server::Stop(std::chrono::steady_clock::time_point deadline) {
  BeginDrain();
  {
    std::unique_lock lock(state_->mutex);
    if (std::exchange(state_->is_stopped, true)) return;
    state_->changed.wait_until(lock, deadline, [this] { return state_->connections.empty() && !state_->is_accepting; });
  }
  state_->CloseAll(true);
  state_->service.AbortAll();
  {
    // Closing takes a moment on each strand.
    std::unique_lock lock(state_->mutex);
    state_->changed.wait_for(lock, std::chrono::seconds(2),
                             [this] { return state_->connections.empty() && !state_->is_accepting; });
  }
  state_->context.stop();
  for (std::thread& thread : state_->threads) thread.join();
  state_->threads.clear();
  // A handler that has been queued keeps the state, and so the context that has it in its queue.
  state_->context.restart();
  state_->context.poll();
}

}  // namespace holo::transports::http
