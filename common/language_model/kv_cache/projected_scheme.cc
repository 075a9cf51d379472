// Attention in the space of coordinates. A key is key_weights^T x, and x = mean + decoder^T c, so a head's score q .
// key is (A q) . c plus a number that is the same for all tokens and that the softmax cancels; A = decoder key_weights
// of that head. The mean of values weighted by attention is B^T of the weighted mean of c, plus mean value_weights +
// value_bias, as the weights sum to 1.
//
// A rotated key is not that: the rotation differs from token to token. Then a tile's keys are rebuilt from the first
// coordinates and rotated, its values rebuilt from the others, and attention is what it is for plain caches.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/bytes/bytes.h"
#include "common/language_model/kv_cache/block_coder.h"
#include "common/language_model/kv_cache/kv_cache.h"

namespace holo::kv_cache {
namespace {

using compute::Matrix;

struct LayerMaps {
  std::vector<Matrix> queries;  // for each head: head_width -> dims, with the softmax's scale
  std::vector<Matrix> values;   // for each head: dims -> head_width
  // With a rotation instead, for each head of keys: coordinates -> head_width rounded up.
  std::vector<Matrix> rebuilt_keys, rebuilt_values;
  std::size_t coordinates = 0;  // of keys and values together, rounded up
  std::size_t first_of_values = 0;
};

// out [rows, columns] = a [rows, inner] b [inner, columns], summed in double.
std::vector<float> Product(std::span<const float> a, std::span<const float> b, std::size_t inner, std::size_t columns) {
  const std::size_t rows = a.size() / inner;
  std::vector<float> out(rows * columns);
  std::vector<double> sums(columns);
  for (std::size_t row = 0; row < rows; ++row) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (std::size_t i = 0; i < inner; ++i) {
      const double factor = a[row * inner + i];
      for (std::size_t column = 0; column < columns; ++column) sums[column] += factor * b[i * columns + column];
    }
    std::copy(sums.begin(), sums.end(), out.begin() + static_cast<std::ptrdiff_t>(row * columns));
  }
  return out;
}

// The heads' maps from `keys` and `values`, both [rank, width]: what a coordinate of 1 adds to keys and values.
LayerMaps MakeMaps(const Geometry& geometry, std::size_t rank, std::size_t dims, std::span<const float> keys,
                   std::span<const float> values, std::span<const float> value_offset,
                   const std::shared_ptr<compute::Arena>& arena) {
  LayerMaps maps;
  const std::size_t width = geometry.width();
  const std::size_t head_width = geometry.head_width;
  const float scale = 1 / std::sqrt(static_cast<float>(head_width));
  for (std::size_t head = 0; head < geometry.heads; ++head) {
    std::vector<float> query_map(dims * head_width);  // [dims, head_width]
    std::vector<float> value_map(dims * head_width);  // likewise
    for (std::size_t i = 0; i < rank; ++i) {
      for (std::size_t j = 0; j < head_width; ++j) {
        query_map[i * head_width + j] = keys[i * width + head * head_width + j] * scale;
        value_map[i * head_width + j] = values[i * width + head * head_width + j];
      }
    }
    maps.queries.push_back(Matrix::PackTransposed(compute::WeightType::kF32, head_width, dims, query_map, {}, arena));
    maps.values.push_back(Matrix::Pack(compute::WeightType::kF32, dims, head_width, value_map,
                                       value_offset.subspan(head * head_width, head_width), arena));
  }
  return maps;
}

// The bias with which y = x encoder + bias is (x - mean) encoder.
std::vector<float> CentringBias(std::span<const float> mean, std::span<const float> encoder, std::size_t rank) {
  std::vector<float> bias = Product(mean, encoder, mean.size(), rank);
  for (float& value : bias) value = -value;
  return bias;
}

class ProjectedScheme : public Scheme {
 public:
  std::size_t parts() const override {
    return rotation_ != nullptr ? geometry().keys() : geometry().heads / heads_together_;
  }
  std::size_t dims(std::size_t layer) const override { return dims_[layer]; }
  bool takes_unrotated_keys() const override { return rotation_ != nullptr; }
  std::size_t scratch_floats(std::size_t layer) const override {
    return (2 * dims_[layer] + (rotation_ != nullptr ? maps_[layer].coordinates : 0)) * kBlockTokens;
  }

