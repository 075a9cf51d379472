// What llama.cpp makes of the same file and tokens. Private to the program.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "client/cli/cli.h"
#include "common/status/status.h"

namespace holo::cli::lm {

// Tokens a second.
struct Speed {
  double prompt = 0;
  double one = 0;   // each new token of one sequence
  double many = 0;  // of many sequences together
};

struct LlamaCppJob {
  std::string python;
  std::filesystem::path model;  // a GGUF file
  std::span<const std::uint32_t> tokens;
  std::size_t window = 0;
  unsigned threads = 1;
  bool with_speed = true;  // with keys and values in f16
  std::size_t prompt = 0, short_prompt = 0, steps = 0, sequences = 0;
};

struct LlamaCpp {
  struct Cache {
    std::string name;  // "f16", "q8_0", "q4_0", in this order
    double bytes_per_token = 0;
    double loss = 0;  // sum of -log p, natural logarithm
    std::uint64_t predictions = 0;
    std::uint64_t agreements = 0;  // the likeliest token is that of f16
  };
  std::vector<Cache> caches;
  std::optional<Speed> speed;
  std::string version;  // of llama-cpp-python
};

// Runs it in the named Python. kUnavailable, with how to install it, where it is not there.
[[nodiscard]] Result<LlamaCpp> RunLlamaCpp(const LlamaCppJob& job, const Globals& globals);

}  // namespace holo::cli::lm
