#include "server/scheduler/scheduler.h"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

namespace holo::scheduler {
namespace {

Job OneText(const std::string& client, std::size_t prompt_tokens, std::uint64_t bytes = 1) {
  return {client, {{prompt_tokens, bytes, std::nullopt}}};
}

// What a model would do: reads prompts, then writes a number of tokens.
class Fake {
 public:
  explicit Fake(const Limits& limits) : scheduler(limits) {}

  JobId Submit(Job job, std::size_t tokens) {
    const JobId id = scheduler.Submit(job).value();
    for (std::size_t i = 0; i < job.sequences.size(); ++i) {
      texts_[{id, i}] = {job.sequences[i].leader ? 1 : job.sequences[i].prompt_tokens, tokens};
    }
    return id;
  }
  std::vector<Share> Step() {
    const std::vector<Share> plan = scheduler.Next();
    std::vector<Outcome> outcomes;
    for (const Share& share : plan) {
      Text& text = texts_.at({share.job, share.sequence});
      text.waiting -= std::min(text.waiting, share.tokens);
      bool is_finished = false;
      if (text.waiting == 0) {
        is_finished = --text.left == 0;
        text.waiting = is_finished ? 0 : 1;
      }
      outcomes.push_back({share.job, share.sequence, text.waiting, is_finished, share.parks ? kPacked : 0});
    }
    scheduler.Report(outcomes);
    return plan;
  }

  static constexpr std::uint64_t kPacked = 3;

  Scheduler scheduler;