  void PrepareQueries(std::size_t layer, std::size_t part, const float* queries, std::size_t tokens,
                      float* out) const override {
    const std::size_t head_width = geometry().head_width;
    if (rotation_ != nullptr) {
      const float scale = 1 / std::sqrt(static_cast<float>(head_width));
      for (std::size_t token = 0; token < tokens; ++token) {
        const float* from = queries + token * geometry().width() + part * heads_per_part() * head_width;
        for (std::size_t head = 0; head < heads_per_part(); ++head, from += head_width, out += dims_[layer]) {
          for (std::size_t i = 0; i < head_width; ++i) out[i] = from[i] * scale;
          std::fill(out + head_width, out + dims_[layer], 0.0f);
        }
      }
      return;
    }
    for (std::size_t i = 0; i < heads_together_; ++i) {
      const std::size_t head = part * heads_together_ + i;
      compute::MultiplyRows(maps_[layer].queries[head], queries + head * head_width, geometry().width(), tokens,
                            out + i * dims_[layer], heads_together_ * dims_[layer], compute::Store::kReplace);
    }
  }

  void Finish(std::size_t layer, std::size_t part, const float* means, std::size_t tokens, float* out) const override {
    const std::size_t head_width = geometry().head_width;
    if (rotation_ != nullptr) {
      for (std::size_t token = 0; token < tokens; ++token) {
        float* to = out + token * geometry().width() + part * heads_per_part() * head_width;
        for (std::size_t head = 0; head < heads_per_part(); ++head, to += head_width, means += dims_[layer]) {
          std::copy_n(means, head_width, to);
        }
      }
      return;
    }
    for (std::size_t i = 0; i < heads_together_; ++i) {
      const std::size_t head = part * heads_together_ + i;
      compute::MultiplyRows(maps_[layer].values[head], means + i * dims_[layer], heads_together_ * dims_[layer], tokens,
                            out + head * head_width, geometry().width(), compute::Store::kReplace);
    }
  }

 protected:
  ProjectedScheme(const Basis& basis, std::shared_ptr<const Rotation> rotation)
      : Scheme(basis.geometry, bytes::Sha256(SerialiseBasis(basis))), rotation_(std::move(rotation)) {
    // Heads share what is expanded for them; six rows are what a kernel takes at a time.
    while (basis.geometry.heads % heads_together_ != 0) --heads_together_;
    constexpr auto kF32 = compute::WeightType::kF32;
    const std::size_t head_width = basis.geometry.head_width;
    std::size_t bytes = 0;
    for (const BasisLayer& layer : basis.layers) {
      const std::size_t dims = compute::RoundUp(layer.rank, compute::kPanel);
      const std::size_t of_heads =
          rotation_ != nullptr
              ? 2 * basis.geometry.keys() * Matrix::Share(kF32, dims, compute::RoundUp(head_width, compute::kPanel))
              : basis.geometry.heads * (Matrix::Share(kF32, head_width, dims) + Matrix::Share(kF32, dims, head_width));
      bytes += of_heads +
               (basis.method == Method::kReport ? 2 : 1) * Matrix::Share(kF32, basis.geometry.width(), layer.rank);
    }
    arena_ = std::make_shared<compute::Arena>(bytes);
  }

