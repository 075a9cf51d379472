#include "common/container/container.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <string>

#include "common/bytes/bytes.h"

namespace holo::container {
namespace {

constexpr std::array<std::uint8_t, 4> kMagic = {'H', 'O', 'L', 'O'};
constexpr std::uint32_t kRunTiles = 64;
// A page takes in run after run until it has so many bytes of chunks.
constexpr std::uint64_t kPageBytes = 2048;
constexpr std::uint64_t kMaxTableBytes = 1u << 20;
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 48;
constexpr std::uint32_t kTopLevelPx = 16;
constexpr std::uint32_t kIdleSlotBits = (1u << 16) - 1;
constexpr std::size_t kMaxBases = 32;
constexpr std::size_t kMaxIccBytes = 16u << 20;
constexpr float kSmallestStep = 1e-4f;
constexpr float kLargestStep = 1e6f;
constexpr float kLargestVisualWeight = 4.0f;

std::uint32_t CeilDiv(std::uint32_t a, std::uint32_t b) {
  return (a + b - 1) / b;
}

// What a byte of a layer saves, in the index: 2^(code / 8 - 4) squared base steps.
std::uint8_t EncodeSlope(double slope, float base_step) {
  const double octaves = std::log2(std::max(slope, 1e-300) / (double{base_step} * base_step));
  return static_cast<std::uint8_t>(std::clamp(std::lround((octaves + 4) * 8), 0L, 255L));
}

double DecodeSlope(std::uint8_t code, float base_step) {
  return std::exp2(code / 8.0 - 4) * base_step * base_step;
}

std::uint64_t TilesOfAllLevels(const AssetHeader& header) {
  std::uint64_t tiles = 0;
  for (const Level& level : header.levels) tiles += level.tile_count();
  return tiles;
}

// Visits the runs of an index in their order: `visit(tiles)` with the chunks, there or not, of up to kRunTiles tiles that
// follow one another in one layer, from the top level down. Stops where it fails.
template <typename Visit>
Result<void> ForEachRun(const AssetHeader& header, const Visit& visit) {
  std::vector<ChunkId> tiles;
  for (std::uint32_t layer = 0; layer < header.layer_count; ++layer) {
    ChunkId next = {static_cast<std::uint8_t>(layer), static_cast<std::uint8_t>(header.levels.size() - 1), 0};
    for (std::uint64_t left = TilesOfAllLevels(header); left > 0; left -= tiles.size()) {
      tiles.clear();
      while (tiles.size() < std::min<std::uint64_t>(kRunTiles, left)) {
        tiles.push_back(next);
        if (++next.tile < header.levels[next.level].tile_count()) continue;
        next.tile = 0;
        --next.level;
      }
      HOLO_RETURN_IF_ERROR(visit(std::span<const ChunkId>(tiles)));
    }
  }
  return {};
}

template <typename T>
Result<T> ReadLimited(bytes::ByteReader& reader, std::uint64_t low, std::uint64_t high, const char* name) {
  const std::size_t at = reader.offset();
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t value, reader.ReadVarint());
  if (value < low || value > high) {
    return Fail(Code::kDataLoss, std::string("asset header: expected ") + name + " between " + std::to_string(low) +
                                     " and " + std::to_string(high) + " at offset " + std::to_string(at) + ", found " +
                                     std::to_string(value));
  }
  return static_cast<T>(value);
}

Result<void> CheckGroups(const AssetHeader& header) {
  std::uint32_t next = 0;
  for (const ComponentGroup& group : header.groups) {
    if (group.first_channel != next || group.basis_index >= header.bases.size() ||
        !(group.step_weight >= 1e-3f && group.step_weight <= 1e3f) || std::popcount(group.idle_slots) > kMaxIdleSlots) {
      return Fail(Code::kDataLoss,
                  "asset header: expected component groups that follow each other, name a listed basis "
                  "and have a step weight of 0.001 to 1000 and at most three idle slots, found otherwise at channel " +
                      std::to_string(group.first_channel));
    }
    next += group.channel_count;
  }
  if (next != header.layout.channels) {
    return Fail(Code::kDataLoss, "asset header: expected component groups for " +
                                     std::to_string(header.layout.channels) + " channels, found " +
                                     std::to_string(next));
  }
  return {};
}

Result<AssetHeader> ParseBody(bytes::ByteReader& reader) {
  AssetHeader header;
  HOLO_ASSIGN_OR_RETURN(header.layout.width, ReadLimited<std::uint32_t>(reader, 1, pixels::kMaxDimension, "width"));
  HOLO_ASSIGN_OR_RETURN(header.layout.height, ReadLimited<std::uint32_t>(reader, 1, pixels::kMaxDimension, "height"));
  HOLO_ASSIGN_OR_RETURN(header.layout.channels,
                        ReadLimited<std::uint32_t>(reader, 1, pixels::kMaxChannels, "channels"));
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t flags, reader.ReadU8());
  header.layout.sample_type = static_cast<pixels::SampleType>(flags & 1);
  header.layout.has_alpha = (flags & 2) != 0;
  header.layout.color_model = static_cast<pixels::ColorModel>(flags >> 2 & 3);
  header.color_transform = static_cast<ColorTransform>(flags >> 4 & 3);
  header.lapped = (flags & 0x40) == 0;
  header.large_tiles = (flags & 0x80) != 0;
  if (auto valid = pixels::Validate(header.layout); !valid) return Fail(Code::kDataLoss, valid.error().message);
  if (header.color_transform != ColorTransform::kNone &&
      (header.color_transform != ColorTransform::kYCbCr || header.layout.color_model != pixels::ColorModel::kRgb)) {
    return Fail(Code::kDataLoss, "asset header: expected YCbCr on RGB samples only, or no colour transform");
  }
  HOLO_ASSIGN_OR_RETURN(header.metadata.source_orientation, reader.ReadU8());
  if (header.metadata.source_orientation < 1 || header.metadata.source_orientation > 8) {
    return Fail(Code::kDataLoss, "asset header: expected an orientation of 1 to 8, found " +
                                     std::to_string(header.metadata.source_orientation));
  }
  HOLO_ASSIGN_OR_RETURN(header.base_step, reader.ReadFiniteF32());
  if (!(header.base_step >= kSmallestStep && header.base_step <= kLargestStep)) {
    return Fail(Code::kDataLoss, "asset header: expected a quantiser step of 0.0001 to 1000000, found " +
                                     std::to_string(header.base_step));
  }
  HOLO_ASSIGN_OR_RETURN(header.visual_weight, reader.ReadFiniteF32());
  if (!(header.visual_weight >= 0 && header.visual_weight <= kLargestVisualWeight)) {
    return Fail(Code::kDataLoss,
                "asset header: expected a visual weight of 0 to 4, found " + std::to_string(header.visual_weight));
  }
  HOLO_ASSIGN_OR_RETURN(header.smoothing, ReadLimited<std::uint32_t>(reader, 0, 255, "smoothing"));
  HOLO_ASSIGN_OR_RETURN(header.layer_count, ReadLimited<std::uint32_t>(reader, 1, kMaxLayers, "layers"));
  HOLO_ASSIGN_OR_RETURN(header.max_k, ReadLimited<std::uint32_t>(reader, 0, 1u << 20, "k"));
  HOLO_ASSIGN_OR_RETURN(header.final_mse, reader.ReadFiniteF32());
  if (header.final_mse < 0) return Fail(Code::kDataLoss, "asset header: expected an error of 0 or more");
  HOLO_ASSIGN_OR_RETURN(const auto base_count, ReadLimited<std::size_t>(reader, 1, kMaxBases, "bases"));
  for (std::size_t i = 0; i < base_count; ++i) {
    HOLO_ASSIGN_OR_RETURN(const auto built_in, ReadLimited<std::size_t>(reader, 0, basis::BuiltIns().size(), "basis"));
    basis::Hash& hash = header.bases.emplace_back();
    if (built_in > 0) {
      hash = basis::BuiltIns()[built_in - 1]->hash();
    } else {
      HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> bytes, reader.ReadSpan(hash.size()));
      std::copy(bytes.begin(), bytes.end(), hash.begin());
    }
  }
  HOLO_ASSIGN_OR_RETURN(const auto group_count, ReadLimited<std::size_t>(reader, 1, pixels::kMaxChannels, "groups"));
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < group_count; ++i) {
    ComponentGroup group;
    group.first_channel = next;
    HOLO_ASSIGN_OR_RETURN(group.channel_count,
                          ReadLimited<std::uint32_t>(reader, 1, basis::kMaxChannelsPerGroup, "channels of a group"));
    HOLO_ASSIGN_OR_RETURN(group.basis_index, ReadLimited<std::uint32_t>(reader, 0, kMaxBases, "basis index"));
    HOLO_ASSIGN_OR_RETURN(group.step_weight, reader.ReadFiniteF32());
    HOLO_ASSIGN_OR_RETURN(group.idle_slots, ReadLimited<std::uint32_t>(reader, 0, kIdleSlotBits, "idle slots"));
    next += group.channel_count;
    header.groups.push_back(group);
  }
  HOLO_RETURN_IF_ERROR(CheckGroups(header));
  HOLO_ASSIGN_OR_RETURN(const auto icc_bytes, ReadLimited<std::size_t>(reader, 0, kMaxIccBytes, "ICC profile bytes"));
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> icc, reader.ReadSpan(icc_bytes));
  header.metadata.icc_profile.assign(icc.begin(), icc.end());
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  header.levels = DeriveLevels(header.layout.width, header.layout.height, header.large_tiles);
  return header;
}

