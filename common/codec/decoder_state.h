// Inside a Decoder: what render/ reads. Private to codec/ and render/.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "common/codec/layout.h"
#include "common/codec/tile_patches.h"

namespace holo::codec {

struct Decoder::State {
  struct Tile {
    struct Chunk {
      int previous_layer = -1;
      std::uint64_t passes = 0;
      std::vector<std::uint8_t> bytes;  // the code alone
      bool partial = false;
    };
    std::map<int, Chunk> chunks;                 // by layer
    int usable_layer = -1;                       // the last layer that can be decoded
    int decoded_layer = -1;                      // of `decoder`
    std::unique_ptr<TileDecoder> decoder;        // null: nothing decoded, or dropped
    std::shared_ptr<const TilePatches> patches;  // null: not made, or dropped
    int patches_layer = -1;                      // of `patches`
    std::uint64_t last_use = 0;

    [[nodiscard]] std::size_t decoded_bytes() const;
  };

  struct TileId {
    std::uint32_t level = 0;
    std::uint32_t tile = 0;
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

  // The coefficients of tiles, decoded as far as their chunks go, up to `threads` tiles at a time; null for a tile that
  // has none. They do not change any more and may be kept.
  [[nodiscard]] std::vector<std::shared_ptr<const TilePatches>> Patches(std::span<const TileId> tiles,
                                                                        unsigned threads);

 private:
  void Decode(TileId id, Tile& tile) const;
  // Until the limit holds, frees what was used longest ago: first the states that only further chunks need, then
  // coefficients.
  void Trim();
};

}  // namespace holo::codec
