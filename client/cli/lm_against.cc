// llama.cpp with the same file and the same tokens, through llama-cpp-python.
#include "client/cli/lm_against.h"

#include <cmath>

#include "client/cli/child.h"
#include "common/files/files.h"

namespace holo::cli::lm {
namespace {

namespace fs = std::filesystem;

// Its argument is a file with what to do; it prints a line of JSON for everything that it has measured.
constexpr std::string_view kScript = R"python(
import json, sys, time
try:
    import numpy
    import llama_cpp as api
except ImportError as error:
    sys.exit(f"ERROR: {error}")
job = json.load(open(sys.argv[1]))
tokens, window = job["tokens"], job["window"]
api.llama_backend_init()
quiet = api.llama_log_callback(lambda level, text, data: None)
api.llama_log_set(quiet, None)
parameters = api.llama_model_default_params()
parameters.n_gpu_layers = 0
model = api.llama_model_load_from_file(job["model"].encode(), parameters)
if not model:
    sys.exit("ERROR: llama.cpp cannot load the model")
vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
TYPES = {"f16": 1, "q4_0": 2, "q8_0": 8}


def make_context(cache, length, sequences):
    settings = api.llama_context_default_params()
    settings.n_ctx = length * sequences
    settings.n_batch = settings.n_ubatch = 512
    settings.n_seq_max = sequences
    settings.n_threads = settings.n_threads_batch = job["threads"]
    settings.type_k = settings.type_v = TYPES[cache]
    settings.kv_unified = False
    context = api.llama_init_from_model(model, settings)
    if not context:
        sys.exit(f"ERROR: llama.cpp cannot make a context with the cache {cache}")
    return context


def decode(context, rows):
    """rows: (token, position, sequence, wants logits)."""
    batch = api.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
        batch.seq_id[i][0] = sequence
    if api.llama_decode(context, batch) != 0:
        sys.exit("ERROR: llama.cpp: decode failed")
    logits = api.llama_get_logits(context)  # waits until they are there
    api.llama_batch_free(batch)
    return logits


def say(**what):
    print(json.dumps(what), flush=True)


likeliest = {}
for cache in job["caches"]:
    context = make_context(cache, window, 1)
    memory = api.llama_get_memory(context)
    loss, predictions, agreements, bytes_per_token = 0.0, 0, 0, 0
    for first in range(0, len(tokens), window):
        own = tokens[first:first + window]
        api.llama_memory_clear(memory, True)
        for start in range(0, len(own), 512):
            piece = own[start:start + 512]
            logits = decode(context, [(token, start + i, 0, 1) for i, token in enumerate(piece)])
            rows = numpy.ctypeslib.as_array(logits, (len(piece), vocabulary))
            for i in range(len(piece)):
                if start + i + 1 >= len(own):
                    break
                row = rows[i].astype(numpy.float64)
                largest = row.max()
                loss += float(largest + numpy.log(numpy.exp(row - largest).sum()) - row[own[start + i + 1]])
                predictions += 1
                best = int(row.argmax())
                agreements += likeliest.setdefault(first + start + i, best) == best
        # A session as llama.cpp would save it; what it holds in memory is no less.
        bytes_per_token = max(bytes_per_token, api.llama_state_seq_get_size(context, 0) / len(own)) if first == 0 else bytes_per_token
        say(done=min(1.0, (first + window) / len(tokens)), cache=cache)
    say(cache=cache, bytes_per_token=bytes_per_token, loss=loss, predictions=predictions, agreements=agreements)
    api.llama_free(context)


def best(work, count):
    fastest, begin, runs = 1e300, time.perf_counter(), 0
    while runs < 3 or (runs < 50 and time.perf_counter() - begin < 1):
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
        runs += 1
    return count / fastest


if job["speed"]:
    prompt, short, steps, many = job["prompt"], job["short_prompt"], job["steps"], job["sequences"]
    text = (tokens * (1 + (prompt + steps + many * 1000) // len(tokens)))[:prompt + steps + many * 1000]
    context = make_context("f16", prompt + steps, 1)
    memory = api.llama_get_memory(context)

    def prefill():
        api.llama_memory_clear(memory, True)
        for start in range(0, prompt, 512):
            end = min(prompt, start + 512)
            decode(context, [(text[i], i, 0, i == prompt - 1) for i in range(start, end)])

    def one():
        api.llama_memory_seq_rm(memory, 0, prompt, -1)
        for i in range(prompt, prompt + steps):
            decode(context, [(text[i], i, 0, 1)])

    speed = {"prompt": best(prefill, prompt), "one": best(one, steps)}
    api.llama_free(context)
    context = make_context("f16", (short + steps + 255) // 256 * 256, many)
    memory = api.llama_get_memory(context)
    for sequence in range(many):
        decode(context, [(text[sequence * 1000 + i], i, sequence, i == short - 1) for i in range(short)])

    def together():
        for sequence in range(many):
            api.llama_memory_seq_rm(memory, sequence, short, -1)
        for i in range(short, short + steps):
            decode(context, [(text[sequence * 1000 + i], i, sequence, 1) for sequence in range(many)])

    speed["many"] = best(together, steps * many)
    say(speed=speed, version=api.__version__)
)python";

constexpr std::string_view kInstall =
    "python3 -m venv VENV && VENV/bin/pip install llama-cpp-python, then --python VENV/bin/python";

Result<std::vector<nlohmann::json>> Lines(const fs::path& path) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, files::ReadFile(path, std::uint64_t{16} << 20));
  std::vector<nlohmann::json> lines;
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (std::size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    nlohmann::json line = nlohmann::json::parse(rest.substr(0, end), nullptr, false);
    if (line.is_object()) lines.push_back(std::move(line));
    rest.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace

Result<LlamaCpp> RunLlamaCpp(const LlamaCppJob& job, const Globals& globals) {
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  if (error) return tl::unexpected(files::FromErrno(error.value(), "find", "a folder for temporary files"));
  HOLO_ASSIGN_OR_RETURN(const Workshop workshop, Workshop::Create(parent));
  const fs::path folder = workshop.path();
  const std::string what = nlohmann::json{
      {"model", job.model.string()},
      {"tokens", job.tokens},
      {"window", job.window},
      {"threads", job.threads},
      {"caches", {"f16", "q8_0", "q4_0"}},
      {"speed", job.with_speed},
      {"prompt", job.prompt},
      {"short_prompt", job.short_prompt},
      {"steps", job.steps},
      {"sequences",
       job.sequences}}.dump();
  const auto write = [&](const char* name, std::string_view text) {
    return files::AtomicWrite(folder / name, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  };
  HOLO_RETURN_IF_ERROR(write("job.json", what));
  HOLO_RETURN_IF_ERROR(write("script.py", kScript));
  ProgressBar bar("llama.cpp", globals);
  const auto ended = RunChild({{job.python, (folder / "script.py").string(), (folder / "job.json").string()},
                               folder / "output",
                               folder / "log",
                               {}},
                              [&] {
                                const auto lines = Lines(folder / "output");
                                const double done = lines ? static_cast<double>(lines->size()) : 0;
                                const auto windows =
                                    static_cast<double>((job.tokens.size() + job.window - 1) / job.window);
                                return bar.Update(std::min(1.0, done / (3 * (windows + 1))));
                              });
  if (!ended && ended.error().code != Code::kUnavailable)
    return tl::unexpected(WithContext(ended.error(), "llama.cpp"));
  if (!ended || *ended != 0) {
    return Fail(Code::kUnavailable, "against llama.cpp: expected " + job.python + " to run llama-cpp-python, found " +
                                        (ended ? LastWords(folder / "log") : "no such program") + "; " +
                                        std::string(kInstall));
  }
  HOLO_ASSIGN_OR_RETURN(const std::vector<nlohmann::json> lines, Lines(folder / "output"));
  LlamaCpp found;
  try {
    for (const nlohmann::json& line : lines) {
      if (line.contains("loss")) {
        found.caches.push_back({line.at("cache"), line.at("bytes_per_token"), line.at("loss"), line.at("predictions"),
                                line.at("agreements")});
      } else if (line.contains("speed")) {
        const nlohmann::json& speed = line.at("speed");
        found.speed = Speed{speed.at("prompt"), speed.at("one"), speed.at("many")};
        found.version = line.at("version");
      }
    }
  } catch (const nlohmann::json::exception& exception) {
    return Fail(Code::kInternal, std::string("llama.cpp: ") + exception.what());
  }
  if (found.caches.size() == 3) return found;
  return Fail(Code::kInternal,
              "llama.cpp: expected three caches measured, found " + std::to_string(found.caches.size()));
}

}  // namespace holo::cli::lm
