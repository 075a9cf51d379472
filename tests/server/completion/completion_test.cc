#include "server/completion/completion.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>

#include "tests/server/completion/tiny_service.h"

namespace holo::completion {
namespace {

using testing::Bell;
using testing::Ids;
using testing::TextRequest;
using testing::TinyService;
using testing::Write;
using testing::Written;

TEST_CASE("a prompt and a seed give the same text alone and among 32 others") {
  TinyService tiny;
  std::vector<Written> alone;
  for (std::uint64_t i = 0; i < 32; ++i) {
    const std::string prompt = "prompt " + std::string(i, 'x');
    alone.push_back(Write(*tiny.service, TextRequest(prompt, 20, i)));
    REQUIRE(alone.back().texts.size() == 1);
    CHECK(alone.back().tokens[0].size() == 20);
    CHECK(alone.back().finishes[0] == generation::Finish::kMaxTokens);
    CHECK(alone.back().usage.completion_tokens == 20);
  }
  std::deque<Bell> bells;
  std::vector<std::shared_ptr<Reply>> replies;
  for (std::uint64_t i = 0; i < 32; ++i) {
    bells.emplace_back();
    replies.push_back(
        tiny.service->Submit(TextRequest("prompt " + std::string(i, 'x'), 20, i), bells.back().Ringer()).value());
  }
  for (std::size_t i = 0; i < 32; ++i) {
    CAPTURE(i);
    const Written together = testing::ReadAll(*replies[i], bells[i]);
    CHECK(together.texts == alone[i].texts);
    CHECK(Ids(together.tokens[0]) == Ids(alone[i].tokens[0]));
  }
  CHECK(tiny.service->WaitUntilEmpty(Clock::now() + std::chrono::seconds(30)));
  const Statistics statistics = tiny.service->statistics();
  CHECK(statistics.requests == 64);
  CHECK(statistics.generated_tokens == 64 * 20);
  CHECK(statistics.now.running == 0);
  CHECK(statistics.now.memory_bytes == 0);
  CHECK(statistics.first_token_seconds.cumulative.back() == 64);
  // They did run together.
  CHECK(statistics.steps < 32 * 20 + 300);
}

TEST_CASE("choices of one prompt are the texts that its seeds give alone") {
  TinyService tiny;
  Request request = TextRequest("the same beginning", 12, 5);
  request.choices = request.best_of = 4;
  request.prompts.emplace_back(std::string("another"));
  const Written together = Write(*tiny.service, request);
  REQUIRE(together.texts.size() == 8);
  for (std::uint64_t i = 0; i < 4; ++i) {
    CAPTURE(i);
    CHECK(together.texts[i] == Write(*tiny.service, TextRequest("the same beginning", 12, 5 + i)).texts[0]);
    CHECK(together.texts[4 + i] == Write(*tiny.service, TextRequest("another", 12, 5 + i)).texts[0]);
  }
  CHECK(together.usage.completion_tokens == 8 * 12);
}

TEST_CASE("scores of a prompt are what the model says of its tokens, whatever the chunks") {
  Options options;
  options.limits.prompt_tokens = 5;
  TinyService chunked(options);
  TinyService whole;
  Request request = TextRequest("some text to be scored", 0);
  request.scores_prompt = true;
  request.sampling.logprobs = 2;
  const Written a = Write(*chunked.service, request);
  const Written b = Write(*whole.service, request);
  REQUIRE(a.prompts.size() == 1);
  CHECK(a.tokens[0].empty());
  CHECK(a.texts[0].empty());
  CHECK(a.finishes[0] == generation::Finish::kMaxTokens);
  const std::vector<std::uint32_t> tokens = whole.service->models()[0]->Encode("some text to be scored");
  REQUIRE(a.prompts[0].size() == tokens.size());
  CHECK(Ids(a.prompts[0]) == tokens);
  CHECK_FALSE(a.prompts[0][0].logprob);
  for (std::size_t i = 1; i < tokens.size(); ++i) {
    CAPTURE(i);
    CHECK(a.prompts[0][i].logprob == b.prompts[0][i].logprob);
    CHECK(a.prompts[0][i].top == b.prompts[0][i].top);
    REQUIRE(a.prompts[0][i].top.size() == 2);
    CHECK(a.prompts[0][i].top[0].second >= a.prompts[0][i].logprob);
  }
  // What is written after the prompt is scored in the same way when it is a prompt.
  Request goes_on = TextRequest("some text", 5);
  const Written written = Write(*whole.service, goes_on);
  std::vector<std::uint32_t> all = whole.service->models()[0]->Encode("some text");
  const std::size_t first = all.size();
  for (const Token& token : written.tokens[0]) all.push_back(token.id);
  Request again = TextRequest("", 0);
  again.prompts = {all};
  again.scores_prompt = true;
  const Written scored = Write(*whole.service, again);
  for (std::size_t i = 0; i < 5; ++i) CHECK(scored.prompts[0][first + i].logprob == written.tokens[0][i].logprob);
}

TEST_CASE("requests are refused with the field's name") {
  TinyService tiny;
  struct Row {
    const char* name;
    void (*spoil)(Request&);
    Code code;
    const char* begins;
  };
  const Row rows[] = {
      {"model", [](Request& r) { r.model = "none"; }, Code::kNotFound, "model: expected one of tiny, other"},
      {"no prompt", [](Request& r) { r.prompts.clear(); }, Code::kInvalidArgument, "prompt: "},
      {"no tokens", [](Request& r) { r.prompts = {std::vector<std::uint32_t>()}; }, Code::kInvalidArgument, "prompt: "},
      {"unknown token", [](Request& r) { r.prompts = {std::vector<std::uint32_t>{9999}}; }, Code::kInvalidArgument,
       "prompt: expected tokens below"},
      {"long", [](Request& r) { r.prompts = {std::string(64, 'x')}; }, Code::kOutOfRange, "prompt: expected at most 63"},
      {"n", [](Request& r) { r.choices = r.best_of = 1000; }, Code::kInvalidArgument, "n: "},
      {"best_of", [](Request& r) { r.choices = 2; }, Code::kInvalidArgument, "best_of: "},
      {"temperature", [](Request& r) { r.sampling.temperature = -1; }, Code::kInvalidArgument, "temperature: "},
      {"bias", [](Request& r) { r.sampling.logit_bias = {{9999, 1.0f}}; }, Code::kInvalidArgument, "logit_bias: "},
      {"stop", [](Request& r) { r.stops = {""}; }, Code::kInvalidArgument, "stop: "},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    Request request = TextRequest("x", 5);
    row.spoil(request);
    const Written refused = Write(*tiny.service, request);
    REQUIRE(refused.failure);
    CHECK(refused.failure->code == row.code);
    CHECK(refused.failure->message.starts_with(row.begins));
  }
  // A prompt as long as the context can be read, if nothing is to be written.
  Request request = TextRequest(std::string(64, 'x'), 0);
  CHECK_FALSE(Write(*tiny.service, request).failure);
}

TEST_CASE("a full queue and too much memory are refused, and what runs is not disturbed") {
  Options options;
  options.limits.max_running = 1;
  options.limits.max_queued = 2;
  testing::TinyModel model;
  model.context = 4096;
  TinyService tiny(options, model);
  std::deque<Bell> bells(4);
  std::vector<std::shared_ptr<Reply>> replies;
  // The first must run before the queue counts.
  replies.push_back(tiny.service->Submit(TextRequest("x", 4000), bells[0].Ringer()).value());
  bells[0].Wait();
  replies.push_back(tiny.service->Submit(TextRequest("x", 5), bells[1].Ringer()).value());
  replies.push_back(tiny.service->Submit(TextRequest("x", 5), bells[2].Ringer()).value());
  const auto refused = tiny.service->Submit(TextRequest("x", 5), bells[3].Ringer());
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(tiny.service->statistics().refused == 1);
  // Cancelled while it writes; and while it waits.
  replies[0]->Cancel();
  replies[1]->Cancel();
  CHECK(testing::ReadAll(*replies[0], bells[0]).failure->code == Code::kCancelled);
  CHECK(testing::ReadAll(*replies[1], bells[1]).failure->code == Code::kCancelled);
  CHECK(testing::ReadAll(*replies[2], bells[2]).tokens[0].size() == 5);
  CHECK(tiny.service->statistics().cancelled == 2);

  Options little;
  little.limits.memory_bytes = tiny.service->models()[0]->BytesOf(64);
  TinyService small(little, model);
  CHECK(Write(*small.service, TextRequest("x", 64)).failure->code == Code::kOutOfRange);
  CHECK_FALSE(Write(*small.service, TextRequest("x", 63)).failure);
}

TEST_CASE("a request whose deadline has passed ends, and so does everything on a shutdown") {
  testing::TinyModel model;
  model.context = 4096;
  TinyService tiny({}, model);
  Request late = TextRequest("x", 4000);
  late.deadline = Clock::now();
  CHECK(Write(*tiny.service, late).failure->code == Code::kDeadlineExceeded);

  Bell bell;
  const auto reply = tiny.service->Submit(TextRequest("x", 4000), bell.Ringer()).value();
  bell.Wait();
  tiny.service->BeginDrain();
  const Written refused = Write(*tiny.service, TextRequest("x", 1));
  CHECK(refused.failure->code == Code::kUnavailable);
  CHECK_FALSE(reply->Take().is_over);  // goes on
  tiny.service->AbortAll();
  CHECK(tiny.service->WaitUntilEmpty(Clock::now() + std::chrono::seconds(30)));
  CHECK(testing::ReadAll(*reply, bell).failure->code == Code::kUnavailable);
}

TEST_CASE("a prompt that begins like an earlier text is read from where they part, and changes nothing") {
  testing::TinyModel model;
  model.context = 512;
  Options without;
  without.caches_prefixes = false;
  TinyService plain(without, model);
  TinyService cached({}, model);
  const std::string beginning(100, 'b');
  const Written first = Write(*cached.service, TextRequest(beginning, 60, 1));
  CHECK(first.usage.cached_tokens == 0);
  CHECK(cached.service->statistics().prefix_bytes == cached.service->models()[0]->BytesOf(159 / 32 * 32));
  struct Row {
    std::string prompt;
    std::size_t cached;
  };
  const Row rows[] = {
      {beginning, 96},                        // of 100 tokens, three blocks of 32
      {beginning.substr(0, 96), 64},          // the last token is always run
      {beginning.substr(0, 97), 96},
      {beginning.substr(0, 50) + "other", 32},
      {"x" + beginning, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.prompt);
    const Written hit = Write(*cached.service, TextRequest(row.prompt, 40, 7));
    CHECK(hit.usage.cached_tokens == row.cached);
    const Written miss = Write(*plain.service, TextRequest(row.prompt, 40, 7));
    CHECK(miss.usage.cached_tokens == 0);
    CHECK(Ids(hit.tokens[0]) == Ids(miss.tokens[0]));
  }
  // What was written is remembered, too: the next turn of a conversation begins with it.
  Request next = TextRequest("", 10, 3);
  std::vector<std::uint32_t> tokens = cached.service->models()[0]->Encode(beginning);
  for (const Token& token : first.tokens[0]) tokens.push_back(token.id);
  next.prompts = {tokens};
  CHECK(Write(*cached.service, next).usage.cached_tokens == 128);
  next.model = "other";
  next.prompts = {beginning.substr(0, 40)};
  CHECK(Write(*cached.service, next).usage.cached_tokens == 0);
}

TEST_CASE("ended texts make room for those that run") {
  testing::TinyModel model;
  model.context = 512;
  Options options;
  TinyService measure({}, model);
  options.limits.memory_bytes = measure.service->models()[0]->BytesOf(320);
  TinyService tiny(options, model);
  for (char c = 'a'; c <= 'z'; ++c) {
    CHECK_FALSE(Write(*tiny.service, TextRequest(std::string(64, c), 200)).failure);
    CHECK(tiny.service->statistics().prefix_bytes <= options.limits.memory_bytes);
  }
  CHECK(tiny.service->statistics().prefix_evictions > 0);
  // The most recent one is there still.
  CHECK(Write(*tiny.service, TextRequest(std::string(64, 'z'), 2)).usage.cached_tokens == 32);
}

TEST_CASE("a text that makes room for another client's is parked, and goes on as if it had not been") {
  testing::TinyModel model;
  model.context = 512;
  TinyService alone({}, model);
  Options options;
  options.limits.max_running = 2;
  options.limits.parked_bytes = std::uint64_t{1} << 24;
  options.limits.steps_before_parking = 5;
  TinyService tiny(options, model);
  std::vector<Request> requests;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    requests.push_back(TextRequest("One " + std::to_string(seed), seed <= 2 ? 450 : 40, seed));
    requests.back().client = seed <= 2 ? "greedy" : "client " + std::to_string(seed);
  }
  std::vector<testing::Bell> bells(requests.size());
  std::vector<std::shared_ptr<Reply>> replies;
  std::optional<testing::Gate> gate;
  const auto submit = [&](std::size_t i) {
    // Nothing is written from its first token on until the next gate.
    testing::Gate next;
    replies.push_back(tiny.service->Submit(requests[i], next.Ringer(bells[i])).value());
    gate = std::move(next);
    bells[i].Wait();
  };
  submit(0);
  submit(1);
  for (std::size_t i = 2; i < requests.size(); ++i) {
    replies.push_back(tiny.service->Submit(requests[i], bells[i].Ringer()).value());
  }
  gate.reset();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CAPTURE(i);
    const Written found = testing::ReadAll(*replies[i], bells[i]);
    REQUIRE_FALSE(found.failure);
    CHECK(found.texts == Write(*alone.service, requests[i]).texts);
  }
  CHECK(tiny.service->statistics().preemptions > 0);
  CHECK(tiny.service->statistics().now.parked_bytes == 0);
  // One that is parked can be cancelled.
  const std::uint64_t before = tiny.service->statistics().preemptions;
  replies.clear();
  bells = std::vector<testing::Bell>(3);
  for (std::size_t i = 0; i < bells.size(); ++i) submit(i);
  CHECK(tiny.service->statistics().preemptions > before);
  replies[0]->Cancel();
  replies[1]->Cancel();
  gate.reset();
  CHECK(testing::ReadAll(*replies[0], bells[0]).failure->code == Code::kCancelled);
  CHECK(testing::ReadAll(*replies[1], bells[1]).failure->code == Code::kCancelled);
  CHECK_FALSE(testing::ReadAll(*replies[2], bells[2]).failure);
  CHECK(tiny.service->statistics().now.parked_bytes == 0);
}

