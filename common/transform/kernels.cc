// The functions of transform.h with vector instructions (Google Highway), compiled once for each target and chosen when
// the program runs. Every sample is computed by the operations of plain.h in their order. With HOLO_PLAIN_KERNELS the
// plain functions are all there is.
#include <algorithm>

#include "common/transform/plain.h"

#ifdef HOLO_PLAIN_KERNELS

namespace holo::transform {

void FilterRows(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count) {
  plain::FilterRows(matrix, above, below, count);
}
float GatherPatch(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch) {
  return plain::GatherPatch(plane, x, y, patch_px, patch);
}
void Project(const Kernel& kernel, const float* patch, float* coefficients) {
  plain::Project(kernel, patch, coefficients);
}
void SynthesiseStrip(const StripShape& shape, const PatchSum* patches, float* scratch, float* out,
                     std::size_t out_stride) {
  plain::SynthesiseStrip(shape, patches, scratch, out, out_stride);
}
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out) {
  plain::StoreRow(rows, channels, ycbcr, count, out);
}
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint16_t* out) {
  plain::StoreRow(rows, channels, ycbcr, count, out);
}
void ToSmoothUnits(const float* row, float scale, std::size_t count, std::int16_t* units) {
  plain::ToSmoothUnits(row, scale, count, units);
}
void ToHalvedSmoothUnits(const float* above, const float* below, float scale, std::size_t count, std::int16_t* units) {
  plain::ToHalvedSmoothUnits(above, below, scale, count, units);
}
void DoubleSmoothUnits(const std::int16_t* units, std::size_t count, std::int16_t* doubled) {
  plain::DoubleSmoothUnits(units, count, doubled);
}
void SmoothRows(SmoothState& state, const std::int16_t* const* rows, const std::int16_t* const* limits,
                std::uint32_t count, std::int16_t* const* removed) {
  plain::SmoothRows(state, rows, limits, count, removed);
}

}  // namespace holo::transform

#else

