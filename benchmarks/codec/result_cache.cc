#include "benchmarks/codec/result_cache.h"

#include <iomanip>
#include <limits>
#include <sstream>

#include "common/files/files.h"

namespace holo::benchmarks {

ResultCache::ResultCache(std::filesystem::path path) : path_(std::move(path)) {
  const auto bytes = files::ReadFile(path_, 1u << 28);
  if (!bytes) return;
  std::istringstream lines(std::string(bytes->begin(), bytes->end()));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t tab = line.find('\t');
    if (tab == std::string::npos) continue;
    std::istringstream numbers(line.substr(tab + 1));
    std::vector<double> values;
    for (double value; numbers >> value;) values.push_back(value);
    if (numbers.eof() && !values.empty()) values_[line.substr(0, tab)] = std::move(values);
  }
}

std::optional<std::vector<double>> ResultCache::Find(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  return found->second;
}

void ResultCache::Put(const std::string& key, std::vector<double> values) {
  const std::lock_guard lock(mutex_);
  values_[key] = std::move(values);
  changed_ = true;
}

Result<void> ResultCache::Save() {
  const std::lock_guard lock(mutex_);
  if (!changed_) return {};
  std::ostringstream text;
  text << std::setprecision(std::numeric_limits<double>::max_digits10);
  for (const auto& [key, values] : values_) {
    text << key << '\t';
    for (std::size_t i = 0; i < values.size(); ++i) text << (i > 0 ? " " : "") << values[i];
    text << '\n';
  }
  const std::string content = text.str();
  HOLO_RETURN_IF_ERROR(files::MakeDirectories(path_.parent_path()));
  HOLO_RETURN_IF_ERROR(
      files::AtomicWrite(path_, std::span(reinterpret_cast<const std::uint8_t*>(content.data()), content.size())));
  changed_ = false;
  return {};
}

}  // namespace holo::benchmarks
