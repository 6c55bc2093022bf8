// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the embedded generator.
#include "upit/text/generator.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <unordered_set>

#include "upit/text/template.hpp"

namespace upit {
namespace {

std::vector<Record> first(int domain, Index count, std::uint64_t seed) {
  RecordStream stream(domain, seed);
  std::vector<Record> records;
  Record record;
  while (static_cast<Index>(records.size()) < count && stream.next(record)) records.push_back(record);
  return records;
}

TEST(Generator, PromptsAreDistinctAndShort) {
  for (Index const total : {Index{6600}, Index{20001}}) {
    std::unordered_set<std::string> prompts;
    double bytes = 0.0;
    Index count = 0;
    for (int domain = 0; domain < 3; ++domain)
      for (Record const& r : first(domain, total / 3, 1)) {
        prompts.insert(r.instruction + "\n" + r.input);  // over all domains, not only within one
        bytes += static_cast<double>(r.instruction.size() + r.input.size() + r.output.size());
        ++count;
        EXPECT_EQ(r.domain, domain);
        EXPECT_FALSE(r.instruction.empty());
        EXPECT_FALSE(r.output.empty());
      }
    EXPECT_EQ(count, total);
    EXPECT_EQ(static_cast<Index>(prompts.size()), total);
    EXPECT_LE(bytes / static_cast<double>(count), 120.0);
    EXPECT_GE(bytes / static_cast<double>(count), 40.0);
  }
}

TEST(Generator, DependsOnTheSeedAndNests) {
  for (int domain = 0; domain < 3; ++domain) {
    std::vector<Record> const large = first(domain, 200, 5), small = first(domain, 50, 5),
                              other = first(domain, 50, 6);
    int differing = 0;
    for (std::size_t i = 0; i < small.size(); ++i) {
      EXPECT_EQ(small[i].instruction, large[i].instruction);
      EXPECT_EQ(small[i].input, large[i].input);
      EXPECT_EQ(small[i].output, large[i].output);
      differing += small[i].instruction + small[i].input != other[i].instruction + other[i].input;
    }
    EXPECT_GT(differing, 40);
  }
}

TEST(Generator, AnswersAreConsistent) {
  // A prompt has one answer, whatever the stream: the world is fixed and the arithmetic is right.
  std::map<std::string, std::string> answers;
  for (std::uint64_t const seed : {1, 2})
    for (int domain = 0; domain < 3; ++domain)
      for (Record const& r : first(domain, 2000, seed)) {
        auto const [known, added] = answers.emplace(r.instruction + "\n" + r.input, r.output);
        EXPECT_EQ(known->second, r.output) << r.instruction;
      }
  EXPECT_LT(answers.size(), 12000u);  // so some prompts did occur in both
}

TEST(Generator, ArithmeticOfTheMathDomainIsRight) {
  int checked = 0;
  for (Record const& r : first(1, 4000, 3)) {
    std::size_t const mark = r.output.find("Answer: ");
    ASSERT_NE(mark, std::string::npos) << r.output;
    int a = 0, b = 0, c = 0;
    char op = 0;
    // The last step "a op b = c" before the answer.
    std::string const steps = r.output.substr(0, mark - 2);
    std::size_t const begin = steps.rfind("; ");
    std::string const last = begin == std::string::npos ? steps : steps.substr(begin + 2);
    int used = 0;
    if (std::sscanf(last.c_str(), "%d %c %d = %d%n", &a, &op, &b, &c, &used) != 4 ||
        used != static_cast<int>(last.size()))
      continue;
    int const value = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : b != 0 ? a / b : -1;
    EXPECT_EQ(value, c) << r.output;
    EXPECT_EQ(std::to_string(c), r.output.substr(mark + 8)) << r.instruction;
    if (op == '/') {
      EXPECT_EQ(a % b, 0) << r.output;
    }
    ++checked;
  }
  EXPECT_GT(checked, 2000);
}

TEST(Generator, DocumentsAreDistinctAndNoSamples) {
  std::vector<Document> const documents = generate_documents(20000, 1);
  ASSERT_EQ(documents.size(), 20000u);
  std::unordered_set<std::string> texts;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    EXPECT_GE(documents[i].text.size(), 100u);
    EXPECT_LE(documents[i].text.size(), 250u);
    EXPECT_EQ(documents[i].domain, static_cast<int>(i % 3));
    EXPECT_EQ(documents[i].text.find("\n>"), std::string::npos);  // the mark of a prompt's end
    EXPECT_EQ(documents[i].text.find("Answer:"), std::string::npos);
    texts.insert(documents[i].text);
  }
  EXPECT_EQ(texts.size(), documents.size());
  for (int domain = 0; domain < 3; ++domain)
    for (Record const& r : first(domain, 6600, 1)) {
      EXPECT_EQ(texts.count(prompt_text(PromptFormat::plain, r.instruction, r.input) + r.output), 0u);
      EXPECT_EQ(texts.count(r.output), 0u);
    }
  EXPECT_NE(generate_documents(1, 2)[0].text, documents[0].text);
}

}  // namespace
}  // namespace upit
