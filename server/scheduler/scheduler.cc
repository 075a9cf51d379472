#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

namespace holo::scheduler {

Result<JobId> Scheduler::Submit(Job job) {
  for (const Sequence& sequence : job.sequences) {
    if (sequence.memory_bytes > limits_.memory_bytes) {
      return Fail(Code::kOutOfRange, "memory: expected at most " + std::to_string(limits_.memory_bytes) +
                                         " bytes for a text and its prompt, found " +
                                         std::to_string(sequence.memory_bytes) + "; ask for fewer tokens");
    }
  }
  if (limits_.max_of_client > 0) {
    std::size_t own = job.sequences.size();
    for (const auto& [id, entry] : jobs_) {
      if (entry.client == job.client) own += entry.members.size();
    }
    if (own > limits_.max_of_client) {
      return Fail(Code::kResourceExhausted, "client: expected at most " + std::to_string(limits_.max_of_client) +
                                                " texts of one client at a time, found " + std::to_string(own));
    }
  }
  if (queued_ >= limits_.max_queued) {
    return Fail(Code::kResourceExhausted, "queue: expected fewer than " + std::to_string(limits_.max_queued) +
                                              " requests that wait, found " + std::to_string(queued_));
  }
  const JobId id = next_id_++;
  Entry entry;
  entry.client = job.client;
  for (const Sequence& sequence : job.sequences) {
    Member member;
    member.asked = sequence;
    member.waiting_tokens = std::max<std::size_t>(1, sequence.prompt_tokens);
    entry.members.push_back(member);
  }
  entry.waiting = entry.members.size();
  clients_[entry.client].jobs.push_back(id);
  jobs_.emplace(id, std::move(entry));
  ++queued_;
  return id;
}

void Scheduler::Cancel(JobId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  Entry& entry = found->second;
  Client& client = clients_[entry.client];
  if (!entry.has_begun) --queued_;
  for (const Member& member : entry.members) {
    memory_bytes_ -= member.held_bytes;
    if (member.state == State::kRunning) --client.running;
    if (member.state != State::kParked) continue;
    --parked_;
    parked_bytes_ -= member.parked_bytes;
  }
  std::erase_if(running_, [id](const Place& place) { return place.job == id; });
  Leave(client, id);
  DropClient(entry.client);
  jobs_.erase(found);
}

void Scheduler::Leave(Client& client, JobId id) {
  std::erase(client.jobs, id);
}

void Scheduler::DropClient(const std::string& name) {
  const auto found = clients_.find(name);
  if (found != clients_.end() && found->second.jobs.empty() && found->second.running == 0) clients_.erase(found);
}

// The first sequence that may join, were there room.
std::optional<std::size_t> Scheduler::Ready(const Entry& entry) const {
  for (std::size_t i = 0; i < entry.members.size(); ++i) {
    const Member& member = entry.members[i];
    if (member.state == State::kParked) return i;
    if (member.state != State::kWaiting) continue;
    if (!member.asked.leader || entry.members[*member.asked.leader].is_prompt_through) return i;
  }
  return std::nullopt;
}

// What a finished sequence keeps for this one.
std::uint64_t Scheduler::HeldFor(const Entry& entry, std::size_t sequence) {
  const std::size_t leader = entry.members[sequence].asked.leader.value_or(sequence);
  for (std::size_t i = 0; i < entry.members.size(); ++i) {
    const Member& member = entry.members[i];
    if (member.asked.leader.value_or(i) == leader && member.state == State::kFinished) {
      if (member.held_bytes > 0) return member.held_bytes;
    }
  }
  return 0;
}

void Scheduler::Join(JobId id, std::size_t sequence, std::vector<Joined>& joined) {
  Entry& entry = jobs_.at(id);
  Client& client = clients_.at(entry.client);
  Member& member = entry.members[sequence];
  const std::size_t leader = member.asked.leader.value_or(sequence);
  for (std::size_t i = 0; i < entry.members.size(); ++i) {
    Member& other = entry.members[i];
    if (other.asked.leader.value_or(i) == leader && other.state == State::kFinished) {
      memory_bytes_ -= std::exchange(other.held_bytes, 0);
    }
  }
  const bool resumes = member.state == State::kParked;
  if (resumes) {
    --parked_;
    parked_bytes_ -= std::exchange(member.parked_bytes, 0);
  }
  member.state = State::kRunning;
  member.is_away = false;
  member.steps = 0;
  member.held_bytes = member.asked.memory_bytes;
  memory_bytes_ += member.held_bytes;
  // The leader's memory has all but the last token of the same prompt.
  if (member.asked.leader) member.waiting_tokens = 1;
  if (!entry.has_begun) --queued_;
  entry.has_begun = true;
  --entry.waiting;
  ++entry.running;
  ++client.running;
  client.last_joined = ++turn_;
  if (entry.waiting == 0) Leave(client, id);
  running_.push_back({id, sequence});
  joined.push_back({{id, sequence}, resumes});
}

bool Scheduler::JoinOne(std::vector<Joined>& joined) {
  if (running_.size() >= limits_.max_running) return false;
  // First those for whom memory is kept: only they can give it back.
  for (const auto& [id, entry] : jobs_) {
    if (!entry.has_begun || entry.waiting == 0) continue;
    const std::optional<std::size_t> ready = Ready(entry);
    if (!ready || HeldFor(entry, *ready) == 0) continue;
    Join(id, *ready, joined);
    return true;
  }
  const std::optional<Place> next = Choose();
  if (!next) return false;
  const std::uint64_t bytes = jobs_.at(next->job).members[next->sequence].asked.memory_bytes;
  if (bytes > limits_.memory_bytes - memory_bytes_) return false;
  Join(next->job, next->sequence, joined);
  return true;
}

std::optional<Scheduler::Place> Scheduler::Choose() const {
  const Client* best = nullptr;
  Place place;
  for (const auto& [name, client] : clients_) {
    if (best != nullptr && std::pair(client.running, client.last_joined) >= std::pair(best->running, best->last_joined)) {
      continue;
    }
    for (const JobId id : client.jobs) {
      const std::optional<std::size_t> ready = Ready(jobs_.at(id));
      if (!ready) continue;
      best = &client;
      place = {id, *ready};
      break;
    }
  }
  if (best == nullptr) return std::nullopt;
  return place;
}

// For one that Choose() names and that has no room.
bool Scheduler::ParkOne(std::vector<Place>& parked) {
  if (limits_.parked_bytes == 0) return false;
  const std::optional<Place> next = Choose();
  if (!next || clients_.at(jobs_.at(next->job).client).running > 0) return false;
  const std::uint64_t wanted = jobs_.at(next->job).members[next->sequence].asked.memory_bytes;
  auto victim = running_.rend();
  std::size_t most_running = 1;
  for (auto place = running_.rbegin(); place != running_.rend(); ++place) {
    const Entry& entry = jobs_.at(place->job);
    const Member& member = entry.members[place->sequence];
    const std::size_t of_client = clients_.at(entry.client).running;
    if (of_client <= most_running || entry.members.size() > 1 || !member.is_prompt_through || member.is_away ||
        member.steps < std::max<std::size_t>(1, limits_.steps_before_parking) ||
        wanted > limits_.memory_bytes - (memory_bytes_ - member.held_bytes) ||
        member.asked.memory_bytes + parked_bytes_ > limits_.parked_bytes) {
      continue;
    }
    most_running = of_client;
    victim = place;
  }
  if (victim == running_.rend()) return false;
  const Place place = *victim;
  running_.erase(std::next(victim).base());
  Entry& entry = jobs_.at(place.job);
  Client& client = clients_.at(entry.client);
  Member& member = entry.members[place.sequence];
  member.state = State::kParked;
  memory_bytes_ -= std::exchange(member.held_bytes, 0);
  member.parked_bytes = member.asked.memory_bytes;
  parked_bytes_ += member.parked_bytes;
  ++parked_;
  --entry.running;
  ++entry.waiting;
  --client.running;
  client.jobs.push_front(place.job);
  parked.push_back(place);
  return true;
}

std::vector<Share> Scheduler::Next() {
  std::vector<Joined> joined;
  std::vector<Place> parked;
  do {
    while (JoinOne(joined)) {
    }
  } while (ParkOne(parked));
  std::vector<Share> shares;
  shares.reserve(running_.size());
  const std::size_t first_joined = running_.size() - joined.size();
  struct Prompt {
    std::size_t share = 0;
    Client* client = nullptr;
    Member* member = nullptr;
  };
  std::vector<Prompt> prompts;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Entry& entry = jobs_.at(running_[i].job);
    Member& member = entry.members[running_[i].sequence];
    Share& share = shares.emplace_back();
    share.job = running_[i].job;
    share.sequence = running_[i].sequence;
    if (member.is_away) continue;
    share.tokens = 1;
    if (i >= first_joined) (joined[i - first_joined].resumes ? share.resumes : share.joins) = true;
    if (member.waiting_tokens <= 1) continue;
    shares.back().tokens = 0;
    prompts.push_back({i, &clients_.at(entry.client), &member});
  }
  std::size_t budget = std::max<std::size_t>(1, limits_.prompt_tokens);
  while (budget > 0 && !prompts.empty()) {
    const auto next = std::min_element(prompts.begin(), prompts.end(), [](const Prompt& a, const Prompt& b) {
      return std::pair(a.client->last_served, a.member->last_served) <
             std::pair(b.client->last_served, b.member->last_served);
    });
    const std::size_t tokens = std::min(budget, next->member->waiting_tokens);
    shares[next->share].tokens = tokens;
    budget -= tokens;
    next->client->last_served = next->member->last_served = ++turn_;
    prompts.erase(next);
  }
  // A prompt that got nothing waits, also where it has just joined.
  std::vector<Share> plan;
  for (const Place& place : parked) {
    Share& share = plan.emplace_back();
    share.job = place.job;
    share.sequence = place.sequence;
    share.parks = true;
  }
  for (const Share& share : shares) {
    if (share.tokens > 0 || share.joins) plan.push_back(share);
  }
  return plan;
}

