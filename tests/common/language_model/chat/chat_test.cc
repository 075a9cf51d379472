#include "common/language_model/chat/chat.h"

#include <doctest/doctest.h>

#include "tests/common/language_model/tiny_model.h"

namespace holo::chat {
namespace {

Result<Template> Parse(const std::string& json) {
  return ParseTemplate({reinterpret_cast<const std::uint8_t*>(json.data()), json.size()}, "holo.json");
}

tokenizer::Tokenizer TinyTokenizer() {
  const testing::TemporaryFolder folder;
  REQUIRE(testing::WriteTinyModel(folder, "m"));
  return tokenizer::Tokenizer::Open(folder / "m").value();
}

TEST_CASE("a template is read, and whatever is wrong with it is said") {
  CHECK(Parse(R"({"template": {"start": "<|endoftext|>", "prompt": "- {user}\n-", "stop": "\n"}, "other": 1})").value() ==
        Template{"<|endoftext|>", "- {user}\n-", "\n"});
  CHECK(Parse(R"({"template": {"prompt": "{user}", "stop": "x"}})").value() == Template{"", "{user}", "x"});
  struct Row {
    const char* json;
    Code code;
    const char* reason;
  };
  for (const Row& row : {Row{"", Code::kDataLoss, "JSON"},
                         {"[]", Code::kInvalidArgument, "object"},
                         {"{}", Code::kInvalidArgument, "template"},
                         {R"({"template": "x"})", Code::kInvalidArgument, "template"},
                         {R"({"template": {"stop": "x"}})", Code::kInvalidArgument, "\"prompt\": expected a string, found nothing"},
                         {R"({"template": {"prompt": 3, "stop": "x"}})", Code::kInvalidArgument, "found a whole number"},
                         {R"({"template": {"prompt": "{user}"}})", Code::kInvalidArgument, "\"stop\""},
                         {R"({"template": {"prompt": "{user}", "stop": ""}})", Code::kInvalidArgument, "found 0"},
                         {R"({"template": {"prompt": "x", "stop": "x"}})", Code::kInvalidArgument, "{user} exactly once"},
                         {R"({"template": {"prompt": "{user}{user}", "stop": "x"}})", Code::kInvalidArgument, "{user} exactly once"}}) {
    CAPTURE(row.json);
    const auto parsed = Parse(row.json);
    REQUIRE_FALSE(parsed.has_value());
    CHECK(parsed.error().code == row.code);
    CHECK(parsed.error().message.find(row.reason) != std::string::npos);
    CHECK(parsed.error().message.find("holo.json") != std::string::npos);
  }
  CHECK(Check({std::string(70'000, 'x'), "{user}", "x"}).error().code == Code::kInvalidArgument);
}

TEST_CASE("a conversation is written down as the template says, special tokens from the template only") {
  const tokenizer::Tokenizer tokenizer = TinyTokenizer();
  Conversation conversation({"<|endoftext|>", "U:{user}\nA:", "<|endoftext|>\n"}, tokenizer);
  const auto first = conversation.Ask("is <|endoftext|> the end", 1000, 10).value();
  CHECK(first.dropped == 0);
  CHECK(tokenizer.Decode(first.tokens).value() == "<|endoftext|>U:is <|endoftext|> the end\nA:");
  CHECK(first.tokens.front() == testing::kTinyEnd);
  CHECK(std::count(first.tokens.begin(), first.tokens.end(), testing::kTinyEnd) == 1);
  conversation.Answer(" no.");
  const auto second = conversation.Ask("oh", 1000, 10).value();
  CHECK(tokenizer.Decode(second.tokens).value() ==
        "<|endoftext|>U:is <|endoftext|> the end\nA: no.<|endoftext|>\nU:oh\nA:");
  CHECK(std::count(second.tokens.begin(), second.tokens.end(), testing::kTinyEnd) == 2);
  // What has been run stays in front, so that its memory serves again.
  CHECK(std::equal(first.tokens.begin(), first.tokens.end(), second.tokens.begin()));
  conversation.Forget();
  CHECK(tokenizer.Decode(conversation.Ask("oh", 1000, 10).value().tokens).value() == "<|endoftext|>U:oh\nA:");
}

TEST_CASE("special tokens inside the prompt's template are found on both sides of the user's words") {
  const tokenizer::Tokenizer tokenizer = TinyTokenizer();
  Conversation conversation({"", "<|endoftext|>a{user}b<|endoftext|>c", "\n"}, tokenizer);
  const auto prompt = conversation.Ask("<|endoftext|>", 1000, 1).value();
  CHECK(tokenizer.Decode(prompt.tokens).value() == "<|endoftext|>a<|endoftext|>b<|endoftext|>c");
  CHECK(std::count(prompt.tokens.begin(), prompt.tokens.end(), testing::kTinyEnd) == 2);
  CHECK(prompt.tokens.front() == testing::kTinyEnd);
  CHECK(prompt.tokens[prompt.tokens.size() - 2] == testing::kTinyEnd);
}

TEST_CASE("the oldest exchanges are forgotten when the context is full, as few as possible") {
  const tokenizer::Tokenizer tokenizer = TinyTokenizer();
  Conversation conversation({"S", "{user}=", "#"}, tokenizer);
  for (const char* message : {"aaa", "bbb", "ccc"}) {
    REQUIRE(conversation.Ask(message, 1000, 1).has_value());
    conversation.Answer("xy");
  }
  // Each exchange is 7 tokens ("aaa=xy#"), the start 1, the new message 2.
  for (std::size_t context = 34; context >= 13; --context) {
    CAPTURE(context);
    Conversation copy = conversation;
    const auto prompt = copy.Ask("d", context, 10).value();
    const std::size_t kept = std::min<std::size_t>(3, (context - 13) / 7);
    CHECK(prompt.dropped == 3 - kept);
    CHECK(copy.exchanges() == kept);
    CHECK(prompt.tokens.size() == 3 + 7 * kept);
    CHECK(tokenizer.Decode(prompt.tokens).value().ends_with(kept > 0 ? "ccc=xy#d=" : "Sd="));
  }
  const auto refused = conversation.Ask("d", 12, 10);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == Code::kOutOfRange);
  CHECK(refused.error().message.find("at most 1 tokens") != std::string::npos);
  CHECK(conversation.exchanges() == 3);
}

TEST_CASE("a model without a template of its own gets a plain script") {
  const tokenizer::Tokenizer tokenizer = TinyTokenizer();
  const Template plain = PlainTemplate(tokenizer);
  CHECK(Check(plain).has_value());
  CHECK(plain.start == "<|endoftext|>");
}

}  // namespace
}  // namespace holo::chat