// A section of the file: varint length of the body, the body, CRC-32 of both.
void AppendSection(bytes::ByteWriter& out, std::span<const std::uint8_t> body, std::uint32_t crc_so_far) {
  bytes::ByteWriter length;
  length.WriteVarint(body.size());
  const std::uint32_t crc = bytes::Crc32(body, bytes::Crc32(length.bytes(), crc_so_far));
  out.WriteSpan(length.bytes());
  out.WriteSpan(body);
  out.WriteU32(crc);
}

// Reads forward through a source, a buffer at a time.
class SourceCursor {
 public:
  SourceCursor(const ByteSource& source, const char* what) : source_(source), what_(what) {}

  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  void Seek(std::uint64_t offset) { offset_ = offset; }

  Result<std::vector<std::uint8_t>> Read(std::uint64_t count) {
    if (count > source_.size() || offset_ > source_.size() - count) {
      return Fail(Code::kDataLoss, std::string(what_) + ": expected " + std::to_string(count) + " bytes at offset " +
                                       std::to_string(offset_) + ", found a file of " + std::to_string(source_.size()) +
                                       " bytes");
    }
    std::vector<std::uint8_t> out(count);
    HOLO_RETURN_IF_ERROR(source_.ReadAt(offset_, out));
    offset_ += count;
    return out;
  }

