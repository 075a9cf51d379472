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
    // The intrinsic, _mm512_dpbusd_epi32, made gcc 12 copy every sum in every turn of the loop.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(_mm512_set1_epi32(x)));
    return sum;
  }
};

// What will be read soon, fetched bit by bit: `step` bytes in every turn of the innermost loop.
struct Ahead {
  const char* next = nullptr;
  std::size_t step = 0;
};

// Adds `count` units of kRows rows by kPanels panels. Rows of x are `units` apart, all of 4 bytes.
template <typename Kind, std::size_t kRows, std::size_t kPanels>
HOLO_DOT_PRODUCTS inline __attribute__((always_inline)) void AddUnits(const std::uint32_t* weights,
                                                                      const std::int32_t* x, std::size_t units,
                                                                      std::size_t count,
                                                                      typename Kind::Sum (&sums)[kRows][kPanels],
                                                                      Ahead& ahead) {
  const char* next = ahead.next;
  for (std::size_t i = 0; i < count; ++i) {
    if constexpr (kRows == kMostRows) {
      // Into the second cache: the first has no room for a group.
      _mm_prefetch(next, _MM_HINT_T1);
      _mm_prefetch(next + ahead.step / 2, _MM_HINT_T1);
      next += ahead.step;
    }
    __m512i loaded[kPanels];
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kPanels; ++p) {
      loaded[p] = _mm512_loadu_si512(weights + (i * kPanelsTogether + p) * kPanel);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      std::int32_t unit = 0;
      std::memcpy(&unit, x + r * units + i, sizeof(unit));
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kPanels; ++p) sums[r][p] = Kind::Add(sums[r][p], unit, loaded[p]);
    }
  }
  ahead.next = next;
}

HOLO_DOT_PRODUCTS inline void StorePanel(const PanelJob& job, __m512 sum, std::size_t row, std::size_t panel) {
  const std::size_t output = panel * kPanel;
  const std::size_t count = std::min(kPanel, job.matrix->outputs() - output);
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  float* const y = job.y + row * job.y_stride + output;
  sum = _mm512_add_ps(sum, _mm512_loadu_ps(job.matrix->bias().data() + output));
  if (job.store == Store::kAdd) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sum);
  _mm512_mask_storeu_ps(y, mask, sum);
}

template <std::size_t kRows, std::size_t kPanels>
HOLO_DOT_PRODUCTS void Bf16Block(const PanelJob& job, std::size_t panel, std::size_t row, Ahead& ahead) {
  const std::size_t units = job.matrix->units();
  const std::size_t stretches = (units + kStretch - 1) / kStretch;
  const std::uint32_t* weights = job.matrix->Panel(panel);
  const auto* x = reinterpret_cast<const std::int32_t*>(job.bf16) + row * units;
  __m512 sums[kRows][kPanels];
#pragma GCC unroll 8
  for (auto& of_row : sums) {
#pragma GCC unroll 8
    for (__m512& sum : of_row) sum = _mm512_setzero_ps();
  }
  for (std::size_t stretch = 0; stretch < stretches; ++stretch) {
    const std::size_t first = stretch * kStretch;
    AddUnits<Bf16, kRows, kPanels>(weights + first * kPanelsTogether * kPanel, x + first, units,
                                   std::min(kStretch, units - first), sums, ahead);
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kPanels; ++p) StorePanel(job, sums[r][p], row + r, panel + p);
  }
}

template <std::size_t kRows, std::size_t kPanels>
HOLO_DOT_PRODUCTS void Int8Block(const PanelJob& job, std::size_t panel, std::size_t row, Ahead& ahead) {
  const std::size_t units = job.matrix->units();
  const std::size_t blocks = Int8Blocks(job.matrix->inputs());
  const std::uint32_t* weights = job.matrix->Panel(panel);
  const auto* x = reinterpret_cast<const std::int32_t*>(job.codes) + row * units;
  const std::int32_t* offsets = job.offsets + row * blocks;
  const float* scales = job.scales + row * blocks;
  // There are no registers for the sums over blocks, and if gcc 12 knows what lies here it tries all the same.
  alignas(64) float memory[kRows * kPanels * kPanel] = {};
  float* sums = memory;
  asm("" : "+r"(sums) : : "memory");
  for (std::size_t block = 0; block < blocks; ++block) {
    __m512i of_block[kRows][kPanels];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i offset = _mm512_set1_epi32(offsets[r * blocks + block]);
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kPanels; ++p) of_block[r][p] = offset;
    }
    const std::size_t first = block * kStretch;
    AddUnits<Int8, kRows, kPanels>(weights + first * kPanelsTogether * kPanel, x + first, units,
                                   std::min(kStretch, units - first), of_block, ahead);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512 scale = _mm512_set1_ps(scales[r * blocks + block]);
#pragma GCC unroll 8
      for (std::size_t p = 0; p < kPanels; ++p) {
        float* const sum = sums + (r * kPanels + p) * kPanel;
        _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(of_block[r][p]), scale, _mm512_load_ps(sum)));
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t p = 0; p < kPanels; ++p) {
      const __m512 of_outputs = _mm512_loadu_ps(job.matrix->scales().data() + (panel + p) * kPanel);
      StorePanel(job, _mm512_mul_ps(_mm512_load_ps(sums + (r * kPanels + p) * kPanel), of_outputs), row + r, panel + p);
    }
  }
}

