#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "common/language_model/calibration/calibration.h"

namespace holo::calibration {
namespace {

// Of every so many queries one is looked at: they are plenty, and each costs an attention of its own.
constexpr Eigen::Index kQueryStride = 8;

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Stride = Eigen::OuterStride<>;
using Floats =
    Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>, Eigen::Unaligned, Stride>;

// W_o W_o^T of one head, [head_width, head_width]: |x W_o|^2 = x P x^T.
Matrix OutputMetric(const transformer::AttentionWeights& weights, std::size_t head, std::size_t head_width,
                    std::size_t width) {
  const Floats projection(weights.projection.data() + head * head_width * width, static_cast<Eigen::Index>(head_width),
                          static_cast<Eigen::Index>(width), Stride(static_cast<Eigen::Index>(width)));
  const Matrix own = projection.cast<double>();
  return own * own.transpose();
}

// Keys drawn for each query where they are rotated.
constexpr Eigen::Index kDrawnKeys = 2;

// One head's keys and values of a window, as attention sees them, and what its queries say about the cost of errors.
class Head {
 public:
  Head(const transformer::LayerView& view, std::size_t head, std::size_t key_head, std::size_t head_width,
       std::size_t width, const kv_cache::Rotation* rotation, const Matrix& metric)
      : view_(view),
        head_(head),
        head_width_(static_cast<Eigen::Index>(head_width)),
        width_(width),
        rotation_(rotation),
        metric_(metric),
        turned_(head_width) {
    const auto rows = static_cast<Eigen::Index>(view.rows);
    keys_.resize(rows, head_width_);
    for (Eigen::Index row = 0; row < rows; ++row) {
      keys_.row(row) = At(view.keys + static_cast<std::size_t>(row) * view.key_stride + key_head * head_width, row);
    }
    values_ = Floats(view.values + key_head * head_width, rows, head_width_,
                     Stride(static_cast<Eigen::Index>(view.key_stride)))
                  .cast<double>();
    values_in_metric_ = values_ * metric;
    norms_ = values_in_metric_.cwiseProduct(values_).rowwise().sum();
  }

  void Add(LayerStatistics& statistics) {
    // Together, so that few products are of rows that come after their query.
    constexpr Eigen::Index kTogether = 16;
    const Eigen::Index count = keys_.rows() / kQueryStride;
    for (Eigen::Index first = 0; first < count; first += kTogether) {
      AddQueries(first, std::min(kTogether, count - first), statistics);
    }
  }

 private:
  static Eigen::Index RowOf(Eigen::Index query) { return kQueryStride * (query + 1) - 1; }

  Eigen::RowVectorXd At(const float* from, Eigen::Index row) {
    std::copy_n(from, head_width_, turned_.data());
    if (rotation_ != nullptr) rotation_->Turn(static_cast<std::size_t>(row), 1, turned_.data());
    return turned_.cast<double>();
  }

  void AddQueries(Eigen::Index first_query, Eigen::Index count, LayerStatistics& statistics) {
    Matrix queries(count, head_width_);
    for (Eigen::Index i = 0; i < count; ++i) {
      const Eigen::Index row = RowOf(first_query + i);
      queries.row(i) =
          At(view_.queries + static_cast<std::size_t>(row) * width_ + head_ * static_cast<std::size_t>(turned_.size()),
             row);
    }
    const Eigen::Index rows = RowOf(first_query + count - 1) + 1;
    Matrix attention = queries * keys_.topRows(rows).transpose() / std::sqrt(static_cast<double>(head_width_));
    for (Eigen::Index i = 0; i < count; ++i) {
      const Eigen::Index seen = RowOf(first_query + i) + 1;
      auto own = attention.row(i).head(seen);
      own.array() = (own.array() - own.maxCoeff()).exp();
      own /= own.sum();
      attention.row(i).tail(rows - seen).setZero();
    }
    const Matrix means = attention * values_.topRows(rows);
    const Matrix products = means * values_in_metric_.topRows(rows).transpose();
    const Eigen::VectorXd norms_of_means = (means * metric_).cwiseProduct(means).rowwise().sum();

    // Queries times the root of their weights.
    Matrix drawn = Matrix::Zero(rotation_ == nullptr ? count : count * kDrawnKeys, head_width_);
    for (Eigen::Index i = 0; i < count; ++i) {
      const Eigen::Index row = RowOf(first_query + i);
      const Eigen::Index exact = std::min<Eigen::Index>(kv_cache::kExactTokens, row + 1);
      const Eigen::Index coded = row + 1 - exact;
      const Eigen::RowVectorXd squares = attention.row(i).segment(exact, coded).cwiseAbs2();
      const Eigen::RowVectorXd distances =
          (norms_.segment(exact, coded).transpose() - 2 * products.row(i).segment(exact, coded)).array() +
          norms_of_means[i];
      const Eigen::RowVectorXd weights = squares.cwiseProduct(distances.cwiseMax(0));
      const double moved = weights.sum();
      const Eigen::Map<const Eigen::RowVectorXf> hidden(view_.hidden + static_cast<std::size_t>(row) * width_,
                                                        static_cast<Eigen::Index>(width_));
      const double residual = 1e-12 + hidden.cast<double>().squaredNorm();
      statistics.value_weights[head_] += squares.sum() / residual;
      if (rotation_ == nullptr) {
        drawn.row(i) = queries.row(i) * std::sqrt(moved / residual);
        continue;
      }
      if (!(moved > 0)) continue;
      // Evenly spaced in the sum of weights, from a place that differs from query to query.
      const double start = std::fmod(static_cast<double>(row) * 0.6180339887498949, 1.0);
      double sum = 0;
      Eigen::Index number = 0;
      for (Eigen::Index j = 0; j < coded && number < kDrawnKeys; ++j) {
        sum += weights[j];
        for (; number < kDrawnKeys && (static_cast<double>(number) + start) / kDrawnKeys * moved < sum; ++number) {
          turned_ = queries.row(i).cast<float>();
          rotation_->TurnBack(static_cast<std::size_t>(exact + j), turned_.data());
          drawn.row(i * kDrawnKeys + number) = turned_.cast<double>() * std::sqrt(moved / residual / kDrawnKeys);
        }
      }
    }
    Eigen::Map<Matrix> moments(statistics.query_moments.data() + head_ * static_cast<std::size_t>(metric_.size()),
                               head_width_, head_width_);
    moments.noalias() += drawn.transpose() * drawn;
  }

