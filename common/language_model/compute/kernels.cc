// The functions of plain.h with vector instructions (Google Highway), compiled once for each target and chosen when the
// program runs. With HOLO_PLAIN_KERNELS the plain functions are all there is.
#include "common/language_model/compute/plain.h"

#ifdef HOLO_PLAIN_KERNELS

namespace holo::compute {

void MultiplyPanelsOnAny(const PanelJob& job) {
  plain::MultiplyPanels(job);
}
void MultiplyPanels(const PanelJob& job) {
  plain::MultiplyPanels(job);
}
void RoundToInt8(const float* from, std::size_t inputs, std::int8_t* codes, float* scales, std::int32_t* offsets) {
  plain::RoundToInt8(from, inputs, codes, scales, offsets);
}
void NormaliseRow(const float* x, std::size_t width, float epsilon, const float* gain, const float* bias, float* out) {
  plain::NormaliseRow(x, width, epsilon, gain, bias, out);
}
void Gelu(float* x, std::size_t count) {
  plain::Gelu(x, count);
}
void GateBySilu(const float* gates, const float* values, std::size_t count, float* out) {
  plain::GateBySilu(gates, values, count, out);
}
void AttendTile(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible) {
  plain::AttendTile(rows, keys, values, visible);
}
void JoinAttention(const AttentionRows& rows, const AttentionRows& later) {
  plain::JoinAttention(rows, later);
}
void ToHalf(const float* values, std::size_t count, std::uint16_t* out) {
  plain::ToHalf(values, count, out);
}
void FromHalf(const std::uint16_t* values, std::size_t count, float* out) {
  plain::FromHalf(values, count, out);
}
void ExpandTile(const StoredTile& tile, float* keys, float* values) {
  plain::ExpandTile(tile, keys, values);
}
void AttendStoredTile(const AttentionRows& rows, const StoredTile& tile, const std::uint8_t* visible,
                      const std::uint8_t*, std::size_t) {
  float keys[kMostTileDims * kTileTokens];
  float values[kMostTileDims * kTileTokens];
  plain::ExpandTile(tile, keys, values);
  plain::AttendTile(rows, keys, values, visible);
}
void ExpandPlanes(const std::uint8_t* codes, unsigned bits, float scale, float* out) {
  plain::ExpandPlanes(codes, bits, scale, out);
}
void AttendCodedTile(const AttentionRows& rows, const CodedTile& tile, const std::uint8_t* visible,
                     const std::uint8_t*) {
  plain::AttendCodedTile(rows, tile, visible);
}
void ExpandCodedTile(const CodedTile& tile, std::size_t columns, float* out) {
  plain::ExpandCodedTile(tile, columns, out);
}
void MapCodedTileOnAny(const CodeMap& map, const CodedTile& tile, float* out) {
  plain::MapCodedTile(map, tile, out);
}
void MapCodedTile(const CodeMap& map, const CodedTile& tile, float* out) {
  plain::MapCodedTile(map, tile, out);
}
void TurnTile(const float* cosines, const float* sines, std::size_t pairs, float* rows) {
  plain::TurnTile(cosines, sines, pairs, rows);
}
void TransposeTile(const float* in, std::size_t columns, float* out) {
  plain::TransposeTile(in, columns, out);
}
std::string_view KernelName() {
  return "plain";
}

}  // namespace holo::compute

#else

#include <algorithm>
#include <cmath>
#include <cstring>

// Vectors whose length is unknown when compiling do not fit arrays of registers.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/language_model/compute/kernels.cc"
#include "hwy/foreach_target.h"  // includes this file again for each target
// must come after it
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace holo::compute {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR

void Panels(const PanelJob& job) {
  plain::MultiplyPanels(job);
}
void RoundBlocks(const float* from, std::size_t inputs, std::int8_t* codes, float* scales, std::int32_t* offsets) {
  plain::RoundToInt8(from, inputs, codes, scales, offsets);
}
void Normalise(const float* x, std::size_t width, float epsilon, const float* gain, const float* bias, float* out) {
  plain::NormaliseRow(x, width, epsilon, gain, bias, out);
}
void GeluVectors(float* x, std::size_t count) {
  plain::Gelu(x, count);
}
void SiluVectors(const float* gates, const float* values, std::size_t count, float* out) {
  plain::GateBySilu(gates, values, count, out);
}
void Attend(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible) {
  plain::AttendTile(rows, keys, values, visible);
}
void Join(const AttentionRows& rows, const AttentionRows& later) {
  plain::JoinAttention(rows, later);
}
void HalfFrom(const float* values, std::size_t count, std::uint16_t* out) {
  plain::ToHalf(values, count, out);
}
void HalfTo(const std::uint16_t* values, std::size_t count, float* out) {
  plain::FromHalf(values, count, out);
}
void TileExpanded(const StoredTile& tile, float* keys, float* values) {
  plain::ExpandTile(tile, keys, values);
}
void AttendStored(const AttentionRows& rows, const StoredTile& tile, const std::uint8_t* visible, const std::uint8_t*,
                  std::size_t) {
  float keys[kMostTileDims * kTileTokens];
  float values[kMostTileDims * kTileTokens];
  plain::ExpandTile(tile, keys, values);
  plain::AttendTile(rows, keys, values, visible);
}
void Planes(const std::uint8_t* codes, unsigned bits, float scale, float* out) {
  plain::ExpandPlanes(codes, bits, scale, out);
}
void AttendCoded(const AttentionRows& rows, const CodedTile& tile, const std::uint8_t* visible, const std::uint8_t*) {
  plain::AttendCodedTile(rows, tile, visible);
}
void ExpandCoded(const CodedTile& tile, std::size_t columns, float* out) {
  plain::ExpandCodedTile(tile, columns, out);
}
void MapCoded(const CodeMap& map, const CodedTile& tile, bool, float* out) {
  plain::MapCodedTile(map, tile, out);
}
void Turn(const float* cosines, const float* sines, std::size_t pairs, float* rows) {
  plain::TurnTile(cosines, sines, pairs, rows);
}
void Transpose(const float* in, std::size_t columns, float* out) {
  plain::TransposeTile(in, columns, out);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// A panel is one vector of AVX-512, and several on every other target.
using F32 = hn::CappedTag<float, kPanel>;
using EightF32 = hn::CappedTag<float, 8>;
using I32 = hn::RebindToSigned<F32>;
using I16 = hn::Repartition<std::int16_t, I32>;
using VF = hn::Vec<F32>;
using VI = hn::Vec<I32>;
constexpr std::size_t kLanes = hn::MaxLanes(F32());
constexpr std::size_t kVectors = kPanel / kLanes;
// What is multiplied together: 16 of AVX-512's 32 registers hold sums, 12 of AVX2's 16.
constexpr bool kManyRegisters = kVectors == 1;
constexpr std::size_t kMostRows = kManyRegisters ? 8 : 6;
constexpr std::size_t kPanelsOfRows = kManyRegisters ? 2 : 1;

HWY_INLINE void StoreVector(VF sum, float* y, Store store) {
  const F32 d;
  hn::StoreU(store == Store::kAdd ? hn::Add(hn::LoadU(d, y), sum) : sum, d, y);
}

// Sixteen sums to a row of y, of which `outputs` are there.
HWY_INLINE void StorePanel(const VF* sums, const float* bias, std::size_t outputs, Store store, float* y) {
  const F32 d;
  float padded[kPanel];
  float* to = outputs < kPanel ? padded : y;
  if (outputs < kPanel) {
    std::fill(padded, padded + kPanel, 0.0f);
    std::copy(y, y + outputs, padded);
  }
  for (std::size_t v = 0; v < kVectors; ++v) {
    StoreVector(hn::Add(sums[v], hn::LoadU(d, bias + v * kLanes)), to + v * kLanes, store);
  }
  if (outputs < kPanel) std::copy(padded, padded + outputs, y);
}

// What will be read soon, fetched bit by bit: `step` bytes in every turn of the innermost loop.
struct Ahead {
  const char* next = nullptr;
  std::size_t step = 0;
};

// kRows rows of x by kPanels panels. Few rows alone would wait for their own sums, hence several panels.
template <std::size_t kRows, std::size_t kPanels>
HWY_INLINE void FloatBlock(const PanelJob& job, std::size_t panel, std::size_t row, Ahead& ahead) {
  const F32 d;
  const Matrix& matrix = *job.matrix;
  const std::size_t inputs = matrix.inputs();
  const auto* HWY_RESTRICT weights = reinterpret_cast<const float*>(matrix.Panel(panel));
  const float* HWY_RESTRICT x = job.x + row * job.x_stride;
  VF sums[kRows][kPanels][kVectors];
  for (auto& of_row : sums) {
    for (auto& of_panel : of_row) {
      for (VF& sum : of_panel) sum = hn::Zero(d);
    }
  }
  const char* next = ahead.next;
  for (std::size_t i = 0; i < inputs; ++i) {
    if constexpr (kRows == kMostRows) {
      // Into the second cache: the first has no room for a group.
      __builtin_prefetch(next, 0, 2);
      __builtin_prefetch(next + ahead.step / 2, 0, 2);
      next += ahead.step;
    }
    VF loaded[kPanels][kVectors];
    for (std::size_t p = 0; p < kPanels; ++p) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        loaded[p][v] = hn::LoadU(d, weights + (i * kPanelsTogether + p) * kPanel + v * kLanes);
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const VF value = hn::Set(d, x[r * job.x_stride + i]);
      for (std::size_t p = 0; p < kPanels; ++p) {
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][p][v] = hn::MulAdd(value, loaded[p][v], sums[r][p][v]);
      }
    }
  }
  ahead.next = next;
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t p = 0; p < kPanels; ++p) {
      const std::size_t output = (panel + p) * kPanel;
      StorePanel(sums[r][p], matrix.bias().data() + output, std::min(kPanel, matrix.outputs() - output), job.store,
                 job.y + (row + r) * job.y_stride + output);
    }
  }
}

