// SPDX-License-Identifier: Apache-2.0
// Owns the checks of the listener to Kokkos. Kokkos calls tools through plain function pointers, hence the
// counters of this file.
#include "upit/core/profile.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "upit/core/product_region.hpp"
#include "upit/core/profiling.hpp"
#include "upit/core/timer.hpp"

namespace upit::test {
namespace {

namespace tools = Kokkos::Tools::Experimental;

int tool_begins = 0, tool_ends = 0, tool_regions = 0;

void tool_begin(char const*, std::uint32_t, std::uint64_t* id) {
  *id = 70 + static_cast<unsigned>(++tool_begins);
}
void tool_end(std::uint64_t id) { tool_ends += id == 70 + static_cast<unsigned>(tool_begins) ? 1 : 0; }
void tool_push(char const*) { ++tool_regions; }

/// Until `seconds` have passed.
void wait(double seconds) {
  Stopwatch const watch;
  while (watch.seconds() < seconds) {
  }
}

void launch(char const* label, double seconds) {
  Kokkos::parallel_for(label, Kokkos::RangePolicy<HostExec>(0, 1), [=](int) { wait(seconds); });
}

/// A kernel in two regions, one of them nested; a product of two parts; host work in between.
void work() {
  ProfilingRegion const outer("upit::outer");
  launch("upit::twice", 0.002);
  {
    ProfilingRegion const inner("upit::inner");
    launch("upit::twice", 0.001);
    ProductRegion const grouped("upit::grouped_gemm", 2, 30, 5, 7, false, true);
    for (int i = 0; i < 2; ++i) {
      ProductRegion const part("upit::gemm", 0, 15, 5, 7, false, true);
      wait(0.001);
    }
  }
  wait(0.003);
  ProfilingRegion const alone("upit::alone");
  wait(0.001);
}

Profile::Row row_of(Profile const& p, std::string_view label) {
  for (auto const& r : p.rows()) {
    if (r.label == label) return r;
  }
  ADD_FAILURE() << "there is no row " << label;
  return {};
}

TEST(Profile, CountsWhatLiesWithinOnce) {
  Profile p;
  View1<double> const view("upit::view", 1000);
  for (int step = 0; step < 2; ++step) {
    ProfileListener const listener(p);
    work();
    Kokkos::deep_copy(view, 1.0);
  }
  auto const twice = row_of(p, "upit::twice");
  EXPECT_EQ(twice.kind, Profile::Kind::kernel);
  EXPECT_EQ(twice.calls, 4);
  EXPECT_GE(twice.seconds, 0.006);
  auto const product = row_of(p, "upit::grouped_gemm 2: 30x5x7 nt");
  EXPECT_EQ(product.kind, Profile::Kind::product);
  EXPECT_EQ(product.calls, 2);
  EXPECT_DOUBLE_EQ(product.flops, 2 * 2.0 * 30 * 5 * 7);
  EXPECT_GE(product.seconds, 0.004);
  EXPECT_EQ(row_of(p, "upit::alone").kind, Profile::Kind::region);
  auto const fill = row_of(p, "Kokkos::deep_copy, fill");
  EXPECT_EQ(fill.calls, 2);
  EXPECT_DOUBLE_EQ(fill.bytes, 2 * 8000.0);
  EXPECT_EQ(p.rows().size(), 4u) << "the parts of a group, or a fill's kernel, stand beside it";
  EXPECT_GE(p.host_seconds(), 0.006);
  double sum = p.host_seconds(), tree = 0.0;
  for (auto const& r : p.rows()) {
    EXPECT_GE(r.seconds, 0.0);
    sum += r.seconds;
  }
  for (std::size_t i = 0; i < p.nodes.size(); ++i) tree += p.own_seconds(static_cast<int>(i));
  // Sums of some ten numbers.
  EXPECT_NEAR(sum, p.seconds(), 1e-12);
  EXPECT_NEAR(tree, p.seconds(), 1e-12);
  EXPECT_EQ(p.nodes[1].label, "upit::outer");
  EXPECT_EQ(p.nodes[1].depth, 1);
  EXPECT_GE(p.own_seconds(1), 0.006);
}

TEST(Profile, LeavesNoHookBehind) {
  Profile p;
  EXPECT_FALSE(Kokkos::Tools::profileLibraryLoaded());
  {
    ProfileListener const listener(p);
    EXPECT_TRUE(Kokkos::Tools::profileLibraryLoaded());
    EXPECT_THROW(ProfileListener second(p), std::logic_error);
  }
  EXPECT_FALSE(Kokkos::Tools::profileLibraryLoaded());
  work();
  EXPECT_EQ(p.nodes.size(), 1u);
}

TEST(Profile, LetsAnotherToolHearOn) {
  tool_begins = tool_ends = tool_regions = 0;
  tools::set_begin_parallel_for_callback(tool_begin);
  tools::set_end_parallel_for_callback(tool_end);
  tools::set_push_region_callback(tool_push);
  Profile p;
  {
    ProfileListener const listener(p);
    work();
  }
  EXPECT_EQ(tool_begins, 2);
  EXPECT_EQ(tool_ends, 2) << "a tool gets back the number that it gave";
  EXPECT_EQ(tool_regions, 6);
  work();
  EXPECT_EQ(tool_begins, 4);
  EXPECT_EQ(tool_regions, 12);
  tools::set_begin_parallel_for_callback(nullptr);
  tools::set_end_parallel_for_callback(nullptr);
  tools::set_push_region_callback(nullptr);
  EXPECT_EQ(row_of(p, "upit::twice").calls, 2);
}

TEST(Profile, KeepsItsBalanceWhereRegionsOpenedBeforeItEnd) {
  Profile p;
  Kokkos::Profiling::pushRegion("upit::before");
  {
    ProfileListener const listener(p);
    Kokkos::Profiling::popRegion();
    launch("upit::after", 0.0);
  }
  EXPECT_EQ(p.nodes.size(), 2u);
  EXPECT_EQ(p.nodes[1].parent, 0);
}

}  // namespace
}  // namespace upit::test
