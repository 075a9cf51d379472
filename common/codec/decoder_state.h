// Inside a Decoder: what render/ reads. Private to codec/ and render/.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "common/codec/layout.h"

namespace holo::codec {

struct Decoder::State {
  struct Tile {
    struct Chunk {
      int previous_layer = -1;
      std::uint64_t passes = 0;
      std::vector<std::uint8_t> bytes;  // the code alone
      bool partial = false;
    };
    std::map<int, Chunk> chunks;           // by layer
    int usable_layer = -1;                 // the last layer that can be decoded
    int decoded_layer = -1;                // of `decoder`
    std::unique_ptr<TileDecoder> decoder;  // null: nothing decoded, or dropped
    std::uint64_t last_use = 0;
  };

  container::AssetHeader header;
  AssetLayout layout;
  Options options;
  std::vector<std::map<std::uint32_t, Tile>> levels;  // tiles that have chunks
  std::uint64_t received_bytes = 0;
  std::size_t chunk_memory_bytes = 0;
  std::size_t decoded_memory_bytes = 0;
  std::uint64_t use_clock = 0;

  Result<pixels::Rect> Add(const container::ChunkId& id, std::span<const std::uint8_t> bytes, bool partial);

  // The tile's coefficients, decoded as far as its chunks go; null if it has none. Valid until the next call.
  [[nodiscard]] const TileState* Decoded(std::uint32_t level, std::uint32_t tile);
  // Frees decoded tiles, those used longest ago first, until the limit holds.
  void Trim(std::uint32_t keep_level, std::uint32_t keep_tile);
};

}  // namespace holo::codec
