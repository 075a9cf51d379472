// The two byte formats of FORMAT.md.
#include <algorithm>
#include <cstring>

#include "common/bytes/bytes.h"
#include "common/language_model/kv_cache/block_coder.h"
#include "common/language_model/kv_cache/kv_cache.h"

namespace holo::kv_cache {
namespace {

constexpr char kBasisMagic[9] = "holo-kvb";
constexpr char kCacheMagic[9] = "holo-kvc";
constexpr char kBlockMagic[5] = "hkvb";
constexpr std::uint8_t kBlockVersion = 3;
constexpr std::size_t kOwnerBytes = 16;
constexpr std::size_t kShortDigestBytes = 8;
constexpr std::uint16_t kBasisVersion = 1;
constexpr std::uint16_t kCacheVersion = 4;
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
                                           std::uint16_t expected_version, std::string_view name) {
  bytes::ByteReader reader(bytes, name);
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> found_magic, reader.ReadSpan(8));
  if (std::memcmp(found_magic.data(), magic, 8) != 0) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected it to begin with \"" + magic + "\", found bytes " +
                                     Quoted(found_magic));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint16_t version, reader.ReadU16());
  if (version != expected_version) {
    return Fail(Code::kUnimplemented, std::string(name) + ": expected version " + std::to_string(expected_version) +
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
  writer.WriteU32(geometry.heads | (geometry.keys() == geometry.heads ? 0 : geometry.keys() << 16));
  writer.WriteU32(geometry.head_width);
}

Result<Geometry> ReadGeometry(bytes::ByteReader& reader, std::string_view name) {
  Geometry geometry;
  HOLO_ASSIGN_OR_RETURN(geometry.layers, reader.ReadU32());
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t heads, reader.ReadU32());
  geometry.heads = heads & 0xFFFF;
  geometry.key_heads = heads >> 16;
  HOLO_ASSIGN_OR_RETURN(geometry.head_width, reader.ReadU32());
  const std::uint64_t width = std::uint64_t{geometry.heads} * geometry.head_width;
  if (geometry.layers == 0 || geometry.layers > kMaxLayers || width == 0 || width > kMaxWidth) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected 1 to " + std::to_string(kMaxLayers) +
                                     " layers and a width of 1 to " + std::to_string(kMaxWidth) + ", found " +
                                     std::to_string(geometry.layers) + " and " + std::to_string(width));
  }
  if (geometry.key_heads != 0 && (geometry.key_heads >= geometry.heads || geometry.heads % geometry.key_heads != 0)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected heads of keys that divide the " +
                                     std::to_string(geometry.heads) + " of queries, found " +
                                     std::to_string(geometry.key_heads));
  }
  return geometry;
}

Result<BasisLayer> ReadLayer(bytes::ByteReader& reader, Method method, const Geometry& geometry,
                             std::string_view name) {
  const std::uint64_t width = method == Method::kReport ? geometry.key_width() : geometry.width();
  BasisLayer layer;
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t ranks, reader.ReadU32());
  layer.rank = ranks & 0xFFFF;
  layer.key_rank = ranks >> 16;
  const bool latent = method == Method::kLatent;
  // Keys and values may each end in a group that is not full.
  const std::uint64_t most = latent ? compute::RoundUp(width, kGroup) + (layer.key_rank > 0 ? kGroup : 0) : width;
  if (layer.rank == 0 || layer.rank > most || (latent && layer.rank % kGroup != 0)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected a rank of 1 to " + std::to_string(most) +
                                     (latent ? ", a multiple of 32" : "") + ", found " + std::to_string(layer.rank));
  }
  if (layer.key_rank > 0 &&
      (method == Method::kReport || layer.key_rank >= layer.rank || (latent && layer.key_rank % kGroup != 0))) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected keys of fewer than " + std::to_string(layer.rank) +
                                     " coordinates" + (latent ? ", a multiple of 32" : "") + ", or of all (0), found " +
                                     std::to_string(layer.key_rank));
  }
  if (latent) {
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> bits, reader.ReadSpan(layer.rank / kGroup));
    layer.bits.assign(bits.begin(), bits.end());
    const unsigned least = layer.key_rank > 0 ? 0 : 1;
    for (const std::uint8_t count : layer.bits) {
      if (count < least || count > 8) {
        return Fail(Code::kDataLoss, std::string(name) + ": expected " + std::to_string(least) + " to 8 bits, found " +
                                         std::to_string(count));
      }
    }
  }
  if (method == Method::kStored) {
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> classes, reader.ReadSpan(layer.rank));
    layer.classes.assign(classes.begin(), classes.end());
    for (const std::uint8_t of_coordinate : classes) {
      if (of_coordinate >= kClasses) {
        return Fail(Code::kDataLoss, std::string(name) + ": expected classes below " + std::to_string(kClasses) +
                                         ", found " + std::to_string(of_coordinate));
      }
    }
  }
  const std::uint64_t sources = method == Method::kReport ? 2 : 1;
  HOLO_ASSIGN_OR_RETURN(layer.mean, ReadFloats(reader, sources * width, name));
  HOLO_ASSIGN_OR_RETURN(layer.encoder, ReadFloats(reader, sources * width * layer.rank, name));
  if (method != Method::kReport) {
    HOLO_ASSIGN_OR_RETURN(layer.decoder, ReadFloats(reader, width * layer.rank, name));
  }
  return layer;
}

