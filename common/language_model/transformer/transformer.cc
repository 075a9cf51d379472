#include "common/language_model/transformer/transformer.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

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

Result<Linear> LoadMatrix(WeightType type, const weights::Tensor& weight, const weights::Tensor& bias,
                          const std::shared_ptr<compute::Arena>& arena) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<float> values, weights::ToFloat(weight));
  HOLO_ASSIGN_OR_RETURN(const std::vector<float> biases, weights::ToFloat(bias));
  return Linear(Matrix::Pack(type, weight.shape[0], weight.shape[1], values, biases, arena));
}

// What all matrices of a model take.
std::size_t MatrixBytes(const weights::Config& config, WeightType type) {
  const std::size_t width = config.width;
  const std::size_t head = Matrix::Share(type, width, config.vocabulary);
  const std::size_t layer = 2 * Matrix::Share(type, width, width) + Matrix::Share(type, width, 2 * width) +
                            Matrix::Share(type, width, config.inner_width) +
                            Matrix::Share(type, config.inner_width, width);
  return (config.tied_head ? 1 : 2) * head + config.layers * layer;
}

// Rows of all heads, each of which has the two rows of a pair side by side, as Rotation wants them.
std::vector<std::uint8_t> SplitPairs(const weights::StoredTensor& tensor, std::size_t head_width) {
  const std::size_t rows = tensor.shape[0];
  const std::size_t row_bytes = tensor.bytes.size() / rows;
  std::vector<std::uint8_t> out(tensor.bytes.size());
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t in_head = row % head_width;
    const std::size_t to = row - in_head + in_head % 2 * (head_width / 2) + in_head / 2;
    std::copy_n(tensor.bytes.data() + row * row_bytes, row_bytes, out.data() + to * row_bytes);
  }
  return out;
}

Result<std::vector<float>> Floats(const weights::StoredTensor& tensor, std::span<const std::uint8_t> bytes) {
  std::size_t elements = 1;
  for (const std::uint64_t extent : tensor.shape) elements *= extent;
  std::vector<float> out(elements);
  blocks::Expand(tensor.type, bytes, out);
  const auto found = std::find_if_not(out.begin(), out.end(), [](float value) { return std::isfinite(value); });
  if (found == out.end()) return out;
  return Fail(Code::kInvalidArgument, "tensor " + tensor.name + ": expected finite numbers, found " +
                                          (std::isnan(*found) ? "NaN" : "infinity") + " as element " +
                                          std::to_string(found - out.begin()) + " of shape " +
                                          weights::ShapeToString(tensor.shape));
}
Result<std::vector<float>> Floats(const weights::StoredTensor& tensor) {
  return Floats(tensor, tensor.bytes);
}

// A tensor of a Llama, and whether its rows have to be put in another order.
struct Source {
  const weights::StoredTensor* tensor = nullptr;
  std::size_t split_head_width = 0;
};

// Matrices of the same inputs, their outputs behind each other: in their own blocks, or packed as `type`.
Result<Linear> LoadTogether(std::span<const Source> sources, std::optional<WeightType> type,
                            const std::shared_ptr<compute::Arena>& arena) {
  std::vector<blocks::Matrix> parts;
  std::vector<float> values;
  const std::size_t inputs = sources[0].tensor->shape[1];
  std::size_t outputs = 0;
  for (const Source& source : sources) {
    const weights::StoredTensor& tensor = *source.tensor;
    std::vector<std::uint8_t> split;
    if (source.split_head_width > 0) split = SplitPairs(tensor, source.split_head_width);
    const std::span<const std::uint8_t> bytes = split.empty() ? tensor.bytes : std::span<const std::uint8_t>(split);
    outputs += tensor.shape[0];
    if (!type) {
      HOLO_ASSIGN_OR_RETURN(blocks::Matrix part, blocks::Matrix::Pack(tensor.type, inputs, tensor.shape[0], bytes, {},
                                                                      "tensor " + tensor.name));
      parts.push_back(std::move(part));
      continue;
    }
    HOLO_ASSIGN_OR_RETURN(const std::vector<float> own, Floats(tensor, bytes));
    values.insert(values.end(), own.begin(), own.end());
  }
  if (!type) return Linear(std::move(parts));
  return Linear(Matrix::PackTransposed(*type, inputs, outputs, values, {}, arena));
}

