// The functions of plain.h with vector instructions (Google Highway), compiled once for each target and chosen when the
// program runs. With HOLO_PLAIN_KERNELS the plain functions are all there is.
#include "common/language_model/blocks/plain.h"

#ifdef HOLO_PLAIN_KERNELS

namespace holo::blocks {

void MultiplyPanels(const PanelJob& job) {
  plain::MultiplyPanels(job);
}

}  // namespace holo::blocks

#else

#include <algorithm>

// Loops over arrays that have to become registers. clang unrolls them by itself, and when told took half an hour under a
// sanitizer.
#ifdef __clang__
#define HOLO_UNROLL
#else
#define HOLO_UNROLL _Pragma("GCC unroll 8")
#endif

// AVX-512 with the dot products of AddPairs().
#define HWY_WANT_AVX3_DL
// Vectors whose length is unknown when compiling do not fit arrays of registers.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/language_model/blocks/kernels.cc"
#include "hwy/foreach_target.h"  // includes this file again for each target
// must come after it
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace holo::blocks {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR

void Panels(const PanelJob& job) {
  plain::MultiplyPanels(job);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// One to four vectors make a panel.
using F32 = hn::CappedTag<float, kPanel>;
using I32 = hn::RebindToSigned<F32>;
using I16 = hn::Repartition<std::int16_t, I32>;
using U16 = hn::RebindToUnsigned<I16>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
using VF = hn::Vec<F32>;
using VI = hn::Vec<I32>;
using VW = hn::Vec<U16>;
constexpr std::size_t kLanes = hn::MaxLanes(F32());
constexpr std::size_t kVectors = kPanel / kLanes;
// Rows whose sums fit the registers: AVX-512 has 32 of them.
constexpr std::size_t kMostRows = kVectors == 1 ? 8 : 6;

HWY_INLINE VF LoadHalves(const std::uint8_t* from, std::size_t v) {
  return hn::PromoteTo(F32(), hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(from) + v * kLanes));
}
HWY_INLINE VW LoadWords(const std::uint8_t* from, std::size_t v) {
  return hn::LoadU(U16(), reinterpret_cast<const std::uint16_t*>(from) + v * 2 * kLanes);
}
template <typename Byte>
HWY_INLINE VI LoadBytes(const std::uint8_t* from, std::size_t v) {
  const hn::Rebind<Byte, I32> d;
  return hn::PromoteTo(I32(), hn::LoadU(d, reinterpret_cast<const Byte*>(from) + v * kLanes));
}

// Sixteen sums to a row of y, of which `outputs` are there.
HWY_INLINE void StorePanel(const VF* sums, const float* bias, std::size_t outputs, compute::Store store, float* y) {
  const F32 d;
  float padded[kPanel];
  float* to = outputs < kPanel ? padded : y;
  if (outputs < kPanel) {
    std::fill(padded, padded + kPanel, 0.0f);
    std::copy(y, y + outputs, padded);
  }
  for (std::size_t v = 0; v < kVectors; ++v) {
    const VF sum = hn::Add(sums[v], hn::LoadU(d, bias + v * kLanes));
    float* at = to + v * kLanes;
    hn::StoreU(store == compute::Store::kAdd ? hn::Add(hn::LoadU(d, at), sum) : sum, d, at);
  }
  if (outputs < kPanel) std::copy(padded, padded + outputs, y);
}

template <std::size_t kRows>
HWY_INLINE void StoreRows(const PanelJob& job, std::size_t panel, std::size_t row, const VF (*sums)[kVectors]) {
  const Matrix& matrix = *job.matrix;
  const std::size_t output = panel * kPanel;
  for (std::size_t r = 0; r < kRows; ++r) {
    StorePanel(sums[r], matrix.bias().data() + output, std::min(kPanel, matrix.outputs() - output), job.store,
               job.y + (row + r) * job.y_stride + output);
  }
}

// Scales and least values of the unit of a panel block that begins with `base`; of 16 outputs each.
template <Type kType>
HWY_INLINE void LoadScales(const std::uint8_t* base, std::size_t unit, std::size_t group, VF* scale, VF* least) {
  constexpr Layout kLayout = LayoutOf(kType);
  const F32 d;
  const I32 i32;
  for (std::size_t v = 0; v < kVectors; ++v) {
    scale[v] = LoadHalves(base, v);
    if constexpr (kLayout.has_least) least[v] = LoadHalves(base + kLayout.least, v);
    if constexpr (kType == Type::kQ4K) {
      const auto byte = [&](std::size_t i)
                            HWY_ATTR { return LoadBytes<std::uint8_t>(base + kLayout.inner + i * kPanel, v); };
      VI inner_scale;
      VI inner_least;
      if (unit < 4) {
        inner_scale = hn::And(byte(unit), hn::Set(i32, 63));
        inner_least = hn::And(byte(unit + 4), hn::Set(i32, 63));
      } else {
        inner_scale =
            hn::Or(hn::And(byte(unit + 4), hn::Set(i32, 15)), hn::ShiftLeft<4>(hn::ShiftRight<6>(byte(unit - 4))));
        inner_least = hn::Or(hn::ShiftRight<4>(byte(unit + 4)), hn::ShiftLeft<4>(hn::ShiftRight<6>(byte(unit))));
      }
      scale[v] = hn::Mul(scale[v], hn::ConvertTo(d, inner_scale));
      least[v] = hn::Neg(hn::Mul(least[v], hn::ConvertTo(d, inner_least)));
    }
    if constexpr (kType == Type::kQ6K) {
      const VI inner = LoadBytes<std::int8_t>(base + kLayout.inner + (unit * 2 + group) * kPanel, v);
      scale[v] = hn::Mul(scale[v], hn::ConvertTo(d, inner));
    }
  }
}

// Adds the products of pairs, into two sums where a target has no better way.
HWY_INLINE void AddPairs(hn::Vec<I16> value, hn::Vec<I16> codes, VI& even, VI& odd) {
#if HWY_TARGET == HWY_AVX3_DL
  // One instruction instead of two; Highway 1.0 does not use it, and the intrinsic makes gcc 12 copy sums.
  (void)odd;
  asm("vpdpwssd %2, %1, %0" : "+v"(even.raw) : "v"(value.raw), "v"(codes.raw));
#else
  even = hn::ReorderWidenMulAccumulate(I32(), value, codes, even, odd);
#endif
}

// kRows rows of x by a panel of a block type. Floats are multiplied and added one by one, as in plain.cc.
template <Type kType, std::size_t kRows>
HWY_NOINLINE void BlockRows(const PanelJob& job, std::size_t panel, std::size_t row) {
  constexpr Layout kLayout = LayoutOf(kType);
  constexpr std::size_t kGroups = kUnit / kLayout.group;
  constexpr std::size_t kPairsInWord = 16 / kLayout.code_bits;
  constexpr std::size_t kWordBytes = 2 * 2 * kPanel;  // the words of 16 outputs that lie side by side
  const F32 d;
  const I32 i32;
  const I16 i16;
  const U16 u16;
  const Matrix& matrix = *job.matrix;
  const std::size_t inputs = matrix.inputs();
  const std::size_t units = inputs / kUnit;
  const std::uint8_t* HWY_RESTRICT base = matrix.panels().as<std::uint8_t>() + panel * matrix.panel_bytes();
  const std::int16_t* HWY_RESTRICT x = job.rounded->codes.data() + row * inputs;
  const std::int32_t* HWY_RESTRICT totals = job.rounded->sums.data() + row * 2 * units;
  const float* HWY_RESTRICT x_scales = job.rounded->scales.data() + row * units;

  VF sums[kRows][kVectors];
  HOLO_UNROLL
  for (auto& of_row : sums) {
    HOLO_UNROLL
    for (VF& sum : of_row) sum = hn::Zero(d);
  }
  for (std::size_t first_unit = 0; first_unit < units; first_unit += kLayout.elements / kUnit, base += kLayout.bytes) {
    for (std::size_t unit = 0; unit < kLayout.elements / kUnit; ++unit) {
      const std::size_t at = first_unit + unit;
      VF of_unit[kRows][kVectors];
      HOLO_UNROLL
      for (std::size_t group = 0; group < kGroups; ++group) {
        // Some targets put products of even and odd positions into two sums.
        VI even[kRows][kVectors];
        VI odd[kRows][kVectors];
        std::int32_t total[kRows];
        HOLO_UNROLL
        for (std::size_t r = 0; r < kRows; ++r) {
          const std::int32_t* of_row = totals + r * 2 * units + 2 * at;
          total[r] = kGroups == 1 ? of_row[0] + of_row[1] : of_row[group];
          HOLO_UNROLL
          for (std::size_t v = 0; v < kVectors; ++v) {
            even[r][v] = hn::Set(i32, -static_cast<std::int32_t>(kLayout.offset) * total[r]);
            odd[r][v] = hn::Zero(i32);
          }
        }
        VW high[kVectors];
        if constexpr (kLayout.high_bits > 0) {
          const std::uint8_t* from = base + kLayout.high + unit * kLayout.high_bits * kWordBytes + group * kWordBytes;
          HOLO_UNROLL
          for (std::size_t v = 0; v < kVectors; ++v) high[v] = LoadWords(from, v);
        }
        constexpr std::size_t kWords = kLayout.group / 2 / kPairsInWord;
        HOLO_UNROLL
        for (std::size_t w = 0; w < kWords; ++w) {
          VW words[kVectors];
          const std::uint8_t* from = base + kLayout.codes + (unit * kGroups * kWords + group * kWords + w) * kWordBytes;
          HOLO_UNROLL
          for (std::size_t v = 0; v < kVectors; ++v) words[v] = LoadWords(from, v);
          HOLO_UNROLL
          for (std::size_t p = 0; p < kPairsInWord; ++p) {
            hn::Vec<I16> codes[kVectors];
            HOLO_UNROLL
            for (std::size_t v = 0; v < kVectors; ++v) {
              if constexpr (kLayout.code_bits == 8) {
                const hn::Vec<I16> both = hn::BitCast(i16, words[v]);
                codes[v] = hn::ShiftRight<8>(p == 0 ? hn::ShiftLeft<8>(both) : both);
              } else {
                VW code = hn::And(words[v], hn::Set(u16, 15));
                words[v] = hn::ShiftRight<4>(words[v]);
                if constexpr (kLayout.high_bits > 0) {
                  constexpr std::uint16_t kMask = (1u << kLayout.high_bits) - 1;
                  code = hn::Or(code, hn::ShiftLeft<4>(hn::And(high[v], hn::Set(u16, kMask))));
                  high[v] = hn::ShiftRight<kLayout.high_bits>(high[v]);
                }
                codes[v] = hn::BitCast(i16, code);
              }
            }
            HOLO_UNROLL
            for (std::size_t r = 0; r < kRows; ++r) {
              std::int32_t pair = 0;
              std::memcpy(&pair, x + r * inputs + at * kUnit + group * kLayout.group + 2 * (w * kPairsInWord + p),
                          sizeof(pair));
              const hn::Vec<I16> value = hn::BitCast(i16, hn::Set(i32, pair));
              HOLO_UNROLL
              for (std::size_t v = 0; v < kVectors; ++v) AddPairs(value, codes[v], even[r][v], odd[r][v]);
            }
          }
        }
        VF scale[kVectors];
        VF least[kVectors];
        LoadScales<kType>(base, unit, group, scale, least);
        HOLO_UNROLL
        for (std::size_t r = 0; r < kRows; ++r) {
          HOLO_UNROLL
          for (std::size_t v = 0; v < kVectors; ++v) {
            const VF products = hn::ConvertTo(d, hn::RearrangeToOddPlusEven(even[r][v], odd[r][v]));
            const VF part = hn::Mul(scale[v], products);
            of_unit[r][v] = group == 0 ? part : hn::Add(of_unit[r][v], part);
            if constexpr (kLayout.has_least) {
              of_unit[r][v] = hn::Add(of_unit[r][v], hn::Mul(least[v], hn::Set(d, static_cast<float>(total[r]))));
            }
          }
        }
      }
      HOLO_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        const VF x_scale = hn::Set(d, x_scales[r * units + at]);
        HOLO_UNROLL
        for (std::size_t v = 0; v < kVectors; ++v) {
          sums[r][v] = hn::Add(sums[r][v], hn::Mul(x_scale, of_unit[r][v]));
        }
      }
    }
  }
  StoreRows<kRows>(job, panel, row, sums);
}