  // Coordinates of the normalised row.
  void AddLatentLayer(const BasisLayer& from, const LayerWeights& weights) {
    const std::size_t width = geometry().width();
    const std::size_t key_width = geometry().key_width();
    const std::vector<float> keys = Product(from.decoder, weights.key_weights, width, key_width);
    const std::vector<float> values = Product(from.decoder, weights.value_weights, width, key_width);
    std::vector<float> offset = Product(from.mean, weights.value_weights, width, key_width);
    for (std::size_t i = 0; i < key_width; ++i) offset[i] += weights.value_bias[i];
    if (rotation_ != nullptr) {
      dims_.push_back(compute::RoundUp(geometry().head_width, compute::kPanel));
      const std::vector<float> key_offset = Product(from.mean, weights.key_weights, width, key_width);
      const std::size_t key_rank = from.key_rank == 0 ? from.rank : from.key_rank;
      LayerMaps maps;
      maps.coordinates = compute::RoundUp(from.rank, compute::kPanel);
      maps.first_of_values = from.key_rank;
      maps.rebuilt_keys = Rebuild(std::span(keys).first(key_rank * key_width), key_offset);
      maps.rebuilt_values = Rebuild(std::span(values).subspan(from.key_rank * key_width), offset);
      maps_.push_back(std::move(maps));
    } else {
      dims_.push_back(compute::RoundUp(from.rank, compute::kPanel));
      maps_.push_back(MakeMaps(geometry(), from.rank, dims_.back(), keys, values, offset, arena_));
    }
    encoders_.emplace_back().push_back(Matrix::Pack(compute::WeightType::kF32, width, from.rank, from.encoder,
                                                    CentringBias(from.mean, from.encoder, from.rank), arena_));
  }

  void Prepare(std::size_t layer, const Rows& rows, float* out, compute::Scratch& scratch,
               compute::ThreadPool& pool) const override {
    compute::Multiply(encoders_[layer][0], rows.normalised, rows.count, out, compute::Store::kReplace, scratch, pool);
  }

  // What Expand() makes of coordinates [kBlockTokens, rank rounded up], which lie behind the tile in `scratch`.
  Tile FromCoordinates(std::size_t layer, std::size_t part, std::size_t block, std::size_t tokens,
                       float* scratch) const {
    const std::size_t dims = dims_[layer];
    float* const values = scratch;
    float* const keys = scratch + dims * kBlockTokens;
    if (rotation_ == nullptr) {
      compute::TransposeTile(values, dims, keys);
      return {keys, values};
    }
    const LayerMaps& maps = maps_[layer];
    const float* const coordinates = scratch + 2 * dims * kBlockTokens;
    // Values have the place of the keys before their transposition first.
    compute::MultiplyRows(maps.rebuilt_keys[part], coordinates, maps.coordinates, tokens, values, dims,
                          compute::Store::kReplace);
    for (std::size_t token = 0; token < tokens; ++token) {
      rotation_->Turn(block * kBlockTokens + token, 1, values + token * dims);
    }
    std::fill(values + tokens * dims, values + kBlockTokens * dims, 0.0f);
    compute::TransposeTile(values, dims, keys);
    compute::MultiplyRows(maps.rebuilt_values[part], coordinates + maps.first_of_values, maps.coordinates, tokens,
                          values, dims, compute::Store::kReplace);
    return {keys, values};
  }
  // Where coordinates go: into the tile itself where attention is computed on them.
  float* CoordinatesIn(std::size_t layer, float* scratch) const {
    return rotation_ == nullptr ? scratch : scratch + 2 * dims_[layer] * kBlockTokens;
  }
  std::size_t coordinates(std::size_t layer) const {
    return rotation_ == nullptr ? dims_[layer] : maps_[layer].coordinates;
  }

  // For all heads of keys, from so many coordinates, of which `map` [rank, key_width] says what they add to `offset`.
  std::vector<Matrix> Rebuild(std::span<const float> map, std::span<const float> offset) const {
    const std::size_t head_width = geometry().head_width;
    const std::size_t key_width = geometry().key_width();
    const std::size_t rank = map.size() / key_width;
    const std::size_t dims = compute::RoundUp(head_width, compute::kPanel);
    std::vector<Matrix> rebuilt;
    for (std::size_t first = 0; first < key_width; first += head_width) {
      std::vector<float> own(rank * dims);
      for (std::size_t i = 0; i < rank; ++i) {
        std::copy_n(map.data() + i * key_width + first, head_width, own.data() + i * dims);
      }
      std::vector<float> bias(dims);
      std::copy_n(offset.data() + first, head_width, bias.data());
      rebuilt.push_back(Matrix::Pack(compute::WeightType::kF32, rank, dims, own, bias, arena_));
    }
    return rebuilt;
  }

