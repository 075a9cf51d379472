// Encoder and progressive decoder. They know samples and bytes: no files, no sockets, no logging.
//
// Encode() turns a picture into the bytes of a .holo file. A Decoder takes a header, the bases it names, and chunks in
// any order and any subset, and always knows the best reconstruction of what has arrived; render/ turns that into
// pixels. One Decoder is used by one thread at a time; different ones are independent.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/basis/basis.h"
#include "common/container/container.h"
#include "common/pixels/pixels.h"
#include "common/status/status.h"

namespace holo::codec {

// How to choose the basis.
enum class BasisChoice : std::uint8_t {
  kAuto,       // the built-in ones and one trained on the picture, whichever makes the smaller file (basis counted)
  kUniversal,  // the built-in ones
  kOwn,        // trained on this picture and stored in the file
  kGiven,      // EncodeOptions::basis
};

// What the bytes are spent for.
enum class Tuning : std::uint8_t {
  kEye,     // what looks best: fine detail and colour differences coarser than the rest
  kPsnr,    // PSNR 6:1:1; steps of colour differences follow from the picture
  kMsSsim,  // structural similarity of luminance on five scales; colour as coarse as bearable
};

// Sees what the entropy coder codes: for training, and to test the coder's arithmetic.
class ContextObserver {
 public:
  virtual ~ContextObserver() = default;
  // A decision that a linear model scored: `features` are what the weights of row `row` are multiplied with.
  virtual void Scored(bool significance, std::size_t row, std::span<const std::int8_t> features, int score, bool bit) = 0;
  // A decision coded with adaptive context `context`, below ContextCount().
  virtual void Coded(std::size_t context, bool bit) = 0;
};

struct EncodeOptions {
  // 0..100, roughly a JPEG's scale; ignored where max_bytes is set. 100 is near-lossless: Encode() renders what it has
  // made, and no sample of the full stream is off by more than 1 of 255 (8 bits) or 257 of 65535 (16 bits). Without
  // this promise where k or variance leave dimensions out; kInvalidArgument for a given basis that cannot keep it.
  float quality = 75.0f;
  std::optional<std::uint64_t> max_bytes;  // the best picture in at most so many bytes of file
  Tuning tuning = Tuning::kEye;            // quality 100 ignores it
  std::uint32_t k = 0;                     // basis dimensions kept per patch (means included); 0: all
  std::optional<double> variance;          // 0..1: instead of k, the smallest k that holds so much of the variance
  BasisChoice basis_choice = BasisChoice::kAuto;
  // Whether samples are filtered across the borders of patches; photographs gain from it, drawings lose. Absent: with
  // built-in bases, whichever is cheaper on parts of the picture; with others, filtered, as they were trained.
  std::optional<bool> lapped;
  std::shared_ptr<const basis::Basis> basis;  // for kGiven: its channels must be 1 or the picture's channel count
  bool embed_basis = false;                   // for kGiven: store it in the file, too
  unsigned threads = 1;
  ContextObserver* observer = nullptr;  // needs threads == 1. Not owned.
  // Called from an encoding thread, one call at a time, with the fraction done, 0..1; return false to cancel
  // (kCancelled).
  std::function<bool(double)> progress;
};

struct EncodeStatistics {
  std::uint64_t file_bytes = 0;
  std::uint64_t basis_bytes = 0;
  std::uint32_t k = 0;                     // basis dimensions in use per patch of level 0, means included
  double estimated_psnr_db = 0;            // of the full stream, over all samples
  std::vector<std::uint64_t> layer_bytes;  // chunk bytes of each layer
};

struct Encoded {
  std::vector<std::uint8_t> file;
  EncodeStatistics statistics;
};

// How many adaptive contexts the entropy coder has.
[[nodiscard]] std::size_t ContextCount();

[[nodiscard]] Result<Encoded> Encode(const pixels::Picture& picture, const EncodeOptions& options);

// Finds a basis by name: built-in, embedded, cached or received. Null if unknown.
using BasisResolver = std::function<std::shared_ptr<const basis::Basis>(const basis::Hash&)>;

class Decoder {
 public:
  struct Options {
    // Decoded coefficients kept; beyond it the tiles used longest ago fall back to their compressed chunks.
    std::size_t max_decoded_bytes = 64u << 20;
  };

  // kNotFound, naming the hash, if `resolve` does not know a basis of the header.
  [[nodiscard]] static Result<Decoder> Create(container::AssetHeader header, const BasisResolver& resolve,
                                              Options options);
  [[nodiscard]] static Result<Decoder> Create(container::AssetHeader header, const BasisResolver& resolve) {
    return Create(std::move(header), resolve, Options{});
  }

  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  [[nodiscard]] const container::AssetHeader& header() const;

  // Takes one chunk. The result is the region of the picture (level-0 pixels) that now looks different: empty if the
  // chunk was known already or waits for a lower layer of its tile. kInvalidArgument for an id outside the asset.
  // Damage inside a chunk cannot be told from data; container checksums are for that.
  [[nodiscard]] Result<pixels::Rect> AddChunk(const container::ChunkId& id, std::span<const std::uint8_t> bytes);
  // The beginning of a chunk whose rest will never come (the end of a truncated file). Later layers are not accepted.
  [[nodiscard]] Result<pixels::Rect> AddPartialChunk(const container::ChunkId& id, std::span<const std::uint8_t> bytes);

  [[nodiscard]] bool HasChunk(const container::ChunkId& id) const;
  // Layers 0..n-1 of that tile are all here (missing chunks that do not exist are not known to the decoder).
  [[nodiscard]] std::uint64_t received_bytes() const;  // compressed chunk bytes held
  [[nodiscard]] std::size_t memory_bytes() const;      // chunks and decoded coefficients

  struct State;  // for render/ and tests
  [[nodiscard]] State& state() const { return *state_; }

 private:
  explicit Decoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace holo::codec
