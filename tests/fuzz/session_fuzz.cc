// Saved sessions. The checksum is mended, or nothing behind it would ever be reached.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "common/bytes/bytes.h"
#include "server/completion/sessions.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace holo;
  std::vector<std::uint8_t> bytes(data, data + size);
  // Where the checksum is, as FORMAT.md says.
  const auto u32 = [&](std::size_t at) -> std::size_t {
    if (at > size || size - at < 4) return size;
    return bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 | std::size_t{bytes[at + 3]} << 24;
  };
  const std::size_t header = u32(12);
  const std::size_t tokens = u32(16 + header);
  const std::size_t at = 20 + header + 4 * tokens + 8;
  if (at <= size && size - at >= 32) {
    const auto digest = bytes::Sha256({data, at});
    std::copy(digest.begin(), digest.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
  }
  const auto session = completion::ParseSession(bytes, "fuzz");
  if (session) {
    const auto again = completion::ParseSession(completion::SerialiseSession(*session), "again");
    if (!again || again->id != session->id || again->state.tokens != session->state.tokens) std::abort();
  }
  return 0;
}
