#include "server/operations/metrics.h"

#include <doctest/doctest.h>

#include <map>
#include <regex>
#include <sstream>

namespace holo::operations {
namespace {

TEST_CASE("metrics are Prometheus text, each with help, type and value") {
  assets::Statistics store;
  store.entries = 3;
  store.hits = 5;
  store.misses = 7;
  streaming::Statistics streams;
  streams.streams = 11;
  streams.payload_bytes = 1'234'567'890'123;
  transports::http::Statistics http;
  http.requests = 13;
  std::istringstream text(MetricsText(store, streams, http));

  const std::regex comment(R"(# (HELP|TYPE) ([a-z_:][a-z0-9_:]*) (.+))");
  const std::regex sample(R"(([a-z_:][a-z0-9_:]*) ([-+]?[0-9.]+(e[-+]?[0-9]+)?))");
  std::map<std::string, std::string> types;
  std::map<std::string, double> values;
  int helped = 0;
  for (std::string line; std::getline(text, line);) {
    CAPTURE(line);
    std::smatch match;
    if (std::regex_match(line, match, comment)) {
      if (match[1] == "TYPE") types[match[2]] = match[3];
      if (match[1] == "HELP") ++helped;
    } else if (std::regex_match(line, match, sample)) {
      CHECK(types.count(match[1]) == 1);  // announced before
      CHECK(values.count(match[1]) == 0);
      values[match[1]] = std::stod(match[2]);
    } else {
      FAIL_CHECK("expected a comment or a sample");
    }
  }
  CHECK(values["holo_assets"] == 3);
  CHECK(values["holo_asset_cache_hits_total"] == 5);
  CHECK(values["holo_asset_cache_misses_total"] == 7);
  CHECK(values["holo_streams"] == 11);
  CHECK(values["holo_stream_payload_bytes_total"] == 1'234'567'890'123);
  CHECK(values["holo_http_requests_total"] == 13);
  CHECK(values["process_resident_memory_bytes"] > 0);
  CHECK(types.size() == values.size());
  CHECK(static_cast<std::size_t>(helped) == values.size());
  for (const auto& entry : types) {
    CAPTURE(entry.first);
    CHECK(entry.second == (entry.first.ends_with("_total") ? "counter" : "gauge"));
  }
}

TEST_CASE("texts have their numbers, and histograms end with all") {
  completion::Statistics texts;
  texts.memories = {{"a", "fp16", 23040}, {"b \"c\"", "latent", 4560.5}};
  texts.requests = 17;
  completion::Histogram histogram(std::vector<double>{1, 10});
  for (const double value : {0.5, 1.0, 5.0, 50.0}) histogram.Observe(value);
  texts.first_token_seconds = histogram.snapshot();
  const std::string text = MetricsText({}, {}, {}, &texts);
  for (const char* line : {"holo_text_bytes_per_token{model=\"a\",memory=\"fp16\"} 23040\n",
                           "holo_text_bytes_per_token{model=\"b \\\"c\\\"\",memory=\"latent\"} 4560.5\n",
                           "holo_text_requests_total 17\n", "# TYPE holo_text_first_token_seconds histogram\n",
                           "holo_text_first_token_seconds_bucket{le=\"1\"} 2\n",
                           "holo_text_first_token_seconds_bucket{le=\"10\"} 3\n",
                           "holo_text_first_token_seconds_bucket{le=\"+Inf\"} 4\n",
                           "holo_text_first_token_seconds_sum 56.5\n", "holo_text_first_token_seconds_count 4\n"}) {
    CAPTURE(line);
    CHECK(text.find(line) != std::string::npos);
  }
  CHECK(MetricsText({}, {}, {}).find("holo_text") == std::string::npos);
}

}  // namespace
}  // namespace holo::operations
