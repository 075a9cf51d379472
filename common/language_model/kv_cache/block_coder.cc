#include "common/language_model/kv_cache/block_coder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "common/entropy/entropy.h"

namespace holo::kv_cache {
namespace {

constexpr std::size_t kMostDigits = 15;
// How fast a probability follows what is coded: it starts where the calibration ended.
constexpr int kRate = 6;

// A number's magnitude in units of its deviation is 16.16 fixed point; its mean for a normal distribution is 0.798.
constexpr std::int64_t kUsual = 52429;
constexpr std::int64_t kMostRatio = 8 << 16;
// Numbers of lower classes are mostly 0 and say little about their neighbours.
constexpr std::size_t kTellingClass = 10;

// 2^16 over the deviation.
constexpr std::int64_t InverseDeviation(std::size_t number_class) {
  constexpr std::int64_t kQuarters[4] = {65536, 55109, 46341, 38968};
  return (kQuarters[number_class % 4] << 4) >> (number_class / 4);
}

// Quarters of an octave between the usual ratio and this one.
int Shift(std::int64_t ratio) {
  constexpr std::int64_t kBounds[] = {12019, 14294, 16998, 20214, 24039,  28587,  33996,  40428,
                                      48078, 57174, 67992, 80857, 96155, 114348, 135984, 161713, 192310, 228697};
  const auto* bound = std::upper_bound(std::begin(kBounds), std::end(kBounds), ratio);
  return static_cast<int>(bound - std::begin(kBounds)) - 9;
}

struct Encoder {
  entropy::RangeEncoder coder;
  std::vector<std::uint16_t> probabilities;

  bool Decide(bool bit, std::size_t which) {
    std::uint16_t& p = probabilities[which];
    coder.CodeWith(bit, std::clamp<std::uint32_t>(p, 32, 65504));
    Update(bit, p);
    return bit;
  }
  bool Raw(bool bit) {
    coder.CodeRaw(bit);
    return bit;
  }
  static void Update(bool bit, std::uint16_t& p) {
    p = static_cast<std::uint16_t>(bit ? p + ((65535 - p) >> kRate) : p - (p >> kRate));
  }
};

struct Decoder {
  entropy::RangeDecoder coder;
  std::vector<std::uint16_t> probabilities;

  bool Decide(bool, std::size_t which) {
    std::uint16_t& p = probabilities[which];
    const bool bit = coder.CodeWith(std::clamp<std::uint32_t>(p, 32, 65504));
    Encoder::Update(bit, p);
    return bit;
  }
  bool Raw(bool) { return coder.CodeRaw(); }
};

struct Counter {
  CoderCounts& counts;

