// The bytes of one chunk: how many passes it holds, which chunk of its tile comes before it, and the code.
// Private to codec/.
//
//   varint   passes * 4 + min(gap, 3)     gap = layers skipped since the tile's previous chunk (counted from -1)
//   varint   gap - 3                      only where gap >= 3
//   bytes    the code, continued from the previous chunk
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/bytes/bytes.h"

namespace holo::codec {

struct ChunkHeader {
  std::uint64_t passes = 0;
  int previous_layer = -1;  // -1: this is the tile's first chunk
  std::size_t size_bytes = 0;
};

inline void AppendChunkHeader(bytes::ByteWriter& writer, std::uint64_t passes, int previous_layer, int layer) {
  const auto gap = static_cast<std::uint64_t>(layer - previous_layer - 1);
  writer.WriteVarint(passes * 4 + (gap < 3 ? gap : 3));
  if (gap >= 3) writer.WriteVarint(gap - 3);
}

[[nodiscard]] inline Result<ChunkHeader> ParseChunkHeader(std::span<const std::uint8_t> bytes, int layer) {
  bytes::ByteReader reader(bytes, "chunk");
  ChunkHeader header;
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t packed, reader.ReadVarint(std::uint64_t{1} << 24));
  header.passes = packed / 4;
  std::uint64_t gap = packed % 4;
  if (gap == 3) {
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t more, reader.ReadVarint(255));
    gap += more;
  }
  if (gap > static_cast<std::uint64_t>(layer)) {
    return Fail(Code::kDataLoss, "chunk: expected at most " + std::to_string(layer) + " layers before layer " +
                                     std::to_string(layer) + ", found " + std::to_string(gap));
  }
  header.previous_layer = layer - 1 - static_cast<int>(gap);
  header.size_bytes = reader.offset();
  return header;
}

}  // namespace holo::codec
