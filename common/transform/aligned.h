// Vectors that begin with a line of the cache, so that those of a processor do not lie across two.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace holo::transform {

inline constexpr std::size_t kLine = 64;  // bytes

template <typename T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <typename Other>
  explicit(false) LineAllocator(const LineAllocator<Other>&) {}
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{kLine}));
  }
  void deallocate(T* at, std::size_t) { ::operator delete(at, std::align_val_t{kLine}); }
  bool operator==(const LineAllocator&) const = default;
};

template <typename T>
using AlignedVector = std::vector<T, LineAllocator<T>>;

// As many samples or more, in whole lines.
template <typename T>
constexpr std::size_t InLines(std::size_t count) {
  constexpr std::size_t kLanes = kLine / sizeof(T);
  return (count + kLanes - 1) / kLanes * kLanes;
}

}  // namespace holo::transform
