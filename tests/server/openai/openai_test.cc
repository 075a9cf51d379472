#include "server/openai/openai.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "tests/server/completion/tiny_service.h"

namespace holo::openai {
namespace {

using nlohmann::json;
using transports::http::ApiProgress;

std::span<const std::uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

TEST_CASE("fields of a completion arrive where they belong") {
  const auto asked = ParseCompletion(Bytes(
      R"({"model":"m","prompt":["a",[1,2]],"max_tokens":7.0,"temperature":0.5,"top_p":0.25,"n":2,"best_of":3,
          "echo":true,"logprobs":4,"stop":["x","y"],"seed":-1,"presence_penalty":1,"frequency_penalty":-1,
          "logit_bias":{"17":-100},"top_k":5,"user":"u","suffix":null,"who knows":{"a":[1]}})"));
  REQUIRE(asked);
  const completion::Request& request = asked->request;
  CHECK(request.model == "m");
  REQUIRE(request.prompts.size() == 2);
  CHECK(std::get<std::string>(request.prompts[0]) == "a");
  CHECK(std::get<std::vector<std::uint32_t>>(request.prompts[1]) == std::vector<std::uint32_t>{1, 2});
  CHECK(request.max_tokens == 7);
  CHECK(request.sampling.temperature == 0.5f);
  CHECK(request.sampling.top_p == 0.25f);
  CHECK(request.sampling.top_k == 5);
  CHECK(request.sampling.presence_penalty == 1);
  CHECK(request.sampling.frequency_penalty == -1);
  CHECK(request.sampling.logit_bias == std::vector<std::pair<std::uint32_t, float>>{{17, -100.0f}});
  CHECK(request.sampling.logprobs == 4);
  CHECK(request.scores_prompt);
  CHECK(request.choices == 2);
  CHECK(request.best_of == 3);
  CHECK(request.stops == std::vector<std::string>{"x", "y"});
  CHECK(request.seed == ~std::uint64_t{0});
  CHECK(asked->echoes);
  CHECK(asked->has_logprobs);
  CHECK_FALSE(asked->streams);
}

TEST_CASE("what is left out of a completion is as OpenAI has it") {
  const auto asked = ParseCompletion(Bytes("{}"));
  REQUIRE(asked);
  CHECK(std::get<std::string>(asked->request.prompts.at(0)).empty());
  CHECK(asked->request.max_tokens == 16);
  CHECK(asked->request.sampling.temperature == 1);
  CHECK_FALSE(asked->request.seed);
  CHECK_FALSE(ParseChat(Bytes(R"({"messages":[{"role":"user","content":"x"}]})"))->request.max_tokens);
}

TEST_CASE("messages have roles, and contents of text or parts of it") {
  const auto asked = ParseChat(Bytes(
      R"({"messages":[{"role":"developer","content":"s"},{"role":"user","content":[{"type":"text","text":"a"},
          {"type":"text","text":"b"}]},{"role":"assistant","content":null},{"role":"user","content":"c"}],
          "max_tokens":1,"max_completion_tokens":2,"logprobs":true,"top_logprobs":3,"stream":true,
          "stream_options":{"include_usage":true},"tools":[],"response_format":{"type":"text"}})"));
  REQUIRE(asked);
  const auto& messages = asked->request.messages;
  REQUIRE(messages.size() == 4);
  CHECK(messages[0].role == chat_template::Role::kSystem);
  CHECK(messages[1].content == "ab");
  CHECK(messages[2].content.empty());
  CHECK(asked->request.max_tokens == 2);
  CHECK(asked->request.sampling.logprobs == 3);
  CHECK(asked->includes_usage);
}

