#include "common/quality/quality.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace holo::quality {
namespace {

using pixels::Picture;

constexpr double kC1 = (0.01 * 255) * (0.01 * 255);
constexpr double kC2 = (0.03 * 255) * (0.03 * 255);
constexpr std::size_t kWindow = 11;
constexpr std::array<double, 5> kScaleWeights = {0.0448, 0.2856, 0.3001, 0.2363, 0.1333};

std::string Describe(const pixels::Layout& layout) {
  return std::to_string(layout.width) + "x" + std::to_string(layout.height) + " of " + std::to_string(layout.channels) +
         " channels, " + std::to_string(8 * pixels::SampleBytes(layout.sample_type)) + " bits";
}

Result<void> ExpectComparable(const Picture& original, const Picture& other, std::uint32_t min_side) {
  const pixels::Layout& a = original.layout();
  const pixels::Layout& b = other.layout();
  if (a.width != b.width || a.height != b.height || a.channels != b.channels || a.sample_type != b.sample_type) {
    return Fail(Code::kInvalidArgument,
                "quality: expected a picture like the original (" + Describe(a) + "), found " + Describe(b));
  }
  if (a.width < min_side || a.height < min_side) {
    return Fail(Code::kInvalidArgument,
                "quality: expected sides of at least " + std::to_string(min_side) + " pixels, found " + Describe(a));
  }
  return {};
}

bool IsRgb(const Picture& picture) {
  return picture.layout().color_model == pixels::ColorModel::kRgb && picture.channels() >= 3;
}

// Row `y` scaled to 0..255, [width * channels].
void ReadRow(const Picture& picture, std::uint32_t y, std::vector<float>& row) {
  row.resize(std::size_t{picture.width()} * picture.channels());
  if (picture.layout().sample_type == pixels::SampleType::kU8) {
    const auto samples = picture.RowU8(y);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = samples[i];
  } else {
    const auto samples = picture.RowU16(y);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(samples[i]) * (255.0f / 65535.0f);
  }
}

// One plane of samples, row-major [height, width].
struct Plane {
  std::size_t width = 0;
  std::size_t height = 0;
  std::vector<float> values;

