#include "server/completion/sessions.h"

#include <doctest/doctest.h>

#include <fstream>

#include "common/files/files.h"
#include "tests/server/completion/tiny_service.h"

namespace holo::completion {
namespace {

using testing::Bell;
using testing::Ids;
using testing::TextRequest;
using testing::TinyService;
using testing::Write;
using testing::Written;

constexpr const char* kOwner = "key 1";

testing::TinyModel Roomy() {
  testing::TinyModel model;
  model.context = 512;
  return model;
}

Options With(const std::filesystem::path& directory = {}) {
  Options options;
  options.caches_prefixes = false;  // or it would have what sessions park
  options.sessions.directory = directory;
  return options;
}

Request Turn(const std::string& session, const std::string& prompt, std::uint32_t max_tokens = 20) {
  Request request = TextRequest(prompt, max_tokens);
  request.session = session;
  request.owner = kOwner;
  request.seed.reset();
  return request;
}

Request Said(const std::string& session, const std::string& content) {
  Request request = Turn(session, "");
  request.prompts.clear();
  request.messages.push_back({chat_template::Role::kUser, content});
  return request;
}

const std::string kLong = "It was a dark and stormy night, and the rain fell in torrents, except at occasional intervals.";

SavedSession Example() {
  SavedSession session;
  session.id = "sess-0123456789abcdefghijklmnopqrstuv";
  session.owner = kOwner;
  session.model = "novelist";
  session.fingerprint[0] = 7;
  session.scheme[31] = 9;
  session.created_unix = 1'700'000'000;
  session.used_unix = 1'700'000'001;
  session.state.tokens = {1, 2, 70'000};
  session.state.messages = {{chat_template::Role::kSystem, "Be kind."},
                            {chat_template::Role::kUser, "\"é\"\n"},
                            {chat_template::Role::kAssistant, ""}};
  session.state.seed = ~std::uint64_t{0};
  session.state.turns = 1;
  session.state.memory = std::make_shared<const std::vector<std::uint8_t>>(100, std::uint8_t{42});
  return session;
}

TEST_CASE("a saved session is read back as it was written") {
  const SavedSession session = Example();
  const SavedSession again = ParseSession(SerialiseSession(session), "x").value();
  CHECK(again.id == session.id);
  CHECK(again.owner == session.owner);
  CHECK(again.model == session.model);
  CHECK(again.fingerprint == session.fingerprint);
  CHECK(again.scheme == session.scheme);
  CHECK(again.created_unix == session.created_unix);
  CHECK(again.used_unix == session.used_unix);
  CHECK(again.state.tokens == session.state.tokens);
  REQUIRE(again.state.messages.size() == 3);
  CHECK(again.state.messages[1].content == session.state.messages[1].content);
  CHECK(again.state.messages[2].role == chat_template::Role::kAssistant);
  CHECK(again.state.seed == session.state.seed);
  CHECK(again.state.turns == 1);
  CHECK(*again.state.memory == *session.state.memory);
}

TEST_CASE("a saved session that is cut off, damaged or of another version is refused") {
  const std::vector<std::uint8_t> whole = SerialiseSession(Example());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto cut = ParseSession(std::span(whole).first(size), "cut.session");
    REQUIRE_FALSE(cut);
    CHECK(cut.error().code == Code::kDataLoss);
    CHECK(cut.error().message.starts_with("cut.session"));
  }
  for (std::size_t at = 0; at < whole.size() - Example().state.memory->size(); ++at) {
    std::vector<std::uint8_t> damaged = whole;
    damaged[at] ^= 0x10;
    const auto refused = ParseSession(damaged, "x");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == (at >= 8 && at < 12 ? Code::kUnimplemented : Code::kDataLoss));
  }
}

TEST_CASE("a session goes on with the text that its tokens as one prompt would give") {
  TinyService tiny(With(), Roomy());
  Sessions& sessions = tiny.service->sessions();
  const SessionInfo made = sessions.Create(kOwner, tiny.service->models()[0], 40).value();
  CHECK(made.tokens == 0);
  const Written first = Write(*tiny.service, Turn(made.id, kLong));
  REQUIRE_FALSE(first.failure);
  CHECK(first.texts == Write(*tiny.service, TextRequest(kLong, 20, 40)).texts);
  CHECK(sessions.Find(kOwner, made.id).value().parked_bytes > 0);
  const std::uint64_t read = tiny.service->statistics().prompt_tokens;
  const Written second = Write(*tiny.service, Turn(made.id, " And then", 30));
  REQUIRE_FALSE(second.failure);
  // Only what is new has been read.
  CHECK(tiny.service->statistics().prompt_tokens - read < 20);
  CHECK(tiny.service->statistics().restored_tokens > kLong.size());

  const Model& model = *tiny.service->models()[0];
  std::vector<std::uint32_t> all = model.Encode(kLong);
  for (const std::uint32_t id : Ids(first.tokens[0])) all.push_back(id);
  for (const std::uint32_t id : model.tokenizer().Encode(" And then")) all.push_back(id);
  Request whole = TextRequest("", 30, 41);
  whole.prompts = {all};
  const Written alone = Write(*tiny.service, whole);
  CHECK(Ids(second.tokens[0]) == Ids(alone.tokens[0]));
  const SessionInfo after = sessions.Find(kOwner, made.id).value();
  CHECK(after.turns == 2);
  CHECK(after.tokens == all.size() + 30);
}

TEST_CASE("a conversation grows by what is said") {
  TinyService tiny(With(), Roomy());
  Sessions& sessions = tiny.service->sessions();
  const SessionInfo made = sessions.Create(kOwner, tiny.service->models()[0], 3).value();
  const Written first = Write(*tiny.service, Said(made.id, "Who are you, if I may ask? I have never seen you."));
  REQUIRE_FALSE(first.failure);
  const Written second = Write(*tiny.service, Said(made.id, "And your name?"));
  REQUIRE_FALSE(second.failure);
  Request whole = TextRequest("", 20, 4);
  whole.prompts.clear();
  using chat_template::Role;
  whole.messages = {{Role::kUser, "Who are you, if I may ask? I have never seen you."},
                    {Role::kAssistant, first.texts[0]},
                    {Role::kUser, "And your name?"}};
  CHECK(second.texts == Write(*tiny.service, whole).texts);
  // It is no text.
  const Written refused = Write(*tiny.service, Turn(made.id, "x"));
  REQUIRE(refused.failure);
  CHECK(refused.failure->code == Code::kInvalidArgument);
  CHECK(refused.failure->message.starts_with("session"));
}

TEST_CASE("a saved session goes on after a restart as if there had been none, also on another server") {
  const testing::TemporaryFolder folder;
  std::string id;
  Written expected;
  {
    TinyService tiny(With(folder / "saved"), Roomy());
    Sessions& sessions = tiny.service->sessions();
    id = sessions.Create(kOwner, tiny.service->models()[0], 40).value().id;
    REQUIRE_FALSE(Write(*tiny.service, Turn(id, kLong)).failure);
    CHECK_FALSE(sessions.Find(kOwner, id).value().is_saved);
    CHECK(sessions.Save(kOwner, id).value().is_saved);
    expected = Write(*tiny.service, Turn(id, " And then", 30));
    // What came after it was saved is not in the file.
    CHECK_FALSE(sessions.Find(kOwner, id).value().is_saved);
  }
  {
    TinyService again(With(folder / "saved"), Roomy());
    Sessions& sessions = again.service->sessions();
    const auto listed = sessions.List(kOwner);
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].id == id);
    CHECK(listed[0].turns == 1);
    CHECK(sessions.List("key 2").empty());
    CHECK(sessions.Find("key 2", id).error().code == Code::kNotFound);
    const Written found = Write(*again.service, Turn(id, " And then", 30));
    CHECK(Ids(found.tokens[0]) == Ids(expected.tokens[0]));
    CHECK(again.service->statistics().restored_tokens > kLong.size());
  }
  // Another model, and another memory of the same one.
  testing::TinyModel other = Roomy();
  other.seed = 77;
  TinyService elsewhere(With(folder / "saved"), other);
  const auto refused = elsewhere.service->sessions().Find(kOwner, id);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Code::kFailedPrecondition);
  CHECK(refused.error().message.find("model tiny") != std::string::npos);
  // Who does not own it hears nothing of that.
  CHECK(elsewhere.service->sessions().Find("key 2", id).error().code == Code::kNotFound);
  const testing::TemporaryFolder models;
  REQUIRE(testing::WriteTinyModel(models, "same", Roomy()));
  model_directory::Options int8;
  int8.plain_method = "int8";
  Sessions others({folder / "saved"}, {Model::Open("", models / "same", int8).value()});
  const auto other_memory = others.Find(kOwner, id);
  REQUIRE_FALSE(other_memory);
  CHECK(other_memory.error().code == Code::kFailedPrecondition);
  CHECK(other_memory.error().message.find("int8") != std::string::npos);
  CHECK(others.List(kOwner).empty());
}

