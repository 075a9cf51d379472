// How many dimensions a set of samples really uses: covariance, its eigenvalues, and effective rank.
//
// Samples are the 8x8 patches of a picture (all channels together) or the rows of a matrix. With eigenvalues l_i of
// their covariance and p_i = l_i / sum l, two numbers say how many dimensions count:
//
//     Df       = (sum l)^2 / sum l^2 = 1 / sum p^2      the participation ratio: exp of the Renyi-2 entropy
//     Shannon  = exp(-sum p ln p)                       exp of the Shannon entropy (Roy and Vetterli, 2007)
//
// Df <= Shannon <= dimension; all are equal when all eigenvalues are, and 1 for rank one. Functions are pure and may be
// called from any thread; one Covariance is used by one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::spectrum {

// An eigenvalue solver of this size works for about a minute.
inline constexpr std::uint32_t kMaxDimension = 4096;
inline constexpr std::uint32_t kPatchPx = 8;

// [rows, columns] row-major; every value finite.
struct Matrix {
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;
  std::vector<float> values;
};

// A NumPy array of numbers (b, i, u, f; 2 dimensions or more, the leading ones flattened into rows; either byte order).
// kInvalidArgument for something else, kDataLoss for a damaged one.
[[nodiscard]] Result<Matrix> ParseNpy(std::span<const std::uint8_t> bytes, std::string_view name);
// Lines of numbers between commas, semicolons, tabs or spaces; '#' starts a comment; a first line that is not all
// numbers is a heading. Every line has as many numbers as the first.
[[nodiscard]] Result<Matrix> ParseCsv(std::span<const std::uint8_t> bytes, std::string_view name);
// By extension, .npy or .csv (.tsv, .txt).
[[nodiscard]] Result<Matrix> LoadMatrix(const std::filesystem::path& path);
[[nodiscard]] bool IsMatrixName(const std::filesystem::path& path);

// Mean and covariance of samples that come one after another, summed in double.
class Covariance {
 public:
  // kInvalidArgument unless 1 <= dimension <= kMaxDimension.
  [[nodiscard]] static Result<Covariance> Create(std::uint32_t dimension);

  // `sample` has `dimension` values.
  void Add(std::span<const float> sample);

  [[nodiscard]] std::uint32_t dimension() const { return dimension_; }
  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] std::vector<double> Mean() const;
  // [dimension, dimension], divided by the number of samples; zero without samples.
  [[nodiscard]] std::vector<double> Matrix();

 private:
  explicit Covariance(std::uint32_t dimension);
  void Flush();

  std::uint32_t dimension_;
  std::uint64_t count_ = 0;
  std::vector<double> origin_;    // the first sample: subtracting it keeps the sums small
  std::vector<double> sum_;       // of samples - origin
  std::vector<double> products_;  // [dimension, dimension], lower half
  std::vector<double> pending_;   // [kBlock, dimension], samples not yet in products_
  std::uint32_t pending_rows_ = 0;
};

struct Spectrum {
  std::vector<double> eigenvalues;  // falling, >= 0
  std::vector<double> vectors;      // [dimension, dimension]: row i belongs to eigenvalue i; empty if not asked for
  std::vector<double> mean;
  std::uint64_t samples = 0;

  [[nodiscard]] double Total() const;
  // 0 when the total variance is 0.
  [[nodiscard]] double EffectiveRank() const;
  [[nodiscard]] double ShannonRank() const;
  // Fraction of the variance in the first k dimensions, 0..1; 1 when there is no variance.
  [[nodiscard]] double VarianceAt(std::uint32_t k) const;
  // The smallest k with VarianceAt(k) >= fraction, at least 1.
  [[nodiscard]] std::uint32_t SmallestK(double fraction) const;
};

// Called now and then with the fraction done; false cancels (kCancelled).
using Progress = std::function<bool(double)>;

// The eigenvalues (and vectors) of what has been added so far.
[[nodiscard]] Result<Spectrum> Decompose(Covariance& covariance, bool with_vectors);

// One patch: [channel][row][column], the order of basis/; beyond the picture's edges its last samples repeat. `out` has
// kPatchPx^2 * channels values.
void ReadPatch(const pixels::Picture& picture, std::uint32_t patch_x, std::uint32_t patch_y, std::span<float> out);

[[nodiscard]] Result<Spectrum> OfPicture(const pixels::Picture& picture, bool with_vectors,
                                         const Progress& progress = nullptr);
[[nodiscard]] Result<Spectrum> OfMatrix(const Matrix& matrix, const Progress& progress = nullptr);

}  // namespace holo::spectrum