  // The body of a section whose CRC starts from `crc_so_far`; at most `limit` bytes. Appends all bytes read to `raw`.
  Result<std::vector<std::uint8_t>> ReadSection(std::uint32_t crc_so_far, std::uint64_t limit,
                                                std::vector<std::uint8_t>& raw) {
    const std::uint64_t start = offset_;
    const auto head_bytes =
        static_cast<std::size_t>(std::min<std::uint64_t>(10, source_.size() - std::min(source_.size(), offset_)));
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> head, Read(head_bytes));
    bytes::ByteReader reader(head, what_);
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t length, reader.ReadVarint(limit));
    const std::size_t varint_bytes = reader.offset();
    Seek(start + varint_bytes);
    HOLO_ASSIGN_OR_RETURN(std::vector<std::uint8_t> body, Read(length));
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> tail, Read(4));
    const std::span<const std::uint8_t> varint(head.data(), varint_bytes);
    const std::uint32_t crc = bytes::Crc32(body, bytes::Crc32(varint, crc_so_far));
    HOLO_ASSIGN_OR_RETURN(const std::uint32_t stored, bytes::ByteReader(tail, what_).ReadU32());
    if (crc != stored) {
      return Fail(Code::kDataLoss, std::string(what_) + " at offset " + std::to_string(start) + ": expected checksum " +
                                       std::to_string(crc) + ", found " + std::to_string(stored));
    }
    raw.insert(raw.end(), varint.begin(), varint.end());
    raw.insert(raw.end(), body.begin(), body.end());
    raw.insert(raw.end(), tail.begin(), tail.end());
    return body;
  }

 private:
  const ByteSource& source_;
  const char* what_;
  std::uint64_t offset_ = 0;
};

std::vector<std::uint8_t> Preamble() {
  std::vector<std::uint8_t> out(kMagic.begin(), kMagic.end());
  out.push_back(kFormatVersion);
  return out;
}

