// holo lm generate: texts that go on with a prompt.
#include <unistd.h>

#include <iostream>

#include "client/cli/lm.h"
#include "common/files/files.h"

namespace holo::cli::lm {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  ModelOptions model;
  SamplingOptions sampling;
  std::string prompt;
  std::string prompt_file;
  CLI::Option* prompt_option = nullptr;
  std::size_t count = 1;
  bool echo = false;
};

// One of the texts.
struct Output {
  std::uint64_t seed = 0;
  std::string text;
  std::vector<sampling::Choice> choices;
  generation::Finish finish = generation::Finish::kNone;
};

double Seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

Result<std::string> ReadPrompt(const Options& options) {
  if (options.prompt_option->count() > 0) return options.prompt;
  std::string path = options.prompt_file;
  if (path.empty()) {
    if (::isatty(STDIN_FILENO) != 0) {
      return Fail(Code::kInvalidArgument, "prompt: expected --prompt TEXT, --prompt-file FILE, or text on standard input");
    }
    path = "-";
  }
  HOLO_ASSIGN_OR_RETURN(const auto bytes,
                        files::ReadFile(path == "-" ? "/dev/stdin" : path, std::uint64_t{64} << 20));
  std::string text(bytes.begin(), bytes.end());
  // The end of the last line is the editor's, not the author's.
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

nlohmann::json ToJson(const Output& text, const tokenizer::Tokenizer& tokenizer, bool with_logprobs) {
  nlohmann::json out = {{"text", text.text},
                        {"seed", text.seed},
                        {"finish", generation::FinishName(text.finish)},
                        {"tokens", nlohmann::json::array()}};
  const auto text_of = [&](std::uint32_t token) { return tokenizer::ToValidUtf8(tokenizer.Bytes(token)); };
  for (const sampling::Choice& choice : text.choices) {
    out["tokens"].push_back(choice.token);
    if (!with_logprobs) continue;
    nlohmann::json top = nlohmann::json::array();
    for (const auto& [token, logprob] : choice.top) {
      top.push_back({{"token", token}, {"text", text_of(token)}, {"logprob", logprob}});
    }
    out["logprobs"].push_back({{"token", choice.token},
                               {"text", text_of(choice.token)},
                               {"logprob", choice.logprob},
                               {"top", std::move(top)}});
  }
  return out;
}

void PrintLogprobs(const Output& text, const tokenizer::Tokenizer& tokenizer) {
  const auto quoted = [&](std::uint32_t token) {
    return "\"" + Escaped(tokenizer::ToValidUtf8(tokenizer.Bytes(token))) + "\"";
  };
  for (const sampling::Choice& choice : text.choices) {
    std::cout << Fixed(choice.logprob, 4) << "  " << quoted(choice.token) << "   likeliest:";
    for (const auto& [token, logprob] : choice.top) std::cout << "  " << quoted(token) << " " << Fixed(logprob, 4);
    std::cout << "\n";
  }
}

class Run {
 public:
  Run(const Options& options, const Globals& globals, const model_directory::Model& model,
      generation::Options generation)
      : options_(options),
        globals_(globals),
        engine_(EngineOf(model)),
        generation_(std::move(generation)),
        pool_(ThreadsOf(options.model)) {}

  // All texts at once, one step after the other; a single one is printed while it comes.
  Result<void> Generate(const std::vector<std::uint32_t>& prompt) {
    const bool is_streaming = options_.count == 1 && !globals_.json;
    const Clock::time_point start = Clock::now();
    // Checks the options and the prompt before anything is run.
    HOLO_RETURN_IF_ERROR(
        generation::Session::Create(engine_, prompt, generation_, generation::Memory(engine_)));
    generation::Memory memory(engine_);
    HOLO_RETURN_IF_ERROR(Prefill(prompt, memory));
    std::vector<generation::Session> sessions;
    for (std::size_t i = 0; i < options_.count; ++i) {
      generation::Options own = generation_;
      own.sampling.seed += i;
      texts_.push_back({own.sampling.seed, "", {}, generation::Finish::kNone});
      HOLO_ASSIGN_OR_RETURN(generation::Session session,
                            generation::Session::Create(engine_, prompt, own, memory.Fork()));
      sessions.push_back(std::move(session));
    }
    std::vector<generation::Session*> running;
    for (generation::Session& session : sessions) running.push_back(&session);
    const Clock::time_point middle = Clock::now();
    prompt_seconds_ = Seconds(middle - start);
    std::optional<ProgressBar> bar;
    if (!is_streaming) bar.emplace("generate", globals_);
    const std::size_t room = engine_.model->config().context + 1 - prompt.size();
    const std::size_t most =
        generation_.max_tokens == 0 ? room : std::min<std::size_t>(room, generation_.max_tokens);
    std::size_t steps = 0;
    for (bool is_over = false; !is_over;) {
      HOLO_ASSIGN_OR_RETURN(std::vector<generation::Piece> pieces, generation::Step(engine_, running, workspace_, pool_));
      is_over = true;
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        if (!pieces[i].choice) continue;
        texts_[i].choices.push_back(*std::move(pieces[i].choice));
        texts_[i].text += pieces[i].text;
        texts_[i].finish = pieces[i].finish;
        ++tokens_;
        is_over = is_over && pieces[i].finish != generation::Finish::kNone;
        if (is_streaming) std::cout << pieces[i].text << std::flush;
      }
      if (!std::cout) return Fail(Code::kUnavailable, "generate: standard output takes no more");
      ++steps;
      if (bar) bar->Update(static_cast<double>(steps) / static_cast<double>(most));
      if (Interrupted()) {
        if (is_streaming) std::cout << "\n" << std::flush;
        return Fail(Code::kCancelled, "generate: interrupted after " + std::to_string(tokens_) + " tokens");
      }
    }
    seconds_ = Seconds(Clock::now() - middle);
    return {};
  }

  [[nodiscard]] const std::vector<Output>& texts() const { return texts_; }
  [[nodiscard]] double prompt_seconds() const { return prompt_seconds_; }
  [[nodiscard]] double seconds() const { return seconds_; }
  [[nodiscard]] std::size_t tokens() const { return tokens_; }

 private:
  // All tokens but the last, which each session runs for itself.
  Result<void> Prefill(const std::vector<std::uint32_t>& prompt, generation::Memory& memory) {
    if (prompt.size() < 2) return {};
    ProgressBar bar("read the prompt", globals_);
    generation::Options once;
    once.max_tokens = 1;
    HOLO_ASSIGN_OR_RETURN(generation::Session session,
                          generation::Session::Create(engine_, {prompt.begin(), prompt.end() - 1}, once,
                                                      std::move(memory)));
    generation::Session* const pointer = &session;
    while (session.finish() == generation::Finish::kNone) {
      HOLO_RETURN_IF_ERROR(generation::Step(engine_, {&pointer, 1}, workspace_, pool_));
      const double left = static_cast<double>(session.waiting_tokens()) / static_cast<double>(prompt.size());
      if (!bar.Update(1 - left)) return Fail(Code::kCancelled, "generate: interrupted in the prompt");
    }
    memory = session.Release();
    return {};
  }

  const Options& options_;
  const Globals& globals_;
  generation::Engine engine_;
  generation::Options generation_;
  compute::ThreadPool pool_;
  transformer::Workspace workspace_;
  std::vector<Output> texts_;
  double prompt_seconds_ = 0;
  double seconds_ = 0;
  std::size_t tokens_ = 0;
};

