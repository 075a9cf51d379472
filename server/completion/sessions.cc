#include "server/completion/sessions.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/json/json.h"
#include "server/completion/completion.h"

namespace holo::completion {
namespace {

using nlohmann::json;
using Digest = std::array<std::uint8_t, 32>;

constexpr std::string_view kMagic = "HOLOSESS";
constexpr std::uint32_t kVersion = 1;
constexpr std::string_view kSuffix = ".session";
constexpr std::string_view kIdPrefix = "sess-";
constexpr std::size_t kIdLetters = 32;
constexpr std::string_view kLetters = "0123456789abcdefghijklmnopqrstuvwxyz";
constexpr std::uint32_t kMaxHeaderBytes = std::uint32_t{64} << 20;
constexpr std::uint32_t kMaxTokens = std::uint32_t{1} << 24;
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{16} << 30;
constexpr std::size_t kMaxListed = 10'000;  // files looked at

// No way out of the directory.
bool IsId(std::string_view id) {
  if (!id.starts_with(kIdPrefix) || id.size() != kIdPrefix.size() + kIdLetters) return false;
  return id.substr(kIdPrefix.size()).find_first_not_of(kLetters) == std::string_view::npos;
}

Error NotThere(std::string_view id) {
  return {Code::kNotFound,
          "session: expected one of yours, found \"" + tokenizer::ToValidUtf8(id.substr(0, 60)) + "\""};
}

constexpr std::string_view kRoles[] = {"system", "user", "assistant"};
std::string_view NameOf(chat_template::Role role) {
  switch (role) {
    case chat_template::Role::kSystem:
      return kRoles[0];
    case chat_template::Role::kUser:
      return kRoles[1];
    case chat_template::Role::kAssistant:
      return kRoles[2];
  }
  return kRoles[0];
}

std::span<const std::uint8_t> BytesOf(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

// Fields of a header.
class Header {
 public:
  Header(const json& root, std::string_view name) : root_(root), name_(name) {}

  [[nodiscard]] Result<std::string> Text(const char* key) const {
    const auto found = root_.find(key);
    if (found == root_.end() || !found->is_string()) return Problem(key, "a string");
    return found->get<std::string>();
  }
  [[nodiscard]] Result<std::uint64_t> Number(const char* key) const {
    const auto found = root_.find(key);
    if (found == root_.end() || !found->is_number_unsigned()) return Problem(key, "a whole number from 0");
    return found->get<std::uint64_t>();
  }
  [[nodiscard]] Result<Digest> Hash(const char* key) const {
    HOLO_ASSIGN_OR_RETURN(const std::string text, Text(key));
    const auto bytes = bytes::FromHex(text);
    Digest digest{};
    if (!bytes || bytes->size() != digest.size()) return Problem(key, "64 hexadecimal digits");
    std::copy(bytes->begin(), bytes->end(), digest.begin());
    return digest;
  }
  [[nodiscard]] Result<std::vector<chat_template::Message>> Messages() const {
    const auto found = root_.find("messages");
    if (found == root_.end() || !found->is_array() || found->size() > kMaxMessages) {
      return Problem("messages", "an array of at most " + std::to_string(kMaxMessages));
    }
    std::vector<chat_template::Message> messages;
    for (const json& element : *found) {
      if (!element.is_object()) return Problem("messages", "objects");
      const Header inner(element, name_);
      HOLO_ASSIGN_OR_RETURN(const std::string role, inner.Text("role"));
      chat_template::Message message;
      if (role == kRoles[0]) {
        message.role = chat_template::Role::kSystem;
      } else if (role == kRoles[1]) {
        message.role = chat_template::Role::kUser;
      } else if (role == kRoles[2]) {
        message.role = chat_template::Role::kAssistant;
      } else {
        return Problem("role", "system, user or assistant");
      }
      HOLO_ASSIGN_OR_RETURN(message.content, inner.Text("content"));
      messages.push_back(std::move(message));
    }
    return messages;
  }

 private:
  [[nodiscard]] tl::unexpected<Error> Problem(const std::string& key, const std::string& expected) const {
    return Fail(Code::kDataLoss, std::string(name_) + ": " + key + ": expected " + expected);
  }

  const json& root_;
  std::string_view name_;
};

}  // namespace

struct Sessions::Record {
  std::string id;
  std::string owner;
  std::shared_ptr<const Model> model;
  std::int64_t created_unix = 0;
  std::int64_t used_unix = 0;
  SessionState state;
  std::uint64_t last_use = 0;  // Sessions::clock_
  bool is_busy = false;
  bool is_saved = false;

