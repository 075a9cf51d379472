// Blocks of key-value caches by the tokens that they are of and all tokens before them: a trie with the least recently used
// ends cut off first. Where a scheme's blocks are much smaller when they are packed, those that have not been used for
// longest are packed first, and come back with the bits that they had. The module's inside; one thread at a time.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/language_model/generation/generation.h"

namespace holo::completion {

class PrefixCache {
 public:
  // Adds to `memory`, which is empty, the longest beginning of `prompt` that is known, in whole blocks and at most
  // `most_tokens`. What differs in `model` has nothing in common.
  void Find(std::size_t model, std::span<const std::uint32_t> prompt, std::size_t most_tokens,
            generation::Memory& memory);
  // Keeps the full blocks.
  void Keep(std::size_t model, const generation::Memory& memory);
  // Packs and forgets what has not been used for longest, until no more than `bytes` are kept: while what is not packed
  // has more than half of them, that is packed, but no more than `may_pack` blocks, as each takes milliseconds. How many blocks
  // were forgotten.
  std::size_t Shrink(std::uint64_t bytes, std::size_t may_pack);

  // All that is kept, and of that what is packed.
  [[nodiscard]] std::uint64_t bytes() const { return bytes_ + packed_bytes_; }
  [[nodiscard]] std::uint64_t packed_bytes() const { return packed_bytes_; }
  // Blocks that were packed and have been found.
  [[nodiscard]] std::uint64_t restored() const { return restored_; }

 private:
  // What comes before: the node's number, or for a first block that of the model.
  struct Key {
    std::uint64_t parent = 0;
    bool is_first = false;
    std::vector<std::uint32_t> tokens;

    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };
  struct Node {
    const Key* key = nullptr;
    std::uint64_t id = 0;
    Node* parent = nullptr;
    std::shared_ptr<const kv_cache::Scheme> scheme;
    std::size_t index = 0;                       // of the block in its sequence
    std::optional<kv_cache::SharedBlock> block;  // nothing: it is packed
    std::vector<std::uint8_t> packed;
    std::list<Node*>::iterator use;
  };
  bool Restore(Node& node, generation::Memory& memory);
  void Pack(Node& node);
  Node* Look(std::size_t model, const Node* parent, std::span<const std::uint32_t> tokens);
  void Touch(Node* node);

  std::unordered_map<Key, Node, Hash> nodes_;
  std::list<Node*> by_use_;  // the least recent first; a node stands before those that it needs
  std::uint64_t next_id_ = 1;
  std::uint64_t bytes_ = 0;  // of blocks that are not packed
  std::uint64_t packed_bytes_ = 0;
  std::uint64_t restored_ = 0;
};

}  // namespace holo::completion