// Vectors whose length is unknown when compiling do not fit registers that hold a patch.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/transform/kernels.cc"
#include "hwy/foreach_target.h"  // includes this file again for each target
// must come after it
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace holo::transform {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR

void Filter(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count) {
  plain::FilterRows(matrix, above, below, count);
}
void Strip(const StripShape& shape, const PatchSum* patches, float* scratch, float* out, std::size_t out_stride) {
  plain::SynthesiseStrip(shape, patches, scratch, out, out_stride);
}
float Gather(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch) {
  return plain::GatherPatch(plane, x, y, patch_px, patch);
}
void ProjectPatch(const Kernel& kernel, const float* patch, float* coefficients) {
  plain::Project(kernel, patch, coefficients);
}
void StoreRow8(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out) {
  plain::StoreRow(rows, channels, ycbcr, count, out);
}
void StoreRow16(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint16_t* out) {
  plain::StoreRow(rows, channels, ycbcr, count, out);
}
void ToUnits(const float* row, float scale, std::size_t count, std::int16_t* units) {
  plain::ToSmoothUnits(row, scale, count, units);
}
void ToHalvedUnits(const float* above, const float* below, float scale, std::size_t count, std::int16_t* units) {
  plain::ToHalvedSmoothUnits(above, below, scale, count, units);
}
void DoubleUnits(const std::int16_t* units, std::size_t count, std::int16_t* doubled) {
  plain::DoubleSmoothUnits(units, count, doubled);
}
void Smooth(SmoothState& state, const std::int16_t* const* rows, const std::int16_t* const* limits,
            std::uint32_t count, std::int16_t* const* removed) {
  plain::SmoothRows(state, rows, limits, count, removed);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

using Row = hn::CappedTag<float, 8>;  // four or eight samples
constexpr std::size_t kLanes = HWY_MIN(8, HWY_MAX_BYTES / sizeof(float));
constexpr std::size_t kRowVectors = kStripRows / kLanes;  // vectors that hold one column of a strip
static_assert(kLanes == 4 || kLanes == 8);

using RowVector = hn::Vec<Row>;

// Filters `kHalf` pairs of vectors across a border, nearest first.
template <std::size_t kHalf, class Tag>
HWY_INLINE void FilterVectors(Tag tag, const LapMatrix& matrix, hn::Vec<Tag>* above, hn::Vec<Tag>* below) {
  hn::Vec<Tag> difference[kHalf];
  for (std::size_t i = 0; i < kHalf; ++i) difference[i] = hn::Sub(above[i], below[i]);
  for (std::size_t i = 0; i < kHalf; ++i) {
    auto t = hn::Mul(hn::Set(tag, matrix.w[i][0]), difference[0]);
    for (std::size_t j = 1; j < kHalf; ++j) {
      t = hn::Add(t, hn::Mul(hn::Set(tag, matrix.w[i][j]), difference[j]));
    }
    above[i] = hn::Add(above[i], t);
    below[i] = hn::Sub(below[i], t);
  }
}

template <std::size_t kHalf, class Tag>
HWY_INLINE void FilterAt(Tag tag, const LapMatrix& matrix, float* const* above, float* const* below, std::size_t at) {
  hn::Vec<Tag> a[kHalf];
  hn::Vec<Tag> b[kHalf];
  for (std::size_t i = 0; i < kHalf; ++i) {
    a[i] = hn::LoadU(tag, above[i] + at);
    b[i] = hn::LoadU(tag, below[i] + at);
  }
  FilterVectors<kHalf>(tag, matrix, a, b);
  for (std::size_t i = 0; i < kHalf; ++i) {
    hn::StoreU(a[i], tag, above[i] + at);
    hn::StoreU(b[i], tag, below[i] + at);
  }
}

template <std::size_t kHalf>
void FilterRowPairs(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count) {
  const hn::ScalableTag<float> tag;
  const hn::CappedTag<float, 1> one;
  std::size_t x = 0;
  for (; x + hn::Lanes(tag) <= count; x += hn::Lanes(tag)) FilterAt<kHalf>(tag, matrix, above, below, x);
  for (; x < count; ++x) FilterAt<kHalf>(one, matrix, above, below, x);
}

void Filter(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count) {
  if (matrix.half == 4) return FilterRowPairs<4>(matrix, above, below, count);
  if (matrix.half == 2) return FilterRowPairs<2>(matrix, above, below, count);
  FilterRowPairs<1>(matrix, above, below, count);
}

// Across the vertical border in front of a column of a strip that lies column by column, eight samples each.
template <std::size_t kHalf>
HWY_INLINE void FilterColumns(const LapMatrix& matrix, float* column) {
  const Row tag;
  for (std::size_t part = 0; part < kRowVectors; ++part, column += kLanes) {
    RowVector before[kHalf];
    RowVector after[kHalf];
    for (std::size_t i = 0; i < kHalf; ++i) {
      before[i] = hn::Load(tag, column - (i + 1) * kStripRows);
      after[i] = hn::Load(tag, column + i * kStripRows);
    }
    FilterVectors<kHalf>(tag, matrix, before, after);
    for (std::size_t i = 0; i < kHalf; ++i) {
      hn::Store(before[i], tag, column - (i + 1) * kStripRows);
      hn::Store(after[i], tag, column + i * kStripRows);
    }
  }
}

// to[0 .. kCount * lanes): the mean and the rows, `from` being that part of row 0.
template <std::size_t kCount, class Tag>
HWY_INLINE void AddRows(Tag tag, const PatchSum& patch, const float* from, std::size_t row_stride, float* to) {
  // One by one: an array would not stay in registers.
  const auto mean = hn::Set(tag, patch.mean);
  auto s0 = mean, s1 = mean, s2 = mean, s3 = mean, s4 = mean, s5 = mean, s6 = mean, s7 = mean;
  constexpr std::size_t kStep = hn::MaxLanes(tag);
  for (const Coefficient* c = patch.first; c != patch.last; ++c) {
    const auto value = hn::Set(tag, c->value);
    const float* row = from + c->k * row_stride;
    s0 = hn::Add(s0, hn::Mul(value, hn::LoadU(tag, row)));
    if (kCount > 1) s1 = hn::Add(s1, hn::Mul(value, hn::LoadU(tag, row + kStep)));
    if (kCount > 2) s2 = hn::Add(s2, hn::Mul(value, hn::LoadU(tag, row + 2 * kStep)));
    if (kCount > 3) s3 = hn::Add(s3, hn::Mul(value, hn::LoadU(tag, row + 3 * kStep)));
    if (kCount > 4) s4 = hn::Add(s4, hn::Mul(value, hn::LoadU(tag, row + 4 * kStep)));
    if (kCount > 5) s5 = hn::Add(s5, hn::Mul(value, hn::LoadU(tag, row + 5 * kStep)));
    if (kCount > 6) s6 = hn::Add(s6, hn::Mul(value, hn::LoadU(tag, row + 6 * kStep)));
    if (kCount > 7) s7 = hn::Add(s7, hn::Mul(value, hn::LoadU(tag, row + 7 * kStep)));
  }
  hn::StoreU(s0, tag, to);
  if (kCount > 1) hn::StoreU(s1, tag, to + kStep);
  if (kCount > 2) hn::StoreU(s2, tag, to + 2 * kStep);
  if (kCount > 3) hn::StoreU(s3, tag, to + 3 * kStep);
  if (kCount > 4) hn::StoreU(s4, tag, to + 4 * kStep);
  if (kCount > 5) hn::StoreU(s5, tag, to + 5 * kStep);
  if (kCount > 6) hn::StoreU(s6, tag, to + 6 * kStep);
  if (kCount > 7) hn::StoreU(s7, tag, to + 7 * kStep);
}

// One patch into a strip that lies column by column; `to` is the patch's first sample.
template <std::size_t kPx>
HWY_INLINE void SynthesisePatch(const PatchSum& patch, std::size_t row_stride, float* to) {
  if constexpr (kPx == 8) {
    const hn::CappedTag<float, 16> tag;
    constexpr std::size_t kStep = hn::MaxLanes(tag);
    constexpr std::size_t kCount = HWY_MIN(64 / kStep, 8);  // half a patch where vectors have four lanes
    for (std::size_t d = 0; d < 64; d += kCount * kStep) {
      AddRows<kCount>(tag, patch, patch.rows + d, row_stride, to + d);
    }
  } else {
    const hn::CappedTag<float, 4> tag;
    float samples[kPx * kPx];
    AddRows<kPx * kPx / 4>(tag, patch, patch.rows, row_stride, samples);
    for (std::size_t x = 0; x < kPx; ++x) {
      for (std::size_t y = 0; y < kPx; ++y) to[x * kStripRows + y] = samples[x * kPx + y];
    }
  }
}

// Eight columns of eight samples to eight rows.
HWY_INLINE void Transpose(const float* columns, float* out, std::size_t out_stride) {
  const Row tag;
  if constexpr (kLanes == 8) {
    // Halves of a vector are transposed like vectors of four; c[i] is column i, l: of columns 0 to 3, r: 4 to 7.
    const auto load = [&](std::size_t column) HWY_ATTR { return hn::Load(tag, columns + column * kStripRows); };
    const auto quarter = [&](std::size_t first, RowVector* rows) HWY_ATTR {
      const auto c0 = load(first), c1 = load(first + 1), c2 = load(first + 2), c3 = load(first + 3);
      const auto even_low = hn::InterleaveLower(tag, c0, c2), odd_low = hn::InterleaveLower(tag, c1, c3);
      const auto even_high = hn::InterleaveUpper(tag, c0, c2), odd_high = hn::InterleaveUpper(tag, c1, c3);
      rows[0] = hn::InterleaveLower(tag, even_low, odd_low);
      rows[1] = hn::InterleaveUpper(tag, even_low, odd_low);
      rows[2] = hn::InterleaveLower(tag, even_high, odd_high);
      rows[3] = hn::InterleaveUpper(tag, even_high, odd_high);
    };
    RowVector left[4];
    RowVector right[4];
    quarter(0, left);
    quarter(4, right);
    for (std::size_t i = 0; i < 4; ++i) {
      hn::StoreU(hn::ConcatLowerLower(tag, right[i], left[i]), tag, out + i * out_stride);
      hn::StoreU(hn::ConcatUpperUpper(tag, right[i], left[i]), tag, out + (i + 4) * out_stride);
    }
  } else {
    for (std::size_t x = 0; x < 8; x += 4) {
      for (std::size_t y = 0; y < 8; y += 4) {
        const float* from = columns + x * kStripRows + y;
        const auto c0 = hn::Load(tag, from), c1 = hn::Load(tag, from + kStripRows);
        const auto c2 = hn::Load(tag, from + 2 * kStripRows), c3 = hn::Load(tag, from + 3 * kStripRows);
        const auto even_low = hn::InterleaveLower(tag, c0, c2), odd_low = hn::InterleaveLower(tag, c1, c3);
        const auto even_high = hn::InterleaveUpper(tag, c0, c2), odd_high = hn::InterleaveUpper(tag, c1, c3);
        float* to = out + y * out_stride + x;
        hn::StoreU(hn::InterleaveLower(tag, even_low, odd_low), tag, to);
        hn::StoreU(hn::InterleaveUpper(tag, even_low, odd_low), tag, to + out_stride);
        hn::StoreU(hn::InterleaveLower(tag, even_high, odd_high), tag, to + 2 * out_stride);
        hn::StoreU(hn::InterleaveUpper(tag, even_high, odd_high), tag, to + 3 * out_stride);
      }
    }
  }
}

template <std::size_t kPx, std::size_t kHalf>
void StripOf(const StripShape& shape, const LapMatrix& matrix, const PatchSum* patches, float* scratch, float* out,
             std::size_t out_stride) {
  for (std::size_t column = 0; column < shape.columns; ++column) {
    float* to = scratch + column * kPx * kStripRows;
    for (std::size_t row = 0; row < kStripRows / kPx; ++row) {
      SynthesisePatch<kPx>(patches[row * shape.columns + column], shape.row_stride, to + row * kPx);
    }
    if (column > 0 && shape.lapped) FilterColumns<kHalf>(matrix, to);
  }
  for (std::size_t x = 0; x < shape.padded_width(); x += 8) Transpose(scratch + x * kStripRows, out + x, out_stride);
}

void Strip(const StripShape& shape, const PatchSum* patches, float* scratch, float* out, std::size_t out_stride) {
  const LapMatrix& matrix = *LapInverse(shape.patch_px, shape.reduction);
  if (shape.patch_px == 8) return StripOf<8, 4>(shape, matrix, patches, scratch, out, out_stride);
  if (shape.patch_px == 4) return StripOf<4, 2>(shape, matrix, patches, scratch, out, out_stride);
  StripOf<2, 1>(shape, matrix, patches, scratch, out, out_stride);
}

float Gather(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch) {
  // Of the columns' sums the second half is added to the first until one is left: with four lanes the first step is
  // between vectors.
  const hn::CappedTag<float, 4> tag;
  const std::size_t parts = patch_px / 4;
  auto sum_low = hn::Zero(tag);
  auto sum_high = hn::Zero(tag);
  for (std::uint32_t row = 0; row < patch_px; ++row) {
    const float* from = plane.Row(y + row) + x;
    const auto low = hn::LoadU(tag, from);
    sum_low = row == 0 ? low : hn::Add(sum_low, low);
    hn::StoreU(low, tag, patch + row * patch_px);
    if (parts == 1) continue;
    const auto high = hn::LoadU(tag, from + 4);
    sum_high = row == 0 ? high : hn::Add(sum_high, high);
    hn::StoreU(high, tag, patch + row * patch_px + 4);
  }
  const auto fours = parts == 1 ? sum_low : hn::Add(sum_low, sum_high);
  const auto twos = hn::Add(fours, hn::Shuffle1032(fours));
  const float sum = hn::GetLane(hn::Add(twos, hn::Shuffle2301(twos)));
  const float mean = sum / static_cast<float>(patch_px * patch_px);
  const auto means = hn::Set(tag, mean);
  for (std::size_t d = 0; d < std::size_t{patch_px} * patch_px; d += 4) {
    hn::StoreU(hn::Sub(hn::LoadU(tag, patch + d), means), tag, patch + d);
  }
  return mean;
}

// kCount vectors of coefficients, from column `from` of the first row of the matrix on.
template <std::size_t kCount>
HWY_INLINE void ProjectOn(const float* from, std::size_t stride, std::size_t dimension, const float* patch, float* to) {
  const Row tag;
  auto s0 = hn::Zero(tag);
  auto s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  for (std::size_t d = 0; d < dimension; ++d, from += stride) {
    const auto sample = hn::Set(tag, patch[d]);
    s0 = hn::Add(s0, hn::Mul(sample, hn::LoadU(tag, from)));
    if (kCount > 1) s1 = hn::Add(s1, hn::Mul(sample, hn::LoadU(tag, from + kLanes)));
    if (kCount > 2) s2 = hn::Add(s2, hn::Mul(sample, hn::LoadU(tag, from + 2 * kLanes)));
    if (kCount > 3) s3 = hn::Add(s3, hn::Mul(sample, hn::LoadU(tag, from + 3 * kLanes)));
    if (kCount > 4) s4 = hn::Add(s4, hn::Mul(sample, hn::LoadU(tag, from + 4 * kLanes)));
    if (kCount > 5) s5 = hn::Add(s5, hn::Mul(sample, hn::LoadU(tag, from + 5 * kLanes)));
    if (kCount > 6) s6 = hn::Add(s6, hn::Mul(sample, hn::LoadU(tag, from + 6 * kLanes)));
    if (kCount > 7) s7 = hn::Add(s7, hn::Mul(sample, hn::LoadU(tag, from + 7 * kLanes)));
  }
  hn::StoreU(s0, tag, to);
  if (kCount > 1) hn::StoreU(s1, tag, to + kLanes);
  if (kCount > 2) hn::StoreU(s2, tag, to + 2 * kLanes);
  if (kCount > 3) hn::StoreU(s3, tag, to + 3 * kLanes);
  if (kCount > 4) hn::StoreU(s4, tag, to + 4 * kLanes);
  if (kCount > 5) hn::StoreU(s5, tag, to + 5 * kLanes);
  if (kCount > 6) hn::StoreU(s6, tag, to + 6 * kLanes);
  if (kCount > 7) hn::StoreU(s7, tag, to + 7 * kLanes);
}

void ProjectPatch(const Kernel& kernel, const float* patch, float* coefficients) {
  const std::size_t dimension = std::size_t{kernel.patch_px} * kernel.patch_px * kernel.channels;
  constexpr std::size_t kBlock = 8 * kLanes;
  constexpr std::size_t kSmall = 16;  // divides Kernel::stride
  float padded[kBlock];
  for (std::size_t k = 0; k < kernel.count;) {
    const bool large = k + kBlock <= kernel.stride;
    const std::size_t size = large ? kBlock : kSmall;
    float* to = k + size <= kernel.count ? coefficients + k : padded;
    if (large) {
      ProjectOn<8>(kernel.analysis.data() + k, kernel.stride, dimension, patch, to);
    } else {
      ProjectOn<kSmall / kLanes>(kernel.analysis.data() + k, kernel.stride, dimension, patch, to);
    }
    for (std::size_t i = 0; to == padded && k + i < kernel.count && i < size; ++i) coefficients[k + i] = padded[i];
    k += size;
  }
}

// Samples cut off to integers in the range of `Sample`.
template <typename Sample, class Tag>
HWY_INLINE auto CutWide(Tag tag, hn::Vec<Tag> samples) {
  const hn::Rebind<std::int32_t, Tag> integers;
  const auto largest = hn::Set(tag, static_cast<float>(static_cast<Sample>(-1)));
  return hn::ConvertTo(integers, hn::Min(hn::Max(samples, hn::Zero(tag)), largest));
}
template <typename Sample, class Tag>
HWY_INLINE auto Cut(Tag tag, hn::Vec<Tag> samples) {
  const hn::Rebind<Sample, Tag> small;
  return hn::DemoteTo(small, CutWide<Sample>(tag, samples));
}

// Red, green and blue, with half the range added, not cut off.
template <class Vector>
struct Rgb {
  Vector red, green, blue;
};
template <class Tag, class Vector = hn::Vec<Tag>>
HWY_INLINE Rgb<Vector> FromYCbCr(Tag tag, Vector luma, Vector cb, Vector cr) {
  const auto without_cr = hn::Sub(luma, hn::Mul(hn::Set(tag, kGreenOfCr), cr));
  return {hn::Add(luma, hn::Mul(hn::Set(tag, kRedOfCr), cr)),
          hn::Sub(without_cr, hn::Mul(hn::Set(tag, kGreenOfCb), cb)),
          hn::Add(luma, hn::Mul(hn::Set(tag, kBlueOfCb), cb))};
}

// A vector of row `c` from column `x` on.
template <bool kRemoves, class Tag>
HWY_INLINE hn::Vec<Tag> LoadSamples(Tag tag, const SampleRows& rows, std::size_t c, std::size_t x) {
  const auto samples = hn::LoadU(tag, rows.samples[c] + x);
  if constexpr (!kRemoves) return samples;
  const auto units = hn::LoadU(hn::Rebind<std::int16_t, Tag>(), rows.removed[c] + x);
  const auto wide = hn::PromoteTo(hn::RebindToSigned<Tag>(), units);
  return hn::Sub(samples, hn::Mul(hn::Set(tag, rows.scale), hn::ConvertTo(tag, wide)));
}

// Three or four channels, at least a vector of pixels. kUsual: three of YCbCr; only of these may anything be removed.
template <bool kUsual, bool kRemoves>
void StorePixels8(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out) {
  const hn::CappedTag<float, 16> tag;
  const hn::Rebind<std::uint32_t, decltype(tag)> pixels;
  const hn::Repartition<std::uint8_t, decltype(tag)> bytes;
  constexpr std::size_t kPixels = hn::MaxLanes(tag);
  // Three bytes of each lane, in a block of four lanes; then three lanes of each block.
  HWY_ALIGN static constexpr std::uint8_t kThree[16] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0x80, 0x80, 0x80, 0x80};
  HWY_ALIGN static constexpr std::int32_t kBlocks[16] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15};
  HWY_ALIGN static constexpr std::int32_t kTwoBlocks[8] = {0, 1, 2, 4, 5, 6, 3, 7};
  const auto three = hn::LoadDup128(bytes, kThree);
  const auto offset = hn::Set(tag, kMidAndHalf<std::uint8_t>);
  const auto cut = [&](auto samples) HWY_ATTR { return hn::BitCast(pixels, CutWide<std::uint8_t>(tag, samples)); };
  for (std::size_t x = 0; x < count; x += kPixels) {
    const std::size_t at = HWY_MIN(x, count - kPixels);  // the last ones may be written twice
    const auto load = [&](std::size_t c) HWY_ATTR { return LoadSamples<kRemoves>(tag, rows, c, at); };
    const auto first = hn::Add(load(0), offset);
    Rgb<hn::Vec<decltype(tag)>> rgb{first, load(1), load(2)};
    if (kUsual || ycbcr) {
      rgb = FromYCbCr(tag, first, rgb.green, rgb.blue);
    } else {
      rgb = {first, hn::Add(rgb.green, offset), hn::Add(rgb.blue, offset)};
    }
    auto whole = hn::Or(cut(rgb.red), hn::Or(hn::ShiftLeft<8>(cut(rgb.green)), hn::ShiftLeft<16>(cut(rgb.blue))));
    if (!kUsual && channels == 4) {
      whole = hn::Or(whole, hn::ShiftLeft<24>(cut(hn::Add(load(3), offset))));
      hn::StoreU(hn::BitCast(bytes, whole), bytes, out + 4 * at);
      continue;
    }
    auto packed = hn::BitCast(pixels, hn::TableLookupBytes(hn::BitCast(bytes, whole), three));
    if constexpr (kPixels == 16) packed = hn::TableLookupLanes(packed, hn::SetTableIndices(pixels, kBlocks));
    if constexpr (kPixels == 8) packed = hn::TableLookupLanes(packed, hn::SetTableIndices(pixels, kTwoBlocks));
    if (3 * at + 4 * kPixels <= 3 * count) {
      hn::StoreU(hn::BitCast(bytes, packed), bytes, out + 3 * at);  // what is too much the next ones overwrite
    } else {
      HWY_ALIGN std::uint8_t last[4 * kPixels];
      hn::Store(hn::BitCast(bytes, packed), bytes, last);
      std::copy_n(last, 3 * kPixels, out + 3 * at);
    }
  }
}

