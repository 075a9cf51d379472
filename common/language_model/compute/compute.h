// The arithmetic of a transformer: threads, packed weight matrices, and the kernels of a block.
//
// Every number that comes out depends on its own row alone: it is computed by the same operations in the same order
// whatever other rows are in the call and however many threads there are. Sums over `inputs` are taken in order, each
// output in its own lane, so the width of the vector registers does not matter either. This is what makes a text depend
// on its seed and not on who else is being served. Between machines with and without fused multiply-add, or AVX-512's
// dot products of bf16, the last bits differ.
//
// With HOLO_PLAIN_KERNELS the plain loops of plain.h are all there is; otherwise Google Highway's vectors, chosen when
// the program runs, and for bf16 and int8 weights AVX-512's dot products. Single letters: none; shapes are written
// [rows, columns], row-major, float32 unless said otherwise.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "common/status/status.h"

namespace holo::compute {

// Columns that a kernel computes together, on every machine.
inline constexpr std::size_t kPanel = 16;
// Panels whose weights lie interleaved, so that one row reads one stream: several short ones were a third slower.
inline constexpr std::size_t kPanelsTogether = 4;
// Tokens whose keys are attended to together.
inline constexpr std::size_t kTileTokens = 32;

[[nodiscard]] constexpr std::size_t RoundUp(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A few threads that wait for work. One caller at a time; the caller works too, so that `threads` 1 makes none.
class ThreadPool {
 public:
  explicit ThreadPool(unsigned threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  [[nodiscard]] unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }

  // Runs work(i, worker) for i in 0..count-1, each once, in any order and on any thread, and returns when all are done.
  // A thread takes neighbours one after the other, so that it reads on where it was, and helps others at the end.
  // `worker` is below threads(), and no two tasks have the same one at a time: what it indexes needs no lock.
  template <typename Work>
  void ForEach(std::size_t count, const Work& work) {
    Job job;
    job.count = count;
    job.context = &work;
    job.call = [](const void* context, std::size_t i, unsigned worker) {
      (*static_cast<const Work*>(context))(i, worker);
    };
    Start(job);
  }

 private:
  struct Job {
    std::size_t count = 0;
    const void* context = nullptr;
    void (*call)(const void*, std::size_t, unsigned) = nullptr;
  };
  struct alignas(64) Run {
    std::atomic<std::size_t> next{0};
  };
  void Start(const Job& job);
  void WorkOn(const Job& job, unsigned worker);
  void Worker(unsigned index);

  std::vector<std::thread> workers_;
  std::vector<Run> runs_;  // of each thread: its next task of the job
  std::atomic<const Job*> job_{nullptr};
  std::atomic<unsigned> inside_{0};       // workers that may hold a pointer to a job
  std::atomic<std::uint32_t> signal_{0};  // changes with every job, and when it is over
  std::atomic<bool> ending_{false};
};

class Arena;

// Bytes at an address that is a multiple of 64, zero at first. Large ones lie in large pages where the system has them.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(std::size_t bytes);
  // From the arena, which lives on with them; of their own where it is null or has no room.
  AlignedBytes(std::size_t bytes, const std::shared_ptr<Arena>& arena);
  AlignedBytes(AlignedBytes&&) = default;
  AlignedBytes& operator=(AlignedBytes&&) = default;

  [[nodiscard]] std::size_t size() const { return size_; }
  template <typename T>
  [[nodiscard]] T* as() {
    return reinterpret_cast<T*>(data_.get());
  }
  template <typename T>
  [[nodiscard]] const T* as() const {
    return reinterpret_cast<const T*>(data_.get());
  }

 private:
  std::size_t size_ = 0;
  std::shared_ptr<std::uint8_t> data_;
};

// One piece of memory for many buffers that live as long as each other: a model's matrices in large pages, which alone
// would be too small for them. (Reading bf16 weights of 5 MB each once was half as fast from small pages.) Used by one
// thread at a time.
class Arena {
 public:
  explicit Arena(std::size_t bytes) : bytes_(bytes) {}
  // What a buffer takes of it.
  [[nodiscard]] static constexpr std::size_t Share(std::size_t bytes) { return RoundUp(bytes, 64); }