TEST_CASE("a turn that is cancelled changes nothing, and one at a time is taken") {
  TinyService tiny(With(), Roomy());
  Sessions& sessions = tiny.service->sessions();
  const std::string id = sessions.Create(kOwner, tiny.service->models()[0], 1).value().id;
  REQUIRE_FALSE(Write(*tiny.service, Turn(id, "One")).failure);
  {
    Bell bell;
    const auto reply = tiny.service->Submit(Turn(id, " two", 400), bell.Ringer()).value();
    const Written second = Write(*tiny.service, Turn(id, " three"));
    REQUIRE(second.failure);
    CHECK(second.failure->code == Code::kAborted);
    CHECK(sessions.Delete(kOwner, id).error().code == Code::kAborted);
    reply->Cancel();
    const Written cancelled = testing::ReadAll(*reply, bell);
    REQUIRE(cancelled.failure);
  }
  CHECK(sessions.Find(kOwner, id).value().turns == 1);
  CHECK_FALSE(Write(*tiny.service, Turn(id, " two")).failure);
  CHECK(sessions.Find(kOwner, id).value().turns == 2);
  // What is refused leaves it free, too.
  Request wrong = Turn(id, " x");
  wrong.model = "other";
  CHECK(Write(*tiny.service, wrong).failure->message.starts_with("model"));
  CHECK_FALSE(Write(*tiny.service, Turn(id, " three")).failure);
  CHECK(sessions.Delete(kOwner, id).has_value());
  CHECK(Write(*tiny.service, Turn(id, " four")).failure->code == Code::kNotFound);
}

