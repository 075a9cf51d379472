// Starting programs, watching them, and cleaning up behind them.
#include "client/cli/child.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "client/cli/cli.h"
#include "common/files/files.h"
#include "common/language_model/tokenizer/tokenizer.h"

namespace holo::cli {

namespace fs = std::filesystem;

Result<Workshop> Workshop::Create(const fs::path& parent) {
  std::string pattern = (parent / ".holo-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) return tl::unexpected(files::FromErrno(errno, "make a folder in", parent));
  return Workshop(pattern);
}

Workshop::~Workshop() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

Result<int> RunChild(const Child& child, const std::function<bool()>& go_on) {
  std::vector<std::string> words = child.words;
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::string temporary = "TMPDIR=" + child.temporary.string();
  std::vector<char*> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (child.temporary.empty() || !std::string_view(*variable).starts_with("TMPDIR="))
      environment.push_back(*variable);
  }
  if (!child.temporary.empty()) environment.push_back(temporary.data());
  environment.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, child.output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (child.log == child.output) {
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, child.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  }
  pid_t process = 0;
  const int spawned = posix_spawnp(&process, arguments[0], &actions, nullptr, arguments.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return Fail(Code::kUnavailable, "expected to run " + words[0] + ", found no such program");
  int status = 0;
  while (true) {
    const pid_t ended = ::waitpid(process, &status, WNOHANG);
    if (ended == process) break;
    if (ended < 0 && errno != EINTR) return tl::unexpected(files::FromErrno(errno, "wait for", words[0]));
    if (!go_on() || Interrupted()) {
      ::kill(process, SIGTERM);
      ::waitpid(process, &status, 0);
      return Fail(Code::kCancelled, "cancelled");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  if (Interrupted()) return Fail(Code::kCancelled, "cancelled");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string LastWords(const fs::path& log) {
  const auto bytes = files::ReadFile(log, std::uint64_t{16} << 20);
  if (!bytes) return bytes.error().message;
  std::string last;
  std::string first_of_all;
  std::string_view rest(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.empty()) continue;
    first_of_all = line;
    if (line.starts_with("ERROR:")) last = line.substr(std::min<std::size_t>(line.size(), 7));
  }
  const std::string& shown = last.empty() ? first_of_all : last;
  return shown.empty() ? "it said nothing" : tokenizer::ToValidUtf8(shown.substr(0, 500));
}

}  // namespace holo::cli