 private:
  friend class AlignedBytes;
  AlignedBytes bytes_;
  std::size_t taken_ = 0;
};

enum class WeightType : std::uint8_t {
  kF32,
  kBf16,  // the upper half of a float32, rounded to nearest even, and so are activations; sums are float32
  // One scale per output, -127..127. Activations are rounded likewise, with a scale for each kInt8Block of them; products
  // within a block are summed exactly in int32, blocks in float32.
  kInt8,
};
[[nodiscard]] std::string_view WeightTypeName(WeightType type);
[[nodiscard]] Result<WeightType> ParseWeightType(std::string_view name);

inline constexpr std::size_t kInt8Block = 64;

// Memory that kernels need between calls. Belongs to one caller of Multiply at a time; grows and stays.
struct Scratch {
  std::vector<std::uint16_t> bf16;    // [rows, inputs rounded up to 2]: activations beside bf16 weights
  std::vector<std::int8_t> codes;     // [rows, inputs rounded up to 4]: beside int8 weights
  std::vector<float> scales;          // [rows, blocks]: of codes
  std::vector<std::int32_t> offsets;  // [rows, blocks]: -128 times the sum of a block's codes
};

// The weights of y = x W + b, packed in the order in which they are read. Constant after construction.
class Matrix {
 public:
  Matrix() = default;
  // `weights` is [inputs, outputs], as GPT-2 stores its matrices; `bias` is [outputs] or empty.
  [[nodiscard]] static Matrix Pack(WeightType type, std::size_t inputs, std::size_t outputs,
                                   std::span<const float> weights, std::span<const float> bias,
                                   const std::shared_ptr<Arena>& arena = nullptr);
  // `weights` is [outputs, inputs], as an embedding is stored.
  [[nodiscard]] static Matrix PackTransposed(WeightType type, std::size_t inputs, std::size_t outputs,
                                             std::span<const float> weights, std::span<const float> bias,
                                             const std::shared_ptr<Arena>& arena = nullptr);
  // Of an arena.
  [[nodiscard]] static std::size_t Share(WeightType type, std::size_t inputs, std::size_t outputs);

  [[nodiscard]] std::size_t inputs() const { return inputs_; }
  [[nodiscard]] std::size_t outputs() const { return outputs_; }
  [[nodiscard]] WeightType type() const { return type_; }
  // What Multiply reads: weights, scales and bias, with the padding of the last panel.
  [[nodiscard]] std::size_t bytes() const;
  // The weights of one output as float32: a row of an embedding. `out` has `inputs` values.
  void CopyOutput(std::size_t output, std::span<float> out) const;

  // Panel p holds outputs 16 p .. 16 p + 15, and four panels a group: float [inputs, 4, 16]; bf16 [inputs / 2, 4, 16, 2];
  // int8 [inputs / 4, 4, 16, 4], rounded up, each code 128 more than what it stands for, as AVX-512 multiplies unsigned
  // bytes by signed ones. A unit, 4 bytes, is what one output has of 1, 2 or 4 inputs: here lies the panel's first; those
  // of the next inputs are kPanelsTogether * kPanel units further.
  [[nodiscard]] const std::uint32_t* Panel(std::size_t panel) const {
    return panels_.as<std::uint32_t>() + panel / kPanelsTogether * (group_bytes() / sizeof(std::uint32_t)) +
           panel % kPanelsTogether * kPanel;
  }
  [[nodiscard]] std::size_t units() const;  // of one output
  [[nodiscard]] std::size_t group_bytes() const;
  [[nodiscard]] std::span<const float> scales() const { return scales_; }  // [outputs rounded up], int8 only
  [[nodiscard]] std::span<const float> bias() const { return bias_; }      // [outputs rounded up]

 private:
  static Matrix PackStrided(WeightType type, std::size_t inputs, std::size_t outputs, const float* weights,
                            std::size_t input_stride, std::size_t output_stride, std::span<const float> bias,
                            const std::shared_ptr<Arena>& arena);

