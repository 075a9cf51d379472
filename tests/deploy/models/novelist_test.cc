// The model that ships: that our code opens it, and computes with it what PyTorch does (make_golden.py).

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "common/files/files.h"
#include "common/json/json.h"
#include "common/language_model/evaluation/evaluation.h"
#include "common/language_model/tokenizer/tokenizer.h"
#include "common/language_model/transformer/transformer.h"
#include "common/language_model/weights/weights.h"

namespace holo {
namespace {

const std::filesystem::path kModel = std::filesystem::path(HOLO_SOURCE_DIR) / "deploy/models/novelist";
const std::filesystem::path kGolden = std::filesystem::path(HOLO_SOURCE_DIR) / "tests/deploy/models";

std::string Text(const std::filesystem::path& path) {
  const auto bytes = files::ReadFile(path).value();
  return {bytes.begin(), bytes.end()};
}

nlohmann::json Json(const std::filesystem::path& path) {
  return json::Parse(files::ReadFile(path).value(), path.filename().string()).value();
}

std::shared_ptr<const transformer::Model> Open(compute::WeightType type) {
  return transformer::Model::Create(weights::OpenGpt2(kModel).value(), type).value();
}

std::shared_ptr<const kv_cache::Scheme> Exact(const transformer::Model& model) {
  return kv_cache::MakePlainScheme(model.geometry(), kv_cache::Precision::kF32).value();
}

TEST_CASE("the shipped model is what it should be, and small") {
  const auto weights = weights::OpenGpt2(kModel).value();
  CHECK(weights.config.context == 1024);
  CHECK(weights.config.head_width() == 64);
  CHECK(weights.config.tied_head);
  CHECK(weights.ignored.empty());
  weights.ForEach([](const weights::Tensor& tensor) {
    CAPTURE(tensor.name);
    CHECK(tensor.dtype == weights::Dtype::kBF16);
    CHECK(weights::CheckFinite(tensor).has_value());
  });
  CHECK(std::filesystem::file_size(kModel / "model.safetensors") <= 24'000'000);
  CHECK(std::filesystem::file_size(kModel / "held_out.txt") <= 1'000'000);
  CHECK(std::filesystem::file_size(kModel / "calibration.txt") <= 1'000'000);
  const auto tokenizer = tokenizer::Tokenizer::Open(kModel).value();
  CHECK(tokenizer.vocabulary() == weights.config.vocabulary);
  CHECK(weights.config.end_tokens == std::vector{tokenizer.SpecialToken("<|endoftext|>").value()});
  CHECK(tokenizer.Encode(Text(kModel / "calibration.txt")).size() >= 100'000);
}

TEST_CASE("tokens of the shipped vocabulary are those of Hugging Face's tokenizers, from either kind of file") {
  const auto golden = Json(kGolden / "golden.json");
  const auto from_parts = tokenizer::Tokenizer::FromVocabulary(files::ReadFile(kModel / "vocab.json").value(),
                                                               files::ReadFile(kModel / "merges.txt").value(), "parts");
  const std::string held_out = Text(kModel / "held_out.txt");
  const tokenizer::Tokenizer whole = tokenizer::Tokenizer::Open(kModel).value();
  for (const tokenizer::Tokenizer* tokenizer : {&whole, &from_parts.value()}) {
    for (const auto& prompt : golden["prompts"]) {
      const auto text = prompt["text"].get<std::string>();
      CAPTURE(text);
      const auto tokens = tokenizer->Encode(text);
      CHECK(tokens == prompt["tokens"].get<std::vector<tokenizer::TokenId>>());
      CHECK(tokenizer->Decode(tokens).value() == text);
    }
    const auto tokens = tokenizer->Encode(held_out);
    std::uint64_t sum = 0;
    for (const auto token : tokens) sum += token;
    CHECK(tokens.size() == golden["held_out_tokens"].get<std::size_t>());
    CHECK(sum == golden["held_out_token_sum"].get<std::uint64_t>());
    CHECK(tokenizer->Decode(tokens).value() == held_out);
  }
}

TEST_CASE("logits and loss of the shipped model agree with PyTorch in double precision") {
  const auto golden = Json(kGolden / "golden.json");
  const auto model = Open(compute::WeightType::kF32);
  const auto tokenizer = tokenizer::Tokenizer::Open(kModel).value();
  std::vector<std::vector<std::uint32_t>> inputs;
  for (const auto& prompt : golden["prompts"]) inputs.push_back(prompt["tokens"].get<std::vector<std::uint32_t>>());
  const auto held_out = tokenizer.Encode(Text(kModel / "held_out.txt"));
  inputs.emplace_back(held_out.begin(), held_out.begin() + model->config().context);

  const auto bytes = files::ReadFile(kGolden / "golden_logits.f32").value();
  std::vector<float> expected(bytes.size() / sizeof(float));
  std::memcpy(expected.data(), bytes.data(), bytes.size());
  const std::size_t vocabulary = model->config().vocabulary;
  REQUIRE(expected.size() == inputs.size() * vocabulary);
  double squares = 0;
  for (const float value : expected) squares += double{value} * value;
  const double scale = std::sqrt(squares / static_cast<double>(expected.size()));

  compute::ThreadPool pool(2);
  transformer::Workspace workspace;
  double worst = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    kv_cache::Cache cache(Exact(*model));
    const transformer::Sequence sequence{inputs[i], &cache, false};
    const auto logits = model->Forward({&sequence, 1}, workspace, pool).value();
    for (std::size_t j = 0; j < vocabulary; ++j) {
      worst = std::max(worst, std::abs(double{logits[j]} - expected[i * vocabulary + j]));
    }
  }
  // Two sums of at most 1,024 products in each layer and one for the logits, in order: a relative error of about
  // sqrt(1024) 2^-24 = 2e-6 each, random in sign, so that their squares add; the largest of 16,384 logits lies within 4.5
  // standard deviations of the error. The layers behind hardly amplify it: normalisation divides by what has grown.
  const double steps = 2.0 * model->config().layers + 1;
  CHECK(worst < std::sqrt(steps * 1024) * std::ldexp(1, -24) * 4.5 * scale);
  MESSAGE("largest difference " << worst << ", logits are " << scale << " large");

  const auto score = evaluation::Evaluate(*model, Exact(*model), inputs.back(), {}, pool).value();
  CHECK(score.Perplexity() == doctest::Approx(golden["first_window_perplexity"].get<double>()).epsilon(1e-5));
}

// The cells of the first table row that begins with `first`, without the spaces around them.
std::vector<std::string> TableRow(const std::string& page, const std::string& first) {
  const auto at = page.find("\n| " + first + " |");
  REQUIRE(at != std::string::npos);
  std::istringstream line(page.substr(at + 2, page.find('\n', at + 1) - at - 2));
  std::vector<std::string> cells;
  for (std::string cell; std::getline(line, cell, '|');) {
    const auto begin = cell.find_first_not_of(' ');
    if (begin == std::string::npos) continue;
    cells.push_back(cell.substr(begin, cell.find_last_not_of(' ') + 1 - begin));
  }
  return cells;
}

double Number(std::string cell) {
  std::erase(cell, ',');
  return std::stod(cell);
}

TEST_CASE("the model card says what is in the files") {
  const std::string card = Text(kModel / "README.md");
  std::uint64_t parameters = 0;
  weights::OpenGpt2(kModel).value().ForEach([&](const weights::Tensor& tensor) { parameters += tensor.elements(); });
  CHECK(Number(TableRow(card, "parameters")[1]) == static_cast<double>(parameters));
  CHECK(Number(TableRow(card, "bytes of `model.safetensors`")[1]) ==
        static_cast<double>(std::filesystem::file_size(kModel / "model.safetensors")));

  const auto tokenizer = tokenizer::Tokenizer::Open(kModel).value();
  const auto tokens = tokenizer.Encode(Text(kModel / "held_out.txt"));
  std::uint64_t predictions = 0, bytes = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i % 1024 == 0) continue;  // the first of each window is not predicted
    ++predictions;
    bytes += tokenizer.Bytes(tokens[i]).size();
  }
  const auto row = TableRow(card, "`held_out.txt`");
  REQUIRE(row.size() == 6);
  CHECK(Number(row[1]) == static_cast<double>(predictions));
  CHECK(Number(row[2]) == static_cast<double>(bytes));
  for (const char* name : {"`held_out.txt`", "three novels kept out"}) {
    CAPTURE(name);
    const auto cells = TableRow(card, name);
    const double loss = std::log(Number(cells[3])) * Number(cells[1]) / Number(cells[2]);  // of a byte
    CHECK(Number(cells[4]) == doctest::Approx(std::exp(loss)).epsilon(1e-3));
    CHECK(Number(cells[5]) == doctest::Approx(loss / std::log(2)).epsilon(1e-3));
  }
}

}  // namespace
}  // namespace holo
