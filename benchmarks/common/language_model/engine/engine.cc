// holo_benchmark_engine: how fast the language model's engine is, on GPT-2 124M's geometry with random weights, or on
// the model directory given with --model. Sections (--only):
//
//   memory      bytes of weights read each second by decoding one sequence, against this machine's memory bandwidth:
//               the best of several reads of 512 MiB on as many threads
//   batch       tokens/s of 1, 8 and 32 sequences (--sequences) that decode together
//   prefill     tokens/s of one prompt
//   decode      tokens/s of one sequence behind that prompt
//   attention   microseconds that one token's attention takes over --context tokens in every layer, with each cache
//   resident    bytes of the process against weights + caches
//
// Everything compared is run in turns, --rounds times, and the best time of each counts: other programs only add.
// One line a result: section, case, value, unit. The rest of the machine should be quiet.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/language_model/kv_cache/kv_cache.h"
#include "common/language_model/transformer/transformer.h"

namespace holo::benchmarks {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

template <typename Work>
double TimeOf(const Work& work) {
  const auto start = Clock::now();
  work();
  return Seconds(Clock::now() - start);
}

void Print(const char* section, const std::string& what, double value, const char* unit) {
  std::printf("%-10s %-34s %12.2f %s\n", section, what.c_str(), value, unit);
  std::fflush(stdout);
}

[[noreturn]] void Stop(const Error& error) {
  std::fprintf(stderr, "%s\n", ToString(error).c_str());
  std::exit(1);
}

template <typename T>
T Get(Result<T> result) {
  if (!result) Stop(result.error());
  return *std::move(result);
}

// GPT-2 124M with normally distributed weights; its bytes live as long as this.
struct RandomModel {
  std::vector<std::vector<float>> storage;
  weights::Gpt2Weights weights;
};

std::unique_ptr<RandomModel> MakeRandomModel() {
  auto model = std::make_unique<RandomModel>();
  weights::Config config;
  config.vocabulary = 50257;
  config.context = 1024;
  config.width = 768;
  config.layers = 12;
  config.heads = 12;
  config.inner_width = 3072;
  // The sum of four bytes is normal enough, and quicker than a distribution's hundred million values.
  std::mt19937 random(1);
  weights::TensorSet set;
  const auto add = [&](const std::string& name, std::vector<std::uint64_t> shape, float scale, float mean = 0) {
    std::uint64_t count = 1;
    for (const std::uint64_t extent : shape) count *= extent;
    std::vector<float>& values = model->storage.emplace_back(count);
    for (float& value : values) {
      const std::uint32_t bits = random();
      const auto sum = static_cast<float>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24));
      value = mean + scale * (sum - 510) / 147.8f;
    }
    weights::Tensor tensor;
    tensor.name = name;
    tensor.dtype = weights::Dtype::kF32;
    tensor.shape = std::move(shape);
    tensor.bytes = {reinterpret_cast<const std::uint8_t*>(values.data()), count * sizeof(float)};
    set.tensors.emplace(name, tensor);
  };
  const std::uint64_t width = config.width;
  add("wte.weight", {config.vocabulary, width}, 0.02f);
  add("wpe.weight", {config.context, width}, 0.02f);
  for (std::uint32_t i = 0; i < config.layers; ++i) {
    const std::string layer = "h." + std::to_string(i) + ".";
    for (const char* norm : {"ln_1", "ln_2"}) {
      add(layer + norm + ".weight", {width}, 0.1f, 1);
      add(layer + norm + ".bias", {width}, 0.1f);
    }
    add(layer + "attn.c_attn.weight", {width, 3 * width}, 0.02f);
    add(layer + "attn.c_attn.bias", {3 * width}, 0.02f);
    add(layer + "attn.c_proj.weight", {width, width}, 0.02f);
    add(layer + "attn.c_proj.bias", {width}, 0.02f);
    add(layer + "mlp.c_fc.weight", {width, 4 * width}, 0.02f);
    add(layer + "mlp.c_fc.bias", {4 * width}, 0.02f);
    add(layer + "mlp.c_proj.weight", {4 * width, width}, 0.02f);
    add(layer + "mlp.c_proj.bias", {width}, 0.02f);
  }
  add("ln_f.weight", {width}, 0.1f, 1);
  add("ln_f.bias", {width}, 0.1f);
  model->weights = Get(weights::AssembleGpt2(config, std::move(set), "random"));
  return model;
}

