// holo lm chat: a conversation with a model.
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <iostream>

#include "client/cli/lines.h"
#include "client/cli/lm.h"
#include "common/files/files.h"

namespace holo::cli::lm {
namespace {

struct Options {
  ModelOptions model;
  SamplingOptions sampling;
  std::string form;  // a name, or a Template's prompt
  std::string start;
  std::string stop;
  std::string system;
  CLI::Option* start_option = nullptr;
};

class Chat {
 public:
  Chat(const Options& options, const Globals& globals, const model_directory::Model& model, chat::Form form,
       generation::Options generation)
      : globals_(globals),
        engine_(EngineOf(model)),
        generation_(std::move(generation)),
        pool_(ThreadsOf(options.model)),
        conversation_(std::move(form), *engine_.tokenizer, options.system),
        system_(options.system),
        memory_(engine_),
        is_terminal_(::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0 && !globals.json) {}

  void Describe(const model_directory::Model& model) const {
    if (globals_.quiet || globals_.json) return;
    std::cerr << model.path.string() << ": weights " << model.transformer->weight_type()
              << ", memory " << model.method << " with " << Fixed(model.scheme->bytes_per_token(), 0)
              << " bytes for each token, context " << engine_.model->config().context << " tokens\n";
    DescribeTemplate();
    std::cerr << "Ctrl-C stops a reply; Ctrl-D or /quit ends; /help says more.\n";
  }

  Result<void> Run() {
    Lines lines;
    while (told_to_end == 0) {
      if (is_terminal_) std::cout << "\n> " << std::flush;
      std::string line;
      const Lines::Kind kind = lines.Read(line);
      if (kind == Lines::Kind::kEnd) break;
      if (kind == Lines::Kind::kInterrupted) {
        std::cerr << "\n(Ctrl-D or /quit ends the conversation)\n";
        continue;
      }
      while (!line.empty() && std::strchr(" \t\r", line.back()) != nullptr) line.pop_back();
      if (line.empty()) continue;
      if (line.front() == '/') {
        if (!Command(line)) break;
        continue;
      }
      HOLO_RETURN_IF_ERROR(Reply(tokenizer::ToValidUtf8(line)));
      if (!std::cout) return Fail(Code::kUnavailable, "chat: standard output takes no more");
    }
    if (is_terminal_) std::cout << "\n" << std::flush;
    if (told_to_end != 0) return Fail(Code::kCancelled, "chat: told to end");
    return {};
  }

 private:
  void DescribeTemplate() const {
    if (const auto* form = std::get_if<chat::Template>(&conversation_.form())) {
      std::cerr << "template: " << (form->start.empty() ? "" : "start \"" + Escaped(form->start) + "\", ")
                << "prompt \"" << Escaped(form->prompt) << "\", stop \"" << Escaped(form->stop) << "\"\n";
      return;
    }
    const chat_template::Style& style = std::get<chat_template::ChatTemplate>(conversation_.form()).style();
    const std::string& system = system_.empty() ? style.default_system : system_;
    std::cerr << "template: " << chat_template::FormatName(style.format)
              << (system.empty() ? "" : ", system \"" + Escaped(system) + "\"") << "\n";
  }

  // False ends the conversation.
  bool Command(const std::string& line) {
    if (line == "/quit" || line == "/exit") return false;
    if (line == "/reset") {
      conversation_.Forget();
      std::cerr << "(the model has forgotten everything)\n";
    } else if (line == "/template") {
      DescribeTemplate();
    } else if (line == "/memory") {
      std::cerr << "(" << memory_.tokens.size() << " of " << engine_.model->config().context << " tokens, "
                << Grouped(memory_.cache.bytes()) << " bytes; " << conversation_.exchanges()
                << " exchanges are remembered)\n";
    } else {
      if (line != "/help") std::cerr << "(there is no command " << line << ")\n";
      std::cerr << "/reset     forget the conversation\n"
                   "/memory    how much of it is remembered, in tokens and bytes\n"
                   "/template  how it is written down for the model\n"
                   "/quit      end (Ctrl-D, too)\n";
    }
    return true;
  }

