#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "client/chat/kinds.h"
#include "common/json/json.h"

namespace holo::chat_client {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using nlohmann::json;

constexpr std::uint64_t kMaxAnswerBytes = std::uint64_t{256} << 20;

Code CodeOf(int status) {
  switch (status) {
    case 400:
    case 413:
      return Code::kInvalidArgument;
    case 401:
      return Code::kUnauthenticated;
    case 404:
      return Code::kNotFound;
    case 429:
      return Code::kResourceExhausted;
    case 503:
      return Code::kUnavailable;
    default:
      return Code::kUnknown;
  }
}

Result<json> Parse(std::string_view text) {
  return holo::json::Parse({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, "answer");
}

// The error's message where there is one.
std::string MessageOf(std::string_view body, int status) {
  const auto parsed = Parse(body);
  if (parsed && parsed->is_object() && parsed->contains("error") && (*parsed)["error"].is_object()) {
    const auto message = (*parsed)["error"].find("message");
    if (message != (*parsed)["error"].end() && message->is_string()) return message->get<std::string>();
  }
  return "the server answered with status " + std::to_string(status);
}

std::uint64_t NumberAt(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

// Every reply is a request of its own with all that was said; closing its connection stops it.
class HttpConversation final : public Conversation {
 public:
  HttpConversation(const client::Endpoint& endpoint, Options options) : endpoint_(endpoint), options_(std::move(options)) {
    if (!options_.system.empty()) messages_.push_back({{"role", "system"}, {"content", options_.system}});
  }

  Result<Reply> Ask(const std::string& message, const OnText& on_text) override {
    messages_.push_back({{"role", "user"}, {"content", message}});
    auto reply = Exchange(on_text);
    if (!reply) {
      messages_.erase(messages_.size() - 1);
      return reply;
    }
    ++replies_;
    messages_.push_back({{"role", "assistant"}, {"content", reply->text}});
    return reply;
  }

 private:
  Result<Reply> Exchange(const OnText& on_text) {
    json body = {{"messages", messages_}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
    if (!options_.model.empty()) body["model"] = options_.model;
    if (options_.max_tokens) body["max_tokens"] = *options_.max_tokens;
    if (options_.temperature) body["temperature"] = *options_.temperature;
    if (options_.top_p) body["top_p"] = *options_.top_p;
    if (options_.seed) body["seed"] = static_cast<std::int64_t>(*options_.seed + replies_);
    http::request<http::string_body> request{http::verb::post, "/v1/chat/completions", 11};
    const std::string where = endpoint_.host + ":" + std::to_string(endpoint_.port);
    request.set(http::field::host, where);
    request.set(http::field::content_type, "application/json");
    request.set(http::field::connection, "close");
    if (!options_.key.empty()) request.set(http::field::authorization, "Bearer " + options_.key);
    request.body() = body.dump(-1, ' ', false, json::error_handler_t::replace);
    request.prepare_payload();

    asio::io_context context;
    beast::tcp_stream stream(context);
    error_code error;
    // Runs one operation; false once it is to be stopped.
    std::size_t got = 0;
    bool is_done = false;
    const auto finish = [&](error_code result, std::size_t size) {
      error = result;
      got = size;
      is_done = true;
    };
    const auto wait = [&] {
      bool goes_on = true;
      context.restart();
      while (!is_done && goes_on) {
        context.run_for(kLookEvery);
        if (!is_done) goes_on = on_text("");
      }
      is_done = false;
      return goes_on;
    };
    Reply reply;
    const auto stopped = [&] {
      stream.close();
      context.restart();
      context.poll();
      reply.was_stopped = true;
      return reply;
    };
    asio::ip::tcp::resolver resolver(context);
    const auto addresses = resolver.resolve(endpoint_.host, std::to_string(endpoint_.port), error);
    if (error) return Fail(Code::kUnavailable, "http: cannot find " + endpoint_.host + ": " + error.message());
    stream.expires_after(options_.connect_timeout);
    stream.async_connect(addresses, [&](error_code result, const asio::ip::tcp::endpoint&) { finish(result, 0); });
    if (!wait()) return stopped();
    if (error) return Fail(Code::kUnavailable, "http: cannot connect to " + where + ": " + error.message());
    stream.expires_after(options_.idle_timeout);
    http::async_write(stream, request, finish);
    if (!wait()) return stopped();
    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.body_limit(kMaxAnswerBytes);
    parser.eager(true);
    std::size_t taken = 0;
    while (!error && !parser.is_done()) {
      stream.expires_after(options_.idle_timeout);
      http::async_read_some(stream, buffer, parser, finish);
      if (!wait()) return stopped();
      if (error || !parser.is_header_done() || parser.get().result_int() != 200) continue;
      // Whole events; comments keep the connection alive and say nothing.
      const std::string& all = parser.get().body();
      for (std::size_t end = 0; (end = all.find("\n\n", taken)) != std::string::npos; taken = end + 2) {
        const std::string_view event = std::string_view(all).substr(taken, end - taken);
        if (!event.starts_with("data: ") || event == "data: [DONE]") continue;
        HOLO_ASSIGN_OR_RETURN(const json chunk, Parse(event.substr(6)));
        HOLO_ASSIGN_OR_RETURN(const std::string text, Take(chunk, reply));
        reply.text += text;
        if (!text.empty() && !on_text(text)) return stopped();
      }
    }
    if (error == beast::error::timeout) {
      return Fail(Code::kDeadlineExceeded, "http: " + where + " has said nothing for too long");
    }
    if (error) return Fail(Code::kUnavailable, "http: lost the connection to " + where + ": " + error.message());
    const int status = static_cast<int>(parser.get().result_int());
    if (status != 200) return Fail(CodeOf(status), MessageOf(parser.get().body(), status));
    return reply;
  }

  // The text of a chunk.
  static Result<std::string> Take(const json& chunk, Reply& reply) {
    if (!chunk.is_object()) return Fail(Code::kDataLoss, "answer: expected an object in each event");
    if (const auto found = chunk.find("error"); found != chunk.end()) {
      return Fail(Code::kUnknown, MessageOf(chunk.dump(-1, ' ', false, json::error_handler_t::replace), 200));
    }
    if (const auto usage = chunk.find("usage"); usage != chunk.end() && usage->is_object()) {
      reply.prompt_tokens = NumberAt(*usage, "prompt_tokens");
      reply.tokens = NumberAt(*usage, "completion_tokens");
      const auto details = usage->find("prompt_tokens_details");
      if (details != usage->end() && details->is_object()) reply.cached_tokens = NumberAt(*details, "cached_tokens");
    }
    const auto choices = chunk.find("choices");
    if (choices == chunk.end() || !choices->is_array() || choices->empty() || !choices->front().is_object()) return "";
    const json& choice = choices->front();
    if (const auto reason = choice.find("finish_reason"); reason != choice.end() && *reason == "length") {
      reply.was_cut = true;
    }
    const auto delta = choice.find("delta");
    if (delta == choice.end() || !delta->is_object()) return "";
    const auto content = delta->find("content");
    return content != delta->end() && content->is_string() ? content->get<std::string>() : std::string();
  }

  client::Endpoint endpoint_;
  Options options_;
  json messages_ = json::array();
  std::uint64_t replies_ = 0;
};

}  // namespace

std::unique_ptr<Conversation> OpenHttp(const client::Endpoint& endpoint, Options options) {
  return std::make_unique<HttpConversation>(endpoint, std::move(options));
}

}  // namespace holo::chat_client
