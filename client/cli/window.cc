#include "client/cli/window.h"

#include <dlfcn.h>

#include <QCoreApplication>
#include <QWheelEvent>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <opencv2/core.hpp>
#include <opencv2/highgui.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>

#include "client/core/client.h"
#include "common/render/render.h"

namespace holo::cli {
namespace {

constexpr std::uint32_t kMaxWindowWidth = 1280;
constexpr std::uint32_t kMaxWindowHeight = 800;
constexpr double kZoomStep = 1.25;
constexpr auto kRest = std::chrono::milliseconds(150);  // without a movement

// What the mouse has done since it was looked at.
struct Mouse {
  bool dragging = false;
  int x = 0, y = 0;
  double pan_x = 0, pan_y = 0;
  double zoom_steps = 0;
};

void OnMouse(int event, int x, int y, int flags, void* data) {
  Mouse& mouse = *static_cast<Mouse*>(data);
  if (event == cv::EVENT_LBUTTONDOWN) mouse.dragging = true;
  if (event == cv::EVENT_LBUTTONUP) mouse.dragging = false;
  if (event == cv::EVENT_MOUSEMOVE && mouse.dragging && (flags & cv::EVENT_FLAG_LBUTTON) != 0) {
    mouse.pan_x += x - mouse.x;
    mouse.pan_y += y - mouse.y;
  }
  mouse.x = x;
  mouse.y = y;
}

// OpenCV's window magnifies its pixels by itself when the wheel turns, and cannot be told not to. This takes the wheel
// first.
class WheelFilter final : public QObject {
 public:
  explicit WheelFilter(Mouse& mouse) : mouse_(mouse) { QCoreApplication::instance()->installEventFilter(this); }

  bool eventFilter(QObject* /*watched*/, QEvent* event) override {
    if (event->type() != QEvent::Wheel) return false;
    constexpr double kUnitsPerStep = 120;  // a touchpad sends parts of a step
    mouse_.zoom_steps += static_cast<QWheelEvent*>(event)->angleDelta().y() / kUnitsPerStep;
    return true;
  }

