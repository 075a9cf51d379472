// The window of `holo view` and `holo watch`. Private to the program; only window.cc knows OpenCV's highgui.
#pragma once

#include <functional>
#include <string>

#include "client/cli/viewport.h"
#include "common/codec/codec.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::cli {

// kFailedPrecondition unless there is a display to open a window on; `instead` says what to do without one.
[[nodiscard]] Result<void> CheckDisplay(const std::string& instead);

// What the window asks of the program.
struct WindowContent {
  // The decoder to render from now; may change between calls.
  std::function<const codec::Decoder&()> decoder;
  // Called all the time; may wait for some milliseconds. `moved`: the view is another one since the last call. The
  // result is the part of the picture that looks different now.
  std::function<Result<pixels::Rect>(const Viewport& viewport, bool moved, std::uint32_t k)> poll;
  // Called after what poll() reported is on the screen; may be empty.
  std::function<void()> shown;
  // Added to the window's title.
  std::function<std::string()> status;
};

// Shows a window until it is closed, Q or Escape is pressed, or Ctrl-C. The wheel and the keys I and O zoom, dragging
// pans, + and - change k, 0 shows all dimensions again, F the whole picture.
[[nodiscard]] Result<void> RunWindow(const std::string& title, const WindowContent& content);

}  // namespace holo::cli