TEST_CASE("wrong types and values are refused with the field's name") {
  struct Row {
    bool is_chat;
    const char* body;
    const char* param;
  };
  const Row rows[] = {
      {false, R"({"prompt":5})", "prompt"},
      {false, R"({"prompt":[]})", "prompt"},
      {false, R"({"prompt":["a",5]})", "prompt[1]"},
      {false, R"({"prompt":[1,-2]})", "prompt"},
      {false, R"({"prompt":[[1],[1.5]]})", "prompt[1]"},
      {false, R"({"prompt":[99999999999]})", "prompt"},
      {false, R"({"model":5})", "model"},
      {false, R"({"max_tokens":"5"})", "max_tokens"},
      {false, R"({"max_tokens":-1})", "max_tokens"},
      {false, R"({"max_tokens":1.5})", "max_tokens"},
      {false, R"({"max_tokens":1e300})", "max_tokens"},
      {false, R"({"max_tokens":18446744073709551615})", "max_tokens"},
      {false, R"({"temperature":"hot"})", "temperature"},
      {false, R"({"temperature":2.5})", "temperature"},
      {false, R"({"top_p":-0.1})", "top_p"},
      {false, R"({"n":0})", "n"},
      {false, R"({"n":1000000})", "n"},
      {false, R"({"n":3,"best_of":2})", "best_of"},
      {false, R"({"n":1,"best_of":2,"stream":true})", "best_of"},
      {false, R"({"echo":1})", "echo"},
      {false, R"({"logprobs":true})", "logprobs"},
      {false, R"({"logprobs":21})", "logprobs"},
      {false, R"({"stop":5})", "stop"},
      {false, R"({"stop":["a",null]})", "stop[1]"},
      {false, R"({"stream":"yes"})", "stream"},
      {false, R"({"stream_options":{}})", "stream_options"},
      {false, R"({"stream":true,"stream_options":{"include_usage":1}})", "stream_options.include_usage"},
      {false, R"({"logit_bias":[1]})", "logit_bias"},
      {false, R"({"logit_bias":{"x":1}})", "logit_bias"},
      {false, R"({"logit_bias":{"1":1000}})", "logit_bias"},
      {false, R"({"suffix":"x"})", "suffix"},
      {false, R"({"response_format":{"type":"json_object"}})", "response_format"},
      {true, R"({})", "messages"},
      {true, R"({"messages":[]})", "messages"},
      {true, R"({"messages":"x"})", "messages"},
      {true, R"({"messages":["x"]})", "messages[0]"},
      {true, R"({"messages":[{"content":"x"}]})", "messages[0].role"},
      {true, R"({"messages":[{"role":"tool","content":"x"}]})", "messages[0].role"},
      {true, R"({"messages":[{"role":"user"}]})", "messages[0].content"},
      {true, R"({"messages":[{"role":"user","content":5}]})", "messages[0].content"},
      {true, R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})", "messages[0].content[0].type"},
      {true, R"({"messages":[{"role":"user","content":"x"}],"top_logprobs":2})", "top_logprobs"},
      {true, R"({"messages":[{"role":"user","content":"x"}],"tools":[{}]})", "tools"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.body);
    const auto asked = row.is_chat ? ParseChat(Bytes(row.body)) : ParseCompletion(Bytes(row.body));
    REQUIRE_FALSE(asked);
    const Problem problem = ToProblem(asked.error());
    CHECK(problem.status == 400);
    CHECK(problem.body["error"]["param"] == row.param);
    CHECK(problem.body["error"]["type"] == "invalid_request_error");
  }
  std::string many = R"({"stop":["a")";
  for (int i = 0; i < 1'000'000; ++i) many += ",\"a\"";
  for (const std::string& body : {std::string("no json"), std::string("[]"), std::string("{\"prompt\":\"\xFF\"}"),
                                  std::string(100'000, '['), std::string("{\"temperature\":NaN}"),
                                  std::string("{\"temperature\":1e999}"), std::string(), many + "]}"}) {
    CAPTURE(body.substr(0, 40));
    const auto asked = ParseCompletion(Bytes(body));
    REQUIRE_FALSE(asked);
    CHECK(ToProblem(asked.error()).status == 400);
    CHECK(ToProblem(asked.error()).body["error"]["param"].is_null());
  }
}

TEST_CASE("errors have OpenAI's statuses") {
  struct Row {
    Code code;
    int status;
    bool may_retry;
  };
  for (const Row& row : {Row{Code::kInvalidArgument, 400, false}, {Code::kOutOfRange, 400, false},
                         {Code::kUnauthenticated, 401, false}, {Code::kNotFound, 404, false},
                         {Code::kResourceExhausted, 429, true}, {Code::kUnavailable, 503, true},
                         {Code::kInternal, 500, false}}) {
    const Problem problem = ToProblem({row.code, "model: expected something"});
    CAPTURE(row.status);
    CHECK(problem.status == row.status);
    CHECK(problem.may_retry == row.may_retry);
    CHECK(problem.body["error"]["message"] == "model: expected something");
  }
}

// Asks as the transport does, and takes until it is over.
struct Asker {
  std::shared_ptr<transports::http::Api> api;

  ApiProgress Ask(const std::string& path, const std::string& body, const std::string& key = "",
                  const std::string& method = "POST") const {
    testing::Bell bell;
    const auto answer = api->Answer({method, path, body, key, "peer"}, bell.Ringer());
    ApiProgress all;
    for (;;) {
      ApiProgress progress = answer->Take();
      progress.bytes.insert(0, all.bytes);
      all = std::move(progress);
      if (all.is_over) return all;
      bell.Wait();
    }
  }
  json Json(const std::string& path, const std::string& body) const { return json::parse(Ask(path, body).bytes); }
};

std::vector<json> Chunks(const ApiProgress& progress) {
  std::vector<json> chunks;
  std::size_t from = 0;
  for (std::size_t end = 0; (end = progress.bytes.find("\n\n", from)) != std::string::npos; from = end + 2) {
    const std::string line = progress.bytes.substr(from, end - from);
    REQUIRE(line.starts_with("data: "));
    if (line == "data: [DONE]") {
      CHECK(end + 2 == progress.bytes.size());
      return chunks;
    }
    chunks.push_back(json::parse(line.substr(6)));
  }
  FAIL_CHECK("expected [DONE] at the end");
  return chunks;
}

TEST_CASE("a stream's chunks together are the answer that comes at once") {
  testing::TinyService tiny;
  const Asker asker{MakeApi({}, *tiny.service)};
  const std::string common = R"("max_tokens":12,"seed":3,"ignore_eos":true,"n":2)";
  SUBCASE("completions") {
    const std::string body = R"({"prompt":"the thing","echo":true,"logprobs":2,)" + common;
    const json whole = asker.Json("/v1/completions", body + "}");
    const ApiProgress streamed =
        asker.Ask("/v1/completions", body + R"(,"stream":true,"stream_options":{"include_usage":true}})");
    CHECK(streamed.content_type.starts_with("text/event-stream"));
    std::vector<std::string> texts(2);
    std::vector<json> tokens(2, json::array());
    std::vector<json> offsets(2, json::array());
    const auto chunks = Chunks(streamed);
    for (std::size_t i = 0; i + 1 < chunks.size(); ++i) {
      CHECK(chunks[i]["object"] == "text_completion");
      CHECK(chunks[i]["usage"].is_null());
      const json& choice = chunks[i]["choices"].at(0);
      const auto index = choice["index"].get<std::size_t>();
      texts.at(index) += choice["text"].get<std::string>();
      if (choice["logprobs"].is_null()) continue;
      for (const json& token : choice["logprobs"]["tokens"]) tokens[index].push_back(token);
      for (const json& offset : choice["logprobs"]["text_offset"]) offsets[index].push_back(offset);
    }
    CHECK(chunks.back()["choices"].empty());
    CHECK(chunks.back()["usage"] == whole["usage"]);
    CHECK(whole["usage"]["completion_tokens"] == 24);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(whole["choices"][i]["text"] == texts[i]);
      CHECK(texts[i].starts_with("the thing"));
      CHECK(whole["choices"][i]["logprobs"]["tokens"] == tokens[i]);
      CHECK(whole["choices"][i]["logprobs"]["text_offset"] == offsets[i]);
      CHECK(whole["choices"][i]["logprobs"]["token_logprobs"][0].is_null());
      CHECK(whole["choices"][i]["finish_reason"] == "length");
    }
  }
  SUBCASE("chat") {
    const std::string body = R"({"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":2,)" + common;
    const json whole = asker.Json("/v1/chat/completions", body + "}");
    CHECK(whole["object"] == "chat.completion");
    std::vector<std::string> texts(2), reasons(2);
    std::vector<std::size_t> tokens(2);
    std::vector<bool> has_role(2);
    for (const json& chunk : Chunks(asker.Ask("/v1/chat/completions", body + R"(,"stream":true})"))) {
      CHECK(chunk["object"] == "chat.completion.chunk");
      CHECK_FALSE(chunk.contains("usage"));
      const json& choice = chunk["choices"].at(0);
      const auto index = choice["index"].get<std::size_t>();
      CHECK(has_role[index] != choice["delta"].contains("role"));
      has_role[index] = true;
      texts[index] += choice["delta"].value("content", "");
      if (!choice["logprobs"].is_null()) tokens[index] += choice["logprobs"]["content"].size();
      if (!choice["finish_reason"].is_null()) reasons[index] = choice["finish_reason"];
    }
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(whole["choices"][i]["message"]["content"] == texts[i]);
      CHECK(whole["choices"][i]["logprobs"]["content"].size() == tokens[i]);
      CHECK(whole["choices"][i]["finish_reason"] == reasons[i]);
      CHECK(whole["choices"][i]["logprobs"]["content"][0]["top_logprobs"].size() == 2);
    }
  }
}