Result<void> Generate(const Options& options, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const std::string prompt_text, ReadPrompt(options));
  HOLO_ASSIGN_OR_RETURN(const model_directory::Model model, OpenModel(options.model, globals));
  const tokenizer::Tokenizer& tokenizer = *model.base.tokenizer;
  HOLO_ASSIGN_OR_RETURN(const generation::Options generation, Resolve(options.sampling, tokenizer));
  std::vector<std::uint32_t> prompt;
  if (tokenizer.wants_begin_token() && tokenizer.begin_token()) prompt.push_back(*tokenizer.begin_token());
  tokenizer.Encode(prompt_text, prompt);
  if (options.echo && !globals.json && options.count == 1) std::cout << prompt_text << std::flush;
  Run run(options, globals, model, generation);
  HOLO_RETURN_IF_ERROR(run.Generate(prompt));
  const bool with_logprobs = generation.sampling.logprobs > 0;
  const double rate = run.seconds() > 0 ? static_cast<double>(run.tokens()) / run.seconds() : 0;
  if (globals.json) {
    nlohmann::json texts = nlohmann::json::array();
    for (const Output& text : run.texts()) texts.push_back(ToJson(text, tokenizer, with_logprobs));
    Print(globals, "",
          {{"model", model.path.string()},
           {"method", model.method},
           {"prompt", prompt_text},
           {"prompt_tokens", prompt.size()},
           {"prompt_seconds", run.prompt_seconds()},
           {"seconds", run.seconds()},
           {"tokens_per_second", rate},
           {"texts", std::move(texts)}});
    return {};
  }
  if (options.count == 1) {
    std::cout << "\n";
    if (with_logprobs) PrintLogprobs(run.texts()[0], tokenizer);
  } else {
    for (const Output& text : run.texts()) {
      std::cout << "--- seed " << text.seed << "\n" << (options.echo ? prompt_text : "") << text.text << "\n";
      if (with_logprobs) PrintLogprobs(text, tokenizer);
    }
  }
  std::cout << std::flush;
  if (!globals.quiet) {
    std::cerr << "[prompt: " << prompt.size() << " tokens in " << Fixed(run.prompt_seconds(), 2)
              << " s; text: " << run.tokens() << " tokens, " << Fixed(rate, 1) << " a second; seed "
              << generation.sampling.seed;
    if (options.count == 1) std::cerr << "; ended by " << generation::FinishName(run.texts()[0].finish);
    std::cerr << "]\n";
  }
  return {};
}

}  // namespace

