// holo lm: language models, and what its subcommands share.
#include "client/cli/lm.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <random>

#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/language_model/calibration/calibration.h"

namespace holo::cli {

void AddLm(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("lm", "Language models that remember in a compressed basis");
  command->require_subcommand(1);
  command->footer(
      "A MODEL is a Hugging Face directory of a GPT-2 or a Llama (config.json, model.safetensors, tokenizer.json or\n"
      "vocab.json and merges.txt), a GGUF file of a Llama, what holo lm build made of one, or the name of one that\n"
      "holo lm pull fetched. Every option may also stand in the environment: --top-k as HOLO_LM_TOP_K, and the model as\n"
      "HOLO_LM_MODEL.\n"
      "Examples:\n"
      "  holo lm chat                                        with the small model that ships\n"
      "  holo lm pull smollm2 && holo lm chat smollm2        with one that was trained to converse\n"
      "  holo lm chat ~/gpt2                                 with any GPT-2 that you have\n"
      "  holo lm build ~/gpt2 --k 150 --output ./my_model    an eighth or so of the memory for each token\n"
      "  holo lm benchmark ./my_model --plot curve.png");
  lm::AddBuild(*command, globals, action);
  lm::AddChat(*command, globals, action);
  lm::AddGenerate(*command, globals, action);
  lm::AddBenchmark(*command, globals, action);
  lm::AddEval(*command, globals, action);
  lm::AddInfo(*command, globals, action);
  lm::AddPull(*command, globals, action);
}

namespace lm {

void ReadEnvironment(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    std::string name = option->get_lnames().empty() ? "model" : option->get_lnames().front();
    if (name == "help") continue;
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
      return c == '-' ? '_' : static_cast<char>(std::toupper(c));
    });
    option->envname("HOLO_LM_" + name);
  }
}

Busy::Busy(std::string label, const Globals& globals) {
  if (globals.quiet || ::isatty(STDERR_FILENO) == 0) return;
  thread_ = std::thread([this, text = std::move(label)] {
    std::unique_lock lock(mutex_);
    if (ended_.wait_for(lock, std::chrono::seconds(1), [this] { return is_over_; })) return;
    std::cerr << "\r\x1b[K" << text << " ..." << std::flush;
    ended_.wait(lock, [this] { return is_over_; });
    std::cerr << "\r\x1b[K" << std::flush;
  });
}

Busy::~Busy() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  ended_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void AddModelOptions(CLI::App& command, ModelOptions& options, Which which) {
  const bool any = which == Which::kAny;
  command.add_option("model", options.path,
                     any ? "A model directory, a GGUF file, a compressed model or a name (default: the model that ships)"
                         : "A model directory, a GGUF file or a name (default: the model that ships)");
  command.add_option("--weights", options.weights, "fp32, bf16, int8, or auto: as they are in the files")
      ->check(CLI::IsMember({"auto", "fp32", "bf16", "int8"}))
      ->capture_default_str();
  command.add_option("--threads", options.threads, "Threads to work with (default: one per processor)")
      ->check(CLI::Range(0u, 1024u));
  if (!any) return;
  command.add_option("--base", options.base, "Where a compressed model's base model is now");
  command
      .add_option("--cache", options.cache,
                  "How keys and values are remembered where the model is no compressed one: fp32, fp16, int8 or int4")
      ->check(CLI::IsMember({"fp32", "fp16", "int8", "int4"}))
      ->capture_default_str();
}

unsigned ThreadsOf(const ModelOptions& options) {
  return options.threads > 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
}

Result<std::filesystem::path> PathOf(const ModelOptions& options) {
  if (!options.path.empty()) return model_directory::Locate(options.path);
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return tl::unexpected(files::FromErrno(error.value(), "read", "/proc/self/exe"));
  return model_directory::FindShipped(program);
}

Result<std::optional<compute::WeightType>> WeightTypeOf(const ModelOptions& options) {
  if (options.weights == "auto") return std::optional<compute::WeightType>();
  HOLO_ASSIGN_OR_RETURN(const compute::WeightType type, compute::ParseWeightType(options.weights));
  return std::optional(type);
}

