// SPDX-License-Identifier: Apache-2.0
// Owns the embedded data: instruction samples and plain documents made from a seed, all text our own.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "upit/text/sample.hpp"

namespace upit {

/// "code", "math", "general": the generator's domains in order.
std::vector<std::string> const& generator_domains();

/// More samples of one domain, or documents, than these are not made. Every domain has that many different
/// ones, and it takes seconds to make them.
inline constexpr Index kMostGeneratedSamples = 400'000;
inline constexpr Index kMostDocuments = 1'000'000;

/// Throws `Error` naming pretrain.documents if `count` is above kMostDocuments.
void require_documents(Index count);

/// The samples of one generator domain, one after the other. Instruction + input differ between any two of a
/// stream, so nothing held out is asked in training.
class RecordStream {
 public:
  RecordStream(int domain, std::uint64_t seed);
  /// The next sample; false when the domain has (all but) run out of new ones.
  bool next(Record& record);

 private:
  int domain_;
  std::uint64_t seed_;
  Index draft_ = 0;
  std::unordered_set<std::string> prompts_;
};

struct Document {
  std::string text;
  int domain = 0;
};

/// The first `count` documents for `seed`, domains in turn: statements, code and number facts of 100 to 250
/// bytes, distinct, over the same world as the samples but never in their form. Throws as
/// `require_documents`.
std::vector<Document> generate_documents(Index count, std::uint64_t seed);

}  // namespace upit
