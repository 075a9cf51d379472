// Names from files in messages.
#pragma once

#include <string>
#include <string_view>

namespace holo::gguf {

// In quotation marks, with \xNN for what is not printable ASCII, and only its beginning if it is long.
[[nodiscard]] inline std::string Quoted(std::string_view text) {
  constexpr std::size_t kMostShown = 100;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text.substr(0, kMostShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F && c != '"' && c != '\\') {
      out += c;
    } else {
      out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out + (text.size() > kMostShown ? "\"..." : "\"");
}

}  // namespace holo::gguf
