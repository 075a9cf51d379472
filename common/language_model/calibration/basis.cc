#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

#include "common/bytes/bytes.h"
#include "common/language_model/calibration/calibration.h"

namespace holo::calibration {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using kv_cache::BasisLayer;
using kv_cache::kGroup;

// Relative to the mean of the diagonal: what a finite text says about the least of its directions is chance.
constexpr double kRidge = 1e-4;

// What a group's squared error is of its variance, with 0 to 8 bits: measured on normally distributed values, with the
// least error among scales a quarter of an octave below the one that clips nothing.
constexpr double kErrorOfBits[9] = {1, 0.356, 0.1056, 0.0297, 0.0077, 0.00193, 0.00049, 0.00012, 0.00003};

Matrix FromFloats(const std::vector<float>& values, Eigen::Index rows) {
  using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Index columns = static_cast<Eigen::Index>(values.size()) / rows;
  return Eigen::Map<const Floats>(values.data(), rows, columns).cast<double>();
}

Matrix FromDoubles(const double* values, Eigen::Index rows, Eigen::Index columns) {
  return Eigen::Map<const Matrix>(values, rows, columns);
}

std::vector<float> ToFloats(const Matrix& matrix) {
  std::vector<float> out(static_cast<std::size_t>(matrix.size()));
  for (Eigen::Index i = 0; i < matrix.size(); ++i)
    out[static_cast<std::size_t>(i)] = static_cast<float>(matrix.data()[i]);
  return out;
}

// Keys and values have coordinates of their own where no row of the other is in the way; otherwise there are too many
// of them for the normalised rows that they are made of, and they share theirs as in a GPT-2.
bool HasOwnCoordinates(const weights::Config& config) {
  return !config.frequencies.empty() && 2 * config.key_width() <= config.width;
}

struct Moments {
  Matrix covariance;
  Eigen::RowVectorXd mean;
};

// Of all samples but the exact ones.
Moments OfCodedRows(LayerStatistics& statistics) {
  const auto width = static_cast<Eigen::Index>(statistics.normalised.dimension());
  const auto raw = [&](spectrum::Covariance& of, Moments& sums) {
    const std::vector<double> mean = of.Mean();
    const std::vector<double> matrix = of.Matrix();
    const auto count = static_cast<double>(of.count());
    sums.mean = Eigen::Map<const Eigen::RowVectorXd>(mean.data(), width);
    sums.covariance = (FromDoubles(matrix.data(), width, width) + sums.mean.transpose() * sums.mean) * count;
    sums.mean *= count;
    return count;
  };
  Moments all;
  Moments exact;
  const double count = raw(statistics.normalised, all) - raw(statistics.normalised_exact, exact);
  Moments coded;
  coded.mean = (all.mean - exact.mean) / count;
  coded.covariance = (all.covariance - exact.covariance) / count - coded.mean.transpose() * coded.mean;
  return coded;
}

// Values fall from the first on; columns belong to them.
struct Eigenvectors {
  Eigen::VectorXd values;
  Matrix vectors;
};

Result<Eigenvectors> Decompose(const Matrix& symmetric) {
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(symmetric);
  if (solver.info() != Eigen::Success || !solver.eigenvalues().allFinite()) {
    return Fail(Code::kInternal, "calibration: the eigenvalues of a covariance did not converge");
  }
  Eigenvectors out;
  out.values = solver.eigenvalues().reverse().cwiseMax(0);
  out.vectors = solver.eigenvectors().rowwise().reverse();
  return out;
}

// The cost of an error in a normalised row, [width, width].
Matrix ErrorMetric(const LayerStatistics& statistics, const transformer::AttentionWeights& weights,
                   const weights::Config& config, double queries) {
  const auto width = static_cast<Eigen::Index>(config.width);
  const auto head_width = static_cast<Eigen::Index>(config.head_width());
  const Matrix keys = FromFloats(weights.keys, width);
  const Matrix values = FromFloats(weights.values, width);
  const Matrix projection = FromFloats(weights.projection, width);
  Matrix metric = Matrix::Zero(width, width);
  for (Eigen::Index head = 0; head < static_cast<Eigen::Index>(config.heads); ++head) {
    const Matrix moments =
        FromDoubles(statistics.query_moments.data() + head * head_width * head_width, head_width, head_width);
    const Matrix own_keys = keys.middleCols(head * head_width, head_width);
    metric.noalias() += own_keys * (moments / (queries * static_cast<double>(head_width))) * own_keys.transpose();
    const Matrix outputs =
        values.middleCols(head * head_width, head_width) * projection.middleRows(head * head_width, head_width);
    metric.noalias() +=
        outputs * outputs.transpose() * (statistics.value_weights[static_cast<std::size_t>(head)] / queries);
  }
  return metric;
}

void AddRidge(Matrix& matrix) {
  const double ridge = kRidge * matrix.trace() / static_cast<double>(matrix.rows()) + 1e-30;
  matrix.diagonal().array() += ridge;
}

struct WholeLayer {
  Matrix encoder;  // [width, coordinates], columns scaled to variance 1, or in balanced groups
  Matrix decoder;  // [coordinates, width]
  Eigen::RowVectorXd mean;
  Eigen::VectorXd energy;    // of each coordinate: its squared error, if it is dropped
  Eigen::Index of_keys = 0;  // so many coordinates are those of keys, and come first; 0: all are of both

