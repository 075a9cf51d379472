#include "server/completion/prefix_cache.h"

#include <doctest/doctest.h>

#include <map>
#include <random>

#include "tests/server/completion/tiny_service.h"

namespace holo::completion {
namespace {

constexpr std::size_t kBlock = kv_cache::kBlockTokens;

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
        (void)cache.Shrink(limit);
        CHECK(cache.bytes() <= limit);
      }
    }
    (void)cache.Shrink(0);
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
  CHECK(cache.Shrink(cache.bytes() - 1) == 1);
  CHECK(found(cache, 2) == 2);
  CHECK(found(cache, 1) == 3);
  CHECK(cache.Shrink(one) == 2);
  CHECK(found(cache, 2) == 0);
  CHECK(found(cache, 1) == 3);
}

}  // namespace
}  // namespace holo::completion