void AddGenerate(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("generate", "Go on with a prompt");
  auto options = std::make_shared<Options>();
  AddModelOptions(*command, options->model, Which::kAny);
  options->prompt_option = command->add_option("-p,--prompt", options->prompt, "What to go on with");
  command
      ->add_option("--prompt-file", options->prompt_file,
                   "The same in a file, - for standard input (also the default); an end of line at its end is dropped")
      ->excludes(options->prompt_option);
  AddSamplingOptions(*command, options->sampling, 100);
  command
      ->add_option("--stop", options->sampling.generation.stops,
                   "End before this string (\\n, \\t, \\\\ are understood); may be given several times")
      ->allow_extra_args(false);
  command->add_flag("--ignore-end", options->sampling.generation.ignores_end_token,
                    "Go on behind the model's end of text");
  command
      ->add_option("--logprobs", options->sampling.generation.sampling.logprobs,
                   "Show each token's log-probability and so many likelier ones")
      ->check(CLI::Range(std::size_t{0}, sampling::kMaxLogprobs));
  command->add_option("-n,--n", options->count, "Texts, all in one batch; the i-th has the seed plus i")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1024}))
      ->capture_default_str();
  command->add_flag("--echo", options->echo, "Print the prompt before the text");
  command->footer(
      "Text goes to standard output while it comes, what it took to standard error. The same model, prompt, options and\n"
      "seed give the same text, with any number of threads and whatever else is in the batch.\n"
      "Examples:\n"
      "  holo lm generate ./my_model --prompt \"The old house\" --max-tokens 100 --seed 7\n"
      "  holo lm generate ~/gpt2 --prompt-file story.txt --temperature 0.7 --top-k 40 --stop \"\\n\\n\"\n"
      "  echo \"Once upon a time\" | holo lm generate -n 4 --seed 1");
  ReadEnvironment(*command);
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return Generate(*options, globals); }; });
}

}  // namespace holo::cli::lm
