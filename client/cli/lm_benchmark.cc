// holo lm benchmark: what a compressed memory costs and saves, against the uncompressed one.
#include <algorithm>
#include <cmath>
#include <iostream>

#include "client/cli/chart.h"
#include "client/cli/lm.h"
#include "client/cli/lm_against.h"
#include "common/language_model/calibration/calibration.h"
#include "common/language_model/evaluation/evaluation.h"

namespace holo::cli::lm {
namespace {

using Clock = std::chrono::steady_clock;
using SchemePointer = std::shared_ptr<const kv_cache::Scheme>;

// The report's table is of GPT-2's 768.
constexpr double kReportWidth = 768;
constexpr double kReportKs[] = {200, 150, 100, 50, 9};
constexpr double kStoredRatios[] = {4, 6, 8, 12, 16, 24};
constexpr std::size_t kManySequences = 32;
// What a machine is asked to hold, as an example.
constexpr std::size_t kSessionTokens = 2000;
constexpr double kSessionMemory = 1 << 30;

struct Options {
  ModelOptions model;
  std::string text;
  std::string calibration;
  std::string plot;
  std::string against;
  std::string python = "python3";
  std::vector<std::uint32_t> ks;
  std::size_t window = 0;
  std::size_t tokens = 16'384;
  std::size_t calibration_tokens = 131'072;
  bool table = false;
  bool without_speed = false;
  bool force = false;
};

// One way of storing, measured.
struct Point {
  std::string method;
  double k = 0;  // of the report's table; 0 for others
  double bytes_per_token = 0;
  evaluation::Score score;

  [[nodiscard]] double Change() const { return score.Perplexity() / score.ExactPerplexity() - 1; }
  [[nodiscard]] double Divergence() const { return score.divergence / static_cast<double>(score.predictions); }
  [[nodiscard]] double Agreement() const {
    return static_cast<double>(score.agreements) / static_cast<double>(score.predictions);
  }
};

nlohmann::json ToJson(const Point& point, double half_bytes) {
  return {{"method", point.method},
          {"k", point.k > 0 ? nlohmann::json(point.k) : nlohmann::json(nullptr)},
          {"bytes_per_token", point.bytes_per_token},
          {"ratio_to_fp16", half_bytes / point.bytes_per_token},
          {"perplexity", Finite(point.score.Perplexity())},
          {"uncompressed_perplexity", Finite(point.score.ExactPerplexity())},
          {"change", Finite(point.Change())},
          {"divergence", Finite(point.Divergence())},
          {"agreement", Finite(point.Agreement())}};
}

std::string Signed(double percent) {
  const std::string text = Fixed(percent, std::abs(percent) < 9.995 ? 2 : (std::abs(percent) < 99.95 ? 1 : 0));
  return (percent < 0 ? "" : "+") + text + " %";
}

std::string Column(const std::string& text, std::size_t width) {
  return std::string(width > text.size() ? width - text.size() : 0, ' ') + text;
}

double Seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

class SpeedMeter {
 public:
  SpeedMeter(const transformer::Model& model, SchemePointer scheme, std::span<const std::uint32_t> text,
             compute::ThreadPool& pool, std::string label, const Globals& globals)
      : model_(model), scheme_(std::move(scheme)), text_(text), pool_(pool), bar_(std::move(label), globals) {
    const std::size_t context = model.config().context;
    prompt_ = std::max<std::size_t>(1, std::min<std::size_t>(512, context / 2));
    short_prompt_ = std::max<std::size_t>(1, std::min<std::size_t>(128, context / 2));
    steps_ = std::max<std::size_t>(1, std::min<std::size_t>(64, context - prompt_));
  }

  [[nodiscard]] std::size_t prompt() const { return prompt_; }
  [[nodiscard]] std::size_t short_prompt() const { return short_prompt_; }
  [[nodiscard]] std::size_t steps() const { return steps_; }

