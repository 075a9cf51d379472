// The server as a program: options from flags, environment and file; start, metrics and orderly shutdown.
//
// `holod` and `holo serve` are two names for RunServer(). Options may be given as a flag (--max-streams 100), in the
// environment (HOLO_MAX_STREAMS=100) or in a configuration file (max-streams=100); a flag goes before the environment,
// and that before the file.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/status/status.h"

namespace holo::operations {

// Where to listen; port 0: any free one.
struct Address {
  std::string host;
  int port = 0;
  bool enabled = true;
};
// "HOST:PORT", "[IPv6]:PORT", ":PORT" (every interface), or "off".
[[nodiscard]] Result<Address> ParseAddress(const std::string& text);

struct ServerOptions {
  std::filesystem::path store = "store";  // empty: no pictures
  std::filesystem::path cache;  // of compressed pictures; empty: inside the store
  std::filesystem::path bases;  // a folder of *.basis files for assets that do not carry theirs; empty: the store
  std::string http = "0.0.0.0:8080";
  std::string grpc = "0.0.0.0:50051";
  std::string token;                        // clients must say this in their hello; empty: everybody may come
  std::uint32_t max_connections = 2000;     // HTTP and WebSocket
  std::uint32_t max_streams = 1000;         // over both transports
  std::uint64_t max_memory_mib = 256;       // opened assets
  std::uint64_t max_bytes_per_second = 0;   // per stream; 0: no limit
  std::uint64_t max_picture_mpixels = 400;  // larger pictures are not compressed
  float quality = 75;                       // of pictures that are compressed here
  unsigned compress_threads = 1;
  bool compress_ahead = false;
  std::vector<std::string> models;        // that write text: NAME=PATH or PATH, or a known name
  std::string model_cache = "fp16";       // how models that are not compressed remember: fp32, fp16, int8, int4
  std::string chat_template;              // of all models: chatml, llama2, llama3, plain; empty: each one's own
  unsigned model_threads = 0;             // that compute; 0: one for each core
  std::uint64_t model_memory_mib = 2048;  // of all texts that are being written
  std::uint32_t max_batch = 32;           // texts that are written together
  std::uint32_t max_queue = 64;           // requests that wait
  std::uint32_t max_per_client = 0;       // texts of one key, or one address without keys; 0: no limit
  std::uint32_t prompt_chunk = 64;        // tokens of prompts in one step
  std::uint32_t default_max_tokens = 1024;  // of a conversation's reply
  std::filesystem::path sessions;            // a folder for saved sessions of texts; empty: none are saved
  std::uint64_t session_memory_mib = 256;    // what models remember of sessions that rest
  std::uint64_t max_saved_sessions = 4096;
  std::uint64_t saved_session_space_mib = 4096;
  std::uint64_t preempted_memory_mib = 256;  // and of texts that make room for those of other clients
  std::vector<std::string> api_keys;
  std::filesystem::path api_key_file;     // one key in a line, # for comments
  unsigned stall_timeout_s = 60;
  unsigned shutdown_timeout_s = 10;
  std::string log_level = "info";    // trace, debug, info, warn, error, off
  std::filesystem::path ready_file;  // written once the server listens: a JSON object with the addresses
};

struct Parsed {
  ServerOptions options;
  bool wants_help = false;
  bool wants_version = false;
};

// HOLO_* variables of this process, names without the prefix.
[[nodiscard]] std::map<std::string, std::string> Environment();

// `arguments` are those after the program's name. kInvalidArgument with a message for the user.
[[nodiscard]] Result<Parsed> ParseOptions(const std::vector<std::string>& arguments,
                                          const std::map<std::string, std::string>& environment,
                                          const ServerOptions& defaults);
[[nodiscard]] std::string HelpText(const std::string& program, const ServerOptions& defaults);

// Serves until SIGINT or SIGTERM; then refuses new streams, lets those under way complete their views for at most
// shutdown_timeout_s (a second signal ends the wait), and stops. Prints the addresses to standard output, logs to
// standard error. The result is the program's exit status. Call it from the main thread, before other threads are
// started.
[[nodiscard]] int RunServer(const std::string& program, const ServerOptions& options);

}  // namespace holo::operations
