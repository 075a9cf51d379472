#include "common/bytes/bytes.h"
#include "server/completion/completion.h"

namespace holo::completion {
namespace {

bool IsSame(std::string_view guess, std::string_view key) {
  unsigned difference = guess.size() == key.size() ? 0 : 1;
  for (std::size_t i = 0; i < guess.size(); ++i) {
    difference |= static_cast<unsigned>(static_cast<unsigned char>(guess[i]) ^
                                        static_cast<unsigned char>(key.empty() ? 0 : key[i % key.size()]));
  }
  return difference == 0;
}

}  // namespace

Result<std::string> ApiKeys::Admit(std::string_view authorization, const std::string& peer) const {
  if (keys_.empty()) return peer;
  constexpr std::string_view kBearer = "Bearer ";
  const bool is_bearer = authorization.starts_with(kBearer);
  const std::string_view said = is_bearer ? authorization.substr(kBearer.size()) : std::string_view();
  std::size_t found = keys_.size();
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    if (IsSame(said, keys_[i])) found = i;
  }
  if (found < keys_.size()) {
    const std::string& key = keys_[found];
    const auto digest = bytes::Sha256({reinterpret_cast<const std::uint8_t*>(key.data()), key.size()});
    return "key " + bytes::ToHex(digest).substr(0, 12);
  }
  return Fail(Code::kUnauthenticated, said.empty()
                                          ? "expected an API key as Authorization: Bearer KEY, found none"
                                          : "expected an API key of this server, found another one");
}

}  // namespace holo::completion
