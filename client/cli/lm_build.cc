// holo lm build: from a model and a text to a compressed model.
#include <algorithm>
#include <iostream>

#include "client/cli/lm.h"
#include "common/language_model/calibration/calibration.h"

namespace holo::cli::lm {
namespace {

// What design and calibration ask of a text for a basis that serves others, too.
constexpr std::size_t kEnoughTokens = 100'000;

struct Options {
  ModelOptions model;
  std::string output;
  std::string method = "latent";
  std::uint32_t k = 0;
  double bytes_per_token = 0;
  std::string text;
  std::size_t tokens = 131'072;
  bool stored = false;
  bool force = false;
};

// A basis with what it needs to be used, and what a token takes.
struct Built {
  std::optional<kv_cache::Basis> basis;
  std::shared_ptr<const kv_cache::Scheme> scheme;
  double bytes_per_token = 0;
};

Result<Built> MakeBasis(const Options& options, const Globals& globals, const model_directory::Base& base,
                                  calibration::BasisRequest request, const Text& text) {
  const weights::Config& config = base.weights.config();
  HOLO_ASSIGN_OR_RETURN(const std::optional<compute::WeightType> type, WeightTypeOf(options.model));
  compute::ThreadPool pool(ThreadsOf(options.model));
  std::shared_ptr<const transformer::Model> model;
  {
    const Busy busy("open " + base.path.string(), globals);
    HOLO_ASSIGN_OR_RETURN(
        model, transformer::Model::Create(base.weights, type));
  }
  calibration::Statistics statistics;
  {
    ProgressBar bar("calibrate", globals);
    HOLO_ASSIGN_OR_RETURN(statistics, calibration::Collect(*model, base.weights, text.tokens, pool,
                                                           [&](double done) { return bar.Update(done); }));
  }
  request.bytes_per_token = options.bytes_per_token > 0 ? options.bytes_per_token : BytesOfK(options.k, config);
  const auto make = [&]() -> Result<kv_cache::Basis> {
    ProgressBar bar("choose the basis", globals);
    const auto progress = [&](double done) { return bar.Update(done); };
    if (options.method == "report") {
      return calibration::MakeReportBasis(statistics, base.weights, options.k, request, progress);
    }
    if (options.method.starts_with("z-")) {
      return calibration::MakeIdentityBasis(statistics, base.weights, options.method == "z-int8" ? 8 : 4, request);
    }
    if (!options.stored) return calibration::MakeLatentBasis(statistics, base.weights, request, progress);
    return calibration::MakeStoredBasis(statistics, *model, base.weights, CoderSample(text.tokens), request, pool,
                                        progress);
  };
  Built built;
  HOLO_ASSIGN_OR_RETURN(built.basis, make());
  const Busy busy("check the basis", globals);
  HOLO_ASSIGN_OR_RETURN(built.scheme, calibration::MakeScheme(*built.basis, base.weights));
  built.bytes_per_token = built.scheme->bytes_per_token();
  if (options.stored) {
    HOLO_ASSIGN_OR_RETURN(built.bytes_per_token,
                          SavedBytesPerToken(*model, built.scheme, CoderSample(text.tokens), pool));
  }
  return built;
}

Result<void> Build(Options options, const Globals& globals) {
  HOLO_RETURN_IF_ERROR(model_directory::CheckReplaceable(options.output, options.force));
  HOLO_ASSIGN_OR_RETURN(const std::filesystem::path path, PathOf(options.model));
  if (model_directory::IsCompressed(path)) {
    return Fail(Code::kInvalidArgument,
                path.string() + ": expected a model, found a compressed one; build from its base model");
  }
  HOLO_ASSIGN_OR_RETURN(const model_directory::Base base, model_directory::OpenBase(path));
  const weights::Config& config = base.weights.config();
  const bool has_budget = options.method == "latent";
  if (options.stored && !has_budget) {
    return Fail(Code::kInvalidArgument, "stored: it is for the method latent, found --method " + options.method);
  }
  const bool has_k = has_budget || options.method == "report";
  if (!has_k && options.k > 0) {
    return Fail(Code::kInvalidArgument, "k: it is for the methods latent and report, found --method " + options.method);
  }
  if (!has_budget && options.bytes_per_token > 0) {
    return Fail(Code::kInvalidArgument,
                "bytes-per-token: it is for the method latent, found --method " + options.method);
  }
  const auto key_width = static_cast<std::uint32_t>(config.key_width());
  if (options.k > key_width) {
    return Fail(Code::kInvalidArgument, "k: expected 1 to " + std::to_string(key_width) +
                                            ", the width of this model's keys, found " + std::to_string(options.k));
  }
  if (options.k == 0) options.k = std::max(1u, key_width / 8);
  model_directory::Manifest manifest;
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::canonical(path, error);
  manifest.base_path = error ? path.string() : canonical.string();
  manifest.method = options.method.starts_with("z-") ? "latent" : options.method;
  if (options.stored) manifest.method = "stored";
  {
    const Busy busy("read " + path.string(), globals);
    manifest.base_fingerprint = weights::Fingerprint(base.weights);
  }
  Built built;
  const auto plain = model_directory::PlainMethod(options.method);
  if (plain) {
    // Nothing else would look at the weights before somebody uses the result.
    auto loaded = transformer::Model::Create(base.weights, std::nullopt);
    if (!loaded) return tl::unexpected(WithContext(std::move(loaded).error(), path.string()));
    HOLO_ASSIGN_OR_RETURN(built.scheme,
                          kv_cache::MakePlainScheme((*loaded)->geometry(), *plain));
    built.bytes_per_token = built.scheme->bytes_per_token();
  } else {
    HOLO_ASSIGN_OR_RETURN(const Text text,
                          OpenText(options.text, kCalibrationText, path, *base.tokenizer, options.tokens));
    if (text.tokens.size() < kEnoughTokens && !globals.quiet) {
      std::cerr << "holo: " << text.name << ": " << Grouped(text.tokens.size())
                << " tokens to calibrate on; with fewer than " << Grouped(kEnoughTokens)
                << " the basis fits this text better than others\n";
    }
    manifest.calibration = text.Json();
    calibration::BasisRequest request;
    request.base_fingerprint = manifest.base_fingerprint;
    request.calibration = manifest.calibration.dump();
    HOLO_ASSIGN_OR_RETURN(built, MakeBasis(options, globals, base, request, text));
  }
  manifest.bytes_per_token = built.bytes_per_token;
  if (Interrupted()) return Fail(Code::kCancelled, "build: cancelled");
  HOLO_RETURN_IF_ERROR(
      model_directory::Save(options.output, manifest, built.basis ? &*built.basis : nullptr, options.force));
  HOLO_ASSIGN_OR_RETURN(const model_directory::Manifest written, model_directory::OpenManifest(options.output));
  const double ratio = HalfBytesPerToken(config) / manifest.bytes_per_token;
  std::string text = options.output + ": " + (options.stored ? "stored" : options.method) + ", " +
                     Fixed(manifest.bytes_per_token, 0) + " bytes for each token of context" +
                     (options.stored ? " as saved (in memory " + Fixed(built.scheme->bytes_per_token(), 0) + ")" : "") +
                     ", fp16 keys and values take " + Fixed(ratio, 2) + " times as much\n";
  if (written.basis) text += "basis: " + Grouped(written.basis->size_bytes) + " bytes, once\n";
  Print(globals, text,
        {{"output", options.output},
         {"method", manifest.method},
         {"k", has_k && options.bytes_per_token <= 0 ? nlohmann::json(options.k) : nlohmann::json(nullptr)},
         {"bytes_per_token", manifest.bytes_per_token},
         {"bytes_per_token_in_memory", built.scheme->bytes_per_token()},
         {"ratio_to_fp16", ratio},
         {"basis_bytes", written.basis ? written.basis->size_bytes : 0},
         {"calibration", manifest.calibration}});
  return {};
}

}  // namespace

void AddBuild(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("build", "Choose the basis for a model's memory and write a compressed model");
  auto options = std::make_shared<Options>();
  AddModelOptions(*command, options->model, Which::kDirectory);
  command->add_option("-o,--output", options->output, "The directory to write")->required();
  command
      ->add_option("--method", options->method,
                   "latent: one coded row for keys and values; report: principal components of keys and of values; "
                   "z-int8, z-int4: latent without a basis, all coordinates in 8 or 4 bits; fp32, fp16, int8, int4: "
                   "keys and values as they are")
      ->check(CLI::IsMember({"latent", "report", "z-int8", "z-int4", "fp32", "fp16", "int8", "int4"}))
      ->capture_default_str();
  auto* k =
      command
          ->add_option("-k,--k", options->k,
                       "report: components of keys and of values kept, 1 to the width of its keys; latent: the bytes "
                       "that these would take, 4 k for each layer (default: an eighth of that width)")
          ->check(CLI::Range(1u, kv_cache::kMaxWidth));
  command->add_option("--bytes-per-token", options->bytes_per_token, "latent: what a token may take in all layers")
      ->check(IsNumber(1, 1e9))
      ->excludes(k);
  command->add_flag("--stored", options->stored,
                    "latent: one step for all coordinates, entropy-coded when saved; the bytes are those of saved "
                    "sessions, in memory it takes more");
  command->add_option("--text", options->text,
                      "A text to calibrate on (default: calibration.txt of the model, or of the one that ships)");
  command->add_option("--tokens", options->tokens, "Calibrate on so many tokens of it; 0: on all")
      ->check(CLI::Range(0u, 1u << 30))
      ->capture_default_str();
  command->add_flag("-f,--force", options->force, "Replace an existing compressed model");
  command->footer(
      "The source report keeps k components of keys and k of values, 2 bytes each: 4 k bytes for each layer and token.\n"
      "--k names that budget for both methods, so that the same k takes the same bytes. The compressed model refers to\n"
      "the base model by path and fingerprint; it holds no weights.\n"
      "Examples:\n"
      "  holo lm build ~/gpt2 --k 150 --output ./my_model\n"
      "  holo lm build ~/gpt2 --bytes-per-token 4608 --text my_texts.txt -o ./my_model\n"
      "  holo lm build ~/gpt2 --k 48 --stored -o ./for_parked_sessions\n"
      "  holo lm build ~/gpt2 --method report --k 150 -o ./as_in_the_report");
  ReadEnvironment(*command);
  command->callback([options, &globals, &action] { action = [options, &globals] { return Build(*options, globals); }; });
}

}  // namespace holo::cli::lm