  bool Decide(bool bit, std::size_t which) {
    ++counts.all[which];
    if (bit) ++counts.ones[which];
    return bit;
  }
  bool Raw(bool bit) { return bit; }
};

// Codes `number`, or returns the one that is decoded.
template <typename Coder>
int CodeNumber(Coder& coder, std::size_t context, int number) {
  const std::size_t first = context * kDecisions;
  const auto magnitude = static_cast<unsigned>(std::abs(number));
  if (coder.Decide(magnitude == 0, first)) return 0;
  const auto digits = static_cast<std::size_t>(std::bit_width(magnitude));
  std::size_t length = 1;
  while (length < kMostDigits && coder.Decide(digits > length, first + length)) ++length;
  unsigned value = 1;
  for (std::size_t i = 1; i < length; ++i) {
    const bool digit = (magnitude >> (length - 1 - i) & 1) != 0;
    const bool coded = i == 1 ? coder.Decide(digit, first + 16 + length) : coder.Raw(digit);
    value = value * 2 + (coded ? 1 : 0);
  }
  return coder.Raw(number < 0) ? -static_cast<int>(value) : static_cast<int>(value);
}

template <typename Coder>
unsigned CodeExponent(Coder& coder, unsigned exponent) {
  unsigned coded = 0;
  while (coded < kMostExponent && coder.Decide(exponent > coded, kMostDigits)) ++coded;
  return coded;
}

// How large a number is for its class, when 2^shift of its units are one of the class's.
std::int64_t Ratio(int number, std::int64_t inverse, int shift) {
  const std::int64_t scaled = std::abs(std::int64_t{number}) * inverse;
  return std::min(kMostRatio, shift >= 0 ? scaled >> shift : scaled << -shift);
}

template <typename Coder>
void CodeBlock(Coder& coder, std::span<const CodedLayer> layers, std::size_t tokens, std::size_t fine_tokens) {
  for (const CodedLayer& layer : layers) {
    const std::size_t rank = layer.classes.size();
    std::int64_t of_token = kUsual;
    int shift_before = 0;
    for (std::size_t token = 0; token < tokens; ++token) {
      std::int16_t* const row = layer.numbers + token * rank;
      const unsigned exponent = CodeExponent(coder, layer.exponents[token]);
      layer.exponents[token] = static_cast<std::uint8_t>(exponent);
      const int shift = static_cast<int>(token < fine_tokens ? kFineShift : 0) - static_cast<int>(exponent);
      const std::int16_t* const before_row = token == 0 ? row : row - rank;
      std::int64_t neighbour = of_token;
      for (std::size_t i = 0; i < rank; ++i) {
        const std::size_t own = layer.classes[i];
        const std::int64_t inverse = InverseDeviation(own);
        std::int64_t expected = of_token;
        if (own >= kTellingClass) {
          const std::int64_t before = token == 0 ? of_token : Ratio(before_row[i], inverse, shift_before);
          expected = (2 * of_token + neighbour + before) >> 2;
        }
        const int context = std::clamp(static_cast<int>(own) + 4 * shift + Shift(expected) + 8, 0,
                                       static_cast<int>(kContexts) - 1);
        row[i] = static_cast<std::int16_t>(CodeNumber(coder, static_cast<std::size_t>(context), row[i]));
        if (own < kTellingClass) continue;
        neighbour = Ratio(row[i], inverse, shift);
        of_token += (neighbour - of_token) >> 4;
      }
      shift_before = shift;
    }
  }
}

// Of the difference of a scale from what is expected: has its magnitude more than 0, 1, ... binary digits, then the digits
// behind the leading one, by those before them, as far as there are probabilities.
constexpr std::size_t kMostScaleDigits = 8;
constexpr std::size_t kScaleDecisions = kMostScaleDigits + 16;

// Returns the difference, or the one that is decoded: -255..255.
template <typename Coder>
int CodeDifference(Coder& coder, int difference) {
  const auto magnitude = static_cast<unsigned>(std::abs(difference));
  const auto digits = static_cast<std::size_t>(std::bit_width(magnitude));
  std::size_t length = 0;
  while (length < kMostScaleDigits && coder.Decide(digits > length, length)) ++length;
  if (length == 0) return 0;
  unsigned value = 1;
  for (std::size_t i = length - 1; i-- > 0;) {
    const bool digit = (magnitude >> i & 1) != 0;
    const bool coded = length <= 4 ? coder.Decide(digit, kMostScaleDigits + (length - 2) * 4 + value) : coder.Raw(digit);
    value = value * 2 + (coded ? 1 : 0);
  }
  return coder.Raw(difference < 0) ? -static_cast<int>(value) : static_cast<int>(value);
}

// False where a scale is decoded that is none.
template <typename Coder>
bool CodeScales(Coder& coder, std::span<const std::uint8_t> starts, std::span<std::uint8_t> scales) {
  std::vector<int> means(starts.begin(), starts.end());  // of each column so far, in 1/16
  for (int& mean : means) mean *= 16;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    int& mean = means[i % means.size()];
    const int expected = (mean + 8) >> 4;
    const int scale = expected + CodeDifference(coder, scales[i] - expected);
    if (scale < 0 || scale > 255) return false;
    scales[i] = static_cast<std::uint8_t>(scale);
    mean += (16 * scale - mean) >> 2;
  }
  return true;
}

Result<void> CheckEnd(const entropy::RangeDecoder& coder, std::size_t found, std::string_view name) {
  if (coder.overrun_bytes() <= entropy::kImpliedZeros && coder.unread_bytes() == 0) return {};
  return Fail(Code::kDataLoss, std::string(name) + ": expected a code of " +
                                   std::to_string(found + coder.overrun_bytes() - coder.unread_bytes()) +
                                   " bytes, found " + std::to_string(found));
}

std::vector<std::uint16_t> Start(std::span<const std::uint8_t> table) {
  std::vector<std::uint16_t> probabilities(kCoderTableBytes);
  for (std::size_t i = 0; i < kCoderTableBytes; ++i) probabilities[i] = static_cast<std::uint16_t>(table[i] << 8 | 128);
  return probabilities;
}

// The probability that a normally distributed number of this deviation is rounded to less than `bound` in magnitude.
double Below(double deviation, double bound) {
  return std::erf((bound - 0.5) / deviation / std::sqrt(2.0));
}

}  // namespace