Result<void> CheckPreamble(std::span<const std::uint8_t> bytes) {
  if (bytes.size() < kMagic.size() + 1 || !std::equal(kMagic.begin(), kMagic.end(), bytes.begin())) {
    return Fail(Code::kDataLoss, "asset: expected the magic \"HOLO\" at offset 0, found " +
                                     bytes::ToHex(bytes.first(std::min<std::size_t>(bytes.size(), 4))));
  }
  if (bytes[kMagic.size()] != kFormatVersion) {
    return Fail(Code::kUnimplemented, "asset: expected format version " + std::to_string(kFormatVersion) + ", found " +
                                          std::to_string(bytes[kMagic.size()]));
  }
  return {};
}

}  // namespace

std::vector<Level> DeriveLevels(std::uint32_t width, std::uint32_t height, bool large_tiles) {
  std::vector<Level> levels;
  std::uint32_t px_per_sample = 1;
  for (bool top = false;;) {
    Level level;
    level.width = width;
    level.height = height;
    level.patch_px = levels.empty() ? 8 : top ? 1 : 4;
    level.patches_x = CeilDiv(width, level.patch_px);
    level.patches_y = CeilDiv(height, level.patch_px);
    level.tile_patches = large_tiles ? kLargeTilePatches : kTilePatches;
    level.tiles_x = CeilDiv(level.patches_x, level.tile_patches);
    level.tiles_y = CeilDiv(level.patches_y, level.tile_patches);
    level.px_per_sample = px_per_sample;
    levels.push_back(level);
    if (top) return levels;
    px_per_sample *= level.patch_px;
    width = level.patches_x;
    height = level.patches_y;
    top = std::max(width, height) <= kTopLevelPx;
  }
}

pixels::Rect AssetHeader::TileRect(std::uint32_t level_index, std::uint32_t tile) const {
  const Level& level = levels[level_index];
  const std::uint64_t tile_px = std::uint64_t{level.tile_patches} * level.patch_px * level.px_per_sample;
  const std::uint64_t x = tile % level.tiles_x * tile_px;
  const std::uint64_t y = tile / level.tiles_x * tile_px;
  return {static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y),
          static_cast<std::uint32_t>(std::min<std::uint64_t>(tile_px, layout.width - x)),
          static_cast<std::uint32_t>(std::min<std::uint64_t>(tile_px, layout.height - y))};
}

std::uint32_t AssetHeader::ReachPx(std::uint32_t level_index) const {
  // Half a patch of the level's own filter, and of every filter below it, and what smoothing looks at.
  const std::uint32_t picture = smoothing > 0 ? 4 + kSmoothReach : 4;
  return level_index == 0 ? picture : 3 * levels[level_index].px_per_sample;
}

AssetHeader::TileRange AssetHeader::TilesTouching(std::uint32_t level_index, const pixels::Rect& region) const {
  const Level& level = levels[level_index];
  const std::uint64_t tile_px = std::uint64_t{level.tile_patches} * level.patch_px * level.px_per_sample;
  const std::uint64_t reach = ReachPx(level_index);
  const std::uint64_t left = region.x > reach ? region.x - reach : 0;
  const std::uint64_t top = region.y > reach ? region.y - reach : 0;
  const std::uint64_t right = std::uint64_t{region.x} + region.width + reach - 1;
  const std::uint64_t bottom = std::uint64_t{region.y} + region.height + reach - 1;
  const auto limit = [](std::uint64_t value, std::uint32_t count) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(value, count - 1));
  };
  return {limit(left / tile_px, level.tiles_x), limit(top / tile_px, level.tiles_y),
          limit(right / tile_px, level.tiles_x), limit(bottom / tile_px, level.tiles_y)};
}

