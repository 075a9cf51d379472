// Bytes of the built-in bases. Private to basis/.
#pragma once

#include <cstdint>
#include <span>

namespace holo::basis {

[[nodiscard]] std::span<const std::uint8_t> LumaBytes();
[[nodiscard]] std::span<const std::uint8_t> ChromaBytes();

}  // namespace holo::basis
