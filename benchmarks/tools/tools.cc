#include "benchmarks/tools/tools.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "common/files/files.h"

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36 forgot to declare its functions extern "C"
extern char** environ;
}

namespace holo::benchmarks {
namespace {

using files::Descriptor;

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

namespace {

// Starts the program with its output, both streams, in `output`.
Result<pid_t> Spawn(const std::vector<std::string>& arguments, const std::filesystem::path& directory, int output) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  std::vector<std::string> storage = arguments;
  std::vector<char*> argv;
  for (std::string& argument : storage) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  const int spawned = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return tl::unexpected(SystemError("run " + arguments.front(), spawned));
  return child;
}

std::string ReadOutput(int output) {
  std::array<char, 4096> buffer;
  const ssize_t count = pread(output, buffer.data(), buffer.size(), 0);
  return count > 0 ? std::string(buffer.data(), static_cast<std::size_t>(count)) : std::string();
}

// Waits for the end of `child` and collects it; kills it after `limit`.
Result<ToolResult> Collect(const std::string& name, pid_t child, int output, std::chrono::milliseconds limit) {
  const Descriptor watch(pidfd_open(child, 0));
  pollfd entry{watch.get(), POLLIN, 0};
  const bool ended = watch.get() < 0 || poll(&entry, 1, static_cast<int>(limit.count())) != 0;
  if (!ended) kill(child, SIGKILL);
  int status = 0;
  rusage usage{};
  while (wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  if (!ended) {
    return Fail(Code::kDeadlineExceeded, "run " + name + ": expected an end within " + std::to_string(limit.count()) +
                                             " ms, found: " + ReadOutput(output));
  }
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  ToolResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  result.peak_memory_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  result.output = ReadOutput(output);
  return result;
}

// A file for a program's output, unlike a pipe: a program that writes a lot must not wait for us.
Result<Descriptor> OpenOutput(const std::filesystem::path& path) {
  Descriptor output(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (output.get() < 0) return tl::unexpected(SystemError("open " + path.string(), errno));
  return output;
}

sockaddr_in LoopbackAddress(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

Result<ToolResult> RunTool(const std::vector<std::string>& arguments, const std::filesystem::path& directory,
                           std::chrono::milliseconds limit) {
  HOLO_ASSIGN_OR_RETURN(const Descriptor output, OpenOutput(directory / "tool-output.txt"));
  HOLO_ASSIGN_OR_RETURN(const pid_t child, Spawn(arguments, directory, output.get()));
  return Collect(arguments.front(), child, output.get(), limit);
}

Result<RunningTool> RunningTool::Start(const std::vector<std::string>& arguments,
                                       const std::filesystem::path& directory) {
  static std::atomic<int> count = 0;
  RunningTool tool;
  tool.name_ = arguments.front();
  HOLO_ASSIGN_OR_RETURN(Descriptor output, OpenOutput(directory / ("tool-output-" + std::to_string(++count) + ".txt")));
  tool.output_ = output.Release();
  HOLO_ASSIGN_OR_RETURN(tool.child_, Spawn(arguments, directory, tool.output_));
  return tool;
}

RunningTool::RunningTool(RunningTool&& other) noexcept
    : name_(std::move(other.name_)),
      child_(std::exchange(other.child_, -1)),
      output_(std::exchange(other.output_, -1)) {}

RunningTool::~RunningTool() {
  if (child_ > 0) {
    kill(child_, SIGKILL);
    while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  if (output_ >= 0) close(output_);
}

Result<void> RunningTool::WaitForPort(std::uint16_t port, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  const sockaddr_in address = LoopbackAddress(port);
  while (true) {
    const Descriptor socket_descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(socket_descriptor.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return {};
    siginfo_t info{};
    if (waitid(P_PID, static_cast<id_t>(child_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0) {
      return Fail(Code::kUnavailable, name_ + ": expected it to listen on port " + std::to_string(port) +
                                          ", found that it ended with: " + ReadOutput(output_));
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return Fail(Code::kDeadlineExceeded, name_ + ": expected it to listen on port " + std::to_string(port) +
                                               " within " + std::to_string(limit.count()) +
                                               " ms, found: " + ReadOutput(output_));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Result<double> RunningTool::CpuSeconds() const {
  std::ifstream file("/proc/" + std::to_string(child_) + "/stat");
  std::string line;
  std::getline(file, line);
  // After the name in parentheses: fields 14 and 15 of proc(5) are user and system time in clock ticks.
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return Fail(Code::kUnavailable, name_ + ": expected it to run");
  std::istringstream fields(line.substr(name_end + 2));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

Result<std::uint64_t> RunningTool::PeakMemoryBytes() const {
  std::ifstream file("/proc/" + std::to_string(child_) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("VmHWM:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return Fail(Code::kUnavailable, name_ + ": expected it to run");
}

Result<ToolResult> RunningTool::Stop(std::chrono::milliseconds limit) {
  kill(child_, SIGTERM);
  return Collect(name_, std::exchange(child_, -1), output_, limit);
}

Result<std::uint16_t> FreePort() {
  const Descriptor listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = LoopbackAddress(0);
  socklen_t size = sizeof address;
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return tl::unexpected(SystemError("find a free port", errno));
  }
  return ntohs(address.sin_port);
}

}  // namespace holo::benchmarks