// GB/s of reading 512 MiB once with all threads.
double ReadBandwidth(const compute::AlignedBytes& bytes, compute::ThreadPool& pool) {
  constexpr std::size_t kChunk = std::size_t{4} << 20;
  const auto* words = bytes.as<std::uint64_t>();
  std::vector<std::uint64_t> sums(bytes.size() / kChunk);
  const double time = TimeOf([&] {
    pool.ForEach(sums.size(), [&](std::size_t i, unsigned) {
      const std::uint64_t* from = words + i * kChunk / 8;
      std::uint64_t lanes[16] = {};
      for (std::size_t j = 0; j < kChunk / 8; j += 16) {
        for (std::size_t lane = 0; lane < 16; ++lane) lanes[lane] ^= from[j + lane];
      }
      for (const std::uint64_t lane : lanes) sums[i] ^= lane;
    });
  });
  std::uint64_t all = 0;
  for (const std::uint64_t sum : sums) all ^= sum;
  if (all == 1) std::puts("");  // never: the sums must be computed
  return static_cast<double>(bytes.size()) / time / 1e9;
}

// Several sequences that have `tokens` tokens each.
struct Batch {
  std::vector<kv_cache::Cache> caches;
  std::vector<std::uint32_t> tokens;
  std::vector<transformer::Sequence> sequences;
  transformer::Workspace workspace;
};

std::unique_ptr<Batch> MakeBatch(const transformer::Model& model, std::shared_ptr<const kv_cache::Scheme> scheme,
                                 std::size_t count, std::size_t context, compute::ThreadPool& pool) {
  auto batch = std::make_unique<Batch>();
  batch->tokens.resize(count);
  std::vector<std::uint32_t> prompt(context);
  for (std::size_t i = 0; i < context; ++i) {
    prompt[i] = static_cast<std::uint32_t>(i * 7919 % model.config().vocabulary);
  }
  kv_cache::Cache first(scheme);
  if (context > 0) {
    const transformer::Sequence sequence{prompt, &first, false};
    Get(model.Forward({&sequence, 1}, batch->workspace, pool));
  }
  for (std::size_t i = 0; i < count; ++i) {
    batch->caches.push_back(first.Fork());
    batch->caches.back().Reserve(model.config().context);
    batch->tokens[i] = static_cast<std::uint32_t>(i * 31 % model.config().vocabulary);
  }
  for (std::size_t i = 0; i < count; ++i) {
    batch->sequences.push_back({{&batch->tokens[i], 1}, &batch->caches[i], false});
  }
  return batch;
}

// Seconds of one step of all sequences, `steps` of them, from the same context again each time.
double Decode(const transformer::Model& model, Batch& batch, std::size_t steps, compute::ThreadPool& pool) {
  const std::size_t context = batch.caches.front().tokens();
  const double time = TimeOf([&] {
    for (std::size_t step = 0; step < steps; ++step) Get(model.Forward(batch.sequences, batch.workspace, pool));
  });
  for (kv_cache::Cache& cache : batch.caches) {
    cache.Truncate(context);
    cache.Reserve(model.config().context);
  }
  return time / static_cast<double>(steps);
}