  std::shared_ptr<const Rotation> rotation_;  // null where positions are learned
  std::vector<std::size_t> dims_;             // of each layer
  std::vector<LayerMaps> maps_;
  std::vector<std::vector<Matrix>> encoders_;  // of the normalised row, or of keys and of values
  std::shared_ptr<compute::Arena> arena_;      // of all these matrices

 private:
  std::size_t heads_together_ = 6;
};

// One layer of a block: kBlockTokens records, each a byte of scale for every group with bits and then the groups'
// codes; behind them, in a sequence's first block, kExactTokens rows of coordinates in half precision.
class LatentScheme final : public ProjectedScheme {
 public:
  LatentScheme(const Basis& basis, std::span<const LayerWeights> weights, std::shared_ptr<const Rotation> rotation)
      : ProjectedScheme(basis, std::move(rotation)) {
    std::vector<std::size_t> first_block;
    std::vector<std::size_t> other_blocks;
    for (std::size_t layer = 0; layer < basis.layers.size(); ++layer) {
      const BasisLayer& from = basis.layers[layer];
      AddLatentLayer(from, weights[layer]);
      bits_.push_back(from.bits);
      std::size_t record = 0;
      std::size_t scales = 0;
      for (const std::uint8_t bits : from.bits) {
        record += 4 * bits;
        scales += bits > 0 ? 1 : 0;
      }
      record += scales;
      record_bytes_.push_back(record);
      scale_bytes_.push_back(scales);
      other_blocks.push_back(record * kBlockTokens);
      first_block.push_back(record * kBlockTokens + kExactTokens * from.rank * sizeof(std::uint16_t));
    }
    SetLayerBytes(first_block, other_blocks);
    for (int exponent = 0; exponent < 256; ++exponent) {
      scales_[static_cast<std::size_t>(exponent)] =
          std::exp2(static_cast<float>(exponent - kScaleOne) / kScalesPerOctave);
    }
  }

  std::string name() const override { return std::string(MethodName(Method::kLatent)); }
  bool needs_keys_and_values() const override { return false; }
  std::size_t prepared_width(std::size_t layer) const override { return coordinates(layer); }

  void Write(std::size_t layer, std::size_t block, std::size_t place, const Rows&, std::size_t, const float* prepared,
             std::uint8_t* stored) const override {
    std::uint8_t* scale = stored + place * record_bytes_[layer];
    std::uint8_t* codes = scale + scale_bytes_[layer];
    for (const std::uint8_t bits : bits_[layer]) {
      if (bits > 0) *scale++ = EncodeGroup(prepared, bits, codes);
      prepared += kGroup;
      codes += 4 * bits;
    }
    if (block == 0 && place < kExactTokens) {
      const std::size_t rank = coordinates(layer);
      compute::ToHalf(prepared - rank, rank, Exact(layer, stored) + place * rank);
    }
  }

  Tile Expand(std::size_t layer, std::size_t part, std::size_t block, std::size_t tokens, const std::uint8_t* stored,
              float* scratch) const override {
    const std::size_t rank = coordinates(layer);
    float* const values = CoordinatesIn(layer, scratch);
    for (std::size_t token = 0; token < tokens; ++token) {
      float* out = values + token * rank;
      if (block == 0 && token < kExactTokens) {
        compute::FromHalf(Exact(layer, const_cast<std::uint8_t*>(stored)) + token * rank, rank, out);
        continue;
      }
      const std::uint8_t* scale = stored + token * record_bytes_[layer];
      const std::uint8_t* codes = scale + scale_bytes_[layer];
      for (const std::uint8_t bits : bits_[layer]) {
        if (bits > 0) {
          compute::ExpandPlanes(codes, bits, scales_[*scale++], out);
        } else {
          std::fill(out, out + kGroup, 0.0f);
        }
        out += kGroup;
        codes += 4 * bits;
      }
    }
    std::fill(values + tokens * rank, values + kBlockTokens * rank, 0.0f);
    return FromCoordinates(layer, part, block, tokens, scratch);
  }