// The type in which a Llama's matrices lose nothing; nothing if that is their own.
std::optional<WeightType> ExactType(const weights::LlamaWeights& weights) {
  bool has_blocks = false;
  bool is_bf16 = true;
  weights.ForEach([&](const weights::StoredTensor& tensor) {
    if (tensor.shape.size() != 2) return;
    has_blocks = has_blocks || blocks::IsQuantised(tensor.type);
    is_bf16 = is_bf16 && tensor.type == gguf::Type::kBf16;
  });
  if (has_blocks) return std::nullopt;
  return is_bf16 ? WeightType::kBf16 : WeightType::kF32;
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

Result<AttentionWeights> LoadAttention(const weights::Weights& weights, std::size_t layer) {
  if (weights.gpt2() != nullptr) return LoadAttention(weights.gpt2()->layers[layer]);
  const weights::LlamaWeights& llama = *weights.llama();
  const weights::LlamaLayer& from = llama.layers[layer];
  const std::size_t split = llama.pairs_are_neighbours ? llama.config.head_width() : 0;
  const auto load = [](const weights::StoredTensor& tensor, std::size_t split_width) -> Result<std::vector<float>> {
    std::vector<std::uint8_t> rows;
    if (split_width > 0) rows = SplitPairs(tensor, split_width);
    HOLO_ASSIGN_OR_RETURN(const std::vector<float> values,
                          Floats(tensor, rows.empty() ? tensor.bytes : std::span<const std::uint8_t>(rows)));
    const std::size_t outputs = tensor.shape[0];
    const std::size_t inputs = tensor.shape[1];
    std::vector<float> out(values.size());
    for (std::size_t o = 0; o < outputs; ++o) {
      for (std::size_t i = 0; i < inputs; ++i) out[i * outputs + o] = values[o * inputs + i];
    }
    return out;
  };
  AttentionWeights out;
  HOLO_ASSIGN_OR_RETURN(out.queries, load(from.queries, split));
  HOLO_ASSIGN_OR_RETURN(out.keys, load(from.keys, split));
  HOLO_ASSIGN_OR_RETURN(out.values, load(from.values, 0));
  HOLO_ASSIGN_OR_RETURN(out.projection, load(from.projection, 0));
  out.query_bias.assign(llama.config.width, 0.0f);
  out.key_bias.assign(llama.config.key_width(), 0.0f);
  out.value_bias = out.key_bias;
  return out;
}

std::shared_ptr<const kv_cache::Rotation> MakeRotation(const weights::Config& config) {
  if (config.frequencies.empty()) return nullptr;
  return std::make_shared<const kv_cache::Rotation>(config.frequencies, config.context);
}

Result<std::shared_ptr<const Model>> Model::Create(const weights::Weights& weights, std::optional<WeightType> type) {
  const weights::Config& config = weights.config();
  auto model = std::shared_ptr<Model>(new Model());
  model->config_ = config;
  if (const weights::Gpt2Weights* gpt2 = weights.gpt2()) {
    if (!type) {
      bool is_bf16 = true;
      gpt2->ForEach([&](const weights::Tensor& tensor) { is_bf16 &= tensor.dtype == weights::Dtype::kBF16; });
      type = is_bf16 ? WeightType::kBf16 : WeightType::kF32;
    }
    HOLO_RETURN_IF_ERROR(model->LoadGpt2(*gpt2, *type));
  } else {
    HOLO_RETURN_IF_ERROR(model->LoadLlama(*weights.llama(), type ? type : ExactType(*weights.llama())));
  }
  return model;
}

Result<void> Model::LoadLlama(const weights::LlamaWeights& weights, std::optional<WeightType> type) {
  const weights::Config& config = weights.config;
  rotation_ = MakeRotation(config);
  std::shared_ptr<compute::Arena> arena;
  if (type) {
    const std::size_t width = config.width;
    const std::size_t head = Matrix::Share(*type, width, config.vocabulary);
    const std::size_t layer = 2 * Matrix::Share(*type, width, width) +
                              Matrix::Share(*type, width, 2 * config.key_width()) +
                              Matrix::Share(*type, width, std::size_t{2} * config.inner_width) +
                              Matrix::Share(*type, config.inner_width, width);
    arena = std::make_shared<compute::Arena>((config.tied_head ? 1 : 2) * head + config.layers * layer);
  }
  const auto load = [&](std::initializer_list<Source> sources) {
    return LoadTogether({sources.begin(), sources.size()}, type, arena);
  };
  const std::size_t split = weights.pairs_are_neighbours ? config.head_width() : 0;
  HOLO_ASSIGN_OR_RETURN(embedding_, load({{&weights.embedding}}));
  if (!config.tied_head) {
    HOLO_ASSIGN_OR_RETURN(untied_head_, load({{&weights.head}}));
  }
  HOLO_ASSIGN_OR_RETURN(final_gain_, Floats(weights.norm));
  for (const weights::LlamaLayer& from : weights.layers) {
    Layer layer;
    HOLO_ASSIGN_OR_RETURN(layer.attention_gain, Floats(from.attention_norm));
    HOLO_ASSIGN_OR_RETURN(layer.inner_gain, Floats(from.inner_norm));
    HOLO_ASSIGN_OR_RETURN(layer.queries, load({{&from.queries, split}}));
    HOLO_ASSIGN_OR_RETURN(layer.keys_and_values, load({{&from.keys, split}, {&from.values}}));
    HOLO_ASSIGN_OR_RETURN(layer.projection, load({{&from.projection}}));
    HOLO_ASSIGN_OR_RETURN(layer.inner, load({{&from.gate}, {&from.up}}));
    HOLO_ASSIGN_OR_RETURN(layer.down, load({{&from.down}}));
    layers_.push_back(std::move(layer));
    weights.ReleasePages();
  }
  return {};
}

Result<void> Model::LoadGpt2(const weights::Gpt2Weights& weights, WeightType type) {
  const weights::Config& config = weights.config;
  const std::size_t width = config.width;
  const auto arena = std::make_shared<compute::Arena>(MatrixBytes(config, type));
  {
    HOLO_ASSIGN_OR_RETURN(const std::vector<float> values, weights::ToFloat(weights.wte));
    weights.ReleasePages();
    embedding_ = Linear(Matrix::PackTransposed(type, width, config.vocabulary, values, {}, arena));
  }
  if (!config.tied_head) {
    HOLO_ASSIGN_OR_RETURN(const std::vector<float> values, weights::ToFloat(weights.head));
    untied_head_ = Linear(Matrix::PackTransposed(type, width, config.vocabulary, values, {}, arena));
  }
  HOLO_ASSIGN_OR_RETURN(positions_, weights::ToFloat(weights.wpe));
  HOLO_ASSIGN_OR_RETURN(final_gain_, weights::ToFloat(weights.ln_f_weight));
  HOLO_ASSIGN_OR_RETURN(final_bias_, weights::ToFloat(weights.ln_f_bias));
  for (const weights::Gpt2Layer& from : weights.layers) {
    Layer layer;
    {
      HOLO_ASSIGN_OR_RETURN(AttentionWeights attention, LoadAttention(from));
      layer.queries = Linear(Matrix::Pack(type, width, width, attention.queries, attention.query_bias, arena));
      std::vector<float> both(2 * width * width);
      for (std::size_t i = 0; i < width; ++i) {
        std::copy_n(attention.keys.data() + i * width, width, both.data() + 2 * i * width);
        std::copy_n(attention.values.data() + i * width, width, both.data() + (2 * i + 1) * width);
      }
      std::vector<float> bias = attention.key_bias;
      bias.insert(bias.end(), attention.value_bias.begin(), attention.value_bias.end());
      layer.keys_and_values = Linear(Matrix::Pack(type, width, 2 * width, both, bias, arena));
    }
    {
      HOLO_ASSIGN_OR_RETURN(const std::vector<float> gain, weights::ToFloat(from.ln_2_weight));
      HOLO_ASSIGN_OR_RETURN(const std::vector<float> shift, weights::ToFloat(from.ln_2_bias));
      HOLO_ASSIGN_OR_RETURN(std::vector<float> matrix, weights::ToFloat(from.fc_weight));
      HOLO_ASSIGN_OR_RETURN(std::vector<float> bias, weights::ToFloat(from.fc_bias));
      Fold(gain, shift, matrix, bias);
      layer.inner = Linear(Matrix::Pack(type, width, config.inner_width, matrix, bias, arena));
    }
    HOLO_ASSIGN_OR_RETURN(layer.projection, LoadMatrix(type, from.projection_weight, from.projection_bias, arena));
    HOLO_ASSIGN_OR_RETURN(layer.down,
                          LoadMatrix(type, from.fc_projection_weight, from.fc_projection_bias, arena));
    layers_.push_back(std::move(layer));
    weights.ReleasePages();
  }
  return {};
}

kv_cache::Geometry Model::geometry() const {
  return {config_.layers, config_.heads, config_.head_width(), config_.keys()};
}

std::size_t Model::bytes() const {
  std::size_t sum = embedding_.bytes() + untied_head_.bytes() +
                    (positions_.size() + final_gain_.size() + final_bias_.size()) * sizeof(float);
  for (const Layer& layer : layers_) {
    sum += layer.queries.bytes() + layer.keys_and_values.bytes() + layer.projection.bytes() + layer.inner.bytes() +
           layer.down.bytes() + (layer.attention_gain.size() + layer.inner_gain.size()) * sizeof(float);
  }
  return sum;
}

Result<void> Model::Check(std::span<const Sequence> sequences) const {
  for (const Sequence& sequence : sequences) {
    if (sequence.tokens.empty()) return Fail(Code::kInvalidArgument, "tokens: expected at least one, found none");
    const kv_cache::Geometry& geometry = sequence.cache->scheme().geometry();
    if (geometry != this->geometry()) {
      const auto shown = [](const kv_cache::Geometry& of, const std::string& layers, const std::string& heads) {
        return std::to_string(of.layers) + layers + " of " + std::to_string(of.heads) + heads +
               (of.keys() == of.heads ? "" : " on " + std::to_string(of.keys()) + " of keys") + " of " +
               std::to_string(of.head_width);
      };
      return Fail(Code::kInvalidArgument, "cache: expected " + shown(this->geometry(), " layers", " heads") + ", found " +
                                              shown(geometry, "", ""));
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

void Model::Normalise(const float* row, const std::vector<float>& gain, const std::vector<float>& bias,
                      float* out) const {
  if (is_llama()) {
    compute::NormaliseByRms(row, config_.width, config_.layer_norm_epsilon, gain.data(), out);
  } else {
    compute::NormaliseRow(row, config_.width, config_.layer_norm_epsilon, gain.empty() ? nullptr : gain.data(),
                          bias.empty() ? nullptr : bias.data(), out);
  }
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
  const std::size_t key_width = config_.key_width();
  const auto for_rows = [&](const auto& work) {
    pool.ForEach((rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::size_t task, unsigned) {
      for (std::size_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) work(row);
    });
  };
  const auto normalise = [&](const std::vector<float>& gain) {
    for_rows([&](std::size_t row) { Normalise(hidden + row * width, gain, {}, normalised + row * width); });
  };
  normalise(layer.attention_gain);
  float* const queries = workspace.queries.data();
  layer.queries.Multiply(normalised, rows, queries, Store::kReplace, workspace.scratch, pool);
  float* const keys = workspace.keys_and_values.data();
  if (needs_keys_and_values) {
    layer.keys_and_values.Multiply(normalised, rows, keys, Store::kReplace, workspace.scratch, pool);
  }
  if (observer) observer({index, rows, hidden, normalised, queries, keys, keys + key_width, 2 * key_width});
  if (rotation_ != nullptr) {
    for_rows([&](std::size_t row) {
      rotation_->Turn(workspace.positions[row], config_.heads, queries + row * width);
    });
  }

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
    if (rotation_ != nullptr && needs_keys_and_values && !scheme.takes_unrotated_keys()) {
      for (std::size_t row = first; row < first + count; ++row) {
        rotation_->Turn(workspace.positions[row], config_.keys(), keys + row * 2 * key_width);
      }
    }
    const std::size_t prepared_width = scheme.prepared_width(index);
    Grow(workspace.prepared, count * prepared_width);
    const auto rows_from = [&](std::size_t row, std::size_t number) {
      kv_cache::Rows of;
      of.count = number;
      of.normalised = normalised + row * width;
      if (!needs_keys_and_values) return of;
      of.keys = keys + row * 2 * key_width;
      of.values = of.keys + key_width;
      of.key_stride = 2 * key_width;
      return of;
    };
    scheme.Prepare(index, rows_from(first, count), workspace.prepared.data(), workspace.scratch.compute, pool);
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
  layer.projection.Multiply(workspace.attention.data(), rows, hidden, Store::kAdd, workspace.scratch, pool);

  normalise(layer.inner_gain);
  float* const inner = workspace.inner.data();
  layer.inner.Multiply(normalised, rows, inner, Store::kReplace, workspace.scratch, pool);
  if (is_llama()) {
    const std::size_t inner_width = config_.inner_width;
    Grow(workspace.gated, rows * inner_width);
    float* const gated = workspace.gated.data();
    for_rows([&](std::size_t row) {
      const float* const gates = inner + row * 2 * inner_width;
      compute::GateBySilu(gates, gates + inner_width, inner_width, gated + row * inner_width);
    });
    layer.down.Multiply(gated, rows, hidden, Store::kAdd, workspace.scratch, pool);
    return;
  }
  // The padding behind the last value goes through Gelu too, and stays finite.
  const std::size_t padded = compute::RoundUp(rows * config_.inner_width, compute::kPanel);
  constexpr std::size_t kPerTask = 64 * compute::kPanel;
  pool.ForEach((padded + kPerTask - 1) / kPerTask, [&](std::size_t task, unsigned) {
    compute::Gelu(inner + task * kPerTask, std::min(kPerTask, padded - task * kPerTask));
  });
  layer.down.Multiply(inner, rows, hidden, Store::kAdd, workspace.scratch, pool);
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
  Grow(workspace.keys_and_values, needs_keys_and_values ? rows * 2 * config_.key_width() : 0);
  Grow(workspace.attention, rows * width);
  Grow(workspace.inner, compute::RoundUp(rows * layers_.front().inner.outputs(), compute::kPanel));
  Grow(workspace.last, wanted * width);
  Grow(workspace.logits, wanted * config_.vocabulary);

  float* row = workspace.hidden.data();
  workspace.positions.clear();
  for (const Sequence& sequence : sequences) {
    std::size_t position = sequence.cache->tokens();
    for (const std::uint32_t token : sequence.tokens) {
      embedding_.CopyOutput(token, {row, width});
      if (rotation_ == nullptr) {
        for (std::size_t i = 0; i < width; ++i) row[i] += positions_[position * width + i];
      }
      workspace.positions.push_back(position++);
      row += width;
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
      Normalise(from + i * width, final_gain_, final_bias_, to);
    }
    from += count * width;
  }
  const Linear& head = config_.tied_head ? embedding_ : untied_head_;
  head.Multiply(workspace.last.data(), wanted, workspace.logits.data(), compute::Store::kReplace, workspace.scratch, pool);
  return std::span<const float>(workspace.logits.data(), wanted * config_.vocabulary);
}

}  // namespace holo::transformer
