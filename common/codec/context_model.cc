#include "common/codec/context_model.h"

namespace holo::codec {
namespace {

BandModel MakeModel(TileKind kind, std::uint32_t family, std::uint32_t index) {
  std::uint32_t first_k = 0;
  for (std::uint32_t i = 0; i < index; ++i) first_k += kBandSizes[i];
  const std::uint32_t size = kBandSizes[index];
  BandModel model;
  model.columns = (size + kVector - 1) / kVector * kVector;
  const auto gather = [&](std::size_t first_weight, std::size_t count) {
    std::vector<std::int16_t> out(count * model.columns, 0);
    for (std::size_t w = 0; w < count; ++w) {
      for (std::uint32_t i = 0; i < size; ++i) {
        const std::size_t row = significance::RowOf(kind, family, first_k + i);
        out[w * model.columns + i] = SignificanceWeights()[row * significance::kWeights + first_weight + w];
      }
    }
    return out;
  };
  model.bias = gather(significance::kBias, 1);
  model.fresh = gather(significance::kFresh, 1);
  model.neighbours = gather(significance::kNeighbours, kAround);
  model.luma = gather(significance::kLuma, 3);
  model.other = gather(significance::kOther, 1);
  model.patch = gather(significance::kPatch, kInside);
  model.patch.resize((kInside + 1) * model.columns, 0);
  model.active = ActivityWeights().data() + activity::RowOf(kind, family, index) * activity::kWeights;
  return model;
}

GroupSums MakeSumWeights(TileKind kind, std::uint32_t family) {
  GroupSums out{};
  for (std::uint32_t band = 0; band < kMaxSums; ++band) {
    const std::size_t row = activity::RowOf(kind, family, band) * activity::kWeights;
    for (std::size_t k = 0; k < kInside; ++k) out[k * kMaxSums + band] = ActivityWeights()[row + activity::kPatch + k];
  }
  return out;
}

}  // namespace

const GroupSums& SumWeights(TileKind kind, std::uint32_t family) {
  static const std::array<GroupSums, 2 * kTileKinds> weights = [] {
    std::array<GroupSums, 2 * kTileKinds> all;
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i] = MakeSumWeights(static_cast<TileKind>(i / 2), static_cast<std::uint32_t>(i % 2));
    }
    return all;
  }();
  return weights[static_cast<std::size_t>(kind) * 2 + family];
}

const BandModel& ModelOf(TileKind kind, std::uint32_t family, std::uint32_t index) {
  static const std::vector<BandModel> models = [] {
    std::vector<BandModel> all;
    for (std::size_t of = 0; of < kTileKinds; ++of) {
      for (std::uint32_t f = 0; f < 2; ++f) {
        for (std::uint32_t i = 0; i < kBandSizes.size(); ++i) all.push_back(MakeModel(static_cast<TileKind>(of), f, i));
      }
    }
    return all;
  }();
  const std::size_t last = kBandSizes.size() - 1;
  return models[(static_cast<std::size_t>(kind) * 2 + family) * kBandSizes.size() + std::min<std::size_t>(index, last)];
}

}  // namespace holo::codec