Result<model_directory::Model> OpenModel(const ModelOptions& options, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const std::filesystem::path path, PathOf(options));
  model_directory::Options open;
  HOLO_ASSIGN_OR_RETURN(open.weight_type, WeightTypeOf(options));
  open.base = options.base;
  open.plain_method = options.cache;
  const Busy busy("open " + path.string(), globals);
  return model_directory::Open(path, open);
}

generation::Engine EngineOf(const model_directory::Model& model) {
  return {model.transformer, model.base.tokenizer, model.scheme};
}

void AddSamplingOptions(CLI::App& command, SamplingOptions& options, std::uint32_t max_tokens) {
  generation::Options& generation = options.generation;
  sampling::Options& sampling = generation.sampling;
  generation.max_tokens = max_tokens;
  sampling.temperature = 0.8f;
  sampling.top_p = 0.95f;
  command
      .add_option("--max-tokens", generation.max_tokens, "Tokens to say at most; 0: as many as the context holds")
      ->check(CLI::Range(0u, 1u << 20))
      ->capture_default_str();
  command.add_option("--temperature", sampling.temperature, "0: always the likeliest token; 1: as the model says")
      ->check(IsNumber(0, 100))
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "Choose from so many of the likeliest tokens; 0: from all")
      ->check(CLI::Range(0u, 1u << 20))
      ->capture_default_str();
  command.add_option("--top-p", sampling.top_p, "Choose from the likeliest tokens that have this probability together")
      ->check(IsNumber(1e-6, 1))
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  "Above 1: tokens that were in prompt or text become less likely")
      ->check(IsNumber(0.01, 100))
      ->capture_default_str();
  command
      .add_option("--presence-penalty", sampling.presence_penalty,
                  "Taken from the logits of tokens that were said, -2 to 2")
      ->check(IsNumber(-2, 2))
      ->capture_default_str();
  command
      .add_option("--frequency-penalty", sampling.frequency_penalty, "The same for every time that they were said")
      ->check(IsNumber(-2, 2))
      ->capture_default_str();
  command
      .add_option("--logit-bias", options.logit_bias,
                  "TOKEN=BIAS, added to a token's logit, -100 to 100; TOKEN is a number or a text that is one token; "
                  "may be given several times")
      ->allow_extra_args(false);
  options.seed_option =
      command.add_option("--seed", options.seed, "The same seed gives the same text (default: by chance)");
}

Result<generation::Options> Resolve(const SamplingOptions& options, const tokenizer::Tokenizer& tokenizer) {
  generation::Options out = options.generation;
  for (const std::string& text : options.logit_bias) {
    const std::size_t equals = text.rfind('=');
    const auto refuse = [&](const std::string& found) {
      return Fail(Code::kInvalidArgument, "logit-bias: expected TOKEN=BIAS, found \"" + text + "\"" + found);
    };
    if (equals == std::string::npos) return refuse("");
    const std::string name = Unescaped(text.substr(0, equals));
    float bias = 0;
    const char* const end = text.data() + text.size();
    const auto number = std::from_chars(text.data() + equals + 1, end, bias);
    if (number.ec != std::errc() || number.ptr != end) return refuse("");
    std::uint32_t token = 0;
    const auto id = std::from_chars(name.data(), name.data() + name.size(), token);
    if (name.empty() || id.ec != std::errc() || id.ptr != name.data() + name.size()) {
      if (const auto special = tokenizer.SpecialToken(name)) {
        token = *special;
      } else {
        const std::vector<std::uint32_t> tokens = tokenizer.Encode(name);
        if (tokens.size() != 1) return refuse(", whose text is " + std::to_string(tokens.size()) + " tokens");
        token = tokens[0];
      }
    }
    out.sampling.logit_bias.emplace_back(token, bias);
  }
  if (options.seed_option->count() > 0) {
    out.sampling.seed = options.seed;
  } else {
    // Short enough to be typed again.
    out.sampling.seed = std::random_device()() % 1'000'000;
  }
  for (std::string& stop : out.stops) stop = Unescaped(stop);
  HOLO_RETURN_IF_ERROR(sampling::Check(out.sampling, tokenizer.vocabulary()));
  HOLO_RETURN_IF_ERROR(sampling::StopFilter::Create(out.stops));
  return out;
}

