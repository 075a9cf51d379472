#include "common/language_model/transformer/transformer.h"

#include <algorithm>

namespace holo::transformer {
namespace {

using compute::Matrix;
using compute::WeightType;

void Grow(std::vector<float>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

std::vector<float> Columns(const std::vector<float>& matrix, std::size_t columns, std::size_t first,
                           std::size_t count) {
  const std::size_t rows = matrix.size() / columns;
  std::vector<float> out(rows * count);
  for (std::size_t row = 0; row < rows; ++row)
    std::copy_n(matrix.data() + row * columns + first, count, out.data() + row * count);
  return out;
}

// y = (z * gain + shift) W + b as y = z W' + b'.
void Fold(const std::vector<float>& gain, const std::vector<float>& shift, std::vector<float>& matrix,
          std::vector<float>& bias) {
  const std::size_t outputs = bias.size();
  std::vector<double> sums(bias.begin(), bias.end());
  for (std::size_t i = 0; i < gain.size(); ++i) {
    float* row = matrix.data() + i * outputs;
    for (std::size_t o = 0; o < outputs; ++o) {
      sums[o] += double{shift[i]} * row[o];
      row[o] *= gain[i];
    }
  }
  for (std::size_t o = 0; o < outputs; ++o) bias[o] = static_cast<float>(sums[o]);
}

Result<Matrix> LoadMatrix(WeightType type, const weights::Tensor& weight, const weights::Tensor& bias,
                          const std::shared_ptr<compute::Arena>& arena) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<float> values, weights::ToFloat(weight));
  HOLO_ASSIGN_OR_RETURN(const std::vector<float> biases, weights::ToFloat(bias));
  return Matrix::Pack(type, weight.shape[0], weight.shape[1], values, biases, arena);
}

// What all matrices of a model take.
std::size_t MatrixBytes(const weights::Gpt2Config& config, WeightType type) {
  const std::size_t width = config.width;
  const std::size_t head = Matrix::Share(type, width, config.vocabulary);
  const std::size_t layer = 2 * Matrix::Share(type, width, width) + Matrix::Share(type, width, 2 * width) +
                            Matrix::Share(type, width, config.inner_width) +
                            Matrix::Share(type, config.inner_width, width);
  return (config.tied_head ? 1 : 2) * head + config.layers * layer;
}

}  // namespace

Result<AttentionWeights> LoadAttention(const weights::Gpt2Layer& layer) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<float> gain, weights::ToFloat(layer.ln_1_weight));
  HOLO_ASSIGN_OR_RETURN(const std::vector<float> shift, weights::ToFloat(layer.ln_1_bias));
  HOLO_ASSIGN_OR_RETURN(std::vector<float> matrix, weights::ToFloat(layer.attention_weight));
  HOLO_ASSIGN_OR_RETURN(std::vector<float> bias, weights::ToFloat(layer.attention_bias));
  Fold(gain, shift, matrix, bias);
  const std::size_t width = gain.size();
  const auto bias_from = [&](std::size_t first) {
    const auto begin = bias.begin() + static_cast<std::ptrdiff_t>(first);
    return std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(width));
  };
  AttentionWeights out;
  out.queries = Columns(matrix, 3 * width, 0, width);
  out.keys = Columns(matrix, 3 * width, width, width);
  out.values = Columns(matrix, 3 * width, 2 * width, width);
  out.query_bias = bias_from(0);
  out.key_bias = bias_from(width);
  out.value_bias = bias_from(2 * width);
  HOLO_ASSIGN_OR_RETURN(out.projection, weights::ToFloat(layer.projection_weight));
  return out;
}

