// A folder of its own for one test, gone with it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "common/files/files.h"

namespace holo::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "holo_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

  // With its parents; true if it is there now.
  bool Write(std::string_view name, std::span<const std::uint8_t> bytes) const {
    const std::filesystem::path path = path_ / name;
    return files::MakeDirectories(path.parent_path()) && files::AtomicWrite(path, bytes);
  }
  bool Write(std::string_view name, std::string_view text) const {
    return Write(name, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }

 private:
  std::filesystem::path path_;
};

}  // namespace holo::testing
