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

#include <array>
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
  std::uint32_t heads = 0;  // of queries
  std::uint32_t head_width = 0;
  // Heads of keys and values, a divisor of `heads`: neighbouring heads of queries share each. 0: as many as `heads`.
  std::uint32_t key_heads = 0;

  [[nodiscard]] std::uint32_t keys() const { return key_heads == 0 ? heads : key_heads; }
  [[nodiscard]] std::size_t width() const { return std::size_t{heads} * head_width; }        // of queries
  [[nodiscard]] std::size_t key_width() const { return std::size_t{keys()} * head_width; }  // of keys, and of values
  friend bool operator==(const Geometry& a, const Geometry& b) {
    return a.layers == b.layers && a.heads == b.heads && a.head_width == b.head_width && a.keys() == b.keys();
  }
};

// Rotary positions (arXiv 2104.09864): in every head of a query or key, the pair of values i and i + head_width / 2 is
// turned by position * frequency i. Constant; may be used from any thread.
class Rotation {
 public:
  // `frequencies` are radians a token, [head_width / 2]. Takes 4 head_width bytes for each of `positions`, of which
  // there are whole blocks.
  Rotation(std::span<const double> frequencies, std::size_t positions);

  [[nodiscard]] std::size_t head_width() const { return 2 * pairs_; }
  // `heads` heads of one token, which lie behind each other, in place.
  void Turn(std::size_t position, std::size_t heads, float* values) const;
  // The opposite, of one head.
  void TurnBack(std::size_t position, float* values) const;
  // One head of all tokens of a block, transposed: [head_width, kBlockTokens], in place.
  void TurnBlock(std::size_t block, float* values) const;

 private:
  // Of a pair, one for each token of the block.
  [[nodiscard]] const float* Cosines(std::size_t block, std::size_t pair) const {
    return table_.data() + (block * 2 * pairs_ + pair) * kBlockTokens;
  }
  [[nodiscard]] const float* Sines(std::size_t block, std::size_t pair) const { return Cosines(block, pairs_ + pair); }

  std::size_t pairs_;
  std::vector<float> table_;  // [blocks, 2, pairs, kBlockTokens]: cosines and sines
};

// Consecutive tokens in one layer: what may be stored of them.
struct Rows {
  std::size_t count = 0;
  const float* normalised = nullptr;  // [count, width], what keys and values are made from (see transformer)
  // [count, key_width], rows key_stride apart; null unless the scheme needs_keys_and_values(). Keys are as attention
  // compares them with queries, unless the scheme takes_unrotated_keys().
  const float* keys = nullptr;
  const float* values = nullptr;
  std::size_t key_stride = 0;
};

// Heads that attend to the same stored numbers form a part; parts are computed independently. Within a part there may be
// several sets of keys, each for as many of its heads, while all have the same values.
class Scheme {
 public:
  virtual ~Scheme() = default;

