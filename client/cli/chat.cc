// holo chat: a conversation with a model that a server has.
#include <unistd.h>

#include <cstring>
#include <iostream>

#include "client/chat/chat.h"
#include "client/cli/cli.h"
#include "client/cli/lines.h"
#include "common/language_model/tokenizer/tokenizer.h"

namespace holo::cli {
namespace {

struct Options {
  std::string url;
  chat_client::Options chat;
};

// One message and its reply. An error ends the conversation unless it is of the message alone.
Result<void> Reply(chat_client::Conversation& conversation, const std::string& message, const Globals& globals) {
  stop_pressed = 0;
  const auto reply = conversation.Ask(tokenizer::ToValidUtf8(message), [&](std::string_view text) {
    if (!globals.json && !text.empty()) std::cout << text << std::flush;
    return stop_pressed == 0 && told_to_end == 0 && static_cast<bool>(std::cout);
  });
  stop_pressed = 0;
  if (!reply) {
    const Code code = reply.error().code;
    const bool is_of_message = code == Code::kInvalidArgument || code == Code::kOutOfRange || code == Code::kResourceExhausted;
    if (!is_of_message) return tl::unexpected(reply.error());
    if (globals.json) {
      std::cout << nlohmann::json({{"message", message}, {"error", reply.error().message}}).dump() << "\n" << std::flush;
    } else {
      std::cerr << "(" << reply.error().message << ")\n";
    }
    return {};
  }
  if (globals.json) {
    std::cout << nlohmann::json({{"message", message},
                                 {"reply", reply->text},
                                 {"finish", reply->was_stopped ? "interrupted" : reply->was_cut ? "length" : "stop"},
                                 {"prompt_tokens", reply->prompt_tokens},
                                 {"cached_tokens", reply->cached_tokens},
                                 {"tokens", reply->tokens}})
                     .dump()
              << "\n"
              << std::flush;
    return {};
  }
  std::cout << "\n" << std::flush;
  if (reply->was_stopped) {
    std::cerr << "(stopped)\n";
  } else if (reply->was_cut) {
    std::cerr << "(cut after " << reply->tokens << " tokens)\n";
  }
  return {};
}

Result<void> RunChat(const Options& options, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const auto conversation, chat_client::Open(options.url, options.chat));
  ListenToSignals();
  const bool is_terminal = ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0 && !globals.json;
  if (is_terminal && !globals.quiet) std::cerr << "Ctrl-C stops a reply; Ctrl-D or /quit ends.\n";
  Lines lines;
  while (told_to_end == 0) {
    if (is_terminal) std::cout << "\n> " << std::flush;
    std::string line;
    const Lines::Kind kind = lines.Read(line);
    if (kind == Lines::Kind::kEnd) break;
    if (kind == Lines::Kind::kInterrupted) {
      std::cerr << "\n(Ctrl-D or /quit ends the conversation)\n";
      continue;
    }
    while (!line.empty() && std::strchr(" \t\r", line.back()) != nullptr) line.pop_back();
    if (line.empty()) continue;
    if (line == "/quit" || line == "/exit") break;
    HOLO_RETURN_IF_ERROR(Reply(*conversation, line, globals));
    if (!std::cout) return Fail(Code::kUnavailable, "chat: standard output takes no more");
  }
  if (told_to_end != 0) return Fail(Code::kCancelled, "chat: told to end");
  return {};
}

}  // namespace

void AddChat(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("chat", "Talk with a model that a server has");
  auto options = std::make_shared<Options>();
  command->add_option("url", options->url, "http://HOST[:8080] or grpc://HOST[:50051]")->required();
  command->add_option("--model", options->chat.model, "Which of the server's (default: its first)");
  command->add_option("--api-key", options->chat.key, "Where the server wants one")->envname("HOLO_API_KEY");
  command->add_option("--system", options->chat.system, "What the system says at the beginning");
  command->add_option("--max-tokens", options->chat.max_tokens, "Of a reply (default: the server's)");
  command->add_option("--temperature", options->chat.temperature, "0: always the likeliest (default: 1)");
  command->add_option("--top-p", options->chat.top_p, "Only the likeliest with this much probability (default: 1)");
  command->add_option("--seed", options->chat.seed, "Of the first reply (default: by chance)");
  command->footer(
      "Without a terminal, each line of standard input is a message; with --json each reply is one line.\n"
      "Examples:\n"
      "  holo chat http://localhost:8080\n"
      "  holo chat grpc://localhost:50051 --model smollm2 --temperature 0.7");
  command->callback([options, &globals, &action] { action = [options, &globals] { return RunChat(*options, globals); }; });
}

}  // namespace holo::cli
