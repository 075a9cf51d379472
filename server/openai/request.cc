#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "common/json/json.h"
#include "server/openai/openai.h"

namespace holo::openai {
namespace {

using nlohmann::json;

constexpr std::uint32_t kDefaultCompletionTokens = 16;  // OpenAI's
constexpr json::number_integer_t kMaxTokens = 1 << 24;
constexpr std::size_t kMaxTopLogprobs = 20;

tl::unexpected<Error> Refuse(std::string_view field, std::string_view expected, const json& found) {
  return Fail(Code::kInvalidArgument, std::string(field) + ": expected " + std::string(expected) + ", found " +
                                          std::string(json::value_t::null == found.type() ? "null" : holo::json::KindOf(found)));
}

// The fields of a request's object. Null is as good as nothing.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}

  [[nodiscard]] const json* Find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  Result<void> Flag(const char* name, bool& out) const {
    const json* value = Find(name);
    if (value == nullptr) return {};
    if (!value->is_boolean()) return Refuse(name, "true or false", *value);
    out = value->get<bool>();
    return {};
  }
  Result<void> Text(const char* name, std::string& out) const {
    const json* value = Find(name);
    if (value == nullptr) return {};
    if (!value->is_string()) return Refuse(name, "a string", *value);
    out = value->get<std::string>();
    return {};
  }
  Result<void> Number(const char* name, double least, double most, float& out) const {
    const json* value = Find(name);
    if (value == nullptr) return {};
    if (!value->is_number()) return Refuse(name, "a number", *value);
    const double number = value->get<double>();
    if (!(number >= least && number <= most)) {
      return Fail(Code::kInvalidArgument, std::string(name) + ": expected " + json(least).dump() + " to " +
                                              json(most).dump() + ", found " + value->dump());
    }
    out = static_cast<float>(number);
    return {};
  }
  // Whole numbers, also when written as 16.0.
  Result<std::optional<std::int64_t>> Whole(const char* name, std::int64_t least, std::int64_t most) const {
    const json* value = Find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) return Refuse(name, "a whole number", *value);
    bool is_whole = true;
    std::int64_t number = 0;
    if (value->is_number_unsigned()) {
      is_whole = value->get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      number = is_whole ? value->get<std::int64_t>() : 0;
    } else if (value->is_number_integer()) {
      number = value->get<std::int64_t>();
    } else {
      const double real = value->get<double>();
      is_whole = std::abs(real) < 9e15 && real == std::floor(real);
      number = is_whole ? static_cast<std::int64_t>(real) : 0;
    }
    if (!is_whole || number < least || number > most) {
      return Fail(Code::kInvalidArgument, std::string(name) + ": expected a whole number from " + std::to_string(least) +
                                              " to " + std::to_string(most) + ", found " + value->dump());
    }
    return number;
  }

 private:
  const json& object_;
};

Result<json> ParseBody(std::span<const std::uint8_t> body) {
  holo::json::Limits limits;
  limits.max_values = 400'000;
  auto root = holo::json::Parse(body, "body", limits);
  if (!root) return Fail(Code::kInvalidArgument, root.error().message);
  if (!root->is_object()) return Refuse("body", "an object", *root);
  return root;
}

Result<std::vector<tokenizer::TokenId>> Tokens(const json& array, const std::string& field) {
  std::vector<tokenizer::TokenId> tokens;
  tokens.reserve(array.size());
  for (const json& value : array) {
    if (!value.is_number_unsigned()) return Refuse(field, "token numbers", value);
    const auto number = value.get<std::uint64_t>();
    if (number > std::numeric_limits<tokenizer::TokenId>::max()) {
      return Fail(Code::kInvalidArgument, field + ": expected token numbers, found " + value.dump());
    }
    tokens.push_back(static_cast<tokenizer::TokenId>(number));
  }
  return tokens;
}