double Prefill(const transformer::Model& model, const std::shared_ptr<const kv_cache::Scheme>& scheme,
               std::size_t count, transformer::Workspace& workspace, compute::ThreadPool& pool) {
  std::vector<std::uint32_t> prompt(count);
  for (std::size_t i = 0; i < count; ++i) {
    prompt[i] = static_cast<std::uint32_t>(i * 7919 % model.config().vocabulary);
  }
  kv_cache::Cache cache(scheme);
  cache.Reserve(count);
  return TimeOf([&] {
    const transformer::Sequence sequence{prompt, &cache, false};
    Get(model.Forward({&sequence, 1}, workspace, pool));
  });
}

// A latent basis of some rank with random directions: as fast as a real one.
std::shared_ptr<const kv_cache::Scheme> RandomLatent(const kv_cache::Geometry& geometry, std::uint32_t rank,
                                                     std::uint8_t bits) {
  const std::size_t width = geometry.width();
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 0.03f);
  const auto noise = [&](std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal(random);
    return values;
  };
  kv_cache::Basis basis;
  basis.geometry = geometry;
  basis.calibration = "{}";
  kv_cache::BasisLayer layer;
  layer.rank = rank;
  layer.mean.assign(width, 0.0f);
  layer.encoder = noise(width * rank);
  layer.decoder = noise(width * rank);
  layer.bits.assign(rank / kv_cache::kGroup, bits);
  basis.layers.assign(geometry.layers, layer);
  const kv_cache::LayerWeights of_layer{noise(width * width), noise(width * width), noise(width)};
  return Get(
      kv_cache::MakeProjectedScheme(basis, std::vector<kv_cache::LayerWeights>(geometry.layers, of_layer)));
}

// One sequence of `context` random rows, and a query's attention to them.
class AttentionCase {
 public:
  AttentionCase(std::string name, std::shared_ptr<const kv_cache::Scheme> scheme, std::size_t context,
                compute::ThreadPool& pool)
      : name_(std::move(name)), cache_(std::move(scheme)) {
    const kv_cache::Scheme& of = cache_.scheme();
    const std::size_t width = of.geometry().width();
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, 1);
    rows_.resize(width * context);
    for (float& value : rows_) value = normal(random);
    const auto append = [&](const float* from, std::size_t count) {
      for (std::size_t layer = 0; layer < of.geometry().layers; ++layer) {
        std::vector<float> prepared(count * of.prepared_width(layer));
        const kv_cache::Rows rows{count, from, from, from, width};
        compute::Scratch scratch;
        of.Prepare(layer, rows, prepared.data(), scratch, pool);
        cache_.Append(layer, rows, prepared.data());
      }
    };
    append(rows_.data(), context - 1);
    cache_.Commit(context - 1);
    append(rows_.data(), 1);
    out_.resize(width);
  }

  void Run(compute::ThreadPool& pool) {
    const kv_cache::Request request{&cache_, 1, rows_.data(), out_.data()};
    for (std::size_t layer = 0; layer < cache_.scheme().geometry().layers; ++layer) {
      kv_cache::Attend(layer, {&request, 1}, scratch_, pool);
    }
  }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  kv_cache::Cache cache_;
  std::vector<float> rows_, out_;
  kv_cache::AttentionScratch scratch_;
};

double ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  double all = 0;
  double resident = 0;
  file >> all >> resident;
  return resident * 4096;
}

struct Options {
  std::string model;
  std::vector<std::string> only;
  std::vector<std::string> weights = {"fp32", "bf16", "int8"};
  std::vector<std::size_t> sequences = {1, 8, 32};
  std::string cache = "fp16";
  unsigned threads = 2;
  int rounds = 5;
  std::size_t context = 1024;
  std::size_t steps = 16;
  std::size_t prompt = 512;

  [[nodiscard]] bool Wants(const char* section) const {
    return only.empty() || std::find(only.begin(), only.end(), section) != only.end();
  }
};

