#include <doctest/doctest.h>

#include "server/operations/operations.h"
#include "tests/temporary_folder.h"

namespace holo::operations {
namespace {

using Variables = std::map<std::string, std::string>;

TEST_CASE("addresses are HOST:PORT, [IPv6]:PORT, :PORT or off") {
  struct Row {
    std::string text;
    bool ok;
    const char* host = "";
    int port = 0;
    bool enabled = true;
  };
  const Row rows[] = {
      {"localhost:80", true, "localhost", 80},
      {"10.0.0.1:65535", true, "10.0.0.1", 65535},
      {"[::1]:0", true, "::1", 0},
      {":8080", true, "0.0.0.0", 8080},
      {"off", true, "", 0, false},
      {"", false},
      {"localhost", false},
      {"localhost:", false},
      {"localhost:x", false},
      {"localhost:80x", false},
      {"localhost:-1", false},
      {"localhost:+1", false},
      {"localhost:65536", false},
      {"localhost:99999999999", false},
      {"::1:80", false},
      {"[::1:80", false},
      {"[]:80", false},
      {"[::1]80", false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const Result<Address> address = ParseAddress(row.text);
    CHECK(address.has_value() == row.ok);
    if (!address) {
      CHECK(address.error().code == Code::kInvalidArgument);
      CHECK(address.error().message.find(row.text) != std::string::npos);
    } else if (row.ok) {
      CHECK(address->enabled == row.enabled);
      CHECK(address->host == row.host);
      CHECK(address->port == row.port);
    }
  }
}

TEST_CASE("a flag goes before the environment, and that before the file") {
  const testing::TemporaryFolder folder;
  REQUIRE(folder.Write("holod.conf", "# a comment\nmax-streams=1\nquality=11\ncompress-ahead=true\ntoken=from-file\n"));
  const std::string config = (folder / "holod.conf").string();
  const ServerOptions file = ParseOptions({"--config", config}, {}, {}).value().options;
  CHECK(file.max_streams == 1);
  CHECK(file.quality == 11);
  CHECK(file.compress_ahead);
  CHECK(file.token == "from-file");
  CHECK(file.http == ServerOptions{}.http);

  const Variables environment = {{"MAX_STREAMS", "2"}, {"QUALITY", "22"},          {"COMPRESS_AHEAD", "false"},
                                 {"STORE", "there"},   {"SOMETHING_ELSE", "else"}, {"HELP", "1"}};
  const ServerOptions both = ParseOptions({"--config", config}, environment, {}).value().options;
  CHECK(both.max_streams == 2);
  CHECK(both.quality == 22);
  CHECK_FALSE(both.compress_ahead);
  CHECK(both.token == "from-file");
  CHECK(both.store == "there");

  Variables with_config = environment;
  with_config["CONFIG"] = config;
  const Parsed all =
      ParseOptions({"here", "--max-streams", "3", "--token=flag", "--compress-ahead"}, with_config, {}).value();
  CHECK(all.options.max_streams == 3);
  CHECK(all.options.quality == 22);
  CHECK(all.options.compress_ahead);
  CHECK(all.options.token == "flag");
  CHECK(all.options.store == "here");
  CHECK_FALSE(all.wants_help);
}

TEST_CASE("what is no option or no such number is refused by name, wherever it stands") {
  const testing::TemporaryFolder folder;
  REQUIRE(folder.Write("typo.conf", "max-strems=5\n"));
  REQUIRE(folder.Write("number.conf", "max-streams=many\n"));
  struct Row {
    std::vector<std::string> arguments;
    Variables environment;
    std::string named;
  };
  const Row rows[] = {
      {{"--max-strems", "5"}, {}, "max-strems"},
      {{"--max-streams", "many"}, {}, "max-streams"},
      {{"--max-streams", "0"}, {}, "max-streams"},
      {{"--max-streams", "-1"}, {}, "max-streams"},
      {{"--max-streams"}, {}, "max-streams"},
      {{"--max-bytes-per-second", "-1"}, {}, "max-bytes-per-second"},
      {{"--quality", "101"}, {}, "quality"},
      {{"--quality", "nan"}, {}, "quality"},
      {{"--log-level", "loud"}, {}, "log-level"},
      {{"--http", "localhost"}, {}, "localhost"},
      {{"one", "two"}, {}, "two"},
      {{}, {{"MAX_STREAMS", "many"}}, "max-streams"},
      {{}, {{"GRPC", "50051"}}, "50051"},
      {{"--config", (folder / "none.conf").string()}, {}, "none.conf"},
      {{"--config", (folder / "typo.conf").string()}, {}, "max-strems"},
      {{"--config", (folder / "number.conf").string()}, {}, "max-streams"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.named);
    const Result<Parsed> parsed = ParseOptions(row.arguments, row.environment, {});
    CHECK_FALSE(parsed.has_value());
    if (parsed) continue;
    CAPTURE(parsed.error().message);
    CHECK(parsed.error().code == Code::kInvalidArgument);
    CHECK(parsed.error().message.find(row.named) != std::string::npos);
  }
}

TEST_CASE("models may be several, and without a store of their own there are no pictures") {
  const ServerOptions two = ParseOptions({"--model", "a=/m/a", "--model", "/m/b", "--api-key", "x"}, {}, {}).value().options;
  CHECK(two.models == std::vector<std::string>{"a=/m/a", "/m/b"});
  CHECK(two.api_keys == std::vector<std::string>{"x"});
  CHECK(two.store.empty());
  const ServerOptions both = ParseOptions({"--model", "/m/a", "here"}, {}, {}).value().options;
  CHECK(both.models == std::vector<std::string>{"/m/a"});
  CHECK(both.store == "here");
  CHECK(ParseOptions({"--model", "/m/a", "--store", "store"}, {}, {}).value().options.store == "store");
  CHECK(ParseOptions({}, {{"MODEL", "/m/c"}}, {}).value().options.models == std::vector<std::string>{"/m/c"});
  CHECK(ParseOptions({}, {}, {}).value().options.store == "store");
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{"--max-batch", "0"}, {"--model-cache", "int5"}, {"--max-queue", "-1"}}) {
    CAPTURE(wrong[0]);
    CHECK_FALSE(ParseOptions(wrong, {}, {}).has_value());
  }
}

TEST_CASE("help and version are noticed, and help names every option with its default") {
  CHECK(ParseOptions({"--help"}, {}, {}).value().wants_help);
  CHECK(ParseOptions({"-h"}, {}, {}).value().wants_help);
  CHECK(ParseOptions({"--version"}, {}, {}).value().wants_version);
  const std::string help = HelpText("holod", {});
  for (const char* text : {"--store", "--http", "--grpc", "--token", "--max-streams", "--config", "--ready-file",
                           "0.0.0.0:8080", "HOLO_MAX_STREAMS", "holod"}) {
    CAPTURE(text);
    CHECK(help.find(text) != std::string::npos);
  }
}

}  // namespace
}  // namespace holo::operations