  Result<Speed> Measure() {
    Speed speed;
    kv_cache::Cache cache(scheme_);
    cache.Reserve(prompt_ + steps_);
    const auto prefill = [&]() -> Result<void> {
      cache.Truncate(0);
      return Run(cache, 0, prompt_);
    };
    HOLO_ASSIGN_OR_RETURN(speed.prompt, Best(prefill, prompt_, 0));
    const auto decode = [&]() -> Result<void> {
      cache.Truncate(prompt_);
      for (std::size_t i = 0; i < steps_; ++i) HOLO_RETURN_IF_ERROR(Run(cache, prompt_ + i, 1));
      return {};
    };
    HOLO_ASSIGN_OR_RETURN(speed.one, Best(decode, steps_, 1));
    std::vector<kv_cache::Cache> caches;
    for (std::size_t i = 0; i < kManySequences; ++i) {
      caches.emplace_back(scheme_);
      caches.back().Reserve(short_prompt_ + steps_);
      HOLO_RETURN_IF_ERROR(Run(caches.back(), i * 1000, short_prompt_));
    }
    const auto decode_many = [&]() -> Result<void> {
      for (kv_cache::Cache& each : caches) each.Truncate(short_prompt_);
      for (std::size_t i = 0; i < steps_; ++i) {
        std::vector<transformer::Sequence> sequences;
        for (std::size_t s = 0; s < caches.size(); ++s) {
          sequences.push_back({Take(s * 1000 + short_prompt_ + i, 1), &caches[s], false});
        }
        HOLO_RETURN_IF_ERROR(model_.Forward(sequences, workspace_, pool_));
      }
      return {};
    };
    HOLO_ASSIGN_OR_RETURN(speed.many, Best(decode_many, steps_ * kManySequences, 2));
    return speed;
  }

 private:
  // So many tokens of the text, from anywhere in it.
  std::span<const std::uint32_t> Take(std::size_t from, std::size_t count) const {
    count = std::min(count, text_.size());
    return text_.subspan(from % (text_.size() - count + 1), count);
  }
  Result<void> Run(kv_cache::Cache& cache, std::size_t from, std::size_t count) {
    while (count > 0) {  // a text may be shorter than a prompt
      const std::span<const std::uint32_t> tokens = Take(from, count);
      const transformer::Sequence sequence{tokens, &cache, false};
      HOLO_RETURN_IF_ERROR(model_.Forward({&sequence, 1}, workspace_, pool_));
      count -= tokens.size();
    }
    return {};
  }

  // The best of at least three runs and a second: what disturbs only ever slows.
  template <typename Work>
  Result<double> Best(const Work& work, std::size_t tokens, int part) {
    double best = 0;
    const Clock::time_point start = Clock::now();
    for (int run = 0; run < 3 || (run < 50 && Seconds(Clock::now() - start) < 1); ++run) {
      const Clock::time_point before = Clock::now();
      HOLO_RETURN_IF_ERROR(work());
      best = std::max(best, static_cast<double>(tokens) / Seconds(Clock::now() - before));
      if (!bar_.Update((part + std::min(1.0, (run + 1) / 3.0)) / 3)) {
        return Fail(Code::kCancelled, "benchmark: cancelled");
      }
    }
    return best;
  }

  const transformer::Model& model_;
  SchemePointer scheme_;
  std::span<const std::uint32_t> text_;
  compute::ThreadPool& pool_;
  ProgressBar bar_;
  transformer::Workspace workspace_;
  std::size_t prompt_ = 0, short_prompt_ = 0, steps_ = 0;
};

class Benchmark {
 public:
  Benchmark(const Options& options, const Globals& globals, const model_directory::Model& model, const Text& text)
      : options_(options),
        globals_(globals),
        model_(model),
        config_(model.transformer->config()),
        text_(text),
        window_(options.window > 0 ? options.window : std::min<std::size_t>(config_.context, calibration::kMostWindow)),
        pool_(ThreadsOf(options.model)) {}

  Result<void> Run() {
    text_out_ = model_.path.string() + ": weights " +
                std::string(model_.transformer->weight_type()) + ", memory " + model_.method +
                ", " + std::to_string(pool_.threads()) + (pool_.threads() == 1 ? " thread, " : " threads, ") +
                std::string(compute::KernelName()) + " kernels\n";
    json_ = {{"model", model_.path.string()},
             {"weights", model_.transformer->weight_type()},
             {"method", model_.method},
             {"threads", pool_.threads()},
             {"kernels", compute::KernelName()},
             {"text", {{"name", text_.name}, {"tokens", text_.tokens.size()}, {"tokens_in_all", text_.tokens_in_all}}}};
    HOLO_RETURN_IF_ERROR(Memory());
    HOLO_RETURN_IF_ERROR(Quality());
    if (!options_.against.empty()) HOLO_RETURN_IF_ERROR(MeasureLlamaCpp());
    if (!options_.without_speed) HOLO_RETURN_IF_ERROR(Speeds());
    Sessions();
    if (options_.table || !options_.plot.empty()) HOLO_RETURN_IF_ERROR(Table());
    Print(globals_, text_out_, json_);
    return {};
  }