  // "fp16", "latent", ...
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] const Geometry& geometry() const { return geometry_; }
  // False: keys and values need not be computed for this scheme.
  [[nodiscard]] virtual bool needs_keys_and_values() const = 0;
  // True: keys come as they were before the rotation of their positions, and Expand() or PrepareQueries() has to do it.
  // Queries are rotated in any case.
  [[nodiscard]] virtual bool takes_unrotated_keys() const { return false; }
  // Of one block and all layers; the first block of a sequence may be larger.
  [[nodiscard]] std::size_t block_bytes(std::size_t block) const { return offset(geometry_.layers, block); }
  // In every block but the first.
  [[nodiscard]] double bytes_per_token() const { return static_cast<double>(block_bytes(1)) / kBlockTokens; }

  // Two schemes with the same identity read each other's bytes.
  [[nodiscard]] const std::array<std::uint8_t, 32>& identity() const { return identity_; }

  // What follows is for Cache and Attend(). `stored` is one layer's share of one block.
  // Where a layer's share begins in its block.
  [[nodiscard]] std::size_t offset(std::size_t layer, std::size_t block) const {
    return block == 0 ? first_offsets_[layer] : offsets_[layer];
  }
  [[nodiscard]] virtual std::size_t parts() const = 0;
  [[nodiscard]] std::size_t heads_per_part() const { return geometry_.heads / parts(); }
  [[nodiscard]] virtual std::size_t key_sets() const { return 1; }
  // Length of a stored key as attention sees it, and of a value; multiples of compute::kPanel.
  [[nodiscard]] virtual std::size_t dims(std::size_t layer) const = 0;
  [[nodiscard]] virtual std::size_t value_dims(std::size_t layer) const { return dims(layer); }
  // Rows of queries that meet a tile together: enough to pay for expanding it, few enough to stay in the second cache.
  [[nodiscard]] virtual std::size_t rows_at_once() const { return 96; }
  // What Write() wants of each row besides the row itself: coordinates, projected for many rows at once.
  [[nodiscard]] virtual std::size_t prepared_width(std::size_t layer) const {
    (void)layer;
    return 0;
  }
  // `out` is [rows.count, prepared_width].
  virtual void Prepare(std::size_t, const Rows&, float*, compute::Scratch&, compute::ThreadPool&) const {}
  // Stores row `row` in its place in its block, whatever was there. `prepared` belongs to that row.
  virtual void Write(std::size_t layer, std::size_t block, std::size_t place, const Rows& rows, std::size_t row,
                     const float* prepared, std::uint8_t* stored) const = 0;
  // Queries [tokens, width] become [key_sets, tokens, heads_per_part / key_sets, dims], with the softmax's scale.
  virtual void PrepareQueries(std::size_t layer, std::size_t part, const float* queries, std::size_t tokens,
                              float* out) const = 0;
  struct Tile {
    const float* keys = nullptr;    // [key_sets, dims, kBlockTokens]
    const float* values = nullptr;  // [kBlockTokens, value_dims]
  };
  // The first `tokens` places are meaningful, the others finite. `scratch` has scratch_floats() values, and the tile
  // may lie there or in `stored`.
  [[nodiscard]] virtual Tile Expand(std::size_t layer, std::size_t part, std::size_t block, std::size_t tokens,
                                    const std::uint8_t* stored, float* scratch) const = 0;
  // Values that Expand() wants.
  [[nodiscard]] virtual std::size_t scratch_floats(std::size_t layer) const { return 2 * dims(layer) * kBlockTokens; }
  // AttendTile() over Expand() of a block, but from where it lies; false, and nothing done, where that is not the faster
  // way. For one token the result has the same bits however many `rows` there are: a scheme does the same for any number
  // of them, unless it is the same to the last bit.
  struct Place {
    std::size_t layer = 0;
    std::size_t part = 0;
    std::size_t block = 0;
    const std::uint8_t* stored = nullptr;
    const std::uint8_t* next = nullptr;  // the share of the block that comes next, if any
  };
  virtual bool AttendStored(const Place& place, const compute::AttentionRows& rows, const std::uint8_t* visible) const {
    (void)place, (void)rows, (void)visible;
    return false;
  }
  // Weighted means of stored values [key_sets, tokens, heads_per_part / key_sets, value_dims] become the part's columns of
  // out [tokens, width].
  virtual void Finish(std::size_t layer, std::size_t part, const float* means, std::size_t tokens,
                      float* out) const = 0;

  // The first `tokens` places of one block (all layers, block_bytes() of them) as what is written to files, and back:
  // attention sees the same bits afterwards. Copied, unless the scheme knows something shorter.
  [[nodiscard]] virtual std::vector<std::uint8_t> Pack(std::size_t block, std::size_t tokens,
                                                       const std::uint8_t* stored) const;
  // Whether that is much less.
  [[nodiscard]] virtual bool packs_smaller() const { return false; }
  // `stored` is zero before. kDataLoss for bytes that Pack() cannot have made.
  [[nodiscard]] virtual Result<void> Unpack(std::size_t block, std::size_t tokens, std::span<const std::uint8_t> packed,
                                            std::string_view name, std::uint8_t* stored) const;

 protected:
  Scheme(const Geometry& geometry, const std::array<std::uint8_t, 32>& identity)
      : geometry_(geometry), identity_(identity) {}
  // To be called by the constructor: what one layer takes in the first block of a sequence, and in the others.
  void SetLayerBytes(std::span<const std::size_t> first_block, std::span<const std::size_t> other_blocks);

 private:
  Geometry geometry_;
  std::array<std::uint8_t, 32> identity_;
  std::vector<std::size_t> first_offsets_, offsets_;  // [layers + 1]; multiples of 4
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

// What it takes to store less: the result of a calibration. Coordinates are (x - mean) encoder.
enum class Method : std::uint8_t {
  // One row of coordinates of the normalised row stands for keys and values. Groups of kGroup neighbouring coordinates,
  // of variances whose mean is 1, have the same number of bits, and for each token one scale in a byte. The first
  // kExactTokens tokens of a sequence are stored in half precision.
  kLatent = 1,
  // Principal components of keys and of values, in half precision: the source report's method.
  kReport = 2,
  // Coordinates as in kLatent, but all of them rounded to whole numbers of one step, which costs every coordinate the
  // same error. In memory they take 2 bytes each; SaveCache() and SaveBlock() code them by their deviations, without
  // further loss, in a fraction of that. Of the first kExactTokens tokens the step is a 32nd. Where a token of a layer
  // has numbers beyond +-32767, its step is doubled until it has none.
  kStored = 3,
};
[[nodiscard]] std::string_view MethodName(Method method);

