#include <algorithm>
#include <string>
#include <utility>

#include "common/codec/chunk.h"
#include "common/codec/codec.h"
#include "common/codec/decoder_state.h"
#include "common/codec/parallel.h"

namespace holo::codec {

Decoder::Decoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
Decoder::~Decoder() = default;

Result<Decoder> Decoder::Create(container::AssetHeader header, const BasisResolver& resolve, Options options) {
  auto state = std::make_unique<State>();
  HOLO_ASSIGN_OR_RETURN(state->layout, AssetLayout::Create(header, resolve));
  state->levels.resize(header.levels.size());
  state->header = std::move(header);
  state->options = options;
  return Decoder(std::move(state));
}

const container::AssetHeader& Decoder::header() const {
  return state_->header;
}
std::uint64_t Decoder::received_bytes() const {
  return state_->received_bytes;
}
std::size_t Decoder::memory_bytes() const {
  return state_->chunk_memory_bytes + state_->decoded_memory_bytes;
}

bool Decoder::HasChunk(const container::ChunkId& id) const {
  if (id.level >= state_->levels.size()) return false;
  const auto tile = state_->levels[id.level].find(id.tile);
  return tile != state_->levels[id.level].end() && tile->second.chunks.contains(id.layer);
}

Result<pixels::Rect> Decoder::AddChunk(const container::ChunkId& id, std::span<const std::uint8_t> bytes) {
  return state_->Add(id, bytes, false);
}

Result<pixels::Rect> Decoder::AddPartialChunk(const container::ChunkId& id, std::span<const std::uint8_t> bytes) {
  return state_->Add(id, bytes, true);
}

Result<pixels::Rect> Decoder::State::Add(const container::ChunkId& id, std::span<const std::uint8_t> bytes,
                                         bool partial) {
  if (id.level >= header.levels.size() || id.layer >= header.layer_count ||
      id.tile >= header.levels[id.level].tile_count()) {
    return Fail(Code::kInvalidArgument, "chunk: expected a level below " + std::to_string(header.levels.size()) +
                                            ", a layer below " + std::to_string(header.layer_count) +
                                            " and a tile of that level, found level " + std::to_string(id.level) +
                                            ", layer " + std::to_string(id.layer) + ", tile " +
                                            std::to_string(id.tile));
  }
  if (bytes.size() > container::kMaxChunkBytes) {
    return Fail(Code::kResourceExhausted, "chunk: expected at most " + std::to_string(container::kMaxChunkBytes) +
                                              " bytes, found " + std::to_string(bytes.size()));
  }
  auto parsed = ParseChunkHeader(bytes, id.layer);
  if (!parsed) {
    if (partial) return pixels::Rect{};
    return tl::unexpected<Error>(std::move(parsed).error());
  }
  Tile& tile = levels[id.level][id.tile];
  if (tile.chunks.contains(id.layer)) return pixels::Rect{};
  Tile::Chunk chunk;
  chunk.previous_layer = parsed->previous_layer;
  chunk.passes = parsed->passes;
  chunk.partial = partial;
  const std::span<const std::uint8_t> code = bytes.subspan(parsed->size_bytes);
  chunk.bytes.assign(code.begin(), code.end());
  received_bytes += bytes.size();
  chunk_memory_bytes += bytes.size() + sizeof(Tile::Chunk);
  tile.chunks.emplace(id.layer, std::move(chunk));

  const int before = tile.usable_layer;
  for (auto next = tile.chunks.upper_bound(tile.usable_layer);
       next != tile.chunks.end() && next->second.previous_layer == tile.usable_layer; ++next) {
    if (tile.usable_layer >= 0 && tile.chunks.at(tile.usable_layer).partial) break;
    tile.usable_layer = next->first;
  }
  if (tile.usable_layer == before) return pixels::Rect{};
  const pixels::Rect core = header.TileRect(id.level, id.tile);
  const std::uint32_t reach = header.ReachPx(id.level);
  const std::uint32_t left = core.x > reach ? core.x - reach : 0;
  const std::uint32_t top = core.y > reach ? core.y - reach : 0;
  const pixels::Rect touched = {left, top, core.x - left + core.width + reach, core.y - top + core.height + reach};
  return pixels::Intersect(touched, {0, 0, header.layout.width, header.layout.height});
}

std::vector<std::shared_ptr<const TilePatches>> Decoder::State::Patches(std::span<const TileId> ids, unsigned threads) {
  constexpr std::size_t kBatch = 8;  // tiles of a thread by which the limit on memory may be exceeded for a while
  std::vector<std::shared_ptr<const TilePatches>> out;
  while (out.size() < ids.size()) {
    const std::size_t first = out.size();
    const std::size_t last = std::min(first + kBatch * std::max(threads, 1u), ids.size());
    std::vector<Tile*> tiles;
    std::vector<std::pair<TileId, Tile*>> stale;
    for (std::size_t i = first; i < last; ++i) {
      const auto found = levels[ids[i].level].find(ids[i].tile);
      const bool any = found != levels[ids[i].level].end() && found->second.usable_layer >= 0;
      Tile* tile = tiles.emplace_back(any ? &found->second : nullptr);
      if (tile == nullptr) continue;
      tile->last_use = ++use_clock;
      if (tile->patches == nullptr || tile->patches_layer < tile->usable_layer) stale.emplace_back(ids[i], tile);
    }
    for (const auto& [id, tile] : stale) decoded_memory_bytes -= tile->decoded_bytes();
    ForEach(threads, stale.size(), [&](std::size_t i) { Decode(stale[i].first, *stale[i].second); });
    for (const auto& [id, tile] : stale) decoded_memory_bytes += tile->decoded_bytes();
    for (const Tile* tile : tiles) out.push_back(tile != nullptr ? tile->patches : nullptr);
    if (!stale.empty()) Trim();
  }
  return out;
}

void Decoder::State::Decode(TileId id, Tile& tile) const {
  const container::Level& level = header.levels[id.level];
  const TileShape shape = ShapeOf(level, id.tile);
  if (tile.decoder == nullptr) {
    const std::vector<GroupShape> groups = layout.ShapesOf(level);
    tile.decoder = std::make_unique<TileDecoder>(KindOf(header, level), shape.columns, shape.rows, groups);
    tile.decoded_layer = -1;
  }
  while (tile.decoded_layer < tile.usable_layer) {
    const auto next = tile.chunks.upper_bound(tile.decoded_layer);
    tile.decoder->Decode(next->second.passes, next->second.bytes, next->second.partial);
    tile.decoded_layer = next->first;
  }
  tile.patches = std::make_shared<TilePatches>(MakePatches(header, layout, level, shape, tile.decoder->state()));
  tile.patches_layer = tile.decoded_layer;
  // Nothing more can come.
  if (tile.decoded_layer + 1 == static_cast<int>(header.layer_count)) tile.decoder.reset();
}

std::size_t Decoder::State::Tile::decoded_bytes() const {
  return (decoder != nullptr ? decoder->state().memory_bytes() : 0) +
         (patches != nullptr ? patches->memory_bytes() : 0);
}

void Decoder::State::Trim() {
  if (decoded_memory_bytes <= options.max_decoded_bytes) return;
  std::vector<Tile*> oldest;
  for (auto& level : levels) {
    for (auto& [index, tile] : level) {
      if (tile.decoder != nullptr || tile.patches != nullptr) oldest.push_back(&tile);
    }
  }
  std::sort(oldest.begin(), oldest.end(), [](const Tile* a, const Tile* b) { return a->last_use < b->last_use; });
  const auto drop = [&](auto Tile::*member) {
    for (Tile* tile : oldest) {
      if (decoded_memory_bytes <= options.max_decoded_bytes) return;
      decoded_memory_bytes -= tile->decoded_bytes();
      (tile->*member).reset();
      decoded_memory_bytes += tile->decoded_bytes();
    }
  };
  drop(&Tile::decoder);
  drop(&Tile::patches);
}

}  // namespace holo::codec
