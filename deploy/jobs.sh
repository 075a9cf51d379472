#!/usr/bin/env bash
# Prints how many compilers may run at once: deploy/jobs.sh MEBIBYTES_EACH. No more than cores, no more than fit into the
# memory that this machine, or the container that limits it, has left; at least one.
set -euo pipefail
each=$1
jobs=$(nproc)
available=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
  bytes=$(cat "$limit" 2>/dev/null || true)
  # "max", or a number near 2^63, where nothing limits.
  if [[ $bytes =~ ^[0-9]{1,15}$ ]] && ((bytes / 1048576 < available)); then available=$((bytes / 1048576)); fi
done
if ((available / each < jobs)); then jobs=$((available / each)); fi
echo $((jobs > 0 ? jobs : 1))
