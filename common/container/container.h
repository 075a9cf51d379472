// The .holo file: header, index and chunks, in the order in which they are worth sending. See FORMAT.md.
//
// An asset is a pyramid of levels. Level 0 is the picture; the channel means of its patches are the picture of level 1,
// and so on; the top level is coded whole. A level is cut into tiles of patches, a tile's coefficients into
// layers of rising quality. A *chunk* is one (level, tile, layer): the unit that is stored, indexed, sent and cached.
// A chunk can be decoded once all lower layers of its (level, tile) are there. Not every chunk exists.
//
// This module knows bytes only. AssetReader is thread-compatible: const calls from many threads are fine if the
// ByteSource allows concurrent ReadAt.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/basis/basis.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::container {

inline constexpr std::uint8_t kFormatVersion = 7;
// A tile is so many patches wide and high: the larger ones take fewer bytes, the smaller ones fit a view better.
inline constexpr std::uint32_t kTilePatches = 32;
inline constexpr std::uint32_t kLargeTilePatches = 128;
inline constexpr std::uint32_t kMaxLevels = 16;
inline constexpr std::uint32_t kMaxLayers = 64;
inline constexpr int kMaxIdleSlots = 3;
// How far smoothing looks, in pixels.
inline constexpr std::uint32_t kSmoothReach = 9;
inline constexpr std::size_t kMaxHeaderBytes = 32u << 20;
inline constexpr std::size_t kMaxChunkBytes = 8u << 20;

// Which chunk. Ordered as stored: by layer, then from the top level down, then by tile (row by row).
struct ChunkId {
  std::uint8_t layer = 0;
  std::uint8_t level = 0;
  std::uint32_t tile = 0;

  friend bool operator==(const ChunkId&, const ChunkId&) = default;
  friend std::strong_ordering operator<=>(const ChunkId& a, const ChunkId& b) {
    if (auto order = a.layer <=> b.layer; order != 0) return order;
    if (auto order = b.level <=> a.level; order != 0) return order;
    return a.tile <=> b.tile;
  }
};

// Geometry of one level, derived from the picture's size.
struct Level {
  std::uint32_t width = 0;  // samples of this level's picture
  std::uint32_t height = 0;
  std::uint32_t patch_px = 0;   // 8 for level 0, 4 above, 1 for the top level (coded whole)
  std::uint32_t patches_x = 0;  // ceil(width / patch_px)
  std::uint32_t patches_y = 0;
  std::uint32_t tile_patches = kTilePatches;
  std::uint32_t tiles_x = 0;  // ceil(patches_x / tile_patches)
  std::uint32_t tiles_y = 0;
  std::uint32_t px_per_sample = 1;  // level-0 pixels that one sample of this level spans

  [[nodiscard]] std::uint32_t tile_count() const { return tiles_x * tiles_y; }
};

// Consecutive planes coded with one basis.
struct ComponentGroup {
  std::uint32_t first_channel = 0;
  std::uint32_t channel_count = 1;
  std::uint32_t basis_index = 0;  // into AssetHeader::bases
  float step_weight = 1.0f;       // this group's quantiser step is base_step * step_weight
  std::uint32_t idle_slots = 0;   // a bit each, at most kMaxIdleSlots: see codec/FORMAT.md
};

// The colour transform between samples and the planes that are coded (pixels are offset by half the sample range
// first).
enum class ColorTransform : std::uint8_t { kNone = 0, kYCbCr = 1 };

// Everything needed before pixels. Small: no index.
struct AssetHeader {
  pixels::Layout layout;
  pixels::Metadata metadata;
  ColorTransform color_transform = ColorTransform::kNone;
  bool large_tiles = false;    // kLargeTilePatches instead of kTilePatches, on all levels
  bool lapped = true;          // samples are filtered across the borders of patches: see codec/FORMAT.md
  float base_step = 1.0f;      // quantiser step of level 0, in sample units
  float visual_weight = 0.0f;  // how much coarser fine detail is quantised: see codec/FORMAT.md; 0: not at all
  std::uint32_t smoothing = 0;  // of full-size pictures, in 64ths of a step: see codec/FORMAT.md; 0: none
  std::uint32_t layer_count = 1;
  std::uint32_t max_k = 0;             // basis dimensions kept per patch of level 0, means included; 0: all
  float final_mse = 0.0f;              // mean squared error per sample when everything has arrived (encoder's estimate)
  std::vector<ComponentGroup> groups;  // cover all channels in order
  std::vector<basis::Hash> bases;
  std::vector<Level> levels;  // derived; levels[0] is the picture

