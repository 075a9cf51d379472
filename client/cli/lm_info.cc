// holo lm info: what a model consists of, and how many dimensions its insides use.
#include "client/cli/lm.h"
#include "common/language_model/calibration/calibration.h"

namespace holo::cli::lm {
namespace {

struct Options {
  ModelOptions model;
  std::string text;
  std::size_t tokens = 16'384;
  bool without_ranks = false;
};

std::string Column(const std::string& text, std::size_t width) {
  return std::string(width > text.size() ? width - text.size() : 0, ' ') + text;
}

void DescribeBase(const model_directory::Base& base, std::string& text, nlohmann::json& json) {
  const weights::Config& config = base.weights.config();
  const weights::TensorSummary summary = weights::Summarise(base.weights);
  std::string type_names;
  for (const auto& [name, elements] : summary.types) type_names += (type_names.empty() ? "" : ", ") + name;
  const bool is_grouped = config.keys() != config.heads;
  const std::string chat = base.chat_template ? "a template of its own (holo.json)"
                           : base.chat_style  ? "as it was trained to, " +
                                                   std::string(chat_template::FormatName(base.chat_style->format))
                                              : "no template of its own";
  text += "model        " + base.path.string() + "\n" + "architecture " +
          std::string(weights::ArchitectureName(config.architecture)) + "\n" + "parameters   " +
          Grouped(summary.elements) + " (" + type_names + ", " + Grouped(summary.bytes) + " bytes)\n" + "layers       " + std::to_string(config.layers) + " of width " +
          std::to_string(config.width) + ", " + std::to_string(config.heads) + " heads of " +
          std::to_string(config.head_width()) +
          (is_grouped ? " on " + std::to_string(config.keys()) + " of keys and values" : "") + ", inner width " + std::to_string(config.inner_width) + "\n" +
          "context      " + Grouped(config.context) + " tokens\n" + "vocabulary   " + Grouped(config.vocabulary) +
          (config.tied_head ? ", head tied to the embedding" : ", with a head of its own") + "\n" +
          "memory       " + Grouped(static_cast<std::uint64_t>(HalfBytesPerToken(config))) +
          " bytes for each token as fp16 keys and values\n" + "chat         " +
          chat + "\n";
  json["base"] = {{"path", base.path.string()},
                  {"architecture", weights::ArchitectureName(config.architecture)},
                  {"parameters", summary.elements},
                  {"weight_bytes", summary.bytes},
                  {"types", summary.types},
                  {"layers", config.layers},
                  {"width", config.width},
                  {"heads", config.heads},
                  {"key_heads", config.keys()},
                  {"head_width", config.head_width()},
                  {"inner_width", config.inner_width},
                  {"context", config.context},
                  {"vocabulary", config.vocabulary},
                  {"tokenizer_vocabulary", base.tokenizer->vocabulary()},
                  {"tied_head", config.tied_head},
                  {"fp16_bytes_per_token", HalfBytesPerToken(config)},
                  {"has_chat_template", base.chat_template.has_value() || base.chat_style.has_value()},
                  {"chat_format", base.chat_style ? nlohmann::json(chat_template::FormatName(base.chat_style->format))
                                                  : nlohmann::json(nullptr)}};
}

void DescribeCompression(const model_directory::Model& model, std::string& text, nlohmann::json& json) {
  const model_directory::Manifest& manifest = *model.manifest;
  const weights::Config& config = model.base.weights.config();
  text += "\ncompressed   " + model.path.string() + "\nmethod       " + manifest.method + ", " +
          Fixed(manifest.bytes_per_token, 0) + " bytes for each token, fp16 keys and values take " +
          Fixed(HalfBytesPerToken(config) / manifest.bytes_per_token, 2) + " times as much\n             " +
          Fixed(MeanBytesPerToken(*model.scheme, config.context), 1) + " averaged over a whole context of " +
          Grouped(config.context) + " tokens\n";
  json["compressed"] = {{"path", model.path.string()},
                        {"method", manifest.method},
                        {"bytes_per_token", manifest.bytes_per_token},
                        {"mean_bytes_per_token", MeanBytesPerToken(*model.scheme, config.context)},
                        {"calibration", manifest.calibration},
                        {"layers", nlohmann::json::array()}};
  if (!model.basis) return;
  text += "basis        " + Grouped(manifest.basis->size_bytes) + " bytes, once; calibrated on " +
          manifest.calibration.dump() + "\n\nlayer   rank   bits for groups of " + std::to_string(kv_cache::kGroup) +
          " coordinates\n";
  json["compressed"]["basis_bytes"] = manifest.basis->size_bytes;
  for (std::size_t i = 0; i < model.basis->layers.size(); ++i) {
    const kv_cache::BasisLayer& layer = model.basis->layers[i];
    std::string bits;
    for (const std::uint8_t value : layer.bits) bits += " " + std::to_string(value);
    text += Column(std::to_string(i), 5) + Column(std::to_string(layer.rank), 7) + "  " +
            (bits.empty() ? " half precision" : bits) + "\n";
    json["compressed"]["layers"].push_back({{"rank", layer.rank}, {"bits", layer.bits}});
  }
}

Result<void> DescribeRanks(const Options& options, const Globals& globals, const model_directory::Model& model,
                           const Text& sample, std::string& text, nlohmann::json& json) {
  compute::ThreadPool pool(ThreadsOf(options.model));
  calibration::Statistics statistics;
  {
    ProgressBar bar("measure ranks", globals);
    HOLO_ASSIGN_OR_RETURN(statistics, calibration::Collect(*model.transformer, model.base.weights, sample.tokens, pool,
                                                           [&](double done) { return bar.Update(done); }));
  }
  std::vector<calibration::LayerRanks> ranks;
  {
    const Busy busy("decompose covariances", globals);
    HOLO_ASSIGN_OR_RETURN(ranks, calibration::EffectiveRanks(statistics, model.base.weights));
  }
  text += "\nEffective rank Df = (sum l)^2 / sum l^2 of " + std::to_string(model.base.weights.config().width) +
          ", and exp of the Shannon entropy, over " + Grouped(sample.tokens.size()) + " tokens of " + sample.name +
          "\nlayer   hidden state           keys         values\n";
  json["ranks"] = nlohmann::json::array();
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const calibration::LayerRanks& layer = ranks[i];
    const auto pair = [](double df, double shannon) {
      return Column(Fixed(df, 1), 8) + Column(Fixed(shannon, 1), 7);
    };
    text += Column(std::to_string(i), 5) + pair(layer.hidden, layer.hidden_shannon) +
            pair(layer.keys, layer.keys_shannon) + pair(layer.values, layer.values_shannon) + "\n";
    json["ranks"].push_back({{"hidden", layer.hidden},
                             {"keys", layer.keys},
                             {"values", layer.values},
                             {"hidden_shannon", layer.hidden_shannon},
                             {"keys_shannon", layer.keys_shannon},
                             {"values_shannon", layer.values_shannon}});
  }
  return {};
}

Result<void> Info(const Options& options, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const model_directory::Model model, OpenModel(options.model, globals));
  std::string text;
  nlohmann::json json = nlohmann::json::object();
  DescribeBase(model.base, text, json);
  if (model.manifest) DescribeCompression(model, text, json);
  if (!options.without_ranks && model.base.weights.gpt2() != nullptr) {
    auto sample = OpenText(options.text, kCalibrationText, model.base.path, *model.base.tokenizer, options.tokens);
    if (sample) {
      HOLO_RETURN_IF_ERROR(DescribeRanks(options, globals, model, *sample, text, json));
    } else if (options.text.empty() && sample.error().code == Code::kNotFound) {
      text += "\nEffective ranks: " + sample.error().message + "\n";
    } else {
      return tl::unexpected(std::move(sample).error());
    }
  }
  Print(globals, text, json);
  return {};
}

}  // namespace

void AddInfo(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("info", "Sizes of a model, and how many dimensions its insides use");
  auto options = std::make_shared<Options>();
  AddModelOptions(*command, options->model, Which::kAny);
  command->add_option("--text", options->text,
                      "Measure effective ranks on this (default: calibration.txt of the model, or of the one that "
                      "ships)");
  command->add_option("--tokens", options->tokens, "So many tokens of it; 0: all")
      ->check(CLI::Range(0u, 1u << 30))
      ->capture_default_str();
  command->add_flag("--no-ranks", options->without_ranks, "Sizes only");
  command->footer(
      "Df is the participation ratio of the eigenvalues of a covariance: how many dimensions count.\n"
      "Examples:\n"
      "  holo lm info\n"
      "  holo lm info ~/gpt2 --text wiki.train.raw\n"
      "  holo lm info ./my_model --no-ranks --json");
  ReadEnvironment(*command);
  command->callback([options, &globals, &action] { action = [options, &globals] { return Info(*options, globals); }; });
}

}  // namespace holo::cli::lm