TEST_CASE("the best of several are those whose tokens are the likeliest on average") {
  testing::TinyService tiny;
  const Asker asker{MakeApi({}, *tiny.service)};
  const std::string common = R"({"prompt":"x","max_tokens":8,"seed":1,"ignore_eos":true,"logprobs":0,)";
  const json all = asker.Json("/v1/completions", common + R"("n":6})");
  const json best = asker.Json("/v1/completions", common + R"("n":2,"best_of":6})");
  const auto mean = [](const json& choice) {
    double sum = 0;
    for (const json& value : choice["logprobs"]["token_logprobs"]) sum += value.get<double>();
    return sum / static_cast<double>(choice["logprobs"]["token_logprobs"].size());
  };
  std::vector<std::pair<double, std::string>> ranked;
  for (const json& choice : all["choices"]) ranked.emplace_back(mean(choice), choice["text"]);
  std::sort(ranked.rbegin(), ranked.rend());
  REQUIRE(best["choices"].size() == 2);
  CHECK(best["choices"][0]["text"] == ranked[0].second);
  CHECK(best["choices"][1]["text"] == ranked[1].second);
  CHECK(best["usage"]["completion_tokens"] == 48);
}

TEST_CASE("models are listed and found, with their chat template") {
  testing::TinyService tiny;
  const Asker asker{MakeApi({}, *tiny.service)};
  const json list = json::parse(asker.Ask("/v1/models", "", "", "GET").bytes);
  REQUIRE(list["data"].size() == 2);
  CHECK(list["data"][1]["id"] == "other");
  CHECK(list["data"][0]["max_model_len"] == 64);
  CHECK(list["data"][0]["chat_template"]["name"] == "plain");
  CHECK(json::parse(asker.Ask("/v1/models/other", "", "", "GET").bytes)["id"] == "other");
  const ApiProgress none = asker.Ask("/v1/models/none", "", "", "GET");
  CHECK(none.status == 404);
  CHECK(json::parse(none.bytes)["error"]["code"] == "model_not_found");
  const ApiProgress posted = asker.Ask("/v1/models", "{}");
  CHECK(posted.status == 405);
  CHECK(std::find(posted.fields.begin(), posted.fields.end(), std::pair<std::string, std::string>("Allow", "GET")) !=
        posted.fields.end());
  CHECK(asker.Ask("/v1/completions", "", "", "GET").status == 405);
}

