#include "server/completion/completion.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>

#include "server/completion/prefix_cache.h"

namespace holo::completion {
namespace {

using scheduler::JobId;

// While nothing can run before an errand returns, clients and deadlines are looked at so often.
constexpr std::chrono::milliseconds kPatience{10};

// Requests that wait for being read: what comes beyond it is refused like a full queue.
constexpr std::size_t kMaxToPrepare = 256;

constexpr double kSeconds[] = {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60};
constexpr double kSizes[] = {1, 2, 4, 8, 16, 32, 64, 128};

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Token TokenOf(sampling::Choice choice) {
  return {choice.token, choice.logprob, std::move(choice.top)};
}

Result<void> Between(std::string_view name, std::size_t value, std::size_t least, std::size_t most) {
  if (value >= least && value <= most) return {};
  return Fail(Code::kInvalidArgument, std::string(name) + ": expected " + std::to_string(least) + " to " +
                                          std::to_string(most) + ", found " + std::to_string(value));
}

}  // namespace

std::uint64_t SeedByChance() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

std::string RandomLetters(std::size_t count) {
  constexpr std::string_view kLetters = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::random_device device;
  std::uniform_int_distribution<std::size_t> letter(0, kLetters.size() - 1);
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += kLetters[letter(device)];
  return text;
}

std::int64_t UnixNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// What is done to a text's memory on another thread, as it would hold the others up. That thread's own until it returns.
struct Service::Errand {
  std::vector<std::uint8_t> packed;
  std::optional<Result<kv_cache::SavedCache>> restored;
};

// One of the texts of a request. The steps' thread's own.
struct Service::Text {
  std::size_t group = 0;
  std::optional<generation::Session> session;
  std::shared_ptr<Errand> errand;  // nothing is run until it has returned
  std::shared_ptr<Errand> parked;  // with its memory, while it makes room for others; may not have returned
  std::optional<generation::Memory> found;  // in the prefix cache, while more is restored
  bool is_over = false;                     // and the session's turn is being put away
  Clock::time_point last_token{};
  bool is_first = true;  // of its group
};

// The texts of one prompt.
struct Service::Group {
  std::size_t to_join = 0;                   // texts that wait for the prompt
  std::optional<generation::Memory> memory;  // of the prompt, while they do
  std::vector<Token> scores;
};

struct Service::Work {
  JobId id = 0;
  std::shared_ptr<Reply> reply;
  std::shared_ptr<const Model> model;
  std::size_t model_index = 0;
  generation::Options options;
  std::vector<Group> groups;
  std::vector<Text> texts;
  std::size_t left = 0;  // texts that are not finished
  std::shared_ptr<Sessions::Turn> turn;  // of a session, or null
  std::vector<chat_template::Message> messages;  // of the turn, with those before it
  std::vector<tokenizer::TokenId> written;       // in the turn, without an end token
  std::string said;                              // likewise
  std::optional<Clock::time_point> deadline;
  Clock::time_point submitted;
  bool has_joined = false;
  bool has_token = false;
};

// Whom to wake once no lock is held.
struct Service::Wakes {
  std::set<std::shared_ptr<Reply>> replies;
  ~Wakes() {
    for (const std::shared_ptr<Reply>& reply : replies) {
      if (reply->wake_) reply->wake_();
    }
  }
};

Reply::News Reply::Take() {
  const std::lock_guard lock(mutex_);
  News news = std::move(news_);
  news_ = {};
  news_.is_over = news.is_over;
  news_.failure = news.failure;
  return news;
}

Usage Reply::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_;
}

Service::Service(Options options, std::vector<std::shared_ptr<const Model>> models)
    : options_(std::move(options)),
      models_(std::move(models)),
      sessions_(options_.sessions, models_),
      first_token_(kSeconds),
      per_token_(kSeconds),
      queue_(kSeconds),
      batch_(kSizes),
      scheduler_(options_.limits),
      pool_(std::max(1u, options_.threads)),
      prefixes_(std::make_unique<PrefixCache>()),
      prepare_(kMaxToPrepare) {
  steps_thread_ = std::thread([this] { RunSteps(); });
}

