// split_asset FILE OUT: takes a .holo file apart, into what a server sends one by one.
//
// OUT is a sequence of records of five 32-bit integers (little-endian) and bytes: kind (0 header, 1 basis, 2 chunk),
// layer, level, tile, number of bytes; bytes. Embedded bases come before the chunks.
#include <algorithm>
#include <cstdio>
#include <string>

#include "common/bytes/bytes.h"
#include "common/container/container.h"
#include "common/files/files.h"

namespace holo {
namespace {

void Append(bytes::ByteWriter& out, std::uint32_t kind, const container::ChunkId& id,
            const std::vector<std::uint8_t>& bytes) {
  out.WriteU32(kind);
  out.WriteU32(id.layer);
  out.WriteU32(id.level);
  out.WriteU32(id.tile);
  out.WriteU32(static_cast<std::uint32_t>(bytes.size()));
  out.WriteSpan(bytes);
}

Result<void> Split(const std::string& in, const std::string& out_path) {
  HOLO_ASSIGN_OR_RETURN(const auto source, files::FileSource::Open(in));
  HOLO_ASSIGN_OR_RETURN(const container::AssetReader asset, container::AssetReader::Open(source));
  bytes::ByteWriter out;
  Append(out, 0, {}, asset.header_bytes());
  for (const basis::Hash& hash : asset.header().bases) {
    if (const auto* embedded = asset.EmbeddedBasis(hash)) Append(out, 1, {}, *embedded);
  }
  for (const container::ChunkInfo& chunk : asset.chunks()) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, asset.ReadChunk(chunk));
    Append(out, 2, chunk.id, bytes);
  }
  return files::AtomicWrite(out_path, out.bytes());
}

}  // namespace
}  // namespace holo

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto done = holo::Split(argv[1], argv[2]);
  if (!done) std::fprintf(stderr, "split_asset: %s\n", holo::ToString(done.error()).c_str());
  return done ? 0 : 1;
}
