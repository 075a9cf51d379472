#include <google/protobuf/stubs/logging.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "common/basis/basis.h"
#include "common/bytes/bytes.h"
#include "common/codec/codec.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "server/assets/assets.h"
#include "server/completion/completion.h"
#include "server/openai/openai.h"
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

Result<std::vector<std::string>> ApiKeys(const ServerOptions& options) {
  std::vector<std::string> keys = options.api_keys;
  if (!options.api_key_file.empty()) {
    HOLO_ASSIGN_OR_RETURN(const auto bytes, files::ReadFile(options.api_key_file, std::uint64_t{1} << 20));
    std::istringstream lines(std::string(bytes.begin(), bytes.end()));
    for (std::string line; std::getline(lines, line);) {
      while (!line.empty() && std::strchr(" \t\r", line.back()) != nullptr) line.pop_back();
      if (!line.empty() && line.front() != '#') keys.push_back(line);
    }
    if (keys.empty()) {
      return Fail(Code::kInvalidArgument, options.api_key_file.string() + ": expected at least one key, found none");
    }
  }
  for (const std::string& key : keys) {
    if (key.empty()) return Fail(Code::kInvalidArgument, "--api-key: expected a key, found an empty one");
  }
  return keys;
}

// A line of the log stays one, whatever a client's request made of it: control characters are written as \xNN.
std::string InOneLine(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<std::uint8_t>(c);
    const bool is_control = byte < 0x20 || byte == 0x7f;
    line += is_control ? "\\x" + bytes::ToHex({&byte, 1}) : std::string(1, c);
  }
  return line;
}

// Null without models.
Result<std::unique_ptr<completion::Service>> OpenModels(const ServerOptions& options, spdlog::logger& log) {
  if (options.models.empty()) return nullptr;
  completion::Options settings;
  settings.threads = options.model_threads != 0 ? options.model_threads : std::max(1u, std::thread::hardware_concurrency());
  settings.default_max_tokens = options.default_max_tokens;
  settings.sessions.directory = options.sessions;
  settings.sessions.parked_bytes = options.session_memory_mib << 20;
  settings.sessions.most_saved = options.max_saved_sessions;
  settings.sessions.saved_bytes = options.saved_session_space_mib << 20;
  settings.limits.parked_bytes = options.preempted_memory_mib << 20;
  settings.limits.max_running = options.max_batch;
  settings.limits.max_of_client = options.max_per_client;
  settings.limits.max_queued = options.max_queue;
  settings.limits.memory_bytes = options.model_memory_mib << 20;
  settings.limits.prompt_tokens = options.prompt_chunk;
  settings.log = [&log](const std::string& line) { log.warn(InOneLine(line)); };
  std::vector<std::shared_ptr<const completion::Model>> models;
  for (const std::string& given : options.models) {
    // "NAME=PATH"; a path may have an equals sign itself where it has a slash before it.
    const std::size_t equals = given.find('=');
    const bool has_name = equals != std::string::npos && given.find('/') > equals;
    model_directory::Options open;
    open.plain_method = options.model_cache;
    const std::string path = has_name ? given.substr(equals + 1) : given;
    HOLO_ASSIGN_OR_RETURN(const std::filesystem::path place, model_directory::Locate(path));
    std::string name = has_name ? given.substr(0, equals) : "";
    if (name.empty() && model_directory::FindNamed(path) != nullptr) name = path;
    HOLO_ASSIGN_OR_RETURN(auto model,
                          completion::Model::Open(std::move(name), place, open, options.chat_template));
    log.info("model {}: context {}, memory {}, {:.0f} bytes for each token, chat template {}", model->name(),
             model->context(), model->files().method, model->engine().scheme->bytes_per_token(), model->form().name);
    models.push_back(std::move(model));
  }
  return completion::Service::Create(std::move(settings), std::move(models));
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
  const auto log_line = [&log](const std::string& line) { log.info(InOneLine(line)); };

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

  HOLO_ASSIGN_OR_RETURN(const std::vector<std::string> api_keys, ApiKeys(options));
  HOLO_ASSIGN_OR_RETURN(const std::unique_ptr<completion::Service> texts, OpenModels(options, log));

  // Declared before what uses it; /metrics asks the HTTP server about itself.
  std::unique_ptr<transports::http::Server> http;
  std::atomic<const transports::http::Server*> http_for_metrics{nullptr};
  if (http_address.enabled) {
    transports::http::Options http_options;
    http_options.host = http_address.host;
    http_options.port = http_address.port;
    http_options.max_connections = options.max_connections;
    http_options.log = log_line;
    if (texts) {
      http_options.api = openai::MakeApi({completion::ApiKeys(api_keys), log_line}, *texts);
      http_options.ready = [&texts, most = std::size_t{options.max_queue}] {
        return !texts->is_draining() && texts->statistics().now.queued < most;
      };
    }
    http_options.metrics = [&store, &service, &texts, &http_for_metrics] {
      const auto* server = http_for_metrics.load();
      std::optional<completion::Statistics> text_statistics;
      if (texts) text_statistics = texts->statistics();
      return MetricsText(store->statistics(), service.statistics(),
                         server != nullptr ? server->statistics() : transports::http::Statistics{},
                         text_statistics ? &*text_statistics : nullptr);
    };
    HOLO_ASSIGN_OR_RETURN(http, transports::http::Server::Start(std::move(http_options), *store, service));
    http_for_metrics = http.get();
  }
  std::unique_ptr<transports::grpc_transport::Server> grpc;
  if (grpc_address.enabled) {
    transports::grpc_transport::Options grpc_options;
    grpc_options.host = grpc_address.host;
    grpc_options.port = grpc_address.port;
    grpc_options.texts = texts.get();
    grpc_options.keys = completion::ApiKeys(api_keys);
    grpc_options.log = log_line;
    HOLO_ASSIGN_OR_RETURN(grpc, transports::grpc_transport::Server::Start(grpc_options, *store, service));
  }

  nlohmann::json ready = {{"pid", getpid()}};
  if (!options.store.empty()) {
    std::cout << "holo serves " << store->statistics().entries << " pictures from " << options.store.string() << "\n";
  }
  if (texts) {
    std::cout << (options.store.empty() ? "holo serves text from" : "and text from");
    for (const auto& model : texts->models()) std::cout << " " << model->name();
    std::cout << "\n";
  }
  if (http) {
    const std::string host = UrlHost(http_address) + ":" + std::to_string(http->port());
    std::cout << "  page       http://" << host << "/\n  WebSocket  ws://" << host << "\n";
    if (texts) std::cout << "  OpenAI     http://" << host << "/v1\n";
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
  log.info("{}: finishing {} streams and {} texts", strsignal(number), service.statistics().streams,
           texts ? texts->statistics().now.running : 0);
  if (texts) texts->BeginDrain();
  if (http) http->BeginDrain();
  if (grpc) grpc->BeginDrain();
  service.Drain("the server is shutting down");
  const auto deadline = SteadyClock::now() + std::chrono::seconds(options.shutdown_timeout_s);
  const auto is_empty = [&] {
    const auto soon = std::min(deadline, SteadyClock::now() + std::chrono::milliseconds(100));
    return service.WaitUntilEmpty(soon) && (!texts || texts->WaitUntilEmpty(soon));
  };
  while (!is_empty()) {
    if (SteadyClock::now() >= deadline || signals.WaitFor(std::chrono::milliseconds(0))) break;
  }
  service.AbortAll();
  if (texts) texts->AbortAll();
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