Result<std::unique_ptr<Service>> Service::Create(Options options, std::vector<std::shared_ptr<const Model>> models) {
  if (models.empty()) return Fail(Code::kInvalidArgument, "models: expected at least one");
  std::set<std::string> names;
  for (const auto& model : models) {
    if (!names.insert(model->name()).second) {
      return Fail(Code::kInvalidArgument, "models: expected different names, found \"" + model->name() +
                                              "\" twice; name them: --model NAME=DIRECTORY");
    }
  }
  return std::unique_ptr<Service>(new Service(std::move(options), std::move(models)));
}

Service::~Service() {
  BeginDrain();
  prepare_.Stop();
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_all();
  steps_thread_.join();
}

Result<std::shared_ptr<const Model>> Service::Find(std::string_view name) const {
  if (name.empty()) return models_.front();
  std::string names;
  for (const auto& model : models_) {
    if (model->name() == name) return model;
    names += (names.empty() ? "" : ", ") + model->name();
  }
  return Fail(Code::kNotFound, "model: expected one of " + names + ", found \"" +
                                   tokenizer::ToValidUtf8(name.substr(0, 100)) + "\"");
}

Result<std::shared_ptr<Reply>> Service::Submit(Request request, std::function<void()> wake) {
  if (is_draining_) {
    ++refused_;
    return Fail(Code::kUnavailable, "the server is shutting down");
  }
  std::shared_ptr<const Model> model;
  std::shared_ptr<Sessions::Turn> turn;
  if (request.session.empty()) {
    HOLO_ASSIGN_OR_RETURN(model, Find(request.model));
  } else {
    if (request.prompts.size() + (request.messages.empty() ? 0 : 1) != 1 || request.best_of != 1 ||
        request.scores_prompt) {
      return Fail(Code::kInvalidArgument,
                  "session: expected one prompt, one choice and no logprobs of the prompt, found more");
    }
    HOLO_ASSIGN_OR_RETURN(turn, sessions_.Begin(request.owner, request.session));
    model = turn->shared_model();
    if (!request.model.empty() && request.model != model->name()) {
      return Fail(Code::kInvalidArgument, "model: expected " + model->name() + ", that of the session, found \"" +
                                              tokenizer::ToValidUtf8(request.model.substr(0, 100)) + "\"");
    }
    const bool was_chat = !turn->before().messages.empty();
    if (turn->before().turns > 0 && was_chat == request.messages.empty()) {
      return Fail(Code::kInvalidArgument, std::string("session: expected ") +
                                              (was_chat ? "messages, as it is a conversation, found a prompt"
                                                        : "a prompt, as it is a text, found messages"));
    }
    if (!request.messages.empty()) {
      const std::vector<chat_template::Message>& before = turn->before().messages;
      request.messages.insert(request.messages.begin(), before.begin(), before.end());
    }
  }
  const std::uint32_t vocabulary = std::min(model->engine().model->config().vocabulary, model->tokenizer().vocabulary());
  const bool is_chat = !request.messages.empty();
  HOLO_RETURN_IF_ERROR(Between("messages", request.messages.size(), 0, kMaxMessages));
  HOLO_RETURN_IF_ERROR(Between("prompt", request.prompts.size() + (is_chat ? 1 : 0), 1, kMaxPrompts));
  HOLO_RETURN_IF_ERROR(Between("n", request.choices, 1, kMaxChoices));
  HOLO_RETURN_IF_ERROR(Between("best_of", request.best_of, request.choices, kMaxChoices));
  HOLO_RETURN_IF_ERROR(Between("n", std::max<std::size_t>(1, request.prompts.size()) * request.best_of, 1,
                               kMaxSequences));
  HOLO_RETURN_IF_ERROR(sampling::Check(request.sampling, vocabulary));

  auto work = std::make_unique<Work>();
  auto reply = std::make_shared<Reply>();
  work->model = reply->model_ = model;
  work->reply = reply;
  work->model_index = static_cast<std::size_t>(std::find(models_.begin(), models_.end(), model) - models_.begin());
  work->deadline = request.deadline;
  work->submitted = Clock::now();
  reply->choices_ = request.choices;
  reply->best_of_ = request.best_of;
  reply->wake_ = std::move(wake);
  work->options.sampling = std::move(request.sampling);
  work->options.sampling.seed = request.seed ? *request.seed
                                : turn       ? turn->before().seed + turn->before().turns
                                             : SeedByChance();
  work->options.stops = std::move(request.stops);
  work->options.ignores_end_token = request.ignores_end_token;
  work->options.scores_prompt = request.scores_prompt;
  work->options.reserves = false;  // the scheduler has counted it
  const std::uint32_t max_tokens = request.max_tokens.value_or(options_.default_max_tokens);
  work->options.reads_only = max_tokens == 0;
  work->options.max_tokens = max_tokens;
  if (is_chat) {
    HOLO_ASSIGN_OR_RETURN(Model::Conversation conversation, model->Render(request.messages));
    reply->prompts_.push_back(std::move(conversation.tokens));
    work->options.stops.insert(work->options.stops.end(), conversation.stops.begin(), conversation.stops.end());
    if (!request.ignores_end_token) work->options.end_tokens = std::move(conversation.end_tokens);
    if (turn) work->messages = std::move(request.messages);
  }
  HOLO_RETURN_IF_ERROR(sampling::StopFilter::Create(work->options.stops));
  for (Prompt& prompt : request.prompts) {
    if (auto* tokens = std::get_if<std::vector<tokenizer::TokenId>>(&prompt)) {
      reply->prompts_.push_back(std::move(*tokens));
    } else if (turn && !turn->before().tokens.empty()) {
      // No second beginning of a text.
      reply->prompts_.push_back(model->tokenizer().Encode(std::get<std::string>(prompt)));
    } else {
      reply->prompts_.push_back(model->Encode(std::get<std::string>(prompt)));
    }
    if (turn) {
      const std::vector<tokenizer::TokenId>& before = turn->before().tokens;
      reply->prompts_.back().insert(reply->prompts_.back().begin(), before.begin(), before.end());
    }
  }
  work->turn = std::move(turn);
  scheduler::Job job;
  job.client = std::move(request.client);
  const std::size_t context = model->context();
  for (std::size_t p = 0; p < reply->prompts_.size(); ++p) {
    const std::vector<tokenizer::TokenId>& tokens = reply->prompts_[p];
    const std::string field = is_chat ? "messages" : "prompt";
    if (tokens.empty()) return Fail(Code::kInvalidArgument, field + ": expected at least one token, found none");
    // Room for one token, or the request could only fail later.
    const std::size_t most_prompt = context - (work->options.reads_only ? 0 : 1);
    if (tokens.size() > most_prompt) {
      return Fail(Code::kOutOfRange, field + ": expected at most " + std::to_string(most_prompt) +
                                         " tokens, as this model's context has " + std::to_string(context) +
                                         ", found " + std::to_string(tokens.size()));
    }
    for (const tokenizer::TokenId token : tokens) {
      if (token >= vocabulary) {
        return Fail(Code::kInvalidArgument, field + ": expected tokens below " + std::to_string(vocabulary) +
                                                ", found " + std::to_string(token));
      }
    }
    reply->usage_.prompt_tokens += tokens.size();
    const std::size_t most = std::min(context, tokens.size() + max_tokens);
    // Beside the texts there is the prompt's last block, from which they are copied.
    const std::size_t spare = request.best_of > 1 ? kv_cache::kBlockTokens : 0;
    for (std::size_t i = 0; i < request.best_of; ++i) {
      scheduler::Sequence sequence;
      sequence.prompt_tokens = tokens.size();
      sequence.memory_bytes = model->BytesOf(most + spare);
      if (i > 0) sequence.leader = p * request.best_of;
      job.sequences.push_back(sequence);
      Text text;
      text.group = p;
      text.is_first = i == 0;
      work->texts.push_back(std::move(text));
    }
    Group group;
    group.to_join = request.best_of - 1;
    work->groups.push_back(std::move(group));
  }
  work->left = work->texts.size();
  {
    const std::lock_guard lock(mutex_);
    auto id = scheduler_.Submit(std::move(job));
    if (!id) {
      if (id.error().code == Code::kResourceExhausted) ++refused_;
      return tl::unexpected(std::move(id).error());
    }
    work->id = *id;
    works_.emplace(*id, std::move(work));
  }
  ++requests_;
  changed_.notify_all();
  return reply;
}

