// SPDX-License-Identifier: Apache-2.0
// Owns what an instruction sample is: as text, as tokens, and a set of them in one buffer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "upit/core/index.hpp"

namespace upit {

/// One instruction sample as text.
struct Record {
  std::string instruction, input, output;
  int domain = 0;
  Index line = 0;  // in its file, from 1; 0: made by the generator
};

/// Tokens [begin, begin + length) of a store; `response` is the index in the sample of the first response
/// token. A model is fed the first length - 1 tokens and predicts the last length - 1.
struct TokenSample {
  Index begin = 0;
  int length = 0;
  int response = 0;
  int domain = 0;
};

/// Samples end to end. Plain data: the same on every rank.
class TokenStore {
 public:
  std::vector<int> tokens;
  std::vector<TokenSample> samples;
  std::vector<std::string> domains;  // names; TokenSample::domain counts into them

  Index size() const { return static_cast<Index>(samples.size()); }
  std::span<int const> tokens_of(Index i) const {
    TokenSample const& s = samples[static_cast<std::size_t>(i)];
    return {tokens.data() + s.begin, static_cast<std::size_t>(s.length)};
  }
  /// Tokens the model is fed for sample i: length - 1.
  Index input_tokens(Index i) const { return samples[static_cast<std::size_t>(i)].length - 1; }
  /// Tokens of sample i that carry loss: those from the first response token on, or with `loss_on_all` all
  /// that are predicted. Input position t predicts token t + 1, so the first token of a sample never counts.
  Index targets(Index i, bool loss_on_all) const {
    TokenSample const& s = samples[static_cast<std::size_t>(i)];
    return s.length - (loss_on_all || s.response < 1 ? 1 : s.response);
  }
  /// Most input tokens of any sample; 0 when empty.
  Index longest() const;
  /// Appends a sample; throws `std::logic_error` unless 0 <= response < length and length >= 2.
  void append(std::span<int const> sample, int response, int domain);
  /// xxHash of tokens, boundaries and domains: what a stage read.
  std::uint64_t hash() const;
};

}  // namespace upit
