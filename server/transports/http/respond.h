// What HTTP requests mean, without sockets: the module's inside.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"
#include "server/assets/assets.h"

namespace holo::transports::http {

// The path and query of a request target, percent-decoded. kInvalidArgument for bad escapes and what is not UTF-8.
struct Target {
  std::string path;
  std::vector<std::pair<std::string, std::string>> query;

  [[nodiscard]] std::optional<std::string_view> Query(std::string_view name) const;
};
[[nodiscard]] Result<Target> ParseTarget(std::string_view target);

// The inverse for one path: what may not stand there is escaped, '/' stays.
[[nodiscard]] std::string EscapePath(std::string_view path);

// "NAME" of "/assets/NAME.holo".
[[nodiscard]] std::optional<std::string> AssetNameOf(std::string_view path);

// A strong validator for exactly these bytes, with its quotes.
[[nodiscard]] std::string ETagOf(const assets::OpenAsset& open);
// True if a header of the form `"a", W/"b"` or `*` names `etag`; `weakly` also accepts W/.
[[nodiscard]] bool MatchesETag(std::string_view header, std::string_view etag, bool weakly);

// RFC 9110: which bytes of `size` a Range header asks for.
struct ByteRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};
enum class RangeKind : std::uint8_t { kWhole, kPart, kUnsatisfiable };
// kWhole for what is no single byte range, which a server may ignore.
[[nodiscard]] RangeKind ParseRange(std::string_view header, std::uint64_t size, ByteRange& range);

[[nodiscard]] std::string ListJson(const std::vector<assets::Entry>& entries, bool has_more);
[[nodiscard]] std::string ListHtml(const std::vector<assets::Entry>& entries, bool has_more);

}  // namespace holo::transports::http