bool Service::Post(std::function<void()> work) {
  const bool is_posted = prepare_.Post(std::move(work));
  if (!is_posted) ++refused_;
  return is_posted;
}

// With mutex_ held.
void Service::End(JobId id, std::optional<Error> failure, Wakes& wakes) {
  const auto found = works_.find(id);
  if (found == works_.end()) return;
  scheduler_.Cancel(id);
  // Before anybody hears that it is over.
  found->second->turn.reset();
  const std::shared_ptr<Reply> reply = found->second->reply;
  {
    const std::lock_guard lock(reply->mutex_);
    reply->news_.is_over = true;
    reply->news_.failure = std::move(failure);
  }
  wakes.replies.insert(reply);
  works_.erase(found);
  if (works_.empty()) emptied_.notify_all();
}

// Those that nobody waits for any more. With mutex_ held.
void Service::EndLost(Wakes& wakes) {
  std::vector<std::pair<JobId, Error>> lost;
  for (const auto& [id, work] : works_) {
    if (work->texts.front().is_over) continue;  // all has been written, and what the session knows of it must not be lost
    if (is_aborting_) {
      lost.emplace_back(id, Error{Code::kUnavailable, "the server is shutting down"});
    } else if (work->reply->is_cancelled_) {
      lost.emplace_back(id, Error{Code::kCancelled, "cancelled by the client"});
    } else if (work->deadline && Clock::now() >= *work->deadline) {
      lost.emplace_back(id, Error{Code::kDeadlineExceeded, "the deadline has passed"});
    }
  }
  for (auto& [id, error] : lost) {
    ++cancelled_;
    End(id, std::move(error), wakes);
  }
}