  [[nodiscard]] const float* Row(std::size_t y) const { return values.data() + y * width; }
};

Plane LumaOf(const Picture& picture) {
  Plane plane{picture.width(), picture.height(), {}};
  plane.values.resize(plane.width * plane.height);
  const std::size_t channels = picture.channels();
  const bool rgb = IsRgb(picture);
  std::vector<float> row;
  for (std::uint32_t y = 0; y < picture.height(); ++y) {
    ReadRow(picture, y, row);
    float* out = plane.values.data() + y * plane.width;
    for (std::size_t x = 0; x < plane.width; ++x) {
      const float* pixel = row.data() + x * channels;
      out[x] = rgb ? 0.299f * pixel[0] + 0.587f * pixel[1] + 0.114f * pixel[2] : pixel[0];
    }
  }
  return plane;
}

Plane Halve(const Plane& in) {
  Plane out{(in.width + 1) / 2, (in.height + 1) / 2, {}};
  out.values.resize(out.width * out.height);
  for (std::size_t y = 0; y < out.height; ++y) {
    const float* top = in.Row(2 * y);
    const float* bottom = in.Row(std::min(2 * y + 1, in.height - 1));
    for (std::size_t x = 0; x < out.width; ++x) {
      const std::size_t right = std::min(2 * x + 1, in.width - 1);
      out.values[y * out.width + x] = 0.25f * (top[2 * x] + top[right] + bottom[2 * x] + bottom[right]);
    }
  }
  return out;
}

std::array<float, kWindow> GaussianWindow() {
  std::array<double, kWindow> weights{};
  double sum = 0;
  for (std::size_t i = 0; i < kWindow; ++i) {
    const double distance = static_cast<double>(i) - (kWindow - 1) / 2.0;
    sum += weights[i] = std::exp(-distance * distance / (2 * 1.5 * 1.5));
  }
  std::array<float, kWindow> window{};
  for (std::size_t i = 0; i < kWindow; ++i) window[i] = static_cast<float>(weights[i] / sum);
  return window;
}

struct Similarity {
  double ssim = 0;      // mean of luminance x contrast x structure
  double contrast = 0;  // mean of contrast x structure
};

// One scale. Both planes have the same size, at least kWindow a side.
Similarity CompareScale(const Plane& a, const Plane& b) {
  static const std::array<float, kWindow> kGaussian = GaussianWindow();
  // The five moments whose windowed means are needed: a, b, aa, bb, ab.
  constexpr std::size_t kMoments = 5;
  const std::size_t out_width = a.width - kWindow + 1;
  const std::size_t out_height = a.height - kWindow + 1;
  // Horizontally filtered moments of the last kWindow rows, [kWindow, kMoments, out_width]: row y is at y % kWindow.
  std::vector<float> ring(kWindow * kMoments * out_width);
  std::vector<float> products(kMoments * a.width);
  std::vector<float> sums(kMoments * out_width);
  double ssim_sum = 0;
  double contrast_sum = 0;
  for (std::size_t y = 0; y < a.height; ++y) {
    const float* row_a = a.Row(y);
    const float* row_b = b.Row(y);
    for (std::size_t x = 0; x < a.width; ++x) {
      products[x] = row_a[x];
      products[a.width + x] = row_b[x];
      products[2 * a.width + x] = row_a[x] * row_a[x];
      products[3 * a.width + x] = row_b[x] * row_b[x];
      products[4 * a.width + x] = row_a[x] * row_b[x];
    }
    float* filtered = ring.data() + (y % kWindow) * kMoments * out_width;
    for (std::size_t moment = 0; moment < kMoments; ++moment) {
      const float* in = products.data() + moment * a.width;
      float* out = filtered + moment * out_width;
      for (std::size_t x = 0; x < out_width; ++x) {
        float sum = 0;
        for (std::size_t i = 0; i < kWindow; ++i) sum += kGaussian[i] * in[x + i];
        out[x] = sum;
      }
    }
    if (y + 1 < kWindow) continue;

    std::fill(sums.begin(), sums.end(), 0.0f);
    for (std::size_t i = 0; i < kWindow; ++i) {
      const float* in = ring.data() + ((y + 1 + i) % kWindow) * kMoments * out_width;
      for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += kGaussian[i] * in[x];
    }
    double row_ssim = 0;
    double row_contrast = 0;
    for (std::size_t x = 0; x < out_width; ++x) {
      const double mean_a = sums[x];
      const double mean_b = sums[out_width + x];
      const double variance_a = sums[2 * out_width + x] - mean_a * mean_a;
      const double variance_b = sums[3 * out_width + x] - mean_b * mean_b;
      const double covariance = sums[4 * out_width + x] - mean_a * mean_b;
      const double contrast = (2 * covariance + kC2) / (variance_a + variance_b + kC2);
      const double luminance = (2 * mean_a * mean_b + kC1) / (mean_a * mean_a + mean_b * mean_b + kC1);
      row_contrast += contrast;
      row_ssim += luminance * contrast;
    }
    ssim_sum += row_ssim;
    contrast_sum += row_contrast;
  }
  const double count = static_cast<double>(out_width) * static_cast<double>(out_height);
  return {ssim_sum / count, contrast_sum / count};
}

// y over x by monotone piecewise cubics (Fritsch and Butland 1984; the slopes that SciPy's PchipInterpolator takes).
class Pchip {
 public:
  // `x` strictly rising, at least two points.
  Pchip(std::vector<double> x, std::vector<double> y) : x_(std::move(x)), y_(std::move(y)), slope_(x_.size()) {
    const std::size_t n = x_.size();
    std::vector<double> step(n - 1);
    std::vector<double> secant(n - 1);
    for (std::size_t i = 0; i + 1 < n; ++i) {
      step[i] = x_[i + 1] - x_[i];
      secant[i] = (y_[i + 1] - y_[i]) / step[i];
    }
    if (n == 2) {
      slope_[0] = slope_[1] = secant[0];
      return;
    }
    for (std::size_t i = 1; i + 1 < n; ++i) {
      if (secant[i - 1] * secant[i] <= 0) continue;
      const double w1 = 2 * step[i] + step[i - 1];
      const double w2 = step[i] + 2 * step[i - 1];
      slope_[i] = (w1 + w2) / (w1 / secant[i - 1] + w2 / secant[i]);
    }
    slope_[0] = EndSlope(step[0], step[1], secant[0], secant[1]);
    slope_[n - 1] = EndSlope(step[n - 2], step[n - 3], secant[n - 2], secant[n - 3]);
  }

  [[nodiscard]] double front() const { return x_.front(); }
  [[nodiscard]] double back() const { return x_.back(); }