struct Float {
  using Stored = float;
  static HWY_INLINE VF Load(const float* from) { return hn::LoadU(F32(), from); }
};
struct Half {
  using Stored = std::uint16_t;
  static HWY_INLINE VF Load(const std::uint16_t* from) {
    return LoadHalves(reinterpret_cast<const std::uint8_t*>(from), 0);
  }
};
struct Brain {
  using Stored = std::uint16_t;
  static HWY_INLINE VF Load(const std::uint16_t* from) {
    const hn::RebindToUnsigned<F32> u32;
    const hn::Rebind<std::uint16_t, F32> narrow;
    return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(u32, hn::LoadU(narrow, from))));
  }
};

// kRows rows of x by kPanels panels of floats. Few rows alone would wait for their own sums, hence several panels.
template <typename Weight, std::size_t kRows, std::size_t kPanels>
HWY_NOINLINE void FloatRows(const PanelJob& job, std::size_t panel, std::size_t row) {
  const F32 d;
  const std::size_t inputs = job.matrix->inputs();
  const std::size_t panel_size = inputs * kPanel;
  const auto* HWY_RESTRICT weights = job.matrix->panels().as<typename Weight::Stored>() + panel * panel_size;
  const float* HWY_RESTRICT x = job.x + row * inputs;
  VF sums[kPanels][kRows][kVectors];
  for (auto& of_panel : sums) {
    for (auto& of_row : of_panel) {
      for (VF& sum : of_row) sum = hn::Zero(d);
    }
  }
  for (std::size_t i = 0; i < inputs; ++i) {
    for (std::size_t p = 0; p < kPanels; ++p) {
      VF loaded[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) {
        loaded[v] = Weight::Load(weights + p * panel_size + i * kPanel + v * kLanes);
      }
      for (std::size_t r = 0; r < kRows; ++r) {
        const VF value = hn::Set(d, x[r * inputs + i]);
        for (std::size_t v = 0; v < kVectors; ++v) sums[p][r][v] = hn::MulAdd(value, loaded[v], sums[p][r][v]);
      }
    }
  }
  for (std::size_t p = 0; p < kPanels; ++p) StoreRows<kRows>(job, panel + p, row, sums[p]);
}

