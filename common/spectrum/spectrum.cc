#include "common/spectrum/spectrum.h"

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <string>

namespace holo::spectrum {
namespace {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Samples gathered before they are multiplied: large enough for a fast product, small enough for the cache.
constexpr std::uint32_t kBlock = 128;

}  // namespace

Covariance::Covariance(std::uint32_t dimension)
    : dimension_(dimension),
      sum_(dimension),
      products_(std::size_t{dimension} * dimension),
      pending_(std::size_t{kBlock} * dimension) {}

Result<Covariance> Covariance::Create(std::uint32_t dimension) {
  if (dimension < 1 || dimension > kMaxDimension) {
    return Fail(Code::kInvalidArgument, "covariance: expected 1 to " + std::to_string(kMaxDimension) +
                                            " dimensions, found " + std::to_string(dimension));
  }
  return Covariance(dimension);
}

void Covariance::Add(std::span<const float> sample) {
  if (count_ == 0) origin_.assign(sample.begin(), sample.end());
  double* row = pending_.data() + std::size_t{pending_rows_} * dimension_;
  for (std::uint32_t i = 0; i < dimension_; ++i) {
    row[i] = double{sample[i]} - origin_[i];
    sum_[i] += row[i];
  }
  ++count_;
  if (++pending_rows_ == kBlock) Flush();
}

void Covariance::Flush() {
  if (pending_rows_ == 0) return;  // Eigen divides by the depth of a product
  const Eigen::Map<const RowMajor> block(pending_.data(), pending_rows_, dimension_);
  Eigen::Map<RowMajor> products(products_.data(), dimension_, dimension_);
  products.selfadjointView<Eigen::Lower>().rankUpdate(block.transpose());
  pending_rows_ = 0;
}

std::vector<double> Covariance::Mean() const {
  std::vector<double> mean(dimension_);
  if (count_ == 0) return mean;
  for (std::uint32_t i = 0; i < dimension_; ++i) mean[i] = origin_[i] + sum_[i] / static_cast<double>(count_);
  return mean;
}

std::vector<double> Covariance::Matrix() {
  std::vector<double> out(products_.size());
  if (count_ == 0) return out;
  Flush();
  const auto count = static_cast<double>(count_);
  for (std::size_t i = 0; i < dimension_; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      const double value = (products_[i * dimension_ + j] - sum_[i] * sum_[j] / count) / count;
      out[i * dimension_ + j] = value;
      out[j * dimension_ + i] = value;
    }
  }
  return out;
}

double Spectrum::Total() const {
  double total = 0;
  for (const double value : eigenvalues) total += value;
  return total;
}

double Spectrum::EffectiveRank() const {
  const double total = Total();
  double squares = 0;
  for (const double value : eigenvalues) squares += value * value;
  return squares > 0 ? total * total / squares : 0;
}

double Spectrum::ShannonRank() const {
  const double total = Total();
  if (total <= 0) return 0;
  double entropy = 0;
  for (const double value : eigenvalues) {
    const double p = value / total;
    if (p > 0) entropy -= p * std::log(p);
  }
  return std::exp(entropy);
}

double Spectrum::VarianceAt(std::uint32_t k) const {
  const double total = Total();
  if (total <= 0) return 1;
  double kept = 0;
  for (std::size_t i = 0; i < std::min<std::size_t>(k, eigenvalues.size()); ++i) kept += eigenvalues[i];
  return kept / total;
}

std::uint32_t Spectrum::SmallestK(double fraction) const {
  // The last sum and the total may differ by rounding.
  const double wanted = std::min(fraction, 1.0) * Total() * (1 - 1e-12);
  double kept = 0;
  for (std::size_t i = 0; i < eigenvalues.size(); ++i) {
    kept += eigenvalues[i];
    if (kept >= wanted) return static_cast<std::uint32_t>(i + 1);
  }
  return std::max<std::uint32_t>(1, static_cast<std::uint32_t>(eigenvalues.size()));
}

