// SPDX-License-Identifier: Apache-2.0
// Owns the streams of the generator: distinct prompts, documents of the right length.
#include "upit/text/generator.hpp"

#include <fmt/format.h>

#include "generator_parts.hpp"
#include "upit/core/error.hpp"

namespace upit {

namespace {

constexpr std::size_t kDocumentLeast = 100, kDocumentMost = 250;  // bytes
/// So many drafts in a row without a new one: the stream is as good as dry (fresh drafts below 1 in 2000).
constexpr int kMostRepeats = 20000;

}  // namespace

std::vector<std::string> const& generator_domains() {
  static std::vector<std::string> const names = {"code", "math", "general"};
  return names;
}

RecordStream::RecordStream(int domain, std::uint64_t seed) : domain_(domain), seed_(seed) {
  expect(domain >= 0 && domain < static_cast<int>(generator_domains().size()),
         "the generator has three domains");
}

bool RecordStream::next(Record& record) {
  for (int repeats = 0; repeats < kMostRepeats; ++repeats) {
    generate::Dice dice(random_key(seed_, "generated sample", domain_, draft_++));
    record = domain_ == 0   ? generate::code_sample(dice)
             : domain_ == 1 ? generate::math_sample(dice)
                            : generate::general_sample(dice);
    record.domain = domain_;
    if (prompts_.insert(record.instruction + '\n' + record.input).second) return true;
  }
  return false;
}

void require_documents(Index count) {
  require(count <= kMostDocuments,
          fmt::format("pretrain.documents = {}: the embedded generator makes at most {}; a larger base is "
                      "trained elsewhere and named by model.base",
                      count, kMostDocuments));
}

std::vector<Document> generate_documents(Index count, std::uint64_t seed) {
  require_documents(count);
  std::vector<Document> documents;
  documents.reserve(static_cast<std::size_t>(count));
  std::unordered_set<std::string> seen;
  Index draft = 0;
  while (static_cast<Index>(documents.size()) < count) {
    int const domain = static_cast<int>(documents.size() % generator_domains().size());
    generate::Dice dice(random_key(seed, "generated document", draft++));
    std::size_t const aim = kDocumentLeast + dice.below(81);
    std::string text;
    while (text.size() < aim) {
      std::string const statement = domain == 0   ? generate::code_statement(dice)
                                    : domain == 1 ? generate::math_statement(dice)
                                                  : generate::general_statement(dice);
      if (text.size() + statement.size() <= kDocumentMost) text += statement;
    }
    while (text.back() == ' ' || text.back() == '\n') text.pop_back();
    if (text.size() >= kDocumentLeast && seen.insert(text).second)
      documents.push_back({std::move(text), domain});
  }
  return documents;
}

}  // namespace upit
