// The reference, on every machine. Private to bytes/ and its tests.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace holo::bytes::plain {

[[nodiscard]] std::array<std::uint8_t, 32> Sha256(std::span<const std::uint8_t> data);

}  // namespace holo::bytes::plain