std::shared_ptr<const kv_cache::Scheme> PlainScheme(const kv_cache::Geometry& geometry, const std::string& name) {
  for (const auto precision : {kv_cache::Precision::kF32, kv_cache::Precision::kF16, kv_cache::Precision::kInt8,
                               kv_cache::Precision::kInt4}) {
    if (name == kv_cache::PrecisionName(precision)) return Get(kv_cache::MakePlainScheme(geometry, precision));
  }
  Stop(Error{Code::kInvalidArgument, "cache: expected fp32, fp16, int8 or int4, found " + name});
}

void RunWeights(const Options& options, const weights::Gpt2Weights& weights, const std::string& type_name,
                compute::ThreadPool& pool) {
  const auto type = Get(compute::ParseWeightType(type_name));
  const double before = ResidentBytes();
  const auto model = Get(transformer::Model::Create(weights, type));
  const double after = ResidentBytes();
  const auto scheme = PlainScheme(model->geometry(), options.cache);
  if (options.Wants("resident")) {
    Print("resident", type_name + " weights, as counted", static_cast<double>(model->bytes()) / 1e6, "MB");
    Print("resident", type_name + " weights, as the process grew", (after - before) / 1e6, "MB");
    const double start = ResidentBytes();
    auto batch = MakeBatch(*model, scheme, 1, model->config().context - options.steps - 1, pool);
    Decode(*model, *batch, options.steps, pool);
    const double grown = ResidentBytes() - start;
    Print("resident", type_name + " a full cache, as counted",
          static_cast<double>(batch->caches.front().bytes()) / 1e6, "MB");
    Print("resident", type_name + " a full cache and its workspace", grown / 1e6, "MB");
  }
  if (options.Wants("memory")) {
    const auto per_token = static_cast<double>(model->bytes() - std::size_t{model->config().context} *
                                                                    model->config().width * sizeof(float));
    compute::AlignedBytes buffer(std::size_t{512} << 20);
    std::fill_n(buffer.as<std::uint64_t>(), buffer.size() / 8, 3);
    auto batch = MakeBatch(*model, scheme, 1, 0, pool);
    Decode(*model, *batch, 2, pool);
    double bandwidth = 0;
    double decode = std::numeric_limits<double>::infinity();
    for (int round = 0; round < options.rounds; ++round) {
      bandwidth = std::max(bandwidth, ReadBandwidth(buffer, pool));
      decode = std::min(decode, Decode(*model, *batch, options.steps, pool));
    }
    Print("memory", "reading", bandwidth, "GB/s");
    Print("memory", type_name + " weights, one sequence", per_token / decode / 1e9, "GB/s");
    Print("memory", type_name + " of the bandwidth", 100 * per_token / decode / 1e9 / bandwidth, "%");
    Print("memory", type_name + " decode", 1 / decode, "tokens/s");
  }
  if (options.Wants("batch")) {
    const std::vector<std::size_t>& counts = options.sequences;
    std::vector<std::unique_ptr<Batch>> batches;
    for (const std::size_t count : counts) batches.push_back(MakeBatch(*model, scheme, count, 32, pool));
    std::vector<double> best(counts.size(), std::numeric_limits<double>::infinity());
    for (int round = 0; round < options.rounds; ++round) {
      for (std::size_t i = 0; i < counts.size(); ++i) {
        const std::size_t steps = std::max<std::size_t>(2, options.steps / counts[i]);
        best[i] = std::min(best[i], Decode(*model, *batches[i], steps, pool));
      }
    }
    for (std::size_t i = 0; i < counts.size(); ++i) {
      Print("batch", type_name + " sequences: " + std::to_string(counts[i]), static_cast<double>(counts[i]) / best[i],
            "tokens/s");
    }
    Print("batch", type_name + " " + std::to_string(counts.back()) + " against " + std::to_string(counts.front()),
          static_cast<double>(counts.back()) * best.front() / (static_cast<double>(counts.front()) * best.back()), "times");
  }
  if (options.Wants("decode")) {
    auto batch = MakeBatch(*model, scheme, 1, options.prompt, pool);
    double best = std::numeric_limits<double>::infinity();
    for (int round = 0; round < options.rounds; ++round) {
      best = std::min(best, Decode(*model, *batch, options.steps, pool));
    }
    Print("decode", type_name + " behind tokens: " + std::to_string(options.prompt), 1 / best, "tokens/s");
  }
  if (options.Wants("prefill")) {
    transformer::Workspace workspace;
    double best = std::numeric_limits<double>::infinity();
    for (int round = 0; round < std::max(2, options.rounds / 2); ++round) {
      best = std::min(best, Prefill(*model, scheme, options.prompt, workspace, pool));
    }
    Print("prefill", type_name + " tokens: " + std::to_string(options.prompt),
          static_cast<double>(options.prompt) / best, "tokens/s");
  }
}