// Weights and rows in pairs of bf16, which are the upper and lower halves of 32 bits.
template <std::size_t kRows, std::size_t kPanels>
HWY_INLINE void Bf16Block(const PanelJob& job, std::size_t panel, std::size_t row) {
  const F32 d;
  const hn::RebindToUnsigned<F32> u32;
  const auto odd_half = hn::Set(u32, 0xFFFF0000u);
  const Matrix& matrix = *job.matrix;
  const std::size_t inputs = RoundUp(matrix.inputs(), 2);
  const std::uint32_t* HWY_RESTRICT weights = matrix.Panel(panel);
  const std::uint16_t* HWY_RESTRICT x = job.bf16 + row * inputs;
  VF sums[kRows][kPanels][kVectors];
  for (auto& of_row : sums) {
    for (auto& of_panel : of_row) {
      for (VF& sum : of_panel) sum = hn::Zero(d);
    }
  }
  for (std::size_t i = 0; i < inputs / 2; ++i) {
    VF even[kPanels][kVectors];
    VF odd[kPanels][kVectors];
    for (std::size_t p = 0; p < kPanels; ++p) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        const auto pair = hn::LoadU(u32, weights + (i * kPanelsTogether + p) * kPanel + v * kLanes);
        even[p][v] = hn::BitCast(d, hn::ShiftLeft<16>(pair));
        odd[p][v] = hn::BitCast(d, hn::And(pair, odd_half));
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      std::uint32_t pair = 0;
      std::memcpy(&pair, x + r * inputs + 2 * i, sizeof(pair));
      const VF first = hn::BitCast(d, hn::Set(u32, pair << 16));
      const VF second = hn::BitCast(d, hn::Set(u32, pair & 0xFFFF0000u));
      for (std::size_t p = 0; p < kPanels; ++p) {
        for (std::size_t v = 0; v < kVectors; ++v) {
          sums[r][p][v] = hn::MulAdd(second, odd[p][v], hn::MulAdd(first, even[p][v], sums[r][p][v]));
        }
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t p = 0; p < kPanels; ++p) {
      const std::size_t output = (panel + p) * kPanel;
      StorePanel(sums[r][p], matrix.bias().data() + output, std::min(kPanel, matrix.outputs() - output), job.store,
                 job.y + (row + r) * job.y_stride + output);
    }
  }
}

template <std::size_t kRows, std::size_t kPanels>
HWY_INLINE void Int8Block(const PanelJob& job, std::size_t panel, std::size_t row) {
  const F32 d;
  const I32 i32;
  const I16 i16;
  const hn::RebindToUnsigned<I16> u16;
  const hn::RebindToUnsigned<I32> u32;
  constexpr std::size_t kUnits = kInt8Block / 4;
  const Matrix& matrix = *job.matrix;
  const std::size_t units = matrix.units();
  const std::size_t blocks = Int8Blocks(matrix.inputs());
  const std::uint32_t* HWY_RESTRICT weights = matrix.Panel(panel);
  const std::int8_t* HWY_RESTRICT x = job.codes + row * 4 * units;
  const float* HWY_RESTRICT scales = job.scales + row * blocks;
  const std::int32_t* HWY_RESTRICT offsets = job.offsets + row * blocks;
  VF sums[kRows][kPanels][kVectors];
  for (auto& of_row : sums) {
    for (auto& of_panel : of_row) {
      for (VF& sum : of_panel) sum = hn::Zero(d);
    }
  }
  for (std::size_t block = 0; block < blocks; ++block) {
    // Some targets put products of even and odd positions into two sums.
    VI even[kRows][kPanels][kVectors];
    VI odd[kRows][kPanels][kVectors];
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t p = 0; p < kPanels; ++p) {
        for (std::size_t v = 0; v < kVectors; ++v) {
          even[r][p][v] = hn::Set(i32, offsets[r * blocks + block]);
          odd[r][p][v] = hn::Zero(i32);
        }
      }
    }
    for (std::size_t i = block * kUnits; i < std::min(units, (block + 1) * kUnits); ++i) {
      // Of the four bytes of a unit, the first and third, and the second and fourth.
      hn::Vec<I16> low[kPanels][kVectors];
      hn::Vec<I16> high[kPanels][kVectors];
      for (std::size_t p = 0; p < kPanels; ++p) {
        for (std::size_t v = 0; v < kVectors; ++v) {
          const auto unit = hn::BitCast(u16, hn::LoadU(u32, weights + (i * kPanelsTogether + p) * kPanel + v * kLanes));
          low[p][v] = hn::BitCast(i16, hn::And(unit, hn::Set(u16, 0xFF)));
          high[p][v] = hn::BitCast(i16, hn::ShiftRight<8>(unit));
        }
      }
      for (std::size_t r = 0; r < kRows; ++r) {
        const std::int8_t* of_row = x + (r * units + i) * 4;
        const auto pair = [&](std::size_t first) HWY_ATTR {
          const auto lower = static_cast<std::uint16_t>(of_row[first]);
          const auto upper = static_cast<std::uint16_t>(of_row[first + 2]);
          return hn::BitCast(i16, hn::Set(u32, lower | std::uint32_t{upper} << 16));
        };
        const hn::Vec<I16> low_pair = pair(0);
        const hn::Vec<I16> high_pair = pair(1);
        for (std::size_t p = 0; p < kPanels; ++p) {
          for (std::size_t v = 0; v < kVectors; ++v) {
            VI& into = even[r][p][v];
            into = hn::ReorderWidenMulAccumulate(i32, low_pair, low[p][v], into, odd[r][p][v]);
            into = hn::ReorderWidenMulAccumulate(i32, high_pair, high[p][v], into, odd[r][p][v]);
          }
        }
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const VF scale = hn::Set(d, scales[r * blocks + block]);
      for (std::size_t p = 0; p < kPanels; ++p) {
        for (std::size_t v = 0; v < kVectors; ++v) {
          const VI sum = hn::RearrangeToOddPlusEven(even[r][p][v], odd[r][p][v]);
          sums[r][p][v] = hn::MulAdd(hn::ConvertTo(d, sum), scale, sums[r][p][v]);
        }
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t p = 0; p < kPanels; ++p) {
      const std::size_t output = (panel + p) * kPanel;
      for (std::size_t v = 0; v < kVectors; ++v) {
        sums[r][p][v] = hn::Mul(sums[r][p][v], hn::LoadU(d, matrix.scales().data() + output + v * kLanes));
      }
      StorePanel(sums[r][p], matrix.bias().data() + output, std::min(kPanel, matrix.outputs() - output), job.store,
                 job.y + (row + r) * job.y_stride + output);
    }
  }
}