 private:
  Mouse& mouse_;
};

// Whether the X server answers: without one Qt would end the program. True where that cannot be found out.
bool XServerAnswers() {
  void* const xcb = ::dlopen("libxcb.so.1", RTLD_NOW);
  if (xcb == nullptr) return true;
  const auto connect = reinterpret_cast<void* (*)(const char*, int*)>(::dlsym(xcb, "xcb_connect"));
  const auto has_error = reinterpret_cast<int (*)(void*)>(::dlsym(xcb, "xcb_connection_has_error"));
  const auto disconnect = reinterpret_cast<void (*)(void*)>(::dlsym(xcb, "xcb_disconnect"));
  if (connect == nullptr || has_error == nullptr || disconnect == nullptr) return true;
  void* const connection = connect(nullptr, nullptr);
  const bool answers = has_error(connection) == 0;
  disconnect(connection);
  return answers;
}

// 8 bits of B, G and R, on white where the picture is transparent.
cv::Mat ToBgr(const pixels::Picture& picture) {
  const pixels::Layout& layout = picture.layout();
  const auto channels = static_cast<int>(layout.channels);
  const int depth = layout.sample_type == pixels::SampleType::kU8 ? CV_8U : CV_16U;
  const double to_8_bit = 255.0 / pixels::MaxSample(layout.sample_type);
  const cv::Mat all(static_cast<int>(layout.height), static_cast<int>(layout.width), CV_MAKETYPE(depth, channels),
                    const_cast<std::uint8_t*>(picture.bytes().data()), picture.row_bytes());
  const bool has_colors = channels - (layout.has_alpha ? 1 : 0) >= 3;
  cv::Mat out(all.size(), CV_MAKETYPE(depth, 3));
  cv::mixChannels({all}, {out}, {has_colors ? 2 : 0, 0, has_colors ? 1 : 0, 1, 0, 2});
  out.convertTo(out, CV_8U, to_8_bit);
  if (!layout.has_alpha) return out;
  cv::Mat alpha;
  cv::extractChannel(all, alpha, channels - 1);
  alpha.convertTo(alpha, CV_8U, to_8_bit);
  for (int y = 0; y < out.rows; ++y) {
    for (int x = 0; x < out.cols; ++x) {
      const int share = alpha.at<std::uint8_t>(y, x);
      cv::Vec3b& pixel = out.at<cv::Vec3b>(y, x);
      for (int c = 0; c < 3; ++c) {
        pixel[c] = static_cast<std::uint8_t>((pixel[c] * share + 255 * (255 - share) + 127) / 255);
      }
    }
  }
  return out;
}

// The rendered part of the picture as it fills the window, grey outside. Bilinear: the render is at most twice as fine as
// the window.
cv::Mat Compose(const client::Canvas& canvas, const Viewport& viewport) {
  const render::View& view = canvas.view();
  const double unit = std::ldexp(1.0, static_cast<int>(view.scale_log2));
  const render::OutputRect rect = render::OutputRectOf(view);
  const SourceRect exact = viewport.Exact();
  const cv::Size size(static_cast<int>(viewport.window_width()), static_cast<int>(viewport.window_height()));
  // Pixel (u, v) of the window is (step_x * u + first_x, step_y * v + first_y) of the render.
  const double step_x = exact.width / size.width / unit;
  const double step_y = exact.height / size.height / unit;
  const double first_x = exact.x / unit - rect.x + step_x / 2 - 0.5;
  const double first_y = exact.y / unit - rect.y + step_y / 2 - 0.5;
  cv::Mat out;
  cv::warpAffine(ToBgr(canvas.picture()), out, cv::Matx23d(step_x, 0, first_x, 0, step_y, first_y), size,
                 cv::INTER_LINEAR | cv::WARP_INVERSE_MAP, cv::BORDER_REPLICATE);
  const auto inside = [](double first, double step, std::uint32_t length, int limit) {
    const double begin = std::ceil((-0.5 - first) / step);
    const double end = std::floor((length - 0.5 - first) / step) + 1;
    return cv::Range(static_cast<int>(std::clamp<double>(begin, 0, limit)),
                     static_cast<int>(std::clamp<double>(end, 0, limit)));
  };
  const cv::Range rows = inside(first_y, step_y, rect.height, size.height);
  const cv::Range columns = inside(first_x, step_x, rect.width, size.width);
  const cv::Scalar grey(64, 64, 64);
  out.rowRange(0, rows.start).setTo(grey);
  out.rowRange(rows.end, size.height).setTo(grey);
  out.colRange(0, columns.start).setTo(grey);
  out.colRange(columns.end, size.width).setTo(grey);
  return out;
}

class Window {
 public:
  Window(std::string title, const WindowContent& content)
      : title_(std::move(title)), content_(content), viewport_(MakeViewport(content)) {}

  Result<void> Run() {
    cv::namedWindow(title_, cv::WINDOW_AUTOSIZE | cv::WINDOW_GUI_NORMAL);
    cv::setMouseCallback(title_, OnMouse, &mouse_);
    const WheelFilter wheel(mouse_);
    while (!Interrupted()) {
      HOLO_ASSIGN_OR_RETURN(const pixels::Rect changed, content_.poll(viewport_, std::exchange(moved_, false), k_));
      HOLO_RETURN_IF_ERROR(Redraw(changed));
      if (content_.shown) content_.shown();
      const int key = cv::waitKey(15);
      const bool closed = cv::getWindowProperty(title_, cv::WND_PROP_VISIBLE) < 1;
      if (key == 'q' || key == 27 || closed) return {};
      TakeMouse();
      TakeKey(key);
    }
    return Fail(Code::kCancelled, "window: interrupted");
  }

 private:
  static Viewport MakeViewport(const WindowContent& content) {
    const pixels::Layout& layout = content.decoder().header().layout;
    // As large as the picture, but no larger than a screen, and large enough to be held by its frame.
    const auto side = [](std::uint32_t length, std::uint32_t limit) { return std::clamp(length, 160u, limit); };
    return {layout.width, layout.height, side(layout.width, kMaxWindowWidth), side(layout.height, kMaxWindowHeight)};
  }