  [[nodiscard]] std::uint64_t parked_bytes() const { return state.memory ? state.memory->size() : 0; }
};

std::vector<std::uint8_t> SerialiseSession(const SavedSession& session) {
  json messages = json::array();
  for (const chat_template::Message& message : session.state.messages) {
    messages.push_back({{"role", NameOf(message.role)}, {"content", message.content}});
  }
  const json header = {{"id", session.id},
                       {"owner", session.owner},
                       {"model", session.model},
                       {"fingerprint", bytes::ToHex(session.fingerprint)},
                       {"scheme", bytes::ToHex(session.scheme)},
                       {"created", session.created_unix},
                       {"used", session.used_unix},
                       {"seed", session.state.seed},
                       {"turns", session.state.turns},
                       {"messages", std::move(messages)}};
  const std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  bytes::ByteWriter writer;
  writer.WriteSpan(BytesOf(kMagic));
  writer.WriteU32(kVersion);
  writer.WriteU32(static_cast<std::uint32_t>(text.size()));
  writer.WriteSpan(BytesOf(text));
  writer.WriteU32(static_cast<std::uint32_t>(session.state.tokens.size()));
  for (const tokenizer::TokenId token : session.state.tokens) writer.WriteU32(token);
  writer.WriteU64(session.state.memory ? session.state.memory->size() : 0);
  writer.WriteSpan(bytes::Sha256(writer.bytes()));
  if (session.state.memory) writer.WriteSpan(*session.state.memory);
  return writer.Take();
}

namespace {

constexpr std::size_t kPreludeBytes = kMagic.size() + 8;

// The size of the header, from a file's first kPreludeBytes.
Result<std::uint32_t> ParsePrelude(std::span<const std::uint8_t> content, std::string_view name) {
  const std::string where(name);
  if (content.size() < kMagic.size() + 4 || !std::equal(kMagic.begin(), kMagic.end(), content.begin())) {
    return Fail(Code::kDataLoss, where + ": expected a session, which begins with \"" + std::string(kMagic) +
                                     "\", found something else");
  }
  bytes::ByteReader reader(content.subspan(kMagic.size()), name);
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t version, reader.ReadU32());
  if (version != kVersion) {
    return Fail(Code::kUnimplemented, where + ": expected version " + std::to_string(kVersion) +
                                          " of sessions, found " + std::to_string(version));
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t header_bytes, reader.ReadU32());
  if (header_bytes > kMaxHeaderBytes) {
    return Fail(Code::kDataLoss, where + ": expected a header of at most " + std::to_string(kMaxHeaderBytes) +
                                     " bytes, found " + std::to_string(header_bytes));
  }
  return header_bytes;
}

Result<SavedSession> ParseHeader(std::span<const std::uint8_t> text, std::string_view name) {
  const std::string where(name);
  HOLO_ASSIGN_OR_RETURN(const json root, holo::json::Parse(text, name));
  if (!root.is_object()) return Fail(Code::kDataLoss, where + ": expected an object as header");
  const Header header(root, name);
  SavedSession session;
  HOLO_ASSIGN_OR_RETURN(session.id, header.Text("id"));
  if (!IsId(session.id)) return Fail(Code::kDataLoss, where + ": id: expected that of a session");
  HOLO_ASSIGN_OR_RETURN(session.owner, header.Text("owner"));
  HOLO_ASSIGN_OR_RETURN(session.model, header.Text("model"));
  HOLO_ASSIGN_OR_RETURN(session.fingerprint, header.Hash("fingerprint"));
  HOLO_ASSIGN_OR_RETURN(session.scheme, header.Hash("scheme"));
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t created, header.Number("created"));
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t used, header.Number("used"));
  session.created_unix = static_cast<std::int64_t>(created);
  session.used_unix = static_cast<std::int64_t>(used);
  HOLO_ASSIGN_OR_RETURN(session.state.seed, header.Number("seed"));
  HOLO_ASSIGN_OR_RETURN(session.state.turns, header.Number("turns"));
  HOLO_ASSIGN_OR_RETURN(session.state.messages, header.Messages());
  return session;
}

}  // namespace

