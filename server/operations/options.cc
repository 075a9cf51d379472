#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>

#include "server/operations/operations.h"

extern char** environ;

namespace holo::operations {
namespace {

constexpr std::string_view kPrefix = "HOLO_";

// The command line, bound to `parsed`. The folder without a flag is an option of its own, so that it may be given where
// the environment names one, too.
void Declare(CLI::App& app, Parsed& parsed, std::filesystem::path& folder) {
  ServerOptions& options = parsed.options;
  app.set_help_flag();
  app.add_flag("-h,--help", parsed.wants_help, "Print this help and exit");
  app.add_flag("--version", parsed.wants_version, "Print the version and exit");
  app.set_config("--config", "", "Read options from this file: lines of NAME=VALUE, # for comments");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_option("folder", folder, "The same as --store")->configurable(false);
  app.add_option("--store", options.store, "Folder of .holo files, and of pictures that are compressed on first use")
      ->capture_default_str();
  app.add_option("--cache", options.cache, "Folder for compressed pictures (default: .holo inside the store)");
  app.add_option("--bases", options.bases, "Folder of .basis files (default: the store)");
  app.add_option("--http", options.http, "HTTP and WebSocket: HOST:PORT, :PORT, or off; port 0 is any free one")
      ->capture_default_str();
  app.add_option("--grpc", options.grpc, "gRPC: HOST:PORT, :PORT, or off")->capture_default_str();
  app.add_option("--token", options.token, "Serve only clients that say this token");
  app.add_option("--max-connections", options.max_connections, "HTTP and WebSocket connections at a time")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--max-streams", options.max_streams, "Streams at a time, over both transports")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--max-memory", options.max_memory_mib, "MiB for opened assets")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--max-bytes-per-second", options.max_bytes_per_second, "Per stream; 0: no limit")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 50))  // or -1 becomes a large number
      ->capture_default_str();
  app.add_option("--max-picture", options.max_picture_mpixels, "Megapixels beyond which pictures are not compressed")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{2048}))
      ->capture_default_str();
  app.add_option("--quality", options.quality, "Of pictures that are compressed here, 1 to 100")
      ->check([](const std::string& text) -> std::string {
        float value = 0;
        // Not CLI::Range: it lets NaN pass.
        const bool is_inside = CLI::detail::lexical_cast(text, value) && value >= 1 && value <= 100;
        return is_inside ? "" : "expected a number from 1 to 100, found " + text;
      })
      ->capture_default_str();
  app.add_option("--compress-threads", options.compress_threads, "Pictures compressed at a time")
      ->check(CLI::Range(1u, 256u))
      ->capture_default_str();
  app.add_flag("--compress-ahead", options.compress_ahead, "Compress pictures as soon as they are seen");
  app.add_option("--model", options.models,
                 "A model that writes text, as NAME=PATH or PATH; may be given several times. Without --store, there "
                 "are then no pictures");
  app.add_option("--model-cache", options.model_cache, "How models that are not compressed remember")
      ->check(CLI::IsMember({"fp32", "fp16", "int8", "int4"}))
      ->capture_default_str();
  app.add_option("--chat-template", options.chat_template,
                 "How conversations are written down: chatml, llama2, llama3 or plain (default: each model's own way)")
      ->check(CLI::IsMember({"chatml", "llama2", "llama3", "plain"}));
  app.add_option("--model-threads", options.model_threads, "Threads that compute; 0: one for each core")
      ->check(CLI::Range(0u, 256u))
      ->capture_default_str();
  app.add_option("--model-memory", options.model_memory_mib, "MiB for what models remember of all texts together")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--max-batch", options.max_batch, "Texts that are written at a time")
      ->check(CLI::Range(1u, 1024u))
      ->capture_default_str();
  app.add_option("--max-queue", options.max_queue, "Requests for text that may wait; others are refused")
      ->check(CLI::Range(1u, 100'000u))
      ->capture_default_str();
  app.add_option("--max-per-client", options.max_per_client,
                 "Texts that one API key, or one address where there are none, may have at a time, waiting ones counted; "
                 "0: no limit")
      ->check(CLI::Range(0u, 100'000u))
      ->capture_default_str();
  app.add_option("--prompt-chunk", options.prompt_chunk,
                 "Tokens of prompts that are read in one step, while others are written")
      ->check(CLI::Range(1u, 65'536u))
      ->capture_default_str();
  app.add_option("--default-max-tokens", options.default_max_tokens,
                 "Tokens of a reply whose request does not say how many")
      ->check(CLI::Range(1u, 1u << 24))
      ->capture_default_str();
  app.add_option("--sessions", options.sessions, "Folder for saved sessions of texts (default: none can be saved)");
  app.add_option("--session-memory", options.session_memory_mib,
                 "MiB for what models remember of sessions that rest; beyond it the oldest are read again")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--max-saved-sessions", options.max_saved_sessions, "Files in the folder of saved sessions")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--saved-session-space", options.saved_session_space_mib, "MiB that they may take together")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--preempted-memory", options.preempted_memory_mib,
                 "MiB for packed memory of texts that make room for another client's; 0: none does, others wait")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--api-key", options.api_keys, "Serve text only to clients with this key, or another one given");
  app.add_option("--api-key-file", options.api_key_file, "The same: one key in each line, # for comments");
  app.add_option("--stall-timeout", options.stall_timeout_s,
                 "Seconds after which a client that reads nothing is dropped")
      ->check(CLI::Range(1u, 86'400u))
      ->capture_default_str();
  app.add_option("--shutdown-timeout", options.shutdown_timeout_s, "Seconds that streams get to finish on shutdown")
      ->check(CLI::Range(0u, 86'400u))
      ->capture_default_str();
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--ready-file", options.ready_file, "Write the addresses there, as JSON, once the server listens");
  for (CLI::Option* option : app.get_options()) {
    const bool is_list = option->check_lname("model") || option->check_lname("api-key");
    option->multi_option_policy(is_list ? CLI::MultiOptionPolicy::TakeAll : CLI::MultiOptionPolicy::TakeLast);
    // One value for each flag, or the folder behind it would be a second one.
    if (is_list) option->allow_extra_args(false);
  }
}

// "--max-streams" for "MAX_STREAMS".
std::string FlagOf(const std::string& variable) {
  std::string flag = "--" + variable;
  std::transform(flag.begin(), flag.end(), flag.begin(),
                 [](unsigned char c) { return c == '_' ? '-' : static_cast<char>(std::tolower(c)); });
  return flag;
}

}  // namespace

Result<Address> ParseAddress(const std::string& text) {
  Address address;
  if (text == "off") {
    address.enabled = false;
    return address;
  }
  const std::size_t colon = text.rfind(':');
  const auto refuse = [&text] {
    return Fail(Code::kInvalidArgument, "address: expected HOST:PORT, :PORT or off, found '" + text + "'");
  };
  if (colon == std::string::npos) return refuse();
  const char* begin = text.data() + colon + 1;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, address.port);
  if (error != std::errc() || stop != end || address.port < 0 || address.port > 65535) return refuse();
  address.host = text.substr(0, colon);
  if (address.host.starts_with('[') && address.host.ends_with(']')) {
    if (address.host.size() == 2) return refuse();
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return refuse();
  }
  if (address.host.empty()) address.host = "0.0.0.0";
  return address;
}

std::map<std::string, std::string> Environment() {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (!text.starts_with(kPrefix) || equals == std::string_view::npos) continue;
    variables.emplace(text.substr(kPrefix.size(), equals - kPrefix.size()), text.substr(equals + 1));
  }
  return variables;
}

Result<Parsed> ParseOptions(const std::vector<std::string>& arguments,
                            const std::map<std::string, std::string>& environment, const ServerOptions& defaults) {
  Parsed parsed;
  parsed.options = defaults;
  CLI::App app;
  std::filesystem::path folder;
  Declare(app, parsed, folder);
  // CLI11 lets a file go before the environment, so that the environment comes as flags that the command line
  // overrides. It takes arguments from the back.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  for (const auto& [name, value] : environment) {
    const std::string flag = FlagOf(name);
    const CLI::Option* option = app.get_option_no_throw(flag);
    // Other programs of the project have variables, too. A flag without a value follows the words for yes and no.
    if (option == nullptr || flag == "--help" || flag == "--version") continue;
    reversed.push_back(flag + "=" + value);
  }
  try {
    app.parse(reversed);
  } catch (const CLI::Error& error) {
    return Fail(Code::kInvalidArgument, error.what());
  }
  if (!folder.empty()) {
    parsed.options.store = folder;
  } else if (!parsed.options.models.empty() && app.count("--store") == 0) {
    parsed.options.store.clear();
  }
  for (const std::string* address : {&parsed.options.http, &parsed.options.grpc}) {
    HOLO_RETURN_IF_ERROR(ParseAddress(*address));
  }
  return parsed;
}

std::string HelpText(const std::string& program, const ServerOptions& defaults) {
  Parsed parsed;
  parsed.options = defaults;
  CLI::App app("Serves a folder of holograms over gRPC, WebSocket and HTTP, and text from language models over HTTP.", program);
  std::filesystem::path folder;
  Declare(app, parsed, folder);
  app.footer(
      "Every option may also stand in the environment (HOLO_MAX_STREAMS=100) or in the file (max-streams=100).\n"
      "A flag goes before the environment, and that before the file.\n\n"
      "Example: " +
      program + " ./pictures --http :8080 --grpc :50051");
  return app.help();
}

}  // namespace holo::operations
