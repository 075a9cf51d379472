// Which chunk of one open asset is worth most for one view: the module's inside, used by ServerSession alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/protocol/protocol.h"

namespace holo::protocol {

// What one client has of one asset: whole chunks, and beginnings of those that are sent in parts.
struct SentChunks {
  std::shared_ptr<const Asset> asset;
  HeldChunks held;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t>
      partial_bytes;  // of the next layer, by (level, tile)
};

// The chunks of a view, always the one first that saves the most squared error in view per byte.
//
// Building costs one step per chunk of the tiles in view, taking the next O(log tiles). A tile's layers come in order;
// its place in the order is the best average slope over its next layers, so that a cheap later layer is not lost behind
// an expensive earlier one.
class Schedule {
 public:
  struct Goal {
    pixels::Rect region;  // inside the picture, not empty
    double scale = 1.0;   // output pixels per pixel, > 0
    double target_psnr_db = 0;
    std::uint64_t byte_budget = UINT64_MAX;
  };
  // One message's worth.
  struct Pick {
    double slope = 0;  // squared error per byte, relative to the square of the largest sample
    const container::ChunkInfo* chunk = nullptr;
    std::uint32_t offset = 0;
    std::uint32_t size_bytes = 0;
  };

  // `sent` must outlive the schedule and change only through Take().
  Schedule(SentChunks& sent, const Goal& goal);

  // The best one, or nothing once the goal is reached; reason() then says why.
  [[nodiscard]] std::optional<Pick> Best();
  // Counts the last result of Best() as sent.
  void Take(const Pick& pick);

  [[nodiscard]] v1::ViewComplete::Reason reason() const { return reason_; }
  [[nodiscard]] double remaining_squared_error() const;
  [[nodiscard]] double psnr_db() const;
  [[nodiscard]] std::uint64_t bytes_taken() const { return bytes_taken_; }
  // Of chunks useful for the view that the client had when the schedule was built.
  [[nodiscard]] std::uint64_t bytes_held_before() const { return bytes_held_before_; }

 private:
  struct Entry {
    double slope = 0;
    std::uint32_t level = 0;
    std::uint32_t tile = 0;
  };
  struct Shares {
    double in_view = 0;  // part of the tile's own pixels that lies in view
    double weight = 0;   // the same with the pixels that its lapped border touches, less what the scale hides
  };

  static bool Before(const Entry& a, const Entry& b);
  [[nodiscard]] Shares SharesOf(std::uint32_t level, std::uint32_t tile) const;
  void Push(std::uint32_t level, std::uint32_t tile);
  // The tile's chunks that are not sent completely.
  [[nodiscard]] std::span<const std::uint32_t> Unsent(std::uint32_t level, std::uint32_t tile) const;

  SentChunks& sent_;
  Goal goal_;
  std::vector<Entry> heap_;
  double final_squared_error_ = 0;
  double unsent_squared_error_ = 0;
  double samples_ = 0;
  std::uint64_t bytes_taken_ = 0;
  std::uint64_t bytes_held_before_ = 0;
  bool over_budget_ = false;
  v1::ViewComplete::Reason reason_ = v1::ViewComplete::REASON_UNSPECIFIED;
};

}  // namespace holo::protocol