Result<SavedSession> ParseSession(std::span<const std::uint8_t> content, std::string_view name) {
  const std::string where(name);
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t header_bytes, ParsePrelude(content, name));
  bytes::ByteReader reader(content.subspan(kPreludeBytes), name);
  HOLO_ASSIGN_OR_RETURN(const auto text, reader.ReadSpan(header_bytes));
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t count, reader.ReadU32());
  if (count > kMaxTokens || std::uint64_t{count} * 4 > reader.remaining()) {
    return Fail(Code::kDataLoss, where + ": expected tokens that fit the file, found " + std::to_string(count));
  }
  std::vector<tokenizer::TokenId> tokens(count);
  for (tokenizer::TokenId& token : tokens) {
    HOLO_ASSIGN_OR_RETURN(token, reader.ReadU32());
  }
  HOLO_ASSIGN_OR_RETURN(const std::uint64_t memory_bytes, reader.ReadU64());
  const auto checked = content.first(kPreludeBytes + reader.offset());
  HOLO_ASSIGN_OR_RETURN(const auto checksum, reader.ReadSpan(sizeof(Digest)));
  if (!std::ranges::equal(bytes::Sha256(checked), checksum)) {
    return Fail(Code::kDataLoss, where + ": expected its checksum, found another one: it is damaged");
  }
  if (memory_bytes != reader.remaining()) {
    return Fail(Code::kDataLoss, where + ": expected " + std::to_string(memory_bytes) + " bytes of memory, found " +
                                     std::to_string(reader.remaining()) + ": it is damaged");
  }
  HOLO_ASSIGN_OR_RETURN(SavedSession session, ParseHeader(text, name));
  session.state.tokens = std::move(tokens);
  if (memory_bytes > 0) {
    HOLO_ASSIGN_OR_RETURN(const auto memory, reader.ReadSpan(memory_bytes));
    session.state.memory = std::make_shared<const std::vector<std::uint8_t>>(memory.begin(), memory.end());
  }
  return session;
}

Sessions::Turn::Turn(Sessions& sessions, std::shared_ptr<Record> record)
    : sessions_(sessions), record_(std::move(record)), model_(record_->model), before_(record_->state) {}

Sessions::Turn::~Turn() {
  if (!record_) return;
  const std::lock_guard lock(sessions_.mutex_);
  record_->is_busy = false;
}

void Sessions::Turn::Commit(SessionState after) {
  const std::lock_guard lock(sessions_.mutex_);
  sessions_.parked_bytes_ -= record_->parked_bytes();
  record_->state = std::move(after);
  sessions_.parked_bytes_ += record_->parked_bytes();
  record_->used_unix = UnixNow();
  record_->last_use = ++sessions_.clock_;
  record_->is_saved = false;
  record_->is_busy = false;
  record_.reset();
  sessions_.ShrinkParked();
}

Sessions::Sessions(SessionOptions options, std::vector<std::shared_ptr<const Model>> models)
    : options_(std::move(options)), models_(std::move(models)) {}

std::filesystem::path Sessions::PathOf(const std::string& id) const {
  return options_.directory / (id + std::string(kSuffix));
}

// With mutex_ held.
SessionInfo Sessions::InfoOf(const Record& record) const {
  return {record.id,
          record.model->name(),
          record.created_unix,
          record.used_unix,
          record.state.turns,
          record.state.tokens.size(),
          record.parked_bytes(),
          record.is_saved};
}

// With mutex_ held. Texts stay; only the memory of them goes.
void Sessions::ShrinkParked() {
  while (parked_bytes_ > options_.parked_bytes) {
    Record* oldest = nullptr;
    for (const auto& [id, record] : records_) {
      if (record->state.memory && (oldest == nullptr || record->last_use < oldest->last_use)) oldest = record.get();
    }
    if (oldest == nullptr) return;
    parked_bytes_ -= oldest->parked_bytes();
    oldest->state.memory.reset();
  }
}

