// From Ctrl-C to a stop token. Private to the program.
#pragma once

#include <chrono>
#include <stop_token>
#include <thread>

#include "client/cli/cli.h"

namespace holo::cli {

// A signal handler cannot request a stop safely, so a thread looks now and then.
class StopOnInterrupt {
 public:
  StopOnInterrupt()
      : watcher_([this](const std::stop_token& ended) {
          while (!ended.stop_requested() && !Interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
          if (Interrupted()) source_.request_stop();
        }) {}

  [[nodiscard]] std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  std::jthread watcher_;  // last: it uses source_
};

}  // namespace holo::cli