 private:
  [[nodiscard]] double half_bytes() const { return HalfBytesPerToken(config_); }

  // Of a token in a sequence as long as the context; `stored` as it is saved.
  Result<double> BytesOf(const SchemePointer& scheme) {
    if (scheme->name() != kv_cache::MethodName(kv_cache::Method::kStored)) {
      return MeanBytesPerToken(*scheme, static_cast<std::uint32_t>(window_));
    }
    return SavedBytesPerToken(*model_.transformer, scheme, text_.tokens, pool_);
  }

  Result<Point> Measure(const std::string& method, double k, const SchemePointer& scheme) {
    ProgressBar bar(method + (k > 0 ? " k " + Fixed(k, 0) : "") + " against uncompressed", globals_);
    Point point{method, k, 0, {}};
    HOLO_ASSIGN_OR_RETURN(point.score, evaluation::Compare(*model_.transformer, scheme, text_.tokens,
                                                           {static_cast<std::uint32_t>(window_), 0}, pool_,
                                                           [&](double done) { return bar.Update(done); }));
    HOLO_ASSIGN_OR_RETURN(point.bytes_per_token, BytesOf(scheme));
    return point;
  }

  Result<void> Memory() {
    HOLO_ASSIGN_OR_RETURN(const double bytes, BytesOf(model_.scheme));
    const bool is_stored = model_.method == kv_cache::MethodName(kv_cache::Method::kStored);
    const std::uint64_t basis_bytes = model_.manifest && model_.manifest->basis ? model_.manifest->basis->size_bytes : 0;
    text_out_ += "\nmemory of one token, averaged over " + Grouped(window_) + ", all layers\n" +
                 Column(Fixed(bytes, 1), 12) + " bytes" + (is_stored ? " as saved" : "") + ": " +
                 Fixed(half_bytes() / bytes, 2) + " times less than fp16 keys and values (" + Fixed(half_bytes(), 0) +
                 "), " + Fixed(2 * half_bytes() / bytes, 2) + " times less than fp32\n";
    if (is_stored) {
      text_out_ += Column(Fixed(MeanBytesPerToken(*model_.scheme, static_cast<std::uint32_t>(window_)), 1), 12) +
                   " bytes while it is used\n";
    }
    if (basis_bytes > 0) text_out_ += Column(Grouped(basis_bytes), 12) + " bytes of basis, once for all sequences\n";
    json_["memory"] = {
        {"bytes_per_token", bytes},
        {"bytes_per_token_in_use", MeanBytesPerToken(*model_.scheme, static_cast<std::uint32_t>(window_))},
        {"fp16_bytes_per_token", half_bytes()},
        {"ratio_to_fp16", half_bytes() / bytes},
        {"ratio_to_fp32", 2 * half_bytes() / bytes},
        {"basis_bytes", basis_bytes}};
    return {};
  }

  Result<void> Quality() {
    HOLO_ASSIGN_OR_RETURN(own_, Measure(model_.method, 0, model_.scheme));
    text_out_ += "\nquality on " + Grouped(text_.tokens.size()) +
                 (text_.tokens.size() < text_.tokens_in_all ? " of " + Grouped(text_.tokens_in_all) : "") +
                 " tokens of " + text_.name + ", windows of " + Grouped(window_) + "\n  perplexity   " +
                 Fixed(own_.score.Perplexity(), 4) + ", uncompressed " + Fixed(own_.score.ExactPerplexity(), 4) + ": " +
                 Signed(100 * own_.Change()) + "\n  divergence   " + Fixed(own_.Divergence(), 6) +
                 " nats a token, KL(uncompressed || this)" + "\n  agreement    " + Fixed(100 * own_.Agreement(), 2) +
                 " % of the likeliest tokens are the same\n";
    json_["quality"] = ToJson(own_, half_bytes());
    return {};
  }