std::vector<std::uint8_t> SerializeHeader(const AssetHeader& header) {
  bytes::ByteWriter body;
  body.WriteVarint(header.layout.width);
  body.WriteVarint(header.layout.height);
  body.WriteVarint(header.layout.channels);
  body.WriteU8(
      static_cast<std::uint8_t>(static_cast<unsigned>(header.layout.sample_type) | (header.layout.has_alpha ? 2u : 0u) |
                                static_cast<unsigned>(header.layout.color_model) << 2 |
                                static_cast<unsigned>(header.color_transform) << 4 | (header.lapped ? 0u : 0x40u) |
                                (header.large_tiles ? 0x80u : 0u)));
  body.WriteU8(header.metadata.source_orientation);
  body.WriteF32(header.base_step);
  body.WriteF32(header.visual_weight);
  body.WriteVarint(header.smoothing);
  body.WriteVarint(header.layer_count);
  body.WriteVarint(header.max_k);
  body.WriteF32(header.final_mse);
  body.WriteVarint(header.bases.size());
  for (const basis::Hash& hash : header.bases) {
    const auto built_ins = basis::BuiltIns();
    const auto found =
        std::find_if(built_ins.begin(), built_ins.end(), [&](const auto& one) { return one->hash() == hash; });
    body.WriteVarint(found == built_ins.end() ? 0 : static_cast<std::uint64_t>(found - built_ins.begin()) + 1);
    if (found == built_ins.end()) body.WriteSpan(hash);
  }
  body.WriteVarint(header.groups.size());
  for (const ComponentGroup& group : header.groups) {
    body.WriteVarint(group.channel_count);
    body.WriteVarint(group.basis_index);
    body.WriteF32(group.step_weight);
    body.WriteVarint(group.idle_slots);
  }
  body.WriteVarint(header.metadata.icc_profile.size());
  body.WriteSpan(header.metadata.icc_profile);

  bytes::ByteWriter out;
  const std::vector<std::uint8_t> preamble = Preamble();
  out.WriteSpan(preamble);
  AppendSection(out, body.bytes(), bytes::Crc32(preamble));
  return out.Take();
}

Result<AssetHeader> ParseHeader(std::span<const std::uint8_t> bytes) {
  HOLO_RETURN_IF_ERROR(CheckPreamble(bytes));
  const std::size_t preamble_bytes = kMagic.size() + 1;
  const MemorySource source(std::vector<std::uint8_t>(bytes.begin(), bytes.end()));
  SourceCursor cursor(source, "asset header");
  cursor.Seek(preamble_bytes);
  std::vector<std::uint8_t> raw;
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> body,
                        cursor.ReadSection(bytes::Crc32(bytes.first(preamble_bytes)), kMaxHeaderBytes, raw));
  if (cursor.offset() != bytes.size()) {
    return Fail(Code::kDataLoss, "asset header: expected the end at offset " + std::to_string(cursor.offset()) +
                                     ", found " + std::to_string(bytes.size() - cursor.offset()) + " more bytes");
  }
  bytes::ByteReader reader(body, "asset header");
  return ParseBody(reader);
}

Result<void> MemorySource::ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const {
  if (offset > bytes_.size() || out.size() > bytes_.size() - offset) {
    return Fail(Code::kOutOfRange, "buffer: expected " + std::to_string(out.size()) + " bytes at offset " +
                                       std::to_string(offset) + ", found " + std::to_string(bytes_.size()) + " in all");
  }
  std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
  return {};
}

// Which pages have been checked against their checksum; shared by copies of a reader.
struct AssetReader::Pages {
  struct Page {
    std::uint64_t offset = 0;
    std::size_t front_bytes = 0;  // the table and its length
    std::uint64_t data_bytes = 0;
    std::uint32_t crc = 0;
    bool whole = true;  // false where the file ends inside
    std::atomic<bool> verified{false};
  };
  std::vector<std::unique_ptr<Page>> all;
  std::vector<std::uint32_t> of_chunk;  // parallel to AssetReader::chunks_
};

