// Keys and values as they are. One layer of a block, part (head) by part: keys [dims, 32], scales of the keys
// [dims / group, 32], values [32, dims], scales of the values [32, dims / group]. Values of 4 bits lie two in a byte: a
// row of n has its first half in the low nibbles of n / 2 bytes, its second in the high ones.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/bytes/bytes.h"
#include "common/language_model/kv_cache/kv_cache.h"

namespace holo::kv_cache {
namespace {

std::array<std::uint8_t, 32> Identity(const Geometry& geometry, Precision precision) {
  bytes::ByteWriter writer;
  writer.WriteU8(static_cast<std::uint8_t>(precision));
  writer.WriteU32(geometry.layers);
  writer.WriteU32(geometry.heads);
  writer.WriteU32(geometry.head_width);
  if (geometry.keys() != geometry.heads) writer.WriteU32(geometry.keys());
  return bytes::Sha256(writer.bytes());
}

class PlainScheme final : public Scheme {
 public:
  PlainScheme(const Geometry& geometry, Precision precision)
      : Scheme(geometry, Identity(geometry, precision)),
        precision_(precision),
        dims_(compute::RoundUp(geometry.head_width, compute::kPanel)),
        group_(dims_ % 32 == 0 ? 32 : 16) {
    const std::vector<std::size_t> bytes(geometry.layers, geometry.keys() * PartBytes());
    SetLayerBytes(bytes, bytes);
  }

  std::string name() const override { return std::string(PrecisionName(precision_)); }
  bool needs_keys_and_values() const override { return true; }
  std::size_t parts() const override { return geometry().keys(); }
  std::size_t dims(std::size_t) const override { return dims_; }

  void Write(std::size_t, std::size_t, std::size_t place, const Rows& rows, std::size_t row, const float*,
             std::uint8_t* stored) const override {
    float key[kMostDims] = {};
    float value[kMostDims] = {};
    const std::size_t head_width = geometry().head_width;
    for (std::size_t part = 0; part < parts(); ++part) {
      std::copy_n(rows.keys + row * rows.key_stride + part * head_width, head_width, key);
      std::copy_n(rows.values + row * rows.key_stride + part * head_width, head_width, value);
      std::uint8_t* at = stored + part * PartBytes();
      WriteRow(key, at, at + CodeBytes(), place, /*transposed=*/true);
      WriteRow(value, at + HalfPartBytes(), at + HalfPartBytes() + CodeBytes(), place, /*transposed=*/false);
    }
  }

  void PrepareQueries(std::size_t, std::size_t part, const float* queries, std::size_t tokens,
                      float* out) const override {
    const std::size_t head_width = geometry().head_width;
    const float scale = 1 / std::sqrt(static_cast<float>(head_width));
    for (std::size_t token = 0; token < tokens; ++token) {
      const float* from = queries + token * geometry().width() + part * heads_per_part() * head_width;
      for (std::size_t head = 0; head < heads_per_part(); ++head, from += head_width, out += dims_) {
        for (std::size_t i = 0; i < head_width; ++i) out[i] = from[i] * scale;
        for (std::size_t i = head_width; i < dims_; ++i) out[i] = 0;
      }
    }
  }

  Tile Expand(std::size_t, std::size_t part, std::size_t, std::size_t, const std::uint8_t* stored,
              float* scratch) const override {
    const compute::StoredTile tile = Stored(part, stored);
    if (precision_ == Precision::kF32) {
      return {reinterpret_cast<const float*>(tile.keys), reinterpret_cast<const float*>(tile.values)};
    }
    float* const values = scratch + dims_ * kBlockTokens;
    compute::ExpandTile(tile, scratch, values);
    return {scratch, values};
  }

  bool AttendStored(const Place& place, const compute::AttentionRows& rows,
                    const std::uint8_t* visible) const override {
    if (rows.rows > kFewRows) return false;
    const std::uint8_t* const next = place.next == nullptr ? nullptr : place.next + place.part * PartBytes();
    compute::AttendStoredTile(rows, Stored(place.part, place.stored), visible, next, PartBytes());
    return true;
  }

  void Finish(std::size_t, std::size_t part, const float* means, std::size_t tokens, float* out) const override {
    const std::size_t head_width = geometry().head_width;
    for (std::size_t token = 0; token < tokens; ++token) {
      float* to = out + token * geometry().width() + part * heads_per_part() * head_width;
      for (std::size_t head = 0; head < heads_per_part(); ++head, means += dims_, to += head_width) {
        std::copy_n(means, head_width, to);
      }
    }
  }

  static constexpr std::size_t kMostDims = compute::kMostTileDims;
  // As many rows are quicker where a tile lies than where it was expanded to.
  static constexpr std::size_t kFewRows = 2;

