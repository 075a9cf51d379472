// Assets made of noise for tests of what moves chunks without looking inside them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "common/basis/basis.h"
#include "common/container/container.h"
#include "common/protocol/protocol.h"

namespace holo::testing {

struct SampleOptions {
  std::uint32_t width = 1100;
  std::uint32_t height = 700;
  std::uint32_t layers = 4;
  std::uint32_t chunk_bytes = 400;  // about, for every chunk
  std::uint32_t seed = 1;
  std::vector<std::uint8_t> icc_profile;
};

// Stands for a basis: nobody who moves bytes looks into it. Large enough to need two parts.
inline const std::vector<std::uint8_t>& SampleBasis() {
  static const std::vector<std::uint8_t> bytes(100'000, 0x5A);
  return bytes;
}

// The bytes of a .holo file: grey, its basis embedded. A byte saves a quarter with every layer.
inline std::vector<std::uint8_t> SampleFile(const SampleOptions& options) {
  container::AssetHeader header;
  header.layout = {options.width, options.height, 1, pixels::SampleType::kU8, pixels::ColorModel::kGray, false};
  header.metadata.icc_profile = options.icc_profile;
  header.base_step = 8.0f;
  header.layer_count = options.layers;
  header.final_mse = 2.0f;
  header.groups = {{0, 1, 0, 1.0f}};
  header.bases = {basis::HashOf(SampleBasis())};
  header.levels = container::DeriveLevels(options.width, options.height);

  std::mt19937 random(options.seed);
  std::vector<container::ChunkData> chunks;
  for (std::uint32_t level = 0; level < header.levels.size(); ++level) {
    for (std::uint32_t tile = 0; tile < header.levels[level].tile_count(); ++tile) {
      double saved = 180'000;  // by a byte
      for (std::uint32_t layer = 0; layer < options.layers; ++layer, saved /= 4) {
        container::ChunkData chunk;
        chunk.id = {static_cast<std::uint8_t>(layer), static_cast<std::uint8_t>(level), tile};
        chunk.bytes.resize(options.chunk_bytes / 2 + random() % options.chunk_bytes + 1);
        chunk.distortion = saved * static_cast<double>(chunk.bytes.size());
        for (std::uint8_t& byte : chunk.bytes) byte = static_cast<std::uint8_t>(random());
        chunks.push_back(std::move(chunk));
      }
    }
  }
  return container::SerializeAsset(header, {SampleBasis()}, std::move(chunks)).value();
}

inline std::shared_ptr<const protocol::Asset> SampleAsset(const SampleOptions& options) {
  auto source = std::make_shared<const container::MemorySource>(SampleFile(options));
  return std::make_shared<const protocol::Asset>(container::AssetReader::Open(std::move(source)).value());
}

}  // namespace holo::testing
