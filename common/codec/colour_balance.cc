#include "common/codec/colour_balance.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/codec/analysis.h"
#include "common/codec/layout.h"
#include "common/codec/parallel.h"

namespace holo::codec {
namespace {

// Steps that are looked at: 2^(i / 2) for i in kFinest..kCoarsest, relative to the final one of luminance. The first
// and the last are for slopes only.
constexpr int kFinest = -4;
constexpr int kCoarsest = 16;
// The coarsest of colour differences, relative to luminance's, in half octaves.
constexpr int kCoarsestShare = 5;
constexpr std::size_t kSteps = kCoarsest - kFinest + 1;
// A coefficient of so many steps is the smallest that is not zero; see Quantiser.
constexpr float kSmallest = 0.57f;
// Squared error of one that is not, in squared steps.
constexpr double kErrorOfNonzero = 0.09;
// What twice the size adds to a coefficient's bits, in shares of what the smallest one takes.
constexpr double kBitsPerOctave = 0.2;

// Coefficients of one plane by size. [i + 1]: those that step i is the coarsest not to make zero; [0]: too small for
// any.
struct Sizes {
  std::array<double, kSteps + 1> count{};
  std::array<double, kSteps + 1> energy{};  // in squared steps of luminance

  void Add(float coefficient) {
    const float scaled = coefficient * (1 / kSmallest);
    // Half octaves of a coefficient are octaves of its square: the exponent of the float.
    const float square = std::max(scaled * scaled, 1e-30f);
    const int half_octaves = static_cast<int>(std::bit_cast<std::uint32_t>(square) >> 23) - 127;
    const auto i = static_cast<std::size_t>(std::clamp(half_octaves - kFinest + 1, 0, static_cast<int>(kSteps)));
    count[i] += 1;
    energy[i] += double{coefficient} * coefficient;
  }
};

using PlaneSizes = std::array<Sizes, 3>;

// What a plane takes and misses at each step.
struct Curve {
  std::array<double, kSteps> bits{};  // in units of the smallest coefficient that is not zero
  std::array<double, kSteps> error{};

  explicit Curve(const Sizes& sizes) {
    for (std::size_t step = 0; step < kSteps; ++step) {
      for (std::size_t i = 0; i <= kSteps; ++i) {
        if (i <= step) {
          error[step] += sizes.energy[i];
        } else {
          const double octaves = static_cast<double>(i - 1 - step) / 2;
          bits[step] += sizes.count[i] * (1 + kBitsPerOctave * octaves);
          error[step] += sizes.count[i] * kErrorOfNonzero * std::exp2(static_cast<int>(step) + kFinest);
        }
      }
    }
  }

  // Decibels gained per bit around step 2^(half_octaves / 2), neither the first nor the last. Nothing where hardly
  // anything is gained or paid.
  [[nodiscard]] std::optional<double> SlopeAt(int half_octaves) const {
    const auto i = static_cast<std::size_t>(half_octaves - kFinest);
    constexpr double kFewest = 4;
    const double paid = bits[i - 1] - bits[i + 1];
    if (paid < kFewest || !(error[i + 1] > error[i - 1]) || error[i - 1] <= 0) return std::nullopt;
    return 10 * std::log10(error[i + 1] / error[i - 1]) / paid;
  }
};

// The step, in octaves, from which on a bit spent on `curve` is worth less than `slope`; up to `coarsest`, in half
// octaves.
std::optional<double> StepAtSlope(const Curve& curve, double slope, int coarsest) {
  const int end = std::min(coarsest, kCoarsest - 1);
  std::optional<double> last;
  for (int i = kFinest + 1; i <= end; ++i) {
    const std::optional<double> here = curve.SlopeAt(i);
    if (!here && !last) return std::nullopt;
    double at = i;
    if (here && *here < slope) {
      last = here;
      if (i < end) continue;
    } else if (here && last) {
      at -= std::log(*here / slope) / std::log(*here / *last);
    }
    return at / 2;
  }
  return std::nullopt;
}

constexpr double kLumaWeight = 6;

// The share of a colour difference that has `sizes`, beside luminance.
ColourShare ShareOf(const Curve& luma, const Curve& curve, const ColourShare& otherwise) {
  const std::optional<double> slope = luma.SlopeAt(0);
  const std::optional<double> step = slope ? StepAtSlope(curve, kLumaWeight * *slope, kCoarsestShare) : std::nullopt;
  if (!step) return otherwise;
  ColourShare share{static_cast<float>(std::exp2(*step)), 0};
  // Where luminance is known to 2^slot of its steps.
  int lead = 0;
  for (int slot = 1; 2 * slot < kCoarsest && lead < container::kMaxIdleSlots; ++slot) {
    const std::optional<double> slope_there = luma.SlopeAt(2 * slot);
    const std::optional<double> there =
        slope_there ? StepAtSlope(curve, kLumaWeight * *slope_there, 2 * slot + kCoarsestShare) : std::nullopt;
    if (!there) break;
    if (slot - (*there - *step) < lead + 0.5) continue;
    share.idle_slots |= 1u << (slot - 1);
    ++lead;
  }
  return share;
}

Result<PlaneSizes> SizesOf(const pixels::Picture& part, container::AssetHeader header, const BasisResolver& resolve) {
  header.layout = part.layout();
  header.levels = container::DeriveLevels(header.layout.width, header.layout.height, header.large_tiles);
  HOLO_ASSIGN_OR_RETURN(const AssetLayout layout, AssetLayout::Create(header, resolve));
  PlaneSizes sizes;
  (void)Analysis(part, header, layout).ForEachTile(1, [&sizes](const TileTargets& targets) {
    for (std::size_t plane = 0; plane < sizes.size(); ++plane) {
      for (const float coefficient : targets.groups[plane]) sizes[plane].Add(coefficient);
    }
    return true;
  });
  return sizes;
}

}  // namespace

Result<std::array<ColourShare, 2>> BalanceColour(std::span<const pixels::Picture> parts,
                                                 const container::AssetHeader& header, const BasisResolver& resolve,
                                                 unsigned threads) {
  container::AssetHeader even = header;
  for (std::size_t plane = 0; plane < 3; ++plane) even.groups[plane].step_weight = 1;
  std::vector<Result<PlaneSizes>> of_parts(parts.size());
  ForEach(threads, parts.size(), [&](std::size_t i) { of_parts[i] = SizesOf(parts[i], even, resolve); });
  // Added in one order, so that threads change nothing.
  PlaneSizes sizes;
  for (const Result<PlaneSizes>& part : of_parts) {
    HOLO_RETURN_IF_ERROR(part);
    for (std::size_t plane = 0; plane < sizes.size(); ++plane) {
      for (std::size_t i = 0; i <= kSteps; ++i) {
        sizes[plane].count[i] += (*part)[plane].count[i];
        sizes[plane].energy[i] += (*part)[plane].energy[i];
      }
    }
  }
  const Curve luma(sizes[0]);
  std::array<ColourShare, 2> shares;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const container::ComponentGroup& group = header.groups[i + 1];
    shares[i] = ShareOf(luma, Curve(sizes[i + 1]), {group.step_weight, group.idle_slots});
  }
  return shares;
}

}  // namespace holo::codec
