// Bodies of requests for text.
#include <cstdlib>

#include "server/openai/openai.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace holo;
  for (const auto parse : {openai::ParseCompletion, openai::ParseChat}) {
    const Result<openai::Asked> asked = parse({data, size});
    if (asked) {
      // What the service takes for granted.
      const completion::Request& request = asked->request;
      const bool has_prompt = asked->is_chat ? !request.messages.empty() : !request.prompts.empty();
      if (!has_prompt || request.choices < 1 || request.best_of < request.choices) std::abort();
    } else if (openai::ToProblem(asked.error()).status != 400) {
      std::abort();
    }
  }
  const Result<openai::NewSession> session = openai::ParseNewSession({data, size});
  if (!session && openai::ToProblem(session.error()).status != 400) std::abort();
  return 0;
}
