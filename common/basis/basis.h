// The basis: orthonormal rows on which patches are projected, shared by many assets and named by the hash of its bytes.
//
// One Basis serves one *component group*: `channels` planes coded together. It holds a transform for every patch size
// in use (8 for level 0, 4 for the levels above). A patch of p x p samples and c channels is a vector of D = p*p*c
// samples in the order [channel][row][column]; its channel means are split off ("DC", they form the next level), and
// the rest is
//
//     patch - mean = coefficients[1 x K] @ rows[K x D],      K <= D - c,   rows orthonormal, each orthogonal to the
//     means
//
// Rows are ordered by falling variance on the training material. A Basis is immutable and may be shared by threads.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"

namespace holo::basis {

inline constexpr std::uint32_t kMaxChannelsPerGroup = 16;
inline constexpr std::size_t kMaxBasisBytes = 8u << 20;

// The first 16 bytes of the SHA-256 of Basis::bytes().
using Hash = std::array<std::uint8_t, 16>;

// The rows for one patch size.
struct Rows {
  std::uint32_t patch_px = 0;    // 4 or 8
  std::uint32_t count = 0;       // K
  std::uint32_t dimension = 0;   // D = patch_px^2 * channels
  std::vector<float> values;     // [K, D] row-major
  std::vector<float> deviation;  // [K] standard deviation of each coefficient on the training material, > 0
};

class Basis {
 public:
  // Reads the format of FORMAT.md, checking every bound. Rows must be orthonormal within 1e-2; they are made exactly
  // so.
  [[nodiscard]] static Result<std::shared_ptr<const Basis>> Parse(std::span<const std::uint8_t> bytes);

  [[nodiscard]] const Hash& hash() const { return hash_; }
  [[nodiscard]] const std::vector<std::uint8_t>& bytes() const { return bytes_; }
  [[nodiscard]] std::uint32_t channels() const { return channels_; }
  [[nodiscard]] const std::string& description() const { return description_; }  // UTF-8, at most 255 bytes
  // patch_px is 4 or 8.
  [[nodiscard]] const Rows& RowsFor(std::uint32_t patch_px) const { return patch_px == 8 ? rows8_ : rows4_; }

 private:
  Basis() = default;

  Hash hash_{};
  std::vector<std::uint8_t> bytes_;
  std::uint32_t channels_ = 1;
  std::string description_;
  Rows rows8_;
  Rows rows4_;
};

// The bytes of a basis (see FORMAT.md) from its rows, which Parse() makes exactly orthonormal again after their
// rounding to 16 bits. kInvalidArgument for a description of more than 255 bytes.
[[nodiscard]] Result<std::vector<std::uint8_t>> Serialize(std::uint32_t channels, std::string_view description,
                                                          const Rows& rows8, const Rows& rows4);

// The hash that names `bytes`.
[[nodiscard]] Hash HashOf(std::span<const std::uint8_t> bytes);

// Built into every program: for the luminance of photographs (also grey pictures and alpha), and for colour
// differences; trained on patches after the lapped filter.
[[nodiscard]] const std::shared_ptr<const Basis>& BuiltInLuma();
[[nodiscard]] const std::shared_ptr<const Basis>& BuiltInChroma();
// The same for drawings, whose patches are not filtered: the two-dimensional cosine transform (DCT-II), low frequencies
// first. A straight edge in a patch leaves most of its coefficients exactly zero, as no trained row does.
[[nodiscard]] const std::shared_ptr<const Basis>& BuiltInDrawingLuma();
[[nodiscard]] const std::shared_ptr<const Basis>& BuiltInDrawingChroma();
// All of them.
[[nodiscard]] std::span<const std::shared_ptr<const Basis>> BuiltIns();
// The built-in basis of that name, or null.
[[nodiscard]] std::shared_ptr<const Basis> FindBuiltIn(const Hash& hash);

}  // namespace holo::basis