Result<AssetReader> AssetReader::Open(std::shared_ptr<const ByteSource> source) {
  AssetReader reader;
  reader.source_ = std::move(source);
  const ByteSource& file = *reader.source_;
  SourceCursor cursor(file, "asset header");
  const std::size_t preamble_bytes = kMagic.size() + 1;
  HOLO_ASSIGN_OR_RETURN(std::vector<std::uint8_t> raw,
                        cursor.Read(std::min<std::uint64_t>(preamble_bytes, file.size())));
  HOLO_RETURN_IF_ERROR(CheckPreamble(raw));
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> body,
                        cursor.ReadSection(bytes::Crc32(raw), kMaxHeaderBytes, raw));
  bytes::ByteReader body_reader(body, "asset header");
  HOLO_ASSIGN_OR_RETURN(reader.header_, ParseBody(body_reader));
  reader.header_bytes_ = raw;

  // The directory: embedded bases, then what a byte of every layer saves, and the size of all pages.
  SourceCursor directory_cursor(file, "asset directory");
  directory_cursor.Seek(cursor.offset());
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> directory,
                        directory_cursor.ReadSection(0, kMaxHeaderBytes, raw));
  bytes::ByteReader entries(directory, "asset directory");
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t basis_count, entries.ReadVarint(kMaxBases));
  std::vector<std::uint64_t> basis_sizes;
  for (std::uint64_t i = 0; i < basis_count; ++i) {
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t size, entries.ReadVarint(basis::kMaxBasisBytes));
    basis_sizes.push_back(size);
  }
  std::uint64_t offset = directory_cursor.offset();
  for (const std::uint64_t size : basis_sizes) {
    directory_cursor.Seek(offset);
    HOLO_ASSIGN_OR_RETURN(std::vector<std::uint8_t> bytes, directory_cursor.Read(size));
    const basis::Hash hash = basis::HashOf(bytes);
    if (std::find(reader.header_.bases.begin(), reader.header_.bases.end(), hash) == reader.header_.bases.end()) {
      return Fail(Code::kDataLoss, "asset: expected the embedded basis at offset " + std::to_string(offset) +
                                       " to be one that the header names, found " + bytes::ToHex(hash));
    }
    reader.embedded_bases_.push_back(std::move(bytes));
    offset += size;
  }

  std::vector<double> slopes;
  for (std::uint32_t layer = 0; layer < reader.header_.layer_count; ++layer) {
    HOLO_ASSIGN_OR_RETURN(const std::uint8_t code, entries.ReadU8());
    slopes.push_back(DecodeSlope(code, reader.header_.base_step));
  }

  HOLO_ASSIGN_OR_RETURN(const std::uint64_t page_bytes, entries.ReadVarint(kMaxFileBytes));
  HOLO_RETURN_IF_ERROR(entries.ExpectEnd());
  const std::uint64_t end = offset + page_bytes;
  reader.expected_file_bytes_ = end;
  if (file.size() > end) {
    return Fail(Code::kDataLoss, "asset: expected the end at offset " + std::to_string(end) + ", found a file of " +
                                     std::to_string(file.size()) + " bytes");
  }

  // The pages, as far as the file has their tables. Runs go on from one table to the next.
  reader.pages_ = std::make_shared<Pages>();
  std::vector<std::uint8_t> front;
  std::optional<bytes::ByteReader> rows;
  bool is_cut = false;
  const auto at_end_of_table = [&] { return !rows || rows->offset() == front.size(); };
  // Ends the last page at `offset`, where its chunks end.
  const auto end_page = [&]() -> Result<void> {
    if (offset > end) {
      return Fail(Code::kDataLoss, "asset index: expected pages up to offset " + std::to_string(end) +
                                       ", found chunks up to " + std::to_string(offset));
    }
    if (reader.pages_->all.empty()) return {};
    Pages::Page& page = *reader.pages_->all.back();
    page.data_bytes = offset - (page.offset + page.front_bytes + 4);
    if (page.data_bytes > kRunTiles * kMaxChunkBytes + kPageBytes) {
      return Fail(Code::kDataLoss, "asset index at offset " + std::to_string(page.offset) +
                                       ": expected a page of at most a run of chunks more than " +
                                       std::to_string(kPageBytes) + " bytes, found " + std::to_string(page.data_bytes));
    }
    page.whole = offset <= file.size();
    return {};
  };
  // Begins the next page at `offset`, if the file has its table.
  const auto begin_page = [&]() -> Result<void> {
    constexpr std::size_t kMostLengthBytes = 4;
    const std::uint64_t left = file.size() - std::min(file.size(), offset);
    std::vector<std::uint8_t> begin(std::min<std::uint64_t>(left, kMostLengthBytes));
    HOLO_RETURN_IF_ERROR(file.ReadAt(std::min(file.size(), offset), begin));
    bytes::ByteReader length(begin, "asset index");
    const Result<std::uint64_t> table_bytes = length.ReadVarint(kMaxTableBytes);
    is_cut = !table_bytes ? left < kMostLengthBytes : length.offset() + *table_bytes + 4 > left;
    if (is_cut) return {};
    if (!table_bytes) return tl::unexpected(table_bytes.error());
    auto page = std::make_unique<Pages::Page>();
    page->offset = offset;
    page->front_bytes = length.offset() + *table_bytes;
    front.resize(page->front_bytes + 4);
    HOLO_RETURN_IF_ERROR(file.ReadAt(offset, front));
    raw.insert(raw.end(), front.begin(), front.end());
    const std::span<const std::uint8_t> crc = std::span(front).last(4);
    HOLO_ASSIGN_OR_RETURN(page->crc, bytes::ByteReader(crc, "asset index").ReadU32());
    front.resize(page->front_bytes);
    rows.emplace(front, "asset index");
    HOLO_RETURN_IF_ERROR(rows->ReadSpan(length.offset()));
    offset += page->front_bytes + 4;
    reader.pages_->all.push_back(std::move(page));
    return {};
  };
  const auto read_run = [&](std::span<const ChunkId> tiles) -> Result<void> {
    if (at_end_of_table()) {
      if (is_cut || offset == end) return {};
      HOLO_RETURN_IF_ERROR(end_page());
      HOLO_RETURN_IF_ERROR(begin_page());
      if (is_cut) return {};
    }
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> is_here, rows->ReadSpan((tiles.size() + 7) / 8));
    for (std::size_t i = 0; i < tiles.size(); ++i) {
      if ((is_here[i / 8] >> i % 8 & 1) == 0) continue;
      HOLO_ASSIGN_OR_RETURN(const std::uint64_t size, rows->ReadVarint(kMaxChunkBytes));
      if (size == 0) return Fail(Code::kDataLoss, "asset index: expected a chunk of at least 1 byte, found 0");
      ChunkInfo chunk;
      chunk.id = tiles[i];
      chunk.offset = offset;
      chunk.size_bytes = static_cast<std::uint32_t>(size);
      chunk.distortion = slopes[chunk.id.layer] * static_cast<double>(size);
      offset += size;
      if (chunk.offset >= file.size()) continue;
      reader.chunks_.push_back(chunk);
      reader.pages_->of_chunk.push_back(static_cast<std::uint32_t>(reader.pages_->all.size() - 1));
    }
    return {};
  };
  HOLO_RETURN_IF_ERROR(ForEachRun(reader.header_, read_run));
  HOLO_RETURN_IF_ERROR(end_page());
  if (is_cut && file.size() == end) {
    return Fail(Code::kDataLoss, "asset index at offset " + std::to_string(offset) + ": expected a table that ends in " +
                                     std::to_string(end - offset) + " bytes");
  }
  if (!at_end_of_table() || (!is_cut && offset != end)) {
    return Fail(Code::kDataLoss, "asset index: expected no more than there are tiles and layers");
  }
  reader.content_hash_ = basis::HashOf(raw);
  return reader;
}

