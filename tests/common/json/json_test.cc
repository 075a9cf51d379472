#include "common/json/json.h"

#include <doctest/doctest.h>

#include <string>

namespace holo::json {
namespace {

Result<nlohmann::json> ParseText(std::string_view text, const Limits& limits = {}) {
  return Parse({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, "t", limits);
}

TEST_CASE("every kind of value is read as nlohmann reads it") {
  const char* const texts[] = {"null",
                               "true",
                               "-3",
                               "18446744073709551615",
                               "0.5e-3",
                               R"("a\u00e9\ud83d\ude00\n")",
                               "[]",
                               "{}",
                               " [1,[2,[]],{}] ",
                               R"({"a":{"b":[{"c":null}]},"":[1,2,{"d":"e"}],"a ":false})"};
  for (const char* text : texts) {
    CAPTURE(text);
    CHECK(ParseText(text).value() == nlohmann::json::parse(text));
  }
}

TEST_CASE("what is no JSON is refused with its place") {
  for (const char* text : {"", " ", "[1,]", "{\"a\"}", "1 2", "nul", "\"\xff\"", "\"\\ud800\"", "1e999", "[1", "]"}) {
    CAPTURE(text);
    const auto value = ParseText(text);
    CHECK_FALSE(value.has_value());
    if (!value) CHECK(value.error().code == Code::kDataLoss);
  }
  CHECK(ParseText("[1,}").error().message == "t: expected JSON, found something else at byte 4, at \"1,}\"");
  CHECK(ParseText(R"({"a":1,"b":{"a":2,"a":3}})").error().message == "t: expected each key once, found \"a\" again");
}

TEST_CASE("depth and number of values are limited") {
  CHECK(ParseText("[[[1]]]", {3, 4}).has_value());
  CHECK(ParseText("[[[1]]]", {2, 4}).error().code == Code::kResourceExhausted);
  CHECK(ParseText("[1,{\"a\":2}]", {3, 4}).has_value());
  CHECK(ParseText("[1,{\"a\":2},3]", {3, 4}).error().code == Code::kResourceExhausted);
  CHECK_FALSE(ParseText(std::string(1'000'000, '[')).has_value());
}

}  // namespace
}  // namespace holo::json
