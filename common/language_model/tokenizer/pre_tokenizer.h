// Where a text is cut into the words that byte-pair encoding works on.
#pragma once

#include <cstddef>
#include <string_view>

#include "common/language_model/tokenizer/tokenizer.h"

namespace holo::tokenizer {

// The length in bytes, at least 1, of the first word of `text`, which is not empty and goes on to its end.
[[nodiscard]] std::size_t FirstWord(PreTokenizer pre_tokenizer, std::string_view text);

}  // namespace holo::tokenizer