  // Coordinates whose energies fall: first and count.
  [[nodiscard]] std::vector<std::pair<Eigen::Index, Eigen::Index>> Segments() const {
    if (of_keys == 0) return {{0, energy.size()}};
    return {{0, of_keys}, {of_keys, energy.size() - of_keys}};
  }
};

// Coordinates of keys (or of values) in a metric of their own: of rows x, (x - mean) encoder; key = coordinates
// decoder.
struct OwnCoordinates {
  Matrix encoder;  // [width, key_width]
  Matrix decoder;  // [key_width, key_width]
  Eigen::VectorXd energy;
};

Result<OwnCoordinates> DecomposeOwn(const Matrix& covariance, const Matrix& matrix, Matrix metric) {
  Matrix own = matrix.transpose() * covariance * matrix;
  AddRidge(own);
  AddRidge(metric);
  HOLO_ASSIGN_OR_RETURN(const Eigenvectors of_metric, Decompose(metric));
  const Eigen::VectorXd root = of_metric.values.cwiseSqrt();
  const Matrix half = of_metric.vectors * root.asDiagonal() * of_metric.vectors.transpose();
  const Matrix inverse_half = of_metric.vectors * root.cwiseInverse().asDiagonal() * of_metric.vectors.transpose();
  HOLO_ASSIGN_OR_RETURN(const Eigenvectors weighted, Decompose(half * own * half));
  const Eigen::VectorXd deviation = weighted.values.cwiseMax(1e-300).cwiseSqrt();
  OwnCoordinates out;
  out.encoder = matrix * half * weighted.vectors * deviation.cwiseInverse().asDiagonal();
  out.decoder = deviation.asDiagonal() * weighted.vectors.transpose() * inverse_half;
  out.energy = weighted.values;
  return out;
}

// Where keys are rotated. The decoder gives a normalised row that has the wanted keys and values, and no others: the
// smallest one, through the pseudo-inverse of [keys, values].
Result<WholeLayer> DecomposeRotated(LayerStatistics& statistics, const transformer::AttentionWeights& attention,
                                    const weights::Config& config, double queries) {
  const auto width = static_cast<Eigen::Index>(config.width);
  const auto head_width = static_cast<Eigen::Index>(config.head_width());
  const auto key_width = static_cast<Eigen::Index>(config.key_width());
  const Matrix keys = FromFloats(attention.keys, width);
  const Matrix values = FromFloats(attention.values, width);
  const Matrix projection = FromFloats(attention.projection, width);
  Matrix of_keys = Matrix::Zero(key_width, key_width);
  Matrix of_values = Matrix::Zero(key_width, key_width);
  for (Eigen::Index head = 0; head < static_cast<Eigen::Index>(config.heads); ++head) {
    const Eigen::Index at =
        head * static_cast<Eigen::Index>(config.keys()) / static_cast<Eigen::Index>(config.heads) * head_width;
    of_keys.block(at, at, head_width, head_width) +=
        FromDoubles(statistics.query_moments.data() + head * head_width * head_width, head_width, head_width) /
        (queries * static_cast<double>(head_width));
    const Matrix outputs = projection.middleRows(head * head_width, head_width);
    of_values.block(at, at, head_width, head_width) +=
        outputs * outputs.transpose() * (statistics.value_weights[static_cast<std::size_t>(head)] / queries);
  }
  const Moments moments = OfCodedRows(statistics);
  HOLO_ASSIGN_OR_RETURN(const OwnCoordinates own_keys, DecomposeOwn(moments.covariance, keys, of_keys));
  HOLO_ASSIGN_OR_RETURN(const OwnCoordinates own_values, DecomposeOwn(moments.covariance, values, of_values));

  Matrix both(width, 2 * key_width);
  both << keys, values;
  HOLO_ASSIGN_OR_RETURN(const Eigenvectors gram, Decompose(both.transpose() * both));
  Eigen::VectorXd inverse = gram.values;
  for (double& value : inverse) value = value > 1e-10 * gram.values[0] ? 1 / value : 0;
  const Matrix rows_of = gram.vectors * inverse.asDiagonal() * gram.vectors.transpose() * both.transpose();
  WholeLayer layer;
  layer.encoder.resize(width, 2 * key_width);
  layer.encoder << own_keys.encoder, own_values.encoder;
  layer.decoder.resize(2 * key_width, width);
  layer.decoder << own_keys.decoder * rows_of.topRows(key_width), own_values.decoder * rows_of.bottomRows(key_width);
  layer.mean = moments.mean;
  layer.energy.resize(2 * key_width);
  layer.energy << own_keys.energy, own_values.energy;
  layer.of_keys = key_width;
  return layer;
}

Result<WholeLayer> DecomposeLayer(LayerStatistics& statistics, const weights::Weights& weights, std::size_t index,
                                  double queries) {
  HOLO_ASSIGN_OR_RETURN(const transformer::AttentionWeights attention, transformer::LoadAttention(weights, index));
  if (HasOwnCoordinates(weights.config())) return DecomposeRotated(statistics, attention, weights.config(), queries);
  Moments moments = OfCodedRows(statistics);
  AddRidge(moments.covariance);
  Matrix metric = ErrorMetric(statistics, attention, weights.config(), queries);
  AddRidge(metric);
  HOLO_ASSIGN_OR_RETURN(const Eigenvectors of_metric, Decompose(metric));
  const Eigen::VectorXd root = of_metric.values.cwiseSqrt();
  const Matrix half = of_metric.vectors * root.asDiagonal() * of_metric.vectors.transpose();
  const Matrix inverse_half = of_metric.vectors * root.cwiseInverse().asDiagonal() * of_metric.vectors.transpose();
  HOLO_ASSIGN_OR_RETURN(const Eigenvectors weighted, Decompose(half * moments.covariance * half));
  const Eigen::VectorXd deviation = weighted.values.cwiseMax(1e-300).cwiseSqrt();
  WholeLayer layer;
  layer.encoder = half * weighted.vectors * deviation.cwiseInverse().asDiagonal();
  layer.decoder = deviation.asDiagonal() * weighted.vectors.transpose() * inverse_half;
  layer.mean = moments.mean;
  layer.energy = weighted.values;
  return layer;
}

// Coordinates of one group share a scale and their bits, so all have the same error, as large as they are together. If
// coordinate i is stretched by d_i, that error costs energy_i / d_i^2 each: least, for a given sum of d_i^2, with d_i^2
// in proportion to the root of energy_i. Returns what an error as large as the coordinates would cost, for each group
// of these coordinates.
std::vector<double> BalanceGroups(WholeLayer& layer, Eigen::Index begin, Eigen::Index length) {
  std::vector<double> energies;
  const Eigen::Index end = begin + length;
  for (Eigen::Index first = begin; first < end; first += kGroup) {
    const Eigen::Index count = std::min<Eigen::Index>(kGroup, end - first);
    const auto energy = layer.energy.segment(first, count);
    // No coordinate so small that its decoder would become huge.
    const Eigen::VectorXd roots = energy.cwiseMax(1e-8 * energy.maxCoeff() + 1e-300).cwiseSqrt();
    const Eigen::VectorXd stretch = (roots / roots.mean()).cwiseSqrt();
    layer.encoder.middleCols(first, count) *= stretch.asDiagonal();
    const Matrix rows = stretch.cwiseInverse().asDiagonal() * layer.decoder.middleRows(first, count);
    layer.decoder.middleRows(first, count) = rows;
    energies.push_back(roots.sum() * roots.mean());
  }
  return energies;
}

std::size_t GroupBytes(unsigned bits) {
  return bits == 0 ? 0 : 1 + kGroup / 8 * bits;
}

// Bits of every group at the price `theta` of a byte, for each run of groups whose energies fall.
std::size_t Allocate(const std::vector<std::vector<double>>& energies, double theta,
                     std::vector<std::vector<std::uint8_t>>& bits) {
  std::size_t bytes = 0;
  bits.assign(energies.size(), {});
  for (std::size_t layer = 0; layer < energies.size(); ++layer) {
    for (std::size_t group = 0; group < energies[layer].size(); ++group) {
      // A layer without any coordinate would be a special case everywhere else.
      unsigned best = group == 0 ? 1 : 0;
      const auto cost = [&](unsigned with) {
        return energies[layer][group] * kErrorOfBits[with] + theta * static_cast<double>(GroupBytes(with));
      };
      for (unsigned with = best + 1; with <= 8; ++with) {
        if (cost(with) < cost(best)) best = with;
      }
      if (best == 0) break;  // energies fall
      bits[layer].push_back(static_cast<std::uint8_t>(best));
      bytes += GroupBytes(best);
    }
  }
  return bytes;
}

kv_cache::Basis EmptyBasis(const weights::Config& config, kv_cache::Method method, const BasisRequest& request) {
  kv_cache::Basis basis;
  basis.method = method;
  basis.geometry = {config.layers, config.heads, config.head_width(), config.keys()};
  basis.base_fingerprint = request.base_fingerprint;
  basis.calibration = request.calibration;
  return basis;
}

// Of each segment the first coordinates, as many as its `bits` have groups of; those beyond its end are always 0. Where
// keys have their own, all are kept, the others of the exact tokens only: the first token of a text is large in
// directions in which no other is, and all others look at it. (SmolLM2 at 5,760 bytes: without them 4 times the
// divergence.)
BasisLayer TakeCoordinates(const WholeLayer& from, std::span<std::vector<std::uint8_t>> bits_of_segments) {
  const Eigen::Index width = from.encoder.rows();
  if (from.of_keys > 0) {
    const auto of_all = static_cast<std::size_t>((from.of_keys + kGroup - 1) / kGroup);
    for (auto& of_segment : bits_of_segments) of_segment.resize(of_all);
  }
  std::vector<std::uint8_t> bits;
  for (const auto& of_segment : bits_of_segments) bits.insert(bits.end(), of_segment.begin(), of_segment.end());
  const auto rank = static_cast<Eigen::Index>(bits.size() * kGroup);
  Matrix encoder = Matrix::Zero(width, rank);
  Matrix decoder = Matrix::Zero(rank, width);
  Eigen::Index to = 0;
  const auto segments = from.Segments();
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const auto padded = static_cast<Eigen::Index>(bits_of_segments[i].size() * kGroup);
    const Eigen::Index real = std::min(padded, segments[i].second);
    encoder.middleCols(to, real) = from.encoder.middleCols(segments[i].first, real);
    decoder.middleRows(to, real) = from.decoder.middleRows(segments[i].first, real);
    to += padded;
  }
  BasisLayer layer;
  layer.rank = static_cast<std::uint32_t>(rank);
  if (segments.size() > 1) layer.key_rank = static_cast<std::uint32_t>(bits_of_segments[0].size() * kGroup);
  layer.mean = ToFloats(from.mean);
  layer.encoder = ToFloats(encoder);
  layer.decoder = ToFloats(decoder);
  layer.bits = std::move(bits);
  return layer;
}