const std::vector<std::uint8_t>* AssetReader::EmbeddedBasis(const basis::Hash& hash) const {
  for (const auto& bytes : embedded_bases_) {
    if (basis::HashOf(bytes) == hash) return &bytes;
  }
  return nullptr;
}

const ChunkInfo* AssetReader::FindChunk(const ChunkId& id) const {
  const auto found = std::lower_bound(chunks_.begin(), chunks_.end(), id,
                                      [](const ChunkInfo& chunk, const ChunkId& key) { return chunk.id < key; });
  return found != chunks_.end() && found->id == id ? &*found : nullptr;
}

std::uint32_t AssetReader::AvailableBytes(const ChunkInfo& chunk) const {
  const std::uint64_t left = source_->size() > chunk.offset ? source_->size() - chunk.offset : 0;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(left, chunk.size_bytes));
}

Result<std::vector<std::uint8_t>> AssetReader::ReadChunk(const ChunkInfo& chunk) const {
  const ChunkInfo* known = FindChunk(chunk.id);
  if (known == nullptr) return Fail(Code::kNotFound, "asset: expected a chunk of this file");
  Pages::Page& page = *pages_->all[pages_->of_chunk[static_cast<std::size_t>(known - chunks_.data())]];
  if (page.whole && !page.verified.load(std::memory_order_acquire)) {
    std::vector<std::uint8_t> bytes(page.front_bytes + 4 + page.data_bytes);
    HOLO_RETURN_IF_ERROR(source_->ReadAt(page.offset, bytes));
    const std::span<const std::uint8_t> all(bytes);
    const std::uint32_t crc =
        bytes::Crc32(all.subspan(page.front_bytes + 4), bytes::Crc32(all.first(page.front_bytes)));
    if (crc != page.crc) {
      return Fail(Code::kDataLoss, "asset page at offset " + std::to_string(page.offset) + ": expected checksum " +
                                       std::to_string(page.crc) + ", found " + std::to_string(crc));
    }
    page.verified.store(true, std::memory_order_release);
  }
  std::vector<std::uint8_t> out(AvailableBytes(*known));
  HOLO_RETURN_IF_ERROR(source_->ReadAt(known->offset, out));
  return out;
}