// With mutex_ held: a session that is saved is found again. False if there is no room.
bool Sessions::MakeRoom() {
  if (records_.size() < options_.most) return true;
  auto oldest = records_.end();
  for (auto it = records_.begin(); it != records_.end(); ++it) {
    const Record& record = *it->second;
    if (!record.is_saved || record.is_busy) continue;
    if (oldest == records_.end() || record.last_use < oldest->second->last_use) oldest = it;
  }
  if (oldest == records_.end()) return false;
  parked_bytes_ -= oldest->second->parked_bytes();
  records_.erase(oldest);
  return true;
}

Result<SessionInfo> Sessions::Create(const std::string& owner, std::shared_ptr<const Model> model, std::uint64_t seed) {
  const std::lock_guard lock(mutex_);
  const auto own = static_cast<std::size_t>(std::count_if(
      records_.begin(), records_.end(), [&](const auto& entry) { return entry.second->owner == owner; }));
  if (own >= options_.most_of_owner) {
    return Fail(Code::kResourceExhausted, "session: expected at most " + std::to_string(options_.most_of_owner) +
                                              " of one client, found as many; delete some");
  }
  if (!MakeRoom()) {
    return Fail(Code::kResourceExhausted,
                "session: expected at most " + std::to_string(options_.most) + " on this server, found as many");
  }
  const auto record = std::make_shared<Record>();
  record->id = std::string(kIdPrefix) + RandomLetters(kIdLetters);
  record->owner = owner;
  record->model = std::move(model);
  record->created_unix = record->used_unix = UnixNow();
  record->state.seed = seed;
  record->last_use = ++clock_;
  records_.emplace(record->id, record);
  return InfoOf(*record);
}

// With files_mutex_ held.
Result<std::shared_ptr<Sessions::Record>> Sessions::Load(const std::string& owner, const std::string& id) const {
  const std::filesystem::path path = PathOf(id);
  HOLO_ASSIGN_OR_RETURN(const auto content, files::ReadFile(path, kMaxFileBytes));
  const std::string name = "session " + id;
  HOLO_ASSIGN_OR_RETURN(SavedSession saved, ParseSession(content, name));
  if (saved.id != id) {
    return Fail(Code::kDataLoss, name + ": expected a file of this session, found one of " + saved.id);
  }
  // Before anything else is told of it.
  if (saved.owner != owner) return tl::unexpected(NotThere(id));
  std::string names;
  const Model* same_weights = nullptr;
  for (const auto& model : models_) {
    names += (names.empty() ? "" : ", ") + model->name();
    if (model->fingerprint() != saved.fingerprint) continue;
    same_weights = model.get();
    if (model->engine().scheme->identity() != saved.scheme) continue;
    const std::uint32_t vocabulary = model->engine().model->config().vocabulary;
    const bool fits = saved.state.tokens.size() <= model->context() &&
                      std::all_of(saved.state.tokens.begin(), saved.state.tokens.end(),
                                  [&](tokenizer::TokenId token) { return token < vocabulary; });
    if (!fits) return Fail(Code::kDataLoss, name + ": expected tokens of model " + model->name() + ", found others");
    const auto record = std::make_shared<Record>();
    record->id = id;
    record->owner = std::move(saved.owner);
    record->model = model;
    record->created_unix = saved.created_unix;
    record->used_unix = saved.used_unix;
    record->state = std::move(saved.state);
    record->is_saved = true;
    return record;
  }
  if (same_weights != nullptr) {
    return Fail(Code::kFailedPrecondition,
                name + ": it was saved with another memory (" + bytes::ToHex(saved.scheme).substr(0, 16) +
                    ") than that of model " + same_weights->name() + " here (" + same_weights->files().method + ", " +
                    bytes::ToHex(same_weights->engine().scheme->identity()).substr(0, 16) + ")");
  }
  return Fail(Code::kFailedPrecondition, name + ": it was saved with model " + saved.model + " (" +
                                             bytes::ToHex(saved.fingerprint).substr(0, 16) +
                                             "), this server has other ones: " + names);
}