// Of keys (or values) made by `weights` from rows with this covariance.
Matrix Transform(const Matrix& covariance, const std::vector<float>& weights) {
  const Matrix matrix = FromFloats(weights, covariance.rows());
  return matrix.transpose() * covariance * matrix;
}

}  // namespace

Result<kv_cache::Basis> MakeLatentBasis(Statistics& statistics, const weights::Weights& weights,
                                        const BasisRequest& request, const Progress& progress) {
  const std::size_t count = statistics.layers.size();
  const std::size_t segments_each = HasOwnCoordinates(weights.config()) ? 2 : 1;
  const std::size_t least = count * segments_each * GroupBytes(1);
  if (!(request.bytes_per_token >= static_cast<double>(least))) {
    return Fail(Code::kInvalidArgument, "bytes per token: expected at least " + std::to_string(least) + " for " +
                                            std::to_string(count) + " layers, found " +
                                            std::to_string(request.bytes_per_token));
  }
  std::vector<WholeLayer> layers;
  std::vector<std::vector<double>> energies;  // of each group of each segment
  for (std::size_t i = 0; i < count; ++i) {
    HOLO_ASSIGN_OR_RETURN(WholeLayer layer, DecomposeLayer(statistics.layers[i], weights, i,
                                                           static_cast<double>(statistics.queries)));
    for (const auto& [begin, length] : layer.Segments()) energies.push_back(BalanceGroups(layer, begin, length));
    layers.push_back(std::move(layer));
    if (progress && !progress(static_cast<double>(i + 1) / static_cast<double>(count))) {
      return Fail(Code::kCancelled, "calibration: cancelled");
    }
  }
  std::vector<std::vector<std::uint8_t>> bits;
  double low = -120;  // log2 of theta: too cheap, and dear enough
  double high = 60;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    const bool fits = static_cast<double>(Allocate(energies, std::exp2(middle), bits)) <= request.bytes_per_token;
    (fits ? high : low) = middle;
  }
  Allocate(energies, std::exp2(high), bits);
  kv_cache::Basis basis = EmptyBasis(weights.config(), kv_cache::Method::kLatent, request);
  for (std::size_t i = 0; i < count; ++i) {
    basis.layers.push_back(TakeCoordinates(layers[i], std::span(bits).subspan(i * segments_each, segments_each)));
  }
  return basis;
}