  [[nodiscard]] double At(double x) const {
    const std::size_t i = Segment(x);
    const double h = x_[i + 1] - x_[i];
    const double t = (x - x_[i]) / h;
    const double u = 1 - t;
    return y_[i] * (1 + 2 * t) * u * u + h * slope_[i] * t * u * u + y_[i + 1] * t * t * (3 - 2 * t) -
           h * slope_[i + 1] * t * t * u;
  }

  // The integral from `low` to `high`, both inside. Simpson's rule is exact for a cubic.
  [[nodiscard]] double Integral(double low, double high) const {
    double sum = 0;
    for (std::size_t i = 0; i + 1 < x_.size(); ++i) {
      const double from = std::max(low, x_[i]);
      const double to = std::min(high, x_[i + 1]);
      if (from < to) sum += (to - from) / 6 * (At(from) + 4 * At((from + to) / 2) + At(to));
    }
    return sum;
  }

 private:
  static double EndSlope(double h0, double h1, double secant0, double secant1) {
    const double slope = ((2 * h0 + h1) * secant0 - h0 * secant1) / (h0 + h1);
    if (slope * secant0 <= 0) return 0;
    if (secant0 * secant1 <= 0 && std::abs(slope) > 3 * std::abs(secant0)) return 3 * secant0;
    return slope;
  }

  [[nodiscard]] std::size_t Segment(double x) const {
    const auto above = std::upper_bound(x_.begin(), x_.end(), x);
    const auto index = static_cast<std::size_t>(above - x_.begin());
    return std::clamp<std::size_t>(index, 1, x_.size() - 1) - 1;
  }

  std::vector<double> x_;
  std::vector<double> y_;
  std::vector<double> slope_;
};

// The points worth their bytes, by rising rate and quality.
Result<std::vector<RatePoint>> Frontier(std::span<const RatePoint> curve, const char* name) {
  std::vector<RatePoint> points;
  for (const RatePoint& point : curve) {
    if (std::isfinite(point.quality) && std::isfinite(point.rate) && point.rate > 0) points.push_back(point);
  }
  std::sort(points.begin(), points.end(), [](const RatePoint& a, const RatePoint& b) {
    return a.rate != b.rate ? a.rate < b.rate : a.quality > b.quality;
  });
  std::vector<RatePoint> frontier;
  for (const RatePoint& point : points) {
    if (frontier.empty() || point.quality > frontier.back().quality) frontier.push_back(point);
  }
  if (frontier.size() < 2) {
    return Fail(Code::kOutOfRange, std::string("quality: expected at least two points of the ") + name +
                                       " curve, found " + std::to_string(frontier.size()));
  }
  return frontier;
}

Pchip LogRateOverQuality(const std::vector<RatePoint>& frontier) {
  std::vector<double> quality;
  std::vector<double> log_rate;
  for (const RatePoint& point : frontier) {
    quality.push_back(point.quality);
    log_rate.push_back(std::log(point.rate));
  }
  return {std::move(quality), std::move(log_rate)};
}

}  // namespace

Result<double> MeanSquaredError(const Picture& original, const Picture& other) {
  HOLO_RETURN_IF_ERROR(ExpectComparable(original, other, 1));
  std::vector<float> row_a;
  std::vector<float> row_b;
  double sum = 0;
  for (std::uint32_t y = 0; y < original.height(); ++y) {
    ReadRow(original, y, row_a);
    ReadRow(other, y, row_b);
    for (std::size_t i = 0; i < row_a.size(); ++i) {
      const double difference = static_cast<double>(row_a[i]) - row_b[i];
      sum += difference * difference;
    }
  }
  return sum / (static_cast<double>(row_a.size()) * original.height());
}

double PsnrOfMse(double mse) {
  return mse > 0 ? 10 * std::log10(255.0 * 255.0 / mse) : std::numeric_limits<double>::infinity();
}

Result<double> Psnr(const Picture& original, const Picture& other) {
  HOLO_ASSIGN_OR_RETURN(const double mse, MeanSquaredError(original, other));
  return PsnrOfMse(mse);
}

