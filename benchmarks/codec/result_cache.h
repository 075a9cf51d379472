// Results that took long to make, kept from run to run in one text file.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/status/status.h"

namespace holo::benchmarks {

// A line holds a key (whatever identifies the result: versions, settings, input), a tab and numbers. Lines that cannot
// be read are dropped. All members may be called from any thread.
class ResultCache {
 public:
  // A missing file is an empty cache.
  explicit ResultCache(std::filesystem::path path);

  [[nodiscard]] std::optional<std::vector<double>> Find(const std::string& key) const;
  void Put(const std::string& key, std::vector<double> values);
  // Writes the file if anything was added since.
  [[nodiscard]] Result<void> Save();

 private:
  const std::filesystem::path path_;
  mutable std::mutex mutex_;
  std::map<std::string, std::vector<double>> values_;  // guarded by mutex_
  bool changed_ = false;                               // guarded by mutex_
};

}  // namespace holo::benchmarks