std::vector<std::uint8_t> EncodeBlock(std::span<const CodedLayer> layers, std::size_t tokens, std::size_t fine_tokens,
                                      std::span<const std::uint8_t> table) {
  Encoder coder{{}, Start(table)};
  CodeBlock(coder, layers, tokens, fine_tokens);
  return coder.coder.Finish();
}

Result<void> DecodeBlock(std::span<const std::uint8_t> code, std::string_view name, std::span<const CodedLayer> layers,
                         std::size_t tokens, std::size_t fine_tokens, std::span<const std::uint8_t> table) {
  Decoder coder{{}, Start(table)};
  coder.coder.Append(code);
  CodeBlock(coder, layers, tokens, fine_tokens);
  return CheckEnd(coder.coder, code.size(), name);
}

std::vector<std::uint8_t> EncodeScales(std::span<const std::uint8_t> starts, std::span<const std::uint8_t> scales) {
  if (scales.empty()) return {};
  // The coder wants scales that it may write, too: it is the decoder's loop.
  std::vector<std::uint8_t> copy(scales.begin(), scales.end());
  Encoder coder{{}, std::vector<std::uint16_t>(kScaleDecisions, 32768)};
  CodeScales(coder, starts, copy);
  return coder.coder.Finish();
}

Result<void> DecodeScales(std::span<const std::uint8_t> code, std::string_view name,
                          std::span<const std::uint8_t> starts, std::span<std::uint8_t> scales) {
  Decoder coder{{}, std::vector<std::uint16_t>(kScaleDecisions, 32768)};
  coder.coder.Append(code);
  std::fill(scales.begin(), scales.end(), std::uint8_t{0});
  if (!CodeScales(coder, starts, scales)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected scales of 0 to 255, found another");
  }
  return CheckEnd(coder.coder, code.size(), name);
}

void CountBlock(std::span<const CodedLayer> layers, std::size_t tokens, std::size_t fine_tokens,
                CoderCounts& counts) {
  Counter counter{counts};
  CodeBlock(counter, layers, tokens, fine_tokens);
}

std::vector<std::uint8_t> MakeCoderTable(const CoderCounts& counts) {
  constexpr double kPrior = 4;  // how many decisions the normal distribution counts for
  std::vector<std::uint8_t> table(kCoderTableBytes);
  for (std::size_t context = 0; context < kContexts; ++context) {
    const double deviation = std::exp2((static_cast<double>(context) - 24) / 4);
    for (std::size_t decision = 0; decision < kDecisions; ++decision) {
      // Of the numbers that get here, how many take the decision for a 1.
      double here = 1;
      double one = 0.5;
      if (decision == 0) {
        one = Below(deviation, 1);
      } else if (decision < kMostDigits) {
        here = 1 - Below(deviation, std::exp2(decision - 1));
        one = 1 - Below(deviation, std::exp2(decision));
      } else if (decision >= 18) {
        const double low = std::exp2(decision - 17);
        here = Below(deviation, 2 * low) - Below(deviation, low);
        one = Below(deviation, 2 * low) - Below(deviation, 1.5 * low);
      }
      const double prior = here > 1e-12 ? one / here : 0.5;
      const std::size_t i = context * kDecisions + decision;
      const double all = counts.all.empty() ? 0 : counts.all[i];
      const double ones = counts.ones.empty() ? 0 : counts.ones[i];
      const double of_one = (ones + kPrior * prior) / (all + kPrior);
      table[i] = static_cast<std::uint8_t>(std::clamp(of_one * 256, 1.0, 255.0));
    }
  }
  return table;
}

}  // namespace holo::kv_cache
