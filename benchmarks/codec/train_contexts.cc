// What the entropy coder expects, learnt from pictures: prints common/codec/context_weights.cc (weights) or, with those
// built in, common/codec/initial_probabilities.cc (probabilities). Every picture is encoded at several qualities,
// photographs with the lapped filter and what follows --drawings without.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "common/codec/codec.h"
#include "common/codec/context_model.h"
#include "common/image_io/image_io.h"

namespace holo {
namespace {

constexpr float kQualities[] = {12, 30, 50, 70, 85, 94};

// Logistic regression by stochastic gradient descent, each weight at its own falling rate (AdaGrad).
class Regression {
 public:
  Regression(std::size_t rows, std::size_t weights)
      : weights_(weights), values_(rows * weights, 0.0f), squares_(rows * weights, 1e-3f) {}

  void Learn(std::size_t row, std::span<const std::int8_t> features, bool bit) {
    float* values = values_.data() + row * weights_;
    float* squares = squares_.data() + row * weights_;
    float score = 0;
    for (std::size_t i = 0; i < weights_; ++i) score += values[i] * static_cast<float>(features[i]);
    const float error = (bit ? 1.0f : 0.0f) - 1.0f / (1.0f + std::exp(-score));
    for (std::size_t i = 0; i < weights_; ++i) {
      if (features[i] == 0) continue;
      const float gradient = error * static_cast<float>(features[i]);
      squares[i] += gradient * gradient;
      values[i] += 0.05f * gradient / std::sqrt(squares[i]);
    }
  }

  void Print(const std::string& function, const std::string& model) const {
    std::cout << "\nconst std::array<std::int8_t, " << model << "::kRows * " << model << "::kWeights>& " << function
              << "() {\n  static constexpr std::array<std::int8_t, " << model << "::kRows * " << model
              << "::kWeights> kTable = {\n";
    for (std::size_t i = 0; i < values_.size(); ++i) {
      std::cout << std::clamp(std::lround(values_[i] * codec::kScorePerLogOdds), -127L, 127L)
                << (i % 24 == 23 ? ",\n" : ",");
    }
    std::cout << "};\n  return kTable;\n}\n";
  }

 private:
  std::size_t weights_;
  std::vector<float> values_;
  std::vector<float> squares_;
};

class Learner final : public codec::ContextObserver {
 public:
  void Scored(bool significance, std::size_t row, std::span<const std::int8_t> features, int /*score*/,
              bool bit) override {
    (significance ? significance_ : activity_).Learn(row, features, bit);
  }
  void Coded(std::size_t /*context*/, bool /*bit*/) override {}

  void Print() const {
    std::cout << "// Made by holo_train_contexts on the training photographs (see common/basis/README.md).\n"
                 "#include \"common/codec/context_model.h\"\n\nnamespace holo::codec {\n\n// clang-format off\n";
    significance_.Print("SignificanceWeights", "significance");
    activity_.Print("ActivityWeights", "activity");
    std::cout << "// clang-format on\n\n}  // namespace holo::codec\n";
  }

 private:
  Regression significance_{codec::significance::kRows, codec::significance::kWeights};
  Regression activity_{codec::activity::kRows, codec::activity::kWeights};
};

class Counter final : public codec::ContextObserver {
 public:
  void Scored(bool, std::size_t, std::span<const std::int8_t>, int, bool) override {}
  void Coded(std::size_t context, bool bit) override { ++counts_[context][bit ? 1 : 0]; }

  void Print() const {
    std::cout << "// Made by holo_train_contexts on the training photographs (see common/basis/README.md).\n"
                 "#include \"common/codec/tile_coder.h\"\n\nnamespace holo::codec {\nnamespace {\n\n// clang-format off\n"
                 "constexpr std::array<std::uint16_t, kContexts> kTable = {\n";
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      const auto ones = static_cast<double>(counts_[i][1]);
      const auto all = ones + static_cast<double>(counts_[i][0]);
      // A context never seen starts at one half; none starts so sure of itself that learning takes long.
      const long value = std::lround((ones + 0.4) / (all + 0.8) * 65536);
      std::cout << std::clamp(value, 300L, 65200L) << (i % 20 == 19 ? ",\n" : ",");
    }
    std::cout << "\n};\n// clang-format on\n\n}  // namespace\n\nconst std::array<std::uint16_t, kContexts>& "
                 "InitialProbabilities() { return kTable; }\n\n}  // namespace holo::codec\n";
  }

 private:
  std::vector<std::array<std::uint64_t, 2>> counts_ =
      std::vector<std::array<std::uint64_t, 2>>(codec::ContextCount());
};

Result<void> Show(std::span<const std::string> paths, bool lapped, int rounds, codec::ContextObserver& observer) {
  for (int round = 0; round < rounds; ++round) {
    for (const float quality : kQualities) {
      for (const std::string& path : paths) {
        HOLO_ASSIGN_OR_RETURN(const pixels::Picture picture, image_io::Load(path));
        codec::EncodeOptions options;
        options.quality = quality;
        options.basis_choice = codec::BasisChoice::kUniversal;
        options.lapped = lapped;
        options.observer = &observer;
        for (const codec::Tuning tuning : {codec::Tuning::kEye, codec::Tuning::kPsnr}) {
          options.tuning = tuning;
          HOLO_RETURN_IF_ERROR(codec::Encode(picture, options));
        }
      }
    }
  }
  return {};
}

}  // namespace
}  // namespace holo

int main(int argc, char** argv) {
  using namespace holo;
  const std::string what = argc > 2 ? argv[1] : "";
  const std::vector<std::string> paths(argv + std::min(2, argc), argv + argc);
  const auto divide = std::find(paths.begin(), paths.end(), "--drawings");
  const std::span photographs(paths.begin(), divide);
  const std::span drawings(divide == paths.end() ? divide : divide + 1, paths.end());
  const auto show = [&](int rounds, codec::ContextObserver& observer) {
    Result<void> shown = Show(photographs, true, rounds, observer);
    return shown ? Show(drawings, false, rounds, observer) : shown;
  };
  Result<void> done;
  if (what == "weights") {
    Learner learner;
    done = show(2, learner);
    if (done) learner.Print();
  } else if (what == "probabilities") {
    Counter counter;
    done = show(1, counter);
    if (done) counter.Print();
  } else {
    std::cerr << "usage: holo_train_contexts weights|probabilities PHOTOGRAPH... [--drawings DRAWING...]\n";
    return 2;
  }
  if (!done) {
    std::cerr << done.error().message << "\n";
    return ToExitCode(done.error().code);
  }
  return 0;
}
