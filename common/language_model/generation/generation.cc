#include "common/language_model/generation/generation.h"

#include <algorithm>

namespace holo::generation {

std::string_view FinishName(Finish finish) {
  switch (finish) {
    case Finish::kNone:
      return "none";
    case Finish::kStop:
      return "stop";
    case Finish::kEndToken:
      return "end";
    case Finish::kMaxTokens:
      return "max-tokens";
    case Finish::kContext:
      return "context";
  }
  return "none";
}

Result<Session> Session::Create(const Engine& engine, std::vector<std::uint32_t> prompt, const Options& options,
                                Memory memory) {
  const weights::Config& config = engine.model->config();
  if (prompt.empty()) return Fail(Code::kInvalidArgument, "prompt: expected at least one token, found an empty prompt");
  if (prompt.size() > config.context) {
    return Fail(Code::kOutOfRange, "prompt: expected at most " + std::to_string(config.context) +
                                       " tokens, the model's context, found " + std::to_string(prompt.size()));
  }
  for (const std::uint32_t token : prompt) {
    if (token >= config.vocabulary) {
      return Fail(Code::kInvalidArgument, "prompt: expected tokens below " + std::to_string(config.vocabulary) +
                                              ", found " + std::to_string(token));
    }
  }
  // Where the model's vocabulary is padded, what lies behind the tokenizer's is never chosen.
  const std::uint32_t vocabulary = std::min(config.vocabulary, engine.tokenizer->vocabulary());
  HOLO_ASSIGN_OR_RETURN(sampling::Sampler sampler, sampling::Sampler::Create(options.sampling, vocabulary));
  HOLO_ASSIGN_OR_RETURN(sampling::StopFilter stops, sampling::StopFilter::Create(options.stops));
  Session session(engine, std::move(sampler), std::move(stops), std::move(memory));
  // The last token is always run: its logits are what the first choice is made from.
  // Scores of the prompt need the logits of all of it.
  const std::size_t reusable =
      options.scores_prompt ? 0 : std::min(session.memory_.tokens.size(), prompt.size() - 1);
  const auto end = prompt.begin() + static_cast<std::ptrdiff_t>(reusable);
  session.reused_tokens_ =
      static_cast<std::size_t>(std::mismatch(prompt.begin(), end, session.memory_.tokens.begin()).first - prompt.begin());
  session.memory_.cache.Truncate(session.reused_tokens_);
  session.memory_.tokens.resize(session.reused_tokens_);
  session.prompt_tokens_ = prompt.size();
  session.context_ = config.context;
  session.logprobs_ = options.sampling.logprobs;
  session.scores_prompt_ = options.scores_prompt;
  session.reads_only_ = options.reads_only;
  session.max_tokens_ = options.max_tokens == 0 ? config.context : options.max_tokens;
  session.end_tokens_ = options.end_tokens;
  if (!options.ignores_end_token) {
    session.end_tokens_.insert(session.end_tokens_.end(), config.end_tokens.begin(), config.end_tokens.end());
  }
  for (const std::uint32_t token : prompt) {
    if (token < vocabulary) session.sampler_.Observe({&token, 1});
  }
  const std::size_t most =
      options.reads_only ? prompt.size() : std::min(session.context_, prompt.size() + session.max_tokens_);
  if (options.reserves) session.memory_.cache.Reserve(most);
  session.memory_.tokens.reserve(most);
  prompt.erase(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(session.reused_tokens_));
  session.waiting_ = std::move(prompt);
  return session;
}

void Session::Accept(std::span<const float> logits, Piece& piece) {
  if (reads_only_) {
    finish_ = piece.finish = Finish::kMaxTokens;
    return;
  }
  scores_prompt_ = false;  // what waits from now on is no prompt
  piece.choice = sampler_.Next(logits);
  const std::uint32_t token = piece.choice->token;
  ++chosen_tokens_;
  waiting_.assign(1, token);
  next_ = 0;
  if (std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end()) {
    finish_ = Finish::kEndToken;
  } else {
    // A number that is no token, in a vocabulary with gaps, has no text.
    if (auto text = decoder_.Push(token)) piece.text = stops_.Push(*text);
    if (stops_.stopped()) {
      finish_ = Finish::kStop;
    } else if (chosen_tokens_ >= max_tokens_) {
      finish_ = Finish::kMaxTokens;
    } else if (memory_.cache.tokens() >= context_) {
      finish_ = Finish::kContext;
    }
  }
  if (finish_ != Finish::kNone) {
    waiting_.clear();
    if (!stops_.stopped()) piece.text += stops_.Push(decoder_.Finish());
    if (!stops_.stopped()) piece.text += stops_.Finish();
  }
  piece.finish = finish_;
}

Result<std::vector<Piece>> Step(const Engine& engine, std::span<const Share> shares,
                                transformer::Workspace& workspace, compute::ThreadPool& pool) {
  std::vector<Piece> pieces(shares.size());
  std::vector<transformer::Sequence> sequences;
  std::vector<std::size_t> owners, first_rows;
  sequences.reserve(shares.size());
  owners.reserve(shares.size());
  std::size_t rows = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    Session& session = *shares[i].session;
    const std::size_t count = std::min(session.waiting_tokens(), std::max<std::size_t>(1, shares[i].most_tokens));
    if (count == 0 || session.finish_ != Finish::kNone) continue;
    sequences.push_back(
        {std::span(session.waiting_).subspan(session.next_, count), &session.memory_.cache, session.scores_prompt_});
    owners.push_back(i);
    first_rows.push_back(rows);
    rows += session.scores_prompt_ ? count : 1;
  }
  if (sequences.empty()) return pieces;
  HOLO_ASSIGN_OR_RETURN(const std::span<const float> logits, engine.model->Forward(sequences, workspace, pool));
  const std::size_t width = engine.model->config().vocabulary;
  const std::size_t vocabulary = std::min<std::size_t>(width, engine.tokenizer->vocabulary());
  // Choosing costs a pass over the vocabulary, and each session does it by itself.
  pool.ForEach(owners.size(), [&](std::size_t i, unsigned) {
    Session& session = *shares[owners[i]].session;
    Piece& piece = pieces[owners[i]];
    const std::span<const std::uint32_t> run = sequences[i].tokens;
    session.memory_.tokens.insert(session.memory_.tokens.end(), run.begin(), run.end());
    std::size_t last_row = first_rows[i];
    if (session.scores_prompt_) {
      last_row += run.size() - 1;
      for (std::size_t k = 0; k < run.size() && session.next_ + k + 1 < session.waiting_.size(); ++k) {
        // A padding token is scored among all that the model has.
        const std::uint32_t target = session.waiting_[session.next_ + k + 1];
        const std::size_t scored = target < vocabulary ? vocabulary : width;
        piece.scores.push_back(
            sampling::Score(logits.subspan((first_rows[i] + k) * width, scored), target, session.logprobs_));
      }
    }
    session.next_ += run.size();
    if (session.waiting_tokens() == 0) session.Accept(logits.subspan(last_row * width, vocabulary), piece);
  });
  return pieces;
}

Result<std::vector<Piece>> Step(const Engine& engine, std::span<Session* const> sessions,
                                transformer::Workspace& workspace, compute::ThreadPool& pool,
                                std::size_t prompt_tokens) {
  std::vector<Share> shares;
  shares.reserve(sessions.size());
  for (Session* const session : sessions) shares.push_back({session, prompt_tokens});
  return Step(engine, shares, workspace, pool);
}

}  // namespace holo::generation
