#include "server/completion/prefix_cache.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <random>

#include "tests/server/completion/tiny_service.h"

namespace holo::completion {
namespace {

constexpr std::size_t kBlock = kv_cache::kBlockTokens;
constexpr std::size_t kAny = std::numeric_limits<std::size_t>::max();

TEST_CASE("what is found is what was kept, whatever has been cut off meanwhile") {
  testing::TinyService tiny;
  const generation::Engine& engine = tiny.service->models()[0]->engine();
  // A block that is told by its first byte.
  const auto memory_of = [&](const std::vector<std::uint32_t>& tokens) {
    generation::Memory memory(engine);
    memory.cache.Reserve(tokens.size());
    memory.cache.Commit(tokens.size());
    memory.tokens = tokens;
    return memory;
  };
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    PrefixCache cache;
    std::map<std::vector<std::uint32_t>, const std::uint8_t*> known;  // a prefix's last block
    for (int step = 0; step < 300; ++step) {
      std::vector<std::uint32_t> tokens(random() % 5 * kBlock + random() % kBlock);
      // Few different blocks, so that many begin alike.
      for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = i % kBlock == 0 ? random() % 3 : 7;
      generation::Memory found(engine);
      cache.Find(0, tokens, tokens.size(), found);
      CHECK(found.tokens.size() == found.cache.tokens());
      CHECK(found.tokens.size() % kBlock == 0);
      CHECK(std::equal(found.tokens.begin(), found.tokens.end(), tokens.begin()));
      for (std::size_t i = 0; (i + 1) * kBlock <= found.tokens.size(); ++i) {
        const std::vector<std::uint32_t> prefix(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * kBlock));
        CHECK(known.at(prefix) == found.cache.Stored(0, i));
      }
      generation::Memory memory = memory_of(tokens);
      cache.Keep(0, memory);
      for (std::size_t i = 0; (i + 1) * kBlock <= tokens.size(); ++i) {
        const std::vector<std::uint32_t> prefix(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * kBlock));
        known[prefix] = i * kBlock < found.tokens.size() ? found.cache.Stored(0, i) : memory.cache.Stored(0, i);
      }
      generation::Memory again(engine);
      cache.Find(0, tokens, tokens.size(), again);
      CHECK(again.tokens.size() == tokens.size() / kBlock * kBlock);
      generation::Memory other(engine);
      cache.Find(1, tokens, tokens.size(), other);
      CHECK(other.tokens.empty());
      if (random() % 4 == 0) {
        const std::uint64_t limit = cache.bytes() / (1 + random() % 4);
        (void)cache.Shrink(limit, kAny);
        CHECK(cache.bytes() <= limit);
      }
    }
    (void)cache.Shrink(0, kAny);
    CHECK(cache.bytes() == 0);
  }
}

TEST_CASE("what has not been used for longest is cut off first, ends before beginnings") {
  testing::TinyService tiny;
  const generation::Engine& engine = tiny.service->models()[0]->engine();
  const auto keep = [&](PrefixCache& cache, std::uint32_t token, std::size_t blocks) {
    generation::Memory memory(engine);
    memory.cache.Reserve(blocks * kBlock);
    memory.cache.Commit(blocks * kBlock);
    memory.tokens.assign(blocks * kBlock, token);
    cache.Keep(0, memory);
  };
  const auto found = [&](PrefixCache& cache, std::uint32_t token) {
    generation::Memory memory(engine);
    cache.Find(0, std::vector<std::uint32_t>(3 * kBlock, token), 3 * kBlock, memory);
    return memory.tokens.size() / kBlock;
  };
  PrefixCache cache;
  keep(cache, 1, 3);
  const std::uint64_t one = cache.bytes();
  keep(cache, 2, 3);
  CHECK(found(cache, 1) == 3);
  CHECK(cache.Shrink(cache.bytes() - 1, kAny) == 1);
  CHECK(found(cache, 2) == 2);
  CHECK(found(cache, 1) == 3);
  CHECK(cache.Shrink(one, kAny) == 2);
  CHECK(found(cache, 2) == 0);
  CHECK(found(cache, 1) == 3);
}

