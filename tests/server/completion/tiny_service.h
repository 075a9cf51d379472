// A completion::Service over a tiny model of random weights, and what a client of it does.
#pragma once

#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/completion/completion.h"
#include "tests/common/language_model/tiny_model.h"

namespace holo::testing {

// Woken by a reply, for a thread that waits. A ring may come later than the bell is there.
class Bell {
 public:
  [[nodiscard]] std::function<void()> Ringer() const {
    return [state = state_] {
      const std::lock_guard lock(state->mutex);
      state->has_rung = true;
      state->changed.notify_all();
    };
  }
  void Wait() const {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [this] { return state_->has_rung; });
    state_->has_rung = false;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool has_rung = false;  // guarded by mutex
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// Holds a service's thread when a reply has its first token, until it is destroyed.
class Gate {
 public:
  Gate() = default;
  Gate(Gate&&) = default;
  // The gate held so far opens.
  Gate& operator=(Gate&&) = default;

  [[nodiscard]] std::function<void()> Ringer(const Bell& bell) const {
    return [ring = bell.Ringer(), opened = opened_] {
      ring();
      opened.wait();
    };
  }

 private:
  struct Opening {
    std::promise<void> promise;
    ~Opening() { promise.set_value(); }
  };
  std::unique_ptr<Opening> opening_ = std::make_unique<Opening>();
  std::shared_future<void> opened_ = opening_->promise.get_future().share();
};

struct Written {
  std::vector<std::string> texts;
  std::vector<std::vector<completion::Token>> tokens;
  std::vector<std::vector<completion::Token>> prompts;
  std::vector<generation::Finish> finishes;
  std::optional<Error> failure;
  completion::Usage usage;
};

inline std::vector<std::uint32_t> Ids(const std::vector<completion::Token>& tokens) {
  std::vector<std::uint32_t> ids;
  for (const completion::Token& token : tokens) ids.push_back(token.id);
  return ids;
}

struct TinyService {
  TemporaryFolder folder;
  std::unique_ptr<completion::Service> service;

  explicit TinyService(completion::Options options = {}, const TinyModel& model = {}) {
    TinyModel second;
    second.seed = 2;
    const bool is_written = WriteTinyModel(folder, "tiny", model) && WriteTinyModel(folder, "other", second);
    std::vector<std::shared_ptr<const completion::Model>> models;
    for (const char* name : {"tiny", "other"}) {
      if (is_written) models.push_back(completion::Model::Open("", folder / name, {}).value());
    }
    service = completion::Service::Create(std::move(options), std::move(models)).value();
  }
};

inline completion::Request TextRequest(const std::string& prompt, std::uint32_t max_tokens, std::uint64_t seed = 1) {
  completion::Request request;
  request.prompts.emplace_back(prompt);
  request.max_tokens = max_tokens;
  request.seed = seed;
  request.ignores_end_token = true;
  return request;
}

// Takes what there is until it is over.
inline Written ReadAll(completion::Reply& reply, Bell& bell) {
  Written written;
  const std::size_t count = reply.prompts().size() * reply.best_of();
  written.texts.resize(count);
  written.tokens.resize(count);
  written.prompts.resize(count);
  written.finishes.resize(count);
  for (;;) {
    completion::Reply::News news = reply.Take();
    for (completion::Event& event : news.events) {
      written.texts[event.choice] += event.text;
      for (auto& token : event.tokens) written.tokens[event.choice].push_back(std::move(token));
      for (auto& token : event.prompt) written.prompts[event.choice].push_back(std::move(token));
      written.finishes[event.choice] = event.finish;
    }
    if (news.is_over) {
      written.failure = news.failure;
      written.usage = reply.usage();
      return written;
    }
    bell.Wait();
  }
}

inline Written Write(completion::Service& service, completion::Request request) {
  Bell bell;
  const auto reply = service.Submit(std::move(request), bell.Ringer());
  if (!reply) {
    Written refused;
    refused.failure = reply.error();
    return refused;
  }
  return ReadAll(**reply, bell);
}

}  // namespace holo::testing