  // Each cache of llama.cpp's against its own f16.
  Result<void> MeasureLlamaCpp() {
    const SpeedMeter meter(*model_.transformer, model_.scheme, text_.tokens, pool_, "", globals_);
    LlamaCppJob job;
    job.python = options_.python;
    job.model = model_.base.path;
    job.tokens = text_.tokens;
    job.window = window_;
    job.threads = pool_.threads();
    job.with_speed = !options_.without_speed;
    job.prompt = meter.prompt();
    job.short_prompt = meter.short_prompt();
    job.steps = meter.steps();
    job.sequences = kManySequences;
    HOLO_ASSIGN_OR_RETURN(llama_cpp_, RunLlamaCpp(job, globals_));
    text_out_ += "\nllama.cpp with the same file and tokens       bytes  ratio  perplexity    change    same\n";
    for (const LlamaCpp::Cache& cache : llama_cpp_->caches) {
      Point point{"llama.cpp " + cache.name, 0, cache.bytes_per_token, {}};
      point.score.predictions = cache.predictions;
      point.score.loss = cache.loss;
      point.score.exact_loss = llama_cpp_->caches.front().loss;
      point.score.divergence = std::nan("");  // not measured
      point.score.agreements = cache.agreements;
      text_out_ += "  " + cache.name + std::string(38 - cache.name.size(), ' ') + Cells(point) + "\n";
      llama_points_.push_back(std::move(point));
    }
    json_["llama_cpp"] = {{"points", nlohmann::json::array()}, {"version", llama_cpp_->version}};
    for (const Point& point : llama_points_) json_["llama_cpp"]["points"].push_back(ToJson(point, half_bytes()));
    return {};
  }

  // How many sessions fit, with the basis that they share.
  void Sessions() {
    kv_cache::Cache cache(model_.scheme);
    const std::size_t tokens = std::min<std::size_t>(kSessionTokens, config_.context);
    cache.Reserve(tokens);
    const std::uint64_t basis_bytes =
        model_.manifest && model_.manifest->basis ? model_.manifest->basis->size_bytes : 0;
    const double own =
        std::floor((kSessionMemory - static_cast<double>(basis_bytes)) / static_cast<double>(cache.bytes()));
    text_out_ += "\nsessions of " + Grouped(tokens) + " tokens in 1 GiB, in use: " + Fixed(own, 0);
    json_["sessions"] = {{"tokens", tokens}, {"own", own}};
    for (const Point& point : llama_points_) {
      const double theirs = std::floor(kSessionMemory / (point.bytes_per_token * static_cast<double>(tokens)));
      text_out_ += ", " + point.method + " " + Fixed(theirs, 0);
      json_["sessions"][point.method] = theirs;
    }
    text_out_ += "\n";
  }

  Result<void> Speeds() {
    HOLO_ASSIGN_OR_RETURN(const SchemePointer half,
                          kv_cache::MakePlainScheme(model_.transformer->geometry(), kv_cache::Precision::kF16));
    SpeedMeter own(*model_.transformer, model_.scheme, text_.tokens, pool_, "speed of " + model_.method, globals_);
    SpeedMeter plain(*model_.transformer, half, text_.tokens, pool_, "speed of fp16", globals_);
    HOLO_ASSIGN_OR_RETURN(const Speed ours, own.Measure());
    HOLO_ASSIGN_OR_RETURN(const Speed theirs, plain.Measure());
    const Speed* const peer = llama_cpp_ && llama_cpp_->speed ? &*llama_cpp_->speed : nullptr;
    const auto row = [&](const std::string& name, double Speed::*of) {
      text_out_ += "  " + name + Column(Fixed(ours.*of, 1), 12) + Column(Fixed(theirs.*of, 1), 12) +
                   Column(Fixed(ours.*of / (theirs.*of), 2), 10);
      if (peer != nullptr) {
        text_out_ += Column(Fixed(peer->*of, 1), 12) + Column(Fixed(ours.*of / (peer->*of), 2), 8) +
                     Column(Fixed(theirs.*of / (peer->*of), 2), 8);
      }
      text_out_ += "\n";
    };
    text_out_ += "\nspeed in tokens a second, best of several     " + Column(model_.method, 6) +
                 "        fp16     ratio" +
                 (peer == nullptr ? "" : "   llama.cpp  ratios of " + model_.method + " and fp16 to it") + "\n";
    row("a prompt of " + Column(std::to_string(own.prompt()), 4) + "                   ", &Speed::prompt);
    row("one sequence, behind " + Column(std::to_string(own.prompt()), 4) + "          ", &Speed::one);
    row(std::to_string(kManySequences) + " sequences, each behind " + Column(std::to_string(own.short_prompt()), 4) +
            "    ",
        &Speed::many);
    const auto json = [](const Speed& speed) {
      return nlohmann::json{{"prompt", speed.prompt}, {"one", speed.one}, {"many", speed.many}};
    };
    json_["speed"] = {{"own", json(ours)},
                      {"fp16", json(theirs)},
                      {"prompt_tokens", own.prompt()},
                      {"prompt_tokens_of_many", own.short_prompt()},
                      {"sequences", kManySequences}};
    if (peer != nullptr) json_["speed"]["llama_cpp"] = json(*peer);
    return {};
  }