// Whole numbers of a fifth, in one layer.
std::shared_ptr<const kv_cache::Scheme> StoredScheme() {
  kv_cache::Basis basis;
  basis.method = kv_cache::Method::kStored;
  basis.geometry = {1, 1, 32};
  kv_cache::BasisLayer layer;
  layer.rank = 32;
  layer.mean.assign(32, 0.0f);
  layer.encoder.assign(32 * 32, 0.0f);
  for (std::size_t i = 0; i < 32; ++i) layer.encoder[i * 33] = 5;
  layer.decoder.assign(32 * 32, 0.0f);
  for (std::size_t i = 0; i < 32; ++i) layer.decoder[i * 33] = 0.2f;
  layer.classes.assign(32, 24);
  basis.layers = {layer};
  basis.table = kv_cache::MakeCoderTable({});
  const kv_cache::LayerWeights weights{std::vector<float>(32 * 32), std::vector<float>(32 * 32), std::vector<float>(32)};
  return kv_cache::MakeProjectedScheme(basis, {&weights, 1}).value();
}

TEST_CASE("blocks that pack well are packed before any is cut off, and come back as they were") {
  testing::TinyService tiny;
  generation::Engine engine = tiny.service->models()[0]->engine();
  engine.scheme = StoredScheme();
  const auto memory_of = [&](std::uint32_t token, std::size_t blocks) {
    generation::Memory memory(engine);
    memory.tokens.assign(blocks * kBlock, token);
    std::vector<float> coordinates(memory.tokens.size() * 32);
    for (std::size_t i = 0; i < coordinates.size(); ++i) coordinates[i] = static_cast<float>((i * 7 + token) % 23) - 11;
    memory.cache.Append(0, {memory.tokens.size(), nullptr, nullptr, nullptr, 0}, coordinates.data());
    memory.cache.Commit(memory.tokens.size());
    return memory;
  };
  const auto find = [&](PrefixCache& cache, std::uint32_t token) {
    generation::Memory memory(engine);
    cache.Find(0, std::vector<std::uint32_t>(4 * kBlock, token), 4 * kBlock, memory);
    return memory;
  };
  PrefixCache cache;
  for (const std::uint32_t token : {1u, 2u}) cache.Keep(0, memory_of(token, 4));
  const std::uint64_t all = cache.bytes();
  CHECK(cache.Shrink(all, kAny) == 0);
  CHECK(cache.packed_bytes() == 0);
  CHECK(cache.Shrink(all * 3 / 4, kAny) == 0);
  CHECK(cache.packed_bytes() > 0);
  CHECK(cache.bytes() <= all * 3 / 4);
  const generation::Memory older = memory_of(1, 4);
  const generation::Memory found = find(cache, 1);
  REQUIRE(found.tokens == older.tokens);
  for (std::size_t block = 0; block < 4; ++block) {
    CAPTURE(block);
    const std::size_t bytes = engine.scheme->block_bytes(block);
    CHECK(std::equal(found.cache.Stored(0, block), found.cache.Stored(0, block) + bytes, older.cache.Stored(0, block)));
  }
  const std::uint64_t restored = cache.restored();
  CHECK(restored > 0);
  CHECK(find(cache, 1).tokens.size() == 4 * kBlock);
  CHECK(cache.restored() == restored);
  // When even that is too much, the least recent is cut off, ends first.
  std::size_t forgotten = 0;
  for (std::uint64_t limit = all; limit > 0; limit /= 2) {
    forgotten += cache.Shrink(limit, kAny);
    CHECK(cache.bytes() <= limit);
    const std::size_t left = find(cache, 2).tokens.size() / kBlock + find(cache, 1).tokens.size() / kBlock;
    CHECK(left + forgotten == 8);
  }
  CHECK(cache.Shrink(0, kAny) + forgotten == 8);
  CHECK(cache.bytes() == 0);
  CHECK(cache.packed_bytes() == 0);
  // Where packing one is not enough, and more must not be packed, the least recent are forgotten.
  for (const std::uint32_t token : {1u, 2u}) cache.Keep(0, memory_of(token, 4));
  CHECK(cache.Shrink(all / 2, 1) >= 4);
  CHECK(cache.bytes() <= all / 2);
  CHECK(find(cache, 2).tokens.size() > 0);
  CHECK(find(cache, 1).tokens.empty());
}

}  // namespace
}  // namespace holo::completion