Result<std::vector<std::uint32_t>> ReadTokens(bytes::ByteReader& reader, std::uint32_t count, std::string_view name) {
  // A length is a claim: a token takes a byte or more.
  if (count > reader.remaining()) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected " + std::to_string(count) + " tokens, found " +
                                     std::to_string(reader.remaining()) + " bytes");
  }
  std::vector<std::uint32_t> tokens(count);
  for (std::uint32_t& token : tokens) {
    HOLO_ASSIGN_OR_RETURN(const std::uint64_t value, reader.ReadVarint(UINT32_MAX));
    token = static_cast<std::uint32_t>(value);
  }
  return tokens;
}

void WriteBlock(bytes::ByteWriter& writer, const Cache& cache, std::size_t block) {
  const std::size_t tokens = std::min(kBlockTokens, cache.tokens() - block * kBlockTokens);
  const std::vector<std::uint8_t> packed = cache.scheme().Pack(block, tokens, cache.Stored(0, block));
  writer.WriteU32(static_cast<std::uint32_t>(packed.size()));
  writer.WriteSpan(packed);
}

Result<void> ReadBlock(bytes::ByteReader& reader, Cache& cache, std::size_t tokens, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t length, reader.ReadU32());
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> packed, reader.ReadSpan(length));
  return cache.Load(tokens, packed, name);
}

// Whose block it is: the beginning of a digest of the model's fingerprint and the scheme's identity.
std::vector<std::uint8_t> Owner(const Scheme& scheme, std::span<const std::uint8_t, 32> base_fingerprint) {
  bytes::ByteWriter writer;
  writer.WriteSpan(base_fingerprint);
  writer.WriteSpan(scheme.identity());
  const std::array<std::uint8_t, kDigestBytes> digest = bytes::Sha256(writer.bytes());
  return {digest.begin(), digest.begin() + kOwnerBytes};
}

}  // namespace

std::vector<std::uint8_t> SerialiseBasis(const Basis& basis) {
  bytes::ByteWriter writer;
  writer.WriteSpan(Bytes(kBasisMagic));
  writer.WriteU16(kBasisVersion);
  writer.WriteU8(static_cast<std::uint8_t>(basis.method));
  WriteGeometry(writer, basis.geometry);
  writer.WriteSpan(basis.base_fingerprint);
  writer.WriteU32(static_cast<std::uint32_t>(basis.calibration.size()));
  writer.WriteSpan(Bytes(basis.calibration));
  for (const BasisLayer& layer : basis.layers) {
    writer.WriteU32(layer.rank | layer.key_rank << 16);
    writer.WriteSpan(layer.bits);
    writer.WriteSpan(layer.classes);
    WriteFloats(writer, layer.mean);
    WriteFloats(writer, layer.encoder);
    WriteFloats(writer, layer.decoder);
  }
  writer.WriteSpan(basis.table);
  return Close(std::move(writer));
}

Result<Basis> ParseBasis(std::span<const std::uint8_t> bytes, std::string_view name) {
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> content, Open(bytes, kBasisMagic, kBasisVersion, name));
  bytes::ByteReader reader(content, name);
  Basis basis;
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t method, reader.ReadU8());
  if (method < static_cast<std::uint8_t>(Method::kLatent) || method > static_cast<std::uint8_t>(Method::kStored)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected method 1 (latent), 2 (report) or 3 (stored), found " +
                                     std::to_string(method));
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
    HOLO_ASSIGN_OR_RETURN(BasisLayer layer, ReadLayer(reader, basis.method, basis.geometry, name));
    basis.layers.push_back(std::move(layer));
  }
  if (basis.method == Method::kStored) {
    HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> table, reader.ReadSpan(kCoderTableBytes));
    if (std::find(table.begin(), table.end(), 0) != table.end()) {
      return Fail(Code::kDataLoss, std::string(name) + ": expected probabilities of 1 to 255, found 0");
    }
    basis.table.assign(table.begin(), table.end());
  }
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  return basis;
}

std::vector<std::uint8_t> SaveCache(const Cache& cache, std::span<const std::uint8_t, 32> base_fingerprint,
                                    std::span<const std::uint32_t> tokens) {
  const Scheme& scheme = cache.scheme();
  bytes::ByteWriter writer;
  writer.WriteSpan(Bytes(kCacheMagic));
  writer.WriteU16(kCacheVersion);
  WriteGeometry(writer, scheme.geometry());
  writer.WriteSpan(base_fingerprint);
  writer.WriteSpan(scheme.identity());
  writer.WriteU32(static_cast<std::uint32_t>(cache.tokens()));
  for (const std::uint32_t token : tokens) writer.WriteVarint(token);
  for (std::size_t block = 0; block * kBlockTokens < cache.tokens(); ++block) WriteBlock(writer, cache, block);
  return Close(std::move(writer));
}

