#include "common/language_model/kv_cache/kv_cache.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace holo::kv_cache {
namespace {

using Group = AttentionScratch::Group;

// Attention over so many blocks begins from nothing, and is then joined with what the blocks before came to: so threads
// may share one token's work, and its bits are the same if they do not.
constexpr std::size_t kSpanBlocks = 4;
constexpr std::size_t kSpanTokens = kSpanBlocks * kBlockTokens;

// Attention of one group in one layer, step by step. Rows are [key sets, tokens, heads of a set].
class GroupAttention {
 public:
  GroupAttention(std::size_t layer, const Group& group)
      : layer_(layer),
        group_(group),
        cache_(*group.request->cache),
        scheme_(cache_.scheme()),
        heads_of_set_(scheme_.heads_per_part() / scheme_.key_sets()),
        dims_(scheme_.dims(layer)),
        value_dims_(scheme_.value_dims(layer)) {}

  static std::size_t TokensAtOnce(const Scheme& scheme) {
    return std::max<std::size_t>(1, scheme.rows_at_once() / scheme.heads_per_part());
  }

  [[nodiscard]] std::size_t rows() const { return group_.tokens * scheme_.heads_per_part(); }
  [[nodiscard]] std::size_t spans() const { return (end() + kSpanTokens - 1) / kSpanTokens; }
  // Floats that the functions below want: of queries, of what one or more spans come to, and of scratch.
  [[nodiscard]] std::size_t query_floats() const { return rows() * dims_; }
  [[nodiscard]] std::size_t sum_floats() const { return compute::RoundUp(rows() * (value_dims_ + 2), compute::kPanel); }
  [[nodiscard]] std::size_t scratch_floats() const {
    return rows() * kBlockTokens + compute::RoundUp(rows(), kPadding) / sizeof(float) + scheme_.scratch_floats(layer_);
  }

  void Prepare(float* queries) const {
    scheme_.PrepareQueries(layer_, group_.part, Of(group_.request->queries), group_.tokens, queries);
  }

  void AttendSpan(std::size_t span, const float* queries, float* sums, float* scratch) const {
    compute::AttentionRows rows = Rows(sums);
    rows.queries = queries;
    rows.weights = scratch;
    auto* const visible = reinterpret_cast<std::uint8_t*>(rows.weights + rows.rows * kBlockTokens);
    float* const tile_scratch =
        rows.weights + rows.rows * kBlockTokens + compute::RoundUp(rows.rows, kPadding) / sizeof(float);
    std::fill(rows.sums, rows.sums + rows.rows * value_dims_, 0.0f);
    std::fill(rows.largest, rows.largest + rows.rows, -std::numeric_limits<float>::infinity());
    std::fill(rows.total, rows.total + rows.rows, 0.0f);
    const std::size_t last = std::min(end(), (span + 1) * kSpanTokens);
    for (std::size_t from = span * kSpanTokens; from < last; from += kBlockTokens) {
      for (std::size_t row = 0; row < rows.rows; ++row) {
        const std::size_t seen = cache_.tokens() + group_.first + row / heads_of_set_ % group_.tokens + 1;
        visible[row] = static_cast<std::uint8_t>(std::clamp(seen, from, from + kBlockTokens) - from);
      }
      const std::size_t block = from / kBlockTokens;
      const std::uint8_t* const stored = cache_.Stored(layer_, block);
      const std::uint8_t* const next = from + kBlockTokens < end() ? cache_.Stored(layer_, block + 1) : nullptr;
      if (scheme_.AttendStored({layer_, group_.part, block, stored, next}, rows, visible)) continue;
      const Scheme::Tile tile = scheme_.Expand(layer_, group_.part, block, std::min(kBlockTokens, end() - from), stored,
                                               tile_scratch);
      compute::AttendTile(rows, tile.keys, tile.values, visible);
    }
  }

  void Join(float* sums, float* later) const { compute::JoinAttention(Rows(sums), Rows(later)); }

