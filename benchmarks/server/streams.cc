// holo_benchmark_streams: how many viewers one core of holod serves.
//
// Starts holod on a store of pictures and connects viewers over WebSocket from one thread. Each opens one picture after
// the other, lets all of it come, acknowledges at once and decodes nothing. Two rounds:
//   paced   many viewers, each limited to 1 Mbit/s
//   greedy  few viewers without a limit
// Printed: bytes and pictures delivered, the processor time holod took for them, and from it the streams of 1 Mbit/s
// that one core carries.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/tools/tools.h"
#include "common/codec/codec.h"
#include "common/files/files.h"
#include "common/image_io/image_io.h"
#include "common/protocol/protocol.h"

namespace holo::benchmarks {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using WebSocket = beast::websocket::stream<beast::tcp_stream>;

constexpr std::uint64_t kMegabitBytes = 125000;  // bytes per second
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

struct Options {
  std::string holod = HOLO_PROGRAM_HOLOD;
  std::string store;
  unsigned viewers = 200;
  unsigned greedy_viewers = 16;
  double seconds = 10;
};

// What all viewers of a round have seen. Only its one thread touches it.
struct Round {
  std::uint16_t port = 0;
  std::vector<std::string> names;
  std::uint64_t bytes_per_second = 0;  // per viewer; 0: no limit
  Clock::time_point end;

  std::uint64_t payload_bytes = 0;
  std::uint64_t pictures = 0;
  std::uint64_t failures = 0;
  std::string first_failure;
  std::vector<double> first_chunk_ms;  // from asking for a picture to its first chunk
};

void CountFailure(Round& round, const std::string& message) {
  if (round.failures++ == 0) round.first_failure = message;
}

// One viewer until the round ends. Returns a message if something went wrong.
asio::awaitable<std::string> View(Round* round, std::size_t first_picture) {
  const auto executor = co_await asio::this_coro::executor;
  WebSocket socket(executor);
  beast::get_lowest_layer(socket).expires_after(std::chrono::seconds(30));
  const tcp::endpoint endpoint(asio::ip::address_v4::loopback(), round->port);
  const auto [connect_error] = co_await beast::get_lowest_layer(socket).async_connect(endpoint, kAwait);
  if (connect_error) co_return "connect: " + connect_error.message();
  const std::string path(protocol::kWebSocketPath);
  const auto [handshake_error] = co_await socket.async_handshake("127.0.0.1", path, kAwait);
  if (handshake_error) co_return "handshake: " + handshake_error.message();
  socket.binary(true);
  socket.read_message_max(protocol::kMaxServerMessageBytes);

  protocol::ClientOptions options;
  options.client_name = "holo_benchmark_streams";
  options.bytes_per_second = round->bytes_per_second;
  for (const auto& basis : basis::BuiltIns()) options.bases.push_back(basis->hash());
  protocol::ClientSession session(options);
  beast::flat_buffer buffer;
  std::string out;
  for (std::size_t picture = first_picture; Clock::now() < round->end; ++picture) {
    const Clock::time_point asked = Clock::now();
    const auto handle = session.Open(round->names[picture % round->names.size()], nullptr, protocol::View{});
    if (!handle) co_return ToString(handle.error());
    bool shown = false;
    for (bool complete = false; !complete && Clock::now() < round->end;) {
      beast::get_lowest_layer(socket).expires_after(std::chrono::seconds(30));
      while (const auto message = session.NextMessage()) {
        out.clear();
        if (!message->SerializeToString(&out)) co_return "a message cannot be serialised";
        const auto [write_error, written] = co_await socket.async_write(asio::buffer(out), kAwait);
        if (write_error) co_return "write: " + write_error.message();
      }
      buffer.clear();
      const auto [read_error, count] = co_await socket.async_read(buffer, kAwait);
      if (read_error) co_return "read: " + read_error.message();
      auto message =
          protocol::ParseServerMessage({static_cast<const std::uint8_t*>(buffer.cdata().data()), buffer.size()});
      if (!message) co_return ToString(message.error());
      const auto event = session.Receive(std::move(*message));
      if (!event) co_return ToString(event.error());
      if (const auto* chunk = std::get_if<protocol::ChunkReceived>(&*event)) {
        round->payload_bytes += chunk->bytes.size();
        session.Acknowledge(session.received_payload_bytes());
        if (!shown) {
          shown = true;
          round->first_chunk_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - asked).count());
        }
      } else if (std::holds_alternative<protocol::ViewCompleted>(*event)) {
        complete = true;
        ++round->pictures;
      } else if (const auto* failed = std::get_if<protocol::AssetFailed>(&*event)) {
        co_return ToString(failed->error);
      }
    }
    session.Close(*handle);
  }
  // Whatever was to be measured has been.
  static_cast<void>(co_await socket.async_close(beast::websocket::close_code::normal, kAwait));
  co_return "";
}

asio::awaitable<void> Count(Round* round, std::size_t first_picture) {
  const std::string failure = co_await View(round, first_picture);
  if (!failure.empty()) CountFailure(*round, failure);
}