template <typename Sample>
void StoreRowOf(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, Sample* out);

// Takes away what is removed first, some columns at a time.
template <typename Sample>
void StoreTaken(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, Sample* out) {
  const hn::CappedTag<float, 16> tag;
  constexpr std::size_t kColumns = 64;
  HWY_ALIGN float taken[32][kColumns];
  const float* samples[32];
  for (std::size_t x = 0; x < count; x += kColumns) {
    const std::size_t size = HWY_MIN(kColumns, count - x);
    for (std::uint32_t c = 0; c < channels; ++c) {
      samples[c] = taken[c];
      std::size_t i = 0;
      for (; i + hn::Lanes(tag) <= size; i += hn::Lanes(tag)) {
        hn::Store(LoadSamples<true>(tag, rows, c, x + i), tag, taken[c] + i);
      }
      for (; i < size; ++i) {
        taken[c][i] = rows.samples[c][x + i] - rows.scale * static_cast<float>(rows.removed[c][x + i]);
      }
    }
    StoreRowOf(SampleRows{samples}, channels, ycbcr, size, out + x * channels);
  }
}

template <typename Sample>
void StoreRowOf(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, Sample* out) {
  // As many pixels as make vectors of 16 bytes.
  constexpr std::size_t kPixels = 16 / sizeof(Sample);
  const hn::CappedTag<float, kPixels> tag;
  constexpr std::size_t kPart = hn::MaxLanes(tag);
  constexpr std::size_t kParts = kPixels / kPart;
  const auto offset = hn::Set(tag, kMidAndHalf<Sample>);
  const hn::FixedTag<Sample, kPixels> whole;
  std::size_t x = 0;
  // Of bytes only single channels, and few pixels, are stored below.
  constexpr bool kBytes = sizeof(Sample) == 1;
  if constexpr (kBytes) {
    if ((channels == 3 || channels == 4) && count >= hn::MaxLanes(hn::CappedTag<float, 16>())) {
      if (channels == 3 && ycbcr) {
        return rows.removed != nullptr ? StorePixels8<true, true>(rows, channels, ycbcr, count, out)
                                       : StorePixels8<true, false>(rows, channels, ycbcr, count, out);
      }
      if (rows.removed == nullptr) return StorePixels8<false, false>(rows, channels, ycbcr, count, out);
    }
  }
  if (rows.removed != nullptr) return StoreTaken(rows, channels, ycbcr, count, out);
  if (channels == 1 || (!kBytes && (channels == 3 || channels == 4))) {
    using Whole = hn::Vec<decltype(whole)>;
    const hn::Rebind<Sample, decltype(tag)> part_tag;
    using Part = hn::Vec<decltype(part_tag)>;
    const auto join = [&](const Part* parts) HWY_ATTR -> Whole {
      if constexpr (kParts == 1) {
        return parts[0];
      } else if constexpr (kParts == 2) {
        return hn::Combine(whole, parts[1], parts[0]);
      } else {
        const hn::Half<decltype(whole)> half;
        return hn::Combine(whole, hn::Combine(half, parts[3], parts[2]), hn::Combine(half, parts[1], parts[0]));
      }
    };
    const auto load = [&](std::uint32_t c, std::size_t at) HWY_ATTR { return hn::LoadU(tag, rows.samples[c] + at); };
    for (; x + kPixels <= count; x += kPixels) {
      Part parts[4][kParts];
      for (std::size_t p = 0; p < kParts; ++p) {
        const std::size_t at = x + p * kPart;
        if (!kBytes && ycbcr) {
          const auto rgb = FromYCbCr(tag, hn::Add(load(0, at), offset), load(1, at), load(2, at));
          parts[0][p] = Cut<Sample>(tag, rgb.red);
          parts[1][p] = Cut<Sample>(tag, rgb.green);
          parts[2][p] = Cut<Sample>(tag, rgb.blue);
          if (channels == 4) parts[3][p] = Cut<Sample>(tag, hn::Add(load(3, at), offset));
        } else {
          for (std::uint32_t c = 0; c < channels; ++c) parts[c][p] = Cut<Sample>(tag, hn::Add(load(c, at), offset));
        }
      }
      Sample* to = out + x * channels;
      if (kBytes || channels == 1) {
        hn::StoreU(join(parts[0]), whole, to);
      } else if (channels == 3) {
        hn::StoreInterleaved3(join(parts[0]), join(parts[1]), join(parts[2]), whole, to);
      } else {
        hn::StoreInterleaved4(join(parts[0]), join(parts[1]), join(parts[2]), join(parts[3]), whole, to);
      }
    }
  }
  if (x == count) return;
  const float* rest[32];
  for (std::uint32_t c = 0; c < channels; ++c) rest[c] = rows.samples[c] + x;
  plain::StoreRow({rest}, channels, ycbcr, count - x, out + x * channels);
}