  void Finish(float* sums) const {
    const compute::AttentionRows rows = Rows(sums);
    for (std::size_t row = 0; row < rows.rows; ++row) {
      const float inverse = 1 / rows.total[row];
      for (std::size_t i = 0; i < value_dims_; ++i) sums[row * value_dims_ + i] *= inverse;
    }
    scheme_.Finish(layer_, group_.part, sums, group_.tokens, Of(group_.request->out));
  }

 private:
  static constexpr std::size_t kPadding = 64;

  // Of what the last of these tokens sees.
  [[nodiscard]] std::size_t end() const { return cache_.tokens() + group_.first + group_.tokens; }
  template <typename T>
  [[nodiscard]] T* Of(T* rows) const {
    return rows + group_.first * scheme_.geometry().width();
  }
  compute::AttentionRows Rows(float* sums) const {
    compute::AttentionRows of;
    of.rows = rows();
    of.dims = dims_;
    of.value_dims = value_dims_;
    of.key_sets = scheme_.key_sets();
    of.sums = sums;
    of.largest = sums + of.rows * value_dims_;
    of.total = of.largest + of.rows;
    return of;
  }

  std::size_t layer_;
  const Group& group_;
  const Cache& cache_;
  const Scheme& scheme_;
  std::size_t heads_of_set_, dims_, value_dims_;
};

void Grow(compute::AlignedBytes& memory, std::size_t floats) {
  if (memory.size() < floats * sizeof(float)) memory = compute::AlignedBytes(floats * sizeof(float));
}

std::shared_ptr<compute::AlignedBytes> Copy(const compute::AlignedBytes& block) {
  auto copy = std::make_shared<compute::AlignedBytes>(block.size());
  std::memcpy(copy->as<std::uint8_t>(), block.as<std::uint8_t>(), block.size());
  return copy;
}

}  // namespace

void Scheme::SetLayerBytes(std::span<const std::size_t> first_block, std::span<const std::size_t> other_blocks) {
  const auto sums = [](std::span<const std::size_t> sizes) {
    std::vector<std::size_t> offsets = {0};
    for (const std::size_t bytes : sizes) offsets.push_back(offsets.back() + compute::RoundUp(bytes, 4));
    return offsets;
  };
  first_offsets_ = sums(first_block);
  offsets_ = sums(other_blocks);
}

std::vector<std::uint8_t> Scheme::Pack(std::size_t block, std::size_t, const std::uint8_t* stored) const {
  return {stored, stored + block_bytes(block)};
}

Result<void> Scheme::Unpack(std::size_t block, std::size_t, std::span<const std::uint8_t> packed, std::string_view name,
                            std::uint8_t* stored) const {
  if (packed.size() != block_bytes(block)) {
    return Fail(Code::kDataLoss, std::string(name) + ": expected a block of " + std::to_string(block_bytes(block)) +
                                     " bytes, found " + std::to_string(packed.size()));
  }
  std::copy(packed.begin(), packed.end(), stored);
  return {};
}

Rotation::Rotation(std::span<const double> frequencies, std::size_t positions)
    : pairs_(frequencies.size()), table_(compute::RoundUp(positions, kBlockTokens) * 2 * pairs_) {
  for (std::size_t position = 0; position < compute::RoundUp(positions, kBlockTokens); ++position) {
    for (std::size_t i = 0; i < pairs_; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      float* const cosine = table_.data() + (position / kBlockTokens * 2 * pairs_ + i) * kBlockTokens + position % kBlockTokens;
      cosine[0] = static_cast<float>(std::cos(angle));
      cosine[pairs_ * kBlockTokens] = static_cast<float>(std::sin(angle));
    }
  }
}

void Rotation::Turn(std::size_t position, std::size_t heads, float* values) const {
  for (std::size_t i = 0; i < pairs_; ++i) {
    const float cosine = Cosines(position / kBlockTokens, i)[position % kBlockTokens];
    const float sine = Sines(position / kBlockTokens, i)[position % kBlockTokens];
    for (std::size_t head = 0; head < heads; ++head) {
      float& first = values[head * 2 * pairs_ + i];
      float& second = values[head * 2 * pairs_ + pairs_ + i];
      const float a = first;
      const float b = second;
      first = a * cosine - b * sine;
      second = a * sine + b * cosine;
    }
  }
}

