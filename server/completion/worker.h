// A thread with a queue. The module's inside.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>

namespace holo::completion {

// Runs what is posted, one after the other. All members may be called from any thread but its own.
class Worker {
 public:
  explicit Worker(std::size_t most_waiting = std::numeric_limits<std::size_t>::max())
      : most_waiting_(most_waiting), thread_([this] { Run(); }) {}
  ~Worker() { Stop(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // False, and nothing happens, where as much as may waits already, and after Stop().
  [[nodiscard]] bool Post(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      if (waiting_.size() >= most_waiting_ || is_stopping_) return false;
      waiting_.push_back(std::move(work));
    }
    changed_.notify_one();
    return true;
  }
  // What waits is done first.
  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Run() {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return is_stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        work = std::move(waiting_.front());
        waiting_.pop_front();
      }
      work();
    }
  }

  const std::size_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_stopping_ = false;                  // guarded by mutex_
  std::deque<std::function<void()>> waiting_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace holo::completion