TEST_CASE("a turn that has been written is kept, also where its client goes at the last word") {
  TinyService tiny(With(), Roomy());
  Sessions& sessions = tiny.service->sessions();
  const std::string id = sessions.Create(kOwner, tiny.service->models()[0], 1).value().id;
  for (std::uint64_t turn = 1; turn <= 20; ++turn) {
    Bell bell;
    const auto reply = tiny.service->Submit(Turn(id, kLong.substr(0, 5)), bell.Ringer()).value();
    bool has_finished = false;
    Reply::News news;
    while (!has_finished && !news.is_over) {
      bell.Wait();
      news = reply->Take();
      for (const Event& event : news.events) has_finished |= event.finish != generation::Finish::kNone;
    }
    reply->Cancel();
    if (!news.is_over) CHECK_FALSE(testing::ReadAll(*reply, bell).failure);
    CHECK(sessions.Find(kOwner, id).value().turns == turn);
  }
}

TEST_CASE("sessions have limits, and one whose memory was given up goes on the same") {
  Options options = With();
  options.sessions.parked_bytes = 0;
  options.sessions.most_of_owner = 2;
  options.sessions.most = 3;
  TinyService tiny(options, Roomy());
  Sessions& sessions = tiny.service->sessions();
  const auto& model = tiny.service->models()[0];
  const std::string id = sessions.Create(kOwner, model, 40).value().id;
  const Written first = Write(*tiny.service, Turn(id, kLong));
  CHECK(sessions.Find(kOwner, id).value().parked_bytes == 0);
  CHECK(sessions.statistics().parked_bytes == 0);
  const Written second = Write(*tiny.service, Turn(id, " And then", 30));
  CHECK(tiny.service->statistics().restored_tokens == 0);
  TinyService roomy(With(), Roomy());
  const std::string other = roomy.service->sessions().Create(kOwner, roomy.service->models()[0], 40).value().id;
  CHECK(Write(*roomy.service, Turn(other, kLong)).texts == first.texts);
  CHECK(Write(*roomy.service, Turn(other, " And then", 30)).texts == second.texts);

  CHECK(sessions.Create(kOwner, model, 1).has_value());
  CHECK(sessions.Create(kOwner, model, 1).error().code == Code::kResourceExhausted);
  CHECK(sessions.Create("key 2", model, 1).has_value());
  CHECK(sessions.Create("key 3", model, 1).error().code == Code::kResourceExhausted);
  // Without a folder nothing is saved, and says so.
  CHECK(sessions.Save(kOwner, id).error().code == Code::kFailedPrecondition);
}

TEST_CASE("ids do not lead out of the folder, and damaged files are refused") {
  const testing::TemporaryFolder folder;
  TinyService tiny(With(folder / "saved"), Roomy());
  Sessions& sessions = tiny.service->sessions();
  for (const std::string id : {"", "x", "../../etc/passwd", "sess-../../../../../../../../../etc/x",
                               "sess-0123456789ABCDEFGHIJKLMNOPQRSTUV", "sess-0123456789abcdefghijklmnopqrstuv"}) {
    CAPTURE(id);
    CHECK(sessions.Find(kOwner, id).error().code == Code::kNotFound);
  }
  REQUIRE(folder.Write("saved/sess-0123456789abcdefghijklmnopqrstuv.session", "HOLOSESS"));
  CHECK(sessions.Find(kOwner, "sess-0123456789abcdefghijklmnopqrstuv").error().code == Code::kDataLoss);
  CHECK(sessions.List(kOwner).empty());
}