void Rotation::TurnBack(std::size_t position, float* values) const {
  for (std::size_t i = 0; i < pairs_; ++i) {
    const float cosine = Cosines(position / kBlockTokens, i)[position % kBlockTokens];
    const float sine = Sines(position / kBlockTokens, i)[position % kBlockTokens];
    const float a = values[i];
    const float b = values[pairs_ + i];
    values[i] = a * cosine + b * sine;
    values[pairs_ + i] = b * cosine - a * sine;
  }
}

void Rotation::TurnBlock(std::size_t block, float* values) const {
  compute::TurnTile(Cosines(block, 0), Sines(block, 0), pairs_, values);
}

Cache::Cache(std::shared_ptr<const Scheme> scheme) : scheme_(std::move(scheme)) {}

Cache Cache::Fork() const {
  Cache copy(scheme_);
  copy.tokens_ = tokens_;
  const std::size_t used = (tokens_ + kBlockTokens - 1) / kBlockTokens;
  copy.blocks_.assign(blocks_.begin(), blocks_.begin() + static_cast<std::ptrdiff_t>(used));
  if (tokens_ % kBlockTokens != 0) copy.blocks_.back() = Copy(*copy.blocks_.back());
  return copy;
}

void Cache::Adopt(const SharedBlock& shared) {
  blocks_.resize(tokens_ / kBlockTokens);
  blocks_.push_back(shared.block_);
  tokens_ += kBlockTokens;
}

std::size_t Cache::bytes() const {
  std::size_t sum = 0;
  for (const auto& block : blocks_) sum += block->size();
  return sum;
}

void Cache::Reserve(std::size_t tokens) {
  const std::size_t count = (tokens + kBlockTokens - 1) / kBlockTokens;
  while (blocks_.size() < count) blocks_.push_back(std::make_shared<Block>(scheme_->block_bytes(blocks_.size())));
}

void Cache::Truncate(std::size_t tokens) {
  if (tokens >= tokens_) return;
  tokens_ = tokens;
  blocks_.resize((tokens + kBlockTokens - 1) / kBlockTokens);
  if (tokens % kBlockTokens == 0) return;
  // The block may be shared, and its last places will be written again.
  blocks_.back() = Copy(*blocks_.back());
}

void Cache::Append(std::size_t layer, const Rows& rows, const float* prepared) {
  Reserve(tokens_ + rows.count);
  for (std::size_t part = 0; part < AppendParts(rows.count); ++part) AppendPart(layer, rows, prepared, part);
}

// A part is what goes to one block.
std::size_t Cache::AppendParts(std::size_t rows) const {
  return (tokens_ + rows + kBlockTokens - 1) / kBlockTokens - tokens_ / kBlockTokens;
}

void Cache::AppendPart(std::size_t layer, const Rows& rows, const float* prepared, std::size_t part) {
  const std::size_t prepared_width = scheme_->prepared_width(layer);
  const std::size_t index = tokens_ / kBlockTokens + part;
  std::uint8_t* stored = blocks_[index]->as<std::uint8_t>() + scheme_->offset(layer, index);
  const std::size_t first = std::max(tokens_, index * kBlockTokens);
  const std::size_t last = std::min(tokens_ + rows.count, (index + 1) * kBlockTokens);
  for (std::size_t token = first; token < last; ++token) {
    const std::size_t row = token - tokens_;
    scheme_->Write(layer, index, token % kBlockTokens, rows, row, prepared + row * prepared_width, stored);
  }
}

const std::uint8_t* Cache::Stored(std::size_t layer, std::size_t block) const {
  return blocks_[block]->as<std::uint8_t>() + scheme_->offset(layer, block);
}