void StoreRow8(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out) {
  StoreRowOf(rows, channels, ycbcr, count, out);
}
void StoreRow16(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint16_t* out) {
  StoreRowOf(rows, channels, ycbcr, count, out);
}

// As plain.h's SmoothRow() has them.
template <class Vector>
HWY_INLINE void Forward4(Vector& a, Vector& b, Vector& c, Vector& d) {
  const auto s0 = hn::Add(a, b), s1 = hn::Add(c, d), d0 = hn::Sub(a, b), d1 = hn::Sub(c, d);
  a = hn::Add(s0, s1), b = hn::Sub(s0, s1), c = hn::Add(d0, d1), d = hn::Sub(d0, d1);
}
template <class Vector>
HWY_INLINE void Backward4(Vector& a, Vector& b, Vector& c, Vector& d) {
  const auto s0 = hn::Add(a, b), d0 = hn::Sub(a, b), s1 = hn::Add(c, d), d1 = hn::Sub(c, d);
  a = hn::Add(s0, s1), b = hn::Sub(s0, s1), c = hn::Add(d0, d1), d = hn::Sub(d0, d1);
}

// As plain::ToSmoothUnits() has them, twice as many as in a vector.
template <class Tag, class Vector = hn::Vec<Tag>>
HWY_INLINE void StoreUnits(Tag tag, Vector left, Vector right, std::int16_t* units) {
  const hn::Repartition<std::int16_t, Tag> narrow;
  const auto rounded = [&](Vector value) HWY_ATTR {
    const auto largest = hn::Set(tag, float{kLargestSmooth});
    const auto cut = hn::Max(hn::Neg(largest), hn::Min(largest, value));
    return hn::BitCast(narrow, hn::Add(cut, hn::Set(tag, kSmoothRounder)));
  };
  hn::StoreU(hn::ConcatEven(narrow, rounded(right), rounded(left)), narrow, units);
}

