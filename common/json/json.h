// JSON from outside, read within limits.
//
// Parse is stricter than JSON: a key that occurs twice in one object is refused, since two readers of the same file
// could otherwise see two different values. The values themselves are nlohmann's. Functions are pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "common/status/status.h"

namespace holo::json {

struct Limits {
  // Arrays and objects inside each other.
  std::uint32_t max_depth = 32;
  // Values of any kind, keys not counted. One takes up to about 150 bytes of memory besides its text.
  std::uint64_t max_values = 4'000'000;
};

// The one value that `text` (UTF-8, without byte order mark) consists of. `name` stands before every message.
// kDataLoss, with the offset, for what is not JSON, for a repeated key and for numbers beyond double;
// kResourceExhausted beyond `limits`.
[[nodiscard]] Result<nlohmann::json> Parse(std::span<const std::uint8_t> text, std::string_view name,
                                           const Limits& limits = {});

// "an object", "a string", ...: what was found, for messages.
[[nodiscard]] std::string_view KindOf(const nlohmann::json& value);

}  // namespace holo::json
