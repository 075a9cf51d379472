// What attention remembers of the tokens so far, in one of several forms, and attention over it.
//
// A Scheme says how one token of one layer is stored: it is constant, made once for a model, and shared by all its
// caches and threads. A Cache is the memory of one sequence: blocks of kTileTokens tokens, each block holding all
// layers. Full blocks never change, so sequences with the same beginning share them (Fork), and a token is stored the
// same way however it arrived: alone, in a prompt, or from a file.
//
// Attention is always computed through what is stored, the newest token included. A tile of one block is expanded at a
// time; keys and values of the whole context never exist as float32.
//
// One Cache is used by one thread at a time; Attend() itself spreads over the threads of a pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/language_model/compute/compute.h"
#include "common/status/status.h"

namespace holo::kv_cache {

inline constexpr std::size_t kBlockTokens = compute::kTileTokens;

struct Geometry {
  std::uint32_t layers = 0;
  std::uint32_t heads = 0;
  std::uint32_t head_width = 0;

  [[nodiscard]] std::size_t width() const { return std::size_t{heads} * head_width; }
  friend bool operator==(const Geometry&, const Geometry&) = default;
};

// One token in one layer: what may be stored of it.
struct TokenRow {
  const float* normalised = nullptr;  // [width], the output of ln_1 before its gain and bias
  const float* key = nullptr;         // [width], null unless the scheme needs_keys_and_values()
  const float* value = nullptr;       // [width], likewise
};

// Heads that attend to the same stored numbers form a part; parts are computed independently.
class Scheme {
 public:
  virtual ~Scheme() = default;

  // "fp16", "latent", ...
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] const Geometry& geometry() const { return geometry_; }
  // False: keys and values need not be computed for this scheme.
  [[nodiscard]] virtual bool needs_keys_and_values() const = 0;
  // Of one block and all layers; the first block of a sequence may be larger.
  [[nodiscard]] std::size_t block_bytes(std::size_t block) const { return geometry_.layers * layer_bytes(block); }
  [[nodiscard]] double bytes_per_token() const { return static_cast<double>(block_bytes(1)) / kBlockTokens; }

  // What follows is for Cache and Attend(). `stored` is one layer's share of one block.
  [[nodiscard]] virtual std::size_t layer_bytes(std::size_t block) const = 0;  // a multiple of 64
  [[nodiscard]] virtual std::size_t parts() const = 0;
  [[nodiscard]] std::size_t heads_per_part() const { return geometry_.heads / parts(); }
  // Length of a stored key or value as attention sees it; a multiple of compute::kPanel.
  [[nodiscard]] virtual std::size_t dims() const = 0;
  // Stores the token in its place in its block, whatever was there.
  virtual void Write(std::size_t layer, std::size_t block, std::size_t place, const TokenRow& token,
                     std::uint8_t* stored) const = 0;
  // Queries [tokens, width] become [tokens, heads_per_part, dims], with the softmax's scale.
  virtual void PrepareQueries(std::size_t layer, std::size_t part, const float* queries, std::size_t tokens,
                              float* out) const = 0;
  struct Tile {
    const float* keys = nullptr;    // [dims, kBlockTokens]
    const float* values = nullptr;  // [kBlockTokens, dims]
  };
  // The first `tokens` places are meaningful, the others finite. `scratch` has 2 dims kBlockTokens values, and the tile
  // may lie there or in `stored`.
  [[nodiscard]] virtual Tile Expand(std::size_t layer, std::size_t part, std::size_t block, std::size_t tokens,
                                    const std::uint8_t* stored, float* scratch) const = 0;
  // Weighted means of stored values [tokens, heads_per_part, dims] become the part's columns of out [tokens, width].
  virtual void Finish(std::size_t layer, std::size_t part, const float* means, std::size_t tokens,
                      float* out) const = 0;

 protected:
  explicit Scheme(const Geometry& geometry) : geometry_(geometry) {}

 private:
  Geometry geometry_;
};

enum class Precision : std::uint8_t {
  kF32,
  kF16,
  kInt8,  // groups of up to 32 neighbouring values of a head share one half-precision scale
  kInt4,  // likewise
};
[[nodiscard]] std::string_view PrecisionName(Precision precision);

// Keys and values as they are, at some precision. kInvalidArgument for a geometry with a zero in it.
[[nodiscard]] Result<std::shared_ptr<const Scheme>> MakePlainScheme(const Geometry& geometry, Precision precision);

class Cache {
 public:
  // Takes no memory for tokens yet.
  explicit Cache(std::shared_ptr<const Scheme> scheme);
  Cache(Cache&&) = default;
  Cache& operator=(Cache&&) = default;

  // A second sequence with the same tokens so far. Full blocks are shared, the last one is copied.
  [[nodiscard]] Cache Fork() const;

  [[nodiscard]] const Scheme& scheme() const { return *scheme_; }
  [[nodiscard]] std::size_t tokens() const { return tokens_; }
  // Blocks held, shared ones counted in full.
  [[nodiscard]] std::size_t bytes() const;

  // Room for `tokens` in all, so that Append() takes no memory until then.
  void Reserve(std::size_t tokens);
  // Forgets everything behind the first `tokens`.
  void Truncate(std::size_t tokens);

  // In this order, for each step: Append() once for every layer with the same number of rows, Attend() on a layer after
  // its Append(), Commit() at the end with that number.
  void Append(std::size_t layer, std::span<const TokenRow> rows);
  void Commit(std::size_t rows) { tokens_ += rows; }

  // One layer of one block, read-only.
  [[nodiscard]] const std::uint8_t* Stored(std::size_t layer, std::size_t block) const;

 private:
  using Block = compute::AlignedBytes;
  std::shared_ptr<const Scheme> scheme_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::size_t tokens_ = 0;
};

// Memory of Attend(), one for each worker of the pool. Grows and stays.
struct AttentionScratch {
  std::vector<compute::AlignedBytes> workers;
};

// Attention of the `rows` newest tokens of one sequence, appended but not committed: each sees itself and all before
// it.
struct Request {
  const Cache* cache = nullptr;
  std::size_t rows = 0;
  const float* queries = nullptr;  // [rows, width]
  float* out = nullptr;            // [rows, width]
};
// All caches have schemes of the same geometry.
void Attend(std::size_t layer, std::span<const Request> requests, AttentionScratch& scratch, compute::ThreadPool& pool);

}  // namespace holo::kv_cache
