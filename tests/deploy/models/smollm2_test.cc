// The model of holo lm pull smollm2, where HOLO_SMOLLM2 says that its file is; skipped without it.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/files/files.h"
#include "common/language_model/evaluation/evaluation.h"
#include "common/language_model/model_directory/model_directory.h"

namespace holo {
namespace {

const char* File() {
  const char* file = std::getenv("HOLO_SMOLLM2");
  if (file == nullptr) MESSAGE("skipped: HOLO_SMOLLM2 does not say where SmolLM2-135M-Instruct.Q4_1.gguf is");
  return file;
}

TEST_CASE("SmolLM2's perplexity of the first 2,048 tokens of WikiText-2 is that of the float reference") {
  const char* const file = File();
  const char* const data = std::getenv("HOLO_TEST_DATA");
  if (file == nullptr) return;
  const std::filesystem::path text_path =
      std::filesystem::path(data == nullptr ? HOLO_SOURCE_DIR "/../shared/data" : data) /
      "text/wikitext2/wiki.test.raw.rebuilt";
  if (!std::filesystem::exists(text_path)) {
    MESSAGE("skipped: there is no ", text_path.string());
    return;
  }
  const auto model = model_directory::Open(file, {}).value();
  CHECK(model.transformer->weight_type() == "Q4_1");
  const auto text = files::ReadFile(text_path).value();
  // Enough for the tokens that are looked at.
  std::vector<std::uint32_t> tokens =
      model.base.tokenizer->Encode({reinterpret_cast<const char*>(text.data()), std::size_t{20'000}});
  REQUIRE(tokens.size() > 2048);
  tokens.resize(2048);
  compute::ThreadPool pool(2);
  evaluation::Options options;
  options.window = 1024;
  const auto score =
      evaluation::Evaluate(*model.transformer, model.scheme, tokens, options, pool).value();
  // With the weights in float32 it is 20.285. The first 8 windows have 29.21; 29.22 in another float reference, 29.34 in
  // llama.cpp.
  CHECK(score.Perplexity() == doctest::Approx(20.276).epsilon(0.001));
}

TEST_CASE("SmolLM2 is asked in ChatML, with its own system, and ends its turn") {
  const char* const file = File();
  if (file == nullptr) return;
  const auto base = model_directory::OpenBase(file).value();
  const auto form = model_directory::ChatForm(base, "").value();
  const auto& chatml = std::get<chat_template::ChatTemplate>(form);
  CHECK(chatml.style().format == chat_template::Format::kChatMl);
  CHECK(chatml.style().default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
  CHECK(base.weights.config().end_tokens == std::vector{base.tokenizer->SpecialToken("<|im_end|>").value()});
}

}  // namespace
}  // namespace holo
