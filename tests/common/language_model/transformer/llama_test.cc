// Models of the Llama family, against PyTorch and against themselves; and files that are refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/common/language_model/transformer/small_llama.h"

namespace holo::transformer {
namespace {

using compute::ThreadPool;
using compute::WeightType;
using kv_cache::Cache;
using kv_cache::Precision;

std::vector<std::uint32_t> GoldenTokens() {
  std::vector<std::uint32_t> tokens;
  for (std::uint32_t i = 0; i < 75; ++i) tokens.push_back((7 * i * i + 3 * i + 5) % 61);
  return tokens;
}

std::vector<float> GoldenLogits(const std::string& name) {
  const auto bytes = files::ReadFile(testing::SourceFolder() / ("golden_llama_" + name + ".f32")).value();
  std::vector<float> logits(bytes.size() / sizeof(float));
  std::memcpy(logits.data(), bytes.data(), bytes.size());
  return logits;
}

std::vector<float> Logits(const Model& model, std::size_t per_call, unsigned threads = 1,
                          Precision precision = Precision::kF32) {
  ThreadPool pool(threads);
  Workspace workspace;
  Cache cache(kv_cache::MakePlainScheme(model.geometry(), precision).value());
  const std::vector<std::uint32_t> tokens = GoldenTokens();
  std::vector<float> all;
  for (std::size_t from = 0; from < tokens.size(); from += per_call) {
    const Sequence sequence{std::span(tokens).subspan(from, std::min(per_call, tokens.size() - from)), &cache, true};
    const auto logits = model.Forward({&sequence, 1}, workspace, pool).value();
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

double WorstDifference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  return worst;
}

double Deviation(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

// As derived in transformer_test.cc: the matrices are as wide, and logits have the same deviation. A rotation adds an
// error of 2^-24 of a key's size, less than its sum has.
constexpr double kTolerance = 4 * 2e-5 * 2.7;

TEST_CASE("a Llama's logits agree with PyTorch in double precision, with and without a head of its own") {
  for (const char* name : {"scaled", "tied"}) {
    CAPTURE(name);
    const auto model = Model::Create(testing::GoldenLlama(name), WeightType::kF32).value();
    CHECK(WorstDifference(Logits(*model, 75), GoldenLogits(name)) < kTolerance);
    CHECK(model->weight_type() == "fp32");
  }
}

TEST_CASE("a GGUF file, with its own order of rows and its own way of scaling, gives the same logits") {
  const std::vector<std::uint8_t> file = testing::GoldenGguf().File();
  const weights::LlamaWeights weights = weights::LlamaFromGguf(gguf::File::Parse(file, "g").value()).value();
  CHECK(weights.config.end_tokens == std::vector<std::uint32_t>{2, 60});
  CHECK(weights.config.end_tokens == testing::GoldenLlama("scaled").config.end_tokens);
  const auto model = Model::Create(weights, std::nullopt).value();
  CHECK(WorstDifference(Logits(*model, 75), GoldenLogits("scaled")) < kTolerance);

  testing::GgufParts tied = testing::GoldenGguf();
  tied.tensors.erase("output.weight");
  tied.tensors.erase("rope_freqs.weight");
  const std::vector<std::uint8_t> tied_file = tied.File();
  const auto other =
      Model::Create(weights::LlamaFromGguf(gguf::File::Parse(tied_file, "g").value()).value(), WeightType::kF32).value();
  CHECK(WorstDifference(Logits(*other, 75), GoldenLogits("tied")) < kTolerance);
}

TEST_CASE("products with a file's own blocks are those with the numbers that the blocks stand for") {
  const std::vector<std::uint8_t> file = testing::GoldenGguf(/*is_quantised=*/true).File();
  const weights::LlamaWeights weights = weights::LlamaFromGguf(gguf::File::Parse(file, "g").value()).value();
  const auto blocks = Model::Create(weights, std::nullopt).value();
  CHECK(blocks->weight_type() == "Q8_0");
  const auto floats = Model::Create(weights, WeightType::kF32).value();
  CHECK(blocks->bytes() < floats->bytes() / 2);
  const std::vector<float> expected = Logits(*floats, 75);
  // Activations are off by 1/7091 of the largest of 32, about 2.5 deviations: 4e-4 of a sum, through seven products in a
  // row, each amplified by up to 4: 0.01 of 2.7.
  CHECK(Deviation(Logits(*blocks, 75), expected) < 0.01 * 2.7);
  // Codes of 8 bits: 1/254 of the largest, / sqrt(3).
  CHECK(Deviation(expected, GoldenLogits("scaled")) < 0.06 * 2.7);
  CHECK(Deviation(expected, GoldenLogits("scaled")) > 1e-3);
}

TEST_CASE("prefill and decoding of a Llama give the same bits, on any number of threads, whatever holds weights and memory") {
  const std::vector<std::uint8_t> file = testing::GoldenGguf(/*is_quantised=*/true).File();
  const weights::LlamaWeights weights = weights::LlamaFromGguf(gguf::File::Parse(file, "g").value()).value();
  for (const std::optional<WeightType> type : {std::optional<WeightType>(), std::optional(WeightType::kF32),
                                               std::optional(WeightType::kBf16), std::optional(WeightType::kInt8)}) {
    const auto model = Model::Create(weights, type).value();
    const std::string_view name = model->weight_type();
    CAPTURE(name);
    for (const Precision precision : {Precision::kF32, Precision::kF16, Precision::kInt8, Precision::kInt4}) {
      CAPTURE(kv_cache::PrecisionName(precision));
      const std::vector<float> at_once = Logits(*model, 75, 1, precision);
      CHECK(Logits(*model, 1, 1, precision) == at_once);
      CHECK(Logits(*model, 7, 3, precision) == at_once);
    }
  }
}

TEST_CASE("a GGUF file that is no Llama as we know it is refused, with what was expected and what was found") {
  struct Row {
    const char* name;
    std::function<void(testing::GgufParts&)> change;
    Code code;
    const char* reason;
  };
  const auto number = [](const char* key, std::uint64_t value) {
    return [key, value](testing::GgufParts& parts) { parts.numbers[key] = value; };
  };
  const auto without = [](const char* key) {
    return [key](testing::GgufParts& parts) {
      parts.numbers.erase(key);
      parts.floats.erase(key);
      parts.strings.erase(key);
      parts.tensors.erase(key);
    };
  };
  const Row rows[] = {
      {"another architecture", [](auto& parts) { parts.strings["general.architecture"] = "mamba"; }, Code::kUnimplemented,
       "found \"mamba\""},
      {"no architecture", without("general.architecture"), Code::kInvalidArgument, "general.architecture"},
      {"no layers", without("llama.block_count"), Code::kInvalidArgument, "llama.block_count"},
      {"zero layers", number("llama.block_count", 0), Code::kInvalidArgument, "llama.block_count"},
      {"absurdly many layers", number("llama.block_count", 4'000'000'000), Code::kInvalidArgument, "llama.block_count"},
      {"more layers than there are", number("llama.block_count", 3), Code::kInvalidArgument, "blk.2.attn_norm.weight"},
      {"fewer layers than there are", number("llama.block_count", 1), Code::kUnimplemented, "blk.1."},
      {"absurdly wide", number("llama.embedding_length", 1u << 31), Code::kInvalidArgument, "llama.embedding_length"},
      {"another width",
       [](auto& parts) {
         parts.numbers["llama.embedding_length"] = 64;
         parts.numbers["llama.rope.dimension_count"] = 16;
         parts.tensors.erase("rope_freqs.weight");
       },
       Code::kInvalidArgument, "token_embd.weight: expected shape [61, 64]"},
      {"no head", number("llama.attention.head_count", 0), Code::kInvalidArgument, "llama.attention.head_count"},
      {"heads that do not divide", number("llama.attention.head_count", 5), Code::kInvalidArgument, "5 heads"},
      {"heads of keys that do not divide", number("llama.attention.head_count_kv", 3), Code::kInvalidArgument, "found 3"},
      {"partial rotation", number("llama.rope.dimension_count", 4), Code::kUnimplemented, "llama.rope.dimension_count"},
      {"experts", number("llama.expert_count", 8), Code::kUnimplemented, "mixtures of experts"},
      {"an epsilon of nothing", [](auto& parts) { parts.floats["llama.attention.layer_norm_rms_epsilon"] = 0; },
       Code::kInvalidArgument, "layer_norm_rms_epsilon"},
      {"an epsilon that is no number",
       [](auto& parts) { parts.floats["llama.attention.layer_norm_rms_epsilon"] = std::nanf(""); },
       Code::kInvalidArgument, "layer_norm_rms_epsilon"},
      {"another scaling", [](auto& parts) { parts.strings["llama.rope.scaling.type"] = "yarn"; }, Code::kUnimplemented,
       "llama.rope.scaling.type"},
      {"no embedding", without("token_embd.weight"), Code::kInvalidArgument, "token_embd.weight"},
      {"a bias", [](auto& parts) { parts.tensors["blk.0.attn_q.bias"] = parts.tensors["output_norm.weight"]; },
       Code::kUnimplemented, "blk.0.attn_q.bias"},
      {"a matrix of another shape", [](auto& parts) { parts.tensors["blk.0.attn_k.weight"] = parts.tensors["blk.0.attn_q.weight"]; },
       Code::kInvalidArgument, "blk.0.attn_k.weight: expected shape [16, 32]"},
      {"factors of frequencies that are none",
       [](auto& parts) { std::fill_n(parts.tensors["rope_freqs.weight"].bytes.begin(), 4, std::uint8_t{0}); },
       Code::kInvalidArgument, "rope_freqs.weight"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    testing::GgufParts parts = testing::GoldenGguf();
    row.change(parts);
    const std::vector<std::uint8_t> bytes = parts.File();
    const auto file = gguf::File::Parse(bytes, "made.gguf");
    REQUIRE(file.has_value());
    const auto weights = weights::LlamaFromGguf(*file);
    REQUIRE_FALSE(weights.has_value());
    CHECK_MESSAGE(weights.error().code == row.code, ToString(weights.error()));
    CHECK_MESSAGE(weights.error().message.find(row.reason) != std::string::npos, weights.error().message);
    CHECK(weights.error().message.find("made.gguf") != std::string::npos);
  }
}

TEST_CASE("every cut of a GGUF file is refused") {
  const std::vector<std::uint8_t> whole = testing::GoldenGguf(/*is_quantised=*/true).File();
  for (std::size_t size = 0; size < whole.size(); size += size < 6000 ? 1 : 97) {
    CAPTURE(size);
    const std::vector<std::uint8_t> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    const auto file = gguf::File::Parse(cut, "cut");
    if (file) {
      CHECK_FALSE(weights::LlamaFromGguf(*file).has_value());
    } else {
      CHECK(file.error().code == Code::kDataLoss);
    }
  }
}

TEST_CASE("a NaN in a Llama's weights is refused by the tensor's name") {
  for (const bool is_quantised : {false, true}) {
    testing::GgufParts parts = testing::GoldenGguf(is_quantised);
    auto& bytes = parts.tensors["blk.1.ffn_up.weight"].bytes;
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = 0xFF;
    const std::vector<std::uint8_t> file = parts.File();
    const auto model =
        Model::Create(weights::LlamaFromGguf(gguf::File::Parse(file, "g").value()).value(), std::nullopt);
    REQUIRE_FALSE(model.has_value());
    CHECK(model.error().code == Code::kInvalidArgument);
    CHECK(model.error().message.find("blk.1.ffn_up.weight") != std::string::npos);
  }
}

TEST_CASE("a configuration that is not computed here is refused by name") {
  struct Row {
    const char* patch;  // JSON merge patch: null removes
    Code code;
    const char* reason;
  };
  for (const Row& row :
       {Row{R"({"model_type": "mixtral"})", Code::kUnimplemented, "mixtral"},
        {R"({"hidden_act": "gelu"})", Code::kUnimplemented, "hidden_act"},
        {R"({"attention_bias": true})", Code::kUnimplemented, "attention_bias"},
        {R"({"mlp_bias": true})", Code::kUnimplemented, "mlp_bias"},
        {R"({"head_dim": 16})", Code::kUnimplemented, "head_dim"},
        {R"({"num_key_value_heads": 3})", Code::kInvalidArgument, "found 3"},
        {R"({"num_attention_heads": 1000000})", Code::kInvalidArgument, "num_attention_heads"},
        {R"({"rms_norm_eps": 0})", Code::kInvalidArgument, "rms_norm_eps"},
        {R"({"rope_theta": -1})", Code::kInvalidArgument, "rope_theta"},
        {R"({"rope_scaling": {"rope_type": "yarn"}})", Code::kUnimplemented, "yarn"},
        {R"({"rope_scaling": {"rope_type": "llama3", "factor": null}})", Code::kInvalidArgument, "factor"},
        {R"({"rope_scaling": {"high_freq_factor": 1.0}})", Code::kInvalidArgument, "high_freq_factor"},
        {R"({"max_position_embeddings": 0})", Code::kInvalidArgument, "max_position_embeddings"},
        {R"({"hidden_size": null})", Code::kInvalidArgument, "hidden_size"}}) {
    CAPTURE(row.patch);
    nlohmann::json config = testing::GoldenLlamaConfig("scaled");
    config.merge_patch(nlohmann::json::parse(row.patch));
    const std::string text = config.dump();
    const auto parsed =
        weights::ParseLlamaConfig({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, "config.json");
    REQUIRE_FALSE(parsed.has_value());
    CHECK_MESSAGE(parsed.error().code == row.code, ToString(parsed.error()));
    CHECK_MESSAGE(parsed.error().message.find(row.reason) != std::string::npos, parsed.error().message);
  }
}

TEST_CASE("a Llama refuses more tokens than it was trained for") {
  const auto model = Model::Create(testing::GoldenLlama("tied"), WeightType::kF32).value();
  ThreadPool pool(1);
  Workspace workspace;
  Cache cache(kv_cache::MakePlainScheme(model->geometry(), Precision::kF16).value());
  const std::vector<std::uint32_t> tokens(81, 1);
  const Sequence sequence{tokens, &cache, false};
  const auto result = model->Forward({&sequence, 1}, workspace, pool);
  REQUIRE_FALSE(result.has_value());
  CHECK(ToString(result.error()) == "OUT_OF_RANGE: tokens: expected at most 80 in the model's context, found 81");
}

}  // namespace
}  // namespace holo::transformer