Result<std::vector<std::uint8_t>> SerializeAsset(const AssetHeader& header,
                                                 const std::vector<std::vector<std::uint8_t>>& embedded_bases,
                                                 std::vector<ChunkData> chunks) {
  std::sort(chunks.begin(), chunks.end(), [](const ChunkData& a, const ChunkData& b) { return a.id < b.id; });
  bytes::ByteWriter directory;
  directory.WriteVarint(embedded_bases.size());
  for (const auto& bytes : embedded_bases) directory.WriteVarint(bytes.size());
  std::vector<double> saved(header.layer_count, 0.0);
  std::vector<double> paid(header.layer_count, 0.0);
  for (const ChunkData& chunk : chunks) {
    if (chunk.id.layer >= header.layer_count) continue;  // refused below
    saved[chunk.id.layer] += std::max(0.0, chunk.distortion);
    paid[chunk.id.layer] += static_cast<double>(chunk.bytes.size());
  }
  for (std::uint32_t layer = 0; layer < header.layer_count; ++layer) {
    directory.WriteU8(EncodeSlope(saved[layer] / std::max(1.0, paid[layer]), header.base_step));
  }
  bytes::ByteWriter pages;
  bytes::ByteWriter table;
  auto next = chunks.begin();
  auto page_begin = next;
  std::uint64_t data_bytes = 0;
  const auto end_page = [&] {
    if (data_bytes == 0) return;
    bytes::ByteWriter front;
    front.WriteVarint(table.size());
    front.WriteSpan(table.bytes());
    std::uint32_t crc = bytes::Crc32(front.bytes());
    for (auto chunk = page_begin; chunk != next; ++chunk) crc = bytes::Crc32(chunk->bytes, crc);
    pages.WriteSpan(front.bytes());
    pages.WriteU32(crc);
    for (; page_begin != next; ++page_begin) {
      pages.WriteSpan(page_begin->bytes);
      page_begin->bytes = {};
    }
    table = {};
    data_bytes = 0;
  };
  const auto write_run = [&](std::span<const ChunkId> tiles) -> Result<void> {
    std::vector<std::uint8_t> is_here((tiles.size() + 7) / 8, 0);
    bytes::ByteWriter sizes;
    for (std::size_t i = 0; i < tiles.size(); ++i) {
      if (next == chunks.end() || next->id != tiles[i]) continue;
      const std::size_t size = next->bytes.size();
      if (size == 0 || size > kMaxChunkBytes) {
        return Fail(Code::kResourceExhausted, "asset: expected chunks of 1 to " + std::to_string(kMaxChunkBytes) +
                                                  " bytes, found " + std::to_string(size));
      }
      is_here[i / 8] = static_cast<std::uint8_t>(is_here[i / 8] | 1u << i % 8);
      sizes.WriteVarint(size);
      data_bytes += size;
      ++next;
    }
    table.WriteSpan(is_here);
    table.WriteSpan(sizes.bytes());
    if (data_bytes >= kPageBytes) end_page();
    return {};
  };
  HOLO_RETURN_IF_ERROR(ForEachRun(header, write_run));
  end_page();
  if (next != chunks.end()) return Fail(Code::kInternal, "asset: a chunk outside the header's levels, tiles or layers");
  directory.WriteVarint(pages.bytes().size());
  bytes::ByteWriter out;
  out.WriteSpan(SerializeHeader(header));
  AppendSection(out, directory.bytes(), 0);
  for (const auto& bytes : embedded_bases) out.WriteSpan(bytes);
  out.WriteSpan(pages.bytes());
  return out.Take();
}

}  // namespace holo::container
