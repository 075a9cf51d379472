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

// A program that runs beside this one. Destruction ends it.
class RunningTool {
 public:
  // As RunTool(). Its output goes to "tool-output-N.txt" in `directory`.
  [[nodiscard]] static Result<RunningTool> Start(const std::vector<std::string>& arguments,
                                                 const std::filesystem::path& directory);
  RunningTool(RunningTool&& other) noexcept;
  RunningTool& operator=(RunningTool&&) = delete;
  ~RunningTool();

  // Waits until it accepts connections on that port of 127.0.0.1. kUnavailable, with its output, if it ends before;
  // kDeadlineExceeded after `limit`.
  [[nodiscard]] Result<void> WaitForPort(std::uint16_t port,
                                         std::chrono::milliseconds limit = std::chrono::seconds(20));
  // What it has used so far.
  [[nodiscard]] Result<double> CpuSeconds() const;
  [[nodiscard]] Result<std::uint64_t> PeakMemoryBytes() const;
  // Asks it to end (SIGTERM), and makes it after `limit` (kDeadlineExceeded then).
  [[nodiscard]] Result<ToolResult> Stop(std::chrono::milliseconds limit = std::chrono::seconds(20));

 private:
  RunningTool() = default;

  std::string name_;
  int child_ = -1;   // process id
  int output_ = -1;  // descriptor of its output file
};

// A port of 127.0.0.1 that nobody listens on now.
[[nodiscard]] Result<std::uint16_t> FreePort();

}  // namespace holo::benchmarks
