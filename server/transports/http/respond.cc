#include "server/transports/http/respond.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/bytes/bytes.h"

namespace holo::transports::http {
namespace {

constexpr std::string_view kAssetPrefix = "/assets/";
constexpr std::string_view kAssetSuffix = ".holo";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

Result<std::string> Unescape(std::string_view text, bool plus_is_space) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && plus_is_space) {
      out += ' ';
    } else if (text[i] != '%') {
      out += text[i];
    } else {
      const int high = i + 1 < text.size() ? HexDigit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexDigit(text[i + 2]) : -1;
      if (high < 0 || low < 0) {
        return Fail(Code::kInvalidArgument, "target: expected two hexadecimal digits after % at " + std::to_string(i));
      }
      out += static_cast<char>(high * 16 + low);
      i += 2;
    }
  }
  if (!assets::IsValidName(out)) return Fail(Code::kInvalidArgument, "target: expected UTF-8 without NUL");
  return out;
}

std::optional<std::uint64_t> Number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace

std::optional<std::string_view> Target::Query(std::string_view name) const {
  for (const auto& [key, value] : query) {
    if (key == name) return value;
  }
  return std::nullopt;
}

Result<Target> ParseTarget(std::string_view target) {
  Target parsed;
  const std::size_t question = target.find('?');
  HOLO_ASSIGN_OR_RETURN(parsed.path, Unescape(target.substr(0, question), false));
  if (question == std::string_view::npos) return parsed;
  std::string_view rest = target.substr(question + 1);
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('&'), rest.size());
    const std::string_view pair = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const std::size_t equals = std::min(pair.find('='), pair.size());
    HOLO_ASSIGN_OR_RETURN(std::string key, Unescape(pair.substr(0, equals), true));
    HOLO_ASSIGN_OR_RETURN(std::string value, Unescape(pair.substr(std::min(equals + 1, pair.size())), true));
    parsed.query.emplace_back(std::move(key), std::move(value));
  }
  return parsed;
}

std::string EscapePath(std::string_view path) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string out;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    const bool is_plain = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
                          (byte >= 'a' && byte <= 'z') || std::string_view("-._~/").find(c) != std::string_view::npos;
    if (is_plain) {
      out += c;
    } else {
      out += '%';
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

std::optional<std::string> AssetNameOf(std::string_view path) {
  if (!path.starts_with(kAssetPrefix) || !path.ends_with(kAssetSuffix)) return std::nullopt;
  path.remove_prefix(kAssetPrefix.size());
  if (path.size() <= kAssetSuffix.size()) return std::nullopt;
  path.remove_suffix(kAssetSuffix.size());
  return std::string(path);
}

std::string ETagOf(const assets::OpenAsset& open) {
  // The hash is of header and index. A file that is cut short has the same, hence the size.
  return "\"" + bytes::ToHex(open.asset->reader().content_hash()) + "-" + std::to_string(open.source->size()) + "\"";
}

bool MatchesETag(std::string_view header, std::string_view etag, bool weakly) {
  header = Trim(header);
  if (header == "*") return true;
  while (!header.empty()) {
    const std::size_t end = std::min(header.find(','), header.size());
    std::string_view entry = Trim(header.substr(0, end));
    header.remove_prefix(std::min(end + 1, header.size()));
    if (weakly && entry.starts_with("W/")) entry.remove_prefix(2);
    if (entry == etag) return true;
  }
  return false;
}

RangeKind ParseRange(std::string_view header, std::uint64_t size, ByteRange& range) {
  constexpr std::string_view kUnit = "bytes=";
  header = Trim(header);
  if (!header.starts_with(kUnit)) return RangeKind::kWhole;
  header = Trim(header.substr(kUnit.size()));
  const std::size_t dash = header.find('-');
  if (dash == std::string_view::npos || header.find(',') != std::string_view::npos) return RangeKind::kWhole;
  const std::string_view first_text = Trim(header.substr(0, dash));
  const std::string_view last_text = Trim(header.substr(dash + 1));
  const std::optional<std::uint64_t> first = Number(first_text);
  const std::optional<std::uint64_t> last = Number(last_text);
  if (first_text.empty()) {
    // The last so many bytes.
    if (!last) return RangeKind::kWhole;
    if (*last == 0 || size == 0) return RangeKind::kUnsatisfiable;
    range.count = std::min(*last, size);
    range.first = size - range.count;
    return RangeKind::kPart;
  }
  if (!first || (!last_text.empty() && (!last || *last < *first))) return RangeKind::kWhole;
  if (*first >= size) return RangeKind::kUnsatisfiable;
  range.first = *first;
  range.count = (last ? std::min(*last, size - 1) : size - 1) - *first + 1;
  return RangeKind::kPart;
}

std::string ListJson(const std::vector<assets::Entry>& entries, bool has_more) {
  nlohmann::json list;
  list["assets"] = nlohmann::json::array();
  for (const assets::Entry& entry : entries) {
    list["assets"].push_back({{"name", entry.name},
                              {"path", EscapePath("/assets/" + entry.name + ".holo")},
                              {"bytes", entry.bytes},
                              {"ready", entry.ready},
                              {"modified", entry.modified_unix_seconds}});
  }
  if (has_more && !entries.empty()) list["next_after"] = entries.back().name;
  return list.dump();
}

std::string ListHtml(const std::vector<assets::Entry>& entries, bool has_more) {
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>holo</title>"
      "<meta name=\"viewport\" content=\"width=device-width\">"
      "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
      "td,th{text-align:left;padding:.2em 1em .2em 0}td.n{text-align:right}</style></head><body>\n"
      "<h1>holo</h1>\n<p>Streams at <code>/v1/stream</code> (WebSocket). Also here: <a href=\"/v1/assets\">list as "
      "JSON</a>, <a href=\"/healthz\">health</a>, <a href=\"/metrics\">metrics</a>.</p>\n<table><tr><th>asset</th>"
      "<th>bytes</th><th></th></tr>\n";
  for (const assets::Entry& entry : entries) {
    page += "<tr><td><a href=\"" + EscapePath("/assets/" + entry.name + ".holo") + "\">" + EscapeHtml(entry.name) +
            "</a></td><td class=\"n\">" + std::to_string(entry.bytes) + "</td><td>" +
            (entry.ready ? "" : "compressed when first opened") + "</td></tr>\n";
  }
  page += "</table>\n";
  if (entries.empty()) page += "<p>The store is empty.</p>\n";
  if (has_more && !entries.empty()) {
    page += "<p><a href=\"/?after=" + EscapePath(entries.back().name) + "\">more</a></p>\n";
  }
  return page + "</body></html>\n";
}

}  // namespace holo::transports::http