Result<std::shared_ptr<Sessions::Record>> Sessions::Locate(const std::string& owner, const std::string& id) {
  if (!IsId(id)) return tl::unexpected(NotThere(id));
  const std::lock_guard files_lock(files_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = records_.find(id); found != records_.end()) {
      if (found->second->owner != owner) return tl::unexpected(NotThere(id));
      return found->second;
    }
  }
  std::error_code ignored;
  if (options_.directory.empty() || !std::filesystem::exists(PathOf(id), ignored)) return tl::unexpected(NotThere(id));
  HOLO_ASSIGN_OR_RETURN(const std::shared_ptr<Record> record, Load(owner, id));
  const std::lock_guard lock(mutex_);
  if (!MakeRoom()) {
    return Fail(Code::kResourceExhausted,
                "session: expected at most " + std::to_string(options_.most) + " in use, found as many");
  }
  record->last_use = ++clock_;
  parked_bytes_ += record->parked_bytes();
  records_.emplace(id, record);
  ShrinkParked();
  return record;
}

Result<SessionInfo> Sessions::Find(const std::string& owner, const std::string& id) {
  HOLO_ASSIGN_OR_RETURN(const std::shared_ptr<Record> record, Locate(owner, id));
  const std::lock_guard lock(mutex_);
  return InfoOf(*record);
}

// What the beginning of a file says, without its tokens and memory; the checksum is looked at when it is used.
Result<SessionInfo> Sessions::Glance(const std::string& owner, const std::string& id) const {
  HOLO_ASSIGN_OR_RETURN(const auto file, files::FileSource::Open(PathOf(id)));
  std::vector<std::uint8_t> content(kPreludeBytes);
  HOLO_RETURN_IF_ERROR(file->ReadAt(0, content));
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t header_bytes, ParsePrelude(content, id));
  if (header_bytes > file->size()) return Fail(Code::kDataLoss, id + ": expected a whole header, found it cut off");
  content.resize(header_bytes + sizeof(std::uint32_t));
  HOLO_RETURN_IF_ERROR(file->ReadAt(kPreludeBytes, content));
  const std::span<const std::uint8_t> read(content);
  HOLO_ASSIGN_OR_RETURN(const SavedSession saved, ParseHeader(read.first(header_bytes), id));
  bytes::ByteReader reader(read.subspan(header_bytes), id);
  HOLO_ASSIGN_OR_RETURN(const std::uint32_t tokens, reader.ReadU32());
  const auto model = std::find_if(models_.begin(), models_.end(), [&](const auto& candidate) {
    return candidate->fingerprint() == saved.fingerprint &&
           candidate->engine().scheme->identity() == saved.scheme;
  });
  if (saved.owner != owner || saved.id != id || model == models_.end()) return tl::unexpected(NotThere(id));
  return SessionInfo{id, (*model)->name(), saved.created_unix, saved.used_unix, saved.state.turns, tokens, 0, true};
}

std::vector<SessionInfo> Sessions::List(const std::string& owner) {
  std::vector<SessionInfo> list;
  std::vector<std::string> known;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, record] : records_) {
      known.push_back(id);  // in order
      if (record->owner == owner) list.push_back(InfoOf(*record));
    }
  }
  std::error_code error;
  std::size_t looked_at = 0;
  if (!options_.directory.empty()) {
    for (std::filesystem::directory_iterator it(options_.directory, error), end; !error && it != end;
         it.increment(error)) {
      const std::filesystem::path path = it->path();
      const std::string id = path.stem().string();
      if (path.extension() != kSuffix || !IsId(id) || std::binary_search(known.begin(), known.end(), id)) continue;
      if (++looked_at > kMaxListed) break;
      if (auto info = Glance(owner, id)) list.push_back(std::move(*info));
    }
  }
  std::sort(list.begin(), list.end(), [](const SessionInfo& x, const SessionInfo& y) {
    return std::tie(x.created_unix, x.id) < std::tie(y.created_unix, y.id);
  });
  return list;
}

namespace {
Error Busy(const std::string& id) {
  return {Code::kAborted, "session: expected " + id + " to be at rest, found that a text is being written for it"};
}
}  // namespace

