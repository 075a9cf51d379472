// The first byte chooses: 0, the rest is a template to be recognised; otherwise the low bits are a format and the rest
// is messages, separated by zero bytes. However they read, a rendering has the special tokens of its form and no
// others.
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "common/language_model/chat_template/chat_template.h"

namespace {

using namespace holo::chat_template;
using holo::tokenizer::Definition;
using holo::tokenizer::Tokenizer;

void Require(bool holds) {
  if (!holds) std::abort();
}

const Tokenizer& Bytes() {
  static const Tokenizer tokenizer = [] {
    Definition definition;
    // The byte alphabet: printable bytes are themselves, the others U+0100 and up.
    std::uint32_t stand_in = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool is_itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
      const std::uint32_t c = is_itself ? byte : stand_in++;
      std::string text;
      if (c >= 0x80) text += static_cast<char>(0xC0 | c >> 6);
      text += static_cast<char>(c >= 0x80 ? 0x80 | (c & 0x3F) : c);
      definition.tokens.push_back({text, byte});
    }
    std::uint32_t id = 256;
    for (const char* text : {"<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
                             "<|end_header_id|>", "<|eot_id|>", "<s>", "</s>"}) {
      definition.special_tokens.push_back({text, id++});
    }
    return Tokenizer::Create(definition, "bytes").value();
  }();
  return tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 0) {
    const auto style = Recognise(rest, "input");
    if (style) (void)ChatTemplate::Create(*style, Bytes()).value().Render(std::vector<Message>(1), true).value();
    return 0;
  }
  const Format format = kFormats[data[0] % 3];
  std::vector<Message> messages;
  for (bool is_user = true; messages.size() < 8; is_user = !is_user) {
    const std::size_t zero = rest.find('\0');
    messages.push_back({is_user ? Role::kUser : Role::kAssistant, std::string(rest.substr(0, zero))});
    if (zero == std::string_view::npos) break;
    rest.remove_prefix(zero + 1);
  }
  const ChatTemplate chat = ChatTemplate::Create({format, "", "", false}, Bytes()).value();
  std::size_t special = 0;
  const auto ids = chat.Render(messages, false).value();
  for (const auto id : ids) special += Bytes().IsSpecial(id) ? 1 : 0;
  const std::size_t count = messages.size();
  // Two a message; one a message, as each side of an exchange has one; a beginning, and three a message.
  Require(special == (format == Format::kChatMl ? 2 * count : format == Format::kLlama2 ? count : 1 + 3 * count));
  return 0;
}