  bool AttendStored(const Place& place, const compute::AttentionRows& rows,
                    const std::uint8_t* visible) const override {
    if (rotation_ != nullptr || place.block == 0) return false;  // the first has exact tokens
    const compute::CodedTile tile = {place.stored, bits_[place.layer], scales_.data()};
    compute::AttendCodedTile(rows, tile, visible, place.next);
    return true;
  }

 private:
  static constexpr int kScaleOne = 160;
  static constexpr float kScalesPerOctave = 16;

  std::uint16_t* Exact(std::size_t layer, std::uint8_t* stored) const {
    return reinterpret_cast<std::uint16_t*>(stored + record_bytes_[layer] * kBlockTokens);
  }

  // Returns the exponent of the scale. With few bits it pays to clip the largest values: the scale with the least
  // squared error is searched downwards from the one that clips nothing.
  std::uint8_t EncodeGroup(const float* values, unsigned bits, std::uint8_t* codes) const {
    float largest = 0;
    for (std::size_t i = 0; i < kGroup; ++i) largest = std::max(largest, std::abs(values[i]));
    const float middle = static_cast<float>((1u << bits) - 1) / 2;
    // The outermost code stands for everything up to half a step beyond it.
    const float widest = largest / (middle + 0.5f);
    const float exact = kScaleOne + kScalesPerOctave * std::log2(std::max(widest, 1e-9f));
    const int first = static_cast<int>(std::clamp(std::ceil(exact), 0.0f, 255.0f));
    const int last = std::max(0, first - (bits <= 2 ? 16 : bits <= 4 ? 12 : bits <= 6 ? 4 : 0));
    int best = first;
    float least = std::numeric_limits<float>::infinity();
    for (int exponent = first; exponent >= last; exponent -= 2) {
      const float step = scales_[static_cast<std::size_t>(exponent)];
      const float inverse = 1 / step;
      float error = 0;
      for (std::size_t i = 0; i < kGroup; ++i) {
        const float code = Round(values[i] * inverse, middle);
        const float difference = values[i] - code * step;
        error += difference * difference;
      }
      if (error >= least) continue;
      least = error;
      best = exponent;
    }
    const float inverse = 1 / scales_[static_cast<std::size_t>(best)];
    std::uint8_t numbers[kGroup];
    for (std::size_t i = 0; i < kGroup; ++i) {
      numbers[i] = static_cast<std::uint8_t>(Round(values[i] * inverse, middle) + middle);
    }
    compute::PackPlanes(numbers, bits, codes);
    return static_cast<std::uint8_t>(best);
  }

  // The nearest of -middle, -middle + 1, ..., middle.
  static float Round(float value, float middle) {
    const float clipped = std::min(std::max(value + middle, 0.0f), 2 * middle);
    return (clipped + 8388608.0f) - 8388608.0f - middle;  // to an integer, without a call
  }

  std::vector<std::vector<std::uint8_t>> bits_;
  std::vector<std::size_t> record_bytes_, scale_bytes_;
  std::array<float, 256> scales_{};
};

// One layer of a block: [32, rank] whole numbers of 16 bits, and 32 bytes: each token's exponent.
class StoredScheme final : public ProjectedScheme {
 public:
  StoredScheme(const Basis& basis, std::span<const LayerWeights> weights, std::shared_ptr<const Rotation> rotation)
      : ProjectedScheme(basis, std::move(rotation)), table_(basis.table) {
    std::vector<std::size_t> bytes;
    for (std::size_t layer = 0; layer < basis.layers.size(); ++layer) {
      const BasisLayer& from = basis.layers[layer];
      AddLatentLayer(from, weights[layer]);
      classes_.push_back(from.classes);
      bytes.push_back(kBlockTokens * (from.rank * sizeof(std::int16_t) + 1));
    }
    SetLayerBytes(bytes, bytes);
  }

  std::string name() const override { return std::string(MethodName(Method::kStored)); }
  bool needs_keys_and_values() const override { return false; }
  std::size_t prepared_width(std::size_t layer) const override { return rank(layer); }

