// What the subcommands of `holo lm` share. Private to the program.
#pragma once

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "client/cli/cli.h"
#include "common/language_model/compute/compute.h"
#include "common/language_model/generation/generation.h"
#include "common/language_model/model_directory/model_directory.h"

namespace holo::cli::lm {

// Each adds one subcommand of `holo lm`.
void AddBuild(CLI::App& app, const Globals& globals, Action& action);
void AddChat(CLI::App& app, const Globals& globals, Action& action);
void AddGenerate(CLI::App& app, const Globals& globals, Action& action);
void AddBenchmark(CLI::App& app, const Globals& globals, Action& action);
void AddEval(CLI::App& app, const Globals& globals, Action& action);
void AddInfo(CLI::App& app, const Globals& globals, Action& action);
void AddPull(CLI::App& app, const Globals& globals, Action& action);

// Every option of `command` may stand in the environment: --top-k as HOLO_LM_TOP_K. The last thing to do to a command.
void ReadEnvironment(CLI::App& command);

// "LABEL ..." on standard error for work that cannot say how far it is, once it has lasted a second; under the same
// conditions as a ProgressBar.
class Busy {
 public:
  Busy(std::string label, const Globals& globals);
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  ~Busy();

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool is_over_ = false;  // guarded by mutex_
  std::thread thread_;
};

// Which model, and how it is run.
struct ModelOptions {
  std::string path;  // empty: the model that ships
  std::string base;
  std::string weights = "auto";
  std::string cache = "fp16";
  unsigned threads = 0;
};
enum class Which : std::uint8_t { kAny, kDirectory };  // kDirectory: no compressed model, and no way of storing
void AddModelOptions(CLI::App& command, ModelOptions& options, Which which);
[[nodiscard]] unsigned ThreadsOf(const ModelOptions& options);
[[nodiscard]] Result<std::filesystem::path> PathOf(const ModelOptions& options);
[[nodiscard]] Result<std::optional<compute::WeightType>> WeightTypeOf(const ModelOptions& options);
[[nodiscard]] Result<model_directory::Model> OpenModel(const ModelOptions& options, const Globals& globals);
[[nodiscard]] generation::Engine EngineOf(const model_directory::Model& model);

// How the next token is chosen, for generate and chat.
struct SamplingOptions {
  generation::Options generation;
  std::vector<std::string> logit_bias;
  std::uint64_t seed = 0;
  CLI::Option* seed_option = nullptr;
};
void AddSamplingOptions(CLI::App& command, SamplingOptions& options, std::uint32_t max_tokens);
// With the biases read, and a seed by chance where none was given.
[[nodiscard]] Result<generation::Options> Resolve(const SamplingOptions& options, const tokenizer::Tokenizer& tokenizer);

// A text as tokens, and where it came from.
struct Text {
  std::string name;
  std::vector<std::uint8_t> bytes;
  std::vector<std::uint32_t> tokens;
  std::size_t tokens_in_all = 0;  // before `max_tokens` cut it

  // For manifests and results.
  [[nodiscard]] nlohmann::json Json() const;
};
// `path`, or where that is empty `default_name` in the model's directory or beside the model that ships. kNotFound, with
// what to do, if there is none; kInvalidArgument for an empty text. At most `max_tokens` from the beginning (0: all).
[[nodiscard]] Result<Text> OpenText(const std::string& path, std::string_view default_name,
                                    const std::filesystem::path& model_dir, const tokenizer::Tokenizer& tokenizer,
                                    std::size_t max_tokens);
inline constexpr std::string_view kCalibrationText = "calibration.txt";
inline constexpr std::string_view kHeldOutText = "held_out.txt";

// The options of tokens that are written with \n, \t and \\.
[[nodiscard]] std::string Unescaped(std::string_view text);
[[nodiscard]] std::string Escaped(std::string_view text);

// Of one token, averaged over a sequence as long as the context.
[[nodiscard]] double MeanBytesPerToken(const kv_cache::Scheme& scheme, std::uint32_t context);
// What fp16 keys and values take.
[[nodiscard]] double HalfBytesPerToken(const weights::Config& config);
// The bytes of the source report's k: k components of keys and k of values, two bytes each, in every layer.
[[nodiscard]] double BytesOfK(double k, const weights::Config& config);

// What one token takes in all layers when sessions as long as the context are saved, headers and tokens included.
[[nodiscard]] Result<double> SavedBytesPerToken(const transformer::Model& model,
                                                std::shared_ptr<const kv_cache::Scheme> scheme,
                                                std::span<const std::uint32_t> tokens, compute::ThreadPool& pool);
// The part of a calibration's tokens that the stored tier's coder is fitted to.
[[nodiscard]] std::span<const std::uint32_t> CoderSample(std::span<const std::uint32_t> tokens);

}  // namespace holo::cli::lm
