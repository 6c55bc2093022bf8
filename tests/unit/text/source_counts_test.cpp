// SPDX-License-Identifier: Apache-2.0
// Owns the tests of how many samples each source gives, and of sizes that no source has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/text/dataset.hpp"
#include "upit/text/generator.hpp"

namespace upit {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// The rule as it is stated, sample by sample.
std::vector<Index> one_by_one(std::vector<double> const& weights, Index samples) {
  std::vector<Index> counts(weights.size(), 0);
  for (Index n = 0; n < samples; ++n) {
    std::size_t best = 0;
    for (std::size_t s = 1; s < weights.size(); ++s) {
      if (weights[s] * static_cast<double>(2 * counts[best] + 1) >
          weights[best] * static_cast<double>(2 * counts[s] + 1))
        best = s;
    }
    ++counts[best];
  }
  return counts;
}

TEST(SourceCountsAtOnce, AreThoseOfTheRule) {
  for (std::uint64_t trial = 0; trial < 60; ++trial) {
    RandomKey const key = random_key(trial, "weights");
    std::vector<double> weights(1 + random_below(key, 0, 9));
    for (std::size_t s = 0; s < weights.size(); ++s) {
      // Whole numbers make ties, the others span four orders of magnitude.
      weights[s] = trial % 2 == 0 ? 1.0 + static_cast<double>(random_below(key, s + 1, 5))
                                  : std::pow(10.0, 4.0 * random_uniform(key, s + 1));
    }
    for (Index const n : {0, 1, 2, 5, 9, 10, 11, 40, 333, 5000}) {
      EXPECT_EQ(source_counts(weights, n), one_by_one(weights, n)) << trial << " " << n;
    }
  }
}

TEST(SourceCountsAtOnce, TakeNoTime) {
  Index const many = 100'000'000'000;
  auto const counts = source_counts({1.0, 2.0, 5.0}, many);
  EXPECT_EQ(counts, (std::vector<Index>{many / 8, many / 4, many / 8 * 5}));
  auto const largest = source_counts({3.0, 0.1}, std::numeric_limits<Index>::max() / 2);
  EXPECT_EQ(std::accumulate(largest.begin(), largest.end(), Index{0}), std::numeric_limits<Index>::max() / 2);
}

std::string message_of(std::function<void()> const& work) {
  try {
    work();
  } catch (Error const& error) {
    return error.what();
  }
  return "no error";
}

TEST(HugeSizes, EndInAnErrorBeforeAnythingIsMade) {
  auto const tokenizer = make_tokenizer("bytes");
  DataDeck data;
  data.samples = 100'000'000'000;
  EXPECT_THAT(message_of([&] { load_dataset(data, *tokenizer, 1); }),
              AllOf(HasSubstr("data.samples = 100000000000"), HasSubstr("generator:code"),
                    HasSubstr("400000"), HasSubstr("data.source")));
  PretrainDeck pretrain;
  pretrain.documents = 100'000'000'000;
  EXPECT_THAT(message_of([&] { pretrain_documents(pretrain, 128, *tokenizer, 1); }),
              AllOf(HasSubstr("pretrain.documents = 100000000000"), HasSubstr("1000000")));
}

}  // namespace
}  // namespace upit