  // Level-0 pixels covered by a tile, without the neighbours that its lapped borders touch.
  [[nodiscard]] pixels::Rect TileRect(std::uint32_t level, std::uint32_t tile) const;
  // How far beyond TileRect a tile's coefficients reach, in level-0 pixels.
  [[nodiscard]] std::uint32_t ReachPx(std::uint32_t level) const;
  // Tiles of `level` whose pixels can influence `region` (level-0 pixels), as first/last column and row, inclusive.
  struct TileRange {
    std::uint32_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  };
  [[nodiscard]] TileRange TilesTouching(std::uint32_t level, const pixels::Rect& region) const;
};

// Levels of a picture of that size; sizes as Validate(Layout) allows.
[[nodiscard]] std::vector<Level> DeriveLevels(std::uint32_t width, std::uint32_t height, bool large_tiles = false);

// The header's own bytes (what a server sends on open) and back. ParseHeader refuses trailing bytes.
[[nodiscard]] std::vector<std::uint8_t> SerializeHeader(const AssetHeader& header);
[[nodiscard]] Result<AssetHeader> ParseHeader(std::span<const std::uint8_t> bytes);

// Random access to stored bytes: a file, a buffer, an object store. ReadAt may be called from many threads.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  // Fills `out` from `offset`; kOutOfRange if that is not all inside, kUnavailable or kDataLoss if reading fails.
  [[nodiscard]] virtual Result<void> ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const = 0;
};

// Owns a buffer.
class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::vector<std::uint8_t> bytes) : bytes_(std::move(bytes)) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] Result<void> ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const override;

 private:
  std::vector<std::uint8_t> bytes_;
};

// Where a chunk lies and what it is worth.
struct ChunkInfo {
  ChunkId id;
  std::uint64_t offset = 0;      // in the file
  std::uint32_t size_bytes = 0;  // > 0
  // Squared error (summed over samples of level 0) that it removes: its share of what its layer does, by bytes.
  double distortion = 0;
};

// An opened .holo file. A truncated file opens if its header and directory are whole; of the chunks that it lists the
// last may be there in part.
class AssetReader {
 public:
  // Reads the header, the embedded bases and the index, checking each checksum. kDataLoss with what was expected and
  // found where; kUnimplemented for another format version.
  [[nodiscard]] static Result<AssetReader> Open(std::shared_ptr<const ByteSource> source);

  [[nodiscard]] const AssetHeader& header() const { return header_; }
  [[nodiscard]] const std::vector<std::uint8_t>& header_bytes() const { return header_bytes_; }
  // The first 16 bytes of the SHA-256 of header and index: names this very content.
  [[nodiscard]] const basis::Hash& content_hash() const { return content_hash_; }
  [[nodiscard]] std::uint64_t file_bytes() const { return source_->size(); }
  [[nodiscard]] std::uint64_t expected_file_bytes() const { return expected_file_bytes_; }
  [[nodiscard]] bool is_truncated() const { return file_bytes() < expected_file_bytes_; }

  // Bytes of a basis stored in this file; null if `hash` is not among them.
  [[nodiscard]] const std::vector<std::uint8_t>* EmbeddedBasis(const basis::Hash& hash) const;

  // All chunks in stored order; sizes are claims of the index, checked against the file's size only.
  [[nodiscard]] const std::vector<ChunkInfo>& chunks() const { return chunks_; }
  // nullptr if there is no such chunk. O(log n).
  [[nodiscard]] const ChunkInfo* FindChunk(const ChunkId& id) const;
  // Bytes of the chunk that are in the file: fewer than size_bytes only for the last chunk of a truncated file.
  [[nodiscard]] std::uint32_t AvailableBytes(const ChunkInfo& chunk) const;
  // Those bytes, for Decoder::AddChunk (or AddPartialChunk). The first read from a page of the index verifies the
  // checksum of the page, unless the file is truncated inside it.
  [[nodiscard]] Result<std::vector<std::uint8_t>> ReadChunk(const ChunkInfo& chunk) const;

 private:
  AssetReader() = default;

  struct Pages;
  std::shared_ptr<const ByteSource> source_;
  AssetHeader header_;
  std::vector<std::uint8_t> header_bytes_;
  basis::Hash content_hash_{};
  std::uint64_t expected_file_bytes_ = 0;
  std::vector<std::vector<std::uint8_t>> embedded_bases_;
  std::vector<ChunkInfo> chunks_;
  std::shared_ptr<Pages> pages_;
};

// What goes into a file: every chunk with its bytes, in any order.
struct ChunkData {
  ChunkId id;
  double distortion = 0;
  std::vector<std::uint8_t> bytes;
};

// The whole file. `embedded_bases` are bytes of Basis objects named in `header.bases`.
[[nodiscard]] Result<std::vector<std::uint8_t>> SerializeAsset(
    const AssetHeader& header, const std::vector<std::vector<std::uint8_t>>& embedded_bases,
    std::vector<ChunkData> chunks);

}  // namespace holo::container
