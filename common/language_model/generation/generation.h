// From a prompt to a text, one token at a time, for one sequence or many in a batch.
//
// A Session is one sequence: its memory, its sampler, and the way from tokens to text that stops where it should. Step()
// moves any number of sessions of one model on by one call of the model; nothing happens in between, so whoever calls it
// decides what runs, when, and when to give up. A session's text depends on its prompt, options and model, and on
// nothing else: not on the other sessions of a step, nor on how its prompt was divided, nor on threads.
//
// Nothing here is synchronised: a session belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/language_model/compute/compute.h"
#include "common/language_model/kv_cache/kv_cache.h"
#include "common/language_model/sampling/sampling.h"
#include "common/language_model/tokenizer/tokenizer.h"
#include "common/language_model/transformer/transformer.h"
#include "common/status/status.h"

namespace holo::generation {

// Tokens of one prompt that a step takes at most, unless told otherwise: a fraction of a second with GPT-2's 124 M
// parameters, so that stopping is prompt.
inline constexpr std::size_t kPromptTokensPerStep = 64;

// What sessions are made of. All of it is constant and may be shared by threads.
struct Engine {
  std::shared_ptr<const transformer::Model> model;
  std::shared_ptr<const tokenizer::Tokenizer> tokenizer;  // of no more tokens than the model has
  std::shared_ptr<const kv_cache::Scheme> scheme;
};

// What a model remembers, and of which tokens: cache.tokens() of them.
struct Memory {
  kv_cache::Cache cache;
  std::vector<std::uint32_t> tokens;

  explicit Memory(const Engine& engine) : cache(engine.scheme) {}
  // Shares what it can.
  [[nodiscard]] Memory Fork() const { return Memory(cache.Fork(), tokens); }

 private:
  Memory(kv_cache::Cache forked, std::vector<std::uint32_t> its_tokens)
      : cache(std::move(forked)), tokens(std::move(its_tokens)) {}
};

struct Options {
  sampling::Options sampling;
  std::vector<std::string> stops;         // strings that end the text and are not part of it
  std::vector<std::uint32_t> end_tokens;  // likewise, besides the model's own (weights::Config::end_tokens)
  std::uint32_t max_tokens = 0;           // 0: as many as fit
  bool ignores_end_token = false;         // true: the model's own are tokens like any other
  bool scores_prompt = false;             // report how likely the prompt's tokens are; then no memory is reused
  bool reserves = true;                   // takes the memory of the longest text at once; false: block by block
  bool reads_only = false;                // the text ends with its prompt: nothing is chosen
};

// Why a text ended.
enum class Finish : std::uint8_t {
  kNone,       // it has not
  kStop,       // a stop string
  kEndToken,   // the model's own, or one of Options::end_tokens
  kMaxTokens,  // Options::max_tokens, or Options::reads_only
  kContext,    // the model's context is full
};
// "none", "stop", "end", "max-tokens", "context".
[[nodiscard]] std::string_view FinishName(Finish finish);

// What a step gave one session.
struct Piece {
  std::optional<sampling::Choice> choice;  // none while the prompt is not through
  // With Options::scores_prompt: the prompt's tokens that were predicted in this step, in order. All steps together
  // give all but the first.
  std::vector<sampling::Choice> scores;
  std::string text;                        // complete characters, valid UTF-8; often empty, and later than their tokens
  Finish finish = Finish::kNone;           // other than kNone: the last piece
};

class Session;

// One session's part in a step.
struct Share {
  Session* session = nullptr;
  std::size_t most_tokens = 1;  // of those that wait; at least 1
};

class Session {
 public:
  // Tokens at the beginning of `memory` that the prompt begins with, too, are not run again; what follows them is
  // forgotten. kInvalidArgument for an empty prompt, tokens that the model does not have, and options that sampling
  // refuses; kOutOfRange, with both numbers, for a prompt longer than the context.
  [[nodiscard]] static Result<Session> Create(const Engine& engine, std::vector<std::uint32_t> prompt,
                                              const Options& options, Memory memory);

  [[nodiscard]] Finish finish() const { return finish_; }
  [[nodiscard]] std::size_t prompt_tokens() const { return prompt_tokens_; }
  // Of the prompt, those that `memory` had.
  [[nodiscard]] std::size_t reused_tokens() const { return reused_tokens_; }
  // Chosen so far, the end token included.
  [[nodiscard]] std::size_t chosen_tokens() const { return chosen_tokens_; }
  // What is to be run before the next choice; 0 when finished.
  [[nodiscard]] std::size_t waiting_tokens() const { return waiting_.size() - next_; }

  // The memory so far, to be forked for a session with the same prompt, or a longer one.
  [[nodiscard]] const Memory& memory() const { return memory_; }
  // It is not run any more, unless it gets this memory back, with the same bits.
  [[nodiscard]] Memory Release() { return std::move(memory_); }
  void Resume(Memory memory) { memory_ = std::move(memory); }

 private:
  friend Result<std::vector<Piece>> Step(const Engine& engine, std::span<const Share> shares,
                                         transformer::Workspace& workspace, compute::ThreadPool& pool);

  Session(const Engine& engine, sampling::Sampler sampler, sampling::StopFilter stops, Memory memory)
      : decoder_(*engine.tokenizer),
        tokenizer_(engine.tokenizer),
        sampler_(std::move(sampler)),
        stops_(std::move(stops)),
        memory_(std::move(memory)) {}
  void Accept(std::span<const float> logits, Piece& piece);

  tokenizer::StreamDecoder decoder_;
  std::shared_ptr<const tokenizer::Tokenizer> tokenizer_;  // that the decoder uses
  sampling::Sampler sampler_;
  sampling::StopFilter stops_;
  Memory memory_;
  std::vector<std::uint32_t> waiting_;  // from next_ on, not in the memory yet
  std::size_t next_ = 0;
  std::vector<std::uint32_t> end_tokens_;
  std::size_t max_tokens_ = 0;
  std::size_t context_ = 0;
  std::size_t prompt_tokens_ = 0;
  std::size_t reused_tokens_ = 0;
  std::size_t chosen_tokens_ = 0;
  std::size_t logprobs_ = 0;
  bool scores_prompt_ = false;
  bool reads_only_ = false;
  Finish finish_ = Finish::kNone;
};

// Runs of each session what waits, as far as its share goes, and lets those choose whose prompt is through. The result
// has a piece for each session, in order; a finished one is not run and gives an empty piece. All sessions are of this
// engine, and no session occurs twice. On an error nothing has changed.
[[nodiscard]] Result<std::vector<Piece>> Step(const Engine& engine, std::span<const Share> shares,
                                              transformer::Workspace& workspace, compute::ThreadPool& pool);
// The same share for all.
[[nodiscard]] Result<std::vector<Piece>> Step(const Engine& engine, std::span<Session* const> sessions,
                                              transformer::Workspace& workspace, compute::ThreadPool& pool,
                                              std::size_t prompt_tokens = kPromptTokensPerStep);

}  // namespace holo::generation