Result<void> ReadPrompts(const Fields& fields, std::vector<completion::Prompt>& prompts) {
  const json* value = fields.Find("prompt");
  if (value == nullptr) {
    prompts.emplace_back(std::string());
    return {};
  }
  if (value->is_string()) {
    prompts.emplace_back(value->get<std::string>());
    return {};
  }
  if (!value->is_array()) return Refuse("prompt", "a string, strings, token numbers, or arrays of them", *value);
  if (value->empty()) return Fail(Code::kInvalidArgument, "prompt: expected at least one element, found none");
  if (value->front().is_number()) {
    HOLO_ASSIGN_OR_RETURN(auto tokens, Tokens(*value, "prompt"));
    prompts.emplace_back(std::move(tokens));
    return {};
  }
  if (value->size() > completion::kMaxPrompts) {
    return Fail(Code::kInvalidArgument, "prompt: expected at most " + std::to_string(completion::kMaxPrompts) +
                                            " prompts, found " + std::to_string(value->size()));
  }
  for (std::size_t i = 0; i < value->size(); ++i) {
    const json& element = (*value)[i];
    const std::string field = "prompt[" + std::to_string(i) + "]";
    if (element.is_string()) {
      prompts.emplace_back(element.get<std::string>());
    } else if (element.is_array()) {
      HOLO_ASSIGN_OR_RETURN(auto tokens, Tokens(element, field));
      prompts.emplace_back(std::move(tokens));
    } else {
      return Refuse(field, "a string or token numbers", element);
    }
  }
  return {};
}

Result<void> ReadStops(const Fields& fields, std::vector<std::string>& stops) {
  const json* value = fields.Find("stop");
  if (value == nullptr) return {};
  if (value->is_string()) {
    stops.push_back(value->get<std::string>());
    return {};
  }
  if (!value->is_array()) return Refuse("stop", "a string or an array of strings", *value);
  if (value->size() > sampling::kMaxStops) {
    return Fail(Code::kInvalidArgument, "stop: expected at most " + std::to_string(sampling::kMaxStops) +
                                            " strings, found " + std::to_string(value->size()));
  }
  for (std::size_t i = 0; i < value->size(); ++i) {
    if (!(*value)[i].is_string()) return Refuse("stop[" + std::to_string(i) + "]", "a string", (*value)[i]);
    stops.push_back((*value)[i].get<std::string>());
  }
  return {};
}

Result<void> ReadBiases(const Fields& fields, sampling::Options& options) {
  const json* value = fields.Find("logit_bias");
  if (value == nullptr) return {};
  if (!value->is_object()) return Refuse("logit_bias", "an object of token numbers and biases", *value);
  constexpr std::size_t kMaxBiases = 4096;
  if (value->size() > kMaxBiases) {
    return Fail(Code::kInvalidArgument, "logit_bias: expected at most " + std::to_string(kMaxBiases) +
                                            " tokens, found " + std::to_string(value->size()));
  }
  for (const auto& [key, bias] : value->items()) {
    std::uint32_t token = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size()) {
      return Fail(Code::kInvalidArgument, "logit_bias: expected token numbers as keys, found \"" + key.substr(0, 40) + "\"");
    }
    if (!bias.is_number()) return Refuse("logit_bias", "a number for token " + key, bias);
    const double number = bias.get<double>();
    if (!(number >= -100 && number <= 100)) {
      return Fail(Code::kInvalidArgument, "logit_bias: expected -100 to 100, found " + bias.dump());
    }
    options.logit_bias.emplace_back(token, static_cast<float>(number));
  }
  return {};
}

