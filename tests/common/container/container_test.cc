#include "common/container/container.h"

#include <doctest/doctest.h>

#include <algorithm>

namespace holo::container {
namespace {

AssetHeader SmallHeader() {
  AssetHeader header;
  header.layout = {700, 300, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false};
  header.metadata.icc_profile = {9, 8, 7};
  header.metadata.source_orientation = 3;
  header.color_transform = ColorTransform::kYCbCr;
  header.base_step = 4.5f;
  header.smoothing = 28;
  header.layer_count = 3;
  header.max_k = 30;
  header.final_mse = 1.25f;
  header.bases = {basis::BuiltInLuma()->hash(), basis::BuiltInChroma()->hash()};
  header.groups = {{0, 1, 0, 1.0f, 0}, {1, 1, 1, 1.5f, 0b10}, {2, 1, 1, 1.5f, 0b10101}};
  header.levels = DeriveLevels(700, 300);
  return header;
}

std::vector<ChunkData> SomeChunks(const AssetHeader& header) {
  std::vector<ChunkData> chunks;
  for (std::uint32_t layer = 0; layer < header.layer_count; ++layer) {
    for (std::size_t level = 0; level < header.levels.size(); ++level) {
      for (std::uint32_t tile = 0; tile < header.levels[level].tile_count(); ++tile) {
        if ((layer + tile) % 3 == 2) continue;
        ChunkData chunk;
        chunk.id = {static_cast<std::uint8_t>(layer), static_cast<std::uint8_t>(level), tile};
        chunk.distortion = 1000.0 * (layer + 1);
        chunk.bytes.assign(10 + tile, static_cast<std::uint8_t>(layer * 16 + level));
        chunks.push_back(std::move(chunk));
      }
    }
  }
  return chunks;
}

std::shared_ptr<MemorySource> SourceOf(std::vector<std::uint8_t> bytes) {
  return std::make_shared<MemorySource>(std::move(bytes));
}

TEST_CASE("levels go down to sixteen samples") {
  struct Row {
    std::uint32_t width, height;
    std::size_t levels;
    std::uint32_t top_width, top_height;
  };
  const Row rows[] = {
      {1, 1, 2, 1, 1}, {128, 128, 2, 16, 16}, {129, 8, 3, 5, 1}, {768, 512, 4, 6, 4}, {16810, 1708, 6, 9, 1},
  };
  for (const Row& row : rows) {
    CAPTURE(row.width);
    const std::vector<Level> levels = DeriveLevels(row.width, row.height);
    CHECK(levels.size() == row.levels);
    CHECK(levels.size() <= kMaxLevels);
    CHECK(levels.back().width == row.top_width);
    CHECK(levels.back().height == row.top_height);
    CHECK(levels.back().patch_px == 1);
    CHECK(levels.back().tile_count() == 1);
    CHECK(levels.front().patch_px == 8);
  }
  CHECK(DeriveLevels(pixels::kMaxDimension, 2).size() <= kMaxLevels);
}

TEST_CASE("a header's bytes give the header back") {
  const AssetHeader header = SmallHeader();
  const AssetHeader parsed = ParseHeader(SerializeHeader(header)).value();
  CHECK(parsed.layout == header.layout);
  CHECK(parsed.lapped);
  AssetHeader unlapped = SmallHeader();
  unlapped.lapped = false;
  const std::vector<std::uint8_t> serialised = SerializeHeader(unlapped);
  CHECK_FALSE(ParseHeader(serialised).value().lapped);
  CHECK_FALSE(parsed.large_tiles);
  AssetHeader large = SmallHeader();
  large.large_tiles = true;
  const AssetHeader parsed_large = ParseHeader(SerializeHeader(large)).value();
  CHECK(parsed_large.large_tiles);
  CHECK(parsed_large.levels.front().tile_count() == 1);
  CHECK(parsed.metadata == header.metadata);
  CHECK(parsed.base_step == header.base_step);
  CHECK(parsed.layer_count == header.layer_count);
  CHECK(parsed.max_k == header.max_k);
  CHECK(parsed.final_mse == header.final_mse);
  CHECK(parsed.bases == header.bases);
  REQUIRE(parsed.groups.size() == 3);
  CHECK(parsed.groups[2].first_channel == 2);
  CHECK(parsed.groups[2].step_weight == 1.5f);
  CHECK(parsed.groups[1].idle_slots == 0b10);
  CHECK(parsed.groups[2].idle_slots == 0b10101);
  CHECK(parsed.smoothing == 28);
  AssetHeader idle = SmallHeader();
  idle.groups[1].idle_slots = 0b1111;
  CHECK_FALSE(ParseHeader(SerializeHeader(idle)).has_value());
  AssetHeader unknown = SmallHeader();
  unknown.bases[1] = basis::HashOf(std::vector<std::uint8_t>{1, 2, 3});
  CHECK(ParseHeader(SerializeHeader(unknown)).value().bases == unknown.bases);
  CHECK(SerializeHeader(unknown).size() == SerializeHeader(header).size() + sizeof(basis::Hash));
  CHECK(parsed.levels.size() == header.levels.size());
}

TEST_CASE("a file gives every chunk back, in sending order") {
  AssetHeader wide = SmallHeader();  // pages begin on one level and end on the next
  wide.layout.width = 9000;
  wide.layout.height = 2000;
  wide.levels = DeriveLevels(9000, 2000);
  REQUIRE(wide.levels[0].tile_count() > 200);
  for (const AssetHeader& header : {SmallHeader(), wide}) {
    CAPTURE(header.layout.width);
    const std::vector<ChunkData> chunks = SomeChunks(header);
    const std::vector<std::uint8_t> file = SerializeAsset(header, {}, chunks).value();
    const auto reader = AssetReader::Open(SourceOf(file)).value();
    CHECK_FALSE(reader.is_truncated());
    CHECK(reader.chunks().size() == chunks.size());
    CHECK(std::is_sorted(reader.chunks().begin(), reader.chunks().end(),
                         [](const ChunkInfo& a, const ChunkInfo& b) { return a.id < b.id && a.offset < b.offset; }));
    CHECK(reader.chunks().front().id.level == header.levels.size() - 1);
    std::size_t bytes = SerializeHeader(header).size();
    std::vector<double> saved(header.layer_count), claimed(header.layer_count), paid(header.layer_count);
    for (const ChunkData& chunk : chunks) {
      const ChunkInfo* info = reader.FindChunk(chunk.id);
      REQUIRE(info != nullptr);
      CHECK(reader.ReadChunk(*info).value() == chunk.bytes);
      saved[chunk.id.layer] += chunk.distortion;
      claimed[chunk.id.layer] += info->distortion;
      paid[chunk.id.layer] += info->size_bytes;
      bytes += chunk.bytes.size();
    }
    // Each layer saves what it should, and every byte of it the same.
    for (std::size_t layer = 0; layer < header.layer_count; ++layer) {
      CHECK(claimed[layer] / saved[layer] > 0.95);
      CHECK(claimed[layer] / saved[layer] < 1.05);
    }
    for (const ChunkInfo& info : reader.chunks()) {
      CHECK(info.distortion / info.size_bytes == doctest::Approx(claimed[info.id.layer] / paid[info.id.layer]));
    }
    CHECK(reader.FindChunk({2, 0, 0}) == nullptr);
    CHECK(reader.header_bytes() == SerializeHeader(header));
    // What says where a chunk is takes two bytes, an eighth of one where there is none, and six for a page.
    std::size_t tiles = 0;
    for (const Level& level : header.levels) tiles += level.tile_count() * header.layer_count;
    CHECK(file.size() - bytes < 2 * chunks.size() + tiles / 8 + 6 * (tiles / 64 + header.layer_count) + 10);
  }
}

TEST_CASE("embedded bases are found by hash, and only those that the header names are taken") {
  AssetHeader header = SmallHeader();
  const std::vector<std::vector<std::uint8_t>> bases = {basis::BuiltInLuma()->bytes()};
  const auto reader = AssetReader::Open(SourceOf(SerializeAsset(header, bases, SomeChunks(header)).value())).value();
  REQUIRE(reader.EmbeddedBasis(basis::BuiltInLuma()->hash()) != nullptr);
  CHECK(*reader.EmbeddedBasis(basis::BuiltInLuma()->hash()) == bases[0]);
  CHECK(reader.EmbeddedBasis(basis::BuiltInChroma()->hash()) == nullptr);
  header.bases = {basis::BuiltInChroma()->hash(), basis::BuiltInChroma()->hash()};
  CHECK_FALSE(AssetReader::Open(SourceOf(SerializeAsset(header, bases, {}).value())).has_value());
}

TEST_CASE("every prefix either opens with the chunks it holds or is refused") {
  const AssetHeader header = SmallHeader();
  std::vector<ChunkData> chunks = SomeChunks(header);
  for (ChunkData& chunk : chunks) {
    if (chunk.id.level == 0) chunk.bytes.resize(700, 7);  // so that there are several pages
  }
  const std::vector<std::uint8_t> file = SerializeAsset(header, {}, chunks).value();
  REQUIRE(file.size() > 6000);
  std::size_t last_chunks = 0;
  for (std::size_t size = 0; size < file.size(); ++size) {
    CAPTURE(size);
    const auto reader = AssetReader::Open(SourceOf({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)}));
    if (!reader) {
      CHECK(last_chunks == 0);
      CHECK(reader.error().code == Code::kDataLoss);
      continue;
    }
    CHECK(reader->is_truncated());
    CHECK(reader->chunks().size() >= last_chunks);
    last_chunks = reader->chunks().size();
    for (const ChunkInfo& chunk : reader->chunks()) {
      CHECK(reader->ReadChunk(chunk).value().size() == reader->AvailableBytes(chunk));
    }
  }
}

TEST_CASE("a flipped bit is noticed when the file is opened or the chunk is read") {
  const AssetHeader header = SmallHeader();
  const std::vector<std::uint8_t> file = SerializeAsset(header, {}, SomeChunks(header)).value();
  for (std::size_t at = 0; at < file.size(); ++at) {
    CAPTURE(at);
    std::vector<std::uint8_t> damaged = file;
    damaged[at] ^= 0x10;
    const auto reader = AssetReader::Open(SourceOf(damaged));
    if (!reader) continue;
    bool noticed = false;
    for (const ChunkInfo& chunk : reader->chunks()) noticed = noticed || !reader->ReadChunk(chunk).has_value();
    CHECK(noticed);
  }
}

TEST_CASE("another version is refused by number, trailing bytes by count") {
  const AssetHeader header = SmallHeader();
  std::vector<std::uint8_t> file = SerializeAsset(header, {}, SomeChunks(header)).value();
  std::vector<std::uint8_t> longer = file;
  longer.push_back(0);
  CHECK_FALSE(AssetReader::Open(SourceOf(longer)).has_value());
  file[4] = 9;
  const auto reader = AssetReader::Open(SourceOf(file));
  REQUIRE_FALSE(reader.has_value());
  CHECK(reader.error().code == Code::kUnimplemented);
  CHECK(reader.error().message.find("found 9") != std::string::npos);
  CHECK_FALSE(AssetReader::Open(SourceOf({})).has_value());
}

TEST_CASE("tiles and what they touch") {
  const AssetHeader header = SmallHeader();
  CHECK(header.TileRect(0, 2) == pixels::Rect{512, 0, 188, 256});
  CHECK(header.TileRect(0, 4) == pixels::Rect{256, 256, 256, 44});
  const auto inside = header.TilesTouching(0, {300, 100, 50, 50});
  CHECK(inside.x0 == 1);
  CHECK(inside.x1 == 1);
  CHECK(inside.y1 == 0);
  const auto border = header.TilesTouching(0, {258, 100, 50, 155});
  CHECK(border.x0 == 0);
  CHECK(border.x1 == 1);
  CHECK(border.y1 == 1);
  AssetHeader large = header;
  large.large_tiles = true;
  large.layout.width = 1200;
  large.levels = DeriveLevels(1200, 300, true);
  CHECK(large.TileRect(0, 1) == pixels::Rect{1024, 0, 176, 300});
  CHECK(large.TileRect(1, 0) == pixels::Rect{0, 0, 1200, 300});
  CHECK(large.TilesTouching(0, {458, 100, 550, 155}).x1 == 0);
  CHECK(large.TilesTouching(0, {458, 100, 560, 155}).x1 == 1);
}

}  // namespace
}  // namespace holo::container