TEST_CASE("a session whose saved memory is damaged goes on with the same text") {
  const testing::TemporaryFolder folder;
  std::string id;
  Written expected;
  {
    TinyService tiny(With(folder / "saved"), Roomy());
    id = tiny.service->sessions().Create(kOwner, tiny.service->models()[0], 40).value().id;
    REQUIRE_FALSE(Write(*tiny.service, Turn(id, kLong)).failure);
    REQUIRE(tiny.service->sessions().Save(kOwner, id));
    expected = Write(*tiny.service, Turn(id, " And then", 30));
  }
  const std::filesystem::path file = folder / ("saved/" + id + ".session");
  auto content = files::ReadFile(file).value();
  content[content.size() - 100] ^= 1;
  REQUIRE(files::AtomicWrite(file, content));
  Options options = With(folder / "saved");
  std::string logged;
  options.log = [&](const std::string& line) { logged += line; };
  TinyService again(options, Roomy());
  CHECK(Write(*again.service, Turn(id, " And then", 30)).texts == expected.texts);
  CHECK(again.service->statistics().restored_tokens == 0);
  CHECK(logged.find("read again") != std::string::npos);
}

TEST_CASE("saved sessions have limits, and what is refused changes nothing") {
  const testing::TemporaryFolder folder;
  Options options = With(folder / "saved");
  options.sessions.most_saved = 2;
  TinyService tiny(options, Roomy());
  Sessions& sessions = tiny.service->sessions();
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(sessions.Create(kOwner, tiny.service->models()[0], 1).value().id);
    REQUIRE_FALSE(Write(*tiny.service, Turn(ids.back(), "One")).failure);
    const auto saved = sessions.Save(kOwner, ids.back());
    if (i < 2) {
      CHECK(saved.has_value());
    } else {
      REQUIRE_FALSE(saved);
      CHECK(saved.error().code == Code::kResourceExhausted);
      CHECK(saved.error().message.find("at most 2 saved") != std::string::npos);
    }
  }
  CHECK_FALSE(sessions.Find(kOwner, ids[2]).value().is_saved);
  // An older file of the same session makes room for its newer one.
  REQUIRE_FALSE(Write(*tiny.service, Turn(ids[0], " two")).failure);
  CHECK(sessions.Save(kOwner, ids[0]).has_value());
  CHECK(sessions.Delete(kOwner, ids[1]).has_value());
  CHECK(sessions.Save(kOwner, ids[2]).has_value());

  options.sessions.most_saved = 100;
  options.sessions.saved_bytes = std::filesystem::file_size(folder / "saved" / (ids[0] + ".session")) + 10;
  options.sessions.directory = folder / "small";
  TinyService small(options, Roomy());
  for (const bool fits : {true, false}) {
    const std::string id = small.service->sessions().Create(kOwner, small.service->models()[0], 1).value().id;
    REQUIRE_FALSE(Write(*small.service, Turn(id, "One")).failure);
    CHECK(small.service->sessions().Save(kOwner, id).has_value() == fits);
  }
}

TEST_CASE("a full disk while saving keeps the session and an older file") {
  const testing::TemporaryFolder folder;
  TinyService tiny(With(folder / "saved"), Roomy());
  Sessions& sessions = tiny.service->sessions();
  const std::string id = sessions.Create(kOwner, tiny.service->models()[0], 1).value().id;
  REQUIRE_FALSE(Write(*tiny.service, Turn(id, "One")).failure);
  REQUIRE(sessions.Save(kOwner, id));
  const std::filesystem::path file = folder / ("saved/" + id + ".session");
  const auto before = files::ReadFile(file).value();
  REQUIRE_FALSE(Write(*tiny.service, Turn(id, " two")).failure);
  for (int operation = 1; operation <= 3; ++operation) {
    files::FailOperationForTest(operation, ENOSPC);
    const auto full = sessions.Save(kOwner, id);
    files::FailOperationForTest(0, 0);
    REQUIRE_FALSE(full);
    CHECK(full.error().code == Code::kUnavailable);
    CHECK(files::ReadFile(file).value() == before);
    CHECK(std::distance(std::filesystem::directory_iterator(folder / "saved"), {}) == 1);
  }
  CHECK(sessions.Save(kOwner, id).value().is_saved);
  CHECK(files::ReadFile(file).value() != before);
}

}  // namespace
}  // namespace holo::completion