 private:
  struct Text {
    std::size_t waiting = 0;
    std::size_t left = 0;
  };
  std::map<std::pair<JobId, std::size_t>, Text> texts_;
};

std::size_t TokensOf(const std::vector<Share>& plan, JobId job) {
  std::size_t tokens = 0;
  for (const Share& share : plan) tokens += share.job == job ? share.tokens : 0;
  return tokens;
}

TEST_CASE("a request joins those that run at the next step") {
  Fake fake({});
  const JobId first = fake.Submit(OneText("a", 10), 100);
  CHECK(TokensOf(fake.Step(), first) == 10);
  CHECK(TokensOf(fake.Step(), first) == 1);
  const JobId second = fake.Submit(OneText("b", 20), 100);
  const auto plan = fake.Step();
  CHECK(TokensOf(plan, first) == 1);
  CHECK(TokensOf(plan, second) == 20);
  CHECK(plan.back().joins);
  CHECK_FALSE(plan.front().joins);
}

TEST_CASE("a long prompt holds nobody up for more than a chunk, and one does not wait behind another") {
  Limits limits;
  limits.prompt_tokens = 64;
  Fake fake(limits);
  const JobId writes = fake.Submit(OneText("a", 1), 1000);
  fake.Step();
  const JobId one = fake.Submit(OneText("b", 1000), 1);
  const JobId other = fake.Submit(OneText("c", 1000), 1);
  std::size_t one_tokens = 0;
  std::size_t other_tokens = 0;
  for (int i = 0; i < 10; ++i) {
    const auto plan = fake.Step();
    CHECK(TokensOf(plan, writes) == 1);
    CHECK(TokensOf(plan, one) + TokensOf(plan, other) == 64);
    one_tokens += TokensOf(plan, one);
    other_tokens += TokensOf(plan, other);
  }
  CHECK(one_tokens == other_tokens);
}

TEST_CASE("what is left of the budget for prompts goes to the next one") {
  Limits limits;
  limits.prompt_tokens = 50;
  Fake fake(limits);
  const JobId first = fake.Submit(OneText("a", 20), 5);
  const JobId second = fake.Submit(OneText("b", 100), 5);
  const auto plan = fake.Step();
  CHECK(TokensOf(plan, first) == 20);
  CHECK(TokensOf(plan, second) == 30);
}

TEST_CASE("the queue is bounded in requests that have not begun") {
  Limits limits;
  limits.max_running = 1;
  limits.max_queued = 2;
  Fake fake(limits);
  fake.Submit(OneText("a", 1), 10);
  fake.Step();
  fake.Submit(OneText("a", 1), 10);
  fake.Submit(OneText("b", 1), 10);
  const auto refused = fake.scheduler.Submit(OneText("c", 1));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(fake.scheduler.statistics().queued == 2);
  for (int i = 0; i < 10; ++i) fake.Step();
  CHECK(fake.scheduler.Submit(OneText("c", 1)));
}

TEST_CASE("a client has no more texts at a time than it may, and others are not concerned") {
  Limits limits;
  limits.max_of_client = 3;
  Fake fake(limits);
  Job two = OneText("a", 1);
  two.sequences.push_back(two.sequences.front());
  fake.Submit(two, 2);
  (void)fake.Step();  // running ones count like those that wait
  const JobId third = fake.Submit(OneText("a", 1), 2);
  const auto refused = fake.scheduler.Submit(OneText("a", 1));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(refused.error().message.starts_with("client"));
  fake.Submit(OneText("b", 1), 1);
  fake.scheduler.Cancel(third);
  fake.Submit(OneText("a", 1), 1);
  while (!fake.Step().empty()) {
  }
  // What has ended does not count.
  CHECK(fake.scheduler.Submit(two).has_value());
}

TEST_CASE("clients take turns, however much one of them asks for") {
  Limits limits;
  limits.max_running = 2;
  Fake fake(limits);
  std::vector<JobId> greedy;
  for (int i = 0; i < 10; ++i) greedy.push_back(fake.Submit(OneText("greedy", 1), 4));
  const JobId modest = fake.Submit(OneText("modest", 1), 4);
  std::size_t steps = 0;
  while (fake.scheduler.Has(modest) && steps < 100) {
    fake.Step();
    ++steps;
  }
  // Two of the greedy one's run first or it is one of each: it is never behind more than that.
  CHECK(steps <= 8);
  std::size_t greedy_left = 0;
  for (const JobId id : greedy) greedy_left += fake.scheduler.Has(id) ? 1 : 0;
  CHECK(greedy_left >= 7);
}

TEST_CASE("the memory of all that run stays below the ceiling, and what does not fit is not overtaken") {
  Limits limits;
  limits.memory_bytes = 100;
  Fake fake(limits);
  const JobId small = fake.Submit(OneText("a", 1, 60), 5);
  const JobId large = fake.Submit(OneText("b", 1, 90), 5);
  const JobId tiny = fake.Submit(OneText("c", 1, 10), 5);
  auto plan = fake.Step();
  CHECK(TokensOf(plan, small) == 1);
  CHECK(TokensOf(plan, large) == 0);
  CHECK(TokensOf(plan, tiny) == 0);
  for (int i = 0; i < 4; ++i) fake.Step();
  plan = fake.Step();
  CHECK(TokensOf(plan, large) == 1);
  CHECK(TokensOf(plan, tiny) == 1);
  CHECK(fake.scheduler.statistics().memory_bytes == 100);
  const auto impossible = fake.scheduler.Submit(OneText("a", 1, 101));
  REQUIRE_FALSE(impossible);
  CHECK(impossible.error().code == Code::kOutOfRange);
}

TEST_CASE("a cancelled request is in no later plan, whether it waits, reads or writes") {
  Limits limits;
  limits.max_running = 2;
  limits.memory_bytes = 2;
  Fake fake(limits);
  const JobId reads = fake.Submit(OneText("a", 1000), 5);
  const JobId writes = fake.Submit(OneText("b", 1), 50);
  const JobId waits = fake.Submit(OneText("c", 1), 5);
  fake.Step();
  for (const JobId id : {reads, writes, waits}) {
    CHECK(fake.scheduler.Has(id));
    fake.scheduler.Cancel(id);
    CHECK_FALSE(fake.scheduler.Has(id));
    CHECK(TokensOf(fake.scheduler.Next(), id) == 0);
  }
  CHECK(fake.scheduler.statistics().running == 0);
  CHECK(fake.scheduler.statistics().queued == 0);
  CHECK(fake.scheduler.statistics().memory_bytes == 0);
  fake.scheduler.Cancel(reads);  // once more does nothing
}

TEST_CASE("texts of one prompt join when it is through, and read it once") {
  Limits limits;
  limits.prompt_tokens = 10;
  Fake fake(limits);
  Job job = OneText("a", 25);
  job.sequences.push_back({25, 1, 0});
  job.sequences.push_back({25, 1, 0});
  const JobId id = fake.Submit(job, 3);
  for (const std::size_t expected : {10u, 10u, 5u}) {
    const auto plan = fake.Step();
    REQUIRE(plan.size() == 1);
    CHECK(plan[0].tokens == expected);
  }
  CHECK(fake.Step().size() == 3);
  CHECK(TokensOf(fake.Step(), id) == 3);
}

TEST_CASE("texts that follow a leader that has ended take its memory over, and nothing blocks them") {
  Limits limits;
  limits.memory_bytes = 10;
  limits.max_running = 1;
  Fake fake(limits);
  Job job = OneText("a", 4, 10);
  job.sequences.push_back({4, 10, 0});
  job.sequences.push_back({4, 10, 0});
  const JobId id = fake.Submit(job, 2);
  const JobId other = fake.Submit(OneText("b", 1, 10), 2);
  std::size_t steps = 0;
  while ((fake.scheduler.Has(id) || fake.scheduler.Has(other)) && steps < 100) {
    CHECK(fake.scheduler.statistics().memory_bytes <= 10);
    CHECK_FALSE(fake.Step().empty());
    ++steps;
  }
  CHECK(steps == 8);
  CHECK(fake.scheduler.statistics().memory_bytes == 0);
}

// What is parked and what resumes in a plan, as jobs.
std::pair<std::vector<JobId>, std::vector<JobId>> Parking(const std::vector<Share>& plan) {
  std::pair<std::vector<JobId>, std::vector<JobId>> found;
  for (const Share& share : plan) {
    if (share.parks) found.first.push_back(share.job);
    if (share.resumes) found.second.push_back(share.job);
  }
  return found;
}

TEST_CASE("the youngest text of a client that has several makes room for a client that has none, and comes back") {
  struct Row {
    const char* name;
    std::size_t max_running;
    std::uint64_t memory_bytes;
  };
  for (const Row& row : {Row{"no place in the step", 2, 100}, Row{"no memory", 8, 20}}) {
    CAPTURE(row.name);
    Limits limits;
    limits.max_running = row.max_running;
    limits.memory_bytes = row.memory_bytes;
    limits.parked_bytes = 10;
    limits.steps_before_parking = 3;
    Fake fake(limits);
    const JobId older = fake.Submit(OneText("greedy", 1, 10), 50);
    const JobId younger = fake.Submit(OneText("greedy", 1, 10), 50);
    fake.Step();
    const JobId modest = fake.Submit(OneText("modest", 4, 10), 5);
    for (int i = 0; i < 2; ++i) CHECK(TokensOf(fake.Step(), modest) == 0);  // nobody is sent away at once
    auto plan = fake.Step();
    CHECK(Parking(plan).first == std::vector{younger});
    CHECK(plan.front().parks);
    CHECK(TokensOf(plan, modest) == 4);
    CHECK(TokensOf(plan, older) == 1);
    CHECK(TokensOf(plan, younger) == 0);
    CHECK(fake.scheduler.statistics().parked == 1);
    CHECK(fake.scheduler.statistics().parked_bytes == Fake::kPacked);
    CHECK(fake.scheduler.statistics().memory_bytes == 20);
    // Another of the same client's waits behind it.
    const JobId next = fake.Submit(OneText("greedy", 1, 10), 5);
    while (fake.scheduler.Has(modest)) CHECK(Parking(plan = fake.Step()).second.empty());
    plan = fake.Step();
    CHECK(Parking(plan).second == std::vector{younger});
    CHECK(TokensOf(plan, younger) == 1);
    CHECK(TokensOf(plan, next) == 0);
    CHECK(fake.scheduler.statistics().parked == 0);
    CHECK(fake.scheduler.statistics().parked_bytes == 0);
    // One that is parked can be cancelled.
    for (int i = 0; i < 5; ++i) fake.Step();
    fake.Submit(OneText("modest", 1, 10), 5);
    CHECK(Parking(fake.Step()).first == std::vector{younger});
    fake.scheduler.Cancel(younger);
    CHECK(fake.scheduler.statistics().parked == 0);
    CHECK(fake.scheduler.statistics().parked_bytes == 0);
    while (!fake.Step().empty()) {
    }
    CHECK(fake.scheduler.statistics().memory_bytes == 0);
  }
}

TEST_CASE("nobody makes room for a client that has a text running, nor for more than may be parked") {
  Limits limits;
  limits.max_running = 3;
  limits.parked_bytes = 10;
  limits.steps_before_parking = 1;
  Fake fake(limits);
  for (int i = 0; i < 2; ++i) fake.Submit(OneText("greedy", 1, 10), 40);
  fake.Submit(OneText("modest", 1, 10), 40);
  for (int i = 0; i < 3; ++i) fake.Step();
  fake.Submit(OneText("modest", 1, 10), 5);
  for (int i = 0; i < 3; ++i) CHECK(Parking(fake.Step()).first.empty());
  Limits none;
  none.max_running = 2;
  none.parked_bytes = 9;  // less than one takes
  none.steps_before_parking = 1;
  Fake waits(none);
  for (int i = 0; i < 2; ++i) waits.Submit(OneText("greedy", 1, 10), 40);
  waits.Submit(OneText("modest", 1, 10), 5);
  for (int i = 0; i < 20; ++i) CHECK(Parking(waits.Step()).first.empty());
}

TEST_CASE("a text whose memory is away keeps it, is in no plan, makes no room for others, and comes back") {
  Limits limits;
  limits.memory_bytes = 10;
  limits.parked_bytes = 100;
  limits.steps_before_parking = 1;
  Scheduler scheduler(limits);
  const JobId first = scheduler.Submit(OneText("a", 1, 4)).value();
  const JobId second = scheduler.Submit(OneText("a", 1, 4)).value();
  REQUIRE(scheduler.Next().size() == 2);
  const Outcome begun[] = {{first, 0, 1}, {second, 0, 1}};
  scheduler.Report(begun);
  REQUIRE(scheduler.Next().size() == 2);
  Outcome away{second, 0, 0};
  away.is_away = true;
  const Outcome outcomes[] = {{first, 0, 1}, away};
  scheduler.Report(outcomes);
  // The younger one would make room, were it there.
  const JobId third = scheduler.Submit(OneText("b", 1, 4)).value();
  std::vector<Share> plan = scheduler.Next();
  REQUIRE(plan.size() == 2);
  CHECK(plan[0].job == first);
  CHECK(plan[0].parks);
  CHECK(plan[1].job == third);
  CHECK(scheduler.statistics().memory_bytes == 8);
  const Outcome joined[] = {{third, 0, 1}};
  scheduler.Report(joined);
  CHECK(TokensOf(scheduler.Next(), second) == 0);
  scheduler.Report(joined);
  const Outcome back[] = {{second, 0, 1}};
  scheduler.Report(back);
  CHECK(TokensOf(scheduler.Next(), second) == 1);
  scheduler.Report(joined);
  // One that is over while it is away.
  scheduler.Report({&away, 1});
  Outcome over{second, 0, 0};
  over.is_finished = true;
  scheduler.Report({&over, 1});
  CHECK_FALSE(scheduler.Has(second));
}

TEST_CASE("whatever comes and goes: limits hold, every step runs something, and everything ends") {
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Limits limits;
    limits.max_running = 1 + random() % 6;
    limits.max_queued = 1 + random() % 10;
    limits.memory_bytes = 50;
    limits.prompt_tokens = 1 + random() % 30;
    limits.parked_bytes = random() % 3 * 50;
    limits.steps_before_parking = random() % 10;
    Fake fake(limits);
    std::set<JobId> jobs;
    for (int step = 0; step < 2000; ++step) {
      if (step < 300 && random() % 2 == 0 && fake.scheduler.statistics().queued < limits.max_queued) {
        const std::uint64_t bytes = 1 + random() % 50;
        Job job = OneText("client " + std::to_string(random() % 3), 1 + random() % 100, bytes);
        while (random() % 3 == 0) job.sequences.push_back({job.sequences[0].prompt_tokens, bytes, 0});
        jobs.insert(fake.Submit(job, 1 + random() % 20));
      }
      if (!jobs.empty() && random() % 16 == 0) fake.scheduler.Cancel(*jobs.begin());
      std::erase_if(jobs, [&](JobId id) { return !fake.scheduler.Has(id); });
      const auto plan = fake.Step();
      CHECK(plan.empty() == jobs.empty());
      CHECK(plan.size() - Parking(plan).first.size() <= limits.max_running);
      CHECK(fake.scheduler.statistics().memory_bytes <= limits.memory_bytes);
      CHECK(fake.scheduler.statistics().parked_bytes <= limits.parked_bytes);
    }
    std::erase_if(jobs, [&](JobId id) { return !fake.scheduler.Has(id); });
    CHECK(jobs.empty());
    CHECK(fake.scheduler.statistics().running == 0);
    CHECK(fake.scheduler.statistics().parked == 0);
    CHECK(fake.scheduler.statistics().parked_bytes == 0);
    CHECK(fake.scheduler.statistics().memory_bytes == 0);
  }
}

}  // namespace
}  // namespace holo::scheduler