  Result<void> Reply(const std::string& message) {
    const std::size_t context = engine_.model->config().context;
    // Half of the context at most is kept free, so that there is a history at all.
    const std::size_t wanted = generation_.max_tokens == 0 ? context : generation_.max_tokens;
    const std::size_t room = std::max<std::size_t>(1, std::min(wanted, context / 2));
    auto prompt = conversation_.Ask(message, context, room);
    if (!prompt) {
      if (globals_.json) {
        std::cout << nlohmann::json({{"message", message}, {"error", prompt.error().message}}).dump() << "\n"
                  << std::flush;
      } else {
        std::cerr << "(" << prompt.error().message << ")\n";
      }
      return {};
    }
    if (prompt->dropped > 0 && !globals_.quiet) {
      std::cerr << "(the context of " << context << " tokens is full: the oldest " << prompt->dropped
                << (prompt->dropped == 1 ? " exchange is" : " exchanges are") << " forgotten)\n";
    }
    generation::Options own = generation_;
    own.max_tokens = static_cast<std::uint32_t>(room);
    for (const std::string& stop : conversation_.stops()) own.stops.push_back(stop);
    own.end_tokens = conversation_.end_tokens();
    // Another one each time, or the same question would always have the same answer.
    own.sampling.seed += replies_++;
    const std::size_t prompt_tokens = prompt->tokens.size();
    HOLO_ASSIGN_OR_RETURN(generation::Session session,
                          generation::Session::Create(engine_, std::move(prompt->tokens), own, std::move(memory_)));
    stop_pressed = 0;
    std::string text;
    bool is_stopped = false;
    generation::Session* const pointer = &session;
    Printer printer(!globals_.json);
    while (session.finish() == generation::Finish::kNone) {
      HOLO_ASSIGN_OR_RETURN(const std::vector<generation::Piece> pieces,
                            generation::Step(engine_, {&pointer, 1}, workspace_, pool_));
      text += pieces[0].text;
      printer.Print(pieces[0].text);
      is_stopped = stop_pressed != 0 || told_to_end != 0;
      if (is_stopped || !std::cout) break;
    }
    stop_pressed = 0;
    const generation::Finish finish = session.finish();
    const bool is_empty = text.find_first_not_of(" \t\n") == std::string::npos;
    if (globals_.json) {
      std::cout << nlohmann::json({{"message", message},
                                   {"reply", text},
                                   {"finish", is_stopped ? "interrupted" : generation::FinishName(finish)},
                                   {"seed", own.sampling.seed},
                                   {"prompt_tokens", prompt_tokens},
                                   {"reused_tokens", session.reused_tokens()},
                                   {"tokens", session.chosen_tokens()},
                                   {"dropped_exchanges", prompt->dropped}})
                       .dump()
                << "\n"
                << std::flush;
    } else {
      std::cout << "\n" << std::flush;
      if (is_stopped) {
        std::cerr << "(stopped)\n";
      } else if (is_empty) {
        std::cerr << "(no reply)\n";
      } else if (finish == generation::Finish::kMaxTokens || finish == generation::Finish::kContext) {
        std::cerr << "(cut after " << session.chosen_tokens() << " tokens)\n";
      }
    }
    memory_ = session.Release();
    // What was not said would teach the model to say nothing.
    if (!is_empty) conversation_.Answer(text);
    return {};
  }

  // A reply without the white space at its beginning.
  class Printer {
   public:
    explicit Printer(bool is_on) : is_on_(is_on) {}
    void Print(const std::string& text) {
      if (!is_on_) return;
      const std::size_t from = has_begun_ ? 0 : text.find_first_not_of(" \t\n");
      if (from == std::string::npos) return;
      has_begun_ = has_begun_ || from < text.size();
      std::cout << text.substr(from) << std::flush;
    }

   private:
    bool is_on_;
    bool has_begun_ = false;
  };