Result<std::shared_ptr<Sessions::Turn>> Sessions::Begin(const std::string& owner, const std::string& id) {
  for (;;) {
    HOLO_ASSIGN_OR_RETURN(const std::shared_ptr<Record> record, Locate(owner, id));
    const std::lock_guard lock(mutex_);
    // Others may have needed its room meanwhile; then it is read from its file again.
    if (const auto found = records_.find(id); found == records_.end() || found->second != record) continue;
    if (record->is_busy) return tl::unexpected(Busy(id));
    record->is_busy = true;
    return std::make_shared<Turn>(*this, record);
  }
}

// With files_mutex_ held: for a file of that size, which replaces the session's older one.
Result<void> Sessions::CheckRoomFor(const std::string& id, std::uint64_t bytes) const {
  std::size_t count = 1;
  std::error_code error;
  for (std::filesystem::directory_iterator it(options_.directory, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != kSuffix || it->path() == PathOf(id)) continue;
    std::error_code gone;
    const std::uint64_t size = it->file_size(gone);
    ++count;
    if (!gone) bytes += size;
  }
  if (error) return tl::unexpected(files::FromErrno(error.value(), "read", options_.directory));
  if (count > options_.most_saved) {
    return Fail(Code::kResourceExhausted, "session: expected at most " + std::to_string(options_.most_saved) +
                                              " saved ones, found as many; delete some");
  }
  if (bytes > options_.saved_bytes) {
    return Fail(Code::kResourceExhausted, "session: expected at most " + std::to_string(options_.saved_bytes) +
                                              " bytes of saved ones, found that there would be " + std::to_string(bytes) +
                                              "; delete some");
  }
  return {};
}

Result<SessionInfo> Sessions::Save(const std::string& owner, const std::string& id) {
  HOLO_ASSIGN_OR_RETURN(const std::shared_ptr<Record> record, Locate(owner, id));
  if (options_.directory.empty()) {
    return Fail(Code::kFailedPrecondition,
                "session: expected a folder for saved sessions (holod --sessions), found none");
  }
  const std::lock_guard files_lock(files_mutex_);
  SavedSession saved;
  {
    const std::lock_guard lock(mutex_);
    if (record->is_busy) return tl::unexpected(Busy(id));
    if (record->is_saved) return InfoOf(*record);
    // What is not saved leaves memory only when it is deleted.
    if (!records_.contains(id)) return tl::unexpected(NotThere(id));
    saved.state = record->state;
    saved.used_unix = record->used_unix;
  }
  saved.id = id;
  saved.owner = record->owner;
  saved.model = record->model->name();
  saved.fingerprint = record->model->fingerprint();
  saved.scheme = record->model->engine().scheme->identity();
  saved.created_unix = record->created_unix;
  HOLO_RETURN_IF_ERROR(files::MakeDirectories(options_.directory));
  const std::vector<std::uint8_t> content = SerialiseSession(saved);
  HOLO_RETURN_IF_ERROR(CheckRoomFor(id, content.size()));
  if (auto written = files::AtomicWrite(PathOf(id), content); !written) {
    Error error = std::move(written).error();
    if (error.code == Code::kResourceExhausted) error.code = Code::kUnavailable;  // the disk, not the client's share
    return tl::unexpected(std::move(error));
  }
  const std::lock_guard lock(mutex_);
  // A turn may have been taken meanwhile.
  if (record->state.turns == saved.state.turns) record->is_saved = true;
  return InfoOf(*record);
}

Result<void> Sessions::Delete(const std::string& owner, const std::string& id) {
  HOLO_ASSIGN_OR_RETURN(const std::shared_ptr<Record> record, Locate(owner, id));
  const std::lock_guard files_lock(files_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (record->is_busy) return tl::unexpected(Busy(id));
  }
  std::error_code error;
  if (!options_.directory.empty()) std::filesystem::remove(PathOf(id), error);
  if (error) return tl::unexpected(files::FromErrno(error.value(), "remove", PathOf(id)));
  const std::lock_guard lock(mutex_);
  if (record->is_busy) return tl::unexpected(Busy(id));
  if (records_.erase(id) > 0) parked_bytes_ -= record->parked_bytes();
  return {};
}

Sessions::Statistics Sessions::statistics() const {
  const std::lock_guard lock(mutex_);
  return {records_.size(), parked_bytes_};
}

}  // namespace holo::completion
