// SPDX-License-Identifier: Apache-2.0
// Owns the tests of CPU lists and shares.
#include "upit/core/processors.hpp"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "upit/core/error.hpp"

namespace {

using Cpus = std::vector<int>;

TEST(CpuList, ReadsWhatItWrites) {
  EXPECT_EQ(upit::cpu_list(Cpus{}), "");
  EXPECT_EQ(upit::cpu_list(Cpus{7}), "7");
  EXPECT_EQ(upit::cpu_list(Cpus{0, 1, 2, 3, 8, 10, 11}), "0-3,8,10-11");
  EXPECT_EQ(upit::parse_cpu_list("0-3,8,10-11"), (Cpus{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(upit::parse_cpu_list(""), Cpus{});
}

TEST(CpuList, RefusesOtherText) {
  for (char const* text : {"a", "1-", "1,", ",1", "1-2-3", "-1", "1;2"}) {
    EXPECT_THROW(upit::parse_cpu_list(text), upit::Error) << text;
  }
}

TEST(ShareOfCpus, DividesWhatIsSharedAndKeepsWhatIsNot) {
  EXPECT_EQ(upit::share_of_cpus(Cpus{0, 1}, Cpus{2, 2}), 1);              // two ranks, unbound, two CPUs
  EXPECT_EQ(upit::share_of_cpus(Cpus{0, 1}, Cpus{1, 1}), 2);              // alone
  EXPECT_EQ(upit::share_of_cpus(Cpus{2, 3}, Cpus{1, 1, 1, 1}), 2);        // bound to its own half
  EXPECT_EQ(upit::share_of_cpus(Cpus{0, 1}, Cpus{4, 4}), 1);              // more ranks than CPUs
  EXPECT_EQ(upit::share_of_cpus(Cpus{0, 1, 2, 3}, Cpus{3, 3, 3, 3}), 1);  // 4/3
  EXPECT_EQ(upit::share_of_cpus(Cpus{0, 1, 2}, Cpus{3, 3, 3}), 1);        // three thirds are one
  EXPECT_EQ(upit::share_of_cpus(Cpus{0, 1, 2, 3, 4, 5}, Cpus{3, 3, 3, 3, 3, 3}), 2);
}

TEST(AllowedCpus, CanBeNarrowedAndWidenedAgain) {
  Cpus const before = upit::allowed_cpus();
  ASSERT_FALSE(before.empty());
  EXPECT_TRUE(upit::on_one_core(Cpus{before.front()}));
  EXPECT_GE(upit::online_cpus().size(), before.size());
  Cpus narrowed;
  Cpus widened;
  std::thread([&] {  // of a thread of its own: the test program keeps its binding
    ASSERT_TRUE(upit::allow_cpus(Cpus{before.front()}));
    narrowed = upit::allowed_cpus();
    ASSERT_TRUE(upit::allow_cpus(upit::online_cpus()));
    widened = upit::allowed_cpus();
  })
      .join();
  EXPECT_EQ(narrowed, Cpus{before.front()});
  EXPECT_GE(widened.size(), before.size());
  EXPECT_EQ(upit::allowed_cpus(), before);
}

}  // namespace