template <std::size_t kRows, std::size_t kPanels>
HWY_INLINE void Block(const PanelJob& job, std::size_t panel, std::size_t row, Ahead& ahead) {
  switch (job.matrix->type()) {
    case WeightType::kF32:
      return FloatBlock<kRows, kPanels>(job, panel, row, ahead);
    case WeightType::kBf16:
      return Bf16Block<kRows, kPanels>(job, panel, row);
    case WeightType::kInt8:
      return Int8Block<kRows, kPanels>(job, panel, row);
  }
}

// All rows by kPanels panels, the most rows that fit at a time.
template <std::size_t kPanels>
void Rows(const PanelJob& job, std::size_t panel, Ahead& ahead) {
  std::size_t row = 0;
  for (; row + kMostRows <= job.rows; row += kMostRows) Block<kMostRows, kPanels>(job, panel, row, ahead);
  for (; row + 4 <= job.rows; row += 4) Block<4, kPanels>(job, panel, row, ahead);
  switch (job.rows - row) {
    case 1:
      return Block<1, kPanels>(job, panel, row, ahead);
    case 2:
      return Block<2, kPanels>(job, panel, row, ahead);
    case 3:
      return Block<3, kPanels>(job, panel, row, ahead);
    default:
      return;
  }
}

void Panels(const PanelJob& job) {
  std::size_t panel = job.first;
  Ahead ahead;
  if (job.rows == 1) {
    for (; panel + kPanelsTogether <= job.last; panel += kPanelsTogether) {
      Block<1, kPanelsTogether>(job, panel, 0, ahead);
    }
  }
  const std::size_t blocks = job.rows / kMostRows;
  for (; panel + kPanelsOfRows <= job.last; panel += kPanelsOfRows) {
    if (panel % kPanelsTogether == 0 && blocks > 0) {
      ahead.next = reinterpret_cast<const char*>(job.matrix->Panel(panel)) + job.matrix->group_bytes();
      // Every unit of a group is met by each block of rows, a part of the group's panels at a time.
      ahead.step = kPanelsOfRows * kPanel * sizeof(float) / blocks;
    }
    Rows<kPanelsOfRows>(job, panel, ahead);
  }
  for (; panel < job.last; ++panel) Rows<1>(job, panel, ahead);
}

void RoundBlocks(const float* from, std::size_t inputs, std::int8_t* codes, float* scales, std::int32_t* offsets) {
  const F32 d;
  const hn::Rebind<std::int8_t, F32> i8;
  std::size_t first = 0;
  for (; first + kInt8Block <= inputs; first += kInt8Block) {
    VF most = hn::Zero(d);
    for (std::size_t i = first; i < first + kInt8Block; i += kLanes) {
      most = hn::Max(most, hn::Abs(hn::LoadU(d, from + i)));
    }
    const float largest = hn::GetLane(hn::MaxOfLanes(d, most));
    const VF inverse = hn::Set(d, largest > 0 ? kCodeMax / largest : 0.0f);
    VI sum = hn::Zero(I32());
    for (std::size_t i = first; i < first + kInt8Block; i += kLanes) {
      const VI code = hn::NearestInt(hn::Mul(hn::LoadU(d, from + i), inverse));
      hn::StoreU(hn::DemoteTo(i8, code), i8, codes + i);
      sum = hn::Add(sum, code);
    }
    *scales++ = largest / kCodeMax;
    *offsets++ = -128 * hn::GetLane(hn::SumOfLanes(I32(), sum));
  }
  plain::RoundToInt8(from + first, inputs - first, codes + first, scales, offsets);
}

// Sums of kPanel lanes in double: of term(vector of doubles), or term(one double) behind the last whole panel.
template <typename Vectors, typename One>
HWY_INLINE double SumInLanes(const float* x, std::size_t width, const Vectors& of_vector, const One& of_one) {
  const hn::CappedTag<double, kPanel> d;
  constexpr std::size_t kDoubles = hn::MaxLanes(hn::CappedTag<double, kPanel>());
  const hn::Rebind<float, decltype(d)> narrow;
  hn::Vec<decltype(d)> sums[kPanel / kDoubles];
  for (auto& sum : sums) sum = hn::Zero(d);
  std::size_t i = 0;
  for (; i + kPanel <= width; i += kPanel) {
    for (std::size_t v = 0; v < kPanel / kDoubles; ++v) {
      sums[v] = hn::Add(sums[v], of_vector(hn::PromoteTo(d, hn::LoadU(narrow, x + i + v * kDoubles))));
    }
  }
  HWY_ALIGN double lanes[kPanel];
  for (std::size_t v = 0; v < kPanel / kDoubles; ++v) hn::Store(sums[v], d, lanes + v * kDoubles);
  for (; i < width; ++i) lanes[i % kPanel] += of_one(double{x[i]});
  for (std::size_t step = kPanel / 2; step > 0; step /= 2) {
    for (std::size_t lane = 0; lane < step; ++lane) lanes[lane] += lanes[lane + step];
  }
  return lanes[0];
}

void Normalise(const float* x, std::size_t width, float epsilon, const float* gain, const float* bias, float* out) {
  const hn::CappedTag<double, kPanel> wide;
  using VD = hn::Vec<decltype(wide)>;
  const double sum = SumInLanes(
      x, width, [](VD value) HWY_ATTR { return value; }, [](double value) { return value; });
  const double mean = sum / static_cast<double>(width);
  const VD means = hn::Set(wide, mean);
  const double squares = SumInLanes(
      x, width,
      [&](VD value) HWY_ATTR {
        const VD difference = hn::Sub(value, means);
        return hn::Mul(difference, difference);
      },
      [&](double value) { return (value - mean) * (value - mean); });
  const auto centre = static_cast<float>(mean);
  const auto scale = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(width) + epsilon));
  const F32 d;
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    VF value = hn::Mul(hn::Sub(hn::LoadU(d, x + i), hn::Set(d, centre)), hn::Set(d, scale));
    if (gain != nullptr) value = hn::Add(hn::Mul(value, hn::LoadU(d, gain + i)), hn::LoadU(d, bias + i));
    hn::StoreU(value, d, out + i);
  }
  for (; i < width; ++i) {
    out[i] = (x[i] - centre) * scale;
    if (gain != nullptr) out[i] = out[i] * gain[i] + bias[i];
  }
}

void GeluVectors(float* x, std::size_t count) {
  const F32 d;
  // 0.5 (1 + tanh u) = 1 / (1 + exp(-2 u))
  const VF scale = hn::Set(d, -2 * 0.7978845608028654f);
  const VF cubic = hn::Set(d, 0.044715f);
  const VF one = hn::Set(d, 1.0f);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const VF value = hn::LoadU(d, x + i);
    const VF inner = hn::Mul(value, hn::MulAdd(hn::Mul(value, value), cubic, one));
    // exp overflows beyond 88.7; x / (1 + exp(88)) is as good as 0.
    const VF power = hn::Min(hn::Mul(scale, inner), hn::Set(d, 88.0f));
    hn::StoreU(hn::Div(value, hn::Add(one, hn::Exp(d, power))), d, x + i);
  }
}

void SiluVectors(const float* gates, const float* values, std::size_t count, float* out) {
  const F32 d;
  const VF one = hn::Set(d, 1.0f);
  // Exp knows no argument below -88 or so that is not 0, and overflows above.
  const auto gated = [&](VF gate, VF value) HWY_ATTR {
    const VF power = hn::Clamp(hn::Neg(gate), hn::Set(d, -88.0f), hn::Set(d, 88.0f));
    return hn::Mul(hn::Div(gate, hn::Add(one, hn::Exp(d, power))), value);
  };
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(gated(hn::LoadU(d, gates + i), hn::LoadU(d, values + i)), d, out + i);
  }
  if (i == count) return;
  float padded[2][kLanes] = {};
  std::copy(gates + i, gates + count, padded[0]);
  std::copy(values + i, values + count, padded[1]);
  hn::StoreU(gated(hn::LoadU(d, padded[0]), hn::LoadU(d, padded[1])), d, padded[0]);
  std::copy(padded[0], padded[0] + (count - i), out + i);
}

