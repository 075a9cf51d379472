#include <algorithm>

#include "server/completion/completion.h"

namespace holo::completion {

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds.begin(), bounds.begin() + static_cast<std::ptrdiff_t>(std::min(bounds.size(), kMaxBounds))) {}

void Histogram::Observe(double value) {
  const auto bucket = static_cast<std::size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin());
  const std::lock_guard lock(mutex_);
  ++counts_[bucket];
  sum_ += value;
}

Histogram::Snapshot Histogram::snapshot() const {
  Snapshot snapshot;
  snapshot.bounds = bounds_;
  const std::lock_guard lock(mutex_);
  std::uint64_t all = 0;
  for (std::size_t i = 0; i <= bounds_.size(); ++i) snapshot.cumulative.push_back(all += counts_[i]);
  snapshot.sum = sum_;
  return snapshot;
}

}  // namespace holo::completion