Result<std::shared_ptr<const Model>> Model::Create(const weights::Gpt2Weights& weights, WeightType type) {
  const weights::Gpt2Config& config = weights.config;
  auto model = std::shared_ptr<Model>(new Model());
  model->config_ = config;
  const std::size_t width = config.width;
  const auto arena = std::make_shared<compute::Arena>(MatrixBytes(config, type));
  {
    HOLO_ASSIGN_OR_RETURN(const std::vector<float> values, weights::ToFloat(weights.wte));
    model->embedding_ = Matrix::PackTransposed(type, width, config.vocabulary, values, {}, arena);
  }
  if (!config.tied_head) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<float> values, weights::ToFloat(weights.head));
    model->untied_head_ = Matrix::PackTransposed(type, width, config.vocabulary, values, {}, arena);
  }
  HOLO_ASSIGN_OR_RETURN(model->positions_, weights::ToFloat(weights.wpe));
  HOLO_ASSIGN_OR_RETURN(model->final_gain_, weights::ToFloat(weights.ln_f_weight));
  HOLO_ASSIGN_OR_RETURN(model->final_bias_, weights::ToFloat(weights.ln_f_bias));
  for (const weights::Gpt2Layer& from : weights.layers) {
    Layer layer;
    {
      HOLO_ASSIGN_OR_RETURN(AttentionWeights attention, LoadAttention(from));
      layer.queries = Matrix::Pack(type, width, width, attention.queries, attention.query_bias, arena);
      std::vector<float> both(2 * width * width);
      for (std::size_t i = 0; i < width; ++i) {
        std::copy_n(attention.keys.data() + i * width, width, both.data() + 2 * i * width);
        std::copy_n(attention.values.data() + i * width, width, both.data() + (2 * i + 1) * width);
      }
      std::vector<float> bias = attention.key_bias;
      bias.insert(bias.end(), attention.value_bias.begin(), attention.value_bias.end());
      layer.keys_and_values = Matrix::Pack(type, width, 2 * width, both, bias, arena);
    }
    {
      HOLO_ASSIGN_OR_RETURN(const std::vector<float> gain, weights::ToFloat(from.ln_2_weight));
      HOLO_ASSIGN_OR_RETURN(const std::vector<float> shift, weights::ToFloat(from.ln_2_bias));
      HOLO_ASSIGN_OR_RETURN(std::vector<float> matrix, weights::ToFloat(from.fc_weight));
      HOLO_ASSIGN_OR_RETURN(std::vector<float> bias, weights::ToFloat(from.fc_bias));
      Fold(gain, shift, matrix, bias);
      layer.fc = Matrix::Pack(type, width, config.inner_width, matrix, bias, arena);
    }
    HOLO_ASSIGN_OR_RETURN(layer.projection, LoadMatrix(type, from.projection_weight, from.projection_bias, arena));
    HOLO_ASSIGN_OR_RETURN(layer.fc_projection,
                          LoadMatrix(type, from.fc_projection_weight, from.fc_projection_bias, arena));
    model->layers_.push_back(std::move(layer));
  }
  return model;
}

kv_cache::Geometry Model::geometry() const {
  return {config_.layers, config_.heads, config_.head_width()};
}

std::size_t Model::bytes() const {
  std::size_t sum = embedding_.bytes() + untied_head_.bytes() +
                    (positions_.size() + final_gain_.size() + final_bias_.size()) * sizeof(float);
  for (const Layer& layer : layers_) {
    sum += layer.queries.bytes() + layer.keys_and_values.bytes() + layer.projection.bytes() + layer.fc.bytes() +
           layer.fc_projection.bytes();
  }
  return sum;
}

Result<void> Model::Check(std::span<const Sequence> sequences) const {
  for (const Sequence& sequence : sequences) {
    if (sequence.tokens.empty()) return Fail(Code::kInvalidArgument, "tokens: expected at least one, found none");
    const kv_cache::Geometry& geometry = sequence.cache->scheme().geometry();
    if (geometry != this->geometry()) {
      return Fail(Code::kInvalidArgument,
                  "cache: expected " + std::to_string(config_.layers) + " layers of " + std::to_string(config_.heads) +
                      " heads of " + std::to_string(config_.head_width()) + ", found " +
                      std::to_string(geometry.layers) + " of " + std::to_string(geometry.heads) + " of " +
                      std::to_string(geometry.head_width));
    }
    const std::size_t total = sequence.cache->tokens() + sequence.tokens.size();
    if (total > config_.context) {
      return Fail(Code::kOutOfRange, "tokens: expected at most " + std::to_string(config_.context) +
                                         " in the model's context, found " + std::to_string(total));
    }
    for (const std::uint32_t token : sequence.tokens) {
      if (token >= config_.vocabulary) {
        return Fail(Code::kInvalidArgument, "tokens: expected numbers below the vocabulary's " +
                                                std::to_string(config_.vocabulary) + ", found " +
                                                std::to_string(token));
      }
    }
  }
  return {};
}

