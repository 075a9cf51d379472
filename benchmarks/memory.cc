// holo_benchmark_memory: the largest resident set of each program on the 28.7-megapixel panorama.
//
//   compress      holo compress                                        goal: at most 1 GiB
//   fetch         holo fetch of a 1920 x 1080 window, both transports  goal: at most 200 MiB
//   serve         holod, which served these
//   render        holo render of that window from the file
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

#include "benchmarks/tools/tools.h"
#include "common/files/files.h"

namespace holo::benchmarks {
namespace {

struct Options {
  std::string holo = HOLO_PROGRAM_HOLO;
  std::string holod = HOLO_PROGRAM_HOLOD;
  std::string picture;
};

void Print(const char* what, std::uint64_t peak_bytes, double cpu_seconds) {
  std::printf("%-16s %9.1f %9.2f\n", what, static_cast<double>(peak_bytes) / (1 << 20), cpu_seconds);
  std::fflush(stdout);
}

Result<void> RunAndPrint(const char* what, const std::vector<std::string>& command,
                         const std::filesystem::path& directory) {
  HOLO_ASSIGN_OR_RETURN(const ToolResult result, RunTool(command, directory));
  if (result.exit_code != 0) {
    return Fail(Code::kInternal, std::string(what) + ": expected exit status 0, found " +
                                     std::to_string(result.exit_code) + " and: " + result.output);
  }
  Print(what, result.peak_memory_bytes, result.cpu_seconds);
  return {};
}

Result<void> Run(const Options& options) {
  HOLO_ASSIGN_OR_RETURN(const TemporaryDirectory directory, TemporaryDirectory::Create());
  const std::filesystem::path store = directory.path() / "store";
  HOLO_RETURN_IF_ERROR(files::MakeDirectories(store));
  const std::string packed = (store / "panorama.holo").string();
  const std::string region = "7000,300,1920,1080";

  std::printf("%-16s %9s %9s\n", "", "peak MiB", "core s");
  HOLO_RETURN_IF_ERROR(
      RunAndPrint("compress", {options.holo, "compress", "-q", options.picture, "-o", packed}, directory.path()));
  HOLO_RETURN_IF_ERROR(RunAndPrint("render", {options.holo, "render", "-q", packed, "render.png", "--region", region},
                                   directory.path()));
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t port, FreePort());
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t grpc_port, FreePort());
  HOLO_ASSIGN_OR_RETURN(RunningTool holod, RunningTool::Start({options.holod, store.string(), "--http",
                                                               "127.0.0.1:" + std::to_string(port), "--grpc",
                                                               "127.0.0.1:" + std::to_string(grpc_port)},
                                                              directory.path()));
  HOLO_RETURN_IF_ERROR(holod.WaitForPort(port));
  HOLO_RETURN_IF_ERROR(RunAndPrint("fetch WebSocket",
                                   {options.holo, "fetch", "-q", "ws://127.0.0.1:" + std::to_string(port), "panorama",
                                    "-o", "websocket.png", "--region", region},
                                   directory.path()));
  HOLO_RETURN_IF_ERROR(RunAndPrint("fetch gRPC",
                                   {options.holo, "fetch", "-q", "grpc://127.0.0.1:" + std::to_string(grpc_port),
                                    "panorama", "-o", "grpc.png", "--region", region},
                                   directory.path()));
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t peak, holod.PeakMemoryBytes());
  HOLO_ASSIGN_OR_RETURN(const double cpu, holod.CpuSeconds());
  Print("serve", peak, cpu);
  return {};
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  holo::benchmarks::Options options;
  const char* folder = std::getenv("HOLO_TEST_DATA");
  const std::string data = folder != nullptr && *folder != '\0' ? folder : HOLO_TEST_DATA_DEFAULT;
  options.picture = data + "/large/apollo17_pano_16810x1708.png";
  CLI::App app{"Peak memory of the programs on a large picture."};
  app.add_option("--holo", options.holo, "The command-line tool's program");
  app.add_option("--holod", options.holod, "The server's program");
  app.add_option("picture", options.picture, "At least 8920 x 1380; default: the panorama of $HOLO_TEST_DATA");
  CLI11_PARSE(app, argc, argv);
  const auto result = holo::benchmarks::Run(options);
  if (result) return 0;
  std::cerr << "holo_benchmark_memory: " << holo::ToString(result.error()) << "\n";
  return holo::ToExitCode(result.error().code);
}
