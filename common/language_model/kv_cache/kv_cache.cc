#include "common/language_model/kv_cache/kv_cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace holo::kv_cache {
namespace {

// Rows of queries that meet a tile together: enough to pay for expanding it, few enough to stay in the second cache.
constexpr std::size_t kRowsAtOnce = 96;

// One part of one request, in groups of tokens.
void AttendPart(std::size_t layer, std::size_t part, const Request& request, float* scratch) {
  const Cache& cache = *request.cache;
  const Scheme& scheme = cache.scheme();
  const std::size_t heads = scheme.heads_per_part();
  const std::size_t dims = scheme.dims(layer);
  const std::size_t width = scheme.geometry().width();
  const std::size_t tokens_at_once = std::max<std::size_t>(1, kRowsAtOnce / heads);
  const std::size_t most_rows = tokens_at_once * heads;
  float* const queries = scratch;
  float* const sums = queries + most_rows * dims;
  float* const weights = sums + most_rows * dims;
  float* const largest = weights + most_rows * kBlockTokens;
  float* const total = largest + most_rows;
  float* const tile_scratch = total + most_rows;
  std::array<std::uint8_t, kRowsAtOnce> visible_of_some{};
  std::vector<std::uint8_t> visible_of_many(most_rows > kRowsAtOnce ? most_rows : 0);
  std::uint8_t* const visible = visible_of_many.empty() ? visible_of_some.data() : visible_of_many.data();

  for (std::size_t first = 0; first < request.rows; first += tokens_at_once) {
    const std::size_t tokens = std::min(tokens_at_once, request.rows - first);
    compute::AttentionRows rows;
    rows.rows = tokens * heads;
    rows.dims = dims;
    rows.queries = queries;
    rows.sums = sums;
    rows.largest = largest;
    rows.total = total;
    rows.weights = weights;
    scheme.PrepareQueries(layer, part, request.queries + first * width, tokens, queries);
    std::fill(sums, sums + rows.rows * dims, 0.0f);
    std::fill(largest, largest + rows.rows, -std::numeric_limits<float>::infinity());
    std::fill(total, total + rows.rows, 0.0f);
    const std::size_t end = cache.tokens() + first + tokens;  // of what the last of these tokens sees
    for (std::size_t from = 0; from < end; from += kBlockTokens) {
      for (std::size_t row = 0; row < rows.rows; ++row) {
        const std::size_t seen = cache.tokens() + first + row / heads + 1;
        visible[row] = static_cast<std::uint8_t>(std::clamp(seen, from, from + kBlockTokens) - from);
      }
      const std::size_t block = from / kBlockTokens;
      const std::uint8_t* const stored = cache.Stored(layer, block);
      const std::uint8_t* const next = from + kBlockTokens < end ? cache.Stored(layer, block + 1) : nullptr;
      if (scheme.AttendStored({layer, part, block, stored, next}, rows, visible)) continue;
      const Scheme::Tile tile = scheme.Expand(layer, part, block, std::min(kBlockTokens, end - from), stored,
                                              tile_scratch);
      compute::AttendTile(rows, tile.keys, tile.values, visible);
    }
    for (std::size_t row = 0; row < rows.rows; ++row) {
      const float inverse = 1 / total[row];
      for (std::size_t i = 0; i < dims; ++i) sums[row * dims + i] *= inverse;
    }
    scheme.Finish(layer, part, sums, tokens, request.out + first * width);
  }
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
    : pairs_(frequencies.size()), positions_(positions), table_(positions * 2 * pairs_) {
  for (std::size_t position = 0; position < positions; ++position) {
    float* const cosines = table_.data() + position * 2 * pairs_;
    for (std::size_t i = 0; i < pairs_; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      cosines[i] = static_cast<float>(std::cos(angle));
      cosines[pairs_ + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void Rotation::Turn(std::size_t position, std::size_t heads, float* values) const {
  const float* const cosines = Cosines(position);
  const float* const sines = Sines(position);
  for (std::size_t head = 0; head < heads; ++head, values += 2 * pairs_) {
    for (std::size_t i = 0; i < pairs_; ++i) {
      const float a = values[i];
      const float b = values[pairs_ + i];
      values[i] = a * cosines[i] - b * sines[i];
      values[pairs_ + i] = a * sines[i] + b * cosines[i];
    }
  }
}

void Rotation::TurnBack(std::size_t position, float* values) const {
  const float* const cosines = Cosines(position);
  const float* const sines = Sines(position);
  for (std::size_t i = 0; i < pairs_; ++i) {
    const float a = values[i];
    const float b = values[pairs_ + i];
    values[i] = a * cosines[i] + b * sines[i];
    values[pairs_ + i] = b * cosines[i] - a * sines[i];
  }
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
  if (requests.empty()) return;
  std::size_t most_floats = 0;
  for (const Request& request : requests) {
    const Scheme& scheme = request.cache->scheme();
    const std::size_t rows = std::max(kRowsAtOnce, scheme.heads_per_part());
    most_floats =
        std::max(most_floats, rows * (2 * scheme.dims(layer) + kBlockTokens + 2) + scheme.scratch_floats(layer));
  }
  scratch.workers.resize(std::max<std::size_t>(scratch.workers.size(), pool.threads()));
  for (compute::AlignedBytes& bytes : scratch.workers) {
    if (bytes.size() < most_floats * sizeof(float)) bytes = compute::AlignedBytes(most_floats * sizeof(float));
  }
  // All schemes of one geometry may still differ in their number of parts: the most there can be is the heads.
  const std::size_t heads = requests.front().cache->scheme().geometry().heads;
  pool.ForEach(requests.size() * heads, [&](std::size_t task, unsigned worker) {
    const Request& request = requests[task / heads];
    const std::size_t part = task % heads;
    if (part >= request.cache->scheme().parts()) return;
    AttendPart(layer, part, request, scratch.workers[worker].as<float>());
  });
}

}  // namespace holo::kv_cache
