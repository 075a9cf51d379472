// How this project reports failure: every function that can fail returns Result<T>.
//
// An Error carries one of gRPC's canonical codes and a message that says what was expected, what was found and where.
// Nothing here needs a library beyond the header-only tl::expected, so that the codec also compiles to WebAssembly.
// All types are values; they may be used from any thread like an int.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace holo {

// The canonical codes, numbered as in google.rpc.Code.
enum class Code : std::uint8_t {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

struct Error {
  Code code = Code::kUnknown;
  std::string message;
};

template <typename T>
using Result = tl::expected<T, Error>;

// The failed Result of any type: `return Fail(Code::kDataLoss, "header: expected 4 bytes, found 2")`.
[[nodiscard]] inline tl::unexpected<Error> Fail(Code code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

// "DATA_LOSS" for Code::kDataLoss; "UNKNOWN" for a number that is no code.
[[nodiscard]] std::string_view CodeName(Code code);

// "DATA_LOSS: header: expected 4 bytes, found 2", for logs and the command line.
[[nodiscard]] std::string ToString(const Error& error);

// `error` with "context: " put before its message.
[[nodiscard]] Error WithContext(Error error, std::string_view context);

// The one mapping to each transport. gRPC's status code has the same numbers as Code.
[[nodiscard]] int ToGrpcCode(Code code);
[[nodiscard]] int ToHttpStatus(Code code);
// RFC 6455 close code: 1008 for the peer's fault, 1011 for ours, 1013 for "try again later".
[[nodiscard]] int ToWebSocketCloseCode(Code code);
// {"error":{"code":404,"status":"NOT_FOUND","message":"..."}}, the message escaped.
[[nodiscard]] std::string ToHttpBody(const Error& error);
// The same where the answer has a status of its own.
[[nodiscard]] std::string ToHttpBody(const Error& error, int http_status);
// The exit status of a command-line program: 2 for wrong usage or input, 3 not found, 4 unreachable or timed out,
// 5 damaged data, 130 cancelled, 1 otherwise.
[[nodiscard]] int ToExitCode(Code code);

}  // namespace holo

#define HOLO_STATUS_CONCAT_INNER(a, b) a##b
#define HOLO_STATUS_CONCAT(a, b) HOLO_STATUS_CONCAT_INNER(a, b)

// Returns the error of `expression` (a Result of any type) from the enclosing function, if it has one.
#define HOLO_RETURN_IF_ERROR(expression)                                    \
  do {                                                                      \
    if (auto holo_result = (expression); !holo_result) {                    \
      return tl::unexpected<::holo::Error>(std::move(holo_result).error()); \
    }                                                                       \
  } while (false)

// Declares or assigns `target` from the value of `expression`, or returns its error.
#define HOLO_ASSIGN_OR_RETURN(target, expression) \
  HOLO_ASSIGN_OR_RETURN_INNER(HOLO_STATUS_CONCAT(holo_result_, __LINE__), target, expression)
#define HOLO_ASSIGN_OR_RETURN_INNER(result, target, expression)                 \
  auto result = (expression);                                                   \
  if (!result) return tl::unexpected<::holo::Error>(std::move(result).error()); \
  target = std::move(result).value()