inline constexpr std::size_t kGroup = 32;
inline constexpr std::size_t kExactTokens = 4;
inline constexpr std::uint32_t kMaxWidth = 16384;
inline constexpr std::size_t kCoderTableBytes = 96 * 32;
inline constexpr std::uint32_t kMaxLayers = 1024;

struct BasisLayer {
  std::uint32_t rank = 0;          // latent: a multiple of kGroup; report: of keys and of values each
  // Keys are made of the first so many coordinates, values of the others; 0: both of all. Where keys are rotated, they
  // are rebuilt for every tile, so few coordinates pay. Latent: a multiple of kGroup.
  std::uint32_t key_rank = 0;
  std::vector<float> mean;         // [width]; report: [2, key_width], keys and values
  std::vector<float> encoder;      // [width, rank]; report: [2, key_width, rank], columns orthonormal
  std::vector<float> decoder;      // [rank, width]; report: empty, as it is the encoder's transpose
  // Latent: [rank / kGroup], 1..8; with a key rank also 0: only the first kExactTokens tokens have this group, of
  // others it is 0. Others: empty.
  std::vector<std::uint8_t> bits;
  // Stored: [rank], below 64; class c is a deviation of 2^((c - 16) / 4) steps. Others: empty.
  std::vector<std::uint8_t> classes;

  friend bool operator==(const BasisLayer&, const BasisLayer&) = default;
};

struct Basis {
  Method method = Method::kLatent;
  Geometry geometry;
  std::array<std::uint8_t, 32> base_fingerprint{};  // weights::Fingerprint of the model
  std::string calibration;                          // on what: a JSON object, UTF-8, at most 64 KiB
  std::vector<BasisLayer> layers;
  // Stored: the coder's first probabilities (FORMAT.md), kCoderTableBytes of them, 1..255. Others: empty.
  std::vector<std::uint8_t> table;

  friend bool operator==(const Basis&, const Basis&) = default;
};

// The byte format of FORMAT.md. ParseBasis: kDataLoss for damage, kUnimplemented for another version.
[[nodiscard]] std::vector<std::uint8_t> SerialiseBasis(const Basis& basis);
[[nodiscard]] Result<Basis> ParseBasis(std::span<const std::uint8_t> bytes, std::string_view name);

// What keys and values are made of in one layer: key = normalised key_weights + a bias that no softmax notices, and
// value = normalised value_weights + value_bias.
struct LayerWeights {
  std::vector<float> key_weights;    // [width, key_width], inputs first
  std::vector<float> value_weights;  // [width, key_width]
  std::vector<float> value_bias;     // [key_width]
};
// Attention is computed on the coordinates; with a rotation, a tile's keys are rebuilt when it is attended to, and rotated
// then. kInvalidArgument where `layers` or the rotation do not belong to the basis's geometry, kUnimplemented for grouped
// heads without a rotation.
[[nodiscard]] Result<std::shared_ptr<const Scheme>> MakeProjectedScheme(
    const Basis& basis, std::span<const LayerWeights> layers, std::shared_ptr<const Rotation> rotation = nullptr);

// A full block of some cache, which never changes, to be part of others that begin with the same tokens.
class SharedBlock {
 public:
  [[nodiscard]] std::size_t bytes() const { return block_->size(); }
  // For Cache::Load(). It is block `block` of a cache with this scheme.
  [[nodiscard]] std::vector<std::uint8_t> Pack(const Scheme& scheme, std::size_t block) const {
    return scheme.Pack(block, kBlockTokens, block_->as<std::uint8_t>());
  }

 private:
  friend class Cache;
  explicit SharedBlock(std::shared_ptr<compute::AlignedBytes> block) : block_(std::move(block)) {}
  std::shared_ptr<compute::AlignedBytes> block_;
};

class Cache {
 public:
  // Takes no memory for tokens yet.
  explicit Cache(std::shared_ptr<const Scheme> scheme);
  Cache(Cache&&) = default;
  Cache& operator=(Cache&&) = default;

  // A second sequence with the same tokens so far. Full blocks are shared, the last one is copied.
  [[nodiscard]] Cache Fork() const;
  // Block `block`, which must be full.
  [[nodiscard]] SharedBlock Share(std::size_t block) const { return SharedBlock(blocks_[block]); }
  // Adds a full block behind full ones: of a cache of the same scheme, the same place, and the same tokens before it.
  void Adopt(const SharedBlock& shared);

