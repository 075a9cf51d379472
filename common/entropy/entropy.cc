#include "common/entropy/entropy.h"

namespace holo::entropy {

void RangeEncoder::ShiftLow() {
  if (low_ < 0xFF000000u || low_ > 0xFFFFFFFFu) {
    const auto carry = static_cast<std::uint8_t>(low_ >> 32);
    if (started_) out_.push_back(static_cast<std::uint8_t>(cache_ + carry));
    started_ = true;
    for (; pending_ > 0; --pending_) out_.push_back(static_cast<std::uint8_t>(0xFF + carry));
    cache_ = static_cast<std::uint8_t>(low_ >> 24);
  } else {
    ++pending_;
  }
  low_ = (low_ & 0x00FFFFFFu) << 8;
}

std::vector<std::uint8_t> RangeEncoder::Finish() {
  // Any value in [low, low + range) ends the code; the one with the most trailing zero bits needs the fewest bytes.
  const std::uint64_t last = low_ + range_ - 1;
  for (int bits = 31; bits >= 0; --bits) {
    const std::uint64_t value = last >> bits << bits;
    if (value >= low_) {
      low_ = value;
      break;
    }
  }
  for (int i = 0; i < 5; ++i) ShiftLow();
  for (std::size_t i = 0; i < kImpliedZeros && !out_.empty() && out_.back() == 0; ++i) out_.pop_back();
  return std::move(out_);
}

void RangeDecoder::Start() {
  started_ = true;
  for (int i = 0; i < 4; ++i) code_ = code_ << 8 | NextByte();
}

}  // namespace holo::entropy
