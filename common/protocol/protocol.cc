#include "common/protocol/protocol.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "common/bytes/bytes.h"

namespace holo::protocol {
namespace {

template <typename Message>
Result<Message> Parse(std::span<const std::uint8_t> bytes, std::size_t limit, const char* what) {
  if (bytes.size() > limit) {
    return Fail(Code::kInvalidArgument, std::string(what) + ": expected at most " + std::to_string(limit) +
                                            " bytes, found " + std::to_string(bytes.size()));
  }
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Fail(Code::kInvalidArgument, std::string(what) + ": expected a protocol buffer of holo.v1, found " +
                                            std::to_string(bytes.size()) + " bytes that are none");
  }
  return message;
}

constexpr std::uint32_t kResumeMagic = 0x53525248;  // "HRRS"
constexpr std::uint8_t kResumeVersion = 1;
constexpr std::uint64_t kMaxResumeAssets = 1024;

}  // namespace

Result<v1::ClientMessage> ParseClientMessage(std::span<const std::uint8_t> bytes) {
  return Parse<v1::ClientMessage>(bytes, kMaxClientMessageBytes, "client message");
}

Result<v1::ServerMessage> ParseServerMessage(std::span<const std::uint8_t> bytes) {
  return Parse<v1::ServerMessage>(bytes, kMaxServerMessageBytes, "server message");
}

HeldChunks::HeldChunks(const std::vector<container::Level>& levels) {
  layers_.reserve(levels.size());
  for (const container::Level& level : levels) layers_.emplace_back(level.tile_count(), std::uint8_t{0});
}

Result<HeldChunks> HeldChunks::Parse(const google::protobuf::RepeatedPtrField<v1::HeldLevel>& held,
                                     const std::vector<container::Level>& levels) {
  HeldChunks chunks(levels);
  std::vector<bool> seen(levels.size(), false);
  for (const v1::HeldLevel& entry : held) {
    const std::uint32_t level = entry.level();
    const std::string where = "held chunks of level " + std::to_string(level);
    if (level >= levels.size()) {
      return Fail(Code::kInvalidArgument, where + ": the asset has " + std::to_string(levels.size()) + " levels");
    }
    if (seen[level]) return Fail(Code::kInvalidArgument, where + ": expected once, found twice");
    seen[level] = true;
    if (entry.runs_size() % 2 != 0) {
      return Fail(Code::kInvalidArgument,
                  where + ": expected pairs, found " + std::to_string(entry.runs_size()) + " numbers");
    }
    std::vector<std::uint8_t>& tiles = chunks.layers_[level];
    std::size_t tile = 0;
    for (int i = 0; i < entry.runs_size(); i += 2) {
      const std::uint32_t count = entry.runs(i);
      const std::uint32_t layers = entry.runs(i + 1);
      if (count == 0 || count > tiles.size() - tile) {
        return Fail(Code::kInvalidArgument, where + ": expected 1 to " + std::to_string(tiles.size() - tile) +
                                                " tiles at tile " + std::to_string(tile) + ", found " +
                                                std::to_string(count));
      }
      if (layers > container::kMaxLayers) {
        return Fail(Code::kInvalidArgument, where + ": expected at most " + std::to_string(container::kMaxLayers) +
                                                " layers, found " + std::to_string(layers));
      }
      std::fill_n(tiles.begin() + static_cast<std::ptrdiff_t>(tile), count, static_cast<std::uint8_t>(layers));
      tile += count;
    }
  }
  return chunks;
}

void HeldChunks::Serialize(google::protobuf::RepeatedPtrField<v1::HeldLevel>& out) const {
  out.Clear();
  for (std::size_t level = 0; level < layers_.size(); ++level) {
    const std::vector<std::uint8_t>& tiles = layers_[level];
    std::size_t end = tiles.size();
    while (end > 0 && tiles[end - 1] == 0) --end;
    if (end == 0) continue;
    v1::HeldLevel* entry = out.Add();
    entry->set_level(static_cast<std::uint32_t>(level));
    for (std::size_t first = 0; first < end;) {
      std::size_t last = first + 1;
      while (last < end && tiles[last] == tiles[first]) ++last;
      entry->add_runs(static_cast<std::uint32_t>(last - first));
      entry->add_runs(tiles[first]);
      first = last;
    }
  }
}

bool HeldChunks::Exists(std::uint32_t level, std::uint32_t tile) const {
  return level < layers_.size() && tile < layers_[level].size();
}

std::uint32_t HeldChunks::Layers(std::uint32_t level, std::uint32_t tile) const {
  return Exists(level, tile) ? layers_[level][tile] : 0;
}

void HeldChunks::SetLayers(std::uint32_t level, std::uint32_t tile, std::uint32_t layers) {
  layers_[level][tile] = static_cast<std::uint8_t>(layers);
}