// out [kRows][kPanels * 16] (+)= x [kRows, inputs] by as many columns of `columns`, whose rows are `stride` apart.
template <std::size_t kRows, std::size_t kPanels>
HWY_INLINE void SmallBlock(const float* HWY_RESTRICT x, std::size_t x_stride, const float* HWY_RESTRICT columns,
                           std::size_t stride, std::size_t inputs, float* HWY_RESTRICT out, std::size_t out_stride,
                           bool add) {
  const F32 d;
  constexpr std::size_t kAll = kPanels * kVectors;
  VF sums[kRows][kAll];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kAll; ++v) {
      sums[r][v] = add ? hn::LoadU(d, out + r * out_stride + v * kLanes) : hn::Zero(d);
    }
  }
  for (std::size_t i = 0; i < inputs; ++i) {
    VF loaded[kAll];
    for (std::size_t v = 0; v < kAll; ++v) loaded[v] = hn::LoadU(d, columns + i * stride + v * kLanes);
    for (std::size_t r = 0; r < kRows; ++r) {
      const VF value = hn::Set(d, x[r * x_stride + i]);
      for (std::size_t v = 0; v < kAll; ++v) sums[r][v] = hn::MulAdd(value, loaded[v], sums[r][v]);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kAll; ++v) hn::StoreU(sums[r][v], d, out + r * out_stride + v * kLanes);
  }
}

// All rows by kPanels * 16 columns from `column` on.
template <std::size_t kPanels>
HWY_INLINE void SmallRows(const float* x, std::size_t rows, std::size_t inputs, const float* columns, std::size_t count,
                          float* out, std::size_t column, bool add) {
  std::size_t row = 0;
  const auto block = [&]<std::size_t kRows>() HWY_ATTR {
    for (; row + kRows <= rows; row += kRows) {
      SmallBlock<kRows, kPanels>(x + row * inputs, inputs, columns + column, count, inputs,
                                 out + row * count + column, count, add);
    }
  };
  block.template operator()<6>();
  block.template operator()<3>();
  block.template operator()<2>();
  block.template operator()<1>();
}

// out [rows, columns] (+)= x [rows, inputs] by columns [inputs, columns].
HWY_INLINE void SmallProduct(const float* x, std::size_t rows, std::size_t inputs, const float* columns,
                             std::size_t count, float* out, bool add) {
  std::size_t column = 0;
  if (rows == 1) {
    // One row alone would wait for its own sums, hence several panels.
    for (; column + 4 * kPanel <= count; column += 4 * kPanel) {
      SmallBlock<1, 4>(x, inputs, columns + column, count, inputs, out + column, count, add);
    }
  }
  for (; column + kPanelsOfRows * kPanel <= count; column += kPanelsOfRows * kPanel) {
    SmallRows<kPanelsOfRows>(x, rows, inputs, columns, count, out, column, add);
  }
  for (; column < count; column += kPanel) SmallRows<1>(x, rows, inputs, columns, count, out, column, add);
}

// Scores of one row become weights; its largest, its total and its sums follow.
HWY_INLINE void WeighRow(const AttentionRows& rows, std::size_t row, std::uint8_t visible) {
  const F32 d;
  float* weights = rows.weights + row * kTileTokens;
  if (visible == 0) {
    std::fill(weights, weights + kTileTokens, 0.0f);
    return;
  }
  const auto seen = static_cast<float>(visible);
  const VF lowest = hn::Set(d, -3.0e38f);
  VF most = lowest;
  for (std::size_t token = 0; token < kTileTokens; token += kLanes) {
    const auto in_sight = hn::Lt(hn::Iota(d, static_cast<float>(token)), hn::Set(d, seen));
    most = hn::Max(most, hn::IfThenElse(in_sight, hn::LoadU(d, weights + token), lowest));
  }
  const float largest = std::max(rows.largest[row], hn::GetLane(hn::MaxOfLanes(d, most)));
  const VF offset = hn::Set(d, largest);
  VF total = hn::Zero(d);
  for (std::size_t token = 0; token < kTileTokens; token += kLanes) {
    const auto in_sight = hn::Lt(hn::Iota(d, static_cast<float>(token)), hn::Set(d, seen));
    // Exp knows no argument below -88 or so that is not 0.
    const VF score = hn::Max(hn::Sub(hn::LoadU(d, weights + token), offset), hn::Set(d, -100.0f));
    const VF weight = hn::IfThenElseZero(in_sight, hn::Exp(d, score));
    hn::StoreU(weight, d, weights + token);
    total = hn::Add(total, weight);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, total));
  if (largest == rows.largest[row]) {
    rows.total[row] += sum;
    return;
  }
  const float shrink = std::exp(rows.largest[row] - largest);
  rows.largest[row] = largest;
  rows.total[row] = rows.total[row] * shrink + sum;
  const std::size_t dims = rows.sum_dims();
  float* sums = rows.sums + row * dims;
  for (std::size_t i = 0; i < dims; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, sums + i), hn::Set(d, shrink)), d, sums + i);
  }
}

void Attend(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible) {
  const std::size_t of_set = rows.rows / rows.key_sets;
  for (std::size_t set = 0; set < rows.key_sets; ++set) {
    SmallProduct(rows.queries + set * of_set * rows.dims, of_set, rows.dims, keys + set * rows.dims * kTileTokens,
                 kTileTokens, rows.weights + set * of_set * kTileTokens, /*add=*/false);
  }
  for (std::size_t row = 0; row < rows.rows; ++row) WeighRow(rows, row, visible[row]);
  SmallProduct(rows.weights, rows.rows, kTileTokens, values, rows.sum_dims(), rows.sums, /*add=*/true);
}

void Join(const AttentionRows& rows, const AttentionRows& later) {
  const F32 d;
  const std::size_t dims = rows.sum_dims();
  for (std::size_t row = 0; row < rows.rows; ++row) {
    if (later.total[row] == 0) continue;
    const float largest = std::max(rows.largest[row], later.largest[row]);
    const float of_own = std::exp(rows.largest[row] - largest);
    const float of_later = std::exp(later.largest[row] - largest);
    rows.largest[row] = largest;
    rows.total[row] = rows.total[row] * of_own + later.total[row] * of_later;
    float* HWY_RESTRICT sums = rows.sums + row * dims;
    const float* HWY_RESTRICT added = later.sums + row * dims;
    for (std::size_t i = 0; i < dims; i += kLanes) {
      const VF scaled = hn::Mul(hn::LoadU(d, added + i), hn::Set(d, of_later));
      hn::StoreU(hn::MulAdd(hn::LoadU(d, sums + i), hn::Set(d, of_own), scaled), d, sums + i);
    }
  }
}

void HalfFrom(const float* values, std::size_t count, std::uint16_t* out) {
  const F32 d;
  const hn::Rebind<hwy::float16_t, F32> f16;
  const hn::RebindToUnsigned<decltype(f16)> u16;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(hn::BitCast(u16, hn::DemoteTo(f16, hn::LoadU(d, values + i))), u16, out + i);
  }
  plain::ToHalf(values + i, count - i, out + i);
}

void HalfTo(const std::uint16_t* values, std::size_t count, float* out) {
  const F32 d;
  const hn::Rebind<hwy::float16_t, F32> f16;
  const hn::RebindToUnsigned<decltype(f16)> u16;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(hn::PromoteTo(d, hn::BitCast(f16, hn::LoadU(u16, values + i))), d, out + i);
  }
  plain::FromHalf(values + i, count - i, out + i);
}