  WeightType type_ = WeightType::kF32;
  std::size_t inputs_ = 0;
  std::size_t outputs_ = 0;
  AlignedBytes panels_;
  std::vector<float> scales_;
  std::vector<float> bias_;
};

enum class Store : std::uint8_t { kReplace, kAdd };

// y [rows, outputs] = x [rows, inputs] W + b, or y += that. x and y do not overlap.
void Multiply(const Matrix& matrix, const float* x, std::size_t rows, float* y, Store store, Scratch& scratch,
              ThreadPool& pool);

// The same on the calling thread, rows of x and y `x_stride` and `y_stride` values apart. For float32 weights.
void MultiplyRows(const Matrix& matrix, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                  std::size_t y_stride, Store store);

// out = (x - mean) / sqrt(variance + epsilon), each row of `width` values by itself; with gain and bias (each `width`
// values, or both null) out = out * gain + bias.
void NormaliseRow(const float* x, std::size_t width, float epsilon, const float* gain, const float* bias, float* out);

// out = x / sqrt(mean of x^2 + epsilon) * gain.
void NormaliseByRms(const float* x, std::size_t width, float epsilon, const float* gain, float* out);

// out = gates / (1 + exp(-gates)) * values, each of `count`. out may be `values`.
void GateBySilu(const float* gates, const float* values, std::size_t count, float* out);

// x = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in place. `count` is a multiple of kPanel.
void Gelu(float* x, std::size_t count);

// One pass of attention over a tile of keys and values, with the softmax carried along (Milakov and Gimelshein, 2018).
// For each of `rows` queries: scores against the first `visible` tokens of the tile, then
//   largest' = max(largest, scores), w = exp(score - largest'),
//   total = total exp(largest - largest') + sum w, sum = sum exp(largest - largest') + w values.
// Before the first tile: largest is -infinity, total and sum are 0. After the last, attention is sum / total.
struct AttentionRows {
  std::size_t rows = 0;
  std::size_t dims = 0;            // a multiple of kPanel
  const float* queries = nullptr;  // [rows, dims], scaled
  float* sums = nullptr;           // [rows, sum_dims()]
  float* largest = nullptr;        // [rows]
  float* total = nullptr;          // [rows]
  float* weights = nullptr;        // [rows, kTileTokens], scratch
  std::size_t value_dims = 0;      // of values and sums, a multiple of kPanel; 0: as many as dims
  std::size_t key_sets = 1;        // the rows are in so many parts of the same size, each with keys of its own

