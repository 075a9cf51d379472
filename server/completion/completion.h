// Text generation as a service: requests in, text out, many at a time, without sockets.
//
// A Service has one or more models and one thread that runs them, step by step, as scheduler::Scheduler plans. Submit()
// checks a request, turns its text into tokens and queues it; what is written comes through the Reply that it returns.
// A text depends on its prompt, options, seed and model alone: not on what else runs, nor on what is cached. (A cached block
// holds the bits that reading the prompt again would give.)
//
// All members may be called from any thread. A Reply's `wake` is called from the service's thread and must not block.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "common/language_model/chat/chat.h"
#include "common/language_model/chat_template/chat_template.h"
#include "common/language_model/generation/generation.h"
#include "common/language_model/model_directory/model_directory.h"
#include "common/status/status.h"
#include "server/completion/sessions.h"
#include "server/completion/worker.h"
#include "server/scheduler/scheduler.h"

namespace holo::completion {

using Clock = std::chrono::steady_clock;

inline constexpr std::size_t kMaxPrompts = 256;
inline constexpr std::size_t kMaxChoices = 128;  // of one prompt
inline constexpr std::size_t kMaxSequences = 1024;  // of one request
inline constexpr std::size_t kMaxMessages = 4096;

[[nodiscard]] std::uint64_t SeedByChance();
// Small letters and digits, which nobody can foresee: for ids.
[[nodiscard]] std::string RandomLetters(std::size_t count);
[[nodiscard]] std::int64_t UnixNow();

// Who may ask. Constant after construction.
class ApiKeys {
 public:
  // None: everybody may.
  ApiKeys() = default;
  explicit ApiKeys(std::vector<std::string> keys) : keys_(std::move(keys)) {}
  // `authorization` is the header, "Bearer KEY"; compared in a time that tells nothing of the keys. The result is a name for
  // fairness and for what belongs to a client: of the key, the same in another run of the server, or `peer` where there
  // are none. kUnauthenticated.
  [[nodiscard]] Result<std::string> Admit(std::string_view authorization, const std::string& peer) const;
  // Whose sessions those of a client are whom Admit() named so: without keys nobody can be told from another.
  [[nodiscard]] std::string OwnerOf(const std::string& admitted) const { return keys_.empty() ? "" : admitted; }

 private:
  std::vector<std::string> keys_;
};

// A model that is served. Constant after Open().
class Model {
 public:
  // `name` may be empty: the last part of the path, without ".gguf". `form` as in model_directory::ChatForm(); a model
  // that it does not suit is opened, and refuses conversations. Errors as of model_directory::Open.
  [[nodiscard]] static Result<std::shared_ptr<const Model>> Open(std::string name, const std::filesystem::path& path,
                                                                 const model_directory::Options& options,
                                                                 std::string_view form = "");

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const model_directory::Model& files() const { return files_; }
  [[nodiscard]] const generation::Engine& engine() const { return engine_; }
  [[nodiscard]] const tokenizer::Tokenizer& tokenizer() const { return *engine_.tokenizer; }
  [[nodiscard]] std::uint32_t context() const { return engine_.model->config().context; }
  [[nodiscard]] std::int64_t created_unix() const { return created_unix_; }
  // weights::Fingerprint of the base model.
  [[nodiscard]] const std::array<std::uint8_t, 32>& fingerprint() const { return fingerprint_; }
  // What `tokens` take at most.
  [[nodiscard]] std::uint64_t BytesOf(std::size_t tokens) const;

  // How a conversation is written down, for people and /v1/models: a format's name and nothing, or "holo.json" or "plain"
  // and the template; "none" and why.
  struct Form {
    std::string name;
    std::string description;
  };
  [[nodiscard]] const Form& form() const { return form_; }
  struct Conversation {
    std::vector<tokenizer::TokenId> tokens;
    std::vector<std::string> stops;
    std::vector<tokenizer::TokenId> end_tokens;
  };
  // In a template that has no place for it, what the system says stands before what the user says. kInvalidArgument,
  // naming messages[i], for a conversation that the template cannot write.
  [[nodiscard]] Result<Conversation> Render(std::span<const chat_template::Message> messages) const;
  // A prompt's tokens. An empty text is the token that begins texts, where the model has one.
  [[nodiscard]] std::vector<tokenizer::TokenId> Encode(std::string_view text) const;
  // Valid UTF-8, whatever the tokens.
  [[nodiscard]] std::string Decode(std::span<const tokenizer::TokenId> tokens) const;

 private:
  Model() = default;

