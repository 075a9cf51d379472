// Attention in the space of coordinates. A key is key_weights^T x, and x = mean + decoder^T c, so a head's score q .
// key is (A q) . c plus a number that is the same for all tokens and that the softmax cancels; A = decoder key_weights
// of that head. The mean of values weighted by attention is B^T of the weighted mean of c, plus mean value_weights +
// value_bias, as the weights sum to 1.
//
// A rotated key is not that: the rotation differs from token to token. Then a tile's keys are rebuilt from the first
// coordinates and rotated, for all heads at once; means of values are taken of coordinates in any case.
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
  std::vector<Matrix> queries;  // for each head: head_width -> dims, with the softmax's scale; none with a rotation
  std::vector<Matrix> values;   // for each head, with a rotation each head of keys: value_dims -> head_width
  // With a rotation, of all heads: the first coordinates -> dims each.
  Matrix keys;
  std::size_t first_of_values = 0;  // the coordinate
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
  std::size_t parts() const override { return rotation_ != nullptr ? 1 : geometry().heads / heads_together_; }
  std::size_t key_sets() const override { return rotation_ != nullptr ? geometry().keys() : 1; }
  std::size_t dims(std::size_t layer) const override { return dims_[layer]; }
  std::size_t value_dims(std::size_t layer) const override { return value_dims_[layer]; }
  // Rebuilding keys costs more than expanding coordinates.
  std::size_t rows_at_once() const override { return rotation_ != nullptr ? 288 : Scheme::rows_at_once(); }
  bool takes_unrotated_keys() const override { return rotation_ != nullptr; }
  std::size_t scratch_floats(std::size_t layer) const override {
    if (rotation_ == nullptr) return 2 * dims_[layer] * kBlockTokens;
    return (2 * KeyRows(layer) + value_dims_[layer] + prepared_width(layer) + compute::kPanel) * kBlockTokens;
  }

  void PrepareQueries(std::size_t layer, std::size_t part, const float* queries, std::size_t tokens,
                      float* out) const override {
    const std::size_t head_width = geometry().head_width;
    if (rotation_ != nullptr) {
      const float scale = 1 / std::sqrt(static_cast<float>(head_width));
      for (std::size_t set = 0; set < key_sets(); ++set) {
        for (std::size_t token = 0; token < tokens; ++token) {
          const float* from = queries + token * geometry().width() + set * heads_of_set() * head_width;
          for (std::size_t head = 0; head < heads_of_set(); ++head, from += head_width, out += dims_[layer]) {
            for (std::size_t i = 0; i < head_width; ++i) out[i] = from[i] * scale;
            std::fill(out + head_width, out + dims_[layer], 0.0f);
          }
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
    const std::size_t value_dims = value_dims_[layer];
    if (rotation_ != nullptr) {
      const std::size_t heads = heads_of_set();
      for (std::size_t set = 0; set < key_sets(); ++set, means += tokens * heads * value_dims) {
        const Matrix& map = maps_[layer].values[set];
        float* const to = out + set * heads * head_width;
        if (tokens == 1) {  // its heads lie behind each other
          compute::MultiplyRows(map, means, value_dims, heads, to, head_width, compute::Store::kReplace);
          continue;
        }
        for (std::size_t head = 0; head < heads; ++head) {
          compute::MultiplyRows(map, means + head * value_dims, heads * value_dims, tokens, to + head * head_width,
                                geometry().width(), compute::Store::kReplace);
        }
      }
      return;
    }
    for (std::size_t i = 0; i < heads_together_; ++i) {
      const std::size_t head = part * heads_together_ + i;
      compute::MultiplyRows(maps_[layer].values[head], means + i * value_dims, heads_together_ * value_dims, tokens,
                            out + head * head_width, geometry().width(), compute::Store::kReplace);
    }
  }

 protected:
  ProjectedScheme(const Basis& basis, std::shared_ptr<const Rotation> rotation)
      : Scheme(basis.geometry, bytes::Sha256(SerialiseBasis(basis))), rotation_(std::move(rotation)) {
    // Heads share what is expanded for them; six rows are what a kernel takes at a time.
    while (basis.geometry.heads % heads_together_ != 0) --heads_together_;
    constexpr auto kF32 = compute::WeightType::kF32;
    const Geometry& of = basis.geometry;
    std::size_t bytes = 0;
    for (const BasisLayer& layer : basis.layers) {
      const std::size_t dims = compute::RoundUp(layer.rank, compute::kPanel);
      bytes += rotation_ != nullptr
                   ? Matrix::Share(kF32, layer.rank, of.keys() * compute::RoundUp(of.head_width, compute::kPanel)) +
                         of.keys() * Matrix::Share(kF32, dims, of.head_width)
                   : of.heads * (Matrix::Share(kF32, of.head_width, dims) + Matrix::Share(kF32, dims, of.head_width));
      bytes += (basis.method == Method::kReport ? 2 : 1) * Matrix::Share(kF32, of.width(), layer.rank);
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
      const std::size_t key_rank = from.key_rank == 0 ? from.rank : from.key_rank;
      AddRotatedLayer(std::span(keys).first(key_rank * key_width), Product(from.mean, weights.key_weights, width, key_width),
                      std::span(values).subspan(from.key_rank * key_width), offset, from.key_rank);
    } else {
      dims_.push_back(compute::RoundUp(from.rank, compute::kPanel));
      value_dims_.push_back(dims_.back());
      maps_.push_back(MakeMaps(geometry(), from.rank, dims_.back(), keys, values, offset, arena_));
    }
    encoders_.emplace_back().push_back(Matrix::Pack(compute::WeightType::kF32, width, from.rank, from.encoder,
                                                    CentringBias(from.mean, from.encoder, from.rank), arena_));
  }

  void Prepare(std::size_t layer, const Rows& rows, float* out, compute::Scratch& scratch,
               compute::ThreadPool& pool) const override {
    compute::Multiply(encoders_[layer][0], rows.normalised, rows.count, out, compute::Store::kReplace, scratch, pool);
  }

  // `keys` and `values` say what a coordinate of 1 adds to the keys and to the values of all heads, [coordinates, key_width]
  // each, and the offsets what they are otherwise.
  void AddRotatedLayer(std::span<const float> keys, std::span<const float> key_offset, std::span<const float> values,
                       std::span<const float> value_offset, std::size_t first_of_values) {
    const std::size_t head_width = geometry().head_width;
    const std::size_t key_width = geometry().key_width();
    dims_.push_back(compute::RoundUp(head_width, compute::kPanel));
    value_dims_.push_back(compute::RoundUp(values.size() / key_width, compute::kPanel));
    LayerMaps maps;
    maps.first_of_values = first_of_values;
    maps.keys = Matrix::Pack(compute::WeightType::kF32, keys.size() / key_width, key_sets() * dims_.back(),
                             PadHeads(keys, dims_.back()), PadHeads(key_offset, dims_.back()), arena_);
    for (std::size_t first = 0; first < key_width; first += head_width) {
      std::vector<float> own(value_dims_.back() * head_width);
      for (std::size_t i = 0; i < values.size() / key_width; ++i) {
        std::copy_n(values.data() + i * key_width + first, head_width, own.data() + i * head_width);
      }
      maps.values.push_back(Matrix::Pack(compute::WeightType::kF32, value_dims_.back(), head_width, own,
                                         value_offset.subspan(first, head_width), arena_));
    }
    maps_.push_back(std::move(maps));
  }

  // Rows [key_width] with every head `dims` wide.
  std::vector<float> PadHeads(std::span<const float> rows, std::size_t dims) const {
    const std::size_t head_width = geometry().head_width;
    std::vector<float> padded(rows.size() / head_width * dims);
    for (std::size_t head = 0; head < rows.size() / head_width; ++head) {
      std::copy_n(rows.data() + head * head_width, head_width, padded.data() + head * dims);
    }
    return padded;
  }

  // The tile of coordinates [kBlockTokens, dims] that lie at the beginning of `scratch`.
  Tile FromCoordinates(std::size_t layer, float* scratch) const {
    float* const keys = scratch + dims_[layer] * kBlockTokens;
    compute::TransposeTile(scratch, dims_[layer], keys);
    return {keys, scratch};
  }

  // Where a rotated tile is made.
  struct RotatedTile {
    float* keys = nullptr;         // [key_sets, dims, kBlockTokens]
    float* values = nullptr;       // [kBlockTokens, value_dims]
    float* rows = nullptr;         // [kBlockTokens, key_sets, dims], scratch
    float* coordinates = nullptr;  // [kBlockTokens, prepared_width], scratch
  };
  RotatedTile RotatedIn(std::size_t layer, float* scratch) const {
    RotatedTile tile;
    tile.keys = scratch;
    tile.values = tile.keys + KeyRows(layer) * kBlockTokens;
    tile.rows = tile.values + value_dims_[layer] * kBlockTokens;
    tile.coordinates = tile.rows + KeyRows(layer) * kBlockTokens;
    return tile;
  }
  std::size_t KeyRows(std::size_t layer) const { return key_sets() * dims_[layer]; }

  // The values of `tokens` tokens from their coordinates, the other places 0.
  void TakeValues(std::size_t layer, std::size_t tokens, const RotatedTile& tile) const {
    const std::size_t first = maps_[layer].first_of_values;
    const std::size_t count = prepared_width(layer) - first;
    std::fill(tile.values, tile.values + value_dims_[layer] * kBlockTokens, 0.0f);
    for (std::size_t token = 0; token < tokens; ++token) {
      std::copy_n(tile.coordinates + token * prepared_width(layer) + first, count,
                  tile.values + token * value_dims_[layer]);
    }
  }
  // The keys of `tokens` tokens as rows, before they are rotated.
  void RebuildKeys(std::size_t layer, std::size_t tokens, const RotatedTile& tile) const {
    compute::MultiplyRows(maps_[layer].keys, tile.coordinates, prepared_width(layer), tokens, tile.rows, KeyRows(layer),
                          compute::Store::kReplace);
  }
  void TurnKeys(std::size_t layer, std::size_t block, const RotatedTile& tile) const {
    for (std::size_t set = 0; set < key_sets(); ++set) {
      rotation_->TurnBlock(block, tile.keys + set * dims_[layer] * kBlockTokens);
    }
  }
  // The tile of coordinates that lie where RotatedIn() says.
  Tile FromRotated(std::size_t layer, std::size_t block, std::size_t tokens, const RotatedTile& tile) const {
    TakeValues(layer, tokens, tile);
    RebuildKeys(layer, tokens, tile);
    std::fill(tile.rows + tokens * KeyRows(layer), tile.rows + kBlockTokens * KeyRows(layer), 0.0f);
    compute::TransposeTile(tile.rows, KeyRows(layer), tile.keys);
    TurnKeys(layer, block, tile);
    return {tile.keys, tile.values};
  }
  std::size_t heads_of_set() const { return geometry().heads / geometry().keys(); }

  std::shared_ptr<const Rotation> rotation_;  // null where positions are learned
  std::vector<std::size_t> dims_, value_dims_;  // of each layer
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
      Records& coded = coded_.emplace_back();
      for (const std::uint8_t bits : from.bits) coded.scale_bytes += bits > 0 ? 1 : 0;
      coded.record_bytes = coded.scale_bytes;
      const std::size_t first_of_values = maps_.back().first_of_values;
      std::size_t scale_at = 0;
      for (std::size_t i = 0; i < from.bits.size(); ++i) {
        if (from.bits[i] == 0) continue;
        const compute::CodedGroup group = {from.bits[i], i * kGroup, scale_at++, coded.record_bytes};
        scale_starts_.push_back(kUsualScales[from.bits[i]]);
        coded.record_bytes += std::size_t{4} * from.bits[i];
        if (from.key_rank == 0 || group.column < from.key_rank) coded.keys.push_back(group);
        if (group.column < first_of_values) continue;
        coded.values.push_back(group);
        coded.values.back().column -= first_of_values;
      }
      if (rotation_ != nullptr) AddKeyMap(from, weights[layer]);
      other_blocks.push_back(coded.record_bytes * kBlockTokens);
      first_block.push_back(other_blocks.back() + kExactTokens * from.rank * sizeof(std::uint16_t));
      ranks_.push_back(from.rank);
      bits_.push_back(from.bits);
    }
    SetLayerBytes(first_block, other_blocks);
    for (int exponent = 0; exponent < 256; ++exponent) {
      scales_[static_cast<std::size_t>(exponent)] =
          std::exp2(static_cast<float>(exponent - kScaleOne) / kScalesPerOctave);
    }
  }

  std::string name() const override { return std::string(MethodName(Method::kLatent)); }
  bool needs_keys_and_values() const override { return false; }
  std::size_t prepared_width(std::size_t layer) const override { return ranks_[layer]; }

  void Write(std::size_t layer, std::size_t block, std::size_t place, const Rows&, std::size_t, const float* prepared,
             std::uint8_t* stored) const override {
    std::uint8_t* scale = stored + place * coded_[layer].record_bytes;
    std::uint8_t* codes = scale + coded_[layer].scale_bytes;
    for (const std::uint8_t bits : bits_[layer]) {
      if (bits > 0) *scale++ = EncodeGroup(prepared, bits, codes);
      prepared += kGroup;
      codes += 4 * bits;
    }
    if (block == 0 && place < kExactTokens) {
      const std::size_t rank = ranks_[layer];
      compute::ToHalf(prepared - rank, rank, reinterpret_cast<std::uint16_t*>(Exact(layer, stored)) + place * rank);
    }
  }

  Tile Expand(std::size_t layer, std::size_t, std::size_t block, std::size_t tokens, const std::uint8_t* stored,
              float* scratch) const override {
    const std::size_t exact = ExactTokens(block, tokens);
    const auto* const halves = reinterpret_cast<const std::uint16_t*>(Exact(layer, stored));
    const std::size_t rank = ranks_[layer];
    if (rotation_ == nullptr) {
      compute::ExpandCodedTile(Values(layer, stored), rank, scratch);
      compute::FromHalf(halves, exact * rank, scratch);
      std::fill(scratch + tokens * rank, scratch + kBlockTokens * rank, 0.0f);
      return FromCoordinates(layer, scratch);
    }
    const RotatedTile tile = RotatedIn(layer, scratch);
    compute::FromHalf(halves, exact * rank, tile.coordinates);
    TakeValues(layer, exact, tile);
    const compute::CodedTile values = Values(layer, stored);
    const std::size_t value_dims = value_dims_[layer];
    if (exact == 0) {
      compute::ExpandCodedTile(values, value_dims, tile.values);
    } else {
      // The rows that are not codes are put back.
      std::copy_n(tile.values, exact * value_dims, tile.rows);
      compute::ExpandCodedTile(values, value_dims, tile.values);
      std::copy_n(tile.rows, exact * value_dims, tile.values);
    }
    compute::MapCodedTile(key_maps_[layer], {stored, coded_[layer].record_bytes, coded_[layer].keys, scales_.data()},
                          tile.keys);
    if (exact > 0) RebuildKeys(layer, exact, tile);
    for (std::size_t token = 0; token < exact; ++token) {
      for (std::size_t i = 0; i < KeyRows(layer); ++i) {
        tile.keys[i * kBlockTokens + token] = tile.rows[token * KeyRows(layer) + i];
      }
    }
    TurnKeys(layer, block, tile);
    return {tile.keys, tile.values};
  }

  // Layer by layer the codes of all tokens but the exact ones, and the exact rows; then the code of all scales.
  std::vector<std::uint8_t> Pack(std::size_t block, std::size_t tokens, const std::uint8_t* stored) const override {
    std::vector<std::uint8_t> packed;
    std::vector<std::uint8_t> scales(ScaleCount(block, tokens));
    ForPieces(block, tokens, stored, scales.data(), [&](std::span<const std::uint8_t> from, std::uint8_t* scale) {
      if (scale != nullptr) {
        std::copy(from.begin(), from.end(), scale);
      } else {
        packed.insert(packed.end(), from.begin(), from.end());
      }
    });
    const std::vector<std::uint8_t> code = EncodeScales(scale_starts_, scales);
    packed.insert(packed.end(), code.begin(), code.end());
    return packed;
  }

  Result<void> Unpack(std::size_t block, std::size_t tokens, std::span<const std::uint8_t> packed,
                      std::string_view name, std::uint8_t* stored) const override {
    std::size_t fixed = 0;
    std::vector<std::uint8_t> scales(ScaleCount(block, tokens));
    ForPieces(block, tokens, stored, scales.data(), [&](std::span<std::uint8_t> to, const std::uint8_t* scale) {
      if (scale == nullptr) fixed += to.size();
    });
    if (packed.size() < fixed) {
      return Fail(Code::kDataLoss, std::string(name) + ": expected a block of at least " + std::to_string(fixed) +
                                       " bytes, found " + std::to_string(packed.size()));
    }
    HOLO_RETURN_IF_ERROR(DecodeScales(packed.subspan(fixed), name, scale_starts_, scales));
    ForPieces(block, tokens, stored, scales.data(), [&](std::span<std::uint8_t> to, const std::uint8_t* scale) {
      std::copy_n(scale == nullptr ? packed.data() : scale, to.size(), to.data());
      if (scale == nullptr) packed = packed.subspan(to.size());
    });
    return {};
  }

  bool AttendStored(const Place& place, const compute::AttentionRows& rows,
                    const std::uint8_t* visible) const override {
    if (rotation_ != nullptr || place.block == 0) return false;  // the first has exact tokens
    compute::AttendCodedTile(rows, Values(place.layer, place.stored), visible, place.next);
    return true;
  }

 private:
  static constexpr int kScaleOne = 160;
  // Of a group with so many bits: the step with the least error for normally distributed numbers (Max, 1960).
  static constexpr std::uint8_t kUsualScales[9] = {0, 171, 160, 148, 135, 121, 108, 94, 80};
  static constexpr float kScalesPerOctave = 16;

  // Where a token's groups lie in its record; columns are those of the key map, and of values.
  struct Records {
    std::vector<compute::CodedGroup> keys, values;
    std::size_t record_bytes = 0;
    std::size_t scale_bytes = 0;
  };

  void AddKeyMap(const BasisLayer& from, const LayerWeights& weights) {
    const std::size_t width = geometry().width();
    const std::size_t key_width = geometry().key_width();
    const std::vector<float> keys = Product(from.decoder, weights.key_weights, width, key_width);
    const std::vector<float> offset = Product(from.mean, weights.key_weights, width, key_width);
    key_maps_.push_back(compute::CodeMap::Pack(coded_.back().keys, PadHeads(keys, dims_.back()),
                                               PadHeads(offset, dims_.back())));
  }
  compute::CodedTile Values(std::size_t layer, const std::uint8_t* stored) const {
    return {stored, coded_[layer].record_bytes, coded_[layer].values, scales_.data()};
  }
  static std::size_t ExactTokens(std::size_t block, std::size_t tokens) {
    return block == 0 ? std::min(tokens, kExactTokens) : 0;
  }
  std::size_t ScaleCount(std::size_t block, std::size_t tokens) const {
    return (tokens - ExactTokens(block, tokens)) * scale_starts_.size();
  }
  // Calls work(bytes, null) for what is packed as it is, in order, and work(bytes, scale) for the scales of each token of
  // each layer, which are `scale` [tokens that are not exact, all groups].
  template <typename Byte, typename Scale, typename Work>
  void ForPieces(std::size_t block, std::size_t tokens, Byte* stored, Scale* scales, const Work& work) const {
    const std::size_t exact = ExactTokens(block, tokens);
    std::size_t column = 0;
    for (std::size_t layer = 0; layer < coded_.size(); ++layer) {
      Byte* const share = stored + offset(layer, block);
      const Records& of = coded_[layer];
      for (std::size_t token = exact; token < tokens; ++token) {
        Byte* const record = share + token * of.record_bytes;
        work(std::span(record, of.scale_bytes), scales + (token - exact) * scale_starts_.size() + column);
        work(std::span(record + of.scale_bytes, of.record_bytes - of.scale_bytes), static_cast<Scale*>(nullptr));
      }
      work(std::span(Exact(layer, share), exact * ranks_[layer] * sizeof(std::uint16_t)), static_cast<Scale*>(nullptr));
      column += of.scale_bytes;
    }
  }
  template <typename Byte>
  Byte* Exact(std::size_t layer, Byte* stored) const {
    return stored + coded_[layer].record_bytes * kBlockTokens;
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
  std::vector<std::size_t> ranks_;
  std::vector<Records> coded_;
  std::vector<std::uint8_t> scale_starts_;  // of all groups with bits
  std::vector<compute::CodeMap> key_maps_;  // with a rotation
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

  Tile Expand(std::size_t layer, std::size_t, std::size_t block, std::size_t tokens, const std::uint8_t* stored,
              float* scratch) const override {
    const auto* const numbers = reinterpret_cast<const std::int16_t*>(stored);
    const std::uint8_t* const exponents = stored + kBlockTokens * rank(layer) * sizeof(std::int16_t);
    const RotatedTile rotated = rotation_ == nullptr ? RotatedTile{} : RotatedIn(layer, scratch);
    float* const coordinates = rotation_ == nullptr ? scratch : rotated.coordinates;
    const std::size_t stride = rotation_ == nullptr ? dims_[layer] : rank(layer);
    for (std::size_t token = 0; token < tokens; ++token) {
      const float step = static_cast<float>(1u << exponents[token]) *
                         (block == 0 && token < kExactTokens ? 1 / kFineSteps : 1);
      float* const out = coordinates + token * stride;
      for (std::size_t i = 0; i < rank(layer); ++i) out[i] = static_cast<float>(numbers[token * rank(layer) + i]) * step;
      std::fill(out + rank(layer), out + stride, 0.0f);
    }
    if (rotation_ != nullptr) return FromRotated(layer, block, tokens, rotated);
    std::fill(scratch + tokens * stride, scratch + kBlockTokens * stride, 0.0f);
    return FromCoordinates(layer, scratch);
  }

  bool packs_smaller() const override { return true; }
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
        AddRotatedLayer(transposed[0], mean.first(width), transposed[1], mean.last(width), rank);
      } else {
        dims_.push_back(compute::RoundUp(rank, compute::kPanel));
        value_dims_.push_back(dims_.back());
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

  Tile Expand(std::size_t layer, std::size_t, std::size_t block, std::size_t tokens, const std::uint8_t* stored,
              float* scratch) const override {
    const std::size_t rank = ranks_[layer];
    const auto* halves = reinterpret_cast<const std::uint16_t*>(stored);
    if (rotation_ != nullptr) {
      const RotatedTile tile = RotatedIn(layer, scratch);
      compute::FromHalf(halves, tokens * 2 * rank, tile.coordinates);
      return FromRotated(layer, block, tokens, tile);
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