  void Write(std::size_t layer, std::size_t block, std::size_t place, const Rows&, std::size_t, const float* prepared,
             std::uint8_t* stored) const override {
    auto* const numbers = reinterpret_cast<std::int16_t*>(stored) + place * rank(layer);
    float steps = block == 0 && place < kExactTokens ? kFineSteps : 1;
    // The first tokens of a text may be hundreds of times as large as all others.
    float largest = 0;
    for (std::size_t i = 0; i < rank(layer); ++i) largest = std::max(largest, std::abs(prepared[i]) * steps);
    std::uint8_t& exponent = Exponents(layer, stored)[place];
    for (exponent = 0; largest > 32767 && exponent < kMostExponent; ++exponent) {
      largest /= 2;
      steps /= 2;
    }
    for (std::size_t i = 0; i < rank(layer); ++i) {
      const float clipped = std::min(32767.0f, std::max(-32767.0f, prepared[i] * steps));  // of NaN, too
      numbers[i] = static_cast<std::int16_t>((clipped + 12582912.0f) - 12582912.0f);  // the nearest, without a call
    }
  }

  Tile Expand(std::size_t layer, std::size_t part, std::size_t block, std::size_t tokens, const std::uint8_t* stored,
              float* scratch) const override {
    const std::size_t dims = coordinates(layer);
    const auto* const numbers = reinterpret_cast<const std::int16_t*>(stored);
    float* const values = CoordinatesIn(layer, scratch);
    for (std::size_t token = 0; token < tokens; ++token) {
      const unsigned exponent = Exponents(layer, const_cast<std::uint8_t*>(stored))[token];
      const float step =
          static_cast<float>(1u << exponent) * (block == 0 && token < kExactTokens ? 1 / kFineSteps : 1);
      float* const out = values + token * dims;
      for (std::size_t i = 0; i < rank(layer); ++i) out[i] = static_cast<float>(numbers[token * rank(layer) + i]) * step;
      std::fill(out + rank(layer), out + dims, 0.0f);
    }
    std::fill(values + tokens * dims, values + kBlockTokens * dims, 0.0f);
    return FromCoordinates(layer, part, block, tokens, scratch);
  }

  std::vector<std::uint8_t> Pack(std::size_t block, std::size_t tokens, const std::uint8_t* stored) const override {
    // The coder wants numbers that it may write, too: it is the decoder's loop.
    compute::AlignedBytes copy(block_bytes(block));
    std::memcpy(copy.as<std::uint8_t>(), stored, copy.size());
    return EncodeBlock(Layers(block, copy.as<std::uint8_t>()), tokens, FineTokens(block), table_);
  }

  Result<void> Unpack(std::size_t block, std::size_t tokens, std::span<const std::uint8_t> packed,
                      std::string_view name, std::uint8_t* stored) const override {
    return DecodeBlock(packed, name, Layers(block, stored), tokens, FineTokens(block), table_);
  }

  void Count(std::size_t block, std::size_t tokens, const std::uint8_t* stored, CoderCounts& counts) const {
    compute::AlignedBytes copy(block_bytes(block));
    std::memcpy(copy.as<std::uint8_t>(), stored, copy.size());
    CountBlock(Layers(block, copy.as<std::uint8_t>()), tokens, FineTokens(block), counts);
  }

 private:
  static constexpr float kFineSteps = 1 << kFineShift;

  [[nodiscard]] std::size_t rank(std::size_t layer) const { return classes_[layer].size(); }
  [[nodiscard]] std::uint8_t* Exponents(std::size_t layer, std::uint8_t* stored) const {
    return stored + kBlockTokens * rank(layer) * sizeof(std::int16_t);
  }
  static std::size_t FineTokens(std::size_t block) { return block == 0 ? kExactTokens : 0; }
  std::vector<CodedLayer> Layers(std::size_t block, std::uint8_t* stored) const {
    std::vector<CodedLayer> layers;
    for (std::size_t layer = 0; layer < classes_.size(); ++layer) {
      std::uint8_t* const share = stored + offset(layer, block);
      layers.push_back({classes_[layer], reinterpret_cast<std::int16_t*>(share), Exponents(layer, share)});
    }
    return layers;
  }