void ToUnits(const float* row, float scale, std::size_t count, std::int16_t* units) {
  const hn::CappedTag<float, 16> tag;
  const std::size_t lanes = hn::Lanes(tag);
  const auto load = [&](std::size_t at) HWY_ATTR { return hn::Mul(hn::LoadU(tag, row + at), hn::Set(tag, scale)); };
  std::size_t x = 0;
  for (; x + 2 * lanes <= count; x += 2 * lanes) StoreUnits(tag, load(x), load(x + lanes), units + x);
  plain::ToSmoothUnits(row + x, scale, count - x, units + x);
}

void ToHalvedUnits(const float* above, const float* below, float scale, std::size_t count, std::int16_t* units) {
  const hn::CappedTag<float, 16> tag;
  const std::size_t lanes = hn::Lanes(tag);
  const auto sum = [&](std::size_t at) HWY_ATTR {
    return hn::Add(hn::LoadU(tag, above + at), hn::LoadU(tag, below + at));
  };
  const auto means = [&](std::size_t at) HWY_ATTR {
    const auto left = sum(at), right = sum(at + lanes);
    const auto pairs = hn::Add(hn::ConcatEven(tag, right, left), hn::ConcatOdd(tag, right, left));
    return hn::Mul(pairs, hn::Set(tag, scale / 4));
  };
  std::size_t x = 0;
  for (; x + 4 * lanes <= count; x += 4 * lanes) StoreUnits(tag, means(x), means(x + 2 * lanes), units + x / 2);
  plain::ToHalvedSmoothUnits(above + x, below + x, scale, count - x, units + x / 2);
}

