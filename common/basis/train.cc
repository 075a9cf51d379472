#include "common/basis/train.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <string>

namespace holo::basis {
namespace {

using transform::Plane;

// One channel as a plane of whole patches, 16 bits scaled to 8, offset by half the range; the edge is repeated.
Plane LoadPlane(const pixels::Picture& picture, std::uint32_t channel) {
  const std::uint32_t width = (picture.width() + 7) / 8 * 8;
  const std::uint32_t height = (picture.height() + 7) / 8 * 8;
  const float scale = 255.0f / pixels::MaxSample(picture.layout().sample_type);
  Plane plane(width, height);
  for (std::uint32_t y = 0; y < height; ++y) {
    float* row = plane.Row(y);
    for (std::uint32_t x = 0; x < width; ++x) {
      row[x] =
          static_cast<float>(picture.At(std::min(x, picture.width() - 1), std::min(y, picture.height() - 1), channel)) *
              scale -
          128.0f;
    }
  }
  return plane;
}

// Adds up p p^T over patches, a block of them at a time.
class Accumulator {
 public:
  Accumulator(std::vector<double>& covariance, std::size_t dimension)
      : sums_(covariance.data(), static_cast<Eigen::Index>(dimension), static_cast<Eigen::Index>(dimension)),
        block_(static_cast<Eigen::Index>(dimension), kBlock) {}
  ~Accumulator() { Flush(); }

  float* NextPatch() {
    if (used_ == kBlock) Flush();
    return block_.col(used_++).data();
  }

 private:
  static constexpr Eigen::Index kBlock = 1024;
  void Flush() {
    if (used_ == 0) return;
    const Eigen::MatrixXf product = block_.leftCols(used_) * block_.leftCols(used_).transpose();
    sums_ += product.cast<double>();
    used_ = 0;
  }