namespace {

// Coordinates with less than this deviation (in steps) are hardly ever coded as anything but 0.
constexpr double kLeastDeviation = 0.2;

// Bits of a normally distributed number of this deviation, rounded to whole ones: close to the entropy.
double BitsOf(double deviation) {
  return 0.5 * std::log2(1 + 17.08 * deviation * deviation);
}

// Every coordinate in units of `step`, by what a squared error costs.
void FillStored(const std::vector<WholeLayer>& layers, double step, kv_cache::Basis& basis) {
  basis.layers.clear();
  for (const WholeLayer& from : layers) {
    const Eigen::VectorXd all = from.energy.cwiseSqrt() / step;
    std::vector<Eigen::Index> which;
    BasisLayer layer;
    for (const auto& [begin, length] : from.Segments()) {
      // Energies fall. As in TakeCoordinates(), all are kept where keys have their own: they are hardly ever coded.
      const Eigen::Index of_segment =
          from.of_keys > 0 ? length
                           : std::max<Eigen::Index>(1, (all.segment(begin, length).array() >= kLeastDeviation).count());
      for (Eigen::Index i = 0; i < of_segment; ++i) which.push_back(begin + i);
      if (from.of_keys > 0 && begin == 0) layer.key_rank = static_cast<std::uint32_t>(of_segment);
    }
    const auto kept = static_cast<Eigen::Index>(which.size());
    const Eigen::VectorXd deviation = all(which);
    layer.rank = static_cast<std::uint32_t>(kept);
    layer.mean = ToFloats(from.mean);
    layer.encoder = ToFloats(from.encoder(Eigen::all, which) * deviation.asDiagonal());
    layer.decoder = ToFloats(deviation.cwiseInverse().asDiagonal() * from.decoder(which, Eigen::all));
    for (Eigen::Index i = 0; i < kept; ++i) {
      const double of_coordinate = std::round(4 * std::log2(std::max(deviation[i], 1e-6))) + 16;
      layer.classes.push_back(static_cast<std::uint8_t>(std::clamp(of_coordinate, 0.0, 63.0)));
    }
    basis.layers.push_back(std::move(layer));
  }
}

// Runs `tokens` through caches of the basis; bytes per token as they are saved, and what the coder did.
Result<double> Measure(const kv_cache::Basis& basis, const transformer::Model& model,
                       const weights::Weights& weights, std::span<const std::uint32_t> tokens,
                       kv_cache::CoderCounts& counts, compute::ThreadPool& pool) {
  HOLO_ASSIGN_OR_RETURN(const auto scheme, MakeScheme(basis, weights));
  transformer::Workspace workspace;
  std::size_t bytes = 0;
  const std::size_t most = std::min<std::size_t>(model.config().context, kMostWindow);
  for (std::size_t from = 0; from < tokens.size(); from += most) {
    const std::span<const std::uint32_t> window = tokens.subspan(from, std::min(most, tokens.size() - from));
    kv_cache::Cache cache(scheme);
    const transformer::Sequence sequence{window, &cache, false};
    HOLO_RETURN_IF_ERROR(model.Forward({&sequence, 1}, workspace, pool));
    kv_cache::CountDecisions(cache, counts);
    bytes += kv_cache::SavedBytes(cache, window);
  }
  return static_cast<double>(bytes) / static_cast<double>(tokens.size());
}

}  // namespace

