// Which sequences the next step of a language model runs, and of their prompts how much: a pure state machine without
// clock, thread or model.
//
// A Job is one request: one or more sequences of one client. Submit() puts it into a bounded queue. Next() plans a step:
// running sequences that generate take one token each, prompts share a budget of tokens, and sequences from the queue
// join as far as there is room. Report() says what the step did. The legal order is Next(), Report(), Next(), ...;
// more outcomes may be reported between them. Submit() and Cancel() may come at any time between them. A cancelled job, queued or running, is in no later plan.
//
// Fairness. Clients take turns: the next sequence to join is of the client with the fewest that run (among equals, of
// the one that waits longest since it was last chosen), and the budget for prompts goes to the client that was given
// some least recently. Within a client, jobs join in order. What does not fit into the memory waits, and nothing
// overtakes it: nobody starves.
//
// Parking. Where a client has nothing that runs and the first of its sequences does not fit, one of another client that
// runs several makes room: the youngest that generates, has no others of its job and has had its share of steps. Its
// memory is packed, outside the ceiling below one of its own, and it joins again before its client's other jobs.
//
// Memory. Each sequence says what it takes at most, and joins only when that fits below the ceiling with what all
// running ones may take. Sequences with the same prompt have a leader: they join when its prompt is through, and take
// the prompt's memory over from it (the leader's share is kept for them when it ends early).
//
// One thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status/status.h"

namespace holo::scheduler {

using JobId = std::uint64_t;

struct Limits {
  std::size_t max_running = 32;                         // sequences in one step
  std::size_t max_queued = 64;                          // jobs of which nothing runs yet
  std::size_t max_of_client = 0;                        // sequences of one client's jobs; 0: no limit
  std::uint64_t memory_bytes = std::uint64_t{1} << 30;  // of all that run
  std::size_t prompt_tokens = 64;                       // of all prompts together in one step, at least 1
  std::uint64_t parked_bytes = 0;                       // of all that are parked; 0: none is
  std::size_t steps_before_parking = 64;
};

struct Sequence {
  std::size_t prompt_tokens = 1;      // at least 1
  std::uint64_t memory_bytes = 0;     // that it takes at most
  std::optional<std::size_t> leader;  // an earlier sequence of the job that has none itself
};

struct Job {
  std::string client;
  std::vector<Sequence> sequences;  // at least one
};

// One sequence's part of a step.
struct Share {
  JobId job = 0;
  std::size_t sequence = 0;  // its place in the job
  std::size_t tokens = 0;    // at most so many
  bool joins = false;        // its first step
  bool parks = false;        // instead of running; before any joins
  bool resumes = false;      // it was parked
};

// What a step, or what was done to its memory elsewhere, did to one sequence.
struct Outcome {
  JobId job = 0;
  std::size_t sequence = 0;
  std::size_t waiting_tokens = 0;  // before its next choice; 1 for one that generates
  bool is_finished = false;
  std::uint64_t parked_bytes = 0;  // of one that was to park
  // Its memory is worked on elsewhere: it keeps it, is in no plan and is not parked until its next outcome.
  bool is_away = false;
};

struct Statistics {
  std::size_t running = 0;       // sequences
  std::size_t queued = 0;        // jobs of which nothing runs yet
  std::uint64_t memory_bytes = 0;  // that running sequences may take
  std::size_t parked = 0;          // sequences
  std::uint64_t parked_bytes = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const Limits& limits) : limits_(limits) {}

  // kResourceExhausted where the queue is full; kOutOfRange, with both numbers, for a sequence that takes more than all
  // the memory there is. Both change nothing.
  [[nodiscard]] Result<JobId> Submit(Job job);
  // Nothing for a job that has ended.
  void Cancel(JobId id);

  [[nodiscard]] std::vector<Share> Next();
  // Outcomes of jobs that have been cancelled meanwhile are ignored. A job ends with its last sequence.
  void Report(std::span<const Outcome> outcomes);

  [[nodiscard]] bool Has(JobId id) const { return jobs_.contains(id); }
  [[nodiscard]] Statistics statistics() const;
  [[nodiscard]] const Limits& limits() const { return limits_; }

 private:
  enum class State : std::uint8_t { kWaiting, kRunning, kParked, kFinished };
  struct Member {
    Sequence asked;
    State state = State::kWaiting;
    bool is_prompt_through = false;
    bool is_away = false;
    std::size_t waiting_tokens = 0;
    std::uint64_t held_bytes = 0;
    std::uint64_t parked_bytes = 0;  // at most, until it has been packed
    std::size_t steps = 0;           // since it joined, or joined again
    std::uint64_t last_served = 0;
  };
  struct Entry {
    std::string client;
    std::vector<Member> members;
    std::size_t waiting = 0;
    std::size_t running = 0;
    bool has_begun = false;
  };
  struct Client {
    std::deque<JobId> jobs;  // with sequences that wait, in order
    std::size_t running = 0;
    std::uint64_t last_joined = 0;
    std::uint64_t last_served = 0;
  };
  struct Place {
    JobId job = 0;
    std::size_t sequence = 0;
  };

  [[nodiscard]] std::optional<std::size_t> Ready(const Entry& entry) const;
  [[nodiscard]] static std::uint64_t HeldFor(const Entry& entry, std::size_t sequence);
  struct Joined {
    Place place;
    bool resumes = false;
  };
  // The next one to join, in fairness.
  [[nodiscard]] std::optional<Place> Choose() const;
  bool JoinOne(std::vector<Joined>& joined);
  void Join(JobId id, std::size_t sequence, std::vector<Joined>& joined);
  bool ParkOne(std::vector<Place>& parked);
  void Finish(Entry& entry, std::size_t sequence);
  void Leave(Client& client, JobId id);
  void DropClient(const std::string& name);

  Limits limits_;
  JobId next_id_ = 1;
  std::uint64_t turn_ = 0;
  std::map<JobId, Entry> jobs_;  // by age
  std::map<std::string, Client> clients_;
  std::vector<Place> running_;  // in the order in which they joined
  std::size_t queued_ = 0;
  std::uint64_t memory_bytes_ = 0;
  std::size_t parked_ = 0;
  std::uint64_t parked_bytes_ = 0;
};

}  // namespace holo::scheduler
