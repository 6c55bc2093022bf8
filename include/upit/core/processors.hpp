// SPDX-License-Identifier: Apache-2.0
// Owns which CPUs this process may use and how many of them are its share.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace upit {

/// CPU numbers, rising, that the calling thread may run on.
std::vector<int> allowed_cpus();
/// Lets the calling thread, and threads that it starts later, run on these CPUs. The kernel keeps a job
/// inside its control group whatever is asked. False if it refused.
bool allow_cpus(std::span<int const> cpus);
/// CPUs that are switched on in this machine.
std::vector<int> online_cpus();
/// True if all of them are hardware threads of one core.
bool on_one_core(std::span<int const> cpus);

/// How many threads a rank should start: its part of every CPU that it may use, where users[cpu] ranks may
/// use that CPU. Rounded down, at least 1. Equal sets give CPUs / ranks, separate sets give all of one's own.
int share_of_cpus(std::span<int const> mine, std::span<int const> users);

/// "0-3,8" and back, as the kernel writes it. Throws `Error` for text that is no such list.
std::string cpu_list(std::span<int const> cpus);
std::vector<int> parse_cpu_list(std::string_view text);

}  // namespace upit
