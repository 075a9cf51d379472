// Texts and conversations that are gone on with later: what was read and written, and the model's memory of it as bytes.
//
// A session has turns, one after the other. A turn takes what was there before, and either commits what is there after
// it or changes nothing. What a turn writes depends on the tokens before it, its options and its seed alone; the memory
// only saves reading them again, so a session whose memory was given up goes on with the same text, later.
//
// Save() writes a session to a file (FORMAT.md): after a restart, and on another server that has the same model with
// the same memory, it is found by its id. A session belongs to who made it: others are told that it is not there.
//
// All members may be called from any thread. Those that may read or write files (Find, List, Begin, Save and Delete) are
// not for threads that must not be held up.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/language_model/chat_template/chat_template.h"
#include "common/language_model/tokenizer/tokenizer.h"
#include "common/status/status.h"

namespace holo::completion {

class Model;

struct SessionOptions {
  std::filesystem::path directory;  // of saved ones, made when it is needed; empty: none can be saved
  std::size_t most = 4096;          // in memory
  std::size_t most_of_owner = 256;
  // Memory of models, parked, of all sessions. What has not been used for longest is given up beyond it.
  std::uint64_t parked_bytes = std::uint64_t{256} << 20;
  // In the directory, of all clients.
  std::size_t most_saved = 4096;
  std::uint64_t saved_bytes = std::uint64_t{4} << 30;
};

// What there is between two turns.
struct SessionState {
  std::vector<tokenizer::TokenId> tokens;        // read and written
  std::vector<chat_template::Message> messages;  // of a conversation; empty for a text
  std::uint64_t seed = 0;                        // of the first turn; turn i has seed + i, unless its request says so
  std::uint64_t turns = 0;
  // kv_cache::SaveCache() of a beginning of `tokens`, or null.
  std::shared_ptr<const std::vector<std::uint8_t>> memory;
};

struct SessionInfo {
  std::string id;
  std::string model;
  std::int64_t created_unix = 0;
  std::int64_t used_unix = 0;
  std::uint64_t turns = 0;
  std::uint64_t tokens = 0;
  std::uint64_t parked_bytes = 0;
  bool is_saved = false;  // as it is now
};

// A session file's content.
struct SavedSession {
  std::string id;
  std::string owner;
  std::string model;  // its name where it was saved
  std::array<std::uint8_t, 32> fingerprint{};  // of the model's weights
  std::array<std::uint8_t, 32> scheme{};       // kv_cache::Scheme::identity()
  std::int64_t created_unix = 0;
  std::int64_t used_unix = 0;
  SessionState state;
};
[[nodiscard]] std::vector<std::uint8_t> SerialiseSession(const SavedSession& session);
// kDataLoss for damage, kUnimplemented for another version, with what was expected and found. `name` is the file's. The
// memory is not looked at: kv_cache::RestoreCache() does that when it is used, and tokens are read again where it fails.
[[nodiscard]] Result<SavedSession> ParseSession(std::span<const std::uint8_t> bytes, std::string_view name);

class Sessions {
 public:
  Sessions(SessionOptions options, std::vector<std::shared_ptr<const Model>> models);

  struct Record;
  // A session while it is gone on with: nobody else does meanwhile.
  class Turn {
   public:
    Turn(Sessions& sessions, std::shared_ptr<Record> record);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    [[nodiscard]] const Model& model() const { return *model_; }
    [[nodiscard]] const std::shared_ptr<const Model>& shared_model() const { return model_; }
    [[nodiscard]] const SessionState& before() const { return before_; }
    // The turn is over.
    void Commit(SessionState after);

   private:
    Sessions& sessions_;
    std::shared_ptr<Record> record_;  // null once it is over
    std::shared_ptr<const Model> model_;
    SessionState before_;
  };

  // kResourceExhausted above the limits.
  [[nodiscard]] Result<SessionInfo> Create(const std::string& owner, std::shared_ptr<const Model> model,
                                           std::uint64_t seed);
  // kNotFound; for files kDataLoss, kUnimplemented and, naming both, kFailedPrecondition for a session of another model
  // or another memory.
  [[nodiscard]] Result<SessionInfo> Find(const std::string& owner, const std::string& id);
  // Those in memory and, as far as they can be read and belong to models that are here, those in the directory.
  [[nodiscard]] std::vector<SessionInfo> List(const std::string& owner);
  // As Find(), and kAborted where it is being gone on with.
  [[nodiscard]] Result<std::shared_ptr<Turn>> Begin(const std::string& owner, const std::string& id);
  // As Begin(); kFailedPrecondition without a directory; kResourceExhausted above the limits of saved ones; kUnavailable
  // for a full disk. The file is replaced whole or not at all.
  [[nodiscard]] Result<SessionInfo> Save(const std::string& owner, const std::string& id);
  // As Begin(). Its file goes, too.
  [[nodiscard]] Result<void> Delete(const std::string& owner, const std::string& id);

  struct Statistics {
    std::uint64_t sessions = 0;  // in memory
    std::uint64_t parked_bytes = 0;
  };
  [[nodiscard]] Statistics statistics() const;

 private:
  [[nodiscard]] std::filesystem::path PathOf(const std::string& id) const;
  [[nodiscard]] Result<std::shared_ptr<Record>> Locate(const std::string& owner, const std::string& id);
  [[nodiscard]] Result<std::shared_ptr<Record>> Load(const std::string& owner, const std::string& id) const;
  [[nodiscard]] Result<SessionInfo> Glance(const std::string& owner, const std::string& id) const;
  [[nodiscard]] SessionInfo InfoOf(const Record& record) const;
  [[nodiscard]] Result<void> CheckRoomFor(const std::string& id, std::uint64_t bytes) const;
  void ShrinkParked();
  bool MakeRoom();

  const SessionOptions options_;
  const std::vector<std::shared_ptr<const Model>> models_;
  std::mutex files_mutex_;  // one thread at a time reads and writes files; before mutex_
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Record>> records_;  // guarded by mutex_, and so is what is inside
  std::uint64_t parked_bytes_ = 0;                          // guarded by mutex_
  std::uint64_t clock_ = 0;                                 // guarded by mutex_
};

}  // namespace holo::completion