// What both kinds of requests have.
Result<void> ReadCommon(const Fields& fields, Asked& asked) {
  completion::Request& request = asked.request;
  HOLO_RETURN_IF_ERROR(fields.Text("model", request.model));
  HOLO_RETURN_IF_ERROR(fields.Text("session", request.session));
  HOLO_RETURN_IF_ERROR(fields.Flag("stream", asked.streams));
  if (const json* options = fields.Find("stream_options")) {
    if (!options->is_object()) return Refuse("stream_options", "an object", *options);
    if (!asked.streams) return Fail(Code::kInvalidArgument, "stream_options: expected only together with stream");
    const Fields inner(*options);
    if (auto read = inner.Flag("include_usage", asked.includes_usage); !read) {
      return tl::unexpected(Error{Code::kInvalidArgument, "stream_options." + read.error().message});
    }
  }
  HOLO_RETURN_IF_ERROR(fields.Number("temperature", 0, 2, request.sampling.temperature));
  HOLO_RETURN_IF_ERROR(fields.Number("top_p", 0, 1, request.sampling.top_p));
  request.sampling.top_p = std::max(request.sampling.top_p, 1e-6f);
  HOLO_RETURN_IF_ERROR(fields.Number("presence_penalty", -2, 2, request.sampling.presence_penalty));
  HOLO_RETURN_IF_ERROR(fields.Number("frequency_penalty", -2, 2, request.sampling.frequency_penalty));
  HOLO_RETURN_IF_ERROR(fields.Number("repetition_penalty", 0.01, 100, request.sampling.repetition_penalty));
  HOLO_ASSIGN_OR_RETURN(const auto top_k, fields.Whole("top_k", -1, std::numeric_limits<std::int32_t>::max()));
  request.sampling.top_k = static_cast<std::uint32_t>(std::max<std::int64_t>(0, top_k.value_or(0)));
  HOLO_ASSIGN_OR_RETURN(const auto n, fields.Whole("n", 1, completion::kMaxChoices));
  request.choices = request.best_of = static_cast<std::size_t>(n.value_or(1));
  HOLO_ASSIGN_OR_RETURN(const auto seed, fields.Whole("seed", std::numeric_limits<std::int64_t>::min(),
                                                      std::numeric_limits<std::int64_t>::max()));
  if (seed) request.seed = static_cast<std::uint64_t>(*seed);
  HOLO_ASSIGN_OR_RETURN(const auto max_tokens, fields.Whole("max_tokens", 0, kMaxTokens));
  if (max_tokens) request.max_tokens = static_cast<std::uint32_t>(*max_tokens);
  HOLO_RETURN_IF_ERROR(fields.Flag("ignore_eos", request.ignores_end_token));
  HOLO_RETURN_IF_ERROR(ReadStops(fields, request.stops));
  HOLO_RETURN_IF_ERROR(ReadBiases(fields, request.sampling));
  if (const json* format = fields.Find("response_format")) {
    if (!format->is_object()) return Refuse("response_format", "an object", *format);
    std::string type = "text";
    const Fields inner(*format);
    if (auto read = inner.Text("type", type); !read) {
      return tl::unexpected(Error{Code::kInvalidArgument, "response_format." + read.error().message});
    }
    if (type != "text") {
      return Fail(Code::kUnimplemented, "response_format: expected text, the only one that there is here, found \"" +
                                            type.substr(0, 40) + "\"");
    }
  }
  for (const char* name : {"tools", "functions"}) {
    const json* value = fields.Find(name);
    if (value == nullptr || (value->is_array() && value->empty())) continue;
    return Fail(Code::kUnimplemented, std::string(name) + ": expected none, as models here cannot call any");
  }
  return {};
}

Result<std::string> Content(const json& message, const std::string& field, bool may_be_missing) {
  const auto found = message.find("content");
  if (found == message.end() || found->is_null()) {
    if (may_be_missing) return std::string();
    return Fail(Code::kInvalidArgument, field + ": expected a string or parts of text, found nothing");
  }
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) return Refuse(field, "a string or an array of parts", *found);
  std::string text;
  for (std::size_t i = 0; i < found->size(); ++i) {
    const json& part = (*found)[i];
    const std::string where = field + "[" + std::to_string(i) + "]";
    if (!part.is_object()) return Refuse(where, "an object", part);
    const auto type = part.find("type");
    if (type == part.end() || !type->is_string()) {
      return Fail(Code::kInvalidArgument, where + ".type: expected a string");
    }
    if (*type != "text") {
      return Fail(Code::kUnimplemented, where + ".type: expected text, as models here read nothing else, found \"" +
                                            type->get<std::string>().substr(0, 40) + "\"");
    }
    const auto value = part.find("text");
    if (value == part.end() || !value->is_string()) {
      return Fail(Code::kInvalidArgument, where + ".text: expected a string");
    }
    text += value->get<std::string>();
  }
  return text;
}

Result<void> ReadMessages(const Fields& fields, std::vector<chat_template::Message>& messages) {
  const json* value = fields.Find("messages");
  if (value == nullptr) return Fail(Code::kInvalidArgument, "messages: expected an array, found nothing");
  if (!value->is_array()) return Refuse("messages", "an array", *value);
  if (value->empty() || value->size() > completion::kMaxMessages) {
    return Fail(Code::kInvalidArgument, "messages: expected 1 to " + std::to_string(completion::kMaxMessages) +
                                            " messages, found " + std::to_string(value->size()));
  }
  for (std::size_t i = 0; i < value->size(); ++i) {
    const json& element = (*value)[i];
    const std::string field = "messages[" + std::to_string(i) + "]";
    if (!element.is_object()) return Refuse(field, "an object", element);
    const auto role = element.find("role");
    if (role == element.end() || !role->is_string()) {
      return Fail(Code::kInvalidArgument, field + ".role: expected a string");
    }
    const std::string name = role->get<std::string>();
    chat_template::Message message;
    if (name == "system" || name == "developer") {
      message.role = chat_template::Role::kSystem;
    } else if (name == "user") {
      message.role = chat_template::Role::kUser;
    } else if (name == "assistant") {
      message.role = chat_template::Role::kAssistant;
    } else {
      return Fail(Code::kInvalidArgument, field + ".role: expected system, developer, user or assistant, found \"" +
                                              name.substr(0, 40) + "\"");
    }
    HOLO_ASSIGN_OR_RETURN(message.content, Content(element, field + ".content",
                                                   message.role == chat_template::Role::kAssistant));
    messages.push_back(std::move(message));
  }
  return {};
}

}  // namespace