  Result<void> Table() {
    HOLO_ASSIGN_OR_RETURN(const Text sample, OpenText(options_.calibration, kCalibrationText, model_.base.path,
                                                      *model_.base.tokenizer, options_.calibration_tokens));
    calibration::Statistics statistics;
    {
      ProgressBar bar("calibrate", globals_);
      HOLO_ASSIGN_OR_RETURN(statistics,
                            calibration::Collect(*model_.transformer, model_.base.weights, sample.tokens, pool_,
                                                 [&](double done) { return bar.Update(done); }));
    }
    calibration::BasisRequest request;
    request.calibration = "{}";
    {
      const Busy busy("fingerprint", globals_);
      request.base_fingerprint = weights::Fingerprint(model_.base.weights);
    }
    const auto measure = [&](const std::string& method, double k,
                             const Result<kv_cache::Basis>& basis) -> Result<Point> {
      if (!basis) return tl::unexpected(basis.error());
      HOLO_ASSIGN_OR_RETURN(const SchemePointer scheme, calibration::MakeScheme(*basis, model_.base.weights));
      return Measure(method, k, scheme);
    };
    std::vector<std::uint32_t> ks = options_.ks;
    if (ks.empty()) {
      for (const double k : kReportKs) {
        ks.push_back(static_cast<std::uint32_t>(std::max(1.0, std::round(k * config_.key_width() / kReportWidth))));
      }
    }
    std::vector<Point> reports;
    std::vector<Point> latents;
    for (const std::uint32_t k : ks) {
      const Busy busy("bases of k " + std::to_string(k), globals_);
      HOLO_ASSIGN_OR_RETURN(const Point report,
                            measure("report", k, calibration::MakeReportBasis(statistics, model_.base.weights, k, request)));
      request.bytes_per_token = BytesOfK(k, config_);
      reports.push_back(report);
      const auto basis = calibration::MakeLatentBasis(statistics, model_.base.weights, request);
      // So few bytes may hold no group in every layer.
      if (!basis && basis.error().code == Code::kInvalidArgument) {
        latents.emplace_back();
      } else {
        HOLO_ASSIGN_OR_RETURN(const Point latent, measure("latent", k, basis));
        latents.push_back(latent);
      }
      if (Interrupted()) return Fail(Code::kCancelled, "benchmark: cancelled");
    }
    std::vector<Point> plains;
    for (const auto precision : {kv_cache::Precision::kF16, kv_cache::Precision::kInt8, kv_cache::Precision::kInt4}) {
      HOLO_ASSIGN_OR_RETURN(const SchemePointer scheme,
                            kv_cache::MakePlainScheme(model_.transformer->geometry(), precision));
      HOLO_ASSIGN_OR_RETURN(const Point point, Measure(std::string(kv_cache::PrecisionName(precision)), 0, scheme));
      plains.push_back(point);
    }
    std::vector<Point> rows;
    for (const unsigned bits : {8u, 4u}) {
      if (!config_.frequencies.empty()) break;  // there is no such form for rotated keys
      HOLO_ASSIGN_OR_RETURN(const Point point,
                            measure(bits == 8 ? "z-int8" : "z-int4", 0,
                                    calibration::MakeIdentityBasis(statistics, model_.base.weights, bits, request)));
      rows.push_back(point);
    }
    std::vector<Point> stored;
    for (const double ratio : kStoredRatios) {
      request.bytes_per_token = half_bytes() / ratio;
      const auto basis = calibration::MakeStoredBasis(statistics, *model_.transformer, model_.base.weights,
                                                      CoderSample(sample.tokens), request, pool_);
      // A small model's headers alone may take more.
      if (!basis && basis.error().code == Code::kInvalidArgument) continue;
      HOLO_ASSIGN_OR_RETURN(const Point point, measure("stored", 0, basis));
      stored.push_back(point);
      if (Interrupted()) return Fail(Code::kCancelled, "benchmark: cancelled");
    }
    Describe(reports, latents, plains, rows, stored, sample);
    if (!options_.plot.empty()) return Plot(reports, latents, plains, rows, stored);
    return {};
  }