Result<kv_cache::Basis> MakeStoredBasis(Statistics& statistics, const transformer::Model& model,
                                        const weights::Weights& weights, std::span<const std::uint32_t> tokens,
                                        const BasisRequest& request, compute::ThreadPool& pool,
                                        const Progress& progress) {
  if (tokens.size() < kMinTokens) {
    return Fail(Code::kInvalidArgument, "calibration: expected a text of at least " + std::to_string(kMinTokens) +
                                            " tokens, found " + std::to_string(tokens.size()));
  }
  if (!(request.bytes_per_token > 0)) {
    return Fail(Code::kInvalidArgument,
                "bytes per token: expected more than 0, found " + std::to_string(request.bytes_per_token));
  }
  std::vector<WholeLayer> layers;
  for (std::size_t i = 0; i < statistics.layers.size(); ++i) {
    HOLO_ASSIGN_OR_RETURN(WholeLayer layer, DecomposeLayer(statistics.layers[i], weights, i,
                                                           static_cast<double>(statistics.queries)));
    layers.push_back(std::move(layer));
  }
  const auto step_for = [&](double bits) {
    double low = -80;  // log2 of a step that is too small, and of one that is large enough
    double high = 60;
    for (int i = 0; i < 60; ++i) {
      const double middle = (low + high) / 2;
      double sum = 0;
      for (const WholeLayer& layer : layers) {
        for (const double energy : layer.energy) sum += BitsOf(std::sqrt(energy) / std::exp2(middle));
      }
      (sum <= bits ? high : low) = middle;
    }
    return std::exp2(high);
  };
  kv_cache::Basis basis = EmptyBasis(weights.config(), kv_cache::Method::kStored, request);
  basis.table = kv_cache::MakeCoderTable({});
  // What a formula promises is not what a coder takes: the step is corrected by what was measured.
  double wanted_bits = 8 * request.bytes_per_token;
  constexpr int kRounds = 4;
  for (int round = 0; round < kRounds; ++round) {
    FillStored(layers, step_for(wanted_bits), basis);
    kv_cache::CoderCounts counts;
    HOLO_ASSIGN_OR_RETURN(const double bytes, Measure(basis, model, weights, tokens, counts, pool));
    basis.table = kv_cache::MakeCoderTable(counts);
    if (progress && !progress(static_cast<double>(round + 1) / kRounds)) {
      return Fail(Code::kCancelled, "calibration: cancelled");
    }
    // The first round's table was a guess: what it takes is not what the next will.
    if (round > 0 && std::abs(bytes / request.bytes_per_token - 1) < 0.005) break;
    if (round + 1 < kRounds) wanted_bits += 8 * (request.bytes_per_token - bytes);
    if (wanted_bits < 1) {
      return Fail(Code::kInvalidArgument, "bytes per token: expected what a step of any size can meet, found " +
                                              std::to_string(request.bytes_per_token));
    }
  }
  return basis;
}