std::vector<std::uint8_t> ResumeState::Serialize() const {
  bytes::ByteWriter writer;
  writer.WriteU32(kResumeMagic);
  writer.WriteU8(kResumeVersion);
  writer.WriteVarint(bases.size());
  for (const basis::Hash& hash : bases) writer.WriteSpan(hash);
  writer.WriteVarint(assets.size());
  for (const Asset& asset : assets) {
    writer.WriteVarint(asset.name.size());
    for (const char c : asset.name) writer.WriteU8(static_cast<std::uint8_t>(c));
    writer.WriteSpan(asset.content_hash);
    writer.WriteVarint(asset.held.size());
    for (const v1::HeldLevel& level : asset.held) {
      writer.WriteVarint(level.level());
      writer.WriteVarint(static_cast<std::uint64_t>(level.runs_size()));
      for (const std::uint32_t number : level.runs()) writer.WriteVarint(number);
    }
  }
  return writer.Take();
}

Result<ResumeState> ResumeState::Parse(std::span<const std::uint8_t> bytes) {
  bytes::ByteReader reader(bytes, "resume state");
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t magic, reader.ReadU32());
  if (magic != kResumeMagic) return Fail(Code::kDataLoss, "resume state: expected \"HRRS\" at offset 0");
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t version, reader.ReadU8());
  if (version != kResumeVersion) {
    return Fail(Code::kDataLoss, "resume state: expected version 1, found " + std::to_string(version));
  }
  ResumeState state;
  const auto read_hash = [&reader](basis::Hash& hash) -> Result<void> {
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> data, reader.ReadSpan(hash.size()));
    std::copy(data.begin(), data.end(), hash.begin());
    return {};
  };
  // Memory grows with what is read, never with what is claimed.
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t basis_count, reader.ReadVarint(kMaxBasisHashes));
  for (std::uint64_t i = 0; i < basis_count; ++i) {
    HOLO_RETURN_IF_ERROR(read_hash(state.bases.emplace_back()));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t asset_count, reader.ReadVarint(kMaxResumeAssets));
  for (std::uint64_t i = 0; i < asset_count; ++i) {
    Asset& asset = state.assets.emplace_back();
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t name_bytes, reader.ReadVarint(kMaxNameBytes));
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> name,
                          reader.ReadSpan(static_cast<std::size_t>(name_bytes)));
    asset.name.assign(name.begin(), name.end());
    HOLO_RETURN_IF_ERROR(read_hash(asset.content_hash));
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t level_count, reader.ReadVarint(container::kMaxLevels));
    for (std::uint64_t j = 0; j < level_count; ++j) {
      v1::HeldLevel& level = asset.held.emplace_back();
      HOLO_ASSIGN_OR_RETURN(const std::uint64_t number, reader.ReadVarint(container::kMaxLevels - 1));
      level.set_level(static_cast<std::uint32_t>(number));
      HOLO_ASSIGN_OR_RETURN(const std::uint64_t run_count, reader.ReadVarint(reader.remaining()));
      for (std::uint64_t k = 0; k < run_count; ++k) {
        HOLO_ASSIGN_OR_RETURN(const std::uint64_t run, reader.ReadVarint(std::numeric_limits<std::uint32_t>::max()));
        level.add_runs(static_cast<std::uint32_t>(run));
      }
    }
  }
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  return state;
}

Asset::Asset(container::AssetReader reader) : reader_(std::move(reader)) {
  const std::vector<container::Level>& levels = reader_.header().levels;
  std::size_t tiles = 0;
  for (const container::Level& level : levels) {
    first_tile_.push_back(tiles);
    tiles += level.tile_count();
  }
  // A counting sort by tile. The reader's order has layers rising within a tile already, and sorting keeps it.
  const std::vector<container::ChunkInfo>& chunks = reader_.chunks();
  start_.assign(tiles + 1, 0);
  // Of a file that is cut short the last chunk may be there in part: it is not for sending.
  const auto is_whole = [this](const container::ChunkInfo& chunk) {
    return !reader_.is_truncated() || reader_.AvailableBytes(chunk) == chunk.size_bytes;
  };
  for (const container::ChunkInfo& chunk : chunks) {
    if (is_whole(chunk)) ++start_[first_tile_[chunk.id.level] + chunk.id.tile + 1];
  }
  std::partial_sum(start_.begin(), start_.end(), start_.begin());
  std::vector<std::uint32_t> next(start_.begin(), start_.end() - 1);
  order_.resize(start_.back());
  for (std::uint32_t i = 0; i < chunks.size(); ++i) {
    if (!is_whole(chunks[i])) continue;
    order_[next[first_tile_[chunks[i].id.level] + chunks[i].id.tile]++] = i;
    chunk_bytes_ += chunks[i].size_bytes;
  }
}

std::span<const std::uint32_t> Asset::ChunksOf(std::uint32_t level, std::uint32_t tile) const {
  const std::size_t index = first_tile_[level] + tile;
  return std::span<const std::uint32_t>(order_).subspan(start_[index], start_[index + 1] - start_[index]);
}

std::size_t Asset::memory_bytes() const {
  std::size_t bytes = sizeof(*this) + reader_.header_bytes().size() * 3 +
                      reader_.chunks().size() * (sizeof(container::ChunkInfo) + sizeof(std::uint32_t)) +
                      start_.size() * sizeof(std::uint32_t);
  for (const basis::Hash& hash : reader_.header().bases) {
    if (const std::vector<std::uint8_t>* embedded = reader_.EmbeddedBasis(hash)) bytes += embedded->size();
  }
  return bytes;
}

}  // namespace holo::protocol
