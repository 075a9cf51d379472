// holo: the command-line tool.
#include <iostream>

#include "client/cli/cli.h"

int main(int argc, char** argv) {
  using namespace holo;
  cli::Globals globals;
  cli::Action action;
  CLI::App app("holo: pictures as a basis and coefficients, sharper with every byte", "holo");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("holo " HOLO_VERSION));
  app.fallthrough();
  app.add_flag("-q,--quiet", globals.quiet, "No progress bar and no summary");
  app.add_flag("--json", globals.json, "Results as JSON on standard output");
  app.footer(
      "holo COMMAND --help says more. Exit codes: 0 done, 2 wrong usage or input, 3 not found, 4 unreachable or "
      "timed out,\n5 damaged data, 130 interrupted, 1 anything else.");
  cli::AddCompress(app, globals, action);
  cli::AddInfo(app, globals, action);
  cli::AddRender(app, globals, action);
  cli::AddView(app, globals, action);
  cli::AddDf(app, globals, action);
  cli::AddBasis(app, globals, action);
  cli::AddFetch(app, globals, action);
  cli::AddWatch(app, globals, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : ToExitCode(Code::kInvalidArgument);
  }
  cli::InstallInterruptHandler();
  const Result<void> done = action();
  if (done) return 0;
  if (globals.json) std::cout << ToHttpBody(done.error()) << "\n";
  if (done.error().code != Code::kCancelled || !globals.quiet) std::cerr << "holo: " << done.error().message << "\n";
  return ToExitCode(done.error().code);
}