Result<kv_cache::Basis> MakeIdentityBasis(Statistics& statistics, const weights::Weights& weights, unsigned bits,
                                          const BasisRequest& request) {
  if (bits < 1 || bits > 8) {
    return Fail(Code::kInvalidArgument, "bits: expected 1 to 8, found " + std::to_string(bits));
  }
  if (!weights.config().frequencies.empty()) {
    return Fail(Code::kUnimplemented, "compressed memory: expected the method latent, report or stored for a " +
                                          std::string(weights::ArchitectureName(weights.config().architecture)) +
                                          ", whose keys are rotated, found the normalised row itself");
  }
  kv_cache::Basis basis = EmptyBasis(weights.config(), kv_cache::Method::kLatent, request);
  const auto width = static_cast<Eigen::Index>(weights.config().width);
  for (LayerStatistics& layer : statistics.layers) {
    WholeLayer whole;
    whole.mean = OfCodedRows(layer).mean;
    whole.encoder = Matrix::Identity(width, width);
    whole.decoder = Matrix::Identity(width, width);
    const std::size_t groups = (weights.config().width + kGroup - 1) / kGroup;
    whole.energy = Eigen::VectorXd::Ones(width);
    std::vector<std::uint8_t> of_groups(groups, static_cast<std::uint8_t>(bits));
    basis.layers.push_back(TakeCoordinates(whole, {&of_groups, 1}));
  }
  return basis;
}

