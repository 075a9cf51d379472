#include "server/transports/http/respond.h"

#include <doctest/doctest.h>

namespace holo::transports::http {
namespace {

TEST_CASE("targets are decoded, and what is not UTF-8 or no escape is refused") {
  const Target target = ParseTarget("/assets/a%20b%2Fc.holo?after=%C3%BC+x&limit=3&flag").value();
  CHECK(target.path == "/assets/a b/c.holo");
  CHECK(target.Query("after") == "ü x");
  CHECK(target.Query("limit") == "3");
  CHECK(target.Query("flag") == "");
  CHECK_FALSE(target.Query("none").has_value());
  for (const char* bad : {"/%", "/%1", "/%zz", "/%00", "/%FF", "/?a=%", "/%C0%AF"}) {
    CAPTURE(bad);
    CHECK(ParseTarget(bad).error().code == Code::kInvalidArgument);
  }
  CHECK(ParseTarget(EscapePath("/ü?#%.holo")).value().path == "/ü?#%.holo");
}

TEST_CASE("asset names come from paths of assets only") {
  CHECK(AssetNameOf("/assets/a.holo") == "a");
  CHECK(AssetNameOf("/assets/x/y.holo") == "x/y");
  for (const char* other : {"/assets/.holo", "/assets/a", "/a.holo", "/assets/a.holo/"}) {
    CAPTURE(other);
    CHECK_FALSE(AssetNameOf(other).has_value());
  }
}

TEST_CASE("ranges follow RFC 9110") {
  struct Row {
    const char* header;
    RangeKind kind;
    std::uint64_t first;
    std::uint64_t count;
  };
  const Row rows[] = {
      {"bytes=0-9", RangeKind::kPart, 0, 10},          {"bytes=0-0", RangeKind::kPart, 0, 1},
      {"bytes=90-", RangeKind::kPart, 90, 10},         {"bytes=-7", RangeKind::kPart, 93, 7},
      {"bytes=-700", RangeKind::kPart, 0, 100},        {"bytes=95-1000", RangeKind::kPart, 95, 5},
      {"bytes=100-", RangeKind::kUnsatisfiable, 0, 0}, {"bytes=-0", RangeKind::kUnsatisfiable, 0, 0},
      {"bytes=9-3", RangeKind::kWhole, 0, 0},          {"bytes=0-1,3-4", RangeKind::kWhole, 0, 0},
      {"bytes=a-b", RangeKind::kWhole, 0, 0},          {"bytes=99999999999999999999-", RangeKind::kWhole, 0, 0},
      {"lines=0-1", RangeKind::kWhole, 0, 0},          {"", RangeKind::kWhole, 0, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.header);
    ByteRange range;
    CHECK(ParseRange(row.header, 100, range) == row.kind);
    if (row.kind == RangeKind::kPart) {
      CHECK(range.first == row.first);
      CHECK(range.count == row.count);
    }
  }
}

TEST_CASE("entity tags match whole, in lists, and weakly only where asked") {
  CHECK(MatchesETag("\"a\"", "\"a\"", false));
  CHECK(MatchesETag("\"x\", \"a\"", "\"a\"", false));
  CHECK(MatchesETag("*", "\"a\"", false));
  CHECK(MatchesETag("W/\"a\"", "\"a\"", true));
  CHECK_FALSE(MatchesETag("W/\"a\"", "\"a\"", false));
  CHECK_FALSE(MatchesETag("\"aa\"", "\"a\"", true));
  CHECK_FALSE(MatchesETag("", "\"a\"", true));
}

TEST_CASE("names stand escaped in lists") {
  const std::vector<assets::Entry> entries = {{"<b>&\"x", 5, true, 0}};
  const std::string html = ListHtml(entries, true);
  CHECK(html.find("<b>") == std::string::npos);
  CHECK(html.find("&lt;b&gt;&amp;&quot;x") != std::string::npos);
  CHECK(ListJson(entries, true).find("\"next_after\":\"<b>&\\\"x\"") != std::string::npos);
}

}  // namespace
}  // namespace holo::transports::http
