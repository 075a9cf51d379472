#include "common/language_model/compute/compute.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "common/language_model/compute/plain.h"

namespace holo::compute {
namespace {

// How long a thread looks for work before it sleeps: longer than the gaps between two steps of a layer.
constexpr int kSpins = 2000;
constexpr std::size_t kLargePageBytes = std::size_t{2} << 20;
// What one task of Multiply reads: small enough to share out, large enough to be worth a fetch-and-add. With many rows a
// group of panels is work enough.
constexpr std::size_t kTaskBytes = std::size_t{96} << 10;
constexpr std::size_t kManyRows = 8;

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

constexpr std::size_t kTogether = kPanelsTogether * kPanel;

// How many inputs of one output lie in 4 bytes.
std::size_t InputsInUnit(WeightType type) {
  return type == WeightType::kF32 ? 1 : type == WeightType::kBf16 ? 2 : 4;
}
// Where input i of one of a group's outputs lies, in values of its type.
std::size_t Index(WeightType type, std::size_t i, std::size_t lane) {
  const std::size_t together = InputsInUnit(type);
  return (i / together * kTogether + lane) * together + i % together;
}

std::uint16_t ToBf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

template <typename T>
void Grow(std::vector<T>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

void RoundRows(const Matrix& matrix, const float* x, std::size_t rows, Scratch& scratch, ThreadPool& pool) {
  const std::size_t inputs = matrix.inputs();
  const std::size_t padded = matrix.units() * InputsInUnit(matrix.type());
  const std::size_t blocks = Int8Blocks(inputs);
  if (matrix.type() == WeightType::kBf16) {
    Grow(scratch.bf16, rows * padded);
  } else {
    Grow(scratch.codes, rows * padded);
    Grow(scratch.scales, rows * blocks);
    Grow(scratch.offsets, rows * blocks);
  }
  constexpr std::size_t kPerTask = 8;
  pool.ForEach((rows + kPerTask - 1) / kPerTask, [&](std::size_t task, unsigned) {
    for (std::size_t row = task * kPerTask; row < std::min(rows, (task + 1) * kPerTask); ++row) {
      const float* const from = x + row * inputs;
      if (matrix.type() == WeightType::kInt8) {
        RoundToInt8(from, inputs, scratch.codes.data() + row * padded, scratch.scales.data() + row * blocks,
                    scratch.offsets.data() + row * blocks);
        continue;
      }
      std::uint16_t* const to = scratch.bf16.data() + row * padded;
      if (padded > inputs) to[inputs] = 0;
      for (std::size_t i = 0; i < inputs; ++i) to[i] = ToBf16(from[i]);
    }
  });
}

}  // namespace

ThreadPool::ThreadPool(unsigned threads) : runs_(std::max(threads, 1u)) {
  for (unsigned i = 1; i < threads; ++i) workers_.emplace_back([this, i] { Worker(i); });
}

ThreadPool::~ThreadPool() {
  ending_ = true;
  ++signal_;
  signal_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::WorkOn(const Job& job, unsigned worker) {
  const std::size_t runs = runs_.size();
  for (std::size_t i = 0; i < runs; ++i) {
    const std::size_t of = (worker + i) % runs;
    const std::size_t end = job.count * (of + 1) / runs;
    while (runs_[of].next < end) {
      const std::size_t task = runs_[of].next++;
      if (task < end) job.call(job.context, task, worker);
    }
  }
}

void ThreadPool::Worker(unsigned index) {
  std::uint32_t seen = 0;
  while (true) {
    for (int spin = 0; spin < kSpins && signal_ == seen; ++spin) Pause();
    signal_.wait(seen);
    seen = signal_;
    if (ending_) return;
    // Run() takes the job back and then waits for inside_ to be 0: whoever saw the job has been counted before.
    ++inside_;
    if (const Job* job = job_; job != nullptr) WorkOn(*job, index);
    --inside_;
  }
}

void ThreadPool::Start(const Job& job) {
  for (std::size_t i = 0; i < runs_.size(); ++i) runs_[i].next = job.count * i / runs_.size();
  if (workers_.empty() || job.count <= 1) return WorkOn(job, 0);
  job_ = &job;
  ++signal_;
  signal_.notify_all();
  WorkOn(job, 0);
  job_ = nullptr;
  // A worker is at most one task from the end.
  for (int spin = 0; inside_ != 0; ++spin) {
    if (spin < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

AlignedBytes::AlignedBytes(std::size_t bytes) : size_(bytes) {
  if (bytes >= 4 * kLargePageBytes) {
    // Fresh from the system they are zero, and take memory only once they are written.
    const std::size_t mapped = RoundUp(bytes, kLargePageBytes) + kLargePageBytes;
    void* start = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) std::abort();  // out of memory
    auto* data = reinterpret_cast<std::uint8_t*>(RoundUp(reinterpret_cast<std::uintptr_t>(start), kLargePageBytes));
    ::madvise(data, RoundUp(bytes, kLargePageBytes), MADV_HUGEPAGE);
    data_ = std::shared_ptr<std::uint8_t>(data, [start, mapped](std::uint8_t*) { ::munmap(start, mapped); });
    return;
  }
  const std::size_t rounded = RoundUp(std::max<std::size_t>(bytes, 1), 64);
  auto* data = static_cast<std::uint8_t*>(std::aligned_alloc(64, rounded));
  if (data == nullptr) std::abort();  // out of memory
  std::memset(data, 0, bytes);
  data_ = std::shared_ptr<std::uint8_t>(data, std::free);
}

AlignedBytes::AlignedBytes(std::size_t bytes, const std::shared_ptr<Arena>& arena) {
  if (arena == nullptr || Arena::Share(bytes) > arena->bytes_.size() - arena->taken_) {
    *this = AlignedBytes(bytes);
    return;
  }
  size_ = bytes;
  data_ = std::shared_ptr<std::uint8_t>(arena, arena->bytes_.as<std::uint8_t>() + arena->taken_);
  arena->taken_ += Arena::Share(bytes);
}

std::string_view WeightTypeName(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return "fp32";
    case WeightType::kBf16:
      return "bf16";
    case WeightType::kInt8:
      return "int8";
  }
  return "";
}

Result<WeightType> ParseWeightType(std::string_view name) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBf16, WeightType::kInt8}) {
    if (name == WeightTypeName(type)) return type;
  }
  return Fail(Code::kInvalidArgument, "weight type: expected fp32, bf16 or int8, found \"" + std::string(name) + "\"");
}

std::size_t Matrix::units() const {
  const std::size_t together = InputsInUnit(type_);
  return (inputs_ + together - 1) / together;
}

std::size_t Matrix::group_bytes() const {
  return units() * kTogether * sizeof(std::uint32_t);
}

std::size_t Matrix::bytes() const {
  return panels_.size() + (scales_.size() + bias_.size()) * sizeof(float);
}

Matrix Matrix::Pack(WeightType type, std::size_t inputs, std::size_t outputs, std::span<const float> weights,
                    std::span<const float> bias, const std::shared_ptr<Arena>& arena) {
  return PackStrided(type, inputs, outputs, weights.data(), outputs, 1, bias, arena);
}

Matrix Matrix::PackTransposed(WeightType type, std::size_t inputs, std::size_t outputs, std::span<const float> weights,
                              std::span<const float> bias, const std::shared_ptr<Arena>& arena) {
  return PackStrided(type, inputs, outputs, weights.data(), 1, inputs, bias, arena);
}

std::size_t Matrix::Share(WeightType type, std::size_t inputs, std::size_t outputs) {
  Matrix matrix;
  matrix.type_ = type;
  matrix.inputs_ = inputs;
  return Arena::Share(RoundUp(outputs, kTogether) / kTogether * matrix.group_bytes());
}

Matrix Matrix::PackStrided(WeightType type, std::size_t inputs, std::size_t outputs, const float* weights,
                           std::size_t input_stride, std::size_t output_stride, std::span<const float> bias,
                           const std::shared_ptr<Arena>& arena) {
  Matrix matrix;
  matrix.type_ = type;
  matrix.inputs_ = inputs;
  matrix.outputs_ = outputs;
  const std::size_t padded = RoundUp(outputs, kTogether);
  matrix.panels_ = AlignedBytes(padded / kTogether * matrix.group_bytes(), arena);
  matrix.bias_.assign(padded, 0.0f);
  std::copy(bias.begin(), bias.end(), matrix.bias_.begin());
  if (type == WeightType::kInt8) matrix.scales_.assign(padded, 0.0f);
  for (std::size_t output = 0; output < outputs; ++output) {
    const float* from = weights + output * output_stride;
    std::uint8_t* group = matrix.panels_.as<std::uint8_t>() + output / kTogether * matrix.group_bytes();
    const std::size_t lane = output % kTogether;
    switch (type) {
      case WeightType::kF32:
        for (std::size_t i = 0; i < inputs; ++i) {
          reinterpret_cast<float*>(group)[Index(type, i, lane)] = from[i * input_stride];
        }
        break;
      case WeightType::kBf16:
        for (std::size_t i = 0; i < inputs; ++i) {
          reinterpret_cast<std::uint16_t*>(group)[Index(type, i, lane)] = ToBf16(from[i * input_stride]);
        }
        break;
      case WeightType::kInt8: {
        float largest = 0;
        for (std::size_t i = 0; i < inputs; ++i) largest = std::max(largest, std::abs(from[i * input_stride]));
        const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
        matrix.scales_[output] = largest / 127.0f;
        for (std::size_t i = 0; i < inputs; ++i) {
          group[Index(type, i, lane)] = static_cast<std::uint8_t>(std::lrint(from[i * input_stride] * inverse) + 128);
        }
        break;
      }
    }
  }
  return matrix;
}

void Matrix::CopyOutput(std::size_t output, std::span<float> out) const {
  const std::uint8_t* group = panels_.as<std::uint8_t>() + output / kTogether * group_bytes();
  const std::size_t lane = output % kTogether;
  for (std::size_t i = 0; i < inputs_; ++i) {
    const std::size_t at = Index(type_, i, lane);
    switch (type_) {
      case WeightType::kF32:
        out[i] = reinterpret_cast<const float*>(group)[at];
        break;
      case WeightType::kBf16:
        out[i] = std::bit_cast<float>(std::uint32_t{reinterpret_cast<const std::uint16_t*>(group)[at]} << 16);
        break;
      case WeightType::kInt8:
        out[i] = static_cast<float>(group[at] - 128) * scales_[output];
        break;
    }
  }
}

void Multiply(const Matrix& matrix, const float* x, std::size_t rows, float* y, Store store, Scratch& scratch,
              ThreadPool& pool) {
  if (rows == 0) return;
  PanelJob job;
  job.matrix = &matrix;
  job.x = x;
  job.x_stride = matrix.inputs();
  job.rows = rows;
  job.y = y;
  job.y_stride = matrix.outputs();
  job.store = store;
  if (matrix.type() != WeightType::kF32) {
    RoundRows(matrix, x, rows, scratch, pool);
    job.bf16 = scratch.bf16.data();
    job.codes = scratch.codes.data();
    job.scales = scratch.scales.data();
    job.offsets = scratch.offsets.data();
  }
  const std::size_t panels = RoundUp(matrix.outputs(), kPanel) / kPanel;
  const std::size_t groups = rows >= kManyRows ? 1 : std::clamp<std::size_t>(kTaskBytes / matrix.group_bytes(), 1, 16);
  const std::size_t per_task = groups * kPanelsTogether;
  pool.ForEach((panels + per_task - 1) / per_task, [&](std::size_t task, unsigned) {
    PanelJob part = job;
    part.first = task * per_task;
    part.last = std::min(panels, part.first + per_task);
    MultiplyPanels(part);
  });
}

void MultiplyRows(const Matrix& matrix, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                  std::size_t y_stride, Store store) {
  PanelJob job;
  job.matrix = &matrix;
  job.x = x;
  job.x_stride = x_stride;
  job.rows = rows;
  job.y = y;
  job.y_stride = y_stride;
  job.store = store;
  job.last = RoundUp(matrix.outputs(), kPanel) / kPanel;
  MultiplyPanels(job);
}

void PackPlanes(const std::uint8_t* values, unsigned bits, std::uint8_t* codes) {
  std::memset(codes, 0, 4 * bits);
  unsigned left = bits;
  for (unsigned plane = 8; plane > 0; plane /= 2) {
    if ((bits & plane) == 0) continue;
    left -= plane;
    for (unsigned i = 0; i < kPlaneCodes; ++i) {
      const unsigned bit = i * plane;
      const unsigned part = values[i] >> left & ((1u << plane) - 1);
      codes[bit / 8] = static_cast<std::uint8_t>(codes[bit / 8] | part << bit % 8);
    }
    codes += 4 * plane;
  }
}

CodeMap CodeMap::Pack(std::span<const CodedGroup> groups, std::span<const float> weights,
                      std::span<const float> offset) {
  const std::size_t outputs = offset.size();
  CodeMap map;
  map.groups_ = groups.size();
  map.offset_.assign(offset.begin(), offset.end());
  map.weights_.resize(outputs * groups.size() * kPlaneCodes);
  map.scales_.resize(outputs * groups.size());
  map.centres_.resize(outputs * groups.size());
  for (std::size_t output = 0; output < outputs; ++output) {
    for (std::size_t g = 0; g < groups.size(); ++g) {
      const float* const of_group = weights.data() + groups[g].column * outputs + output;
      float largest = 0;
      for (std::size_t i = 0; i < kPlaneCodes; ++i) largest = std::max(largest, std::abs(of_group[i * outputs]));
      const float inverse = largest > 0 ? kCodeMax / largest : 0.0f;
      const std::size_t four = output / 4 * groups.size() + g;
      int sum = 0;
      for (std::size_t i = 0; i < kPlaneCodes; ++i) {
        const auto code = static_cast<std::int8_t>(std::lrint(of_group[i * outputs] * inverse));
        map.weights_[((four * kPlaneCodes / 4 + i / 4) * 4 + output % 4) * 4 + i % 4] = code;
        sum += code;
      }
      map.scales_[four * 4 + output % 4] = largest / kCodeMax;
      map.centres_[four * 4 + output % 4] = -static_cast<float>((1u << groups[g].bits) - 1) / 2 * static_cast<float>(sum);
    }
  }
  return map;
}

void NormaliseByRms(const float* x, std::size_t width, float epsilon, const float* gain, float* out) {
  double squares[4] = {};
  for (std::size_t i = 0; i < width; ++i) squares[i % 4] += double{x[i]} * x[i];
  const double mean = (squares[0] + squares[1] + (squares[2] + squares[3])) / static_cast<double>(width);
  const auto scale = static_cast<float>(1 / std::sqrt(mean + epsilon));
  for (std::size_t i = 0; i < width; ++i) out[i] = x[i] * scale * gain[i];
}

}  // namespace holo::compute