  [[nodiscard]] const Scheme& scheme() const { return *scheme_; }
  [[nodiscard]] const std::shared_ptr<const Scheme>& shared_scheme() const { return scheme_; }
  [[nodiscard]] std::size_t tokens() const { return tokens_; }
  // Blocks held, shared ones counted in full.
  [[nodiscard]] std::size_t bytes() const;

  // Room for `tokens` in all, so that Append() takes no memory until then.
  void Reserve(std::size_t tokens);
  // Forgets everything behind the first `tokens`.
  void Truncate(std::size_t tokens);

  // In this order, for each step: Append() once for every layer with the same number of rows, Attend() on a layer after
  // its Append(), Commit() at the end with that number.
  // `prepared` is what the scheme's Prepare() made of these rows.
  void Append(std::size_t layer, const Rows& rows, const float* prepared);
  // The same in parts, which may be written by several threads at a time: after Reserve() for all rows, part 0 ..
  // AppendParts() - 1, each once.
  [[nodiscard]] std::size_t AppendParts(std::size_t rows) const;
  void AppendPart(std::size_t layer, const Rows& rows, const float* prepared, std::size_t part);
  void Commit(std::size_t rows) { tokens_ += rows; }

  // One layer of one block, read-only.
  [[nodiscard]] const std::uint8_t* Stored(std::size_t layer, std::size_t block) const;
  // Adds a block of `tokens` tokens behind full ones, from what the scheme's Pack() made. On an error nothing changes.
  [[nodiscard]] Result<void> Load(std::size_t tokens, std::span<const std::uint8_t> packed, std::string_view name);

 private:
  using Block = compute::AlignedBytes;
  std::shared_ptr<const Scheme> scheme_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::size_t tokens_ = 0;
};

// A sequence's memory as bytes (FORMAT.md), with the tokens it is of, and back: kDataLoss for damage, kUnimplemented
// for another version, kFailedPrecondition for a cache of another model or scheme. `tokens` are cache.tokens() many.
[[nodiscard]] std::vector<std::uint8_t> SaveCache(const Cache& cache,
                                                  std::span<const std::uint8_t, 32> base_fingerprint,
                                                  std::span<const std::uint32_t> tokens);
struct SavedCache {
  Cache cache;
  std::vector<std::uint32_t> tokens;
};
[[nodiscard]] Result<SavedCache> RestoreCache(std::span<const std::uint8_t> bytes, std::string_view name,
                                              std::shared_ptr<const Scheme> scheme,
                                              std::span<const std::uint8_t, 32> base_fingerprint);

// The same of one block, for caches of prefixes: block `block` of a cache, with the tokens that are in it. Blocks are
// restored in order, each by itself, to a cache that has all those before it; kFailedPrecondition where it has not.
[[nodiscard]] std::vector<std::uint8_t> SaveBlock(const Cache& cache, std::size_t block,
                                                  std::span<const std::uint8_t, 32> base_fingerprint,
                                                  std::span<const std::uint32_t> tokens);
// Returns the block's tokens. On an error the cache is as it was.
[[nodiscard]] Result<std::vector<std::uint32_t>> RestoreBlock(std::span<const std::uint8_t> bytes,
                                                              std::string_view name, Cache& cache,
                                                              std::span<const std::uint8_t, 32> base_fingerprint);

// What SaveBlock() would give for all blocks together.
[[nodiscard]] std::size_t SavedBytes(const Cache& cache, std::span<const std::uint32_t> tokens);

// How often the stored tier's coder took each of its decisions in a cache, added to what was counted before; and the
// table with which they take the fewest bytes. For calibration.
struct CoderCounts {
  std::vector<std::uint32_t> all, ones;  // kCoderTableBytes each
};
void CountDecisions(const Cache& cache, CoderCounts& counts);
[[nodiscard]] std::vector<std::uint8_t> MakeCoderTable(const CoderCounts& counts);

// Attention of the `rows` newest tokens of one sequence, appended but not committed: each sees itself and all before
// it.
struct Request {
  const Cache* cache = nullptr;
  std::size_t rows = 0;
  const float* queries = nullptr;  // [rows, width]
  float* out = nullptr;            // [rows, width]
};

// Memory of Attend(). Grows and stays.
struct AttentionScratch {
  // Neighbouring tokens of one part of a request, whose queries meet a tile together.
  struct Group {
    const Request* request = nullptr;
    std::size_t part = 0;
    std::size_t first = 0;
    std::size_t tokens = 0;
  };
  std::vector<Group> groups;
  std::vector<compute::AlignedBytes> workers;
  compute::AlignedBytes shared;  // of groups that several workers attend to
};

// All caches have schemes of the same geometry.
void Attend(std::size_t layer, std::span<const Request> requests, AttentionScratch& scratch, compute::ThreadPool& pool);

}  // namespace holo::kv_cache
