// holo: the command-line tool.
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "client/cli/cli.h"
#include "server/operations/operations.h"

namespace {

// `holo serve` is holod: it has that program's options, and its own way with signals.
int Serve(const std::vector<std::string>& arguments) {
  using namespace holo;
  operations::ServerOptions defaults;
  // For one person's use: nobody else's business unless asked for.
  defaults.http = "127.0.0.1:8080";
  defaults.grpc = "127.0.0.1:50051";
  const auto parsed = operations::ParseOptions(arguments, operations::Environment(), defaults);
  if (!parsed) {
    std::cerr << "holo serve: " << parsed.error().message << "\nholo serve --help lists the options\n";
    return ToExitCode(parsed.error().code);
  }
  if (parsed->wants_help) {
    std::cout << operations::HelpText("holo serve", defaults);
    return 0;
  }
  return operations::RunServer("holo serve", parsed->options);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace holo;
  if (argc > 1 && std::string_view(argv[1]) == "serve") return Serve({argv + 2, argv + argc});
  cli::Globals globals;
  cli::Action action;
  CLI::App app("holo: pictures, and the memory of language models, as a basis and coefficients", "holo");
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
  app.add_subcommand("serve", "Serve a folder of pictures and .holo files, as holod does (serve comes first)");
  cli::AddFetch(app, globals, action);
  cli::AddWatch(app, globals, action);
  cli::AddChat(app, globals, action);
  cli::AddLm(app, globals, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : ToExitCode(Code::kInvalidArgument);
  }
  cli::InstallInterruptHandler();
  if (!action) {  // holo -q serve
    std::cerr << "holo: expected serve to come first: holo serve FOLDER\n";
    return ToExitCode(Code::kInvalidArgument);
  }
  const Result<void> done = action();
  if (done) return 0;
  if (globals.json) std::cout << ToHttpBody(done.error()) << "\n";
  if (done.error().code != Code::kCancelled || !globals.quiet) std::cerr << "holo: " << done.error().message << "\n";
  return ToExitCode(done.error().code);
}
