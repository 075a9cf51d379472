// Threads that work through jobs: the module's inside.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace holo::assets {

// Urgent jobs go before others; otherwise first come, first served.
class WorkQueue {
 public:
  // A job is told whether it is too late, because the queue is being destroyed; then it only gives up its claims.
  using Job = std::function<void(bool cancelled)>;

  explicit WorkQueue(unsigned threads);
  ~WorkQueue();
  void Add(Job job, bool is_urgent);
  // Runs the job on the calling thread with `cancelled` once stopped.
  void Stop();

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> urgent_;    // guarded by mutex_
  std::deque<Job> others_;    // guarded by mutex_
  bool is_stopping_ = false;  // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace holo::assets
