// Command-line programs, run in a private temporary directory and measured.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status/status.h"

namespace holo::benchmarks {

// A directory that only this user can enter; removed with everything in it on destruction.
class TemporaryDirectory {
 public:
  // Below $TMPDIR, else the system's default.
  [[nodiscard]] static Result<TemporaryDirectory> Create();
  TemporaryDirectory(TemporaryDirectory&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  TemporaryDirectory& operator=(TemporaryDirectory&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
  }
  ~TemporaryDirectory();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryDirectory(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;
};

struct ToolResult {
  int exit_code = 0;                    // 128 + the signal's number if a signal ended it
  std::string output;                   // standard output and error together, the first 4,096 bytes
  std::uint64_t peak_memory_bytes = 0;  // the largest resident set
  double cpu_seconds = 0;
};

// Runs `arguments` (the program first, found through PATH) in `directory`, without input. kNotFound if there is no such
// program, kDeadlineExceeded if it ran longer than `limit` (it is killed then). A failing program is no error here.
[[nodiscard]] Result<ToolResult> RunTool(const std::vector<std::string>& arguments,
                                         const std::filesystem::path& directory,
                                         std::chrono::milliseconds limit = std::chrono::minutes(5));

}  // namespace holo::benchmarks