void Service::RunSteps() {
  for (;;) {
    Wakes wakes;
    std::vector<Returned> returned;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return is_stopping_ || !works_.empty(); });
      if (is_stopping_) is_aborting_ = true;
      EndLost(wakes);
      if (is_stopping_ && works_.empty()) return;
      returned = std::exchange(returned_, {});
    }
    ReportReturned(returned, wakes);
    std::vector<scheduler::Share> plan;
    std::vector<Work*> works;
    {
      std::unique_lock lock(mutex_);
      plan = scheduler_.Next();
      for (const scheduler::Share& share : plan) works.push_back(works_.at(share.job).get());
      if (plan.empty() && returned.empty() && returned_.empty() && !works_.empty()) changed_.wait_for(lock, kPatience);
    }
    // Works end on this thread only: the pointers stay valid.
    if (plan.empty()) continue;
    ShrinkPrefixes();
    RunPlan(plan, works, wakes);
    ShrinkPrefixes();
  }
}

Result<void> Service::Join(Work& work, Text& text) {
  Group& group = work.groups[text.group];
  const std::vector<tokenizer::TokenId>& prompt = work.reply->prompts_[text.group];
  generation::Memory memory(work.model->engine());
  if (!text.is_first) {
    memory = group.memory->Fork();
    if (--group.to_join == 0) group.memory.reset();
  } else if (options_.caches_prefixes && !work.options.scores_prompt) {
    // The last token is always run.
    prefixes_->Find(work.model_index, prompt, prompt.size() - 1, memory);
  }
  if (work.turn && Restore(work, text, prompt, memory)) return {};
  return Start(work, text, std::move(memory));
}

Result<void> Service::Start(Work& work, Text& text, generation::Memory memory) {
  const std::vector<tokenizer::TokenId>& prompt = work.reply->prompts_[text.group];
  generation::Options options = work.options;
  options.sampling.seed += (&text - work.texts.data()) - text.group * work.reply->best_of_;
  if (!text.is_first) options.scores_prompt = false;  // the first has done that
  HOLO_ASSIGN_OR_RETURN(text.session, generation::Session::Create(work.model->engine(), prompt, options,
                                                                  std::move(memory)));
  if (text.is_first) {
    const std::lock_guard lock(work.reply->mutex_);
    work.reply->usage_.cached_tokens += text.session->reused_tokens();
    cached_tokens_ += text.session->reused_tokens();
  }
  if (!work.has_joined) queue_.Observe(SecondsSince(work.submitted));
  work.has_joined = true;
  return {};
}

void Service::Send(const Work& work, const Text& text, std::shared_ptr<Errand> errand, std::function<void()> what) {
  const Returned returned{work.id, static_cast<std::size_t>(&text - work.texts.data()), std::move(errand)};
  // Never refused: it is stopped after the thread that sends.
  static_cast<void>(errands_.Post([this, returned, what = std::move(what)]() mutable {
    what();
    what = nullptr;  // with what it holds
    {
      const std::lock_guard lock(mutex_);
      returned_.push_back(std::move(returned));
    }
    changed_.notify_all();
  }));
}

