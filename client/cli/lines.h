// What both chats share: lines of standard input, and signals that stop a reply or end the program. Private to the program.
#pragma once

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string>

namespace holo::cli {

inline volatile std::sig_atomic_t stop_pressed = 0;
inline volatile std::sig_atomic_t told_to_end = 0;

inline void OnSignal(int number) {
  if (number == SIGINT) {
    stop_pressed = 1;
  } else {
    told_to_end = 1;
  }
}

// Ctrl-C sets stop_pressed, other signals that end programs set told_to_end; neither restarts what waits.
inline void ListenToSignals() {
  struct sigaction handler {};
  handler.sa_handler = OnSignal;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &handler, nullptr);
}

// Lines of standard input, read so that a signal ends the wait. A signal may come just before the wait begins, or reach
// another thread: so the wait looks for it now and then.
class Lines {
 public:
  enum class Kind : std::uint8_t { kLine, kInterrupted, kEnd };

  Kind Read(std::string& line) {
    while (true) {
      const std::size_t end = pending_.find('\n');
      if (end != std::string::npos || (is_over_ && !pending_.empty())) {
        line = pending_.substr(0, end);
        pending_.erase(0, end == std::string::npos ? end : end + 1);
        return Kind::kLine;
      }
      if (is_over_ || told_to_end != 0) return Kind::kEnd;
      if (stop_pressed != 0) {
        stop_pressed = 0;
        pending_.clear();
        return Kind::kInterrupted;
      }
      constexpr int kLookEveryMs = 50;
      pollfd input{STDIN_FILENO, POLLIN, 0};
      const int ready = ::poll(&input, 1, kLookEveryMs);
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
      char buffer[4096];
      const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        is_over_ = true;
      } else {
        pending_.append(buffer, static_cast<std::size_t>(got));
      }
    }
  }

 private:
  std::string pending_;
  bool is_over_ = false;
};

}  // namespace holo::cli
