// SPDX-License-Identifier: Apache-2.0
// Owns the test that a stop signal may arrive in the middle of a matrix product.
#include <gtest/gtest.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <vector>

#include "upit/core/random.hpp"
#include "upit/core/signals.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit::test {
namespace {

/// Sends SIGUSR1 to this thread every 200 microseconds while it lives.
class Signals {
 public:
  Signals() {
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = ::gettid();
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) throw std::runtime_error("timer_create");
    itimerspec const often = {{0, 200000}, {0, 200000}};
    ::timer_settime(timer_, 0, &often, nullptr);
  }
  ~Signals() { ::timer_delete(timer_); }

 private:
  timer_t timer_ = {};
};

template <class T>
std::vector<T> values(Index size, std::uint64_t seed) {
  RandomKey const key = random_key(seed, "signals");
  std::vector<T> v(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = T(static_cast<float>(random_uniform(key, i) - 0.5));
  return v;
}

// In oneDNN's generated sgemm the stack pointer points into the heap (see install_stop_signals): on an
// ordinary handler's stack this dies within a second, or returns wrong sums.
template <class T>
void multiply_under_signals() {
  if (!Kokkos::SpaceAccessibility<Kokkos::HostSpace, Memory>::accessible)
    GTEST_SKIP() << "products on a device";
  install_stop_signals();
  clear_stop_request();
  Exec const exec;
  std::vector<Index> const sizes = {3, 17, 32, 48, 96, 258};
  double const until = 1.5;
  timespec start = {}, now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &start);
  Index products = 0;
  auto const go_on = [&] {
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec - start.tv_sec) +
               1e-9 * static_cast<double>(now.tv_nsec - start.tv_nsec) <
           until;
  };
  for (std::uint64_t seed = 1; go_on(); ++seed) {
    auto const pick = [&](std::uint64_t i) {
      return sizes[static_cast<std::size_t>(random_below(random_key(seed, "size"), i, sizes.size()))];
    };
    Index const m = pick(0), n = pick(1), k = pick(2);
    Op const a_op = seed % 2 == 0 ? Op::none : Op::transpose, b_op = seed % 3 == 0 ? Op::none : Op::transpose;
    auto const a = values<T>(m * k, seed), b = values<T>(k * n, seed + 1);
    std::vector<float> quiet(static_cast<std::size_t>(m * n)), noisy(quiet.size());
    auto const multiply = [&](std::vector<float>& c) {
      gemm<T>(exec, a_op, b_op, m, n, k, 1.0F, a.data(), a_op == Op::none ? k : m, b.data(),
              b_op == Op::none ? n : k, 0.0F, c.data(), n);
      exec.fence();
    };
    multiply(quiet);
    Signals const signals;
    for (int i = 0; i < 20; ++i, ++products) multiply(noisy);
    ASSERT_EQ(quiet, noisy) << m << " x " << n << " x " << k;
  }
  EXPECT_TRUE(stop_requested());
  EXPECT_GT(products, 100);
  clear_stop_request();
}

TEST(Gemm, StandsSignals) { multiply_under_signals<float>(); }

TEST(GemmOfBf16, StandsSignals) {
  if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  multiply_under_signals<bfloat16>();
}

}  // namespace
}  // namespace upit::test