  [[nodiscard]] std::size_t sum_dims() const { return value_dims == 0 ? dims : value_dims; }
};
// `keys` is [key_sets, dims, kTileTokens] (transposed) and `values` [kTileTokens, sum_dims()]; tokens that no row sees
// are finite. `visible` [rows] is 0..kTileTokens.
void AttendTile(const AttentionRows& rows, const float* keys, const float* values, const std::uint8_t* visible);

// What attention over two stretches of tokens, each from its own beginning, comes to together: `later` is added to `rows`.
// Rows, sums, largest and total of both are used, nothing else. Rows of `later` that saw nothing have a total of 0.
void JoinAttention(const AttentionRows& rows, const AttentionRows& later);

// IEEE half precision, rounded to nearest even; beyond its range it becomes infinite.
void ToHalf(const float* values, std::size_t count, std::uint16_t* out);
void FromHalf(const std::uint16_t* values, std::size_t count, float* out);

// A tile of keys and values as a cache stores them: keys [dims, kTileTokens] (transposed), values [kTileTokens, dims].
// Codes of 4 bits lie two in a byte: a row of n has its first half in the low nibbles of n / 2 bytes, its second in the
// high ones, each 8 more than what it stands for.
enum class TileType : std::uint8_t {
  kF32,
  kF16,
  kInt8,  // code * scale
  kInt4,  // likewise
};
struct StoredTile {
  TileType type = TileType::kF32;
  std::size_t dims = 0;   // a multiple of kPanel, at most kMostTileDims
  std::size_t group = 0;  // int8 and int4: neighbouring dims with one scale, 16 or 32; divides dims
  const std::uint8_t* keys = nullptr;
  const std::uint8_t* values = nullptr;
  const std::uint16_t* key_scales = nullptr;    // [dims / group, kTileTokens], half precision
  const std::uint16_t* value_scales = nullptr;  // [kTileTokens, dims / group]
};
inline constexpr std::size_t kMostTileDims = 512;

// `keys` [dims, kTileTokens] and `values` [kTileTokens, dims] as float32.
void ExpandTile(const StoredTile& tile, float* keys, float* values);

// AttendTile() over ExpandTile(), of one set of keys as wide as the values, with the same result to the last bit, but from
// where the tile lies: the faster way for one or two rows, the slower one for many. `next`, which may be null, is where as many bytes as `next_bytes` will be
// wanted soon.
void AttendStoredTile(const AttentionRows& rows, const StoredTile& tile, const std::uint8_t* visible,
                      const std::uint8_t* next, std::size_t next_bytes);

// Codes of `bits` bits (1..8) as (code - (2^bits - 1) / 2) * scale: 32 of them, stored plane by plane. A plane has 8,
// 4, 2 or 1 bits, as many planes as `bits` has ones, the largest (of the highest bits) first; within a plane, codes
// follow each other from the lowest bit of little-endian words on. `codes` has 4 * bits bytes.
inline constexpr std::size_t kPlaneCodes = 32;
void ExpandPlanes(const std::uint8_t* codes, unsigned bits, float scale, float* out);
void PackPlanes(const std::uint8_t* values, unsigned bits, std::uint8_t* codes);

// Coordinates of a tile in codes of planes: a record for each token, and in it, for each group of kPlaneCodes coordinates,
// a byte that chooses a scale, and codes.
struct CodedGroup {
  unsigned bits = 0;         // 1..8
  std::size_t column = 0;    // of the first coordinate
  std::size_t scale_at = 0;  // in a record: the byte, and the 4 * bits bytes of codes
  std::size_t codes_at = 0;
};
struct CodedTile {
  const std::uint8_t* records = nullptr;  // kTileTokens of them
  std::size_t record_bytes = 0;
  std::span<const CodedGroup> groups;
  const float* scales = nullptr;  // [256]
};
// out [kTileTokens, columns] = ExpandPlanes() of each group at its column; other columns stay as they are.
void ExpandCodedTile(const CodedTile& tile, std::size_t columns, float* out);
// AttendTile() over ExpandCodedTile(), which keys and values are both, but a group at a time, and scales are multiplied
// with sums and weights, so that last bits differ. The groups have all of rows.dims columns, and there is one set of
// keys. `next`, which may be null, is where the records lie that will be wanted soon.
void AttendCodedTile(const AttentionRows& rows, const CodedTile& tile, const std::uint8_t* visible,
                     const std::uint8_t* next);

// What linear map a coded tile's coordinates go through: weights in int8, a scale for each group and output, so that
// products with codes are summed in int32. Constant.
class CodeMap {
 public:
  CodeMap() = default;
  // out = offset + coordinates weights: `weights` is [columns, outputs], `offset` [outputs], a multiple of kPanel.
  [[nodiscard]] static CodeMap Pack(std::span<const CodedGroup> groups, std::span<const float> weights,
                                    std::span<const float> offset);

  [[nodiscard]] std::size_t outputs() const { return offset_.size(); }
  [[nodiscard]] std::size_t groups() const { return groups_; }
  // [outputs / 4, groups, kPlaneCodes / 4, 4 outputs, 4 coordinates]
  [[nodiscard]] const std::int8_t* weights() const { return weights_.data(); }
  // Both [outputs / 4, groups, 4 outputs]. Centres are what the groups' middle codes add, with the sign changed.
  [[nodiscard]] const float* scales() const { return scales_.data(); }
  [[nodiscard]] const float* centres() const { return centres_.data(); }
  [[nodiscard]] const float* offset() const { return offset_.data(); }
  [[nodiscard]] std::size_t bytes() const {
    return weights_.size() + (scales_.size() + centres_.size() + offset_.size()) * sizeof(float);
  }

 private:
  std::size_t groups_ = 0;
  std::vector<std::int8_t> weights_;
  std::vector<float> scales_, centres_, offset_;
};
// out [outputs, kTileTokens], transposed: the map of a tile that has the groups for which it was packed.
void MapCodedTile(const CodeMap& map, const CodedTile& tile, float* out);

// Pairs of rows i and i + pairs of `rows` [2 pairs, kTileTokens], in place: (a, b) becomes (a c - b s, a s + b c), with
// cosines c and sines s [pairs, kTileTokens].
void TurnTile(const float* cosines, const float* sines, std::size_t pairs, float* rows);

// out [columns, kTileTokens] = in [kTileTokens, columns] transposed; `columns` is a multiple of 4.
void TransposeTile(const float* in, std::size_t columns, float* out);

// What the kernels were compiled for and this machine has: "AVX2", or "plain".
[[nodiscard]] std::string_view KernelName();

}  // namespace holo::compute
