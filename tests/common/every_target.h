// Runs checks with each kind of vector instructions that this machine has.
#pragma once

#ifndef HOLO_PLAIN_KERNELS
#include <hwy/targets.h>

#include <cstdint>
#endif

namespace holo {

// Calls `work` with the name of each, and goes back to the best one. Not while other threads use kernels.
template <typename Work>
void OnEveryTarget(const Work& work) {
#ifdef HOLO_PLAIN_KERNELS
  work("plain");
#else
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::GetChosenTarget().Update(target);
    work(hwy::TargetName(target));
  }
  hwy::GetChosenTarget().DeInit();
#endif
}

}  // namespace holo
