// A program of its own: it replaces the global operator new to count.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "common/language_model/calibration/calibration.h"
#include "tests/common/language_model/transformer/small_model.h"

namespace {

std::atomic<std::size_t> allocations{0};

void* Counted(std::size_t bytes) {
  ++allocations;
  void* const data = std::malloc(bytes == 0 ? 1 : bytes);
  if (data == nullptr) std::abort();
  return data;
}

}  // namespace

void* operator new(std::size_t bytes) {
  return Counted(bytes);
}
void* operator new[](std::size_t bytes) {
  return Counted(bytes);
}
// The library's own call the two above; a sanitizer's do not.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return Counted(bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return Counted(bytes);
}
void operator delete(void* data) noexcept {
  std::free(data);
}
void operator delete[](void* data) noexcept {
  std::free(data);
}
void operator delete(void* data, std::size_t) noexcept {
  std::free(data);
}
void operator delete[](void* data, std::size_t) noexcept {
  std::free(data);
}

namespace holo::transformer {
namespace {

TEST_CASE("decoding takes no memory, with any cache and any type of weights") {
  const weights::Gpt2Weights weights = testing::GoldenWeights();
  compute::ThreadPool pool(2);
  std::vector<std::uint32_t> text(2000);
  for (std::uint32_t i = 0; i < text.size(); ++i) text[i] = (i * i + 7 * i) % 61;
  auto statistics = calibration::Collect(*testing::GoldenModel(compute::WeightType::kF32), weights, text, pool).value();
  calibration::BasisRequest request;
  request.base_fingerprint = weights::Fingerprint(weights);
  request.bytes_per_token = 40;
  const kv_cache::Basis bases[] = {
      calibration::MakeLatentBasis(statistics, weights, request).value(),
      calibration::MakeReportBasis(statistics, weights, 12, request).value(),
      calibration::MakeStoredBasis(statistics, *testing::GoldenModel(compute::WeightType::kF32), weights, text, request,
                                   pool)
          .value()};
  std::vector<std::shared_ptr<const kv_cache::Scheme>> schemes;
  for (const kv_cache::Basis& basis : bases) schemes.push_back(calibration::MakeScheme(basis, weights).value());
  for (const auto precision : {kv_cache::Precision::kF32, kv_cache::Precision::kF16, kv_cache::Precision::kInt8,
                               kv_cache::Precision::kInt4}) {
    schemes.push_back(kv_cache::MakePlainScheme({2, 2, 16}, precision).value());
  }
  for (const auto type : {compute::WeightType::kF32, compute::WeightType::kBf16, compute::WeightType::kInt8}) {
    const auto model = testing::GoldenModel(type);
    for (const auto& scheme : schemes) {
      const std::string name = std::string(compute::WeightTypeName(type)) + " " + scheme->name();
      CAPTURE(name);
      Workspace workspace;
      kv_cache::Cache caches[2] = {kv_cache::Cache(scheme), kv_cache::Cache(scheme)};
      Sequence sequences[2];
      for (std::size_t i = 0; i < 2; ++i) {
        caches[i].Reserve(80);
        sequences[i] = {std::span(text).first(8), &caches[i], false};
      }
      REQUIRE(model->Forward(sequences, workspace, pool));
      for (std::size_t i = 0; i < 2; ++i) sequences[i].tokens = std::span(text).subspan(8 + i, 1);
      const std::size_t before = allocations;
      bool all = true;
      for (int step = 0; step < 60; ++step) all = model->Forward(sequences, workspace, pool).has_value() && all;
      CHECK(allocations - before == 0);
      CHECK(all);
    }
  }
}

}  // namespace
}  // namespace holo::transformer
