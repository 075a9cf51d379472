// holo lm eval: how well a model predicts a text.
#include <cmath>

#include "client/cli/lm.h"
#include "common/language_model/evaluation/evaluation.h"

namespace holo::cli::lm {
namespace {

struct Options {
  ModelOptions model;
  std::string text;
  evaluation::Options evaluation;
  std::size_t tokens = 0;
};

// The bytes of the tokens that evaluation predicts: all but the first, and but the first of each window where windows do
// not overlap.
std::size_t PredictedBytes(const Text& text, const tokenizer::Tokenizer& tokenizer, const evaluation::Options& options,
                           std::size_t context) {
  const std::size_t window = options.window == 0 ? context : options.window;
  const std::size_t stride = options.stride == 0 ? window : options.stride;
  std::size_t bytes = 0;
  for (std::size_t i = 1; i < text.tokens.size(); ++i) {
    if (stride == window && i % window == 0) continue;
    bytes += tokenizer.Bytes(text.tokens[i]).size();
  }
  return bytes;
}

Result<void> Eval(const Options& options, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const model_directory::Model model, OpenModel(options.model, globals));
  const std::uint32_t context = model.transformer->config().context;
  HOLO_ASSIGN_OR_RETURN(
      const Text text, OpenText(options.text, kHeldOutText, model.base.path, *model.base.tokenizer, options.tokens));
  compute::ThreadPool pool(ThreadsOf(options.model));
  evaluation::Score score;
  {
    ProgressBar bar("eval " + std::filesystem::path(text.name).filename().string(), globals);
    HOLO_ASSIGN_OR_RETURN(score, evaluation::Evaluate(*model.transformer, model.scheme, text.tokens, options.evaluation,
                                                      pool, [&](double done) { return bar.Update(done); }));
  }
  const auto bytes = static_cast<double>(PredictedBytes(text, *model.base.tokenizer, options.evaluation, context));
  const double bits_per_byte = score.loss / bytes / std::log(2.0);
  const std::uint32_t window = options.evaluation.window == 0 ? context : options.evaluation.window;
  const std::uint32_t stride = options.evaluation.stride == 0 ? window : options.evaluation.stride;
  Print(globals,
        text.name + ": " + Grouped(text.tokens.size()) + " tokens" +
            (text.tokens.size() < text.tokens_in_all ? " of " + Grouped(text.tokens_in_all) : "") + ", " +
            Grouped(score.predictions) + " predicted, window " + std::to_string(window) + ", stride " +
            std::to_string(stride) + "; weights " +
            std::string(model.transformer->weight_type()) + ", memory " + model.method +
            "\nperplexity per token  " + Fixed(score.Perplexity(), 4) + "\nperplexity per byte   " +
            Fixed(std::exp(score.loss / bytes), 4) + "  (" + Fixed(bits_per_byte, 4) + " bits)\n",
        {{"text", text.name},
         {"tokens", text.tokens.size()},
         {"tokens_in_all", text.tokens_in_all},
         {"predictions", score.predictions},
         {"predicted_bytes", bytes},
         {"window", window},
         {"stride", stride},
         {"weights", model.transformer->weight_type()},
         {"method", model.method},
         {"loss", score.loss / static_cast<double>(score.predictions)},
         {"perplexity", Finite(score.Perplexity())},
         {"perplexity_per_byte", Finite(std::exp(score.loss / bytes))},
         {"bits_per_byte", Finite(bits_per_byte)}});
  return {};
}

}  // namespace

void AddEval(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("eval", "Perplexity of a text, predicted through the model's own memory");
  auto options = std::make_shared<Options>();
  AddModelOptions(*command, options->model, Which::kAny);
  command->add_option("--text", options->text,
                      "The text (default: held_out.txt of the model, or of the one that ships)");
  command->add_option("--window", options->evaluation.window, "Tokens seen at once (default: the model's context)");
  command->add_option("--stride", options->evaluation.stride,
                      "Windows begin so far apart, and of each only what is new counts (default: the window)");
  command->add_option("--tokens", options->tokens, "Only so many tokens from the beginning; 0: all")
      ->check(CLI::Range(0u, 1u << 30));
  command->footer(
      "Perplexity is exp of the mean loss; per byte it compares models of different vocabularies. The bytes are those of\n"
      "the tokens that were predicted.\n"
      "Examples:\n"
      "  holo lm eval ~/gpt2 --text wiki.test.raw --stride 512\n"
      "  holo lm eval ./my_model --text wiki.test.raw --stride 512 --json");
  ReadEnvironment(*command);
  command->callback([options, &globals, &action] { action = [options, &globals] { return Eval(*options, globals); }; });
}

}  // namespace holo::cli::lm