  const Globals& globals_;
  generation::Engine engine_;
  generation::Options generation_;
  compute::ThreadPool pool_;
  transformer::Workspace workspace_;
  chat::Conversation conversation_;
  std::string system_;
  generation::Memory memory_;
  std::uint64_t replies_ = 0;
  bool is_terminal_;
};

Result<chat::Form> FormOf(const Options& options, const model_directory::Model& model) {
  const bool is_pattern = options.form.find("{user}") != std::string::npos;
  if (!is_pattern && !options.form.empty() && options.form != "plain" && !chat_template::ParseFormat(options.form)) {
    return Fail(Code::kInvalidArgument, "--template: expected chatml, llama2, llama3, plain or an exchange with {user} "
                                        "exactly once, found \"" + tokenizer::ToValidUtf8(options.form.substr(0, 100)) +
                                            "\"");
  }
  auto form = model_directory::ChatForm(model.base, is_pattern ? "plain" : options.form);
  if (!form) return tl::unexpected(WithContext(std::move(form).error(), "--template"));
  auto* own = std::get_if<chat::Template>(&*form);
  if (own == nullptr) {
    if (options.start_option->count() == 0) return form;
    return Fail(Code::kInvalidArgument, "--start: expected a --template with {user}, found the model's own format, which "
                                        "begins as it does");
  }
  if (!options.system.empty()) {
    return Fail(Code::kInvalidArgument, "--system: expected a model that was trained to converse, or --template chatml, "
                                        "llama2 or llama3, found a template without a place for it");
  }
  if (is_pattern && model.base.chat_template) *own = *model.base.chat_template;
  if (is_pattern) own->prompt = Unescaped(options.form);
  if (options.start_option->count() > 0) own->start = Unescaped(options.start);
  if (!options.stop.empty()) own->stop = Unescaped(options.stop);
  HOLO_RETURN_IF_ERROR(chat::Check(*own));
  return form;
}

Result<void> RunChat(const Options& options, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const model_directory::Model model, OpenModel(options.model, globals));
  HOLO_ASSIGN_OR_RETURN(chat::Form form, FormOf(options, model));
  HOLO_ASSIGN_OR_RETURN(generation::Options generation, Resolve(options.sampling, *model.base.tokenizer));
  const bool is_own = std::holds_alternative<chat_template::ChatTemplate>(form);
  if (is_own && !options.stop.empty()) generation.stops.push_back(Unescaped(options.stop));
  if (Interrupted()) return Fail(Code::kCancelled, "chat: cancelled");
  struct sigaction handler {};
  handler.sa_handler = OnSignal;
  // A write to the terminal that a signal interrupts goes on: otherwise what was to be printed would be lost.
  handler.sa_flags = SA_RESTART;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &handler, nullptr);
  Chat chat(options, globals, model, std::move(form), std::move(generation));
  chat.Describe(model);
  return chat.Run();
}

}  // namespace

void AddChat(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("chat", "Talk with a model");
  auto options = std::make_shared<Options>();
  AddModelOptions(*command, options->model, Which::kAny);
  command->add_option("--template", options->form,
                      "How a conversation is written down: chatml, llama2, llama3, plain (\"User: {user}\\nAssistant:\"), "
                      "or an exchange with {user} for what you say (default: the model's own; plain for a GPT-2 that has "
                      "none)");
  command->add_option("--system", options->system, "What the system says before a conversation in the model's own format");
  options->start_option = command->add_option("--start", options->start, "What stands before the first exchange");
  command->add_option("--stop", options->stop, "What ends a reply and stands behind it");
  AddSamplingOptions(*command, options->sampling, 200);
  command->footer(
      "A model that was trained to converse is asked in its own format. GPT-2 only goes on with a text: a conversation is\n"
      "a text that looks like one. The template is printed at the beginning. Without a terminal, each line of standard\n"
      "input is a message; with --json each reply is one line.\n"
      "Examples:\n"
      "  holo lm chat\n"
      "  holo lm chat ~/gpt2 --template \"Q: {user}\\nA:\" --stop \"\\nQ:\"\n"
      "  holo lm chat ./my_model --temperature 0.7 --seed 7");
  ReadEnvironment(*command);
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return RunChat(*options, globals); }; });
}

}  // namespace holo::cli::lm