void Service::Park(const Work& work, Text& text) {
  text.parked = std::make_shared<Errand>();
  auto memory = std::make_shared<generation::Memory>(text.session->Release());
  Send(work, text, text.parked, [errand = text.parked, memory = std::move(memory), model = work.model] {
    errand->packed = kv_cache::SaveCache(memory->cache, model->fingerprint(), memory->tokens);
  });
  ++preemptions_;
}

// Errands are done in order: what was parked has been packed by then.
void Service::Resume(const Work& work, Text& text) {
  text.errand = std::make_shared<Errand>();
  Send(work, text, text.errand, [errand = text.errand, parked = std::move(text.parked), model = work.model] {
    errand->restored =
        kv_cache::RestoreCache(parked->packed, "parked text", model->engine().scheme, model->fingerprint());
  });
  text.parked = nullptr;
}

namespace {
// Tokens with which both begin.
std::size_t CommonTokens(const SessionState& state, std::span<const tokenizer::TokenId> prompt) {
  return static_cast<std::size_t>(
      std::mismatch(state.tokens.begin(), state.tokens.end(), prompt.begin(), prompt.end()).first -
      state.tokens.begin());
}
}  // namespace

// Sends for what a session remembers, where it is more than `memory` has, which is kept meanwhile.
bool Service::Restore(const Work& work, Text& text, std::span<const tokenizer::TokenId> prompt,
                      generation::Memory& memory) {
  const SessionState& before = work.turn->before();
  // The prefix cache has whole blocks.
  if (!before.memory || CommonTokens(before, prompt) < memory.tokens.size() + kv_cache::kBlockTokens) return false;
  text.found = std::move(memory);
  text.errand = std::make_shared<Errand>();
  Send(work, text, text.errand, [errand = text.errand, bytes = before.memory, model = work.model] {
    errand->restored =
        kv_cache::RestoreCache(*bytes, "parked memory", model->engine().scheme, model->fingerprint());
  });
  return true;
}

// The text's errand has returned: it goes on, begins, or is over.
Result<void> Service::Welcome(Work& work, Text& text) {
  const std::shared_ptr<Errand> errand = std::exchange(text.errand, nullptr);
  if (text.is_over) {
    --work.left;
    return {};
  }
  Result<kv_cache::SavedCache>& restored = *errand->restored;
  generation::Memory memory(work.model->engine());
  if (restored) {
    memory.cache = std::move(restored->cache);
    memory.tokens = std::move(restored->tokens);
  }
  if (text.session) {
    if (!restored) return tl::unexpected(std::move(restored).error());
    text.session->Resume(std::move(memory));
    return {};
  }
  if (restored) {
    restored_tokens_ += std::min(CommonTokens(work.turn->before(), work.reply->prompts_[text.group]), memory.tokens.size());
  } else {
    // The prompt is read again, to the same effect.
    if (options_.log) options_.log("completion: a session is read again: " + ToString(restored.error()));
    memory = std::move(*text.found);
  }
  text.found.reset();
  return Start(work, text, std::move(memory));
}

void Service::ReportReturned(std::span<const Returned> returned, Wakes& wakes) {
  for (const Returned& one : returned) {
    Work* work = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = works_.find(one.job); found != works_.end()) work = found->second.get();
    }
    if (work == nullptr) continue;  // cancelled meanwhile
    Text& text = work->texts[one.sequence];
    scheduler::Outcome outcome;
    outcome.job = one.job;
    outcome.sequence = one.sequence;
    Result<void> welcomed;
    if (text.errand == one.errand) {
      welcomed = Welcome(*work, text);
      outcome.waiting_tokens = text.session ? text.session->waiting_tokens() : 0;
      outcome.is_finished = text.is_over;
    } else if (text.parked == one.errand) {
      outcome.parked_bytes = text.parked->packed.size();
    } else {
      continue;  // it was parked, and has been sent for again
    }
    const std::lock_guard lock(mutex_);
    if (!welcomed) {
      ++failed_;
      if (options_.log) options_.log("completion: a request failed: " + ToString(welcomed.error()));
      End(one.job, std::move(welcomed).error(), wakes);
      continue;
    }
    scheduler_.Report({&outcome, 1});
    if (work->left == 0) End(one.job, std::nullopt, wakes);
  }
}