Result<void> Run(const Options& options, const RunningTool& holod, const char* name, unsigned viewers,
                 std::uint64_t bytes_per_second, std::uint16_t port, const std::vector<std::string>& names) {
  Round round;
  round.port = port;
  round.names = names;
  round.bytes_per_second = bytes_per_second;
  round.end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  asio::io_context context(1);
  for (unsigned i = 0; i < viewers; ++i) asio::co_spawn(context, Count(&round, i * 7), asio::detached);
  HOLO_ASSIGN_OR_RETURN(const double cpu_before, holod.CpuSeconds());
  const Clock::time_point start = Clock::now();
  context.run();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  HOLO_ASSIGN_OR_RETURN(const double cpu_after, holod.CpuSeconds());
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t memory, holod.PeakMemoryBytes());
  if (round.payload_bytes == 0) return Fail(Code::kUnavailable, std::string(name) + ": " + round.first_failure);

  const double cpu = std::max(cpu_after - cpu_before, 0.01);
  std::sort(round.first_chunk_ms.begin(), round.first_chunk_ms.end());
  const auto percentile = [&](double part) {
    return round.first_chunk_ms[static_cast<std::size_t>(part * static_cast<double>(round.first_chunk_ms.size() - 1))];
  };
  std::printf("%-7s %8u %8.1f %9llu %9.1f %9.2f %9.1f %9.0f %9.1f %9.1f %9.0f\n", name, viewers, seconds,
              static_cast<unsigned long long>(round.pictures), static_cast<double>(round.payload_bytes) / 1e6, cpu,
              static_cast<double>(round.payload_bytes) / 1e6 / cpu,
              static_cast<double>(round.payload_bytes) / kMegabitBytes / cpu, percentile(0.5), percentile(0.99),
              static_cast<double>(memory) / (1 << 20));
  if (round.failures > 0) {
    std::printf("        %llu viewers failed, the first with: %s\n", static_cast<unsigned long long>(round.failures),
                round.first_failure.c_str());
  }
  std::fflush(stdout);
  return {};
}

// The pictures of the test data, packed.
Result<void> FillStore(const std::filesystem::path& store) {
  const char* folder = std::getenv("HOLO_TEST_DATA");
  const std::string data = folder != nullptr && *folder != '\0' ? folder : HOLO_TEST_DATA_DEFAULT;
  for (int i = 1; i <= 24; ++i) {
    char name[16];
    std::snprintf(name, sizeof name, "kodim%02d", i);
    HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(data + "/kodak/" + name + ".png"));
    codec::EncodeOptions encode_options;
    encode_options.basis_choice = codec::BasisChoice::kUniversal;
    HOLO_ASSIGN_OR_RETURN(const codec::Encoded encoded, codec::Encode(picture, encode_options));
    HOLO_RETURN_IF_ERROR(files::AtomicWrite(store / (std::string(name) + ".holo"), encoded.file));
  }
  return {};
}

Result<void> RunAll(const Options& options) {
  HOLO_ASSIGN_OR_RETURN(const TemporaryDirectory directory, TemporaryDirectory::Create());
  std::filesystem::path store = options.store;
  if (store.empty()) {
    store = directory.path() / "store";
    HOLO_RETURN_IF_ERROR(files::MakeDirectories(store));
    std::cerr << "packing the Kodak pictures\n";
    HOLO_RETURN_IF_ERROR(FillStore(store));
  }
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(store, error)) {
    if (entry.path().extension() == ".holo") names.push_back(entry.path().stem().string());
  }
  if (names.empty()) return Fail(Code::kNotFound, store.string() + ": expected .holo files");
  std::sort(names.begin(), names.end());

  HOLO_ASSIGN_OR_RETURN(const std::uint16_t port, FreePort());
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t grpc_port, FreePort());
  HOLO_ASSIGN_OR_RETURN(RunningTool holod, RunningTool::Start({options.holod, std::filesystem::absolute(store).string(),
                                                               "--http", "127.0.0.1:" + std::to_string(port), "--grpc",
                                                               "127.0.0.1:" + std::to_string(grpc_port)},
                                                              directory.path()));
  HOLO_RETURN_IF_ERROR(holod.WaitForPort(port));
  std::printf("%-7s %8s %8s %9s %9s %9s %9s %9s %19s %9s\n", "round", "viewers", "seconds", "pictures", "MB", "core s",
              "MB/core s", "1 Mbit/s", "first chunk, ms", "peak");
  std::printf("%-7s %8s %8s %9s %9s %9s %9s %9s %9s %9s %9s\n", "", "", "", "", "", "", "", "per core", "median",
              "99 %", "MiB");
  HOLO_RETURN_IF_ERROR(Run(options, holod, "paced", options.viewers, kMegabitBytes, port, names));
  HOLO_RETURN_IF_ERROR(Run(options, holod, "greedy", options.greedy_viewers, 0, port, names));
  HOLO_ASSIGN_OR_RETURN(const ToolResult stopped, holod.Stop());
  if (stopped.exit_code != 0) {
    return Fail(Code::kInternal, "holod: expected exit status 0, found " + std::to_string(stopped.exit_code) +
                                     " and: " + stopped.output);
  }
  return {};
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  holo::benchmarks::Options options;
  CLI::App app{"Viewers that one core of holod serves."};
  app.add_option("--holod", options.holod, "The server's program");
  app.add_option("--store", options.store, "Folder of .holo files; default: the Kodak pictures of $HOLO_TEST_DATA");
  app.add_option("--viewers", options.viewers, "Viewers limited to 1 Mbit/s")->check(CLI::Range(1, 20000));
  app.add_option("--greedy-viewers", options.greedy_viewers, "Viewers without a limit")->check(CLI::Range(1, 20000));
  app.add_option("--seconds", options.seconds, "Length of a round")->check(CLI::Range(1.0, 600.0));
  CLI11_PARSE(app, argc, argv);
  const auto result = holo::benchmarks::RunAll(options);
  if (result) return 0;
  std::cerr << "holo_benchmark_streams: " << holo::ToString(result.error()) << "\n";
  return holo::ToExitCode(result.error().code);
}
