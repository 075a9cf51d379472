// The two ways. The module's inside.
#pragma once

#include "client/chat/chat.h"
#include "client/core/client.h"

namespace holo::chat_client {

// How often a reply that says nothing is looked at for being stopped.
inline constexpr std::chrono::milliseconds kLookEvery{50};

[[nodiscard]] std::unique_ptr<Conversation> OpenHttp(const client::Endpoint& endpoint, Options options);
[[nodiscard]] std::unique_ptr<Conversation> OpenGrpc(const client::Endpoint& endpoint, Options options);

}  // namespace holo::chat_client