void RunAttention(const Options& options, const kv_cache::Geometry& geometry, compute::ThreadPool& pool) {
  std::vector<AttentionCase> cases;
  for (const char* name : {"fp32", "fp16", "int8", "int4"}) {
    cases.emplace_back(name, PlainScheme(geometry, name), options.context, pool);
  }
  for (const std::uint32_t rank : {32u, 64u, 128u, 256u, 512u}) {
    if (rank > geometry.width()) break;
    for (const int bits : {4, 8}) {
      cases.emplace_back("latent rank " + std::to_string(rank) + " bits " + std::to_string(bits),
                         RandomLatent(geometry, rank, static_cast<std::uint8_t>(bits)), options.context, pool);
    }
  }
  std::vector<double> best(cases.size(), std::numeric_limits<double>::infinity());
  for (int round = 0; round < 4 * options.rounds; ++round) {
    for (std::size_t i = 0; i < cases.size(); ++i) {
      best[i] = std::min(best[i], TimeOf([&] { cases[i].Run(pool); }));
    }
  }
  for (std::size_t i = 0; i < cases.size(); ++i) Print("attention", cases[i].name(), best[i] * 1e6, "us/token");
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  using namespace holo;
  benchmarks::Options options;
  CLI::App app("Speed of the language model's engine");
  app.add_option("--model", options.model, "a GPT-2 directory; without it, GPT-2 124M's geometry with random weights");
  app.add_option("--only", options.only, "sections: memory, batch, prefill, decode, attention, resident");
  app.add_option("--weights", options.weights, "fp32, bf16, int8")->capture_default_str();
  app.add_option("--sequences", options.sequences, "that decode together, for batch")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--cache", options.cache, "fp32, fp16, int8 or int4")->capture_default_str();
  app.add_option("--threads", options.threads)->capture_default_str();
  app.add_option("--rounds", options.rounds)->capture_default_str();
  app.add_option("--context", options.context, "tokens, for attention")->capture_default_str();
  app.add_option("--steps", options.steps, "tokens decoded in a round")->capture_default_str();
  app.add_option("--prompt", options.prompt, "tokens of a prompt")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  std::printf("kernels %s, %u threads\n", std::string(compute::KernelName()).c_str(), options.threads);
  compute::ThreadPool pool(options.threads);
  std::unique_ptr<benchmarks::RandomModel> random;
  weights::Gpt2Weights weights;
  const bool needs_weights = options.only != std::vector<std::string>{"attention"};
  kv_cache::Geometry geometry{12, 12, 64};
  if (!options.model.empty()) {
    weights = benchmarks::Get(weights::OpenGpt2(options.model));
    geometry = {weights.config.layers, weights.config.heads, weights.config.head_width()};
  } else if (needs_weights) {
    random = benchmarks::MakeRandomModel();
    weights = random->weights;
  }
  if (options.Wants("attention")) benchmarks::RunAttention(options, geometry, pool);
  if (!needs_weights) return 0;
  for (const std::string& type : options.weights) benchmarks::RunWeights(options, weights, type, pool);
}