  Eigen::Map<Eigen::MatrixXd> sums_;
  Eigen::MatrixXf block_;
  Eigen::Index used_ = 0;
};

Rows RowsOf(std::span<const double> covariance, std::uint64_t patches, std::uint32_t patch_px, std::uint32_t channels,
            float min_deviation) {
  Rows rows;
  rows.patch_px = patch_px;
  rows.dimension = patch_px * patch_px * channels;
  rows.count = rows.dimension - channels;
  const auto dimension = static_cast<Eigen::Index>(rows.dimension);
  Eigen::MatrixXd matrix = Eigen::Map<const Eigen::MatrixXd>(covariance.data(), dimension, dimension);
  matrix /= static_cast<double>(std::max<std::uint64_t>(patches, 1));
  // Means are no part of a patch: far below all others, their directions come last.
  const Eigen::Index plane = dimension / channels;
  const double below = matrix.trace() + 1.0;
  for (Eigen::Index c = 0; c < static_cast<Eigen::Index>(channels); ++c) {
    matrix.block(c * plane, c * plane, plane, plane).array() -= below / static_cast<double>(plane);
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(matrix);
  rows.values.resize(std::size_t{rows.count} * rows.dimension);
  rows.deviation.resize(rows.count);
  for (std::uint32_t k = 0; k < rows.count; ++k) {
    const Eigen::Index column = dimension - 1 - static_cast<Eigen::Index>(k);
    const Eigen::VectorXd vector = solver.eigenvectors().col(column);
    // The sign is arbitrary; the largest entry positive makes it the same everywhere.
    Eigen::Index largest = 0;
    vector.cwiseAbs().maxCoeff(&largest);
    const double sign = vector(largest) < 0 ? -1.0 : 1.0;
    for (Eigen::Index d = 0; d < dimension; ++d) {
      rows.values[std::size_t{k} * rows.dimension + static_cast<std::size_t>(d)] = static_cast<float>(sign * vector(d));
    }
    const double variance = std::max(solver.eigenvalues()(column), 1e-4);
    rows.deviation[k] = static_cast<float>(std::sqrt(variance));
    if (k > 0) rows.deviation[k] = std::min(rows.deviation[k], rows.deviation[k - 1]);
  }
  while (rows.count > 1 && rows.deviation[rows.count - 1] < min_deviation) --rows.count;
  rows.deviation.resize(rows.count);
  rows.values.resize(std::size_t{rows.count} * rows.dimension);
  return rows;
}

}  // namespace

Result<Trainer> Trainer::Create(TrainingPlanes planes, std::uint32_t channels) {
  if (channels < 1 || channels > kMaxChannelsPerGroup || (planes != TrainingPlanes::kJoint && channels != 1)) {
    return Fail(Code::kInvalidArgument, "basis training: expected 1 channel, or up to " +
                                            std::to_string(kMaxChannelsPerGroup) + " trained jointly, found " +
                                            std::to_string(channels));
  }
  Trainer trainer;
  trainer.planes_ = planes;
  trainer.channels_ = channels;
  for (std::size_t i = 0; i < 2; ++i) {
    trainer.statistics_[i].patch_px = i == 0 ? 8 : 4;
    const std::size_t dimension =
        std::size_t{trainer.statistics_[i].patch_px} * trainer.statistics_[i].patch_px * channels;
    trainer.statistics_[i].covariance.assign(dimension * dimension, 0.0);
  }
  return trainer;
}

void Trainer::AddLevels(std::vector<Plane> planes) {
  for (std::uint32_t level = 0;; ++level) {
    Statistics& statistics = statistics_[level == 0 ? 0 : 1];
    const std::uint32_t patch_px = statistics.patch_px;
    const std::size_t area = std::size_t{patch_px} * patch_px;
    const std::uint32_t columns = planes[0].width / patch_px;
    const std::uint32_t rows = planes[0].height / patch_px;
    for (Plane& plane : planes) {
      transform::LapColumnsForward(plane, patch_px);
      transform::LapRowsForward(plane, patch_px, patch_px);
    }
    const std::uint32_t next_width = (columns + 3) / 4 * 4;
    const std::uint32_t next_height = (rows + 3) / 4 * 4;
    std::vector<Plane> means(planes.size(), Plane(next_width, next_height));
    {
      Accumulator accumulator(statistics.covariance, area * channels_);
      for (std::uint32_t row = 0; row < rows; ++row) {
        for (std::uint32_t column = 0; column < columns; ++column) {
          float* patch = accumulator.NextPatch();
          for (std::size_t c = 0; c < planes.size(); ++c) {
            means[c].Row(row)[column] =
                transform::GatherPatch(planes[c], column * patch_px, row * patch_px, patch_px, patch + c * area);
          }
          ++statistics.patches;
        }
      }
    }
    if (std::max(columns, rows) <= 16) return;
    for (Plane& plane : means) {
      for (std::uint32_t row = 0; row < next_height; ++row) {
        const float* from = plane.Row(std::min(row, rows - 1));
        float* to = plane.Row(row);
        if (from != to) std::copy_n(from, columns, to);
        for (std::uint32_t column = columns; column < next_width; ++column) to[column] = to[columns - 1];
      }
    }
    planes = std::move(means);
  }
}

Result<void> Trainer::AddPicture(const pixels::Picture& picture) {
  const pixels::Layout& layout = picture.layout();
  const bool rgb = layout.color_model == pixels::ColorModel::kRgb;
  std::vector<Plane> planes;
  switch (planes_) {
    case TrainingPlanes::kJoint:
      if (layout.channels != channels_) {
        return Fail(Code::kInvalidArgument, "basis training: expected pictures of " + std::to_string(channels_) +
                                                " channels, found " + std::to_string(layout.channels));
      }
      for (std::uint32_t c = 0; c < layout.channels; ++c) planes.push_back(LoadPlane(picture, c));
      AddLevels(std::move(planes));
      return {};
    case TrainingPlanes::kLuma:
      if (!rgb) {
        for (std::uint32_t c = 0; c < layout.channels; ++c) {
          std::vector<Plane> one;
          one.push_back(LoadPlane(picture, c));
          AddLevels(std::move(one));
        }
        return {};
      }
      break;
    case TrainingPlanes::kChroma:
      if (!rgb) return Fail(Code::kInvalidArgument, "basis training: expected an RGB picture for chroma");
      break;
  }
  for (std::uint32_t c = 0; c < 3; ++c) planes.push_back(LoadPlane(picture, c));
  transform::RgbToYCbCr(planes[0].samples.data(), planes[1].samples.data(), planes[2].samples.data(),
                        planes[0].samples.size());
  for (std::size_t c = 0; c < 3; ++c) {
    if ((c == 0) != (planes_ == TrainingPlanes::kLuma)) continue;
    std::vector<Plane> one;
    one.push_back(std::move(planes[c]));
    AddLevels(std::move(one));
  }
  return {};
}

Result<std::shared_ptr<const Basis>> Trainer::Finish(std::string_view description, float min_deviation) const {
  if (patch_count() == 0) return Fail(Code::kFailedPrecondition, "basis training: expected at least one picture");
  const Rows rows8 = RowsOf(statistics_[0].covariance, statistics_[0].patches, 8, channels_, min_deviation);
  const Rows rows4 = RowsOf(statistics_[1].covariance, statistics_[1].patches, 4, channels_, min_deviation);
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, Serialize(channels_, description, rows8, rows4));
  return Basis::Parse(bytes);
}

}  // namespace holo::basis
