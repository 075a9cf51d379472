// holo_benchmark_tokenizer: megabytes of text per second on one core (Google Benchmark), GPT-2's vocabulary.
//
//   open           reading vocab and merges, building the tables
//   encode/T       text T to tokens
//   decode/T       its tokens to bytes
//   stream/T       its tokens to text through a StreamDecoder
//
// T is "english" (WikiText-2's test set, 1.3 MB), "mixed" (the same with every eighth line in another script), "random"
// (random bytes, hardly any UTF-8) or "one_word" (letters without a space: one word of 1 MiB). Left out where the test
// data are missing.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "common/files/files.h"
#include "common/language_model/tokenizer/tokenizer.h"

namespace holo::benchmarks {
namespace {

struct Subject {
  std::string name;
  std::string text;
};

void CountBytes(benchmark::State& state, const std::string& text) {
  state.counters["MB/s"] =
      benchmark::Counter(static_cast<double>(text.size()) / 1e6, benchmark::Counter::kIsIterationInvariantRate);
}

void Encode(benchmark::State& state, const tokenizer::Tokenizer& tokenizer, const std::string& text) {
  std::vector<tokenizer::TokenId> ids;
  for (auto _ : state) {
    ids.clear();
    tokenizer.Encode(text, ids);
    benchmark::DoNotOptimize(ids.data());
  }
  CountBytes(state, text);
  state.counters["bytes/token"] = static_cast<double>(text.size()) / static_cast<double>(ids.size());
}

void Decode(benchmark::State& state, const tokenizer::Tokenizer& tokenizer, const std::string& text) {
  const std::vector<tokenizer::TokenId> ids = tokenizer.Encode(text);
  for (auto _ : state) {
    const auto decoded = tokenizer.Decode(ids);
    if (!decoded || *decoded != text) return state.SkipWithError("expected the text again");
  }
  CountBytes(state, text);
}

void Stream(benchmark::State& state, const tokenizer::Tokenizer& tokenizer, const std::string& text) {
  const std::vector<tokenizer::TokenId> ids = tokenizer.Encode(text);
  for (auto _ : state) {
    tokenizer::StreamDecoder decoder(tokenizer);
    for (const tokenizer::TokenId id : ids) {
      auto part = decoder.Push(id);
      benchmark::DoNotOptimize(part);
    }
  }
  CountBytes(state, text);
}

std::vector<Subject> MakeSubjects(std::string english) {
  constexpr std::string_view kLines[] = {
      "Съешь же ещё этих мягких французских булок, да выпей чаю. 1234567890\n",
      "いろはにほへと ちりぬるを わかよたれそ つねならむ うゐのおくやま けふこえて\n",
      "नमस्ते दुनिया, यह एक छोटा वाक्य है।\n",
      "👩‍👩‍👧‍👦 🏳️‍🌈 naïve café — “quotes” … ½ ⅔\n",
  };
  std::string mixed;
  std::size_t line = 0;
  for (const char c : english) {
    mixed += c;
    if (c == '\n' && ++line % 8 == 0) mixed += kLines[line / 8 % std::size(kLines)];
  }
  std::mt19937 random(1);
  std::string noise(std::size_t{1} << 20, ' ');
  for (char& c : noise) c = static_cast<char>(random());
  std::string word(std::size_t{1} << 20, ' ');
  for (char& c : word) c = static_cast<char>('a' + random() % 26);
  return {{"english", std::move(english)},
          {"mixed", std::move(mixed)},
          {"random", std::move(noise)},
          {"one_word", std::move(word)}};
}

Result<void> Register(const std::string& data) {
  static const std::string vocabulary = data + "/text/gpt2-tokenizer";
  static const auto opened = tokenizer::Tokenizer::Open(vocabulary);
  if (!opened) return tl::unexpected(opened.error());
  HOLO_ASSIGN_OR_RETURN(const auto bytes, files::ReadFile(data + "/text/wikitext2/wiki.test.raw.rebuilt"));
  static const std::vector<Subject> subjects = MakeSubjects({bytes.begin(), bytes.end()});
  benchmark::RegisterBenchmark("open", [](benchmark::State& state) {
    for (auto _ : state) {
      auto again = tokenizer::Tokenizer::Open(vocabulary);
      benchmark::DoNotOptimize(again);
    }
  })->Unit(benchmark::kMillisecond);
  struct Row {
    const char* name;
    void (*function)(benchmark::State&, const tokenizer::Tokenizer&, const std::string&);
  };
  for (const Subject& subject : subjects) {
    for (const Row& row : {Row{"encode/", Encode}, Row{"decode/", Decode}, Row{"stream/", Stream}}) {
      const auto run = [&subject, function = row.function](benchmark::State& state) {
        function(state, *opened, subject.text);
      };
      benchmark::RegisterBenchmark((row.name + subject.name).c_str(), run)->Unit(benchmark::kMillisecond);
    }
  }
  return {};
}

}  // namespace
}  // namespace holo::benchmarks

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const char* folder = std::getenv("HOLO_TEST_DATA");
  const std::string data = folder != nullptr && *folder != '\0' ? folder : HOLO_TEST_DATA_DEFAULT;
  if (const auto registered = holo::benchmarks::Register(data); !registered) {
    std::fprintf(stderr, "left out: %s\n", holo::ToString(registered.error()).c_str());
    return 0;
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