// The session knows of the turn before anybody hears that it is over.
void Service::EndTurn(Work& work, Text& text) {
  SessionState after = work.turn->before();
  after.tokens = work.reply->prompts_.front();
  after.tokens.insert(after.tokens.end(), work.written.begin(), work.written.end());
  after.messages = std::move(work.messages);
  if (!after.messages.empty() && !work.options.reads_only) {
    after.messages.push_back({chat_template::Role::kAssistant, std::move(work.said)});
  }
  ++after.turns;
  auto memory = std::make_shared<generation::Memory>(text.session->Release());
  text.session.reset();
  text.is_over = true;
  text.errand = std::make_shared<Errand>();
  Send(work, text, text.errand,
       [turn = work.turn, after = std::move(after), memory = std::move(memory), model = work.model]() mutable {
         after.memory = std::make_shared<const std::vector<std::uint8_t>>(
             kv_cache::SaveCache(memory->cache, model->fingerprint(), memory->tokens));
         turn->Commit(std::move(after));
       });
}

void Service::Accept(Work& work, Text& text, generation::Piece& piece, Wakes& wakes) {
  Group& group = work.groups[text.group];
  const bool is_through = piece.choice || piece.finish != generation::Finish::kNone;
  if (text.is_first && work.options.scores_prompt) {
    if (group.scores.empty()) group.scores.push_back({work.reply->prompts_[text.group].front(), std::nullopt, {}});
    for (sampling::Choice& score : piece.scores) group.scores.push_back(TokenOf(std::move(score)));
  }
  if (text.is_first && group.to_join > 0 && !group.memory && text.session->waiting_tokens() <= 1) {
    group.memory = text.session->memory().Fork();
  }
  if (!is_through) return;
  const Clock::time_point now = Clock::now();
  const bool is_beginning = text.last_token == Clock::time_point{};
  Event event;
  event.choice = static_cast<std::size_t>(&text - work.texts.data());
  event.text = std::move(piece.text);
  event.finish = piece.finish;
  if (is_beginning && work.options.scores_prompt) event.prompt = group.scores;
  if (piece.choice) {
    ++generated_tokens_;
    if (is_beginning) {
      if (!work.has_token) first_token_.Observe(SecondsSince(work.submitted));
      work.has_token = true;
    } else {
      per_token_.Observe(std::chrono::duration<double>(now - text.last_token).count());
    }
    if (work.turn && piece.finish != generation::Finish::kEndToken) work.written.push_back(piece.choice->token);
    if (piece.finish != generation::Finish::kEndToken) event.tokens.push_back(TokenOf(std::move(*piece.choice)));
  }
  text.last_token = now;
  // The prompt as soon as it is through, for those that come with the same one; the text when it has ended.
  const bool is_over = event.finish != generation::Finish::kNone;
  if (options_.caches_prefixes && (is_over || (is_beginning && text.is_first))) {
    prefixes_->Keep(work.model_index, text.session->memory());
  }
  if (work.turn) work.said += event.text;
  if (is_over) {
    if (work.turn) {
      EndTurn(work, text);
    } else {
      text.session.reset();
      --work.left;
    }
  }
  const std::lock_guard lock(work.reply->mutex_);
  if (piece.choice) ++work.reply->usage_.completion_tokens;
  work.reply->news_.events.push_back(std::move(event));
  wakes.replies.insert(work.reply);
}

// What running texts may take goes first.
void Service::ShrinkPrefixes() {
  std::uint64_t taken = 0;
  {
    const std::lock_guard lock(mutex_);
    taken = scheduler_.statistics().memory_bytes;
  }
  // Running texts wait meanwhile: where much has to go at once, it is forgotten.
  constexpr std::size_t kMostPacked = 4;
  prefix_evictions_ += prefixes_->Shrink(options_.limits.memory_bytes - taken, kMostPacked);
  prefix_bytes_ = prefixes_->bytes();
  prefix_packed_bytes_ = prefixes_->packed_bytes();
  prefix_restored_ = prefixes_->restored();
}

