#include <google/protobuf/stubs/logging.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/basis/basis.h"
#include "common/bytes/bytes.h"
#include "common/codec/codec.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "server/assets/assets.h"
#include "server/operations/metrics.h"
#include "server/operations/operations.h"
#include "server/streaming/streaming.h"
#include "server/transports/grpc/grpc.h"
#include "server/transports/http/http.h"

namespace holo::operations {
namespace {

using SteadyClock = std::chrono::steady_clock;

// SIGINT and SIGTERM, taken by waiting instead of by a handler. Blocked for every thread started afterwards.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }

  // The number of the next one.
  int Wait() const {
    int number = 0;
    while (sigwait(&set_, &number) != 0) {
    }
    return number;
  }
  // Whether one has come, waiting up to `limit`.
  bool WaitFor(std::chrono::milliseconds limit) const {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
    const std::chrono::nanoseconds rest = limit - seconds;
    const timespec time = {seconds.count(), rest.count()};
    return sigtimedwait(&set_, nullptr, &time) > 0;
  }

 private:
  sigset_t set_{};
};

Result<std::vector<std::uint8_t>> Compress(const ServerOptions& options, const std::filesystem::path& path) {
  image_io::LoadOptions load;
  load.max_pixels = options.max_picture_mpixels * 1'000'000;
  HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(path, load));
  codec::EncodeOptions encode;
  encode.quality = options.quality;
  encode.threads = std::max(1u, std::thread::hardware_concurrency() / options.compress_threads);
  HOLO_ASSIGN_OR_RETURN(codec::Encoded encoded, codec::Encode(picture, encode));
  return std::move(encoded.file);
}

// A basis that lies in the folder, by the hash of its content: as HASH.basis, or under any other name ending in .basis.
std::shared_ptr<const std::vector<std::uint8_t>> FindBasis(const std::filesystem::path& folder,
                                                           const basis::Hash& hash) {
  const auto load = [&hash](const std::filesystem::path& path) -> std::shared_ptr<const std::vector<std::uint8_t>> {
    auto bytes = files::ReadFile(path, basis::kMaxBasisBytes);
    if (!bytes || basis::HashOf(*bytes) != hash || !basis::Basis::Parse(*bytes)) return nullptr;
    return std::make_shared<const std::vector<std::uint8_t>>(std::move(*bytes));
  };
  if (auto named = load(folder / (bytes::ToHex(hash) + ".basis"))) return named;
  constexpr int kMostLooked = 256;
  int looked = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() != ".basis") continue;
    if (++looked > kMostLooked) break;
    if (auto found = load(entry->path())) return found;
  }
  return nullptr;
}

std::string UrlHost(const Address& address) {
  if (address.host == "0.0.0.0" || address.host == "::") return "localhost";
  return address.host.find(':') == std::string::npos ? address.host : "[" + address.host + "]";
}

