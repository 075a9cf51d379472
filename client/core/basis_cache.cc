#include <string>

#include "client/core/client.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"

namespace holo::client {
namespace {

constexpr std::string_view kExtension = ".basis";

}  // namespace

BasisCache::BasisCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

BasisCache BasisCache::ForUser() {
  const auto cache = files::UserCacheDir();
  return BasisCache(cache ? *cache / "bases" : std::filesystem::path());
}

std::shared_ptr<const basis::Basis> BasisCache::Find(const basis::Hash& hash) {
  if (auto built_in = basis::FindBuiltIn(hash)) return built_in;
  if (const auto known = known_.find(hash); known != known_.end()) return known->second;
  if (folder_.empty()) return nullptr;
  const auto bytes = files::ReadFile(folder_ / (bytes::ToHex(hash) + std::string(kExtension)), basis::kMaxBasisBytes);
  if (!bytes || basis::HashOf(*bytes) != hash) return nullptr;
  const auto basis = basis::Basis::Parse(*bytes);
  if (!basis) return nullptr;
  known_.emplace(hash, *basis);
  return *basis;
}

Result<std::shared_ptr<const basis::Basis>> BasisCache::Store(std::span<const std::uint8_t> bytes) {
  HOLO_ASSIGN_OR_RETURN(std::shared_ptr<const basis::Basis> basis, basis::Basis::Parse(bytes));
  known_.emplace(basis->hash(), basis);
  if (!folder_.empty() && files::MakeDirectories(folder_)) {
    // A cache that cannot be written is only a slower one.
    (void)files::AtomicWrite(folder_ / (bytes::ToHex(basis->hash()) + std::string(kExtension)), bytes);
  }
  return basis;
}

std::vector<basis::Hash> BasisCache::List(std::size_t limit) const {
  std::vector<basis::Hash> hashes;
  for (const auto& basis : basis::BuiltIns()) hashes.push_back(basis->hash());
  for (const auto& [hash, basis] : known_) hashes.push_back(hash);
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
    if (hashes.size() >= limit) break;
    if (entry->path().extension() != kExtension) continue;
    const auto bytes = bytes::FromHex(entry->path().stem().string());
    basis::Hash hash{};
    if (!bytes || bytes->size() != hash.size()) continue;
    std::copy(bytes->begin(), bytes->end(), hash.begin());
    if (known_.contains(hash)) continue;
    // A server never sends what is listed here: a damaged file must not be.
    const auto content = files::ReadFile(entry->path(), basis::kMaxBasisBytes);
    if (content && basis::HashOf(*content) == hash && basis::Basis::Parse(*content)) hashes.push_back(hash);
  }
  if (hashes.size() > limit) hashes.resize(limit);
  return hashes;
}

}  // namespace holo::client
