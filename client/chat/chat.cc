#include "client/chat/chat.h"

#include "client/chat/kinds.h"

namespace holo::chat_client {

Result<std::unique_ptr<Conversation>> Open(std::string_view url, Options options) {
  constexpr std::string_view kHttp = "http://";
  if (url.starts_with(kHttp)) {
    url.remove_prefix(kHttp.size());
    for (const std::string_view end : {"/", "/v1"}) {
      if (url.ends_with(end)) url.remove_suffix(end.size());
    }
    auto endpoint = client::Endpoint::Parse("ws://" + std::string(url));
    if (endpoint) return OpenHttp(*endpoint, std::move(options));
  } else if (url.starts_with("grpc://")) {
    HOLO_ASSIGN_OR_RETURN(const client::Endpoint endpoint, client::Endpoint::Parse(url));
    return OpenGrpc(endpoint, std::move(options));
  }
  return Fail(Code::kInvalidArgument,
              "address: expected http://HOST[:8080] or grpc://HOST[:50051], found \"" + std::string(url) + "\"");
}

}  // namespace holo::chat_client
