// The two byte formats of FORMAT.md.
#include <algorithm>
#include <cstring>

#include "common/bytes/bytes.h"
#include "common/language_model/kv_cache/kv_cache.h"

namespace holo::kv_cache {
namespace {

constexpr char kBasisMagic[9] = "holo-kvb";
constexpr char kCacheMagic[9] = "holo-kvc";
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kDigestBytes = 32;
constexpr std::uint64_t kMaxTextBytes = 65536;

std::span<const std::uint8_t> Bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

void WriteFloats(bytes::ByteWriter& writer, std::span<const float> values) {
  for (const float value : values) writer.WriteF32(value);
}

Result<std::vector<float>> ReadFloats(bytes::ByteReader& reader, std::uint64_t count, std::string_view name) {
  // A length is a claim: the bytes must be there before memory is taken for them.
  if (count > reader.remaining() / sizeof(float)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected " + std::to_string(count) + " numbers at offset " +
                                     std::to_string(reader.offset()) + ", found " + std::to_string(reader.remaining()) +
                                     " bytes");
  }
  std::vector<float> values(count);
  for (float& value : values) {
    HOLO_ASSIGN_OR_RETURN(value, reader.ReadFiniteF32());
  }
  return values;
}

std::string Quoted(std::span<const std::uint8_t> bytes) {
  return bytes::ToHex(bytes);
}

// Checks magic, version and the digest at the end; returns what lies between.
Result<std::span<const std::uint8_t>> Open(std::span<const std::uint8_t> bytes, const char* magic,
                                           std::string_view name) {
  bytes::ByteReader reader(bytes, name);
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> found_magic, reader.ReadSpan(8));
  if (std::memcmp(found_magic.data(), magic, 8) != 0) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected it to begin with \"" + magic + "\", found bytes " +
                                     Quoted(found_magic));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t version, reader.ReadU16());
  if (version != kVersion) {
    return Fail(Code::kUnimplemented, std::string(name) + ": expected version " + std::to_string(kVersion) +
                                          ", found " + std::to_string(version));
  }
  if (reader.remaining() < kDigestBytes) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected a digest of 32 bytes at the end, found " +
                                     std::to_string(reader.remaining()));
  }
  const std::array<std::uint8_t, kDigestBytes> digest = bytes::Sha256(bytes.first(bytes.size() - kDigestBytes));
  if (!std::equal(digest.begin(), digest.end(), bytes.end() - kDigestBytes)) {
    return Fail(Code::kDataLoss, std::string(name) + ": its bytes do not have the digest at its end: it is damaged");
  }
  return bytes.subspan(reader.offset(), reader.remaining() - kDigestBytes);
}

std::vector<std::uint8_t> Close(bytes::ByteWriter writer) {
  const std::array<std::uint8_t, kDigestBytes> digest = bytes::Sha256(writer.bytes());
  writer.WriteSpan(digest);
  return writer.Take();
}

void WriteGeometry(bytes::ByteWriter& writer, const Geometry& geometry) {
  writer.WriteU32(geometry.layers);
  writer.WriteU32(geometry.heads);
  writer.WriteU32(geometry.head_width);
}

Result<Geometry> ReadGeometry(bytes::ByteReader& reader, std::string_view name) {
  Geometry geometry;
  HOLO_ASSIGN_OR_RETURN(geometry.layers, reader.ReadU32());
  HOLO_ASSIGN_OR_RETURN(geometry.heads, reader.ReadU32());
  HOLO_ASSIGN_OR_RETURN(geometry.head_width, reader.ReadU32());
  const std::uint64_t width = std::uint64_t{geometry.heads} * geometry.head_width;
  if (geometry.layers == 0 || geometry.layers > kMaxLayers || width == 0 || width > kMaxWidth) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected 1 to " + std::to_string(kMaxLayers) +
                                     " layers and a width of 1 to " + std::to_string(kMaxWidth) + ", found " +
                                     std::to_string(geometry.layers) + " and " + std::to_string(width));
  }
  return geometry;
}

Result<BasisLayer> ReadLayer(bytes::ByteReader& reader, Method method, std::uint64_t width, std::string_view name) {
  BasisLayer layer;
  HOLO_ASSIGN_OR_RETURN(layer.rank, reader.ReadU32());
  const bool latent = method == Method::kLatent;
  const std::uint64_t most = latent ? compute::RoundUp(width, kGroup) : width;
  if (layer.rank == 0 || layer.rank > most || (latent && layer.rank % kGroup != 0)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected a rank of 1 to " + std::to_string(most) +
                                     (latent ? ", a multiple of 32" : "") + ", found " + std::to_string(layer.rank));
  }
  if (latent) {
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> bits, reader.ReadSpan(layer.rank / kGroup));
    layer.bits.assign(bits.begin(), bits.end());
    for (const std::uint8_t count : layer.bits) {
      if (count < 1 || count > 8) {
        return Fail(Code::kDataLoss, std::string(name) + ": expected 1 to 8 bits, found " + std::to_string(count));
      }
    }
  }
  const std::uint64_t sources = latent ? 1 : 2;
  HOLO_ASSIGN_OR_RETURN(layer.mean, ReadFloats(reader, sources * width, name));
  HOLO_ASSIGN_OR_RETURN(layer.encoder, ReadFloats(reader, sources * width * layer.rank, name));
  if (latent) {
    HOLO_ASSIGN_OR_RETURN(layer.decoder, ReadFloats(reader, width * layer.rank, name));
  }
  return layer;
}

}  // namespace

