// Programs that a subcommand runs, and folders that they work in. Private to the program.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/status/status.h"

namespace holo::cli {

// A folder of its own, gone with the object.
class Workshop {
 public:
  [[nodiscard]] static Result<Workshop> Create(const std::filesystem::path& parent);
  Workshop(Workshop&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  Workshop& operator=(Workshop&&) = delete;
  ~Workshop();
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  explicit Workshop(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

struct Child {
  std::vector<std::string> words;   // the program, searched in PATH, and its arguments
  std::filesystem::path output;     // its standard output is written to this file
  std::filesystem::path log;        // and its standard error to this one, which may be the same
  std::filesystem::path temporary;  // TMPDIR of the child; empty: as it is
};
// Runs it to its end, with nothing on its standard input, and returns its exit code (a signal: 128 and more). Ten times
// a second `go_on` is asked; false ends the child: kCancelled, as the user's interrupt does. kUnavailable where there
// is no such program.
[[nodiscard]] Result<int> RunChild(const Child& child, const std::function<bool()>& go_on);

// What a program's log says last: its last line that begins with "ERROR:", without that, or else its last line.
[[nodiscard]] std::string LastWords(const std::filesystem::path& log);

}  // namespace holo::cli
