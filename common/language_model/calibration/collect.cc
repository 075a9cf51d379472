#include <algorithm>
#include <cmath>

#include "common/language_model/calibration/calibration.h"

namespace holo::calibration {
namespace {

// Of every so many queries one is looked at: they are plenty, and each costs an attention of its own.
constexpr std::size_t kQueryStride = 8;

// W_o W_o^T of one head, [head_width, head_width]: |x W_o|^2 = x P x^T.
std::vector<double> OutputMetric(const transformer::AttentionWeights& weights, std::size_t head, std::size_t head_width,
                                 std::size_t width) {
  std::vector<double> metric(head_width * head_width);
  for (std::size_t i = 0; i < head_width; ++i) {
    const float* a = weights.projection.data() + (head * head_width + i) * width;
    for (std::size_t j = 0; j <= i; ++j) {
      const float* b = weights.projection.data() + (head * head_width + j) * width;
      double sum = 0;
      for (std::size_t o = 0; o < width; ++o) sum += double{a[o]} * b[o];
      metric[i * head_width + j] = metric[j * head_width + i] = sum;
    }
  }
  return metric;
}

double Form(const std::vector<double>& metric, std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double row = 0;
    for (std::size_t j = 0; j < b.size(); ++j) row += metric[i * b.size() + j] * b[j];
    sum += a[i] * row;
  }
  return sum;
}

// Keys drawn for each query where they are rotated.
constexpr std::size_t kDrawnKeys = 2;

// What one head's queries say about the cost of errors; a window's rows, from its first token on.
void AddHead(const transformer::LayerView& view, std::size_t head, std::size_t key_head, std::size_t head_width,
             std::size_t width, const kv_cache::Rotation* rotation, const std::vector<double>& metric,
             LayerStatistics& statistics) {
  const std::size_t rows = view.rows;
  std::vector<float> rotated;
  if (rotation != nullptr) {
    rotated.resize(rows * head_width);
    for (std::size_t row = 0; row < rows; ++row) {
      float* const to = rotated.data() + row * head_width;
      std::copy_n(view.keys + row * view.key_stride + key_head * head_width, head_width, to);
      rotation->Turn(row, 1, to);
    }
  }
  const auto key = [&](std::size_t row) {
    return rotation != nullptr ? rotated.data() + row * head_width
                               : view.keys + row * view.key_stride + key_head * head_width;
  };
  const auto value = [&](std::size_t row) { return view.values + row * view.key_stride + key_head * head_width; };
  std::vector<double> norms(rows);  // of v W_o, squared
  std::vector<double> wide(head_width);
  for (std::size_t row = 0; row < rows; ++row) {
    std::copy_n(value(row), head_width, wide.begin());
    norms[row] = Form(metric, wide, wide);
  }
  const double scale = 1 / std::sqrt(static_cast<double>(head_width));
  std::vector<double> attention(rows);
  std::vector<double> mean(head_width);
  std::vector<double> mean_in_metric(head_width);
  double* const moments = statistics.query_moments.data() + head * head_width * head_width;
  std::vector<float> turned(head_width);
  std::vector<double> weights(rows);
  for (std::size_t row = kQueryStride - 1; row < rows; row += kQueryStride) {
    const float* query = view.queries + row * width + head * head_width;
    if (rotation != nullptr) {
      std::copy_n(query, head_width, turned.begin());
      rotation->Turn(row, 1, turned.data());
      query = turned.data();
    }
    double largest = -1e300;
    for (std::size_t j = 0; j <= row; ++j) {
      // In float32, as the model itself would; what is made of it is summed in double.
      float score = 0;
      for (std::size_t i = 0; i < head_width; ++i) score += query[i] * key(j)[i];
      attention[j] = score * scale;
      largest = std::max(largest, attention[j]);
    }
    double total = 0;
    for (std::size_t j = 0; j <= row; ++j) total += attention[j] = std::exp(attention[j] - largest);
    std::fill(mean.begin(), mean.end(), 0.0);
    for (std::size_t j = 0; j <= row; ++j) {
      attention[j] /= total;
      for (std::size_t i = 0; i < head_width; ++i) mean[i] += attention[j] * value(j)[i];
    }
    for (std::size_t i = 0; i < head_width; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < head_width; ++j) sum += metric[i * head_width + j] * mean[j];
      mean_in_metric[i] = sum;
    }
    double norm_of_mean = 0;
    for (std::size_t i = 0; i < head_width; ++i) norm_of_mean += mean[i] * mean_in_metric[i];
    double squares = 0;
    double moved = 0;
    for (std::size_t j = std::min(kv_cache::kExactTokens, row + 1); j <= row; ++j) {
      double product = 0;
      for (std::size_t i = 0; i < head_width; ++i) product += value(j)[i] * mean_in_metric[i];
      const double square = attention[j] * attention[j];
      squares += square;
      weights[j] = square * std::max(0.0, norms[j] - 2 * product + norm_of_mean);
      moved += weights[j];
    }
    double residual = 1e-12;
    for (std::size_t i = 0; i < width; ++i)
      residual += double{view.hidden[row * width + i]} * view.hidden[row * width + i];
    statistics.value_weights[head] += squares / residual;
    const double weight = moved / residual;
    const auto add = [&](const float* of, double weighted) {
      for (std::size_t i = 0; i < head_width; ++i) {
        for (std::size_t j = 0; j < head_width; ++j) moments[i * head_width + j] += weighted * of[i] * of[j];
      }
    };
    if (rotation == nullptr) {
      add(query, weight);
      continue;
    }
    if (!(moved > 0)) continue;
    // Evenly spaced in the sum of weights, from a place that differs from query to query.
    const double start = std::fmod(static_cast<double>(row) * 0.6180339887498949, 1.0);
    double sum = 0;
    std::size_t drawn = 0;
    std::vector<float> back(head_width);
    for (std::size_t j = std::min(kv_cache::kExactTokens, row + 1); j <= row && drawn < kDrawnKeys; ++j) {
      sum += weights[j];
      for (; drawn < kDrawnKeys && (static_cast<double>(drawn) + start) / kDrawnKeys * moved < sum; ++drawn) {
        std::copy_n(query, head_width, back.begin());
        rotation->TurnBack(j, back.data());
        add(back.data(), weight / kDrawnKeys);
      }
    }
  }
}

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
  std::vector<std::vector<double>> metrics;  // [layer * heads + head]
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
        AddHead(view, head, head * config.keys() / heads, head_width, width, model.rotation().get(),
                metrics[view.layer * heads + head], layer);
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
    statistics.queries += count / kQueryStride;
    if (progress && !progress(static_cast<double>(from + count) / static_cast<double>(tokens.size()))) {
      return Fail(Code::kCancelled, "calibration: cancelled");
    }
  }
  return statistics;
}

}  // namespace holo::calibration