  [[nodiscard]] std::string Cells(const Point& point) const {
    return Column(Fixed(point.bytes_per_token, 0), 9) + Column(Fixed(half_bytes() / point.bytes_per_token, 1), 7) +
           Column(Fixed(point.score.Perplexity(), 3), 12) + Column(Signed(100 * point.Change()), 10) +
           Column(Fixed(100 * point.Agreement(), 1) + " %", 8);
  }

  void Describe(const std::vector<Point>& reports, std::vector<Point>& latents, const std::vector<Point>& plains,
                const std::vector<Point>& rows, const std::vector<Point>& stored, const Text& sample) {
    text_out_ += "\nthe report's table, and latent in the same bytes; calibrated on " + Grouped(sample.tokens.size()) +
                 " tokens of " + sample.name + "\n";
    if (config_.key_width() != static_cast<std::uint32_t>(kReportWidth) && options_.ks.empty()) {
      text_out_ +=
          "(the report's k of 768 are scaled to this model's keys, " + std::to_string(config_.key_width()) + " wide)\n";
    }
    text_out_ +=
        "           report                                   latent\n"
        "    k    bytes  ratio  perplexity  change    same |    bytes  ratio  perplexity  change    same\n";
    for (std::size_t i = 0; i < reports.size(); ++i) {
      text_out_ += Column(Fixed(reports[i].k, 0), 5) + Cells(reports[i]) + " |" +
                   (latents[i].method.empty() ? "  too few" : Cells(latents[i])) + "\n";
    }
    std::erase_if(latents, [](const Point& point) { return point.method.empty(); });
    text_out_ += "\nothers      bytes  ratio  perplexity    change    same\n";
    json_["points"] = nlohmann::json::array();
    for (const std::vector<Point>* points :
         std::initializer_list<const std::vector<Point>*>{&reports, &latents, &plains, &rows, &stored}) {
      for (const Point& point : *points) {
        json_["points"].push_back(ToJson(point, half_bytes()));
        if (points == &reports || points == &latents) continue;
        text_out_ +=
            point.method + std::string(8 - std::min<std::size_t>(8, point.method.size()), ' ') + Cells(point) + "\n";
      }
    }
  }

  Result<void> Plot(const std::vector<Point>& reports, const std::vector<Point>& latents,
                    const std::vector<Point>& plains, const std::vector<Point>& rows,
                    const std::vector<Point>& stored) {
    std::vector<Curve> curves;
    const auto add = [&](const std::string& name, const std::vector<Point>& points, bool is_joined, bool is_labelled) {
      Curve curve{name, {}, is_joined};
      for (const Point& point : points) {
        std::string label;
        if (is_labelled) label = point.k > 0 ? "k " + Fixed(point.k, 0) : point.method;
        if (label.starts_with(name + " ")) label.erase(0, name.size() + 1);
        curve.points.push_back({point.bytes_per_token, point.score.Perplexity(), label});
      }
      std::sort(curve.points.begin(), curve.points.end(),
                [](const CurvePoint& a, const CurvePoint& b) { return a.bytes_per_token < b.bytes_per_token; });
      curves.push_back(std::move(curve));
    };
    add("latent", latents, true, false);
    add("report: PCA of K and V", reports, true, true);
    add("stored: latent as saved", stored, true, false);
    add("keys and values as they are", plains, false, true);
    if (!rows.empty()) add("latent without a basis", rows, false, true);
    if (!llama_points_.empty()) add("llama.cpp", llama_points_, false, true);
    const double exact = own_.score.ExactPerplexity();
    const std::string name = model_.base.path.filename().string();
    HOLO_RETURN_IF_ERROR(SaveDrawing(
        options_.plot, DrawCurves(curves, exact, 3 * exact,
                                  "Perplexity of " + (name.empty() ? model_.base.path.string() : name) +
                                      " against the memory of a token, " + Grouped(text_.tokens.size()) + " tokens")));
    text_out_ += "\nplot: " + options_.plot + "\n";
    json_["plot"] = options_.plot;
    return {};
  }