nlohmann::json Text::Json() const {
  return {{"text", std::filesystem::path(name).filename().string()},
          {"bytes", bytes.size()},
          {"sha256", bytes::ToHex(bytes::Sha256(bytes))},
          {"tokens", tokens.size()},
          {"tokens_in_all", tokens_in_all}};
}

Result<Text> OpenText(const std::string& path, std::string_view default_name, const std::filesystem::path& model_dir,
                      const tokenizer::Tokenizer& tokenizer, std::size_t max_tokens) {
  constexpr std::uint64_t kMaxTextBytes = std::uint64_t{1} << 30;
  Text text;
  text.name = path;
  if (path.empty()) {
    std::error_code ignored;
    text.name = (model_dir / default_name).string();
    if (!std::filesystem::exists(text.name, ignored)) {
      if (const auto shipped = PathOf({})) text.name = (*shipped / default_name).string();
    }
    if (!std::filesystem::exists(text.name, ignored)) {
      return Fail(Code::kNotFound, "text: there is no " + std::string(default_name) + " in " + model_dir.string() +
                                       ", and none that ships; name one with --text");
    }
  }
  HOLO_ASSIGN_OR_RETURN(text.bytes, files::ReadFile(text.name, kMaxTextBytes));
  tokenizer.Encode({reinterpret_cast<const char*>(text.bytes.data()), text.bytes.size()}, text.tokens);
  text.tokens_in_all = text.tokens.size();
  if (text.tokens.empty()) return Fail(Code::kInvalidArgument, text.name + ": expected a text, found an empty file");
  if (max_tokens > 0 && text.tokens.size() > max_tokens) text.tokens.resize(max_tokens);
  return text;
}

std::string Unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (text[i] == '\\' && (next == 'n' || next == 't' || next == '\\')) {
      out += next == 'n' ? '\n' : (next == 't' ? '\t' : '\\');
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\\') {
      out += "\\\\";
    } else {
      out += c;
    }
  }
  return out;
}

double MeanBytesPerToken(const kv_cache::Scheme& scheme, std::uint32_t context) {
  const std::size_t blocks = (context + kv_cache::kBlockTokens - 1) / kv_cache::kBlockTokens;
  const double bytes = static_cast<double>(scheme.block_bytes(0)) +
                       static_cast<double>(blocks - 1) * static_cast<double>(scheme.block_bytes(1));
  return bytes / static_cast<double>(blocks * kv_cache::kBlockTokens);
}

double HalfBytesPerToken(const weights::Config& config) {
  return 4.0 * config.key_width() * config.layers;
}

double BytesOfK(double k, const weights::Config& config) {
  return 4.0 * k * config.layers;
}

Result<double> SavedBytesPerToken(const transformer::Model& model, std::shared_ptr<const kv_cache::Scheme> scheme,
                                  std::span<const std::uint32_t> tokens, compute::ThreadPool& pool) {
  kv_cache::Cache cache(std::move(scheme));
  transformer::Workspace workspace;
  const std::size_t context = std::min<std::size_t>(model.config().context, calibration::kMostWindow);
  double bytes = 0;
  for (std::size_t from = 0; from < tokens.size(); from += context) {
    const std::span<const std::uint32_t> window = tokens.subspan(from, std::min(context, tokens.size() - from));
    cache.Truncate(0);
    const transformer::Sequence sequence{window, &cache, false};
    HOLO_RETURN_IF_ERROR(model.Forward({&sequence, 1}, workspace, pool));
    bytes += static_cast<double>(kv_cache::SavedBytes(cache, window));
  }
  return bytes / static_cast<double>(tokens.size());
}

std::span<const std::uint32_t> CoderSample(std::span<const std::uint32_t> tokens) {
  return tokens.first(std::min<std::size_t>(tokens.size(), 8192));
}

}  // namespace lm
}  // namespace holo::cli