// One kind of stored numbers: a vector of them from row `row` of `length` numbers, at `i`, a multiple of kLanes.
struct TileF32 {
  static constexpr bool kScaled = false;
  static HWY_INLINE VF Load(const std::uint8_t* from, std::size_t row, std::size_t length, std::size_t i) {
    return hn::LoadU(F32(), reinterpret_cast<const float*>(from) + row * length + i);
  }
};
HWY_INLINE VF LoadHalf(const std::uint16_t* from) {
  const hn::Rebind<hwy::float16_t, F32> f16;
  const hn::RebindToUnsigned<decltype(f16)> u16;
  return hn::PromoteTo(F32(), hn::BitCast(f16, hn::LoadU(u16, from)));
}
struct TileF16 {
  static constexpr bool kScaled = false;
  static HWY_INLINE VF Load(const std::uint8_t* from, std::size_t row, std::size_t length, std::size_t i) {
    return LoadHalf(reinterpret_cast<const std::uint16_t*>(from) + row * length + i);
  }
};
struct TileInt8 {
  static constexpr bool kScaled = true;
  static HWY_INLINE VF Load(const std::uint8_t* from, std::size_t row, std::size_t length, std::size_t i) {
    const hn::Rebind<std::int8_t, F32> i8;
    const auto code = hn::LoadU(i8, reinterpret_cast<const std::int8_t*>(from) + row * length + i);
    return hn::ConvertTo(F32(), hn::PromoteTo(I32(), code));
  }
};
// For rows whose halves are whole vectors.
struct TileInt4 {
  static constexpr bool kScaled = true;
  static HWY_INLINE VF Load(const std::uint8_t* from, std::size_t row, std::size_t length, std::size_t i) {
    const hn::Rebind<std::uint8_t, F32> u8;
    const I32 i32;
    const std::size_t half = length / 2;
    const auto pair = hn::PromoteTo(i32, hn::LoadU(u8, from + row * half + i % half));
    const auto code = i < half ? hn::And(pair, hn::Set(i32, 15)) : hn::ShiftRight<4>(pair);
    return hn::ConvertTo(F32(), hn::Sub(code, hn::Set(i32, 8)));
  }
};

constexpr std::size_t kTileVectors = kTileTokens / kLanes;

// The scales of values, one for each token and group.
HWY_INLINE void LoadValueScales(const StoredTile& tile, float* scales) {
  const std::size_t count = kTileTokens * (tile.dims / tile.group);
  for (std::size_t i = 0; i < count; i += kLanes) hn::StoreU(LoadHalf(tile.value_scales + i), F32(), scales + i);
}

template <typename Kind>
void ExpandKind(const StoredTile& tile, float* HWY_RESTRICT keys, float* HWY_RESTRICT values) {
  const F32 d;
  const std::size_t dims = tile.dims;
  VF key_scales[kTileVectors];
  HWY_ALIGN float value_scales[Kind::kScaled ? kTileTokens * kMostTileDims / kPanel : kLanes];
  if constexpr (Kind::kScaled) LoadValueScales(tile, value_scales);
  for (std::size_t i = 0; i < dims; ++i) {
    if (Kind::kScaled && i % tile.group == 0) {
      for (std::size_t v = 0; v < kTileVectors; ++v) {
        key_scales[v] = LoadHalf(tile.key_scales + i / tile.group * kTileTokens + v * kLanes);
      }
    }
    for (std::size_t v = 0; v < kTileVectors; ++v) {
      VF key = Kind::Load(tile.keys, i, kTileTokens, v * kLanes);
      if constexpr (Kind::kScaled) key = hn::Mul(key, key_scales[v]);
      hn::StoreU(key, d, keys + i * kTileTokens + v * kLanes);
    }
  }
  for (std::size_t token = 0; token < kTileTokens; ++token) {
    for (std::size_t i = 0; i < dims; i += kLanes) {
      VF value = Kind::Load(tile.values, token, dims, i);
      if constexpr (Kind::kScaled) {
        value = hn::Mul(value, hn::Set(d, value_scales[token * (dims / tile.group) + i / tile.group]));
      }
      hn::StoreU(value, d, values + token * dims + i);
    }
  }
}

HWY_INLINE void PrefetchSpan(const std::uint8_t* from, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) hwy::Prefetch(from + i);
}

// Columns `column` .. + kPanels * 16 of one row's sums, from the first `tokens` tokens in order.
template <typename Kind, std::size_t kPanels>
HWY_INLINE void AddValues(const StoredTile& tile, const float* HWY_RESTRICT weights, const float* HWY_RESTRICT scales,
                          std::size_t tokens, std::size_t column, float* HWY_RESTRICT sums, const std::uint8_t* next,
                          std::size_t step) {
  const F32 d;
  constexpr std::size_t kAll = kPanels * kVectors;
  const std::size_t groups = Kind::kScaled ? tile.dims / tile.group : 1;
  VF of_columns[kAll];
  std::size_t group[kAll];
  for (std::size_t v = 0; v < kAll; ++v) {
    of_columns[v] = hn::LoadU(d, sums + column + v * kLanes);
    group[v] = Kind::kScaled ? (column + v * kLanes) / tile.group : 0;
  }
  for (std::size_t token = 0; token < tokens; ++token) {
    const VF weight = hn::Set(d, weights[token]);
    if (next != nullptr) PrefetchSpan(next + token * step, step);
    for (std::size_t v = 0; v < kAll; ++v) {
      const std::size_t i = column + v * kLanes;
      VF value = Kind::Load(tile.values, token, tile.dims, i);
      if constexpr (Kind::kScaled) value = hn::Mul(value, hn::Set(d, scales[token * groups + group[v]]));
      of_columns[v] = hn::MulAdd(weight, value, of_columns[v]);
    }
  }
  for (std::size_t v = 0; v < kAll; ++v) hn::StoreU(of_columns[v], d, sums + column + v * kLanes);
}

template <typename Kind>
void AttendKind(const AttentionRows& rows, const StoredTile& tile, const std::uint8_t* visible,
                const std::uint8_t* next, std::size_t next_bytes) {
  const F32 d;
  const std::size_t dims = tile.dims;
  HWY_ALIGN float value_scales[Kind::kScaled ? kTileTokens * kMostTileDims / kPanel : kLanes];
  if constexpr (Kind::kScaled) LoadValueScales(tile, value_scales);
  // Keys and values fetch half of what comes next each, spread over their loops.
  const std::size_t key_step = next_bytes / 2 / dims;
  const std::size_t value_step = next_bytes / 2 / kTileTokens;
  for (std::size_t row = 0; row < rows.rows; ++row) {
    const float* HWY_RESTRICT query = rows.queries + row * dims;
    float* HWY_RESTRICT weights = rows.weights + row * kTileTokens;
    VF scores[kTileVectors];
    VF scales[kTileVectors];
    for (VF& score : scores) score = hn::Zero(d);
    if (visible[row] == 0) continue;
    for (std::size_t i = 0; i < dims; ++i) {
      if (Kind::kScaled && i % tile.group == 0) {
        for (std::size_t v = 0; v < kTileVectors; ++v) {
          scales[v] = LoadHalf(tile.key_scales + i / tile.group * kTileTokens + v * kLanes);
        }
      }
      if (next != nullptr) PrefetchSpan(next + i * key_step, key_step);
      const VF factor = hn::Set(d, query[i]);
      for (std::size_t v = 0; v < kTileVectors; ++v) {
        VF key = Kind::Load(tile.keys, i, kTileTokens, v * kLanes);
        if constexpr (Kind::kScaled) key = hn::Mul(key, scales[v]);
        scores[v] = hn::MulAdd(factor, key, scores[v]);
      }
    }
    for (std::size_t v = 0; v < kTileVectors; ++v) hn::StoreU(scores[v], d, weights + v * kLanes);
    WeighRow(rows, row, visible[row]);
    float* sums = rows.sums + row * dims;
    const std::uint8_t* next_values = next == nullptr ? nullptr : next + next_bytes / 2;
    std::size_t column = 0;
    for (; column + 4 * kPanel <= dims; column += 4 * kPanel, next_values = nullptr) {
      AddValues<Kind, 4>(tile, weights, value_scales, visible[row], column, sums, next_values, value_step);
    }
    for (; column < dims; column += kPanel, next_values = nullptr) {
      AddValues<Kind, 1>(tile, weights, value_scales, visible[row], column, sums, next_values, value_step);
    }
    next = nullptr;
  }
}

// Halves of rows that are no whole vectors.
bool IsOdd(const StoredTile& tile) {
  return tile.type == TileType::kInt4 && tile.dims / 2 % kLanes != 0;
}

void TileExpanded(const StoredTile& tile, float* keys, float* values) {
  if (IsOdd(tile)) return plain::ExpandTile(tile, keys, values);
  switch (tile.type) {
    case TileType::kF32:
      return ExpandKind<TileF32>(tile, keys, values);
    case TileType::kF16:
      return ExpandKind<TileF16>(tile, keys, values);
    case TileType::kInt8:
      return ExpandKind<TileInt8>(tile, keys, values);
    case TileType::kInt4:
      return ExpandKind<TileInt4>(tile, keys, values);
  }
}

