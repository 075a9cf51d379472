#include "server/assets/folder_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <set>
#include <utility>

namespace holo::assets {
namespace {

constexpr int kQuietMs = 100;
constexpr auto kLongestBurst = std::chrono::seconds(1);
constexpr int kPollingMs = 5000;
constexpr std::uint32_t kEvents = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_ATTRIB |
                                  IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;

}  // namespace

FolderWatch::FolderWatch(std::function<std::vector<std::filesystem::path>()> changed)
    : changed_(std::move(changed)),
      inotify_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)),
      stop_event_(eventfd(0, EFD_CLOEXEC)) {
  thread_ = std::thread([this] { Run(); });
}

FolderWatch::~FolderWatch() {
  const std::uint64_t one = 1;
  // Cannot fail: the counter is far from full.
  [[maybe_unused]] const ssize_t written = write(stop_event_.get(), &one, sizeof(one));
  thread_.join();
}

void FolderWatch::Run() {
  std::set<std::filesystem::path> watched;
  const auto look = [&] {
    bool all_watched = inotify_.get() >= 0;
    // Watching a folder again is harmless, and finds one that was replaced by another of the same name.
    for (const std::filesystem::path& folder : changed_()) {
      if (inotify_.get() >= 0 && inotify_add_watch(inotify_.get(), folder.c_str(), kEvents) < 0) all_watched = false;
      watched.insert(folder);
    }
    return all_watched;
  };
  std::size_t known = 0;
  bool all_watched = look();
  for (;;) {
    // What came between a scan and the watch that it asked for is found by one more scan.
    const bool has_new_folders = watched.size() != known;
    known = watched.size();
    std::array<pollfd, 2> fds = {pollfd{stop_event_.get(), POLLIN, 0}, pollfd{inotify_.get(), POLLIN, 0}};
    const int timeout = has_new_folders ? 0 : all_watched ? -1 : kPollingMs;
    poll(fds.data(), inotify_.get() >= 0 ? 2 : 1, timeout);
    if ((fds[0].revents & POLLIN) != 0) return;
    if (inotify_.get() >= 0 && (fds[1].revents & POLLIN) != 0) {
      const auto until = std::chrono::steady_clock::now() + kLongestBurst;
      do {
        alignas(inotify_event) std::array<char, 16384> events;
        while (read(inotify_.get(), events.data(), events.size()) > 0) {
        }
        fds[0].revents = fds[1].revents = 0;
        poll(fds.data(), 2, kQuietMs);
        if ((fds[0].revents & POLLIN) != 0) return;
      } while ((fds[1].revents & POLLIN) != 0 && std::chrono::steady_clock::now() < until);
    }
    all_watched = look();
  }
}

}  // namespace holo::assets
