#include "common/status/status.h"

#include <doctest/doctest.h>

namespace holo {
namespace {

Result<int> HalfOf(int value) {
  if (value % 2 != 0)
    return Fail(Code::kInvalidArgument, "half: expected an even number, found " + std::to_string(value));
  return value / 2;
}

Result<int> QuarterOf(int value) {
  HOLO_ASSIGN_OR_RETURN(const int half, HalfOf(value));
  return HalfOf(half);
}

TEST_CASE("the macros hand on values and errors") {
  CHECK(QuarterOf(8).value() == 2);
  const Result<int> failed = QuarterOf(6);
  REQUIRE_FALSE(failed.has_value());
  CHECK(ToString(failed.error()) == "INVALID_ARGUMENT: half: expected an even number, found 3");
  CHECK(WithContext(failed.error(), "quarter").message == "quarter: half: expected an even number, found 3");
}

TEST_CASE("every code maps to each transport") {
  struct Row {
    Code code;
    int grpc, http, close, exit;
  };
  const Row rows[] = {
      {Code::kInvalidArgument, 3, 400, 1008, 2},   {Code::kNotFound, 5, 404, 1008, 3},
      {Code::kResourceExhausted, 8, 429, 1013, 1}, {Code::kUnavailable, 14, 503, 1013, 4},
      {Code::kDataLoss, 15, 500, 1011, 5},         {Code::kUnauthenticated, 16, 401, 1008, 1},
      {static_cast<Code>(200), 200, 500, 1011, 1},
  };
  for (const Row& row : rows) {
    CAPTURE(CodeName(row.code));
    CHECK(ToGrpcCode(row.code) == row.grpc);
    CHECK(ToHttpStatus(row.code) == row.http);
    CHECK(ToWebSocketCloseCode(row.code) == row.close);
    CHECK(ToExitCode(row.code) == row.exit);
  }
}

TEST_CASE("an HTTP body escapes what JSON requires") {
  CHECK(ToHttpBody({Code::kNotFound, "asset \"a\\b\"\n"}) ==
        "{\"error\":{\"code\":404,\"status\":\"NOT_FOUND\",\"message\":\"asset \\\"a\\\\b\\\"\\u000a\"}}");
  CHECK(ToHttpBody({Code::kUnimplemented, "no"}, 405) ==
        "{\"error\":{\"code\":405,\"status\":\"UNIMPLEMENTED\",\"message\":\"no\"}}");
}

}  // namespace
}  // namespace holo
