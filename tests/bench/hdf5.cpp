// SPDX-License-Identifier: Apache-2.0
// Owns the measurement behind `Transfer::shared`: a dataset of one block for each rank, written and read
// collectively and independently. The figures stand in docs/checkpoint.md.
//
//   mpirun -n RANKS bench_hdf5 [DIRECTORY]
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/core/console.hpp"
#include "upit/core/error.hpp"
#include "upit/core/runtime.hpp"
#include "upit/core/timer.hpp"
#include "upit/io/hdf5.hpp"

namespace upit {
namespace {

constexpr int kRepeats = 5;
constexpr Index kLeast = Index{4} << 10, kMost = Index{64} << 20;  // bytes of one rank

/// Seconds until the last rank is through.
template <class Work>
double timed(Communicator const& world, Work&& work) {
  world.barrier();
  Stopwatch const watch;
  work();
  return world.max(watch.seconds());
}

struct Times {
  double write, read;
};

/// One new file with one dataset; opening, closing and syncing are not timed. The pages are in memory: what a
/// disk then does is the same for both ways.
Times transfer(Communicator const& world, std::string const& path, std::vector<float>& values, Transfer way) {
  auto const mine = static_cast<Index>(values.size());
  Slab const slab = {{mine * world.rank()}, {mine}};
  auto const rank = static_cast<float>(world.rank() + 1);
  std::fill(values.begin(), values.end(), rank);
  Times times{};
  H5File file = H5File::create(path, &world, way);
  file.create_dataset<float>("values", std::vector<Index>{mine * world.size()});
  times.write = timed(world, [&] { file.write<float>("values", values, slab); });
  file.close();
  std::fill(values.begin(), values.end(), 0.0F);
  file = H5File::open(path, &world, way);
  times.read = timed(world, [&] { file.read<float>("values", values, slab); });
  file.close();
  require(std::all_of(values.begin(), values.end(), [&](float v) { return v == rank; }),
          "a rank reads something else than it wrote");
  return times;
}

/// "best (median)" in GB/s.
std::string rates(Index bytes, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  auto const rate = [&](double s) { return static_cast<double>(bytes) / s * 1e-9; };
  return fmt::format("{:.3f} ({:.3f})", rate(seconds.front()), rate(seconds[seconds.size() / 2]));
}

std::string size_text(Index bytes) {
  return bytes < (Index{1} << 20) ? fmt::format("{} KiB", bytes >> 10) : fmt::format("{} MiB", bytes >> 20);
}

int measure(Communicator const& world, Console& console, std::string const& directory) {
  std::string path = fmt::format("{}/upit-bench-{}.h5", directory, getpid());
  world.broadcast(path);
  Table table({"bytes of a rank", "write: collective", "independent", "read: collective", "independent"});
  for (Index bytes = kLeast; bytes <= kMost; bytes *= 4) {
    std::vector<float> values(static_cast<std::size_t>(bytes) / sizeof(float));
    std::array<std::vector<double>, 2> write, read;  // independent, collective
    // The two ways take turns, so that what else the machine does meets both; the first turn is not counted.
    for (int repeat = -1; repeat < kRepeats; ++repeat) {
      for (std::size_t const way : {1, 0}) {
        Times const t = transfer(world, path, values, way == 1 ? Transfer::collective : Transfer::shared);
        if (repeat < 0) continue;
        write[way].push_back(t.write);
        read[way].push_back(t.read);
      }
    }
    Index const all = bytes * world.size();
    table.row({size_text(bytes), rates(all, write[1]), rates(all, write[0]), rates(all, read[1]),
               rates(all, read[0])});
  }
  world.barrier();
  if (world.root()) ::unlink(path.c_str());
  console.say(table, fmt::format("GB/s of {} ranks together, best (median) of {}", world.size(), kRepeats));
  return 0;
}

}  // namespace
}  // namespace upit

int main(int argc, char** argv) {
  upit::Runtime runtime(argc, argv);
  return runtime.run([&] {
    auto const world = upit::Communicator::world();
    upit::Console console(world.root());
    return upit::measure(world, console, argc > 1 ? argv[1] : ".");
  });
}
