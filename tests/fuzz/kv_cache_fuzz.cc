// Bases and saved caches. The digest is put behind the input, or nothing beyond it would ever be looked at.
#include <algorithm>
#include <memory>
#include <vector>

#include "common/bytes/bytes.h"
#include "common/language_model/kv_cache/kv_cache.h"

namespace {

using namespace holo;

constexpr std::array<std::uint8_t, 32> kFingerprint = {};

void UseCache(const std::vector<std::uint8_t>& bytes) {
  const auto scheme = kv_cache::MakePlainScheme({1, 1, 16}, kv_cache::Precision::kInt4).value();
  auto restored = kv_cache::RestoreCache(bytes, "input", scheme, kFingerprint);
  if (!restored || restored->cache.tokens() == 0) return;
  restored->cache.Truncate(restored->cache.tokens() - 1);
  const std::vector<float> row(16, 1.0f);
  std::vector<float> out(16);
  compute::ThreadPool pool(1);
  kv_cache::AttentionScratch scratch;
  restored->cache.Append(0, {1, row.data(), row.data(), row.data(), 16}, nullptr);
  const kv_cache::Request request{&restored->cache, 1, row.data(), out.data()};
  kv_cache::Attend(0, {&request, 1}, scratch, pool);
}

// Blocks that are decoded, of the stored tier and latent ones: a code is whatever follows a block's header.
void UseCoded(const std::shared_ptr<const kv_cache::Scheme>& scheme, const std::vector<std::uint8_t>& bytes) {
  kv_cache::Cache cache(scheme);
  static_cast<void>(kv_cache::RestoreBlock(bytes, "input", cache, kFingerprint));
  for (const std::size_t tokens : {1u, 7u, 32u}) {
    cache.Truncate(0);
    if (!cache.Load(tokens, bytes, "input")) continue;
    // What was decoded can be coded again, to the same bytes in memory.
    const auto packed = scheme->Pack(0, tokens, cache.Stored(0, 0));
    kv_cache::Cache again(scheme);
    if (!again.Load(tokens, packed, "again")) __builtin_trap();
    if (!std::equal(cache.Stored(0, 0), cache.Stored(0, 0) + scheme->block_bytes(0), again.Stored(0, 0))) {
      __builtin_trap();
    }
    cache.Truncate(tokens - 1);
    const std::size_t width = scheme->geometry().width();
    const std::vector<float> row(std::max(width, scheme->prepared_width(0)), 1.0f);
    std::vector<float> out(width);
    compute::ThreadPool pool(1);
    kv_cache::AttentionScratch scratch;
    cache.Append(0, {1, row.data(), nullptr, nullptr, 0}, row.data());
    const kv_cache::Request request{&cache, 1, row.data(), out.data()};
    kv_cache::Attend(0, {&request, 1}, scratch, pool);
  }
}

std::shared_ptr<const kv_cache::Scheme> Stored() {
  kv_cache::Basis basis;
  basis.method = kv_cache::Method::kStored;
  basis.geometry = {2, 1, 16};
  kv_cache::BasisLayer layer;
  layer.rank = 16;
  layer.mean.assign(16, 0.0f);
  layer.encoder.assign(256, 0.5f);
  layer.decoder.assign(256, 0.5f);
  for (std::uint8_t i = 0; i < 16; ++i) layer.classes.push_back(static_cast<std::uint8_t>(63 - 4 * i));
  basis.layers.assign(2, layer);
  basis.table = kv_cache::MakeCoderTable({});
  const kv_cache::LayerWeights weights{std::vector<float>(256), std::vector<float>(256), std::vector<float>(16)};
  return kv_cache::MakeProjectedScheme(basis, std::vector(2, weights)).value();
}

// Of keys that are rotated, two heads of queries to one of keys.
std::shared_ptr<const kv_cache::Scheme> Latent() {
  kv_cache::Basis basis;
  basis.geometry = {2, 2, 16, 1};
  kv_cache::BasisLayer layer;
  layer.rank = 64;
  layer.key_rank = 32;
  layer.mean.assign(32, 0.0f);
  layer.encoder.assign(32 * 64, 0.5f);
  layer.decoder.assign(64 * 32, 0.5f);
  layer.bits = {5, 3};
  basis.layers.assign(2, layer);
  const kv_cache::LayerWeights weights{std::vector<float>(32 * 16, 0.1f), std::vector<float>(32 * 16, 0.1f),
                                       std::vector<float>(16)};
  const std::vector<double> frequencies(8, 0.1);
  const auto rotation = std::make_shared<const kv_cache::Rotation>(frequencies, 64);
  return kv_cache::MakeProjectedScheme(basis, std::vector(2, weights), rotation).value();
}

void UseBasis(const std::vector<std::uint8_t>& bytes) {
  const auto basis = kv_cache::ParseBasis(bytes, "input");
  if (!basis || basis->geometry.width() > 64) return;
  const std::size_t width = basis->geometry.width();
  const std::vector<kv_cache::LayerWeights> weights(
      basis->layers.size(),
      {std::vector<float>(width * width), std::vector<float>(width * width), std::vector<float>(width)});
  const auto scheme = kv_cache::MakeProjectedScheme(*basis, weights);
  if (!scheme) return;
  const kv_cache::Cache cache(*scheme);
  static_cast<void>(cache.Fork());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> bytes(data, data + size);
  static const auto stored = Stored();
  static const auto latent = Latent();
  UseCoded(stored, bytes);
  UseCoded(latent, bytes);
  const auto digest = bytes::Sha256(bytes);
  bytes.insert(bytes.end(), digest.begin(), digest.end());
  UseBasis(bytes);
  UseCache(bytes);
  return 0;
}