Result<Asked> ParseCompletion(std::span<const std::uint8_t> body) {
  HOLO_ASSIGN_OR_RETURN(const json root, ParseBody(body));
  const Fields fields(root);
  Asked asked;
  completion::Request& request = asked.request;
  HOLO_RETURN_IF_ERROR(ReadCommon(fields, asked));
  HOLO_RETURN_IF_ERROR(ReadPrompts(fields, request.prompts));
  if (!request.max_tokens) request.max_tokens = kDefaultCompletionTokens;
  HOLO_ASSIGN_OR_RETURN(const auto best_of, fields.Whole("best_of", 1, completion::kMaxChoices));
  if (best_of) {
    request.best_of = static_cast<std::size_t>(*best_of);
    if (request.best_of < request.choices) {
      return Fail(Code::kInvalidArgument, "best_of: expected at least n, " + std::to_string(request.choices) +
                                              ", found " + std::to_string(request.best_of));
    }
    if (asked.streams && request.best_of > request.choices) {
      return Fail(Code::kInvalidArgument, "best_of: expected n in a stream, where the best are not known, found " +
                                              std::to_string(request.best_of));
    }
  }
  HOLO_RETURN_IF_ERROR(fields.Flag("echo", asked.echoes));
  HOLO_ASSIGN_OR_RETURN(const auto logprobs, fields.Whole("logprobs", 0, kMaxTopLogprobs));
  asked.has_logprobs = logprobs.has_value();
  request.sampling.logprobs = static_cast<std::size_t>(logprobs.value_or(0));
  request.scores_prompt = asked.echoes && asked.has_logprobs;
  const json* const suffix = fields.Find("suffix");
  if (suffix != nullptr && (!suffix->is_string() || !suffix->get_ref<const std::string&>().empty())) {
    return Fail(Code::kUnimplemented, "suffix: expected none, as models here only go on with a text");
  }
  return asked;
}

Result<Asked> ParseChat(std::span<const std::uint8_t> body) {
  HOLO_ASSIGN_OR_RETURN(const json root, ParseBody(body));
  const Fields fields(root);
  Asked asked;
  asked.is_chat = true;
  completion::Request& request = asked.request;
  HOLO_RETURN_IF_ERROR(ReadCommon(fields, asked));
  HOLO_RETURN_IF_ERROR(ReadMessages(fields, request.messages));
  HOLO_ASSIGN_OR_RETURN(const auto max_tokens, fields.Whole("max_completion_tokens", 0, kMaxTokens));
  if (max_tokens) request.max_tokens = static_cast<std::uint32_t>(*max_tokens);
  HOLO_RETURN_IF_ERROR(fields.Flag("logprobs", asked.has_logprobs));
  HOLO_ASSIGN_OR_RETURN(const auto top, fields.Whole("top_logprobs", 0, kMaxTopLogprobs));
  if (top && !asked.has_logprobs) return Fail(Code::kInvalidArgument, "top_logprobs: expected only together with logprobs");
  request.sampling.logprobs = static_cast<std::size_t>(top.value_or(0));
  return asked;
}

Result<NewSession> ParseNewSession(std::span<const std::uint8_t> body) {
  NewSession asked;
  if (body.empty()) return asked;
  HOLO_ASSIGN_OR_RETURN(const json root, ParseBody(body));
  const Fields fields(root);
  HOLO_RETURN_IF_ERROR(fields.Text("model", asked.model));
  HOLO_ASSIGN_OR_RETURN(const auto seed, fields.Whole("seed", 0, std::numeric_limits<std::int64_t>::max()));
  if (seed) asked.seed = static_cast<std::uint64_t>(*seed);
  return asked;
}

}  // namespace holo::openai
