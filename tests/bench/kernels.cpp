// SPDX-License-Identifier: Apache-2.0
// Times every kernel of a training step, attention, and products by each linked BLAS: bench_kernels, a Google
// Benchmark program (--benchmark_filter, --benchmark_min_time, --benchmark_out). What the counters mean
// stands in kernel_suite.hpp, the bytes and arithmetic of each kernel in kernels/traffic.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernel_suite.hpp"
#include "upit/core/math.hpp"
#include "upit/core/runtime.hpp"
#include "upit/core/timer.hpp"
#include "upit/core/version.hpp"
#include "upit/kernels/philox.hpp"
#include "upit/kernels/row.hpp"

namespace upit::bench {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

double best_time(benchmark::State& state, Call const& call) {
  Exec const exec;
  double best = kNever;
  for (auto _ : state) {
    Stopwatch const watch;
    call(exec);
    exec.fence();
    double const seconds = watch.seconds();
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  return best;
}

/// GB/s, read and written, of the best of some copies whose source and target together take `set` bytes.
/// Plain stores, as the kernels use; the factor keeps the compiler from calling memcpy, which has others.
double copy_rate(double set) {
  auto const n = std::max<Index>(static_cast<Index>(set) / 8, 1);
  View1<float> const from("upit::bench.from", n), to("upit::bench.to", n);
  constexpr Index kBlock = 4096;
  Index const blocks = (n + kBlock - 1) / kBlock;
  Exec const exec;
  float const one = from.data() != nullptr ? 1.0f : 0.0f;
  double best = kNever, spent = 0.0;
  for (int r = 0; r < 3 || (spent < 0.02 && r < 1000); ++r) {
    Stopwatch const watch;
    Kokkos::parallel_for(
        "upit::bench_copy", kernels::row_policy(exec, blocks, kBlock),
        KOKKOS_LAMBDA(kernels::Row const& row) {
          Index const begin = kernels::row_index(row) * kBlock, left = n - begin;
          float const* const x = from.data() + begin;
          float* const y = to.data() + begin;
          kernels::row_for(row, left < kBlock ? left : kBlock, [=](Index const i) { y[i] = one * x[i]; });
        });
    exec.fence();
    double const seconds = watch.seconds();
    if (r > 0) best = std::min(best, seconds);
    spent += seconds;
  }
  return 8.0 * static_cast<double>(n) / best * 1e-9;
}

using Flat = Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>;

/// Seconds of the best of some launches of one item a thread (hosts), or of `items`.
template <class Body>
double best_launch(Index items, Body const& body) {
  Exec const exec;
  double best = kNever;
  for (int r = 0; r < 50; ++r) {
    Stopwatch const watch;
    Kokkos::parallel_for("upit::bench_rate", Flat(exec, 0, items), body);
    exec.fence();
    best = std::min(best, watch.seconds());
  }
  return best;
}

constexpr Index kInCache = 1024, kRounds = 64;  // numbers of an item, and how often they are taken

double exponential_rate(Index items, View1<float> const& out) {
  double const seconds = best_launch(
      items, KOKKOS_LAMBDA(Index const item) {
        float x[kInCache];
        for (Index i = 0; i < kInCache; ++i) x[i] = static_cast<float>(i) * 1e-3f;
        for (Index r = 0; r < kRounds; ++r) {
          kernels::row_for(Index{0}, kInCache, [&](Index const i) { x[i] = fast_exp(-x[i]); });
        }
        float sum = 0.0f;
        for (Index i = 0; i < kInCache; ++i) sum += x[i];
        out(item) = sum;
      });
  return static_cast<double>(items * kInCache * kRounds) / seconds;
}

double counter_rate(Index items, View1<float> const& out) {
  double const seconds = best_launch(
      items, KOKKOS_LAMBDA(Index const item) {
        std::uint64_t x[kInCache];
        for (Index i = 0; i < kInCache; ++i) x[i] = static_cast<std::uint64_t>(i);
        for (Index r = 0; r < kRounds; ++r) {
          kernels::row_for(Index{0}, kInCache, [&](Index const i) {
            std::uint64_t a = x[i], b = static_cast<std::uint64_t>(item), c = a, d = b;
            kernels::philox<10>(a, b, c, d, 1, 2);
            x[i] = a ^ b ^ c ^ d;
          });
        }
        std::uint64_t sum = 0;
        for (Index i = 0; i < kInCache; ++i) sum ^= x[i];
        out(item) = static_cast<float>(sum & 1);
      });
  return static_cast<double>(items * kInCache * kRounds) / seconds;
}

double ceiling_rate(GemmPeak const& peak) {
  double best = 0.0;
  for (Index library = 0; library < std::ssize(peak.libraries()); ++library) {
    for (auto const& shape : kCeilingShapes) best = std::max(best, peak.measure(library, shape, 2));
  }
  return best;
}

}  // namespace

Rates measured_rates() {
  // Hosts: an item a thread. Devices: enough to fill any of them.
  Index const items = kernels::kHostRows ? Exec().concurrency() : Index{1} << 17;
  View1<float> const out("upit::bench.out", items);
  double const launch = best_launch(
      items, KOKKOS_LAMBDA(Index const item) { out(item) = 0.0f; });
  return {exponential_rate(items, out), counter_rate(items, out), launch};
}

std::vector<Size> sizes() {
  KernelShape flagship;
  flagship.tokens = 2048;
  flagship.sequence = 512;
  flagship.width = 512;
  flagship.ffn = 1376;
  flagship.vocabulary = 32000;
  flagship.heads = flagship.kv_heads = 8;
  flagship.head_width = 64;
  flagship.experts = 8;
  flagship.active = 2;
  flagship.rank = 8;
  flagship.elements = 16.0 * 1024 * 1024;
  KernelShape large = flagship;
  large.tokens = 4096;
  large.sequence = 4096;
  large.width = 2048;
  large.ffn = 5504;
  large.vocabulary = 128000;
  large.heads = 16;
  large.kv_heads = 4;
  large.head_width = 128;
  large.rank = 16;
  large.elements *= 4;
  return {{"flagship", flagship, 256}, {"large", large, 64}};
}

Call const& Suite::take_turn(std::string const& name, Prepare const& prepare) {
  if (turn_ != name) {
    call_ = nullptr;  // frees before it takes
    call_ = prepare();
    turn_ = name;
    call_(Exec());  // pages are touched, libraries have made their kernels
    Exec().fence();
  }
  return call_;
}

void Suite::memory(std::string const& kernel, Size const& size, KernelShape const& shape, Prepare prepare) {
  auto const traffic = kernels::kernel_traffic(kernel, shape);
  std::string const name = kernel + "/" + size.name;
  if (!traffic) throw std::logic_error("kernels/traffic does not know " + kernel);
  auto const work = kernels::kernel_arithmetic(kernel, shape);
  auto const launches = static_cast<double>(kernels::kernel_launches(kernel));
  auto const run = [=, this](benchmark::State& state) {
    Call const& call = take_turn(name, prepare);
    if (work.flops > 0.0 && product_rate_ == 0.0) product_rate_ = 1e9 * ceiling_rate(peak_);
    double const before = copy_rate(traffic->set);
    double const best = best_time(state, call);
    double const copy = std::max(before, copy_rate(traffic->set));
    double const rate = traffic->moved() / best * 1e-9;
    double const products = work.flops > 0.0 ? work.flops / product_rate_ : 0.0;
    Floors const floors = {
        traffic->moved() / copy * 1e-9,
        work.exponentials / rates_.exponentials + work.counters / rates_.counters + products,
        launches * rates_.launch};
    state.counters["bytes"] = traffic->moved();
    state.counters["set_bytes"] = traffic->set;
    state.counters["best_seconds"] = best;
    state.counters["gbytes_per_second"] = rate;
    state.counters["copy_gbytes_per_second"] = copy;
    state.counters["copy_share"] = rate / copy;
    state.counters["traffic_seconds"] = floors.traffic;
    state.counters["arithmetic_seconds"] = floors.arithmetic;
    state.counters["launch_seconds"] = floors.launch;
    state.counters["floor_share"] = floors.highest() / best;
    state.SetLabel(std::string(floors.name()));
  };
  benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Unit(benchmark::kMillisecond);
}

void Suite::copy(double set) {
  benchmark::RegisterBenchmark(fmt::format("copy/{}", static_cast<Index>(set)).c_str(),
                               [set](benchmark::State& state) {
                                 double rate = 0.0;
                                 for (auto _ : state) {
                                   rate = std::max(rate, copy_rate(set));
                                   state.SetIterationTime(set / rate * 1e-9);
                                 }
                                 state.counters["set_bytes"] = set;
                                 state.counters["copy_gbytes_per_second"] = rate;
                               })
      ->UseManualTime()
      ->Iterations(3)
      ->Unit(benchmark::kMillisecond);
}

void Suite::products(std::string const& name, double flops, Prepare prepare) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=, this](benchmark::State& state) {
                                 Call const& call = take_turn(name, prepare);
                                 double const before = ceiling_rate(peak_);
                                 double const best = best_time(state, call);
                                 double const ceiling = std::max(before, ceiling_rate(peak_));
                                 state.counters["flops"] = flops;
                                 state.counters["best_seconds"] = best;
                                 state.counters["gflops"] = flops / best * 1e-9;
                                 state.counters["ceiling_gflops"] = ceiling;
                                 state.counters["ceiling_share"] = flops / best * 1e-9 / ceiling;
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

View1<float> flat_values(Index n, std::uint64_t seed) {
  View1<float> const out("upit::bench.values", n);
  RandomKey const key = random_key(seed, "bench values");
  Kokkos::parallel_for(
      "upit::bench_values", Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(0, (n + 3) / 4),
      KOKKOS_LAMBDA(Index const b) {
        RandomBits const bits = random_bits(key, static_cast<std::uint64_t>(b));
        for (Index i = 0; i < 4 && 4 * b + i < n; ++i) {
          out(4 * b + i) = static_cast<float>(bits.word[i]) * 0x1p-31f - 1.0f;
        }
      });
  return out;
}

View2<float> values(Index rows, Index columns, std::uint64_t seed) {
  View2<float> const out("upit::bench.values", rows, columns);
  Kokkos::deep_copy(View1<float>(out.data(), rows * columns), flat_values(rows * columns, seed));
  return out;
}

View1<int> ids(Index n, Index below, std::uint64_t seed) {
  View1<int> const out("upit::bench.ids", n);
  auto const host = Kokkos::create_mirror_view(out);
  RandomKey const key = random_key(seed, "bench ids");
  for (Index i = 0; i < n; ++i) {
    host(i) =
        static_cast<int>(random_below(key, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(below)));
  }
  Kokkos::deep_copy(out, host);
  return out;
}

int run(int argc, char** argv, std::string const& surroundings) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("surroundings", surroundings);
  benchmark::AddCustomContext("commit", git_hash());
  Suite suite;
  for (auto const& size : sizes()) {
    add_dense_kernels(suite, size);
    add_expert_kernels(suite, size);
    add_products(suite, size);
  }
  add_attention(suite);
  constexpr double kSmallest = 64.0 * 1024, kLargest = 1024.0 * 1024 * 1024;
  for (double set = kSmallest; set <= kLargest; set *= 2) suite.copy(set);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace upit::bench

int main(int argc, char** argv) {
  upit::Runtime runtime(argc, argv);
  return runtime.run([&] { return upit::bench::run(argc, argv, runtime.description()); });
}