 private:
  compute::StoredTile Stored(std::size_t part, const std::uint8_t* stored) const {
    constexpr compute::TileType kTypes[] = {compute::TileType::kF32, compute::TileType::kF16, compute::TileType::kInt8,
                                            compute::TileType::kInt4};
    compute::StoredTile tile;
    tile.type = kTypes[static_cast<std::size_t>(precision_)];
    tile.dims = dims_;
    tile.group = group_;
    tile.keys = stored + part * PartBytes();
    tile.values = tile.keys + HalfPartBytes();
    if (quantised()) {
      tile.key_scales = reinterpret_cast<const std::uint16_t*>(tile.keys + CodeBytes());
      tile.value_scales = reinterpret_cast<const std::uint16_t*>(tile.values + CodeBytes());
    }
    return tile;
  }
  bool quantised() const { return precision_ == Precision::kInt8 || precision_ == Precision::kInt4; }
  std::size_t CodeBytes() const {
    constexpr std::size_t kBits[] = {32, 16, 8, 4};
    return dims_ * kBlockTokens * kBits[static_cast<std::size_t>(precision_)] / 8;
  }
  std::size_t HalfPartBytes() const { return CodeBytes() + (quantised() ? dims_ / group_ * kBlockTokens * 2 : 0); }
  std::size_t PartBytes() const { return 2 * HalfPartBytes(); }

  void WriteRow(const float* row, std::uint8_t* codes, std::uint8_t* scales, std::size_t place, bool transposed) const {
    const auto index = [&](std::size_t i) { return transposed ? i * kBlockTokens + place : place * dims_ + i; };
    if (precision_ == Precision::kF32) {
      for (std::size_t i = 0; i < dims_; ++i) reinterpret_cast<float*>(codes)[index(i)] = row[i];
      return;
    }
    if (precision_ == Precision::kF16) {
      std::uint16_t halves[kMostDims];
      compute::ToHalf(row, dims_, halves);
      for (std::size_t i = 0; i < dims_; ++i) reinterpret_cast<std::uint16_t*>(codes)[index(i)] = halves[i];
      return;
    }
    const std::size_t groups = dims_ / group_;
    for (std::size_t group = 0; group < groups; ++group) {
      const float* from = row + group * group_;
      const auto extreme =
          *std::max_element(from, from + group_, [](float a, float b) { return std::abs(a) < std::abs(b); });
      // The scale is rounded first, so that the codes fit the one that is stored. Of -8..7 the extreme takes -8.
      const float exact = precision_ == Precision::kInt8 ? std::abs(extreme) / 127 : -extreme / 8;
      std::uint16_t half = 0;
      float scale = 0;
      compute::ToHalf(&exact, 1, &half);
      compute::FromHalf(&half, 1, &scale);
      reinterpret_cast<std::uint16_t*>(scales)[transposed ? group * kBlockTokens + place : place * groups + group] =
          half;
      const float inverse = scale != 0 ? 1 / scale : 0;
      for (std::size_t i = 0; i < group_; ++i) {
        const float code = std::nearbyint(from[i] * inverse);
        if (precision_ == Precision::kInt8) {
          codes[index(group * group_ + i)] =
              static_cast<std::uint8_t>(static_cast<std::int8_t>(std::clamp(code, -127.0f, 127.0f)));
        } else {
          const auto nibble = static_cast<std::uint8_t>(std::clamp(code, -8.0f, 7.0f) + 8);
          WriteNibble(codes, group * group_ + i, place, transposed, nibble);
        }
      }
    }
  }

  void WriteNibble(std::uint8_t* codes, std::size_t i, std::size_t place, bool transposed, std::uint8_t nibble) const {
    const std::size_t length = transposed ? kBlockTokens : dims_;
    const std::size_t row = transposed ? i : place;
    const std::size_t at = transposed ? place : i;
    std::uint8_t& byte = codes[row * length / 2 + at % (length / 2)];
    byte = static_cast<std::uint8_t>(at < length / 2 ? (byte & 0xF0) | nibble : (byte & 0x0F) | nibble << 4);
  }

  Precision precision_;
  std::size_t dims_;
  std::size_t group_;
};

}  // namespace

std::string_view PrecisionName(Precision precision) {
  constexpr std::string_view kNames[] = {"fp32", "fp16", "int8", "int4"};
  return kNames[static_cast<std::size_t>(precision)];
}

Result<std::shared_ptr<const Scheme>> MakePlainScheme(const Geometry& geometry, Precision precision) {
  if (geometry.heads % std::max(1u, geometry.keys()) != 0) {
    return Fail(Code::kInvalidArgument, "cache: expected heads of keys that divide the " +
                                            std::to_string(geometry.heads) + " of queries, found " +
                                            std::to_string(geometry.keys()));
  }
  if (geometry.layers == 0 || geometry.heads == 0 || geometry.head_width == 0 ||
      geometry.head_width > PlainScheme::kMostDims) {
    return Fail(Code::kInvalidArgument, "cache: expected layers, heads and a head width of 1 to " +
                                            std::to_string(PlainScheme::kMostDims) + ", found " +
                                            std::to_string(geometry.layers) + ", " + std::to_string(geometry.heads) +
                                            ", " + std::to_string(geometry.head_width));
  }
  return std::make_shared<PlainScheme>(geometry, precision);
}

}  // namespace holo::kv_cache
