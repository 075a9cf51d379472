#include "benchmarks/tools/tools.h"

#include <doctest/doctest.h>

#include <filesystem>

namespace holo::benchmarks {
namespace {

TEST_CASE("a program's output and exit status come back, and its directory is its own") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  const auto result = RunTool({"sh", "-c", "pwd; echo warning >&2; exit 3"}, directory.path());
  REQUIRE(result.has_value());
  CHECK(result->exit_code == 3);
  CHECK(result->output == std::filesystem::canonical(directory.path()).string() + "\nwarning\n");
  CHECK(result->peak_memory_bytes > 0);
}

TEST_CASE("a program that a signal ended has an exit code above 128") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  CHECK(RunTool({"sh", "-c", "kill -TERM $$"}, directory.path()).value().exit_code == 128 + 15);
}

TEST_CASE("a program that does not exist is not found") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  const auto result = RunTool({"holo-no-such-program"}, directory.path());
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().code == Code::kNotFound);
}

TEST_CASE("a program that does not end is stopped") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  const auto result = RunTool({"sleep", "600"}, directory.path(), std::chrono::milliseconds(20));
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().code == Code::kDeadlineExceeded);
}

TEST_CASE("a program beside this one is measured and ended") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  auto tool = RunningTool::Start({"sh", "-c", "echo ready; exec sleep 600"}, directory.path());
  REQUIRE(tool.has_value());
  CHECK(tool->CpuSeconds().has_value());
  CHECK(tool->PeakMemoryBytes().value() > 0);
  const auto result = tool->Stop();
  REQUIRE(result.has_value());
  CHECK(result->exit_code == 128 + 15);
}

TEST_CASE("waiting for a program that ends before it listens fails with its output") {
  const TemporaryDirectory directory = TemporaryDirectory::Create().value();
  auto tool = RunningTool::Start({"sh", "-c", "echo no port for me; exit 1"}, directory.path());
  REQUIRE(tool.has_value());
  const auto waited = tool->WaitForPort(FreePort().value());
  REQUIRE_FALSE(waited.has_value());
  CHECK(waited.error().code == Code::kUnavailable);
  CHECK(waited.error().message.find("no port for me") != std::string::npos);
}

TEST_CASE("a temporary directory takes its content along") {
  std::filesystem::path path;
  {
    const TemporaryDirectory directory = TemporaryDirectory::Create().value();
    path = directory.path();
    CHECK(std::filesystem::create_directory(path / "inside"));
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace holo::benchmarks
