#include "server/completion/prefix_cache.h"

#include <algorithm>

namespace holo::completion {

using kv_cache::kBlockTokens;

std::size_t PrefixCache::Hash::operator()(const Key& key) const {
  // FNV-1a in steps of a token. Equal hashes are told apart by the key.
  std::uint64_t hash = 0xCBF29CE484222325u ^ key.parent ^ (key.is_first ? 1u : 0u);
  for (const std::uint32_t token : key.tokens) hash = (hash ^ token) * 0x100000001B3u;
  return static_cast<std::size_t>(hash ^ (hash >> 32));
}

PrefixCache::Node* PrefixCache::Look(std::size_t model, const Node* parent, std::span<const std::uint32_t> tokens) {
  const auto found =
      nodes_.find({parent == nullptr ? model : parent->id, parent == nullptr, {tokens.begin(), tokens.end()}});
  return found == nodes_.end() ? nullptr : &found->second;
}

// From the last block to the first, so that none is cut off before those that need it.
void PrefixCache::Touch(Node* node) {
  for (; node != nullptr; node = node->parent) by_use_.splice(by_use_.end(), by_use_, node->use);
}

void PrefixCache::Find(std::size_t model, std::span<const std::uint32_t> prompt, std::size_t most_tokens,
                       generation::Memory& memory) {
  const std::size_t blocks = std::min(prompt.size(), most_tokens) / kBlockTokens;
  Node* last = nullptr;
  for (std::size_t i = 0; i < blocks; ++i) {
    const auto tokens = prompt.subspan(i * kBlockTokens, kBlockTokens);
    Node* const node = Look(model, last, tokens);
    if (node == nullptr || (!node->block && !Restore(*node, memory))) break;
    if (memory.cache.tokens() == i * kBlockTokens) memory.cache.Adopt(*node->block);
    memory.tokens.insert(memory.tokens.end(), tokens.begin(), tokens.end());
    last = node;
  }
  Touch(last);
}

void PrefixCache::Keep(std::size_t model, const generation::Memory& memory) {
  Node* last = nullptr;
  for (std::size_t i = 0; (i + 1) * kBlockTokens <= memory.cache.tokens(); ++i) {
    const auto tokens = std::span(memory.tokens).subspan(i * kBlockTokens, kBlockTokens);
    Node* node = Look(model, last, tokens);
    if (node == nullptr) {
      const Key key{last == nullptr ? model : last->id, last == nullptr, {tokens.begin(), tokens.end()}};
      const auto added = nodes_.try_emplace(key).first;
      node = &added->second;
      node->key = &added->first;
      node->id = next_id_++;
      node->parent = last;
      node->scheme = memory.cache.shared_scheme();
      node->index = i;
      node->block = memory.cache.Share(i);
      node->use = by_use_.insert(by_use_.end(), node);
      bytes_ += node->block->bytes();
    }
    last = node;
  }
  Touch(last);
}

// Into `memory`, which has all blocks before it, and as it was. False for bytes that are damaged.
bool PrefixCache::Restore(Node& node, generation::Memory& memory) {
  if (!memory.cache.Load(kBlockTokens, node.packed, "packed block")) return false;
  packed_bytes_ -= node.packed.size();
  node.packed = {};
  node.block = memory.cache.Share(node.index);
  bytes_ += node.block->bytes();
  ++restored_;
  return true;
}

void PrefixCache::Pack(Node& node) {
  bytes_ -= node.block->bytes();
  node.packed = node.block->Pack(*node.scheme, node.index);
  node.packed.shrink_to_fit();
  node.block.reset();
  packed_bytes_ += node.packed.size();
}

std::size_t PrefixCache::Shrink(std::uint64_t bytes, std::size_t may_pack) {
  std::size_t count = 0;
  auto next = by_use_.begin();  // those before it are packed
  while (this->bytes() > bytes) {
    while (next != by_use_.end() && !((*next)->block && (*next)->scheme->packs_smaller())) ++next;
    if (bytes_ > bytes / 2 && next != by_use_.end() && may_pack > 0) {
      --may_pack;
      Pack(**next);
      continue;
    }
    // Touch() leaves each node before those that it needs: the first one is needed by none.
    Node* const node = by_use_.front();
    if (next == by_use_.begin()) ++next;
    by_use_.pop_front();
    if (node->block) bytes_ -= node->block->bytes();
    packed_bytes_ -= node->packed.size();
    nodes_.erase(nodes_.find(*node->key));
    ++count;
  }
  return count;
}

}  // namespace holo::completion