void AttendStored(const AttentionRows& rows, const StoredTile& tile, const std::uint8_t* visible,
                  const std::uint8_t* next, std::size_t next_bytes) {
  if (IsOdd(tile)) {
    HWY_ALIGN float keys[kMostTileDims * kTileTokens];
    HWY_ALIGN float values[kMostTileDims * kTileTokens];
    plain::ExpandTile(tile, keys, values);
    return Attend(rows, keys, values, visible);
  }
  switch (tile.type) {
    case TileType::kF32:
      return AttendKind<TileF32>(rows, tile, visible, next, next_bytes);
    case TileType::kF16:
      return AttendKind<TileF16>(rows, tile, visible, next, next_bytes);
    case TileType::kInt8:
      return AttendKind<TileInt8>(rows, tile, visible, next, next_bytes);
    case TileType::kInt4:
      return AttendKind<TileInt4>(rows, tile, visible, next, next_bytes);
  }
}

using U8 = hn::CappedTag<std::uint8_t, kPlaneCodes>;
constexpr std::size_t kBytes = hn::MaxLanes(U8());

// kPlaneCodes codes of planes as a byte each.
HWY_INLINE void JoinPlanes(const std::uint8_t* HWY_RESTRICT codes, unsigned bits, std::uint8_t* HWY_RESTRICT out) {
  const U8 u8;
  const hn::Repartition<std::uint16_t, U8> u16;
  const hn::Repartition<std::uint32_t, U8> u32;
  const hn::Rebind<std::uint8_t, decltype(u16)> half;
  const hn::Rebind<std::uint8_t, decltype(u32)> quarter;
  for (std::size_t first = 0; first < kPlaneCodes; first += kBytes) {
    const std::uint8_t* from = codes;
    auto value = hn::Zero(u16);
    if ((bits & 8) != 0) {
      value = hn::BitCast(u16, hn::LoadU(u8, from + first));
      from += 32;
    }
    if ((bits & 4) != 0) {
      const auto two = hn::PromoteTo(u16, hn::LoadU(half, from + first / 2));
      const auto part = hn::And(hn::Or(two, hn::ShiftLeft<4>(two)), hn::Set(u16, 0x0F0F));
      value = hn::Or(hn::ShiftLeft<4>(value), part);  // no code reaches into the next byte
      from += 16;
    }
    if ((bits & 2) != 0) {
      const auto four = hn::PromoteTo(u32, hn::LoadU(quarter, from + first / 4));
      const auto pairs = hn::Or(four, hn::ShiftLeft<12>(four));
      const auto part = hn::And(hn::Or(pairs, hn::ShiftLeft<6>(pairs)), hn::Set(u32, 0x03030303));
      value = hn::Or(hn::ShiftLeft<2>(value), hn::BitCast(u16, part));
      from += 8;
    }
    if ((bits & 1) != 0) {
      std::uint32_t word = 0;
      std::memcpy(&word, from + first / 8, kBytes / 8);
      alignas(32) static constexpr std::uint8_t kByte[32] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
                                                             2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3};
      alignas(32) static constexpr std::uint8_t kBit[32] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128,
                                                            1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
      const auto spread = hn::TableLookupBytes(hn::BitCast(u8, hn::Set(u32, word)), hn::Load(u8, kByte));
      const auto part = hn::IfThenElseZero(hn::TestBit(spread, hn::Load(u8, kBit)), hn::Set(u8, 1));
      value = hn::Or(hn::Add(value, value), hn::BitCast(u16, part));
    }
    hn::StoreU(hn::BitCast(u8, value), u8, out + first);
  }
}

HWY_INLINE VF FloatCodes(const std::uint8_t* codes, VF middle) {
  const hn::Rebind<std::uint8_t, F32> u8;
  return hn::Sub(hn::ConvertTo(F32(), hn::PromoteTo(I32(), hn::LoadU(u8, codes))), middle);
}

void Planes(const std::uint8_t* codes, unsigned bits, float scale, float* out) {
  const F32 d;
  HWY_ALIGN std::uint8_t bytes[kPlaneCodes];
  JoinPlanes(codes, bits, bytes);
  const VF middle = hn::Set(d, static_cast<float>((1u << bits) - 1) / 2);
  for (std::size_t i = 0; i < kPlaneCodes; i += kLanes) {
    hn::StoreU(hn::Mul(FloatCodes(bytes + i, middle), hn::Set(d, scale)), d, out + i);
  }
}

// out [32, 32] = in [32, 32] transposed.
HWY_INLINE void TransposeBytes(const std::uint8_t* HWY_RESTRICT in, std::uint8_t* HWY_RESTRICT out) {
  const hn::FixedTag<std::uint8_t, 16> d;
  using V = hn::Vec<decltype(d)>;
  for (std::size_t row = 0; row < 32; row += 16) {
    for (std::size_t column = 0; column < 32; column += 16) {
      V a[16];
      V b[16];
      for (std::size_t i = 0; i < 16; ++i) a[i] = hn::LoadU(d, in + (row + i) * 32 + column);
      // Each turn moves every byte's row and column on by one bit: after four they have changed places.
      const auto shuffle = [&](const V* from, V* to) HWY_ATTR {
        for (std::size_t i = 0; i < 8; ++i) {
          to[2 * i] = hn::InterleaveLower(d, from[i], from[i + 8]);
          to[2 * i + 1] = hn::InterleaveUpper(d, from[i], from[i + 8]);
        }
      };
      shuffle(a, b);
      shuffle(b, a);
      shuffle(a, b);
      shuffle(b, a);
      for (std::size_t i = 0; i < 16; ++i) hn::StoreU(a[i], d, out + (column + i) * 32 + row);
    }
  }
}

// One group of a tile: its codes, a row for each token, and its scales.
template <unsigned kBits>
void JoinRows(const std::uint8_t* HWY_RESTRICT codes, const std::uint8_t* HWY_RESTRICT of_scales,
              std::size_t record_bytes, const float* HWY_RESTRICT table, std::uint8_t* HWY_RESTRICT out,
              float* HWY_RESTRICT scales) {
  for (std::size_t token = 0; token < kTileTokens; ++token) {
    JoinPlanes(codes + token * record_bytes, kBits, out + token * kPlaneCodes);
    scales[token] = table[of_scales[token * record_bytes]];
  }
}

// numbers = codes - middle.
HWY_INLINE void Centre(const std::uint8_t* HWY_RESTRICT codes, unsigned bits, float* HWY_RESTRICT numbers) {
  const F32 d;
  const VF middle = hn::Set(d, static_cast<float>((1u << bits) - 1) / 2);
  for (std::size_t i = 0; i < kTileTokens * kPlaneCodes; i += kLanes) {
    hn::StoreU(FloatCodes(codes + i, middle), d, numbers + i);
  }
}

// kRows rows' scores of one group are added to their weights.
template <std::size_t kRows>
HWY_INLINE void AddScores(const AttentionRows& rows, std::size_t row, std::size_t first, const float* HWY_RESTRICT numbers,
                          const float* HWY_RESTRICT scales, bool add) {
  const F32 d;
  const float* HWY_RESTRICT queries = rows.queries + row * rows.dims + first;
  float* HWY_RESTRICT weights = rows.weights + row * kTileTokens;
  constexpr std::size_t kAtOnce = kPanelsOfRows * kVectors;
  for (std::size_t token = 0; token < kTileTokens; token += kAtOnce * kLanes) {
    VF sums[kRows][kAtOnce];
    for (auto& of_row : sums) {
      for (VF& sum : of_row) sum = hn::Zero(d);
    }
    for (std::size_t i = 0; i < kPlaneCodes; ++i) {
      VF keys[kAtOnce];
      for (std::size_t v = 0; v < kAtOnce; ++v) keys[v] = hn::LoadU(d, numbers + i * kTileTokens + token + v * kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        const VF query = hn::Set(d, queries[r * rows.dims + i]);
        for (std::size_t v = 0; v < kAtOnce; ++v) sums[r][v] = hn::MulAdd(query, keys[v], sums[r][v]);
      }
    }
    for (std::size_t v = 0; v < kAtOnce; ++v) {
      const VF scale = hn::LoadU(d, scales + token + v * kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        float* const to = weights + r * kTileTokens + token + v * kLanes;
        hn::StoreU(hn::MulAdd(sums[r][v], scale, add ? hn::LoadU(d, to) : hn::Zero(d)), d, to);
      }
    }
  }
}

