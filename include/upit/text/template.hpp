// SPDX-License-Identifier: Apache-2.0
// Owns the prompt templates and how a record becomes tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "upit/text/sample.hpp"
#include "upit/text/tokenizer.hpp"

namespace upit {

enum class PromptFormat { plain, alpaca };

/// From the deck's word; throws `Error` naming the allowed ones.
PromptFormat prompt_format(std::string const& name);

/// What stands before the response.
///   plain:  instruction, then "\n" and the input if there is one, then "\n>"
///   alpaca: the two Stanford Alpaca templates, with and without an input
std::string prompt_text(PromptFormat format, std::string_view instruction, std::string_view input);

/// BOS (if the tokenizer has one) and the prompt: what generation starts from.
std::vector<int> encode_prompt(PromptFormat format, std::string_view instruction, std::string_view input,
                               Tokenizer const& tokenizer);

struct EncodedSample {
  std::vector<int> tokens;
  int response = 0;  // index of the first response token
};

/// encode_prompt, then the output, then EOS. Prompt and output are encoded apart, so the boundary falls
/// between tokens and training sees the prompt as generation does. Throws `Error` if the tokenizer has no
/// EOS: the model could not learn to stop.
EncodedSample encode_sample(PromptFormat format, Record const& record, Tokenizer const& tokenizer);

/// Shortens a sample of more than `limit` >= 4 tokens to `limit`: the response loses its end (EOS with it),
/// but keeps a quarter of `limit` while it has that much; what the prompt must give up is cut from its start,
/// behind BOS. So every sample keeps tokens to learn. Returns whether anything was cut.
bool truncate_sample(EncodedSample& sample, Index limit, bool has_bos);

}  // namespace upit