  std::string name_;
  model_directory::Model files_;
  generation::Engine engine_;
  Result<chat::Form> chat_ = Fail(Code::kFailedPrecondition, "");
  Form form_;
  std::int64_t created_unix_ = 0;
  std::array<std::uint8_t, 32> fingerprint_{};
};

using Prompt = std::variant<std::string, std::vector<tokenizer::TokenId>>;

struct Request {
  std::string model;                             // empty: the service's first
  std::string client;                            // who asks, for fairness
  // Goes on with what is there: the prompt's tokens stand behind the session's, the messages behind its own. Of one
  // prompt and one choice, without scores of the prompt. The model may be left out.
  std::string session;
  std::string owner;                             // of the session
  std::vector<Prompt> prompts;                   // or
  std::vector<chat_template::Message> messages;  // a conversation
  std::size_t choices = 1;                       // of each prompt
  std::size_t best_of = 1;                       // that are made of each prompt, at least `choices`
  // Nothing: Options::default_max_tokens. 0: the prompt is only read.
  std::optional<std::uint32_t> max_tokens;
  bool scores_prompt = false;
  std::optional<std::uint64_t> seed;  // of the first choice of each prompt; the i-th has seed + i. Nothing: by chance
  sampling::Options sampling;         // but for the seed
  std::vector<std::string> stops;
  bool ignores_end_token = false;
  std::optional<Clock::time_point> deadline;
};

struct Token {
  std::uint32_t id = 0;
  std::optional<float> logprob;  // nothing: the first of a prompt, or not asked for
  std::vector<std::pair<std::uint32_t, float>> top;
};

// What a step gave one text.
struct Event {
  std::size_t choice = 0;  // prompt * best_of + choice
  std::string text;        // complete characters
  std::vector<Token> prompt;  // once, with Request::scores_prompt: all of the prompt's tokens
  std::vector<Token> tokens;  // chosen, without an end token; their text may come later
  generation::Finish finish = generation::Finish::kNone;
};

struct Usage {
  std::size_t prompt_tokens = 0;
  std::size_t cached_tokens = 0;  // of the prompts, those that were not run again
  std::size_t completion_tokens = 0;
};

// The answer to one request, while it comes.
class Reply {
 public:
  struct News {
    std::vector<Event> events;  // since the last call
    bool is_over = false;
    std::optional<Error> failure;  // then it is over, too
  };
  [[nodiscard]] News Take();
  // It is over at the next step, wherever it is. No further news.
  void Cancel() { is_cancelled_ = true; }

  [[nodiscard]] const Model& model() const { return *model_; }
  [[nodiscard]] std::size_t choices() const { return choices_; }
  [[nodiscard]] std::size_t best_of() const { return best_of_; }
  [[nodiscard]] std::span<const std::vector<tokenizer::TokenId>> prompts() const { return prompts_; }
  // Complete once the reply is over.
  [[nodiscard]] Usage usage() const;

 private:
  friend class Service;
  std::shared_ptr<const Model> model_;
  std::size_t choices_ = 1;
  std::size_t best_of_ = 1;
  std::vector<std::vector<tokenizer::TokenId>> prompts_;
  std::function<void()> wake_;
  std::atomic<bool> is_cancelled_{false};

  mutable std::mutex mutex_;
  News news_;    // guarded by mutex_
  Usage usage_;  // guarded by mutex_
};

// Counts of observations up to each bound, as Prometheus has them. Any thread.
class Histogram {
 public:
  static constexpr std::size_t kMaxBounds = 20;
  explicit Histogram(std::span<const double> bounds);
  void Observe(double value);

  struct Snapshot {
    std::vector<double> bounds;
    std::vector<std::uint64_t> cumulative;  // one more than bounds: the last is all
    double sum = 0;
  };
  [[nodiscard]] Snapshot snapshot() const;

 private:
  std::vector<double> bounds_;
  mutable std::mutex mutex_;
  std::array<std::uint64_t, kMaxBounds + 1> counts_{};  // guarded by mutex_
  double sum_ = 0;                                      // guarded by mutex_
};

struct Options {
  scheduler::Limits limits;
  unsigned threads = 2;                     // that compute
  std::uint32_t default_max_tokens = 1024;  // where a request says nothing
  // Keep what has been read and written, as far as there is memory, for prompts that begin with it.
  bool caches_prefixes = true;
  SessionOptions sessions;
  std::function<void(const std::string&)> log;
};

struct Statistics {
  struct Memory {
    std::string model;
    std::string method;
    double bytes_per_token = 0;
  };
  std::vector<Memory> memories;  // of each model
  std::uint64_t requests = 0;   // accepted
  std::uint64_t refused = 0;    // for a full queue or while draining
  std::uint64_t cancelled = 0;  // by their clients or deadlines
  std::uint64_t failed = 0;
  std::uint64_t prompt_tokens = 0;  // run
  std::uint64_t cached_tokens = 0;  // of prompts, that need not be run
  std::uint64_t prefix_bytes = 0;   // kept of texts that have ended, for prompts that begin like them
  std::uint64_t prefix_packed_bytes = 0;  // of these, what is packed
  std::uint64_t prefix_restored = 0;      // blocks that were packed, and were wanted again
  std::uint64_t prefix_evictions = 0;     // of blocks
  std::uint64_t generated_tokens = 0;
  std::uint64_t steps = 0;
  std::uint64_t restored_tokens = 0;  // of sessions, from their parked memory
  std::uint64_t preemptions = 0;      // texts that made room for those of another client
  Sessions::Statistics sessions;
  scheduler::Statistics now;
  std::uint64_t memory_limit_bytes = 0;
  Histogram::Snapshot first_token_seconds;  // from Submit()
  Histogram::Snapshot token_seconds;        // between tokens of one text
  Histogram::Snapshot queue_seconds;        // until the first sequence joins
  Histogram::Snapshot batch_size;           // sequences in a step
};

class PrefixCache;

class Service {
 public:
  // Models with different names, at least one; kInvalidArgument otherwise.
  [[nodiscard]] static Result<std::unique_ptr<Service>> Create(Options options,
                                                               std::vector<std::shared_ptr<const Model>> models);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  [[nodiscard]] std::span<const std::shared_ptr<const Model>> models() const { return models_; }
  [[nodiscard]] Sessions& sessions() { return sessions_; }
  // kNotFound, with the names that there are.
  [[nodiscard]] Result<std::shared_ptr<const Model>> Find(std::string_view name) const;

