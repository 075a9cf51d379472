// What the benchmarks compare: this project's codec and its peers behind one interface.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::benchmarks {

// Pictures are RGB with 8 bits. Const calls from several threads are fine.
class Coder {
 public:
  virtual ~Coder() = default;

  [[nodiscard]] virtual const std::string& name() const = 0;
  // Changes whenever the same call could give another result, so results may be kept under it; empty: never keep them.
  [[nodiscard]] virtual const std::string& version() const = 0;
  // The settings of its rate curve, from few bytes to many, about 0.15 to 2.5 bits per pixel on photographs.
  [[nodiscard]] virtual const std::vector<std::string>& settings() const = 0;
  [[nodiscard]] virtual Result<std::vector<std::uint8_t>> Encode(const pixels::Picture& picture,
                                                                 const std::string& setting) const = 0;
  // Whether the first bytes of a file show the whole picture, so that DecodePrefix() and EncodeToSize() make sense.
  [[nodiscard]] virtual bool is_progressive() const = 0;
  // A file of about `target_bytes`, as near as the coder's settings come, good to cut at each of `cuts` bytes.
  [[nodiscard]] virtual Result<std::vector<std::uint8_t>> EncodeToSize(const pixels::Picture& picture,
                                                                       std::uint64_t target_bytes,
                                                                       std::span<const std::uint64_t> cuts) const = 0;
  [[nodiscard]] virtual Result<pixels::Picture> Decode(std::span<const std::uint8_t> file) const = 0;
  // What can be shown of the first bytes of a file; `cut` counts the cuts of EncodeToSize() that lie inside, this one
  // included: 1 for the first.
  [[nodiscard]] virtual Result<pixels::Picture> DecodePrefix(std::span<const std::uint8_t> prefix,
                                                             std::size_t cut) const = 0;
};

// The peers that are there: progressive JPEG (first, the anchor of BD-rates), WebP, JPEG 2000, JPEG XL, AVIF,
// progressive JPEG XL. Some are programs of Debian's; the newest ones need Python, and a virtual environment below
// ~/.cache that newest_peers.py makes on the first call (60 MB from PyPI). A line for each one that is missing, and
// what to install, is added to `missing`.
[[nodiscard]] std::vector<std::unique_ptr<Coder>> FindPeers(std::vector<std::string>& missing);

// A binary portable pixmap or greymap (P6, P5) of 8 bits, grey turned into RGB.
[[nodiscard]] Result<pixels::Picture> ParsePnm(std::span<const std::uint8_t> bytes);
// The P6 file of an RGB picture of 8 bits.
[[nodiscard]] std::vector<std::uint8_t> SerializePpm(const pixels::Picture& picture);

}  // namespace holo::benchmarks
