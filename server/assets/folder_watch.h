// Tells when something changes in a tree of folders: the module's inside.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/files/files.h"

namespace holo::assets {

// inotify on a set of folders. Bursts of changes are told as one, when they have paused for a tenth of a second or
// after a second at most.
class FolderWatch {
 public:
  // Calls `changed` from the watch's own thread; what it returns are the folders to watch from then on. It is called
  // once at the beginning. Where inotify is not to be had, it is called every few seconds instead.
  explicit FolderWatch(std::function<std::vector<std::filesystem::path>()> changed);
  ~FolderWatch();

 private:
  void Run();

  std::function<std::vector<std::filesystem::path>()> changed_;
  files::Descriptor inotify_;
  files::Descriptor stop_event_;
  std::thread thread_;
};

}  // namespace holo::assets
