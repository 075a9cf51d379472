#include "common/json/json.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace holo::json {
namespace {

// Builds the value from nlohmann's events; every handler answers whether to go on.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view name, const Limits& limits) : name_(name), limits_(limits) {}

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Add(value) != nullptr; }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return Open(nlohmann::json::object()); }
  bool start_array(std::size_t) override { return Open(nlohmann::json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& key) override {
    const auto [entry, is_new] = open_.back()->get_ref<nlohmann::json::object_t&>().try_emplace(std::move(key));
    if (!is_new) return Stop(Code::kDataLoss, "expected each key once, found \"" + entry->first + "\" again");
    slot_ = &entry->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception&) override {
    return Stop(Code::kDataLoss, "expected JSON, found something else at byte " + std::to_string(position) +
                                     (token.empty() ? "" : ", at \"" + token.substr(0, 40) + "\""));
  }

  Result<nlohmann::json> Take() {
    if (error_) return tl::unexpected(std::move(*error_));
    return std::move(root_);
  }

 private:
  template <typename T>
  nlohmann::json* Add(T&& value) {
    if (++values_ > limits_.max_values) {
      Stop(Code::kResourceExhausted, "expected at most " + std::to_string(limits_.max_values) + " values, found more");
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::forward<T>(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& elements = open_.back()->get_ref<nlohmann::json::array_t&>();
      elements.emplace_back(std::forward<T>(value));
      return &elements.back();
    }
    *slot_ = std::forward<T>(value);
    return slot_;
  }

  bool Open(nlohmann::json container) {
    if (open_.size() >= limits_.max_depth) {
      return Stop(Code::kResourceExhausted, "expected at most " + std::to_string(limits_.max_depth) +
                                                " arrays and objects inside each other, found more");
    }
    nlohmann::json* added = Add(std::move(container));
    if (added == nullptr) return false;
    // Stays valid: an array grows only while none of its elements is open.
    open_.push_back(added);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  bool Stop(Code code, const std::string& problem) {
    if (!error_) error_ = Error{code, std::string(name_) + ": " + problem};
    return false;
  }

  std::string_view name_;
  const Limits& limits_;
  nlohmann::json root_;
  std::vector<nlohmann::json*> open_;
  nlohmann::json* slot_ = nullptr;  // where the value of the last key goes
  std::uint64_t values_ = 0;
  std::optional<Error> error_;
};

}  // namespace

Result<nlohmann::json> Parse(std::span<const std::uint8_t> text, std::string_view name, const Limits& limits) {
  Builder builder(name, limits);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.Take();
}

std::string_view KindOf(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::null:
      return "null";
    case nlohmann::json::value_t::object:
      return "an object";
    case nlohmann::json::value_t::array:
      return "an array";
    case nlohmann::json::value_t::string:
      return "a string";
    case nlohmann::json::value_t::boolean:
      return "true or false";
    case nlohmann::json::value_t::number_integer:
    case nlohmann::json::value_t::number_unsigned:
      return "a whole number";
    default:
      return "a number";
  }
}

}  // namespace holo::json