// kRows rows' means of one group's values are added to their sums.
template <std::size_t kRows>
HWY_INLINE void AddMeans(const AttentionRows& rows, std::size_t row, std::size_t first, const float* HWY_RESTRICT numbers,
                         const float* HWY_RESTRICT scales) {
  const F32 d;
  const float* HWY_RESTRICT weights = rows.weights + row * kTileTokens;
  float* HWY_RESTRICT sums = rows.sums + row * rows.dims + first;
  HWY_ALIGN float scaled[kRows * kTileTokens];
  for (std::size_t token = 0; token < kTileTokens; token += kLanes) {
    const VF scale = hn::LoadU(d, scales + token);
    for (std::size_t r = 0; r < kRows; ++r) {
      hn::StoreU(hn::Mul(hn::LoadU(d, weights + r * kTileTokens + token), scale), d, scaled + r * kTileTokens + token);
    }
  }
  for (std::size_t i = 0; i < kPlaneCodes; i += kPanelsOfRows * kPanel) {
    SmallBlock<kRows, kPanelsOfRows>(scaled, kTileTokens, numbers + i, kPlaneCodes, kTileTokens, sums + i, rows.dims,
                                     /*add=*/true);
  }
}

// The group's codes, a row of bytes for each token, and its scales.
HWY_INLINE void JoinGroup(const CodedTile& tile, const CodedGroup& group, std::uint8_t* codes, float* scales) {
  static constexpr decltype(&JoinRows<1>) kJoin[] = {&JoinRows<1>, &JoinRows<2>, &JoinRows<3>, &JoinRows<4>,
                                                     &JoinRows<5>, &JoinRows<6>, &JoinRows<7>, &JoinRows<8>};
  kJoin[group.bits - 1](tile.records + group.codes_at, tile.records + group.scale_at, tile.record_bytes, tile.scales,
                        codes, scales);
}

void AttendCoded(const AttentionRows& rows, const CodedTile& tile, const std::uint8_t* visible,
                 const std::uint8_t* next) {
  static_assert(kTileTokens == 32 && kPlaneCodes == 32);
  // Of so many groups what the keys needed is kept for the values.
  constexpr std::size_t kKept = 16;
  HWY_ALIGN std::uint8_t all_codes[kKept * kTileTokens * kPlaneCodes];
  HWY_ALIGN float all_scales[kKept * kTileTokens];
  HWY_ALIGN std::uint8_t transposed[kTileTokens * kPlaneCodes];
  HWY_ALIGN float numbers[kTileTokens * kPlaneCodes];
  const std::size_t groups = tile.groups.size();
  const auto join = [&](std::size_t group) HWY_ATTR {
    JoinGroup(tile, tile.groups[group], all_codes + group % kKept * kTileTokens * kPlaneCodes,
              all_scales + group % kKept * kTileTokens);
  };
  const auto by_rows = [&](const auto& six, const auto& two, const auto& one) HWY_ATTR {
    std::size_t row = 0;
    for (; row + 6 <= rows.rows; row += 6) six(row);
    for (; row + 2 <= rows.rows; row += 2) two(row);
    for (; row < rows.rows; ++row) one(row);
  };
  const std::size_t step = kTileTokens * tile.record_bytes / groups / 2;
  for (std::size_t group = 0; group < groups; ++group) {
    if (next != nullptr) PrefetchSpan(next + group * step, step);
    join(group);
    const float* const scales = all_scales + group % kKept * kTileTokens;
    TransposeBytes(all_codes + group % kKept * kTileTokens * kPlaneCodes, transposed);
    Centre(transposed, tile.groups[group].bits, numbers);
    const std::size_t first = tile.groups[group].column;
    const bool add = group > 0;
    by_rows([&](std::size_t row) HWY_ATTR { AddScores<6>(rows, row, first, numbers, scales, add); },
            [&](std::size_t row) HWY_ATTR { AddScores<2>(rows, row, first, numbers, scales, add); },
            [&](std::size_t row) HWY_ATTR { AddScores<1>(rows, row, first, numbers, scales, add); });
  }
  for (std::size_t row = 0; row < rows.rows; ++row) WeighRow(rows, row, visible[row]);
  for (std::size_t group = 0; group < groups; ++group) {
    if (next != nullptr) PrefetchSpan(next + (groups + group) * step, step);
    if (groups > kKept) join(group);
    const float* const scales = all_scales + group % kKept * kTileTokens;
    Centre(all_codes + group % kKept * kTileTokens * kPlaneCodes, tile.groups[group].bits, numbers);
    const std::size_t first = tile.groups[group].column;
    by_rows([&](std::size_t row) HWY_ATTR { AddMeans<6>(rows, row, first, numbers, scales); },
            [&](std::size_t row) HWY_ATTR { AddMeans<2>(rows, row, first, numbers, scales); },
            [&](std::size_t row) HWY_ATTR { AddMeans<1>(rows, row, first, numbers, scales); });
  }
}

void ExpandCoded(const CodedTile& tile, std::size_t columns, float* out) {
  const F32 d;
  HWY_ALIGN std::uint8_t codes[kTileTokens * kPlaneCodes];
  HWY_ALIGN float scales[kTileTokens];
  for (const CodedGroup& group : tile.groups) {
    JoinGroup(tile, group, codes, scales);
    const VF middle = hn::Set(d, static_cast<float>((1u << group.bits) - 1) / 2);
    for (std::size_t token = 0; token < kTileTokens; ++token) {
      const VF scale = hn::Set(d, scales[token]);
      float* const to = out + token * columns + group.column;
      for (std::size_t i = 0; i < kPlaneCodes; i += kLanes) {
        hn::StoreU(hn::Mul(FloatCodes(codes + token * kPlaneCodes + i, middle), scale), d, to + i);
      }
    }
  }
}

// MapByDotProducts() in the instructions of every target.
void MapGroups(const MapJob& job) {
  const F32 d;
  const I32 i32;
  const I16 i16;
  const hn::RebindToUnsigned<I16> u16;
  const hn::RebindToUnsigned<I32> u32;
  constexpr std::size_t kUnits = kPlaneCodes / 4;
  const CodeMap& map = *job.map;
  for (std::size_t output = 0; output < map.outputs(); ++output) {
    float* const out = job.out + output * kTileTokens;
    VF sums[kTileVectors];
    for (std::size_t v = 0; v < kTileVectors; ++v) {
      sums[v] = job.first == 0 ? hn::Set(d, map.offset()[output]) : hn::LoadU(d, out + v * kLanes);
    }
    for (std::size_t group = 0; group < job.count; ++group) {
      const std::size_t four = output / 4 * map.groups() + job.first + group;
      const std::int8_t* const weights = map.weights() + four * kPlaneCodes * 4 + output % 4 * 4;
      const auto* const codes = reinterpret_cast<const std::uint32_t*>(job.codes + group * kTileTokens * kPlaneCodes);
      VI even[kTileVectors];
      VI odd[kTileVectors];
      for (std::size_t v = 0; v < kTileVectors; ++v) even[v] = odd[v] = hn::Zero(i32);
      for (std::size_t unit = 0; unit < kUnits; ++unit) {
        const auto pair = [&](std::size_t first) HWY_ATTR {
          const auto lower = static_cast<std::uint16_t>(weights[unit * 16 + first]);
          const auto upper = static_cast<std::uint16_t>(weights[unit * 16 + first + 2]);
          return hn::BitCast(i16, hn::Set(u32, lower | std::uint32_t{upper} << 16));
        };
        const hn::Vec<I16> low_pair = pair(0);
        const hn::Vec<I16> high_pair = pair(1);
        for (std::size_t v = 0; v < kTileVectors; ++v) {
          // Of the four codes of a unit, the first and third, and the second and fourth.
          const auto of_unit = hn::BitCast(u16, hn::LoadU(u32, codes + unit * kTileTokens + v * kLanes));
          const auto low = hn::BitCast(i16, hn::And(of_unit, hn::Set(u16, 0xFF)));
          const auto high = hn::BitCast(i16, hn::ShiftRight<8>(of_unit));
          even[v] = hn::ReorderWidenMulAccumulate(i32, low_pair, low, even[v], odd[v]);
          even[v] = hn::ReorderWidenMulAccumulate(i32, high_pair, high, even[v], odd[v]);
        }
      }
      const VF centre = hn::Set(d, map.centres()[four * 4 + output % 4]);
      const VF scale = hn::Set(d, map.scales()[four * 4 + output % 4]);
      for (std::size_t v = 0; v < kTileVectors; ++v) {
        const VF sum = hn::ConvertTo(d, hn::RearrangeToOddPlusEven(even[v], odd[v]));
        sums[v] = hn::MulAdd(hn::Mul(hn::Add(sum, centre), scale),
                             hn::LoadU(d, job.scales + group * kTileTokens + v * kLanes), sums[v]);
      }
    }
    for (std::size_t v = 0; v < kTileVectors; ++v) hn::StoreU(sums[v], d, out + v * kLanes);
  }
}

