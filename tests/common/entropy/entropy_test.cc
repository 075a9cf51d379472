#include "common/entropy/entropy.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace holo::entropy {
namespace {

struct Decision {
  bool bit;
  int context;  // -1: raw
};

std::vector<Decision> RandomDecisions(std::uint32_t seed, std::size_t count, double of_one) {
  std::mt19937 random(seed);
  std::vector<Decision> out;
  for (std::size_t i = 0; i < count; ++i) {
    const bool raw = random() % 8 == 0;
    const bool bit = raw ? random() % 2 == 0 : random() < of_one * 4294967296.0;
    out.push_back({bit, raw ? -1 : static_cast<int>(random() % 4)});
  }
  return out;
}

TEST_CASE("decisions come back as coded, at any skew") {
  for (const double of_one : {0.0, 0.001, 0.1, 0.5, 0.97, 1.0}) {
    CAPTURE(of_one);
    const auto decisions = RandomDecisions(7, 20000, of_one);
    RangeEncoder encoder;
    std::vector<Probability> contexts(4);
    for (const Decision& d : decisions) {
      if (d.context < 0) {
        encoder.CodeRaw(d.bit);
      } else {
        encoder.Code(d.bit, contexts[static_cast<std::size_t>(d.context)]);
      }
    }
    const std::vector<std::uint8_t> code = encoder.Finish();
    RangeDecoder decoder;
    decoder.Append(code);
    std::vector<Probability> mirrored(4);
    bool same = true;
    for (const Decision& d : decisions) {
      const bool bit = d.context < 0 ? decoder.CodeRaw() : decoder.Code(mirrored[static_cast<std::size_t>(d.context)]);
      same = same && bit == d.bit;
    }
    CHECK(same);
  }
}

TEST_CASE("a code cut after any decision decodes up to there and continues with the rest") {
  const auto decisions = RandomDecisions(3, 400, 0.2);
  RangeEncoder encoder;
  std::vector<Probability> contexts(4);
  std::vector<std::size_t> prefix;
  for (const Decision& d : decisions) {
    if (d.context < 0) {
      encoder.CodeRaw(d.bit);
    } else {
      encoder.Code(d.bit, contexts[static_cast<std::size_t>(d.context)]);
    }
    prefix.push_back(encoder.prefix_bytes());
  }
  const std::vector<std::uint8_t> code = encoder.Finish();
  for (std::size_t cut = 0; cut < decisions.size(); cut += 13) {
    CAPTURE(cut);
    const std::size_t bytes = std::min(prefix[cut], code.size());
    RangeDecoder decoder;
    decoder.Append(std::span(code).first(bytes));
    std::vector<Probability> mirrored(4);
    bool same = true;
    for (std::size_t i = 0; i < decisions.size(); ++i) {
      const Decision& d = decisions[i];
      const bool bit = d.context < 0 ? decoder.CodeRaw() : decoder.Code(mirrored[static_cast<std::size_t>(d.context)]);
      same = same && bit == d.bit;
      if (i == cut) {
        CHECK(same);
        if (prefix[cut] <= code.size()) CHECK(decoder.overrun_bytes() == 0);
        decoder.Append(std::span(code).subspan(bytes));
      }
    }
    CHECK(same);
  }
}

TEST_CASE("the code is close to the entropy of what it codes") {
  const auto decisions = RandomDecisions(11, 100000, 0.05);
  RangeEncoder encoder;
  Probability context;
  double bits = 0;
  for (const Decision& d : decisions) {
    if (d.context < 0) continue;
    encoder.Code(d.bit, context);
    bits += d.bit ? -std::log2(0.05) : -std::log2(0.95);
  }
  const double coded_bits = 8.0 * static_cast<double>(encoder.Finish().size());
  CHECK(coded_bits < bits * 1.05);
}

TEST_CASE("any bytes decode to something without end") {
  RangeDecoder decoder;
  const std::vector<std::uint8_t> bytes = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x00};
  decoder.Append(bytes);
  Probability context;
  for (int i = 0; i < 10000; ++i) (void)decoder.CodeRaw();
  (void)decoder.Code(context);
  CHECK(decoder.overrun_bytes() > 1000);
}

}  // namespace
}  // namespace holo::entropy
