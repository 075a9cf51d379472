// Chunks without a checksum around them, as a server might send them: the input is cut into pieces, each one a chunk.
//   byte: level, byte: layer, byte: tile, byte: length, then as many bytes
// A first tile of 128 and more makes the picture a drawing.
#include <algorithm>

#include "common/render/render.h"

namespace {

holo::container::AssetHeader Header(bool lapped) {
  using namespace holo;
  container::AssetHeader header;
  header.layout = {300, 270, 3, pixels::SampleType::kU8, pixels::ColorModel::kRgb, false};
  header.color_transform = container::ColorTransform::kYCbCr;
  header.base_step = 8;
  header.lapped = lapped;
  header.layer_count = 6;
  header.bases = {basis::BuiltInLuma()->hash(), basis::BuiltInChroma()->hash()};
  header.groups = {{0, 1, 0, 1.0f}, {1, 1, 1, 1.0f}, {2, 1, 1, 1.0f}};
  header.levels = container::DeriveLevels(300, 270);
  return header;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace holo;
  const bool lapped = size < 3 || data[2] < 128;
  auto decoder = codec::Decoder::Create(Header(lapped), basis::FindBuiltIn).value();
  while (size >= 4) {
    const container::ChunkId id = {data[1], data[0], data[2]};
    const std::size_t length = std::min<std::size_t>(data[3], size - 4);
    const std::span<const std::uint8_t> bytes(data + 4, length);
    if (data[1] >= 128) {
      (void)decoder.AddPartialChunk({static_cast<std::uint8_t>(data[1] - 128), data[0], data[2]}, bytes);
    } else {
      (void)decoder.AddChunk(id, bytes);
    }
    data += 4 + length;
    size -= 4 + length;
  }
  (void)render::Render(decoder, {{250, 250, 20, 20}, 0, 0});
  return 0;
}