  const transformer::LayerView& view_;
  const std::size_t head_;
  const Eigen::Index head_width_;
  const std::size_t width_;
  const kv_cache::Rotation* const rotation_;
  const Matrix& metric_;  // of a value's error
  Eigen::RowVectorXf turned_;
  Matrix keys_, values_, values_in_metric_;  // [rows, head_width]
  Eigen::VectorXd norms_;                    // of v W_o, squared
};

}  // namespace

Result<Statistics> Collect(const transformer::Model& model, const weights::Weights& weights,
                           std::span<const std::uint32_t> tokens, compute::ThreadPool& pool, const Progress& progress) {
  if (tokens.size() < kMinTokens) {
    return Fail(Code::kInvalidArgument, "calibration: expected a text of at least " + std::to_string(kMinTokens) +
                                            " tokens, found " + std::to_string(tokens.size()));
  }
  const weights::Config& config = model.config();
  const std::size_t width = config.width;
  const std::size_t heads = config.heads;
  const std::size_t head_width = config.head_width();
  Statistics statistics;
  std::vector<Matrix> metrics;  // [layer * heads + head]
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    HOLO_ASSIGN_OR_RETURN(const transformer::AttentionWeights attention, transformer::LoadAttention(weights, layer));
    for (std::size_t head = 0; head < heads; ++head)
      metrics.push_back(OutputMetric(attention, head, head_width, width));
    HOLO_ASSIGN_OR_RETURN(spectrum::Covariance hidden, spectrum::Covariance::Create(config.width));
    statistics.layers.push_back(
        {hidden, hidden, hidden, std::vector<double>(heads * head_width * head_width), std::vector<double>(heads)});
  }
  HOLO_ASSIGN_OR_RETURN(const auto scheme, kv_cache::MakePlainScheme(model.geometry(), kv_cache::Precision::kF32));
  kv_cache::Cache cache(scheme);
  transformer::Workspace workspace;
  const auto observe = [&](const transformer::LayerView& view) {
    LayerStatistics& layer = statistics.layers[view.layer];
    // Each task has sums of its own, so the order of tasks does not matter.
    pool.ForEach(2 + heads, [&](std::size_t task, unsigned) {
      if (task == 0) {
        for (std::size_t row = 0; row < view.rows; ++row) layer.hidden.Add({view.hidden + row * width, width});
      } else if (task == 1) {
        for (std::size_t row = 0; row < view.rows; ++row) {
          const std::span<const float> sample(view.normalised + row * width, width);
          layer.normalised.Add(sample);
          if (row < kv_cache::kExactTokens) layer.normalised_exact.Add(sample);
        }
      } else {
        const std::size_t head = task - 2;
        Head(view, head, head * config.keys() / heads, head_width, width, model.rotation().get(),
             metrics[view.layer * heads + head])
            .Add(layer);
      }
    });
  };
  const std::size_t most = std::min<std::size_t>(config.context, kMostWindow);
  for (std::size_t from = 0; from < tokens.size(); from += most) {
    const std::size_t count = std::min(most, tokens.size() - from);
    cache.Truncate(0);
    const transformer::Sequence sequence{tokens.subspan(from, count), &cache, false};
    HOLO_RETURN_IF_ERROR(model.Forward({&sequence, 1}, workspace, pool, observe));
    statistics.tokens += count;
    statistics.queries += count / static_cast<std::size_t>(kQueryStride);
    if (progress && !progress(static_cast<double>(from + count) / static_cast<double>(tokens.size()))) {
      return Fail(Code::kCancelled, "calibration: cancelled");
    }
  }
  return statistics;
}

}  // namespace holo::calibration