Result<kv_cache::Basis> MakeReportBasis(Statistics& statistics, const weights::Weights& weights, std::uint32_t k,
                                        const BasisRequest& request, const Progress& progress) {
  const std::uint32_t width = weights.config().width;
  const std::size_t most = weights.config().key_width();
  if (k < 1 || k > most) {
    return Fail(Code::kInvalidArgument, "k: expected 1 to " + std::to_string(most) + ", found " + std::to_string(k));
  }
  kv_cache::Basis basis = EmptyBasis(weights.config(), kv_cache::Method::kReport, request);
  for (std::size_t i = 0; i < statistics.layers.size(); ++i) {
    HOLO_ASSIGN_OR_RETURN(const transformer::AttentionWeights attention, transformer::LoadAttention(weights, i));
    const std::vector<double> values = statistics.layers[i].normalised.Matrix();
    const std::vector<double> mean = statistics.layers[i].normalised.Mean();
    const Matrix covariance = FromDoubles(values.data(), width, width);
    const Matrix row = FromDoubles(mean.data(), 1, width);
    BasisLayer layer;
    layer.rank = k;
    for (const bool of_keys : {true, false}) {
      const std::vector<float>& matrix = of_keys ? attention.keys : attention.values;
      HOLO_ASSIGN_OR_RETURN(const Eigenvectors components, Decompose(Transform(covariance, matrix)));
      const std::vector<float> encoder = ToFloats(components.vectors.leftCols(k));
      layer.encoder.insert(layer.encoder.end(), encoder.begin(), encoder.end());
      const Matrix bias = FromFloats(of_keys ? attention.key_bias : attention.value_bias, 1);
      const std::vector<float> centre = ToFloats(row * FromFloats(matrix, width) + bias);
      layer.mean.insert(layer.mean.end(), centre.begin(), centre.end());
    }
    basis.layers.push_back(std::move(layer));
    if (progress && !progress(static_cast<double>(i + 1) / static_cast<double>(statistics.layers.size()))) {
      return Fail(Code::kCancelled, "calibration: cancelled");
    }
  }
  return basis;
}