void Transpose(const float* in, std::size_t columns, float* out) {
  const hn::CappedTag<float, 4> d;
  for (std::size_t token = 0; token < kTileTokens; token += 4) {
    for (std::size_t i = 0; i < columns; i += 4) {
      const float* from = in + token * columns + i;
      const auto a = hn::LoadU(d, from);
      const auto b = hn::LoadU(d, from + columns);
      const auto c = hn::LoadU(d, from + 2 * columns);
      const auto e = hn::LoadU(d, from + 3 * columns);
      const auto ab_low = hn::InterleaveLower(d, a, b);
      const auto ab_high = hn::InterleaveUpper(d, a, b);
      const auto ce_low = hn::InterleaveLower(d, c, e);
      const auto ce_high = hn::InterleaveUpper(d, c, e);
      float* to = out + i * kTileTokens + token;
      hn::StoreU(hn::ConcatLowerLower(d, ce_low, ab_low), d, to);
      hn::StoreU(hn::ConcatUpperUpper(d, ce_low, ab_low), d, to + kTileTokens);
      hn::StoreU(hn::ConcatLowerLower(d, ce_high, ab_high), d, to + 2 * kTileTokens);
      hn::StoreU(hn::ConcatUpperUpper(d, ce_high, ab_high), d, to + 3 * kTileTokens);
    }
  }
}

void MapCoded(const CodeMap& map, const CodedTile& tile, bool by_dot_products, float* out) {
  HWY_ALIGN std::uint8_t codes[kMapGroups * kTileTokens * kPlaneCodes];
  HWY_ALIGN float scales[kMapGroups * kTileTokens];
  HWY_ALIGN std::uint8_t rows[kTileTokens * kPlaneCodes];
  MapJob job;
  job.map = &map;
  job.codes = codes;
  job.scales = scales;
  job.out = out;
  for (; job.first < map.groups(); job.first += job.count) {
    job.count = std::min(kMapGroups, map.groups() - job.first);
    for (std::size_t i = 0; i < job.count; ++i) {
      JoinGroup(tile, tile.groups[job.first + i], rows, scales + i * kTileTokens);
      // Four codes have the size of a float.
      Transpose(reinterpret_cast<const float*>(rows), kPlaneCodes / 4,
                     reinterpret_cast<float*>(codes + i * kTileTokens * kPlaneCodes));
    }
    by_dot_products ? MapByDotProducts(job) : MapGroups(job);
  }
}

void Turn(const float* cosines, const float* sines, std::size_t pairs, float* rows) {
  const F32 d;
  float* const second = rows + pairs * kTileTokens;
  for (std::size_t i = 0; i < pairs * kTileTokens; i += kLanes) {
    const VF a = hn::LoadU(d, rows + i);
    const VF b = hn::LoadU(d, second + i);
    const VF cosine = hn::LoadU(d, cosines + i);
    const VF sine = hn::LoadU(d, sines + i);
    hn::StoreU(hn::Sub(hn::Mul(a, cosine), hn::Mul(b, sine)), d, rows + i);
    hn::StoreU(hn::Add(hn::Mul(a, sine), hn::Mul(b, cosine)), d, second + i);
  }
}

#endif

const char* Name() {
  return hwy::TargetName(HWY_TARGET);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace holo::compute
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace holo::compute {

HWY_EXPORT(Panels);
HWY_EXPORT(RoundBlocks);
HWY_EXPORT(Normalise);
HWY_EXPORT(GeluVectors);
HWY_EXPORT(SiluVectors);
HWY_EXPORT(Attend);
HWY_EXPORT(Join);
HWY_EXPORT(HalfFrom);
HWY_EXPORT(HalfTo);
HWY_EXPORT(TileExpanded);
HWY_EXPORT(AttendStored);
HWY_EXPORT(Planes);
HWY_EXPORT(AttendCoded);
HWY_EXPORT(ExpandCoded);
HWY_EXPORT(MapCoded);
HWY_EXPORT(Turn);
HWY_EXPORT(Transpose);
HWY_EXPORT(Name);

void MultiplyPanelsOnAny(const PanelJob& job) {
  HWY_DYNAMIC_DISPATCH(Panels)(job);
}
void MultiplyPanels(const PanelJob& job) {
  if (job.matrix->type() != WeightType::kF32 && HasDotProducts()) return MultiplyPanelsByDotProducts(job);
  MultiplyPanelsOnAny(job);
}
void RoundToInt8(const float* from, std::size_t inputs, std::int8_t* codes, float* scales, std::int32_t* offsets) {
  HWY_DYNAMIC_DISPATCH(RoundBlocks)(from, inputs, codes, scales, offsets);
}
void NormaliseRow(const float* x, std::size_t width, float epsilon, const float* gain, const float* bias, float* out) {
  HWY_DYNAMIC_DISPATCH(Normalise)(x, width, epsilon, gain, bias, out);
}
void Gelu(float* x, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(GeluVectors)(x, count);
}
void GateBySilu(const float* gates, const float* values, std::size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluVectors)(gates, values, count, out);
}
void AttendTile(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible) {
  HWY_DYNAMIC_DISPATCH(Attend)(rows, keys, values, visible);
}
void JoinAttention(const AttentionRows& rows, const AttentionRows& later) {
  HWY_DYNAMIC_DISPATCH(Join)(rows, later);
}
void ToHalf(const float* values, std::size_t count, std::uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(HalfFrom)(values, count, out);
}
void FromHalf(const std::uint16_t* values, std::size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(HalfTo)(values, count, out);
}
void ExpandTile(const StoredTile& tile, float* keys, float* values) {
  HWY_DYNAMIC_DISPATCH(TileExpanded)(tile, keys, values);
}
void AttendStoredTile(const AttentionRows& rows, const StoredTile& tile, const std::uint8_t* visible,
                      const std::uint8_t* next, std::size_t next_bytes) {
  HWY_DYNAMIC_DISPATCH(AttendStored)(rows, tile, visible, next, next_bytes);
}
void ExpandPlanes(const std::uint8_t* codes, unsigned bits, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(Planes)(codes, bits, scale, out);
}
void AttendCodedTile(const AttentionRows& rows, const CodedTile& tile, const std::uint8_t* visible,
                     const std::uint8_t* next) {
  HWY_DYNAMIC_DISPATCH(AttendCoded)(rows, tile, visible, next);
}
void ExpandCodedTile(const CodedTile& tile, std::size_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(ExpandCoded)(tile, columns, out);
}
void MapCodedTileOnAny(const CodeMap& map, const CodedTile& tile, float* out) {
  HWY_DYNAMIC_DISPATCH(MapCoded)(map, tile, /*by_dot_products=*/false, out);
}
void MapCodedTile(const CodeMap& map, const CodedTile& tile, float* out) {
  HWY_DYNAMIC_DISPATCH(MapCoded)(map, tile, HasDotProducts(), out);
}
void TurnTile(const float* cosines, const float* sines, std::size_t pairs, float* rows) {
  HWY_DYNAMIC_DISPATCH(Turn)(cosines, sines, pairs, rows);
}
void TransposeTile(const float* in, std::size_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(Transpose)(in, columns, out);
}
std::string_view KernelName() {
  return HWY_DYNAMIC_DISPATCH(Name)();
}

}  // namespace holo::compute
#endif  // HWY_ONCE

#endif  // HOLO_PLAIN_KERNELS
