// Binary arithmetic coding with adaptive probabilities.
//
// A byte-wise range coder with carry propagation (Martin, "Range encoding", 1979) codes binary decisions. Its one
// special property: after any decision the decoder has read exactly RangeEncoder::prefix_bytes() bytes, so the code can
// be cut after a decision without being terminated; the first part decodes completely, and the next continues where it
// ended. No object is synchronised.
#pragma once

#include <algorithm>
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
  // `of_one` in 1/65536, kLeast..65536 - kLeast.
  constexpr explicit Probability(std::uint16_t of_one) : averages_(std::uint32_t{of_one} * 0x10001u) {}

  // In 1/65536, within [32, 65504]: averages that started between kLeast and its mirror image stay within.
  [[nodiscard]] std::uint32_t OfOne() const { return ((averages_ & 0xFFFFu) + (averages_ >> 16)) >> 1; }

  void Update(bool bit) { UpdateIf(0u - static_cast<std::uint32_t>(bit)); }
  // Without a branch: all bits of `ones` are the decision.
  void UpdateIf(std::uint32_t ones) {
    // A 1 is a 0 seen from the other end. Both averages at once: neither loses more than it has.
    const std::uint32_t distance = averages_ ^ ones;
    const std::uint32_t fast = (distance & 0xFFFFu) >> kFastShift;
    const std::uint32_t slow = distance >> (16 + kSlowShift) << 16;
    averages_ = (distance - fast - slow) ^ ones;
  }

  static constexpr std::uint16_t kLeast = 64;

 private:
  static constexpr int kFastShift = 4;
  static constexpr int kSlowShift = 8;
  std::uint32_t averages_ = 32768u * 0x10001u;  // the fast one in the lower half
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
  // Appends more of the code. Not while a Burst is in use.
  void Append(std::span<const std::uint8_t> data) {
    data_.resize(size_);
    data_.insert(data_.end(), data.begin(), data.end());
    size_ = data_.size();
    data_.resize(size_ + kPadding, 0);
  }

  [[nodiscard]] bool Code(Probability& probability) {
    const bool bit = Decode(probability.OfOne());
    probability.Update(bit);
    return bit;
  }
  [[nodiscard]] bool CodeRaw() { return Decode(32768); }
  [[nodiscard]] bool CodeWith(std::uint32_t of_one) { return Decode(of_one); }

  // How many bytes that are not there decisions have needed.
  [[nodiscard]] std::size_t overrun_bytes() const { return position_ > size_ ? position_ - size_ : 0; }
  // How many no decision has needed: none behind the last decision of a complete code.
  [[nodiscard]] std::size_t unread_bytes() const { return position_ < size_ ? size_ - position_ : 0; }

  // No decision takes more than twelve bits.
  [[nodiscard]] static constexpr std::size_t MostBytesOf(std::size_t decisions) { return decisions + decisions / 2 + 1; }
  // Zeros behind the bytes that a Burst may read.
  static constexpr std::size_t kPadding = 64;

  // The decoder in registers, for runs of at most `decisions` decisions, each begun while Holds() only. If `exact`, that
  // is while their bytes are sure to be there; otherwise until more than kImpliedZeros bytes have been needed that are
  // not: kPadding must hold these, and a run's. While a Burst is in use the decoder is not; Return() ends it.
  class Burst {
   public:
    Burst(RangeDecoder& decoder, std::size_t decisions, bool exact) {
      if (!decoder.started_) decoder.Start();
      range_ = decoder.range_;
      code_ = decoder.code_;
      const std::uint8_t* const data = decoder.data_.data();
      first_ = next_ = data + std::min(decoder.position_, decoder.data_.size());
      end_ = data + decoder.size_;
      const std::size_t most = MostBytesOf(decisions);
      if (exact || decoder.data_.empty()) {
        stop_ = data + (decoder.size_ > most ? decoder.size_ - most : 0);
      } else {
        stop_ = data + decoder.size_ + kImpliedZeros + 1;
      }
    }
    void Return(RangeDecoder& decoder) const {
      decoder.range_ = range_;
      decoder.code_ = code_;
      decoder.position_ += static_cast<std::size_t>(next_ - first_);
    }
    [[nodiscard]] bool Holds() const { return next_ < stop_; }
    // Whether the bytes of so many decisions are sure to be there.
    [[nodiscard]] bool Holds(std::size_t decisions) const {
      return end_ - next_ >= static_cast<std::ptrdiff_t>(MostBytesOf(decisions));
    }
    // A decision that can be foreseen: the processor goes on along the likelier way.
    [[nodiscard]] bool Code(Probability& probability) {
      const std::uint32_t bound = (range_ >> 16) * probability.OfOne();
      if (code_ < bound) {
        range_ = bound;
        probability.UpdateIf(0xFFFFFFFFu);
        Refill();
        return true;
      }
      code_ -= bound;
      range_ -= bound;
      probability.UpdateIf(0);
      Refill();
      return false;
    }
    // One that cannot: without a branch. All bits of the result are the decision.
    [[nodiscard]] std::uint32_t CodeMask(Probability& probability) {
      const std::uint32_t bound = (range_ >> 16) * probability.OfOne();
      const std::uint32_t ones = 0u - static_cast<std::uint32_t>(code_ < bound);
      code_ -= bound & ~ones;
      range_ = (bound & ones) | ((range_ - bound) & ~ones);
      probability.UpdateIf(ones);
      Refill();
      return ones;
    }

   private:
    void Refill() {
      while (range_ < (1u << 24)) [[unlikely]] {
        range_ <<= 8;
        code_ = code_ << 8 | *next_++;
      }
    }

    std::uint32_t range_ = 0;
    std::uint32_t code_ = 0;
    const std::uint8_t* next_ = nullptr;
    const std::uint8_t* first_ = nullptr;
    const std::uint8_t* end_ = nullptr;
    const std::uint8_t* stop_ = nullptr;
  };

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

  std::vector<std::uint8_t> data_;  // and kPadding zeros
  std::size_t size_ = 0;            // without them
  std::size_t position_ = 0;
  std::uint32_t range_ = 0xFFFFFFFFu;
  std::uint32_t code_ = 0;
  bool started_ = false;
};

}  // namespace holo::entropy
