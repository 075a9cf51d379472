// holod: serves a folder of holograms over gRPC, WebSocket and HTTP.
#include <iostream>
#include <string>
#include <vector>

#include "server/operations/operations.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto parsed = holo::operations::ParseOptions(arguments, holo::operations::Environment(), {});
  if (!parsed) {
    std::cerr << "holod: " << parsed.error().message << "\nholod --help lists the options\n";
    return holo::ToExitCode(parsed.error().code);
  }
  if (parsed->wants_help) {
    std::cout << holo::operations::HelpText("holod", {});
    return 0;
  }
  if (parsed->wants_version) {
    std::cout << "holod " HOLO_VERSION "\n";
    return 0;
  }
  return holo::operations::RunServer("holod", parsed->options);
}