void Service::RunPlan(std::span<const scheduler::Share> plan, std::span<Work* const> works, Wakes& wakes) {
  std::map<JobId, Error> failures;
  const auto fail = [&](JobId id, Error error) {
    ++failed_;
    if (options_.log) options_.log("completion: a request failed: " + ToString(error));
    failures.emplace(id, std::move(error));
  };
  for (std::size_t i = 0; i < plan.size(); ++i) {
    if (failures.contains(plan[i].job)) continue;
    Text& text = works[i]->texts[plan[i].sequence];
    if (plan[i].parks) {
      Park(*works[i], text);
    } else if (plan[i].resumes) {
      Resume(*works[i], text);
    } else if (plan[i].joins) {
      if (auto joined = Join(*works[i], text); !joined) fail(plan[i].job, std::move(joined).error());
    }
  }
  for (const auto& model : models_) {
    std::vector<generation::Share> shares;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < plan.size(); ++i) {
      if (works[i]->model != model || plan[i].tokens == 0 || failures.contains(plan[i].job)) continue;
      if (works[i]->texts[plan[i].sequence].errand) continue;
      generation::Session& session = *works[i]->texts[plan[i].sequence].session;
      const std::size_t tokens = std::min(plan[i].tokens, session.waiting_tokens());
      if (works[i]->texts[plan[i].sequence].last_token == Clock::time_point{}) prompt_tokens_ += tokens;
      shares.push_back({&session, plan[i].tokens});
      places.push_back(i);
    }
    if (shares.empty()) continue;
    ++steps_;
    batch_.Observe(static_cast<double>(shares.size()));
    auto pieces = generation::Step(model->engine(), shares, workspace_, pool_);
    for (std::size_t k = 0; k < places.size(); ++k) {
      Work& work = *works[places[k]];
      if (pieces) {
        Accept(work, work.texts[plan[places[k]].sequence], (*pieces)[k], wakes);
      } else if (!failures.contains(work.id)) {
        fail(work.id, pieces.error());
      }
    }
  }
  std::vector<scheduler::Outcome> outcomes;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    if (failures.contains(plan[i].job) || plan[i].parks) continue;  // what is parked is reported when it is packed
    const Text& text = works[i]->texts[plan[i].sequence];
    const bool is_away = text.errand != nullptr;
    outcomes.push_back({plan[i].job, plan[i].sequence, text.session ? text.session->waiting_tokens() : 0,
                        !text.session && !is_away, 0, is_away});
  }
  const std::lock_guard lock(mutex_);
  scheduler_.Report(outcomes);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    // A work may stand here several times, and is gone after the first.
    const auto found = works_.find(plan[i].job);
    if (found == works_.end()) continue;
    if (const auto failure = failures.find(plan[i].job); failure != failures.end()) {
      End(plan[i].job, failure->second, wakes);
    } else if (found->second->left == 0) {
      End(plan[i].job, std::nullopt, wakes);
    }
  }
}

bool Service::WaitUntilEmpty(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return emptied_.wait_until(lock, deadline, [this] { return works_.empty(); });
}

void Service::AbortAll() {
  is_draining_ = true;
  is_aborting_ = true;
}

Statistics Service::statistics() const {
  Statistics statistics;
  for (const auto& model : models_) {
    statistics.memories.push_back({model->name(), model->files().method, model->engine().scheme->bytes_per_token()});
  }
  statistics.requests = requests_;
  statistics.refused = refused_;
  statistics.cancelled = cancelled_;
  statistics.failed = failed_;
  statistics.prompt_tokens = prompt_tokens_;
  statistics.generated_tokens = generated_tokens_;
  statistics.steps = steps_;
  statistics.cached_tokens = cached_tokens_;
  statistics.prefix_bytes = prefix_bytes_;
  statistics.prefix_packed_bytes = prefix_packed_bytes_;
  statistics.prefix_restored = prefix_restored_;
  statistics.prefix_evictions = prefix_evictions_;
  statistics.restored_tokens = restored_tokens_;
  statistics.preemptions = preemptions_;
  statistics.sessions = sessions_.statistics();
  statistics.memory_limit_bytes = options_.limits.memory_bytes;
  statistics.first_token_seconds = first_token_.snapshot();
  statistics.token_seconds = per_token_.snapshot();
  statistics.queue_seconds = queue_.snapshot();
  statistics.batch_size = batch_.snapshot();
  const std::lock_guard lock(mutex_);
  statistics.now = scheduler_.statistics();
  return statistics;
}

}  // namespace holo::completion
