// Units of weights multiplied and summed by one instruction: vdpbf16ps and vpdpbusd. Highway has no name for the second
// and does not use the first on x86. Compiled everywhere, called where the processor has both.
#include "common/language_model/compute/plain.h"

#if defined(__x86_64__) && !defined(HOLO_PLAIN_KERNELS)

// gcc 12 takes the undefined lanes of its own intrinsics for variables that nobody set.
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#define HOLO_DOT_PRODUCTS __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")))

namespace holo::compute {
namespace {

constexpr std::size_t kMostRows = 8;
// Units of one output that are summed before an int8 block is over, and between two looks ahead.
constexpr std::size_t kStretch = kInt8Block / 4;

struct Bf16 {
  using Sum = __m512;
  HOLO_DOT_PRODUCTS static Sum Add(Sum sum, std::int32_t x, __m512i weights) {
    const __m512i spread = _mm512_set1_epi32(x);
    __m512bh a;
    __m512bh b;
    std::memcpy(&a, &spread, sizeof(a));
    std::memcpy(&b, &weights, sizeof(b));
    return _mm512_dpbf16_ps(sum, a, b);
  }
};

struct Int8 {
  using Sum = __m512i;
  HOLO_DOT_PRODUCTS static Sum Add(Sum sum, std::int32_t x, __m512i weights) {
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(x));
  }
};

// What will be read next, and which share of it a block of rows fetches: the `index`th of `count`.
struct Ahead {
  const std::uint32_t* weights = nullptr;
  std::size_t index = 0;
  std::size_t count = 1;
};

template <typename Kind, std::size_t kRows, std::size_t kPanels>
HOLO_DOT_PRODUCTS void Block(const PanelJob& job, std::size_t panel, std::size_t row, const Ahead& ahead) {
  constexpr bool kIsInt8 = std::is_same_v<Kind, Int8>;
  const Matrix& matrix = *job.matrix;
  const std::size_t units = matrix.units();
  const std::size_t stretches = (units + kStretch - 1) / kStretch;
  const std::uint32_t* weights = matrix.Panel(panel);
  const auto* x = reinterpret_cast<const std::uint8_t*>(kIsInt8 ? static_cast<const void*>(job.codes) : job.bf16) +
                  row * units * sizeof(std::int32_t);
  typename Kind::Sum sums[kRows][kPanels];
  __m512 of_blocks[kRows][kPanels];  // int8 only
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kPanels; ++p) {
      if constexpr (kIsInt8) {
        of_blocks[r][p] = _mm512_setzero_ps();
      } else {
        sums[r][p] = _mm512_setzero_ps();
      }
    }
  }
  for (std::size_t stretch = 0; stretch < stretches; ++stretch) {
    if (ahead.weights != nullptr) {
      const std::size_t all = ahead.count * stretches;
      const std::size_t at = ahead.index * stretches + stretch;
      for (std::size_t i = units * at / all; i < units * (at + 1) / all; ++i) {
        for (std::size_t p = 0; p < kPanels; ++p) {
          _mm_prefetch(reinterpret_cast<const char*>(ahead.weights + (i * kPanelsTogether + p) * kPanel), _MM_HINT_T0);
        }
      }
    }
    if constexpr (kIsInt8) {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i offset = _mm512_set1_epi32(job.offsets[(row + r) * stretches + stretch]);
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kPanels; ++p) sums[r][p] = offset;
      }
    }
    for (std::size_t i = stretch * kStretch; i < std::min(units, (stretch + 1) * kStretch); ++i) {
      __m512i loaded[kPanels];
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kPanels; ++p) {
        loaded[p] = _mm512_loadu_si512(weights + (i * kPanelsTogether + p) * kPanel);
      }
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        std::int32_t unit = 0;
        std::memcpy(&unit, x + (r * units + i) * sizeof(unit), sizeof(unit));
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kPanels; ++p) sums[r][p] = Kind::Add(sums[r][p], unit, loaded[p]);
      }
    }
    if constexpr (kIsInt8) {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512 scale = _mm512_set1_ps(job.scales[(row + r) * stretches + stretch]);
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kPanels; ++p) {
          of_blocks[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][p]), scale, of_blocks[r][p]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kPanels; ++p) {
      const std::size_t output = (panel + p) * kPanel;
      const std::size_t count = std::min(kPanel, matrix.outputs() - output);
      const auto mask = static_cast<__mmask16>((1u << count) - 1);
      float* const y = job.y + (row + r) * job.y_stride + output;
      __m512 sum;
      if constexpr (kIsInt8) {
        sum = _mm512_mul_ps(of_blocks[r][p], _mm512_loadu_ps(matrix.scales().data() + output));
      } else {
        sum = sums[r][p];
      }
      sum = _mm512_add_ps(sum, _mm512_loadu_ps(matrix.bias().data() + output));
      if (job.store == Store::kAdd) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sum);
      _mm512_mask_storeu_ps(y, mask, sum);
    }
  }
}

template <typename Kind, std::size_t kPanels>
void Rows(const PanelJob& job, std::size_t panel) {
  Ahead ahead;
  if (panel + kPanels < job.last) ahead.weights = job.matrix->Panel(panel + kPanels);
  ahead.count = std::max<std::size_t>(1, job.rows / kMostRows);
  std::size_t row = 0;
  for (; row + kMostRows <= job.rows; row += kMostRows, ++ahead.index) {
    Block<Kind, kMostRows, kPanels>(job, panel, row, ahead);
  }
  if (job.rows >= kMostRows) ahead.weights = nullptr;
  if (row + 4 <= job.rows) {
    Block<Kind, 4, kPanels>(job, panel, row, ahead);
    row += 4;
  }
  for (; row + 2 <= job.rows; row += 2) Block<Kind, 2, kPanels>(job, panel, row, ahead);
  if (row < job.rows) Block<Kind, 1, kPanels>(job, panel, row, ahead);
}

template <typename Kind>
void Panels(const PanelJob& job) {
  std::size_t panel = job.first;
  if (job.rows == 1) {
    for (; panel + kPanelsTogether <= job.last; panel += kPanelsTogether) {
      Block<Kind, 1, kPanelsTogether>(job, panel, 0, Ahead());
    }
  }
  for (; panel + 2 <= job.last; panel += 2) Rows<Kind, 2>(job, panel);
  for (; panel < job.last; ++panel) Rows<Kind, 1>(job, panel);
}

}  // namespace

bool HasDotProducts() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
                          __builtin_cpu_supports("avx512bf16");
  return has;
}

void MultiplyPanelsByDotProducts(const PanelJob& job) {
  job.matrix->type() == WeightType::kBf16 ? Panels<Bf16>(job) : Panels<Int8>(job);
}

}  // namespace holo::compute

#else

namespace holo::compute {

bool HasDotProducts() {
  return false;
}
void MultiplyPanelsByDotProducts(const PanelJob& job) {
  MultiplyPanelsOnAny(job);
}

}  // namespace holo::compute

#endif