void DoubleUnits(const std::int16_t* units, std::size_t count, std::int16_t* doubled) {
  const hn::CappedTag<std::uint32_t, 16> wide;
  const hn::Rebind<std::uint16_t, decltype(wide)> narrow;
  const hn::Repartition<std::uint16_t, decltype(wide)> twice;
  const auto* from = reinterpret_cast<const std::uint16_t*>(units);
  auto* to = reinterpret_cast<std::uint16_t*>(doubled);
  const std::size_t lanes = hn::Lanes(wide);
  std::size_t x = 0;
  for (; x + lanes <= count; x += lanes) {
    const auto one = hn::PromoteTo(wide, hn::LoadU(narrow, from + x));
    hn::StoreU(hn::BitCast(twice, hn::Or(one, hn::ShiftLeft<16>(one))), twice, to + 2 * x);
  }
  plain::DoubleSmoothUnits(units + x, count - x, doubled + 2 * x);
}

// What is kept of the windows of some columns, a lane for each. In odd columns they begin a row above those of even
// ones; apart from `row`, what is said of a row is in odd lanes about the row above it, so that all lanes do the same.
template <class Vector>
struct Column {
  // The last row, transformed; sum and difference of the two last ones; what windows add to the two rows after the last
  // that is complete; that one.
  Vector row, sum, difference, next, after_next, complete;
};

