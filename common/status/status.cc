#include "common/status/status.h"

#include <array>
#include <cstdio>

namespace holo {
namespace {

struct CodeRow {
  std::string_view name;
  int http_status;
  int close_code;
  int exit_code;
};

// Indexed by Code. HTTP statuses follow google.rpc.Code's documentation.
constexpr std::array<CodeRow, 17> kCodeRows = {{
    {"UNKNOWN", 500, 1011, 1},
    {"CANCELLED", 499, 1000, 130},
    {"UNKNOWN", 500, 1011, 1},
    {"INVALID_ARGUMENT", 400, 1008, 2},
    {"DEADLINE_EXCEEDED", 504, 1013, 4},
    {"NOT_FOUND", 404, 1008, 3},
    {"ALREADY_EXISTS", 409, 1008, 2},
    {"PERMISSION_DENIED", 403, 1008, 1},
    {"RESOURCE_EXHAUSTED", 429, 1013, 1},
    {"FAILED_PRECONDITION", 400, 1008, 2},
    {"ABORTED", 409, 1013, 1},
    {"OUT_OF_RANGE", 400, 1008, 2},
    {"UNIMPLEMENTED", 501, 1008, 1},
    {"INTERNAL", 500, 1011, 1},
    {"UNAVAILABLE", 503, 1013, 4},
    {"DATA_LOSS", 500, 1011, 5},
    {"UNAUTHENTICATED", 401, 1008, 1},
}};

const CodeRow& RowOf(Code code) {
  const auto index = static_cast<std::size_t>(code);
  return kCodeRows[index < kCodeRows.size() ? index : 0];
}

}  // namespace

std::string_view CodeName(Code code) {
  return RowOf(code).name;
}

std::string ToString(const Error& error) {
  return std::string(CodeName(error.code)) + ": " + error.message;
}

Error WithContext(Error error, std::string_view context) {
  error.message = std::string(context) + ": " + error.message;
  return error;
}

int ToGrpcCode(Code code) {
  return static_cast<int>(code);
}
int ToHttpStatus(Code code) {
  return RowOf(code).http_status;
}
int ToWebSocketCloseCode(Code code) {
  return RowOf(code).close_code;
}
int ToExitCode(Code code) {
  return RowOf(code).exit_code;
}

std::string ToHttpBody(const Error& error) {
  return ToHttpBody(error, ToHttpStatus(error.code));
}

std::string ToHttpBody(const Error& error, int http_status) {
  std::string body = "{\"error\":{\"code\":" + std::to_string(http_status) + ",\"status\":\"" +
                     std::string(CodeName(error.code)) + "\",\"message\":\"";
  for (const char c : error.message) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      body += '\\';
      body += c;
    } else if (byte < 0x20) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x", byte);
      body += escape.data();
    } else {
      body += c;
    }
  }
  return body + "\"}}";
}

}  // namespace holo