Result<double> Psnr611(const Picture& original, const Picture& other) {
  if (!IsRgb(original)) return Psnr(original, other);
  HOLO_RETURN_IF_ERROR(ExpectComparable(original, other, 1));
  const std::size_t channels = original.channels();
  std::vector<float> row_a;
  std::vector<float> row_b;
  std::array<double, 3> sums{};
  for (std::uint32_t y = 0; y < original.height(); ++y) {
    ReadRow(original, y, row_a);
    ReadRow(other, y, row_b);
    for (std::size_t i = 0; i < row_a.size(); i += channels) {
      // The transform is linear: the error of Y, Cb, Cr is the transform of the error.
      const double r = static_cast<double>(row_a[i]) - row_b[i];
      const double g = static_cast<double>(row_a[i + 1]) - row_b[i + 1];
      const double b = static_cast<double>(row_a[i + 2]) - row_b[i + 2];
      const double luma = 0.299 * r + 0.587 * g + 0.114 * b;
      const double cb = -0.168736 * r - 0.331264 * g + 0.5 * b;
      const double cr = 0.5 * r - 0.418688 * g - 0.081312 * b;
      sums[0] += luma * luma;
      sums[1] += cb * cb;
      sums[2] += cr * cr;
    }
  }
  const double count = static_cast<double>(original.width()) * original.height();
  return (6 * PsnrOfMse(sums[0] / count) + PsnrOfMse(sums[1] / count) + PsnrOfMse(sums[2] / count)) / 8;
}

Result<double> Ssim(const Picture& original, const Picture& other) {
  HOLO_RETURN_IF_ERROR(ExpectComparable(original, other, kMinSsimSide));
  return CompareScale(LumaOf(original), LumaOf(other)).ssim;
}

Result<double> MsSsim(const Picture& original, const Picture& other) {
  HOLO_RETURN_IF_ERROR(ExpectComparable(original, other, kMinMsSsimSide));
  Plane a = LumaOf(original);
  Plane b = LumaOf(other);
  double product = 1;
  for (std::size_t scale = 0; scale < kScaleWeights.size(); ++scale) {
    if (scale > 0) {
      a = Halve(a);
      b = Halve(b);
    }
    const Similarity similarity = CompareScale(a, b);
    const bool last = scale + 1 == kScaleWeights.size();
    product *= std::pow(std::max(0.0, last ? similarity.ssim : similarity.contrast), kScaleWeights[scale]);
  }
  return std::min(1.0, product);
}

double MsSsimDb(double ms_ssim) {
  return ms_ssim < 1 ? -10 * std::log10(1 - ms_ssim) : std::numeric_limits<double>::infinity();
}

Result<double> BdRate(std::span<const RatePoint> anchor, std::span<const RatePoint> test) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<RatePoint> anchor_points, Frontier(anchor, "anchor's"));
  HOLO_ASSIGN_OR_RETURN(const std::vector<RatePoint> test_points, Frontier(test, "tested"));
  const Pchip anchor_curve = LogRateOverQuality(anchor_points);
  const Pchip test_curve = LogRateOverQuality(test_points);
  const double low = std::max(anchor_curve.front(), test_curve.front());
  const double high = std::min(anchor_curve.back(), test_curve.back());
  if (low >= high) {
    return Fail(Code::kOutOfRange, "quality: expected curves that share a range of quality, found " +
                                       std::to_string(anchor_curve.front()) + ".." +
                                       std::to_string(anchor_curve.back()) + " and " +
                                       std::to_string(test_curve.front()) + ".." + std::to_string(test_curve.back()));
  }
  const double mean_difference = (test_curve.Integral(low, high) - anchor_curve.Integral(low, high)) / (high - low);
  return std::exp(mean_difference) - 1;
}

Result<double> QualityAt(std::span<const RatePoint> curve, double rate) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<RatePoint> points, Frontier(curve, "given"));
  std::vector<double> log_rate;
  std::vector<double> quality;
  for (const RatePoint& point : points) {
    log_rate.push_back(std::log(point.rate));
    quality.push_back(point.quality);
  }
  const Pchip interpolated(std::move(log_rate), std::move(quality));
  return interpolated.At(std::clamp(std::log(rate), interpolated.front(), interpolated.back()));
}

Result<double> RateAt(std::span<const RatePoint> curve, double quality) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<RatePoint> points, Frontier(curve, "given"));
  const Pchip interpolated = LogRateOverQuality(points);
  if (!(quality >= interpolated.front() && quality <= interpolated.back())) {
    return Fail(Code::kOutOfRange, "quality: expected one between " + std::to_string(interpolated.front()) + " and " +
                                       std::to_string(interpolated.back()) + " dB, found " + std::to_string(quality));
  }
  return std::exp(interpolated.At(quality));
}

}  // namespace holo::quality
