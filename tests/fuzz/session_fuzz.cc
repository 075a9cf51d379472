// Saved sessions. The checksum is mended, or nothing behind it would ever be reached.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "common/bytes/bytes.h"
#include "server/completion/sessions.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace holo;
  std::vector<std::uint8_t> bytes(data, data + size);
  if (size > 32) {
    const auto digest = bytes::Sha256({data, size - 32});
    std::copy(digest.begin(), digest.end(), bytes.end() - 32);
  }
  const auto session = completion::ParseSession(bytes, "fuzz");
  if (session) {
    const auto again = completion::ParseSession(completion::SerialiseSession(*session), "again");
    if (!again || again->id != session->id || again->state.tokens != session->state.tokens) std::abort();
  }
  return 0;
}
