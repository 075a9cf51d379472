#include "server/assets/work_queue.h"

#include <utility>

namespace holo::assets {

WorkQueue::WorkQueue(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkQueue::~WorkQueue() {
  Stop();
}

void WorkQueue::Add(Job job, bool is_urgent) {
  {
    const std::lock_guard lock(mutex_);
    if (!is_stopping_) {
      (is_urgent ? urgent_ : others_).push_back(std::move(job));
      changed_.notify_one();
      return;
    }
  }
  job(true);
}

void WorkQueue::Stop() {
  std::deque<Job> left;
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
    left.swap(urgent_);
    for (Job& job : others_) left.push_back(std::move(job));
    others_.clear();
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
  for (const Job& job : left) job(true);
}

void WorkQueue::Run() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return is_stopping_ || !urgent_.empty() || !others_.empty(); });
      if (is_stopping_) return;
      std::deque<Job>& queue = urgent_.empty() ? others_ : urgent_;
      job = std::move(queue.front());
      queue.pop_front();
    }
    job(false);
  }
}

}  // namespace holo::assets