template <typename Kind, std::size_t kRows, std::size_t kPanels>
void Block(const PanelJob& job, std::size_t panel, std::size_t row, Ahead& ahead) {
  if constexpr (std::is_same_v<Kind, Int8>) {
    Int8Block<kRows, kPanels>(job, panel, row, ahead);
  } else {
    Bf16Block<kRows, kPanels>(job, panel, row, ahead);
  }
}

template <typename Kind, std::size_t kPanels>
void Rows(const PanelJob& job, std::size_t panel, Ahead& ahead) {
  std::size_t row = 0;
  for (; row + kMostRows <= job.rows; row += kMostRows) Block<Kind, kMostRows, kPanels>(job, panel, row, ahead);
  if (row + 4 <= job.rows) {
    Block<Kind, 4, kPanels>(job, panel, row, ahead);
    row += 4;
  }
  for (; row + 2 <= job.rows; row += 2) Block<Kind, 2, kPanels>(job, panel, row, ahead);
  if (row < job.rows) Block<Kind, 1, kPanels>(job, panel, row, ahead);
}

template <typename Kind>
void Panels(const PanelJob& job) {
  const std::size_t group_bytes = job.matrix->group_bytes();
  std::size_t panel = job.first;
  Ahead ahead;
  if (job.rows == 1) {
    for (; panel + kPanelsTogether <= job.last; panel += kPanelsTogether) {
      Block<Kind, 1, kPanelsTogether>(job, panel, 0, ahead);
    }
  }
  for (; panel + 2 <= job.last; panel += 2) {
    if (panel % kPanelsTogether == 0 && job.rows >= kMostRows) {
      ahead.next = reinterpret_cast<const char*>(job.matrix->Panel(panel)) + group_bytes;
      // Every unit of two pairs of panels is met once by each block of rows.
      ahead.step = kPanelsTogether * kPanel * sizeof(std::uint32_t) / (2 * (job.rows / kMostRows));
    }
    Rows<Kind, 2>(job, panel, ahead);
  }
  for (; panel < job.last; ++panel) Rows<Kind, 1>(job, panel, ahead);
}

}  // namespace

// Tokens lie in lanes, four outputs are summed together: 8 sums of a group, and 8 of all.
HOLO_DOT_PRODUCTS void MapByDotProducts(const MapJob& job) {
  constexpr std::size_t kUnits = kPlaneCodes / 4;
  constexpr std::size_t kVectors = kTileTokens / kPanel;
  const CodeMap& map = *job.map;
  for (std::size_t output = 0; output < map.outputs(); output += 4) {
    float* const out = job.out + output * kTileTokens;
    __m512 sums[4][kVectors];
#pragma GCC unroll 8
    for (std::size_t o = 0; o < 4; ++o) {
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) {
        sums[o][v] = job.first == 0 ? _mm512_set1_ps(map.offset()[output + o])
                                    : _mm512_loadu_ps(out + o * kTileTokens + v * kPanel);
      }
    }
    for (std::size_t group = 0; group < job.count; ++group) {
      const std::size_t four = output / 4 * map.groups() + job.first + group;
      const std::int8_t* const weights = map.weights() + four * kPlaneCodes * 4;
      const std::uint8_t* const codes = job.codes + group * kTileTokens * kPlaneCodes;
      __m512i of_group[4][kVectors];
#pragma GCC unroll 8
      for (auto& of_output : of_group) {
#pragma GCC unroll 8
        for (__m512i& sum : of_output) sum = _mm512_setzero_si512();
      }
#pragma GCC unroll 8
      for (std::size_t unit = 0; unit < kUnits; ++unit) {
        __m512i loaded[kVectors];
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) {
          loaded[v] = _mm512_loadu_si512(codes + (unit * kTileTokens + v * kPanel) * 4);
        }
#pragma GCC unroll 8
        for (std::size_t o = 0; o < 4; ++o) {
          std::int32_t weight = 0;
          std::memcpy(&weight, weights + (unit * 4 + o) * 4, sizeof(weight));
#pragma GCC unroll 8
          for (std::size_t v = 0; v < kVectors; ++v) of_group[o][v] = Int8::Add(of_group[o][v], weight, loaded[v]);
        }
      }
#pragma GCC unroll 8
      for (std::size_t o = 0; o < 4; ++o) {
        const __m512 centre = _mm512_set1_ps(map.centres()[four * 4 + o]);
        const __m512 scale = _mm512_set1_ps(map.scales()[four * 4 + o]);
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) {
          const __m512 sum = _mm512_mul_ps(_mm512_add_ps(_mm512_cvtepi32_ps(of_group[o][v]), centre), scale);
          sums[o][v] = _mm512_fmadd_ps(sum, _mm512_loadu_ps(job.scales + group * kTileTokens + v * kPanel), sums[o][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (std::size_t o = 0; o < 4; ++o) {
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) _mm512_storeu_ps(out + o * kTileTokens + v * kPanel, sums[o][v]);
    }
  }
}

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
void MapByDotProducts(const MapJob&) {}

}  // namespace holo::compute

#endif