TEST_CASE("a conversation is written down by the template, or refused by the message's number") {
  TinyService tiny;
  using chat_template::Role;
  const Model& model = *tiny.service->models()[0];
  CHECK(model.form().name == "plain");
  const auto text = [&](std::vector<chat_template::Message> messages) {
    return model.Decode(model.Render(messages).value().tokens);
  };
  CHECK(text({{Role::kUser, "Hi"}}) == "<|endoftext|>User: Hi\nAssistant:");
  CHECK(text({{Role::kSystem, "Be kind."}, {Role::kUser, "Hi"}}) == "<|endoftext|>User: Be kind.\nHi\nAssistant:");
  CHECK(text({{Role::kUser, "Hi"}, {Role::kAssistant, " Yes"}, {Role::kUser, "And?"}}) ==
        "<|endoftext|>User: Hi\nAssistant: Yes\nUser:User: And?\nAssistant:");
  for (const std::vector<chat_template::Message>& wrong :
       {std::vector<chat_template::Message>{{Role::kAssistant, "x"}, {Role::kUser, "x"}},
        {{Role::kUser, "x"}, {Role::kAssistant, "x"}}, {{Role::kSystem, "x"}}}) {
    const auto refused = model.Render(wrong);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.starts_with("messages"));
  }
}

}  // namespace
}  // namespace holo::completion
