// The keys of a config.json, checked. Private to weights.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"

namespace holo::weights {

inline constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{1} << 20;

// GPT-2 XL has 50,257, 1,024, 1,600, 48, 25 and 6,400; Llama 3 70B 128,256, 131,072, 8,192, 80, 64 and 28,672.
inline constexpr std::uint32_t kMaxVocabulary = 1u << 20;
inline constexpr std::uint32_t kMaxContext = 1u << 20;
inline constexpr std::uint32_t kMaxWidth = 1u << 16;
inline constexpr std::uint32_t kMaxLayers = 1u << 10;
inline constexpr std::uint32_t kMaxHeads = 1u << 10;
inline constexpr std::uint32_t kMaxInnerWidth = 1u << 18;

class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& config, std::string_view name) : config_(config), name_(name) {}

  // nullptr where there is no such key, or null for it.
  [[nodiscard]] const nlohmann::json* Find(const char* key) const {
    const auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }

  [[nodiscard]] Result<std::uint32_t> Number(const char* key, std::uint32_t max) const {
    const nlohmann::json* value = Find(key);
    const bool is_good = value != nullptr && value->is_number_unsigned() && value->get<std::uint64_t>() >= 1 &&
                         value->get<std::uint64_t>() <= max;
    if (!is_good) return Problem(Code::kInvalidArgument, key, "a whole number from 1 to " + std::to_string(max));
    return value->get<std::uint32_t>();
  }

  // The first of several names, as sizes were once called differently.
  [[nodiscard]] Result<std::uint32_t> Number(std::initializer_list<const char*> keys, std::uint32_t max) const {
    for (const char* key : keys) {
      if (Find(key) != nullptr) return Number(key, max);
    }
    return Number(*keys.begin(), max);
  }

  [[nodiscard]] Result<bool> Flag(const char* key, bool otherwise) const {
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return Problem(Code::kInvalidArgument, key, "true or false");
    return value->get<bool>();
  }

  [[nodiscard]] Result<void> ExpectFlag(const char* key, bool expected) const {
    HOLO_ASSIGN_OR_RETURN(const bool found, Flag(key, expected));
    if (found != expected) return Problem(Code::kUnimplemented, key, expected ? "true" : "false");
    return {};
  }

  [[nodiscard]] std::optional<std::uint32_t> Token(const char* key, std::uint32_t vocabulary) const {
    const nlohmann::json* value = Find(key);
    if (value == nullptr || !value->is_number_unsigned() || value->get<std::uint64_t>() >= vocabulary) {
      return std::nullopt;
    }
    return value->get<std::uint32_t>();
  }

  // One number or a list of them; those beyond the vocabulary are left out.
  [[nodiscard]] std::vector<std::uint32_t> Tokens(const char* key, std::uint32_t vocabulary) const {
    constexpr std::size_t kMost = 64;
    std::vector<std::uint32_t> tokens;
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return tokens;
    const auto add = [&](const nlohmann::json& number) {
      if (!number.is_number_unsigned() || number.get<std::uint64_t>() >= vocabulary || tokens.size() == kMost) return;
      tokens.push_back(number.get<std::uint32_t>());
    };
    if (!value->is_array()) {
      add(*value);
    } else {
      for (const nlohmann::json& number : *value) add(number);
    }
    return tokens;
  }

  [[nodiscard]] tl::unexpected<Error> Problem(Code code, const char* key, const std::string& expected) const {
    const nlohmann::json* value = Find(key);
    return Fail(code, std::string(name_) + ": \"" + key + "\": expected " + expected + ", found " +
                          (value == nullptr ? "nothing" : value->dump(-1, ' ', true).substr(0, 100)));
  }

 private:
  const nlohmann::json& config_;
  std::string_view name_;
};

}  // namespace holo::weights
