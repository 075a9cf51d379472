// Training of a basis: the Karhunen-Loeve transform of patches after the lapped filter and without their means.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "common/basis/basis.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"
#include "common/transform/transform.h"

namespace holo::basis {

// Which planes of a picture a basis is for.
enum class TrainingPlanes : std::uint8_t {
  kLuma,    // Y of RGB pictures, the grey channel, each channel of a generic picture; one channel per patch
  kChroma,  // Cb and Cr of RGB pictures; one channel per patch
  kJoint,   // all channels of the picture together, without colour transform
};

// Collects covariances picture by picture. Memory does not grow with the pictures. Not synchronised.
class Trainer {
 public:
  // `channels` is the group's size: 1 unless `planes` is kJoint. 1..kMaxChannelsPerGroup.
  [[nodiscard]] static Result<Trainer> Create(TrainingPlanes planes, std::uint32_t channels);

  // Adds all patches of all levels. 16-bit samples are scaled to the range of 8 bits. kInvalidArgument where the
  // picture's channels do not fit.
  [[nodiscard]] Result<void> AddPicture(const pixels::Picture& picture);

  [[nodiscard]] std::uint64_t patch_count() const { return statistics_[0].patches; }

  // All rows whose deviation is at least `min_deviation` (8-bit sample units; at least one row), the largest first.
  // kFailedPrecondition without patches.
  [[nodiscard]] Result<std::shared_ptr<const Basis>> Finish(std::string_view description,
                                                            float min_deviation = 0) const;

 private:
  struct Statistics {
    std::uint32_t patch_px = 0;
    std::uint64_t patches = 0;
    std::vector<double> covariance;  // [D, D] sums of products
  };

  Trainer() = default;
  void AddLevels(std::vector<transform::Plane> planes);

  TrainingPlanes planes_ = TrainingPlanes::kLuma;
  std::uint32_t channels_ = 1;
  Statistics statistics_[2];  // 8 x 8 and 4 x 4
};

}  // namespace holo::basis