  std::vector<std::vector<std::uint8_t>> classes_;
  std::vector<std::uint8_t> table_;
};

// One layer of a block, in half precision: keys [rank, 32] and values [32, rank]; with a rotation [32, 2, rank], the
// components of a token's key before it is rotated, and of its value.
class ReportScheme final : public ProjectedScheme {
 public:
  ReportScheme(const Basis& basis, std::shared_ptr<const Rotation> rotation)
      : ProjectedScheme(basis, std::move(rotation)) {
    const std::size_t width = geometry().key_width();
    std::vector<std::size_t> bytes;
    for (const BasisLayer& from : basis.layers) {
      const std::size_t rank = from.rank;
      ranks_.push_back(rank);
      const std::span<const float> encoder = from.encoder;
      const std::span<const float> mean = from.mean;
      std::vector<float> transposed[2];
      std::vector<Matrix> encoders;
      for (std::size_t which : {0, 1}) {
        const std::span<const float> own = encoder.subspan(which * width * rank, width * rank);
        transposed[which].resize(width * rank);
        for (std::size_t i = 0; i < width; ++i) {
          for (std::size_t j = 0; j < rank; ++j) transposed[which][j * width + i] = own[i * rank + j];
        }
        encoders.push_back(Matrix::Pack(compute::WeightType::kF32, width, rank, own,
                                        CentringBias(mean.subspan(which * width, width), own, rank), arena_));
      }
      encoders_.push_back(std::move(encoders));
      bytes.push_back(2 * rank * kBlockTokens * sizeof(std::uint16_t));
      if (rotation_ != nullptr) {
        dims_.push_back(compute::RoundUp(geometry().head_width, compute::kPanel));
        LayerMaps maps;
        maps.coordinates = compute::RoundUp(2 * rank, compute::kPanel);
        maps.first_of_values = rank;
        maps.rebuilt_keys = Rebuild(transposed[0], mean.first(width));
        maps.rebuilt_values = Rebuild(transposed[1], mean.last(width));
        maps_.push_back(std::move(maps));
      } else {
        dims_.push_back(compute::RoundUp(rank, compute::kPanel));
        maps_.push_back(
            MakeMaps(geometry(), rank, dims_.back(), transposed[0], transposed[1], mean.last(width), arena_));
      }
    }
    SetLayerBytes(bytes, bytes);
  }

  std::string name() const override { return std::string(MethodName(Method::kReport)); }
  bool needs_keys_and_values() const override { return true; }
  std::size_t prepared_width(std::size_t layer) const override { return 2 * ranks_[layer]; }

  void Prepare(std::size_t layer, const Rows& rows, float* out, compute::Scratch&,
               compute::ThreadPool& pool) const override {
    const std::size_t rank = ranks_[layer];
    constexpr std::size_t kPerTask = 16;
    pool.ForEach((rows.count + kPerTask - 1) / kPerTask, [&](std::size_t task, unsigned) {
      const std::size_t first = task * kPerTask;
      const std::size_t count = std::min(kPerTask, rows.count - first);
      for (std::size_t which : {0, 1}) {
        const float* from = (which == 0 ? rows.keys : rows.values) + first * rows.key_stride;
        compute::MultiplyRows(encoders_[layer][which], from, rows.key_stride, count, out + (2 * first + which) * rank,
                              2 * rank, compute::Store::kReplace);
      }
    });
  }

  void Write(std::size_t layer, std::size_t, std::size_t place, const Rows&, std::size_t, const float* prepared,
             std::uint8_t* stored) const override {
    const std::size_t rank = ranks_[layer];
    auto* keys = reinterpret_cast<std::uint16_t*>(stored);
    if (rotation_ != nullptr) {
      compute::ToHalf(prepared, 2 * rank, keys + place * 2 * rank);
      return;
    }
    for (std::size_t i = 0; i < rank; ++i) compute::ToHalf(prepared + i, 1, keys + i * kBlockTokens + place);
    compute::ToHalf(prepared + rank, rank, keys + rank * kBlockTokens + place * rank);
  }

