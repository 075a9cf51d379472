#include "common/language_model/sampling/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace holo::sampling {
namespace {

// SplitMix64 (Steele, Lea and Flood, 2014) at position `index` of the stream that `seed` begins: 0 <= x < 1.
double Uniform(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

double LogSum(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

Result<void> Between(std::string_view name, double value, double least, double most) {
  if (value >= least && value <= most) return {};
  return Fail(Code::kInvalidArgument, std::string(name) + ": expected " + std::to_string(least) + " to " +
                                          std::to_string(most) + ", found " + std::to_string(value));
}

}  // namespace

Result<void> Check(const Options& options, std::uint32_t vocabulary) {
  HOLO_RETURN_IF_ERROR(Between("temperature", options.temperature, 0, 100));
  HOLO_RETURN_IF_ERROR(Between("top_p", options.top_p, 1e-6, 1));
  HOLO_RETURN_IF_ERROR(Between("repetition_penalty", options.repetition_penalty, 0.01, 100));
  HOLO_RETURN_IF_ERROR(Between("presence_penalty", options.presence_penalty, -2, 2));
  HOLO_RETURN_IF_ERROR(Between("frequency_penalty", options.frequency_penalty, -2, 2));
  HOLO_RETURN_IF_ERROR(Between("logprobs", static_cast<double>(options.logprobs), 0, kMaxLogprobs));
  for (const auto& [token, bias] : options.logit_bias) {
    HOLO_RETURN_IF_ERROR(Between("logit_bias", bias, -100, 100));
    if (token >= vocabulary) {
      return Fail(Code::kInvalidArgument, "logit_bias: expected tokens below " + std::to_string(vocabulary) +
                                              ", found " + std::to_string(token));
    }
  }
  return {};
}

Result<Sampler> Sampler::Create(const Options& options, std::uint32_t vocabulary) {
  HOLO_RETURN_IF_ERROR(Check(options, vocabulary));
  return Sampler(options, vocabulary);
}

Sampler::Sampler(const Options& options, std::uint32_t vocabulary)
    : options_(options),
      seen_(vocabulary),
      counts_(vocabulary),
      logits_(vocabulary),
      order_(vocabulary),
      probabilities_(vocabulary) {}

void Sampler::Observe(std::span<const std::uint32_t> tokens) {
  for (const std::uint32_t token : tokens) seen_[token] = 1;
}

Choice Sampler::Next(std::span<const float> logits) {
  Choice choice;
  std::copy(logits.begin(), logits.end(), logits_.begin());
  for (const auto& [token, bias] : options_.logit_bias) logits_[token] += bias;
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    if (seen_[i] != 0) {
      logits_[i] = logits_[i] > 0 ? logits_[i] / options_.repetition_penalty : logits_[i] * options_.repetition_penalty;
    }
    if (counts_[i] != 0) {
      logits_[i] -= options_.presence_penalty + static_cast<float>(counts_[i]) * options_.frequency_penalty;
    }
  }
  const auto likeliest = std::max_element(logits_.begin(), logits_.end());
  choice.token = static_cast<std::uint32_t>(likeliest - logits_.begin());
  const double uniform = Uniform(options_.seed, chosen_);
  if (options_.temperature > 0 && options_.top_k != 1) {
    const double largest = *likeliest;
    for (std::size_t i = 0; i < logits_.size(); ++i) {
      probabilities_[i] = std::exp((logits_[i] - largest) / options_.temperature);
    }
    std::iota(order_.begin(), order_.end(), 0u);
    // A total order, so that equal probabilities do not leave the choice to the library.
    const auto before = [this](std::uint32_t a, std::uint32_t b) {
      return probabilities_[a] != probabilities_[b] ? probabilities_[a] > probabilities_[b] : a < b;
    };
    std::size_t count = order_.size();
    if (options_.top_k != 0 && options_.top_k < count) {
      count = options_.top_k;
      std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(count), order_.end(), before);
    }
    const auto end = order_.begin() + static_cast<std::ptrdiff_t>(count);
    double total = 0;
    if (options_.top_p < 1) {
      // The few likeliest are taken from a heap, which is cheaper than sorting all.
      const auto behind = [&before](std::uint32_t a, std::uint32_t b) { return before(b, a); };
      double all = 0;
      for (auto it = order_.begin(); it != end; ++it) all += probabilities_[*it];
      std::make_heap(order_.begin(), end, behind);
      auto rest = end;
      while (total < options_.top_p * all && rest != order_.begin()) {
        std::pop_heap(order_.begin(), rest, behind);
        --rest;
        total += probabilities_[*rest];
      }
      std::reverse(rest, end);
      count = static_cast<std::size_t>(end - rest);
      std::copy(rest, end, order_.begin());
    } else {
      if (count < order_.size()) std::sort(order_.begin(), end, before);
      for (std::size_t i = 0; i < count; ++i) total += probabilities_[order_[i]];
    }
    double left = uniform * total;
    choice.token = order_[count - 1];
    for (std::size_t i = 0; i < count; ++i) {
      left -= probabilities_[order_[i]];
      if (left < 0) {
        choice.token = order_[i];
        break;
      }
    }
  }
  choice = Score(logits, choice.token, options_.logprobs);
  ++chosen_;
  ++counts_[choice.token];
  seen_[choice.token] = 1;
  return choice;
}

Choice Score(std::span<const float> logits, std::uint32_t token, std::size_t logprobs) {
  const double log_sum = LogSum(logits);
  Choice choice;
  choice.token = token;
  choice.logprob = static_cast<float>(logits[token] - log_sum);
  // The few likeliest, likeliest first and of equal ones the lowest number: most logits are below all of them.
  std::vector<std::pair<std::uint32_t, float>>& top = choice.top;
  top.reserve(std::min(logprobs, logits.size()) + 1);
  for (std::uint32_t i = 0; logprobs > 0 && i < logits.size(); ++i) {
    if (top.size() == logprobs && logits[i] <= top.back().second) continue;
    const auto at = std::upper_bound(top.begin(), top.end(), logits[i],
                                     [](float logit, const auto& entry) { return logit > entry.second; });
    top.insert(at, {i, logits[i]});
    if (top.size() > logprobs) top.pop_back();
  }
  for (auto& [entry, logit] : top) logit = static_cast<float>(logit - log_sum);
  return choice;
}

double LogProbability(std::span<const float> logits, std::uint32_t token) {
  return logits[token] - LogSum(logits);
}

Result<StopFilter> StopFilter::Create(std::vector<std::string> stops) {
  if (stops.size() > kMaxStops) {
    return Fail(Code::kInvalidArgument, "stop: expected at most " + std::to_string(kMaxStops) + " strings, found " +
                                            std::to_string(stops.size()));
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return Fail(Code::kInvalidArgument, "stop: expected strings of 1 to " + std::to_string(kMaxStopBytes) +
                                              " bytes, found one of " + std::to_string(stop.size()));
    }
  }
  return StopFilter(std::move(stops));
}

std::string StopFilter::Push(std::string_view text) {
  if (stopped_) return "";
  held_ += text;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    std::string out = held_.substr(0, first);
    held_.clear();
    return out;
  }
  // The longest end of the text that begins a stop string stays.
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
      if (std::string_view(held_).substr(held_.size() - length) == std::string_view(stop).substr(0, length)) {
        keep = length;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopFilter::Finish() {
  return std::exchange(held_, "");
}

}  // namespace holo::sampling
