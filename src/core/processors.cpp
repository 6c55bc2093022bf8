// SPDX-License-Identifier: Apache-2.0
#include "upit/core/processors.hpp"

#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <memory>

#include "upit/core/error.hpp"

namespace upit {
namespace {

constexpr int kMaxCpus = 8192;  // what the largest kernels are configured for

struct CpuMask {
  struct Free {
    void operator()(cpu_set_t* set) const { CPU_FREE(set); }
  };
  std::unique_ptr<cpu_set_t, Free> set{CPU_ALLOC(kMaxCpus)};
  std::size_t size = CPU_ALLOC_SIZE(kMaxCpus);
  CpuMask() { CPU_ZERO_S(size, set.get()); }
};

/// The CPU list in a file of the kernel; empty if there is none (containers may hide it).
std::vector<int> cpus_in_file(std::string const& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return {};
  return parse_cpu_list(line);
}

}  // namespace

std::vector<int> allowed_cpus() {
  CpuMask mask;
  require(sched_getaffinity(0, mask.size, mask.set.get()) == 0, "sched_getaffinity failed");
  std::vector<int> cpus;
  for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (CPU_ISSET_S(static_cast<std::size_t>(cpu), mask.size, mask.set.get())) cpus.push_back(cpu);
  }
  return cpus;
}

bool allow_cpus(std::span<int const> cpus) {
  CpuMask mask;
  for (int const cpu : cpus) {
    if (cpu >= 0 && cpu < kMaxCpus) CPU_SET_S(static_cast<std::size_t>(cpu), mask.size, mask.set.get());
  }
  return sched_setaffinity(0, mask.size, mask.set.get()) == 0;
}

std::vector<int> online_cpus() {
  std::vector<int> cpus = cpus_in_file("/sys/devices/system/cpu/online");
  return cpus.empty() ? allowed_cpus() : cpus;
}

bool on_one_core(std::span<int const> cpus) {
  if (cpus.size() <= 1) return true;
  auto const core =
      cpus_in_file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpus.front()));
  return std::ranges::all_of(cpus, [&](int cpu) { return std::ranges::find(core, cpu) != core.end(); });
}

int share_of_cpus(std::span<int const> mine, std::span<int const> users) {
  double share = 0.0;
  for (int const cpu : mine) share += 1.0 / std::max(1, users[static_cast<std::size_t>(cpu)]);
  return std::max(1, static_cast<int>(share + 1e-6));  // thirds may sum to just below a whole
}

std::string cpu_list(std::span<int const> cpus) {
  std::string text;
  for (std::size_t first = 0; first < cpus.size();) {
    std::size_t last = first;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += first == last ? fmt::format("{}", cpus[first]) : fmt::format("{}-{}", cpus[first], cpus[last]);
    first = last + 1;
  }
  return text;
}

std::vector<int> parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  std::string_view rest = text;
  auto const number = [&] {
    int value = 0;
    auto const [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    require(status == std::errc() && value >= 0, fmt::format("\"{}\" is no list of CPUs like 0-3,8", text));
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    return value;
  };
  while (!rest.empty()) {
    int const first = number();
    int last = first;
    if (!rest.empty() && rest.front() == '-') {
      rest.remove_prefix(1);
      last = number();
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (rest.empty()) break;
    require(rest.front() == ',' && rest.size() > 1,
            fmt::format("\"{}\" is no list of CPUs like 0-3,8", text));
    rest.remove_prefix(1);
  }
  return cpus;
}

}  // namespace upit