  // kInvalidArgument and kOutOfRange, whose message begins with the field; kNotFound for the model; what
  // Sessions::Begin() says; kResourceExhausted for a full queue; kUnavailable while draining. It turns text into tokens:
  // not for threads that must not be held up.
  [[nodiscard]] Result<std::shared_ptr<Reply>> Submit(Request request, std::function<void()> wake);

  // Runs `work` on a thread for preparing requests. False, and nothing happens, where too much waits there already.
  [[nodiscard]] bool Post(std::function<void()> work);

  [[nodiscard]] bool is_draining() const { return is_draining_; }
  // New requests are refused from now on.
  void BeginDrain() { is_draining_ = true; }
  // Whether all requests have ended, waiting until `deadline`.
  [[nodiscard]] bool WaitUntilEmpty(Clock::time_point deadline);
  // Ends all that run, with kUnavailable.
  void AbortAll();

  [[nodiscard]] Statistics statistics() const;

 private:
  struct Errand;
  struct Returned {
    scheduler::JobId job = 0;
    std::size_t sequence = 0;
    std::shared_ptr<Errand> errand;
  };
  struct Text;
  struct Group;
  struct Work;
  struct Wakes;

  Service(Options options, std::vector<std::shared_ptr<const Model>> models);
  void RunSteps();
  void EndLost(Wakes& wakes);
  void RunPlan(std::span<const scheduler::Share> plan, std::span<Work* const> works, Wakes& wakes);
  Result<void> Join(Work& work, Text& text);
  Result<void> Start(Work& work, Text& text, generation::Memory memory);
  void Send(const Work& work, const Text& text, std::shared_ptr<Errand> errand, std::function<void()> what);
  Result<void> Welcome(Work& work, Text& text);
  void ReportReturned(std::span<const Returned> returned, Wakes& wakes);
  void Park(const Work& work, Text& text);
  void Resume(const Work& work, Text& text);
  bool Restore(const Work& work, Text& text, std::span<const tokenizer::TokenId> prompt, generation::Memory& memory);
  void EndTurn(Work& work, Text& text);
  void Accept(Work& work, Text& text, generation::Piece& piece, Wakes& wakes);
  void ShrinkPrefixes();
  void End(scheduler::JobId id, std::optional<Error> failure, Wakes& wakes);

  const Options options_;
  const std::vector<std::shared_ptr<const Model>> models_;
  Sessions sessions_;
  std::atomic<bool> is_draining_{false};
  std::atomic<bool> is_aborting_{false};
  std::atomic<std::uint64_t> requests_{0}, refused_{0}, cancelled_{0}, failed_{0}, prompt_tokens_{0},
      generated_tokens_{0}, steps_{0}, cached_tokens_{0}, prefix_bytes_{0}, prefix_evictions_{0},
      prefix_packed_bytes_{0}, prefix_restored_{0},
      restored_tokens_{0}, preemptions_{0};
  Histogram first_token_, per_token_, queue_, batch_;

  mutable std::mutex mutex_;
  std::condition_variable changed_, emptied_;
  bool is_stopping_ = false;                                // guarded by mutex_
  scheduler::Scheduler scheduler_;                          // guarded by mutex_
  std::map<scheduler::JobId, std::unique_ptr<Work>> works_;  // guarded by mutex_; what is inside is the thread's
  std::vector<Returned> returned_;                           // errands that are done; guarded by mutex_

  compute::ThreadPool pool_;           // of the thread that runs steps
  transformer::Workspace workspace_;  // likewise
  const std::unique_ptr<PrefixCache> prefixes_;  // likewise
  Worker prepare_;
  Worker errands_;
  std::thread steps_thread_;
};

}  // namespace holo::completion
