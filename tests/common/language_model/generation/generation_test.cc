#include "common/language_model/generation/generation.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "common/language_model/model_directory/model_directory.h"
#include "tests/common/language_model/tiny_model.h"

namespace holo::generation {
namespace {

class Tiny {
 public:
  explicit Tiny(const testing::TinyModel& options = {}, const std::string& method = "fp16") {
    REQUIRE(testing::WriteTinyModel(folder_, "m", options));
    model_directory::Options open;
    open.plain_method = method;
    model_ = model_directory::Open(folder_ / "m", open).value();
    engine = {model_.transformer, model_.base.tokenizer, model_.scheme};
  }

  [[nodiscard]] std::vector<std::uint32_t> Encode(const std::string& text) const {
    return engine.tokenizer->Encode(text);
  }

  Engine engine;

 private:
  testing::TemporaryFolder folder_;
  model_directory::Model model_;
};

Options WithSeed(std::uint64_t seed, std::uint32_t max_tokens) {
  Options options;
  options.sampling.seed = seed;
  options.max_tokens = max_tokens;
  options.ignores_end_token = true;
  return options;
}

struct Said {
  std::string text;
  std::vector<std::uint32_t> tokens;
  Finish finish = Finish::kNone;
};

// All of them in one batch, some beginning later than others.
std::vector<Said> Run(const Engine& engine, std::vector<Session>& sessions, unsigned threads = 1,
                      std::size_t prompt_tokens = kPromptTokensPerStep) {
  compute::ThreadPool pool(threads);
  transformer::Workspace workspace;
  std::vector<Said> said(sessions.size());
  for (std::size_t step = 0; step < 10'000; ++step) {
    std::vector<Session*> running;
    for (std::size_t i = 0; i < sessions.size() && i <= step; ++i) running.push_back(&sessions[i]);
    const auto pieces = Step(engine, running, workspace, pool, prompt_tokens).value();
    bool is_over = running.size() == sessions.size();
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      said[i].text += pieces[i].text;
      if (pieces[i].choice) said[i].tokens.push_back(pieces[i].choice->token);
      if (pieces[i].finish != Finish::kNone) said[i].finish = pieces[i].finish;
      is_over = is_over && said[i].finish != Finish::kNone;
    }
    if (is_over) break;
  }
  return said;
}

Said RunOne(const Engine& engine, const std::vector<std::uint32_t>& prompt, const Options& options,
            unsigned threads = 1, std::size_t prompt_tokens = kPromptTokensPerStep) {
  std::vector<Session> sessions;
  sessions.push_back(Session::Create(engine, prompt, options, Memory(engine)).value());
  return Run(engine, sessions, threads, prompt_tokens)[0];
}

TEST_CASE("a seed gives the same text alone, in any batch, from any pieces of the prompt, and with any threads") {
  const Tiny tiny;
  const std::vector<std::string> prompts = {"the", "a", "some longer prompt of more than thirty bytes", "x y z"};
  std::vector<Said> alone;
  std::vector<Session> sessions;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Options options = WithSeed(i, static_cast<std::uint32_t>(5 + 3 * i));
    alone.push_back(RunOne(tiny.engine, tiny.Encode(prompts[i]), options));
    CHECK(alone[i].tokens.size() == 5 + 3 * i);
    CHECK(alone[i].finish == Finish::kMaxTokens);
    for (const std::size_t pieces : {1u, 7u}) {
      CHECK(RunOne(tiny.engine, tiny.Encode(prompts[i]), options, 3, pieces).tokens == alone[i].tokens);
    }
    sessions.push_back(Session::Create(tiny.engine, tiny.Encode(prompts[i]), options, Memory(tiny.engine)).value());
  }
  const std::vector<Said> together = Run(tiny.engine, sessions, 2, 16);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    CAPTURE(i);
    CHECK(together[i].tokens == alone[i].tokens);
    CHECK(together[i].text == alone[i].text);
  }
}

TEST_CASE("what is remembered is not run again, and changes nothing") {
  const Tiny tiny;
  const Options options = WithSeed(3, 6);
  const std::vector<std::uint32_t> first = tiny.Encode("the beginning of it");
  std::vector<Session> sessions;
  sessions.push_back(Session::Create(tiny.engine, first, options, Memory(tiny.engine)).value());
  const Said said = Run(tiny.engine, sessions)[0];
  Memory memory = sessions[0].Release();
  // The last choice was never run.
  CHECK(memory.tokens.size() == first.size() + 5);
  CHECK(memory.cache.tokens() == memory.tokens.size());
  std::vector<std::uint32_t> second = first;
  second.insert(second.end(), said.tokens.begin(), said.tokens.end());
  for (const std::uint32_t token : tiny.Encode(" and on")) second.push_back(token);
  struct Row {
    const char* name;
    std::vector<std::uint32_t> prompt;
    std::size_t reused;
  };
  std::vector<std::uint32_t> other = second;
  other[4] = 'X';
  for (const Row& row : {Row{"goes on", second, memory.tokens.size()},
                         Row{"the same again", first, first.size() - 1},
                         Row{"differs early", other, 4},
                         Row{"something else", tiny.Encode("Z"), 0}}) {
    CAPTURE(row.name);
    std::vector<Session> again;
    again.push_back(Session::Create(tiny.engine, row.prompt, options, memory.Fork()).value());
    CHECK(again[0].reused_tokens() == row.reused);
    CHECK(again[0].prompt_tokens() == row.prompt.size());
    CHECK(Run(tiny.engine, again)[0].tokens == RunOne(tiny.engine, row.prompt, options).tokens);
  }
}

