#include "benchmarks/tools/tools.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36 forgot to declare its functions extern "C"
extern char** environ;
}

namespace holo::benchmarks {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  [[nodiscard]] int get() const { return value_; }

 private:
  int value_;
};

Error SystemError(const std::string& what, int error_number) {
  const Code code = error_number == ENOENT ? Code::kNotFound : Code::kUnavailable;
  return {code, what + ": " + std::strerror(error_number)};
}

}  // namespace

Result<TemporaryDirectory> TemporaryDirectory::Create() {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::temp_directory_path(error);
  if (error) return Fail(Code::kUnavailable, "temporary directory: " + error.message());
  std::string name = (parent / "holo-benchmark-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) return tl::unexpected(SystemError("create " + name, errno));
  return TemporaryDirectory(name);
}

TemporaryDirectory::~TemporaryDirectory() {
  if (path_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Result<ToolResult> RunTool(const std::vector<std::string>& arguments, const std::filesystem::path& directory,
                           std::chrono::milliseconds limit) {
  // The output goes to a file, not a pipe: a program that writes a lot must not wait for us.
  const std::string log = (directory / "tool-output.txt").string();
  const Descriptor output(open(log.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (output.get() < 0) return tl::unexpected(SystemError("open " + log, errno));

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.get(), STDERR_FILENO);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  std::vector<std::string> storage = arguments;
  std::vector<char*> argv;
  for (std::string& argument : storage) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  const int spawned = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return tl::unexpected(SystemError("run " + arguments.front(), spawned));

  const Descriptor watch(pidfd_open(child, 0));
  pollfd poll_entry{watch.get(), POLLIN, 0};
  const bool ended = watch.get() < 0 || poll(&poll_entry, 1, static_cast<int>(limit.count())) != 0;
  if (!ended) kill(child, SIGKILL);
  int status = 0;
  rusage usage{};
  while (wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  if (!ended) {
    return Fail(Code::kDeadlineExceeded,
                "run " + arguments.front() + ": expected an end within " + std::to_string(limit.count()) + " ms");
  }
  ToolResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  result.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  result.peak_memory_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  std::array<char, 4096> buffer;
  const ssize_t count = pread(output.get(), buffer.data(), buffer.size(), 0);
  if (count > 0) result.output.assign(buffer.data(), static_cast<std::size_t>(count));
  return result;
}

}  // namespace holo::benchmarks
