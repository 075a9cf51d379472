// Bases and saved caches. The digest is put behind the input, or nothing beyond it would ever be looked at.
#include <algorithm>
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
  const auto digest = bytes::Sha256(bytes);
  bytes.insert(bytes.end(), digest.begin(), digest.end());
  UseBasis(bytes);
  UseCache(bytes);
  return 0;
}