TEST_CASE("text becomes tokens and tokens text") {
  testing::TinyService tiny;
  const Asker asker{MakeApi({}, *tiny.service)};
  const json tokens = asker.Json("/tokenize", R"({"content":"the end"})");
  CHECK(tokens["count"] == 6);
  CHECK(tokens["tokens"][0] == 256);
  const json text = asker.Json("/detokenize", json({{"tokens", tokens["tokens"]}}).dump());
  CHECK(text["content"] == "the end");
  CHECK(asker.Ask("/detokenize", R"({"tokens":[258]})").status == 400);
  CHECK(asker.Ask("/tokenize", R"({"content":5})").status == 400);
}

TEST_CASE("where there are keys, one of them must be said") {
  testing::TinyService tiny;
  const Asker asker{MakeApi({completion::ApiKeys({"first", "second"}), nullptr}, *tiny.service)};
  const std::string body = R"({"prompt":"x","max_tokens":1})";
  for (const char* key : {"", "Bearer", "Bearer ", "Bearer firs", "Bearer firstsecond", "Basic first"}) {
    CAPTURE(key);
    const ApiProgress refused = asker.Ask("/v1/completions", body, key);
    CHECK(refused.status == 401);
    CHECK(json::parse(refused.bytes)["error"]["code"] == "invalid_api_key");
  }
  CHECK(asker.Ask("/v1/models", "", "Bearer no", "GET").status == 401);
  CHECK(asker.Ask("/v1/completions", body, "Bearer first").status == 200);
  CHECK(asker.Ask("/v1/completions", body, "Bearer second").status == 200);
}

}  // namespace
}  // namespace holo::openai
