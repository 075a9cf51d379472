// holo_benchmark_quality: what each cache costs in perplexity, for a model directory and two texts.
//
// The basis of every cache is calibrated on the first --calibrate tokens of one text; the first --tokens of the other,
// which the calibration has not seen, are predicted through the cache, teacher-forced, in windows of the model's
// context without overlap. For each cache: bytes per token (all of them: scales, exact tokens, headers), how many times
// fewer than fp16 keys and values, and against the exact cache: perplexity, KL divergence in nats, and how often the
// likeliest token is the same. Rows:
//
//   fp16, int8, int4            keys and values as they are
//   report k                    the source report's table, k scaled to the model's width
//   latent at report k's bytes  ours beside it; then latent at round ratios
//   stored                      entropy-coded: bytes are those of SaveBlock(), tokens included
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "common/files/files.h"
#include "common/language_model/calibration/calibration.h"
#include "common/language_model/evaluation/evaluation.h"
#include "common/language_model/tokenizer/tokenizer.h"

namespace holo::benchmarks {
namespace {

[[noreturn]] void Stop(const Error& error) {
  std::fprintf(stderr, "%s\n", ToString(error).c_str());
  std::exit(1);
}

template <typename T>
T Get(Result<T> result) {
  if (!result) Stop(result.error());
  return *std::move(result);
}

struct Options {
  std::string model;
  std::string calibration_text;
  std::string test_text;
  std::string weights = "fp32";
  std::size_t calibration_tokens = 100000;
  std::size_t test_tokens = 20000;
  std::size_t fit_tokens = 4096;  // of the calibration's, for the stored tier's coder
  unsigned threads = 2;
  std::vector<double> latent = {4, 6, 8, 10, 12, 16};
  std::vector<double> stored = {6, 8, 10, 12, 16};
  bool no_table = false;
};

std::vector<std::uint32_t> Tokens(const tokenizer::Tokenizer& tokenizer, const std::string& path, std::size_t most) {
  const auto bytes = Get(files::ReadFile(path));
  std::vector<std::uint32_t> tokens =
      tokenizer.Encode({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (tokens.size() > most) tokens.resize(most);
  return tokens;
}

struct Run {
  const Options& options;
  weights::Gpt2Weights weights;
  std::shared_ptr<const transformer::Model> model;
  std::vector<std::uint32_t> calibration, test;
  calibration::Statistics statistics;
  compute::ThreadPool pool;
  double half_bytes = 0;

  // Bytes per token as SaveBlock() writes the test.
  double SavedBytesPerToken(const std::shared_ptr<const kv_cache::Scheme>& scheme) {
    transformer::Workspace workspace;
    std::size_t bytes = 0;
    const std::span<const std::uint32_t> all = test;
    for (std::size_t from = 0; from < all.size(); from += model->config().context) {
      const auto window = all.subspan(from, std::min<std::size_t>(model->config().context, all.size() - from));
      kv_cache::Cache cache(scheme);
      const transformer::Sequence sequence{window, &cache, false};
      Get(model->Forward({&sequence, 1}, workspace, pool));
      bytes += kv_cache::SavedBytes(cache, window);
    }
    return static_cast<double>(bytes) / static_cast<double>(all.size());
  }

  // Blocks of one full context, the exact first tokens included.
  double ResidentBytesPerToken(const kv_cache::Scheme& scheme) const {
    const std::size_t blocks = model->config().context / kv_cache::kBlockTokens;
    double bytes = 0;
    for (std::size_t block = 0; block < blocks; ++block) bytes += static_cast<double>(scheme.block_bytes(block));
    return bytes / static_cast<double>(model->config().context);
  }

  double Print(const std::string& name, const std::shared_ptr<const kv_cache::Scheme>& scheme, bool saved = false) {
    const evaluation::Score score = Get(evaluation::Compare(*model, scheme, test, {}, pool));
    const double bytes = saved ? SavedBytesPerToken(scheme) : ResidentBytesPerToken(*scheme);
    const auto count = static_cast<double>(score.predictions);
    std::printf("%-22s %9.1f %7.2fx %10.4f %+9.3f %% %10.6f %8.2f %%\n", name.c_str(), bytes, half_bytes / bytes,
                score.Perplexity(), 100 * (score.Perplexity() / score.ExactPerplexity() - 1), score.divergence / count,
                100 * static_cast<double>(score.agreements) / count);
    std::fflush(stdout);
    return bytes;
  }
};

int Main(const Options& options) {
  Run run{options, Get(weights::OpenGpt2(options.model)), nullptr, {}, {}, {}, compute::ThreadPool(options.threads), 0};
  run.model = Get(transformer::Model::Create(run.weights, Get(compute::ParseWeightType(options.weights))));
  const auto tokenizer = Get(tokenizer::Tokenizer::Open(options.model));
  run.calibration = Tokens(tokenizer, options.calibration_text, options.calibration_tokens);
  run.test = Tokens(tokenizer, options.test_text, options.test_tokens);
  const kv_cache::Geometry geometry = run.model->geometry();
  run.half_bytes = static_cast<double>(2 * 2 * geometry.width() * geometry.layers);
  std::printf("%u layers, width %zu, head width %u; calibrated on %zu tokens, tested on %zu\n", geometry.layers,
              geometry.width(), geometry.head_width, run.calibration.size(), run.test.size());
  run.statistics = Get(calibration::Collect(*run.model, run.weights, run.calibration, run.pool));
  calibration::BasisRequest request;
  request.base_fingerprint = weights::Fingerprint(run.weights);
  request.calibration = "{}";
  const auto latent = [&](const std::string& name, double bytes) {
    request.bytes_per_token = bytes;
    auto basis = calibration::MakeLatentBasis(run.statistics, run.weights, request);
    if (!basis) return std::printf("%-22s %s\n", name.c_str(), ToString(basis.error()).c_str());
    run.Print(name, Get(calibration::MakeScheme(*basis, run.weights)));
    return 0;
  };
  std::printf("%-22s %9s %8s %10s %11s %10s %10s\n", "cache", "bytes", "ratio", "perplexity", "change", "KL", "same");
  if (!options.no_table) {
    for (const auto precision : {kv_cache::Precision::kF16, kv_cache::Precision::kInt8, kv_cache::Precision::kInt4}) {
      run.Print(std::string(kv_cache::PrecisionName(precision)), Get(kv_cache::MakePlainScheme(geometry, precision)));
    }
    for (const std::uint32_t k : {200u, 150u, 100u, 50u, 9u}) {
      const auto scaled = static_cast<std::uint32_t>(
          std::max(1.0, std::round(k * static_cast<double>(std::min<std::size_t>(geometry.width(), 768)) / 768)));
      const auto basis = Get(calibration::MakeReportBasis(run.statistics, run.weights, scaled, request));
      const auto scheme = Get(calibration::MakeScheme(basis, run.weights));
      const std::string name = "report " + std::to_string(k) + " (" + std::to_string(scaled) + ")";
      const double bytes = run.Print(name, scheme);
      latent("latent at its bytes", bytes);
    }
  }
  for (const double ratio : options.latent) latent("latent", run.half_bytes / ratio);
  for (const double ratio : options.stored) {
    request.bytes_per_token = run.half_bytes / ratio;
    const std::span<const std::uint32_t> fit = run.calibration;
    const auto basis =
        Get(calibration::MakeStoredBasis(run.statistics, *run.model, run.weights,
                                         fit.first(std::min(fit.size(), options.fit_tokens)), request, run.pool));
    run.Print("stored", Get(calibration::MakeScheme(basis, run.weights)), /*saved=*/true);
  }
  return 0;
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  holo::benchmarks::Options options;
  CLI::App app("What each cache costs in perplexity");
  app.add_option("--model", options.model, "a GPT-2 directory")->required();
  app.add_option("--calibration-text", options.calibration_text)->required();
  app.add_option("--test-text", options.test_text)->required();
  app.add_option("--weights", options.weights, "fp32, bf16 or int8")->capture_default_str();
  app.add_option("--calibrate", options.calibration_tokens)->capture_default_str();
  app.add_option("--tokens", options.test_tokens)->capture_default_str();
  app.add_option("--fit", options.fit_tokens, "tokens for the stored tier's coder")->capture_default_str();
  app.add_option("--threads", options.threads)->capture_default_str();
  app.add_option("--latent", options.latent, "ratios to fp16 keys and values");
  app.add_option("--stored", options.stored, "likewise");
  app.add_flag("--no-table", options.no_table, "only those ratios");
  CLI11_PARSE(app, argc, argv);
  return holo::benchmarks::Main(options);
}
