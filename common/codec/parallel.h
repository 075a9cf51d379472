// Work on several threads. Private to codec/ and render/.
#pragma once

#include <cstdint>

#ifndef __wasm__
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>
#endif

namespace holo::codec {

// Runs `work(i)` for i in 0..count-1, each once, on up to `threads` threads, this one among them.
template <typename Work>
void ForEach(unsigned threads, std::size_t count, const Work& work) {
#ifdef __wasm__  // has one thread, and headers without them
  (void)threads;
  for (std::size_t i = 0; i < count; ++i) work(i);
#else
  std::atomic<std::size_t> next{0};
  const auto run = [&] {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> pool;
  for (std::size_t t = 1; t < std::min<std::size_t>(threads, count); ++t) pool.emplace_back(run);
  run();
#endif
}

}  // namespace holo::codec
