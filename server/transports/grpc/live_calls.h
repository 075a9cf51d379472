// What both services share. The module's inside.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>

#include "common/status/status.h"

namespace holo::transports::grpc_transport {

inline ::grpc::Status ToStatus(const Error& error) {
  return {static_cast<::grpc::StatusCode>(ToGrpcCode(error.code)), error.message};
}

// Counts calls whose OnDone() has not returned yet: grpc::Server::Wait() may return a moment before the last of them.
class LiveCalls {
 public:
  void Add() {
    const std::lock_guard lock(mutex_);
    ++count_;
  }
  void Remove() {
    const std::lock_guard lock(mutex_);
    if (--count_ == 0) none_left_.notify_all();
  }
  void WaitForNone() {
    std::unique_lock lock(mutex_);
    none_left_.wait(lock, [this] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_left_;
  std::size_t count_ = 0;  // guarded by mutex_
};

}  // namespace holo::transports::grpc_transport
