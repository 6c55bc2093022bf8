// SPDX-License-Identifier: Apache-2.0
// Owns the wording of the templates and the cut of samples that are too long.
#include "upit/text/template.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "upit/core/error.hpp"

namespace upit {

PromptFormat prompt_format(std::string const& name) {
  if (name == "plain") return PromptFormat::plain;
  if (name == "alpaca") return PromptFormat::alpaca;
  fail(fmt::format("data.format: found \"{}\", allowed are \"plain\" and \"alpaca\"", name));
}

std::string prompt_text(PromptFormat format, std::string_view instruction, std::string_view input) {
  if (format == PromptFormat::plain)
    return input.empty() ? fmt::format("{}\n>", instruction) : fmt::format("{}\n{}\n>", instruction, input);
  // Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca; a line break closes the last heading.
  if (input.empty())
    return fmt::format(
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n{}\n\n### Response:\n",
        instruction);
  return fmt::format(
      "Below is an instruction that describes a task, paired with an input that provides further context. "
      "Write "
      "a response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### "
      "Response:\n",
      instruction, input);
}

std::vector<int> encode_prompt(PromptFormat format, std::string_view instruction, std::string_view input,
                               Tokenizer const& tokenizer) {
  std::vector<int> tokens = tokenizer.encode(prompt_text(format, instruction, input));
  if (tokenizer.bos() >= 0) tokens.insert(tokens.begin(), tokenizer.bos());
  return tokens;
}

EncodedSample encode_sample(PromptFormat format, Record const& record, Tokenizer const& tokenizer) {
  require(tokenizer.eos() >= 0,
          "data.tokenizer: this tokenizer has no end-of-sequence token, which closes every sample");
  EncodedSample sample;
  sample.tokens = encode_prompt(format, record.instruction, record.input, tokenizer);
  sample.response = static_cast<int>(sample.tokens.size());
  std::vector<int> const response = tokenizer.encode(record.output);
  sample.tokens.insert(sample.tokens.end(), response.begin(), response.end());
  sample.tokens.push_back(tokenizer.eos());
  return sample;
}

bool truncate_sample(EncodedSample& sample, Index limit, bool has_bos) {
  expect(limit >= 4, "a sample cannot be cut below four tokens");
  Index const length = static_cast<Index>(sample.tokens.size());
  if (length <= limit) return false;
  Index const prompt = sample.response;
  Index const response = std::min(length - prompt, std::max(limit - prompt, limit / 4));
  Index const kept_prompt = limit - response;  // <= prompt, because the whole is too long
  sample.tokens.resize(static_cast<std::size_t>(prompt + response));
  auto const first = sample.tokens.begin() + (has_bos ? 1 : 0);
  sample.tokens.erase(first, first + (prompt - kept_prompt));
  sample.response = static_cast<int>(kept_prompt);
  return true;
}

}  // namespace upit