  Tile Expand(std::size_t layer, std::size_t part, std::size_t block, std::size_t tokens, const std::uint8_t* stored,
              float* scratch) const override {
    const std::size_t rank = ranks_[layer];
    const auto* halves = reinterpret_cast<const std::uint16_t*>(stored);
    if (rotation_ != nullptr) {
      float* const both = CoordinatesIn(layer, scratch);
      for (std::size_t token = 0; token < tokens; ++token) {
        compute::FromHalf(halves + token * 2 * rank, 2 * rank, both + token * coordinates(layer));
      }
      return FromCoordinates(layer, part, block, tokens, scratch);
    }
    const std::size_t dims = dims_[layer];
    float* const keys = scratch;
    float* const values = scratch + dims * kBlockTokens;
    compute::FromHalf(halves, rank * kBlockTokens, keys);
    std::fill(keys + rank * kBlockTokens, values, 0.0f);
    halves += rank * kBlockTokens;
    for (std::size_t token = 0; token < kBlockTokens; ++token) {
      compute::FromHalf(halves + token * rank, rank, values + token * dims);
      std::fill(values + token * dims + rank, values + (token + 1) * dims, 0.0f);
    }
    return {keys, values};
  }

 private:
  std::vector<std::size_t> ranks_;
};

}  // namespace

std::string_view MethodName(Method method) {
  switch (method) {
    case Method::kLatent:
      return "latent";
    case Method::kReport:
      return "report";
    case Method::kStored:
      return "stored";
  }
  return "";
}

void CountDecisions(const Cache& cache, CoderCounts& counts) {
  counts.all.resize(kCoderTableBytes);
  counts.ones.resize(kCoderTableBytes);
  const auto* scheme = dynamic_cast<const StoredScheme*>(&cache.scheme());
  if (scheme == nullptr) return;
  for (std::size_t first = 0; first < cache.tokens(); first += kBlockTokens) {
    const std::size_t block = first / kBlockTokens;
    scheme->Count(block, std::min(kBlockTokens, cache.tokens() - first), cache.Stored(0, block), counts);
  }
}

Result<std::shared_ptr<const Scheme>> MakeProjectedScheme(const Basis& basis, std::span<const LayerWeights> layers,
                                                          std::shared_ptr<const Rotation> rotation) {
  const std::size_t width = basis.geometry.width();
  const std::size_t key_width = basis.geometry.key_width();
  bool fits = layers.size() == basis.layers.size() && layers.size() == basis.geometry.layers;
  for (const LayerWeights& layer : layers) {
    fits = fits && layer.key_weights.size() == width * key_width && layer.value_weights.size() == width * key_width &&
           layer.value_bias.size() == key_width;
  }
  if (!fits) {
    return Fail(Code::kInvalidArgument, "basis: expected a model of " + std::to_string(basis.geometry.layers) +
                                            " layers, " + std::to_string(width) + " wide, found " +
                                            std::to_string(layers.size()) + " layers or another width");
  }
  if (rotation == nullptr && key_width != width) {
    return Fail(Code::kUnimplemented,
                "basis: expected a head of keys for each of queries, as keys are not rotated, found " +
                    std::to_string(basis.geometry.keys()) + " for " + std::to_string(basis.geometry.heads));
  }
  for (const BasisLayer& layer : basis.layers) {
    if (rotation != nullptr || layer.key_rank == 0) continue;
    return Fail(Code::kInvalidArgument,
                "basis: expected a key rank of 0, as keys are not rotated, found " + std::to_string(layer.key_rank));
  }
  if (rotation != nullptr && rotation->head_width() != basis.geometry.head_width) {
    return Fail(Code::kInvalidArgument, "basis: expected heads of " + std::to_string(rotation->head_width()) +
                                            ", as the rotation has, found " +
                                            std::to_string(basis.geometry.head_width));
  }
  if (basis.method == Method::kReport) return std::make_shared<ReportScheme>(basis, std::move(rotation));
  if (basis.method == Method::kStored) return std::make_shared<StoredScheme>(basis, layers, std::move(rotation));
  return std::make_shared<LatentScheme>(basis, layers, std::move(rotation));
}

}  // namespace holo::kv_cache