Result<void> Serve(const ServerOptions& options, const Signals& signals, spdlog::logger& log) {
  HOLO_ASSIGN_OR_RETURN(const Address http_address, ParseAddress(options.http));
  HOLO_ASSIGN_OR_RETURN(const Address grpc_address, ParseAddress(options.grpc));
  if (!http_address.enabled && !grpc_address.enabled) {
    return Fail(Code::kInvalidArgument, "expected HTTP or gRPC to be on, found both off");
  }
  const auto log_line = [&log](const std::string& line) { log.info(line); };

  assets::Options store_options;
  store_options.folder = options.store;
  store_options.cache_folder = options.cache;
  store_options.max_memory_bytes = options.max_memory_mib << 20;
  store_options.compress_threads = options.compress_threads;
  store_options.compress_ahead = options.compress_ahead;
  store_options.compress = [&options](const std::filesystem::path& path) { return Compress(options, path); };
  store_options.is_picture = image_io::IsPictureName;
  store_options.compress_settings =
      "format " + std::to_string(container::kFormatVersion) + " quality " + std::to_string(options.quality);
  store_options.log = log_line;
  HOLO_ASSIGN_OR_RETURN(const std::unique_ptr<assets::Store> store, assets::Store::Open(std::move(store_options)));

  streaming::Options stream_options;
  stream_options.max_streams = options.max_streams;
  stream_options.stall_timeout = std::chrono::seconds(options.stall_timeout_s);
  stream_options.log = log_line;
  stream_options.session.max_bytes_per_second = options.max_bytes_per_second;
  if (!options.token.empty()) {
    stream_options.session.authorize = [&options](std::string_view token) -> Result<void> {
      // The time must not tell how much of a guess is right.
      unsigned difference = token.size() == options.token.size() ? 0 : 1;
      for (std::size_t i = 0; i < token.size(); ++i) {
        difference |= static_cast<unsigned>(token[i] ^ options.token[i % options.token.size()]);
      }
      if (difference == 0) return {};
      return Fail(Code::kUnauthenticated, "expected this server's token in the hello");
    };
  }
  const std::filesystem::path bases = options.bases.empty() ? options.store : options.bases;
  stream_options.session.find_basis = [bases](const basis::Hash& hash) { return FindBasis(bases, hash); };
  streaming::Service service(std::move(stream_options), *store);

  // Declared before what uses it; /metrics asks the HTTP server about itself.
  std::unique_ptr<transports::http::Server> http;
  std::atomic<const transports::http::Server*> http_for_metrics{nullptr};
  if (http_address.enabled) {
    transports::http::Options http_options;
    http_options.host = http_address.host;
    http_options.port = http_address.port;
    http_options.max_connections = options.max_connections;
    http_options.log = log_line;
    http_options.metrics = [&store, &service, &http_for_metrics] {
      const auto* server = http_for_metrics.load();
      return MetricsText(store->statistics(), service.statistics(),
                         server != nullptr ? server->statistics() : transports::http::Statistics{});
    };
    HOLO_ASSIGN_OR_RETURN(http, transports::http::Server::Start(std::move(http_options), *store, service));
    http_for_metrics = http.get();
  }
  std::unique_ptr<transports::grpc_transport::Server> grpc;
  if (grpc_address.enabled) {
    transports::grpc_transport::Options grpc_options;
    grpc_options.host = grpc_address.host;
    grpc_options.port = grpc_address.port;
    HOLO_ASSIGN_OR_RETURN(grpc, transports::grpc_transport::Server::Start(grpc_options, *store, service));
  }

  nlohmann::json ready = {{"pid", getpid()}};
  std::cout << "holo serves " << store->statistics().entries << " pictures from " << options.store.string() << "\n";
  if (http) {
    const std::string host = UrlHost(http_address) + ":" + std::to_string(http->port());
    std::cout << "  page       http://" << host << "/\n  WebSocket  ws://" << host << "\n";
    ready["http"] = "http://" + host;
    ready["websocket"] = "ws://" + host;
  }
  if (grpc) {
    const std::string host = UrlHost(grpc_address) + ":" + std::to_string(grpc->port());
    std::cout << "  gRPC       grpc://" << host << "\n";
    ready["grpc"] = "grpc://" + host;
  }
  std::cout << "Ctrl-C stops it." << std::endl;
  if (!options.ready_file.empty()) {
    const std::string text = ready.dump() + "\n";
    HOLO_RETURN_IF_ERROR(
        files::AtomicWrite(options.ready_file, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}));
  }

  const int number = signals.Wait();
  log.info("{}: finishing {} streams", strsignal(number), service.statistics().streams);
  if (http) http->BeginDrain();
  if (grpc) grpc->BeginDrain();
  service.Drain("the server is shutting down");
  const auto deadline = SteadyClock::now() + std::chrono::seconds(options.shutdown_timeout_s);
  while (!service.WaitUntilEmpty(std::min(deadline, SteadyClock::now() + std::chrono::milliseconds(100)))) {
    if (SteadyClock::now() >= deadline || signals.WaitFor(std::chrono::milliseconds(0))) break;
  }
  service.AbortAll();
  if (grpc) grpc->Stop(std::chrono::system_clock::now() + std::chrono::seconds(1));
  if (http) http->Stop(SteadyClock::now() + std::chrono::seconds(1));
  log.info("stopped");
  return {};
}

}  // namespace

int RunServer(const std::string& program, const ServerOptions& options) {
  const Signals signals;
  // Its complaints about what clients send are our answers to them, and would let a client fill the log.
  google::protobuf::SetLogHandler(nullptr);
  auto log = std::make_shared<spdlog::logger>(program, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  log->set_level(spdlog::level::from_str(options.log_level == "error" ? "err" : options.log_level));
  log->flush_on(spdlog::level::info);
  const Result<void> served = Serve(options, signals, *log);
  if (served) return 0;
  std::cerr << program << ": " << served.error().message << "\n";
  return ToExitCode(served.error().code);
}

}  // namespace holo::operations