Result<Spectrum> Decompose(Covariance& covariance, bool with_vectors) {
  if (covariance.count() == 0) return Fail(Code::kInvalidArgument, "spectrum: expected one sample or more, found none");
  const std::uint32_t dimension = covariance.dimension();
  const std::vector<double> matrix = covariance.Matrix();
  const Eigen::Map<const RowMajor> map(matrix.data(), dimension, dimension);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(
      map, with_vectors ? Eigen::ComputeEigenvectors : Eigen::EigenvaluesOnly);
  if (solver.info() != Eigen::Success) {
    return Fail(Code::kInternal, "spectrum: the eigenvalues of a matrix of " + std::to_string(dimension) +
                                     " dimensions did not converge");
  }
  Spectrum spectrum;
  spectrum.samples = covariance.count();
  spectrum.mean = covariance.Mean();
  spectrum.eigenvalues.resize(dimension);
  if (with_vectors) spectrum.vectors.resize(std::size_t{dimension} * dimension);
  for (std::uint32_t i = 0; i < dimension; ++i) {
    const Eigen::Index source = dimension - 1 - i;  // Eigen sorts upwards
    // Tiny negative values are rounding: a covariance has none.
    spectrum.eigenvalues[i] = std::max(0.0, solver.eigenvalues()[source]);
    for (std::uint32_t j = 0; with_vectors && j < dimension; ++j) {
      spectrum.vectors[std::size_t{i} * dimension + j] = solver.eigenvectors()(j, source);
    }
  }
  return spectrum;
}

void ReadPatch(const pixels::Picture& picture, std::uint32_t patch_x, std::uint32_t patch_y, std::span<float> out) {
  const std::uint32_t channels = picture.channels();
  const bool is_8_bit = picture.layout().sample_type == pixels::SampleType::kU8;
  for (std::uint32_t v = 0; v < kPatchPx; ++v) {
    const std::uint32_t y = std::min(patch_y * kPatchPx + v, picture.height() - 1);
    for (std::uint32_t u = 0; u < kPatchPx; ++u) {
      const std::size_t x = std::min(patch_x * kPatchPx + u, picture.width() - 1);
      for (std::uint32_t c = 0; c < channels; ++c) {
        const std::size_t index = x * channels + c;
        out[(std::size_t{c} * kPatchPx + v) * kPatchPx + u] =
            is_8_bit ? picture.RowU8(y)[index] : picture.RowU16(y)[index];
      }
    }
  }
}

Result<Spectrum> OfPicture(const pixels::Picture& picture, bool with_vectors, const Progress& progress) {
  const std::uint32_t dimension = kPatchPx * kPatchPx * picture.channels();
  HOLO_ASSIGN_OR_RETURN(Covariance covariance, Covariance::Create(dimension));
  std::vector<float> patch(dimension);
  const std::uint32_t patches_x = (picture.width() + kPatchPx - 1) / kPatchPx;
  const std::uint32_t patches_y = (picture.height() + kPatchPx - 1) / kPatchPx;
  for (std::uint32_t y = 0; y < patches_y; ++y) {
    if (progress && !progress(static_cast<double>(y) / patches_y)) return Fail(Code::kCancelled, "spectrum: cancelled");
    for (std::uint32_t x = 0; x < patches_x; ++x) {
      ReadPatch(picture, x, y, patch);
      covariance.Add(patch);
    }
  }
  return Decompose(covariance, with_vectors);
}

Result<Spectrum> OfMatrix(const Matrix& matrix, const Progress& progress) {
  if (matrix.columns > kMaxDimension) {
    return Fail(Code::kResourceExhausted, "matrix: expected at most " + std::to_string(kMaxDimension) +
                                              " columns, found " + std::to_string(matrix.columns));
  }
  const auto columns = static_cast<std::uint32_t>(matrix.columns);
  HOLO_ASSIGN_OR_RETURN(Covariance covariance, Covariance::Create(columns));
  for (std::uint64_t row = 0; row < matrix.rows; ++row) {
    if (progress && row % 1024 == 0 && !progress(static_cast<double>(row) / static_cast<double>(matrix.rows))) {
      return Fail(Code::kCancelled, "spectrum: cancelled");
    }
    covariance.Add(std::span(matrix.values).subspan(row * columns, columns));
  }
  return Decompose(covariance, /*with_vectors=*/false);
}

}  // namespace holo::spectrum