  Result<void> Redraw(const pixels::Rect& changed) {
    const codec::Decoder& decoder = content_.decoder();
    // Smoothed once it has come to rest: that takes twice as long.
    const bool at_rest = client::Clock::now() >= rest_at_;
    const render::View view{viewport_.Region(), ScaleLog2(viewport_.zoom()), k_, at_rest};
    const bool same_view = canvas_ && drawn_by_ == &decoder && canvas_->view().region == view.region &&
                           canvas_->view().scale_log2 == view.scale_log2 && canvas_->view().k == view.k &&
                           canvas_->view().smooth == view.smooth;
    if (!same_view) {
      HOLO_ASSIGN_OR_RETURN(canvas_, client::Canvas::Create(decoder, view));
      drawn_by_ = &decoder;
    } else if (changed.empty() && !compose_) {
      return {};
    } else {
      HOLO_RETURN_IF_ERROR(canvas_->Update(decoder, changed));
    }
    compose_ = false;
    cv::imshow(title_, Compose(*canvas_, viewport_));
    cv::setWindowTitle(title_, title_ + " - " + Fixed(100 * viewport_.zoom(), 0) + " %" +
                                   (k_ == 0 ? std::string() : ", k " + std::to_string(k_)) +
                                   (content_.status ? ", " + content_.status() : std::string()));
    return {};
  }

  void Moved() {
    moved_ = true;
    compose_ = true;  // the same whole pixels may be shown at another fraction
    rest_at_ = client::Clock::now() + kRest;
  }

  void TakeMouse() {
    if (mouse_.pan_x != 0 || mouse_.pan_y != 0) {
      viewport_.Pan(mouse_.pan_x, mouse_.pan_y);
      Moved();
    }
    if (mouse_.zoom_steps != 0) {
      viewport_.ZoomAt(mouse_.x, mouse_.y, std::pow(kZoomStep, mouse_.zoom_steps));
      Moved();
    }
    mouse_.pan_x = mouse_.pan_y = mouse_.zoom_steps = 0;
  }

  void TakeKey(int key) {
    const double middle_x = viewport_.window_width() / 2.0;
    const double middle_y = viewport_.window_height() / 2.0;
    const pixels::Layout& layout = content_.decoder().header().layout;
    const std::uint32_t all = 64 * layout.channels;
    switch (key) {
      case 'i':
        viewport_.ZoomAt(middle_x, middle_y, kZoomStep);
        break;
      case 'o':
        viewport_.ZoomAt(middle_x, middle_y, 1 / kZoomStep);
        break;
      case 'f':
        viewport_.ShowAll();
        break;
      case '+':
      case '=':
        if (k_ != 0) k_ = k_ + std::max(1u, k_ / 4);
        if (k_ >= all) k_ = 0;
        break;
      case '-':
        k_ = k_ == 0 ? all * 3 / 4 : std::max(layout.channels, k_ - std::max(1u, k_ / 5));
        break;
      case '0':
        k_ = 0;
        break;
      default:
        return;
    }
    Moved();
  }

  std::string title_;
  const WindowContent& content_;
  Viewport viewport_;
  Mouse mouse_;
  std::uint32_t k_ = 0;
  bool moved_ = true;
  bool compose_ = true;
  client::Clock::time_point rest_at_{};
  std::optional<client::Canvas> canvas_;
  const codec::Decoder* drawn_by_ = nullptr;
};

}  // namespace

Result<void> CheckDisplay(const std::string& instead) {
  const auto is_set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && value[0] != '\0';
  };
  const bool has_x = is_set("DISPLAY");
  if (!has_x && !is_set("WAYLAND_DISPLAY")) {
    return Fail(Code::kFailedPrecondition,
                "window: expected a display (DISPLAY or WAYLAND_DISPLAY), found none. Without one: " + instead);
  }
  if (has_x && !is_set("QT_QPA_PLATFORM") && !XServerAnswers()) {
    return Fail(Code::kFailedPrecondition,
                "window: expected an X server at DISPLAY=" + std::string(std::getenv("DISPLAY")) +
                    ", found none that lets us in. Without one: " + instead);
  }
  return {};
}

Result<void> RunWindow(const std::string& title, const WindowContent& content) {
  try {
    Window window(title, content);
    const Result<void> done = window.Run();
    cv::destroyAllWindows();
    return done;
  } catch (const cv::Exception& exception) {
    return Fail(Code::kUnavailable, "window: " + std::string(exception.what()));
  }
}

}  // namespace holo::cli
