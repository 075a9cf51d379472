// A .holo file: opening it, reading every chunk, decoding, rendering a corner.
#include <algorithm>
#include <memory>

#include "common/render/render.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace holo;
  const auto source = std::make_shared<container::MemorySource>(std::vector<std::uint8_t>(data, data + size));
  const auto reader = container::AssetReader::Open(source);
  if (!reader) return 0;
  auto decoder = codec::Decoder::Create(reader->header(), [&reader](const basis::Hash& hash) {
    const auto* bytes = reader->EmbeddedBasis(hash);
    const auto embedded =
        bytes != nullptr ? basis::Basis::Parse(*bytes) : Result<std::shared_ptr<const basis::Basis>>();
    return embedded && *embedded ? *embedded : basis::FindBuiltIn(hash);
  });
  if (!decoder) return 0;
  for (const container::ChunkInfo& chunk : reader->chunks()) {
    const auto bytes = reader->ReadChunk(chunk);
    if (!bytes) continue;
    if (bytes->size() < chunk.size_bytes) {
      (void)decoder->AddPartialChunk(chunk.id, *bytes);
    } else {
      (void)decoder->AddChunk(chunk.id, *bytes);
    }
  }
  const pixels::Layout& layout = reader->header().layout;
  const pixels::Rect corner = {0, 0, std::min(layout.width, 40u), std::min(layout.height, 40u)};
  (void)render::Render(*decoder, {corner, 0, 0});
  (void)render::Render(*decoder, {corner, 3, 0});
  return 0;
}