void Smooth(SmoothState& smooth, const std::int16_t* const* rows, const std::int16_t* const* limits,
            std::uint32_t count, std::int16_t* const* removed) {
  const hn::CappedTag<std::int16_t, kSmoothLine> tag;
  using Vector = hn::Vec<decltype(tag)>;
  const SmoothStateAccess state(smooth);
  const std::size_t lanes = hn::Lanes(tag);
  // Of each row, four shares that windows beginning 0 to 3 columns to the left have in a sample: those of a vector,
  // behind the last of the vector before.
  HWY_ALIGN std::int16_t shares[kSmoothRows][4][2 * kSmoothLine] = {};
  for (std::size_t x = 0; x < state.windows(); x += lanes) {
    Column<Vector> columns[4];
    const auto kept = [&](std::size_t u, std::size_t i) { return state.Row(u * kSmoothColumns + i) + x; };
    for (std::size_t u = 0; u < 4; ++u) {
      const auto load = [&](std::size_t i) HWY_ATTR { return hn::Load(tag, kept(u, i)); };
      columns[u] = {load(0), load(1), load(2), load(3), load(4), load(5)};
    }
    for (std::uint32_t r = 0; r < count; r += 2) {
      Vector rows0[4], rows1[4];
      const auto forward = [&](const std::int16_t* from, Vector(&to)[4]) HWY_ATTR {
        for (std::size_t u = 0; u < 4; ++u) to[u] = hn::LoadU(tag, from + u);
        Forward4(to[0], to[1], to[2], to[3]);
      };
      forward(rows[r] + x, rows0);
      forward(rows[r + 1] + x, rows1);
      const auto limit = hn::LoadU(tag, limits[r / 2] + x);
      const auto small = [&](Vector coefficient) HWY_ATTR {
        return hn::IfThenElseZero(hn::Lt(hn::Abs(coefficient), limit), coefficient);
      };
      const auto eighth = [&](Vector row) HWY_ATTR { return hn::MulFixedPoint15(row, hn::Set(tag, 1 << 12)); };
      for (std::size_t u = 0; u < 4; ++u) {
        Column<Vector>& at = columns[u];
        const auto upper = hn::OddEven(at.row, rows0[u]), lower = hn::OddEven(rows0[u], rows1[u]);
        const auto sum = hn::Add(upper, lower), difference = hn::Sub(upper, lower);
        const auto a = u == 0 ? hn::Zero(tag) : small(hn::Add(at.sum, sum));
        const auto b = small(hn::Sub(at.sum, sum));
        const auto c = small(hn::Add(at.difference, difference));
        const auto d = small(hn::Sub(at.difference, difference));
        // The window's rows are (a + b) + (c + d), (a + b) - (c + d), (a - b) + (c - d), (a - b) - (c - d).
        const auto upper_sum = hn::Add(a, b), upper_difference = hn::Add(c, d);
        const auto lower_sum = hn::Sub(a, b), lower_difference = hn::Sub(c, d);
        const auto row0 = eighth(hn::Add(hn::Add(upper_sum, upper_difference), at.next));
        const auto row1 = eighth(hn::Add(hn::Sub(upper_sum, upper_difference), at.after_next));
        const auto row = rows1[u];
        rows0[u] = hn::OddEven(row0, at.complete);
        rows1[u] = hn::OddEven(row1, row0);
        at = {row, sum, difference, hn::Add(lower_sum, lower_difference), hn::Sub(lower_sum, lower_difference), row1};
      }
      const auto backward = [&](Vector(&from)[4], std::int16_t (*to)[2 * kSmoothLine]) HWY_ATTR {
        Backward4(from[0], from[1], from[2], from[3]);
        for (std::size_t j = 0; j < 4; ++j) hn::Store(from[j], tag, to[j] + kSmoothLine);
      };
      backward(rows0, shares[r]);
      backward(rows1, shares[r + 1]);
    }
    for (std::size_t u = 0; u < 4; ++u) {
      const Column<Vector>& at = columns[u];
      hn::Store(at.row, tag, kept(u, 0));
      hn::Store(at.sum, tag, kept(u, 1));
      hn::Store(at.difference, tag, kept(u, 2));
      hn::Store(at.next, tag, kept(u, 3));
      hn::Store(at.after_next, tag, kept(u, 4));
      hn::Store(at.complete, tag, kept(u, 5));
    }
    for (std::uint32_t r = 0; r < count; ++r) {
      std::int16_t* const from = &shares[r][0][kSmoothLine];
      const auto share = [&](std::size_t j) HWY_ATTR { return hn::LoadU(tag, from + 2 * j * kSmoothLine - j); };
      const auto two = hn::Add(share(0), share(1)), others = hn::Add(share(2), share(3));
      hn::StoreU(hn::Add(two, others), tag, removed[r] + x);
      for (std::size_t j = 1; j < 4; ++j) {
        std::copy_n(from + 2 * j * kSmoothLine + lanes - 4, 4, from + 2 * j * kSmoothLine - 4);
      }
    }
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace holo::transform
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace holo::transform {

HWY_EXPORT(Filter);
HWY_EXPORT(Strip);
HWY_EXPORT(Gather);
HWY_EXPORT(ProjectPatch);
HWY_EXPORT(StoreRow8);
HWY_EXPORT(StoreRow16);
HWY_EXPORT(ToUnits);
HWY_EXPORT(ToHalvedUnits);
HWY_EXPORT(DoubleUnits);
HWY_EXPORT(Smooth);

void FilterRows(const LapMatrix& matrix, float* const* above, float* const* below, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(Filter)(matrix, above, below, count);
}
float GatherPatch(const Plane& plane, std::uint32_t x, std::uint32_t y, std::uint32_t patch_px, float* patch) {
  return HWY_DYNAMIC_DISPATCH(Gather)(plane, x, y, patch_px, patch);
}
void Project(const Kernel& kernel, const float* patch, float* coefficients) {
  HWY_DYNAMIC_DISPATCH(ProjectPatch)(kernel, patch, coefficients);
}
void SynthesiseStrip(const StripShape& shape, const PatchSum* patches, float* scratch, float* out,
                     std::size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(Strip)(shape, patches, scratch, out, out_stride);
}
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint8_t* out) {
  HWY_DYNAMIC_DISPATCH(StoreRow8)(rows, channels, ycbcr, count, out);
}
void StoreRow(const SampleRows& rows, std::uint32_t channels, bool ycbcr, std::size_t count, std::uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(StoreRow16)(rows, channels, ycbcr, count, out);
}
void ToSmoothUnits(const float* row, float scale, std::size_t count, std::int16_t* units) {
  HWY_DYNAMIC_DISPATCH(ToUnits)(row, scale, count, units);
}
void ToHalvedSmoothUnits(const float* above, const float* below, float scale, std::size_t count, std::int16_t* units) {
  HWY_DYNAMIC_DISPATCH(ToHalvedUnits)(above, below, scale, count, units);
}
void DoubleSmoothUnits(const std::int16_t* units, std::size_t count, std::int16_t* doubled) {
  HWY_DYNAMIC_DISPATCH(DoubleUnits)(units, count, doubled);
}
void SmoothRows(SmoothState& state, const std::int16_t* const* rows, const std::int16_t* const* limits,
                std::uint32_t count, std::int16_t* const* removed) {
  HWY_DYNAMIC_DISPATCH(Smooth)(state, rows, limits, count, removed);
}

}  // namespace holo::transform
#endif  // HWY_ONCE

#endif  // HOLO_PLAIN_KERNELS