Result<std::shared_ptr<const kv_cache::Scheme>> MakeScheme(const kv_cache::Basis& basis,
                                                           const weights::Weights& weights) {
  const std::array<std::uint8_t, 32> found = weights::Fingerprint(weights);
  if (found != basis.base_fingerprint) {
    return Fail(Code::kFailedPrecondition, "basis: it was made for a model with fingerprint " +
                                               bytes::ToHex(basis.base_fingerprint) + ", this one's is " +
                                               bytes::ToHex(found));
  }
  std::vector<kv_cache::LayerWeights> layers;
  for (std::size_t i = 0; i < weights.config().layers; ++i) {
    HOLO_ASSIGN_OR_RETURN(transformer::AttentionWeights attention, transformer::LoadAttention(weights, i));
    layers.push_back({std::move(attention.keys), std::move(attention.values), std::move(attention.value_bias)});
  }
  return kv_cache::MakeProjectedScheme(basis, layers, transformer::MakeRotation(weights.config()));
}

Result<std::vector<LayerRanks>> EffectiveRanks(Statistics& statistics, const weights::Weights& weights) {
  std::vector<LayerRanks> ranks;
  for (std::size_t i = 0; i < statistics.layers.size(); ++i) {
    HOLO_ASSIGN_OR_RETURN(const transformer::AttentionWeights attention, transformer::LoadAttention(weights, i));
    const auto width = static_cast<Eigen::Index>(weights.config().width);
    const auto spectrum_of = [](const Matrix& covariance) -> Result<spectrum::Spectrum> {
      HOLO_ASSIGN_OR_RETURN(const Eigenvectors decomposed, Decompose(covariance));
      spectrum::Spectrum out;
      out.eigenvalues.assign(decomposed.values.data(), decomposed.values.data() + decomposed.values.size());
      return out;
    };
    const std::vector<double> hidden_values = statistics.layers[i].hidden.Matrix();
    const std::vector<double> values = statistics.layers[i].normalised.Matrix();
    const Matrix covariance = FromDoubles(values.data(), width, width);
    HOLO_ASSIGN_OR_RETURN(const spectrum::Spectrum of_hidden,
                          spectrum_of(FromDoubles(hidden_values.data(), width, width)));
    HOLO_ASSIGN_OR_RETURN(const spectrum::Spectrum of_keys, spectrum_of(Transform(covariance, attention.keys)));
    HOLO_ASSIGN_OR_RETURN(const spectrum::Spectrum of_values, spectrum_of(Transform(covariance, attention.values)));
    ranks.push_back({of_hidden.EffectiveRank(), of_keys.EffectiveRank(), of_values.EffectiveRank(),
                     of_hidden.ShannonRank(), of_keys.ShannonRank(), of_values.ShannonRank()});
  }
  return ranks;
}

}  // namespace holo::calibration