Result<SavedCache> RestoreCache(std::span<const std::uint8_t> bytes, std::string_view name,
                                std::shared_ptr<const Scheme> scheme,
                                std::span<const std::uint8_t, 32> base_fingerprint) {
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> content, Open(bytes, kCacheMagic, kCacheVersion, name));
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
  HOLO_ASSIGN_OR_RETURN(std::vector<std::uint32_t> tokens, ReadTokens(reader, count, name));
  SavedCache saved{Cache(std::move(scheme)), std::move(tokens)};
  for (std::size_t first = 0; first < count; first += kBlockTokens) {
    HOLO_RETURN_IF_ERROR(ReadBlock(reader, saved.cache, std::min<std::size_t>(kBlockTokens, count - first), name));
  }
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  return saved;
}

std::vector<std::uint8_t> SaveBlock(const Cache& cache, std::size_t block,
                                    std::span<const std::uint8_t, 32> base_fingerprint,
                                    std::span<const std::uint32_t> tokens) {
  bytes::ByteWriter writer;
  writer.WriteSpan(Bytes(kBlockMagic));
  writer.WriteU8(kBlockVersion);
  writer.WriteSpan(Owner(cache.scheme(), base_fingerprint));
  writer.WriteVarint(block);
  writer.WriteU8(static_cast<std::uint8_t>(tokens.size()));
  for (const std::uint32_t token : tokens) writer.WriteVarint(token);
  WriteBlock(writer, cache, block);
  const std::array<std::uint8_t, kDigestBytes> digest = bytes::Sha256(writer.bytes());
  writer.WriteSpan(std::span(digest).first(kShortDigestBytes));
  return writer.Take();
}

std::size_t SavedBytes(const Cache& cache, std::span<const std::uint32_t> tokens) {
  std::size_t bytes = 0;
  for (std::size_t first = 0; first < cache.tokens(); first += kBlockTokens) {
    const std::size_t count = std::min(kBlockTokens, cache.tokens() - first);
    bytes += SaveBlock(cache, first / kBlockTokens, std::array<std::uint8_t, 32>{}, tokens.subspan(first, count)).size();
  }
  return bytes;
}

Result<std::vector<std::uint32_t>> RestoreBlock(std::span<const std::uint8_t> bytes, std::string_view name,
                                                Cache& cache, std::span<const std::uint8_t, 32> base_fingerprint) {
  bytes::ByteReader whole(bytes, name);
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> magic, whole.ReadSpan(4));
  if (std::memcmp(magic.data(), kBlockMagic, 4) != 0) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected it to begin with \"" + kBlockMagic +
                                     "\", found bytes " + Quoted(magic));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t version, whole.ReadU8());
  if (version != kBlockVersion) {
    return Fail(Code::kUnimplemented, std::string(name) + ": expected version " + std::to_string(kBlockVersion) +
                                          ", found " + std::to_string(version));
  }
  if (whole.remaining() < kShortDigestBytes) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected a digest of 8 bytes at the end, found " +
                                     std::to_string(whole.remaining()));
  }
  const std::span<const std::uint8_t> content = bytes.first(bytes.size() - kShortDigestBytes);
  const std::array<std::uint8_t, kDigestBytes> digest = bytes::Sha256(content);
  if (!std::equal(digest.begin(), digest.begin() + kShortDigestBytes, bytes.end() - kShortDigestBytes)) {
    return Fail(Code::kDataLoss, std::string(name) + ": its bytes do not have the digest at its end: it is damaged");
  }
  bytes::ByteReader reader(content.subspan(whole.offset()), name);
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> owner, reader.ReadSpan(kOwnerBytes));
  const std::vector<std::uint8_t> expected_owner = Owner(cache.scheme(), base_fingerprint);
  if (!std::equal(owner.begin(), owner.end(), expected_owner.begin())) {
    return Fail(Code::kFailedPrecondition, std::string(name) + ": it belongs to model and scheme " +
                                               bytes::ToHex(owner) + ", these are " + bytes::ToHex(expected_owner));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t block, reader.ReadVarint());
  if (cache.tokens() % kBlockTokens != 0 || block != cache.tokens() / kBlockTokens) {
    return Fail(Code::kFailedPrecondition, std::string(name) + ": it is block " + std::to_string(block) +
                                               " of a sequence, this one has " + std::to_string(cache.tokens()) +
                                               " tokens, 32 to a block");
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t count, reader.ReadU8());
  if (count < 1 || count > kBlockTokens) {
    return Fail(Code::kDataLoss,
                std::string(name) + ": expected 1 to 32 tokens in a block, found " + std::to_string(count));
  }
  HOLO_ASSIGN_OR_RETURN(std::vector<std::uint32_t> tokens, ReadTokens(reader, count, name));
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t length, reader.ReadU32());
  HOLO_ASSIGN_OR_RETURN(const std::span<const std::uint8_t> packed, reader.ReadSpan(length));
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  HOLO_RETURN_IF_ERROR(cache.Load(count, packed, name));
  return tokens;
}

}  // namespace holo::kv_cache
