// Entropy coding of packed blocks: the stored tier's numbers, whole coordinates of many tokens, each of a deviation known
// beforehand; and the scales of latent ones. Private to kv_cache and its tests. FORMAT.md says what is coded in which
// order.
//
// Everything is in integers, so a code means the same numbers on every machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/language_model/kv_cache/kv_cache.h"
#include "common/status/status.h"

namespace holo::kv_cache {

// Class c is a deviation of 2^((c - 16) / 4) steps.
inline constexpr std::size_t kClasses = 64;
// What a number is coded by: its class, moved by how large its neighbours are for theirs.
inline constexpr std::size_t kContexts = 96;
// Of one context: "is it 0", then "has it another binary digit" 14 times, in the first context "is the exponent larger",
// then the digit behind the leading one, for each number of digits.
inline constexpr std::size_t kDecisions = 32;
// First probabilities of a 1, in 1/256, 1..255: [kContexts, kDecisions].
static_assert(kCoderTableBytes == kContexts * kDecisions);

// One layer of a block.
struct CodedLayer {
  std::span<const std::uint8_t> classes;  // [rank], each below kClasses
  std::int16_t* numbers = nullptr;        // [tokens, rank], -32767..32767
  std::uint8_t* exponents = nullptr;      // [tokens], at most kMostExponent: a token's numbers count 2^exponent each
};
inline constexpr unsigned kMostExponent = 24;

// The first `fine_tokens` tokens have numbers that are 2^kFineShift times as large as their classes say.
inline constexpr unsigned kFineShift = 5;

[[nodiscard]] std::vector<std::uint8_t> EncodeBlock(std::span<const CodedLayer> layers, std::size_t tokens,
                                                    std::size_t fine_tokens, std::span<const std::uint8_t> table);
// Fills `numbers` and `exponents`. kDataLoss where the code is too short or too long, or a number out of range.
[[nodiscard]] Result<void> DecodeBlock(std::span<const std::uint8_t> code, std::string_view name,
                                       std::span<const CodedLayer> layers, std::size_t tokens, std::size_t fine_tokens,
                                       std::span<const std::uint8_t> table);

void CountBlock(std::span<const CodedLayer> layers, std::size_t tokens, std::size_t fine_tokens,
                CoderCounts& counts);

// `scales` is [tokens, starts.size()]; of each column a scale is expected to be what it was in the tokens before, and in
// the first one `starts`.
[[nodiscard]] std::vector<std::uint8_t> EncodeScales(std::span<const std::uint8_t> starts,
                                                     std::span<const std::uint8_t> scales);
// Fills `scales`. kDataLoss where the code is too short or too long, or a scale out of range.
[[nodiscard]] Result<void> DecodeScales(std::span<const std::uint8_t> code, std::string_view name,
                                        std::span<const std::uint8_t> starts, std::span<std::uint8_t> scales);

}  // namespace holo::kv_cache