TEST_CASE("a text ends where it is told to") {
  const Tiny tiny;
  const std::vector<std::uint32_t> prompt = tiny.Encode("the");
  Options options = WithSeed(1, 30);
  const Said plain = RunOne(tiny.engine, prompt, options);
  REQUIRE(plain.tokens.size() == 30);

  options.sampling.logit_bias = {{testing::kTinyEnd, 100.0f}};
  const Said special = RunOne(tiny.engine, prompt, options);
  CHECK(special.finish == Finish::kMaxTokens);
  CHECK(special.text.starts_with("<|endoftext|>"));
  options.ignores_end_token = false;
  const Said ended = RunOne(tiny.engine, prompt, options);
  CHECK(ended.finish == Finish::kEndToken);
  CHECK(ended.text.empty());
  CHECK(ended.tokens == std::vector<std::uint32_t>{testing::kTinyEnd});

  options.ignores_end_token = true;
  options.end_tokens = {5, testing::kTinyEnd};
  CHECK(RunOne(tiny.engine, prompt, options).finish == Finish::kEndToken);
  options.end_tokens = {5};
  CHECK(RunOne(tiny.engine, prompt, options).finish == Finish::kMaxTokens);

  // "abababab": the stop string may come in the middle of what was held back.
  options = WithSeed(1, 30);
  options.sampling.logit_bias = {{'a', 100.0f}};
  options.stops = {"aaab", "aaaaa"};
  const Said stopped = RunOne(tiny.engine, prompt, options);
  CHECK(stopped.finish == Finish::kStop);
  CHECK(stopped.text.empty());
  CHECK(stopped.tokens.size() == 5);
  options.stops = {"aaab"};
  const Said held = RunOne(tiny.engine, prompt, options);
  CHECK(held.finish == Finish::kMaxTokens);
  CHECK(held.text == std::string(30, 'a'));

  options = WithSeed(1, 0);
  const Said full = RunOne(tiny.engine, prompt, options);
  CHECK(full.finish == Finish::kContext);
  CHECK(full.tokens.size() == 64 - prompt.size() + 1);
}

TEST_CASE("half a character is never given, and becomes U+FFFD at the end") {
  const Tiny tiny;
  Options options = WithSeed(1, 3);
  options.sampling.temperature = 0;
  options.sampling.logit_bias = {{0xC3, 100.0f}};  // the first byte of a character of two
  const Said said = RunOne(tiny.engine, tiny.Encode("x"), options);
  CHECK(said.tokens == std::vector<std::uint32_t>(3, 0xC3));
  CHECK(said.text == "\uFFFD\uFFFD\uFFFD");
}

TEST_CASE("rows of a padded vocabulary are never chosen") {
  testing::TinyModel padded;
  padded.padding = 40;
  const Tiny tiny(padded);
  Options options = WithSeed(5, 50);
  options.sampling.temperature = 100;  // anything goes
  const Said said = RunOne(tiny.engine, tiny.Encode("x"), options);
  CHECK(std::all_of(said.tokens.begin(), said.tokens.end(),
                    [](std::uint32_t token) { return token < testing::kTinyVocabulary; }));
  CHECK(std::any_of(said.tokens.begin(), said.tokens.end(), [](std::uint32_t token) { return token > 200; }));
  options.sampling.repetition_penalty = 2;
  CHECK(Session::Create(tiny.engine, {testing::kTinyVocabulary + 3}, options, Memory(tiny.engine)).has_value());
}

TEST_CASE("prompts and options that cannot be are refused") {
  const Tiny tiny;
  const auto create = [&](const std::vector<std::uint32_t>& prompt, const Options& options) {
    return Session::Create(tiny.engine, prompt, options, Memory(tiny.engine)).error();
  };
  CHECK(create({}, {}).code == Code::kInvalidArgument);
  CHECK(create({testing::kTinyVocabulary}, {}).code == Code::kInvalidArgument);
  const Error too_long = create(std::vector<std::uint32_t>(65, 'x'), {});
  CHECK(too_long.code == Code::kOutOfRange);
  CHECK(too_long.message.find("at most 64") != std::string::npos);
  CHECK(too_long.message.find("found 65") != std::string::npos);
  Options options;
  options.sampling.temperature = -1;
  CHECK(create({'x'}, options).code == Code::kInvalidArgument);
  options = {};
  options.stops = {""};
  CHECK(create({'x'}, options).code == Code::kInvalidArgument);
}

TEST_CASE("a finished session stays finished, and a prompt is run in pieces") {
  const Tiny tiny;
  compute::ThreadPool pool(1);
  transformer::Workspace workspace;
  Session session =
      Session::Create(tiny.engine, tiny.Encode("0123456789"), WithSeed(1, 1), Memory(tiny.engine)).value();
  Session* const pointer = &session;
  for (const std::size_t waiting : {6u, 2u}) {
    CHECK_FALSE(Step(tiny.engine, {&pointer, 1}, workspace, pool, 4).value()[0].choice.has_value());
    CHECK(session.waiting_tokens() == waiting);
  }
  const Piece last = Step(tiny.engine, {&pointer, 1}, workspace, pool, 4).value()[0];
  CHECK(last.choice.has_value());
  CHECK(last.finish == Finish::kMaxTokens);
  CHECK(session.waiting_tokens() == 0);
  const Piece after = Step(tiny.engine, {&pointer, 1}, workspace, pool, 4).value()[0];
  CHECK_FALSE(after.choice.has_value());
  CHECK(session.chosen_tokens() == 1);
}

}  // namespace
}  // namespace holo::generation
