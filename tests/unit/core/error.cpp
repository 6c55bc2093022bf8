// SPDX-License-Identifier: Apache-2.0
// Owns the tests of require, fail and expect.
#include "upit/core/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

TEST(Errors, RequireThrowsItsTextForUsers) {
  EXPECT_NO_THROW(upit::require(true, "never"));
  try {
    upit::require(false, "top_k = 9: at most 8");
    FAIL();
  } catch (upit::Error const& e) {
    EXPECT_STREQ(e.what(), "top_k = 9: at most 8");
  }
}

TEST(Errors, ExpectNamesThePlaceOfOurMistake) {
  EXPECT_NO_THROW(upit::expect(true, "never"));
  try {
    upit::expect(false, "sorted");
    FAIL();
  } catch (std::logic_error const& e) {
    EXPECT_THAT(e.what(), testing::MatchesRegex("sorted \\(error\\.cpp:[0-9]+\\)"));
  }
}

}  // namespace