  const Options& options_;
  const Globals& globals_;
  const model_directory::Model& model_;
  const weights::Config config_;
  const Text& text_;
  const std::size_t window_;
  compute::ThreadPool pool_;
  std::optional<LlamaCpp> llama_cpp_;
  std::vector<Point> llama_points_;
  std::string text_out_;
  nlohmann::json json_;
  Point own_;
};

Result<void> RunBenchmark(const Options& options, const Globals& globals) {
  if (!options.plot.empty()) {
    HOLO_RETURN_IF_ERROR(CheckDrawingName(options.plot));
    HOLO_RETURN_IF_ERROR(CheckOutput(options.plot, options.force));
  }
  HOLO_ASSIGN_OR_RETURN(const model_directory::Model model, OpenModel(options.model, globals));
  const weights::Config& config = model.transformer->config();
  for (const std::uint32_t k : options.ks) {
    if (k >= 1 && k <= config.key_width()) continue;
    return Fail(Code::kInvalidArgument, "k: expected 1 to " + std::to_string(config.key_width()) +
                                            ", the width of this model's keys, found " + std::to_string(k));
  }
  if (options.window > config.context) {
    return Fail(Code::kInvalidArgument, "window: expected at most " + std::to_string(config.context) +
                                            ", the model's context, found " + std::to_string(options.window));
  }
  if (!options.against.empty() && std::filesystem::is_directory(model.base.path)) {
    return Fail(Code::kInvalidArgument,
                "against llama.cpp: expected a GGUF file, which it can read, too, found " + model.base.path.string());
  }
  HOLO_ASSIGN_OR_RETURN(
      const Text text, OpenText(options.text, kHeldOutText, model.base.path, *model.base.tokenizer, options.tokens));
  if (text.tokens.size() < 2) {
    return Fail(Code::kInvalidArgument, text.name + ": expected 2 tokens or more, found one");
  }
  return Benchmark(options, globals, model, text).Run();
}

}  // namespace

void AddBenchmark(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("benchmark", "Memory, quality and speed, against the uncompressed model");
  auto options = std::make_shared<Options>();
  AddModelOptions(*command, options->model, Which::kAny);
  command->add_option("--text", options->text,
                      "Measure quality on this text, which the basis should not be calibrated on (default: held_out.txt "
                      "of the model, or of the one that ships)");
  command->add_option("--tokens", options->tokens, "On so many tokens of it; 0: all")
      ->check(CLI::Range(0u, 1u << 30))
      ->capture_default_str();
  command->add_flag("--no-speed", options->without_speed, "Leave speed out");
  command->add_flag("--table", options->table,
                    "The source report's table, latent in the same bytes, and all other methods; takes minutes");
  command
      ->add_option("--against", options->against,
                   "llama.cpp: quality, bytes and speed of its caches f16, q8_0 and q4_0, with the same file, tokens "
                   "and threads, through the package llama-cpp-python")
      ->check(CLI::IsMember({"llama.cpp"}));
  command->add_option("--python", options->python, "The Python that has llama-cpp-python")->capture_default_str();
  command->add_option("--window", options->window, "Tokens seen at once (default: the context, at most 1024)")
      ->check(CLI::Range(2u, 1u << 20));
  command->add_option("--plot", options->plot, "The same as a picture, .png or .svg: perplexity against bytes per token");
  command->add_option("-k,--k", options->ks, "k of the table (default: 200,150,100,50,9 of 768, in proportion)")
      ->delimiter(',');
  command->add_option("--calibration", options->calibration,
                      "The table's methods are calibrated on this text (default: calibration.txt of the model, or of "
                      "the one that ships)");
  command
      ->add_option("--calibration-tokens", options->calibration_tokens, "On so many tokens of it; 0: all")
      ->check(CLI::Range(0u, 1u << 30))
      ->capture_default_str();
  command->add_flag("-f,--force", options->force, "Replace an existing plot");
  command->footer(
      "Quality is measured decoding through the compressed memory, every token predicted once, beside an fp32 one.\n"
      "Bytes count scales and the exact first tokens; bases are counted apart. Speed compares with fp16 keys and values.\n"
      "Examples:\n"
      "  holo lm benchmark ./my_model\n"
      "  holo lm benchmark ~/gpt2 --text wiki.test.raw --plot curve.png\n"
      "  holo lm benchmark smollm2 --against llama.cpp --python VENV/bin/python --plot curve.png\n"
      "  holo lm benchmark ./my_model --no-speed --tokens 0 --json");
  ReadEnvironment(*command);
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return RunBenchmark(*options, globals); }; });
}

}  // namespace holo::cli::lm
