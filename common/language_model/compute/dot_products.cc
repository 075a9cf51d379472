// Weights in pairs, multiplied and summed by one instruction: vdpbf16ps and vpdpwssd. Highway has no name for the second
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

#define HOLO_DOT_PRODUCTS __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")))

namespace holo::compute {
namespace {

constexpr std::size_t kMostRows = 8;

struct Bf16 {
  using Weight = std::uint32_t;  // a pair
  using Sum = __m512;
  HOLO_DOT_PRODUCTS static __m512i Load(const Weight* from) { return _mm512_loadu_si512(from); }
  HOLO_DOT_PRODUCTS static Sum Zero() { return _mm512_setzero_ps(); }
  HOLO_DOT_PRODUCTS static Sum Add(Sum sum, __m512i x, __m512i weights) {
    __m512bh a;
    __m512bh b;
    std::memcpy(&a, &x, sizeof(a));
    std::memcpy(&b, &weights, sizeof(b));
    return _mm512_dpbf16_ps(sum, a, b);
  }
  HOLO_DOT_PRODUCTS static __m512 Finish(const PanelJob&, Sum sum, std::size_t, std::size_t) { return sum; }
};

struct Int8 {
  using Weight = std::uint16_t;  // a pair
  using Sum = __m512i;
  HOLO_DOT_PRODUCTS static __m512i Load(const Weight* from) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  HOLO_DOT_PRODUCTS static Sum Zero() { return _mm512_setzero_si512(); }
  HOLO_DOT_PRODUCTS static Sum Add(Sum sum, __m512i x, __m512i weights) {
    return _mm512_dpwssd_epi32(sum, x, weights);
  }
  HOLO_DOT_PRODUCTS static __m512 Finish(const PanelJob& job, Sum sum, std::size_t row, std::size_t output) {
    const __m512 scale = _mm512_loadu_ps(job.matrix->scales().data() + output);
    return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_set1_ps(job.row_scales[row]), scale));
  }
};

template <typename Kind, std::size_t kRows, std::size_t kPanels>
HOLO_DOT_PRODUCTS void Block(const PanelJob& job, std::size_t panel, std::size_t row) {
  const Matrix& matrix = *job.matrix;
  const std::size_t inputs = RoundUp(matrix.inputs(), 2);
  const auto* weights = matrix.Panel<typename Kind::Weight>(panel);
  const std::int16_t* x = job.rounded + row * inputs;
  typename Kind::Sum sums[kRows][kPanels];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kPanels; ++p) sums[r][p] = Kind::Zero();
  }
  for (std::size_t i = 0; i < inputs / 2; ++i) {
    __m512i loaded[kPanels];
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kPanels; ++p) loaded[p] = Kind::Load(weights + (i * kPanelsTogether + p) * kPanel);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      std::int32_t pair = 0;
      std::memcpy(&pair, x + r * inputs + 2 * i, sizeof(pair));
      const __m512i value = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kPanels; ++p) sums[r][p] = Kind::Add(sums[r][p], value, loaded[p]);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t p = 0; p < kPanels; ++p) {
      const std::size_t output = (panel + p) * kPanel;
      const std::size_t count = std::min(kPanel, matrix.outputs() - output);
      const auto mask = static_cast<__mmask16>((1u << count) - 1);
      float* const y = job.y + (row + r) * job.y_stride + output;
      __m512 sum = Kind::Finish(job, sums[r][p], row + r, output);
      sum = _mm512_add_ps(sum, _mm512_loadu_ps(matrix.bias().data() + output));
      if (job.store == Store::kAdd) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sum);
      _mm512_mask_storeu_ps(y, mask, sum);
    }
  }
}

template <typename Kind, std::size_t kPanels>
void Rows(const PanelJob& job, std::size_t panel) {
  std::size_t row = 0;
  for (; row + kMostRows <= job.rows; row += kMostRows) Block<Kind, kMostRows, kPanels>(job, panel, row);
  if (row + 4 <= job.rows) {
    Block<Kind, 4, kPanels>(job, panel, row);
    row += 4;
  }
  for (; row + 2 <= job.rows; row += 2) Block<Kind, 2, kPanels>(job, panel, row);
  if (row < job.rows) Block<Kind, 1, kPanels>(job, panel, row);
}

template <typename Kind>
void Panels(const PanelJob& job) {
  std::size_t panel = job.first;
  if (job.rows == 1) {
    for (; panel + kPanelsTogether <= job.last; panel += kPanelsTogether) Block<Kind, 1, kPanelsTogether>(job, panel, 0);
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