std::vector<std::uint8_t> SerialiseBasis(const Basis& basis) {
  bytes::ByteWriter writer;
  writer.WriteSpan(Bytes(kBasisMagic));
  writer.WriteU16(kVersion);
  writer.WriteU8(static_cast<std::uint8_t>(basis.method));
  WriteGeometry(writer, basis.geometry);
  writer.WriteSpan(basis.base_fingerprint);
  writer.WriteU32(static_cast<std::uint32_t>(basis.calibration.size()));
  writer.WriteSpan(Bytes(basis.calibration));
  for (const BasisLayer& layer : basis.layers) {
    writer.WriteU32(layer.rank);
    writer.WriteSpan(layer.bits);
    WriteFloats(writer, layer.mean);
    WriteFloats(writer, layer.encoder);
    WriteFloats(writer, layer.decoder);
  }
  return Close(std::move(writer));
}

Result<Basis> ParseBasis(std::span<const std::uint8_t> bytes, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> content, Open(bytes, kBasisMagic, name));
  bytes::ByteReader reader(content, name);
  Basis basis;
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t method, reader.ReadU8());
  if (method != static_cast<std::uint8_t>(Method::kLatent) && method != static_cast<std::uint8_t>(Method::kReport)) {
    return Fail(Code::kDataLoss,
                std::string(name) + ": expected method 1 (latent) or 2 (report), found " + std::to_string(method));
  }
  basis.method = static_cast<Method>(method);
  HOLO_ASSIGN_OR_RETURN(basis.geometry, ReadGeometry(reader, name));
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> fingerprint, reader.ReadSpan(kDigestBytes));
  std::copy(fingerprint.begin(), fingerprint.end(), basis.base_fingerprint.begin());
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t text_bytes, reader.ReadU32());
  if (text_bytes > kMaxTextBytes) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected at most " + std::to_string(kMaxTextBytes) +
                                     " bytes about the calibration, found " + std::to_string(text_bytes));
  }
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> text, reader.ReadSpan(text_bytes));
  basis.calibration.assign(reinterpret_cast<const char*>(text.data()), text.size());
  for (std::uint32_t i = 0; i < basis.geometry.layers; ++i) {
    HOLO_ASSIGN_OR_RETURN(BasisLayer layer, ReadLayer(reader, basis.method, basis.geometry.width(), name));
    basis.layers.push_back(std::move(layer));
  }
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  return basis;
}

std::vector<std::uint8_t> SaveCache(const Cache& cache, std::span<const std::uint8_t, 32> base_fingerprint,
                                    std::span<const std::uint32_t> tokens) {
  const Scheme& scheme = cache.scheme();
  bytes::ByteWriter writer;
  writer.WriteSpan(Bytes(kCacheMagic));
  writer.WriteU16(kVersion);
  WriteGeometry(writer, scheme.geometry());
  writer.WriteSpan(base_fingerprint);
  writer.WriteSpan(scheme.identity());
  writer.WriteU32(static_cast<std::uint32_t>(cache.tokens()));
  for (const std::uint32_t token : tokens) writer.WriteU32(token);
  for (std::size_t block = 0; block * kBlockTokens < cache.tokens(); ++block) {
    writer.WriteSpan({cache.Stored(0, block), scheme.block_bytes(block)});
  }
  return Close(std::move(writer));
}

Result<SavedCache> RestoreCache(std::span<const std::uint8_t> bytes, std::string_view name,
                                std::shared_ptr<const Scheme> scheme,
                                std::span<const std::uint8_t, 32> base_fingerprint) {
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> content, Open(bytes, kCacheMagic, name));
  bytes::ByteReader reader(content, name);
  HOLO_ASSIGN_OR_RETURN(const Geometry geometry, ReadGeometry(reader, name));
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> fingerprint, reader.ReadSpan(kDigestBytes));
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> identity, reader.ReadSpan(kDigestBytes));
  if (!std::equal(fingerprint.begin(), fingerprint.end(), base_fingerprint.begin())) {
    return Fail(Code::kFailedPrecondition, std::string(name) + ": it was saved by a model with fingerprint " +
                                               bytes::ToHex(fingerprint) + ", this one's is " +
                                               bytes::ToHex(base_fingerprint));
  }
  if (geometry != scheme->geometry() || !std::equal(identity.begin(), identity.end(), scheme->identity().begin())) {
    return Fail(Code::kFailedPrecondition, std::string(name) + ": it was stored in scheme " + bytes::ToHex(identity) +
                                               ", this is " + bytes::ToHex(scheme->identity()));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t count, reader.ReadU32());
  if (count > reader.remaining() / sizeof(std::uint32_t)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected " + std::to_string(count) + " tokens, found " +
                                     std::to_string(reader.remaining()) + " bytes");
  }
  SavedCache saved{Cache(scheme), std::vector<std::uint32_t>(count)};
  for (std::uint32_t& token : saved.tokens) {
    HOLO_ASSIGN_OR_RETURN(token, reader.ReadU32());
  }
  const std::size_t blocks = (std::size_t{count} + kBlockTokens - 1) / kBlockTokens;
  std::vector<std::span<const std::uint8_t>> parts;
  for (std::size_t block = 0; block < blocks; ++block) {
    HOLO_ASSIGN_OR_RETURN(parts.emplace_back(), reader.ReadSpan(scheme->block_bytes(block)));
  }
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  saved.cache.Load(count, parts);
  return saved;
}

}  // namespace holo::kv_cache