template <typename Weight>
void FloatPanels(const PanelJob& job) {
  std::size_t panel = job.first;
  while (panel < job.last) {
    if (job.rows == 1 && panel + 4 <= job.last) {
      FloatRows<Weight, 1, 4>(job, panel, 0);
      panel += 4;
      continue;
    }
    std::size_t row = 0;
    for (; row + 6 <= job.rows; row += 6) FloatRows<Weight, 6, 1>(job, panel, row);
    for (; row + 3 <= job.rows; row += 3) FloatRows<Weight, 3, 1>(job, panel, row);
    for (; row < job.rows; ++row) FloatRows<Weight, 1, 1>(job, panel, row);
    ++panel;
  }
}

template <Type kType>
void BlockPanels(const PanelJob& job) {
  for (std::size_t panel = job.first; panel < job.last; ++panel) {
    std::size_t row = 0;
    for (; row + kMostRows <= job.rows; row += kMostRows) BlockRows<kType, kMostRows>(job, panel, row);
    for (; row + 3 <= job.rows; row += 3) BlockRows<kType, 3>(job, panel, row);
    for (; row < job.rows; ++row) BlockRows<kType, 1>(job, panel, row);
  }
}

void Panels(const PanelJob& job) {
  switch (job.matrix->type()) {
    case Type::kF32:
      return FloatPanels<Float>(job);
    case Type::kF16:
      return FloatPanels<Half>(job);
    case Type::kBf16:
      return FloatPanels<Brain>(job);
    case Type::kQ8_0:
      return BlockPanels<Type::kQ8_0>(job);
    case Type::kQ4_0:
      return BlockPanels<Type::kQ4_0>(job);
    case Type::kQ4_1:
      return BlockPanels<Type::kQ4_1>(job);
    case Type::kQ5_0:
      return BlockPanels<Type::kQ5_0>(job);
    case Type::kQ5_1:
      return BlockPanels<Type::kQ5_1>(job);
    case Type::kQ4K:
      return BlockPanels<Type::kQ4K>(job);
    case Type::kQ6K:
      return BlockPanels<Type::kQ6K>(job);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace holo::blocks
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace holo::blocks {
namespace {

HWY_EXPORT(Panels);

}  // namespace

void MultiplyPanels(const PanelJob& job) {
  HWY_DYNAMIC_DISPATCH(Panels)(job);
}

}  // namespace holo::blocks

#endif  // HWY_ONCE

#endif  // HOLO_PLAIN_KERNELS