Result<void> Cache::Load(std::size_t tokens, std::span<const std::uint8_t> packed, std::string_view name) {
  blocks_.resize(tokens_ / kBlockTokens);
  auto block = std::make_shared<Block>(scheme_->block_bytes(blocks_.size()));
  HOLO_RETURN_IF_ERROR(scheme_->Unpack(blocks_.size(), tokens, packed, name, block->as<std::uint8_t>()));
  blocks_.push_back(std::move(block));
  tokens_ += tokens;
  return {};
}

void Attend(std::size_t layer, std::span<const Request> requests, AttentionScratch& scratch,
            compute::ThreadPool& pool) {
  std::vector<Group>& groups = scratch.groups;
  groups.clear();
  std::size_t query_floats = 0;
  std::size_t sum_floats = 0;
  std::size_t scratch_floats = 0;
  std::size_t all_spans = 0;
  for (const Request& request : requests) {
    const Scheme& scheme = request.cache->scheme();
    const std::size_t at_once = GroupAttention::TokensAtOnce(scheme);
    for (std::size_t part = 0; part < scheme.parts(); ++part) {
      for (std::size_t first = 0; first < request.rows; first += at_once) {
        groups.push_back({&request, part, first, std::min(at_once, request.rows - first)});
        const GroupAttention attention(layer, groups.back());
        query_floats = std::max(query_floats, attention.query_floats());
        sum_floats = std::max(sum_floats, attention.sum_floats());
        scratch_floats = std::max(scratch_floats, attention.scratch_floats());
        all_spans += attention.spans();
      }
    }
  }
  const bool shares = groups.size() < std::size_t{4} * pool.threads() && pool.threads() > 1 && all_spans > groups.size();
  scratch.workers.resize(std::max<std::size_t>(scratch.workers.size(), pool.threads()));
  for (compute::AlignedBytes& memory : scratch.workers) {
    Grow(memory, scratch_floats + (shares ? 0 : query_floats + 2 * sum_floats));
  }
  if (!shares) {
    pool.ForEach(groups.size(), [&](std::size_t task, unsigned worker) {
      const GroupAttention attention(layer, groups[task]);
      float* const queries = scratch.workers[worker].as<float>();
      float* const sums = queries + query_floats;
      float* const later = sums + sum_floats;
      float* const own_scratch = later + sum_floats;
      attention.Prepare(queries);
      attention.AttendSpan(0, queries, sums, own_scratch);
      for (std::size_t span = 1; span < attention.spans(); ++span) {
        attention.AttendSpan(span, queries, later, own_scratch);
        attention.Join(sums, later);
      }
      attention.Finish(sums);
    });
    return;
  }
  // Queries of all groups, then what all their spans come to. Room grows by more than a span at a time.
  Grow(scratch.shared, groups.size() * query_floats + std::bit_ceil(all_spans) * sum_floats);
  float* const queries = scratch.shared.as<float>();
  float* const sums = queries + groups.size() * query_floats;
  pool.ForEach(groups.size(), [&](std::size_t task, unsigned) {
    GroupAttention(layer, groups[task]).Prepare(queries + task * query_floats);
  });
  pool.ForEach(all_spans, [&](std::size_t task, unsigned worker) {
    std::size_t group = 0;
    std::size_t span = task;
    for (; span >= GroupAttention(layer, groups[group]).spans(); ++group) {
      span -= GroupAttention(layer, groups[group]).spans();
    }
    GroupAttention(layer, groups[group])
        .AttendSpan(span, queries + group * query_floats, sums + task * sum_floats, scratch.workers[worker].as<float>());
  });
  pool.ForEach(groups.size(), [&](std::size_t task, unsigned) {
    float* own = sums;
    for (std::size_t group = 0; group < task; ++group) own += GroupAttention(layer, groups[group]).spans() * sum_floats;
    const GroupAttention attention(layer, groups[task]);
    for (std::size_t span = 1; span < attention.spans(); ++span) attention.Join(own, own + span * sum_floats);
    attention.Finish(own);
  });
}

}  // namespace holo::kv_cache