void Model::RunLayer(std::size_t index, std::span<const Sequence> sequences, std::size_t rows,
                     bool needs_keys_and_values, Workspace& workspace, compute::ThreadPool& pool,
                     const Observer& observer) const {
  using compute::Store;
  const Layer& layer = layers_[index];
  const std::size_t width = config_.width;
  float* const hidden = workspace.hidden.data();
  float* const normalised = workspace.normalised.data();
  constexpr std::size_t kRowsPerTask = 16;
  const auto normalise = [&] {
    pool.ForEach((rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::size_t task, unsigned) {
      for (std::size_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) {
        compute::NormaliseRow(hidden + row * width, width, config_.layer_norm_epsilon, nullptr, nullptr,
                              normalised + row * width);
      }
    });
  };
  normalise();
  float* const queries = workspace.queries.data();
  compute::Multiply(layer.queries, normalised, rows, queries, Store::kReplace, workspace.scratch, pool);
  float* const keys = workspace.keys_and_values.data();
  if (needs_keys_and_values) {
    compute::Multiply(layer.keys_and_values, normalised, rows, keys, Store::kReplace, workspace.scratch, pool);
  }
  if (observer) observer({index, rows, hidden, normalised, queries, keys, keys + width, 2 * width});

  workspace.requests.clear();
  std::size_t first = 0;
  for (std::size_t i = 0; i < sequences.size();) {
    // Neighbours with the same scheme are prepared together.
    const kv_cache::Scheme& scheme = sequences[i].cache->scheme();
    std::size_t end = i;
    std::size_t count = 0;
    for (; end < sequences.size() && &sequences[end].cache->scheme() == &scheme; ++end) {
      count += sequences[end].tokens.size();
    }
    const std::size_t prepared_width = scheme.prepared_width(index);
    Grow(workspace.prepared, count * prepared_width);
    const auto rows_from = [&](std::size_t row, std::size_t number) {
      kv_cache::Rows of;
      of.count = number;
      of.normalised = normalised + row * width;
      if (!needs_keys_and_values) return of;
      of.keys = keys + row * 2 * width;
      of.values = of.keys + width;
      of.key_stride = 2 * width;
      return of;
    };
    scheme.Prepare(index, rows_from(first, count), workspace.prepared.data(), workspace.scratch, pool);
    const float* prepared = workspace.prepared.data();
    workspace.writes.clear();
    for (; i < end; ++i) {
      const std::size_t number = sequences[i].tokens.size();
      kv_cache::Cache* const cache = sequences[i].cache;
      cache->Reserve(cache->tokens() + number);
      for (std::size_t part = 0; part < cache->AppendParts(number); ++part) {
        workspace.writes.push_back({cache, rows_from(first, number), prepared, part});
      }
      workspace.requests.push_back(
          {cache, number, queries + first * width, workspace.attention.data() + first * width});
      prepared += number * prepared_width;
      first += number;
    }
    pool.ForEach(workspace.writes.size(), [&](std::size_t task, unsigned) {
      const Workspace::Write& write = workspace.writes[task];
      write.cache->AppendPart(index, write.rows, write.prepared, write.part);
    });
  }
  kv_cache::Attend(index, workspace.requests, workspace.attention_scratch, pool);
  compute::Multiply(layer.projection, workspace.attention.data(), rows, hidden, Store::kAdd, workspace.scratch, pool);

  normalise();
  float* const inner = workspace.inner.data();
  compute::Multiply(layer.fc, normalised, rows, inner, Store::kReplace, workspace.scratch, pool);
  // The padding behind the last value goes through Gelu too, and stays finite.
  const std::size_t padded = compute::RoundUp(rows * config_.inner_width, compute::kPanel);
  constexpr std::size_t kPerTask = 64 * compute::kPanel;
  pool.ForEach((padded + kPerTask - 1) / kPerTask, [&](std::size_t task, unsigned) {
    compute::Gelu(inner + task * kPerTask, std::min(kPerTask, padded - task * kPerTask));
  });
  compute::Multiply(layer.fc_projection, inner, rows, hidden, Store::kAdd, workspace.scratch, pool);
}

Result<std::span<const float>> Model::Forward(std::span<const Sequence> sequences, Workspace& workspace,
                                              compute::ThreadPool& pool, const Observer& observer) const {
  HOLO_RETURN_IF_ERROR(Check(sequences));
  const std::size_t width = config_.width;
  std::size_t rows = 0;
  std::size_t wanted = 0;
  bool needs_keys_and_values = static_cast<bool>(observer);
  for (const Sequence& sequence : sequences) {
    rows += sequence.tokens.size();
    wanted += sequence.all_logits ? sequence.tokens.size() : 1;
    needs_keys_and_values = needs_keys_and_values || sequence.cache->scheme().needs_keys_and_values();
  }
  Grow(workspace.hidden, rows * width);
  Grow(workspace.normalised, rows * width);
  Grow(workspace.queries, rows * width);
  Grow(workspace.keys_and_values, needs_keys_and_values ? rows * 2 * width : 0);
  Grow(workspace.attention, rows * width);
  Grow(workspace.inner, compute::RoundUp(rows * config_.inner_width, compute::kPanel));
  Grow(workspace.last, wanted * width);
  Grow(workspace.logits, wanted * config_.vocabulary);

  float* row = workspace.hidden.data();
  for (const Sequence& sequence : sequences) {
    const float* position = positions_.data() + sequence.cache->tokens() * width;
    for (const std::uint32_t token : sequence.tokens) {
      embedding_.CopyOutput(token, {row, width});
      for (std::size_t i = 0; i < width; ++i) row[i] += position[i];
      row += width;
      position += width;
    }
  }
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    RunLayer(layer, sequences, rows, needs_keys_and_values, workspace, pool, observer);
  }
  const float* from = workspace.hidden.data();
  float* to = workspace.last.data();
  for (const Sequence& sequence : sequences) {
    const std::size_t count = sequence.tokens.size();
    sequence.cache->Commit(count);
    for (std::size_t i = sequence.all_logits ? 0 : count - 1; i < count; ++i, to += width) {
      compute::NormaliseRow(from + i * width, width, config_.layer_norm_epsilon, final_gain_.data(), final_bias_.data(),
                            to);
    }
    from += count * width;
  }
  const Matrix& head = config_.tied_head ? embedding_ : untied_head_;
  compute::Multiply(head, workspace.last.data(), wanted, workspace.logits.data(), compute::Store::kReplace,
                    workspace.scratch, pool);
  return std::span<const float>(workspace.logits.data(), wanted * config_.vocabulary);
}

}  // namespace holo::transformer
