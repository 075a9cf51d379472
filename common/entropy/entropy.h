// Binary arithmetic coding with adaptive probabilities.
//
// A byte-wise range coder with carry propagation (Martin, "Range encoding", 1979) codes binary decisions. Its one
// special property: after any decision the decoder has read exactly RangeEncoder::prefix_bytes() bytes, so the code can
// be cut after a decision without being terminated; the first part decodes completely, and the next continues where it
// ended. No object is synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace holo::entropy {

// The probability of a 1, estimated by two exponential averages, one fast and one slow. 16-bit fixed point.
class Probability {
 public:
  constexpr Probability() = default;
  // `of_one` in 1/65536, 1..65535.
  constexpr explicit Probability(std::uint16_t of_one) : fast_(of_one), slow_(of_one) {}

  // In 1/65536, within [32, 65504].
  [[nodiscard]] std::uint32_t OfOne() const {
    const std::uint32_t mean = (std::uint32_t{fast_} + slow_) >> 1;
    return mean < 32 ? 32 : mean > 65504 ? 65504 : mean;
  }

  void Update(bool bit) {
    if (bit) {
      fast_ = static_cast<std::uint16_t>(fast_ + ((65535 - fast_) >> kFastShift));
      slow_ = static_cast<std::uint16_t>(slow_ + ((65535 - slow_) >> kSlowShift));
    } else {
      fast_ = static_cast<std::uint16_t>(fast_ - (fast_ >> kFastShift));
      slow_ = static_cast<std::uint16_t>(slow_ - (slow_ >> kSlowShift));
    }
  }

 private:
  static constexpr int kFastShift = 4;
  static constexpr int kSlowShift = 8;
  std::uint16_t fast_ = 32768;
  std::uint16_t slow_ = 32768;
};

// Zero bytes that a decoder takes for granted behind a complete code.
inline constexpr std::size_t kImpliedZeros = 8;

class RangeEncoder {
 public:
  void Code(bool bit, Probability& probability) {
    Encode(bit, probability.OfOne());
    probability.Update(bit);
  }
  // A decision of probability one half.
  void CodeRaw(bool bit) { Encode(bit, 32768); }
  // One whose probability the caller keeps: that of a 1, in 1/65536, 32..65504.
  void CodeWith(bool bit, std::uint32_t of_one) { Encode(bit, of_one); }

  // Bytes that a decoder needs to decode everything coded so far.
  [[nodiscard]] std::size_t prefix_bytes() const { return shifts_ + 4; }

  // Ends the code in as few bytes as possible, leaving up to kImpliedZeros zeros away, and returns all of it.
  [[nodiscard]] std::vector<std::uint8_t> Finish();

 private:
  void Encode(bool bit, std::uint32_t of_one) {
    const std::uint32_t bound = (range_ >> 16) * of_one;
    if (bit) {
      range_ = bound;
    } else {
      low_ += bound;
      range_ -= bound;
    }
    while (range_ < (1u << 24)) {
      range_ <<= 8;
      ShiftLow();
      ++shifts_;
    }
  }
  void ShiftLow();

  std::uint64_t low_ = 0;
  std::uint32_t range_ = 0xFFFFFFFFu;
  std::uint8_t cache_ = 0;
  bool started_ = false;       // the first cached byte is always 0 and is not written
  std::uint64_t pending_ = 0;  // 0xFF bytes behind cache_ that a carry may still change
  std::size_t shifts_ = 0;
  std::vector<std::uint8_t> out_;
};

// Decodes from bytes that may grow between decisions. Past the end it reads zeros and counts them.
class RangeDecoder {
 public:
  // Appends more of the code.
  void Append(std::span<const std::uint8_t> data) { data_.insert(data_.end(), data.begin(), data.end()); }

  [[nodiscard]] bool Code(Probability& probability) {
    const bool bit = Decode(probability.OfOne());
    probability.Update(bit);
    return bit;
  }
  [[nodiscard]] bool CodeRaw() { return Decode(32768); }
  [[nodiscard]] bool CodeWith(std::uint32_t of_one) { return Decode(of_one); }

  // How many bytes that are not there decisions have needed.
  [[nodiscard]] std::size_t overrun_bytes() const { return position_ > data_.size() ? position_ - data_.size() : 0; }
  // How many no decision has needed: none behind the last decision of a complete code.
  [[nodiscard]] std::size_t unread_bytes() const { return position_ < data_.size() ? data_.size() - position_ : 0; }

 private:
  bool Decode(std::uint32_t of_one) {
    if (!started_) Start();
    const std::uint32_t bound = (range_ >> 16) * of_one;
    const bool bit = code_ < bound;
    if (bit) {
      range_ = bound;
    } else {
      code_ -= bound;
      range_ -= bound;
    }
    while (range_ < (1u << 24)) {
      range_ <<= 8;
      code_ = code_ << 8 | NextByte();
    }
    return bit;
  }
  void Start();
  std::uint32_t NextByte() {
    const std::uint32_t byte = position_ < data_.size() ? data_[position_] : 0u;
    ++position_;
    return byte;
  }

  std::vector<std::uint8_t> data_;
  std::size_t position_ = 0;
  std::uint32_t range_ = 0xFFFFFFFFu;
  std::uint32_t code_ = 0;
  bool started_ = false;
};

}  // namespace holo::entropy