void Scheduler::Finish(Entry& entry, std::size_t sequence) {
  Member& member = entry.members[sequence];
  member.state = State::kFinished;
  member.is_prompt_through = true;
  --entry.running;
  --clients_.at(entry.client).running;
  const std::size_t leader = member.asked.leader.value_or(sequence);
  bool is_awaited = false;
  bool is_shared = false;
  for (std::size_t i = 0; i < entry.members.size(); ++i) {
    const Member& other = entry.members[i];
    if (i == sequence || other.asked.leader.value_or(i) != leader) continue;
    is_awaited = is_awaited || other.state == State::kWaiting;
    is_shared = is_shared || other.state == State::kRunning;
  }
  if (!is_awaited || is_shared) memory_bytes_ -= std::exchange(member.held_bytes, 0);
}

void Scheduler::Report(std::span<const Outcome> outcomes) {
  for (const Outcome& outcome : outcomes) {
    const auto found = jobs_.find(outcome.job);
    if (found == jobs_.end()) continue;
    Entry& entry = found->second;
    Member& member = entry.members[outcome.sequence];
    if (member.state == State::kParked) {
      parked_bytes_ += outcome.parked_bytes - std::exchange(member.parked_bytes, outcome.parked_bytes);
      continue;
    }
    member.is_away = outcome.is_away;
    if (outcome.is_away) continue;
    ++member.steps;
    member.waiting_tokens = outcome.waiting_tokens;
    if (outcome.waiting_tokens <= 1) member.is_prompt_through = true;
    if (!outcome.is_finished) continue;
    Finish(entry, outcome.sequence);
    std::erase_if(running_, [&outcome](const Place& place) {
      return place.job == outcome.job && place.sequence == outcome.sequence;
    });
    if (entry.running == 0 && entry.waiting == 0) {
      const std::string client = entry.client;
      jobs_.erase(found);
      DropClient(client);
    }
  }
}

Statistics Scheduler::statistics() const {
  return {running_.size(), queued_, memory_bytes_, parked_, parked_bytes_};
}

}  // namespace holo::scheduler
