// SPDX-License-Identifier: Apache-2.0
// Measures the expansion of FFN experts beside plain reads, synced writes and copies of the same bytes.
//
//   bench_expand DIRECTORY [cold|warm] [checkpoints 8] [experts 16] [piece elements]
//
// Writes the checkpoints (about 126 MB each) where they are not there. cold: the files are dropped from the
// page cache before each pass, also before the plain read. Counted are the FFNs of the pool once and the
// child's file once per child; the base, the parents' backbones and the first Gram matrix are read on top of
// that.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/core/runtime.hpp"
#include "upit/io/files.hpp"
#include "upit/upcycle/expand.hpp"

namespace upit {
namespace {

constexpr Index kRequest = Index{4} << 20;

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

ModelFileInfo bench_info() {
  ModelFileInfo info;
  info.kind = "expert";
  ModelConfig& m = info.model;
  m.layers = 4;
  m.width = 512;
  m.heads = m.kv_heads = 8;
  m.head_width = 64;
  m.ffn = 4096;
  m.vocabulary = 4096;
  m.context = 512;
  m.tied = true;
  info.expert.kind = ExpertKind::ffn;
  info.expert.count = 1;
  info.base_hash = "bench";
  return info;
}

/// The base (-1), or the base moved a little.
void write_expert(Communicator const& comm, std::string const& path, ModelFileInfo const& info,
                  Index expert) {
  if (std::filesystem::exists(path)) return;
  ParameterTable const table(info.model, info.expert);
  Weights<float> const w(table);
  for (auto const& [buffer, stream] : {std::pair{w.backbone, 0}, std::pair{w.expert, 1}}) {
    RandomKey const base = random_key(1, "bench", stream), moved = random_key(1, "moved", stream, expert);
    Kokkos::parallel_for(
        "bench", Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(0, static_cast<Index>(buffer.extent(0))),
        KOKKOS_LAMBDA(Index const i) {
          auto const at = static_cast<std::uint64_t>(i);
          double const task = expert < 0 ? 0.0 : 0.001 * (random_uniform(moved, at) - 0.5);
          buffer(i) = static_cast<float>(random_uniform(base, at) - 0.5 + task);
        });
  }
  Kokkos::fence();
  write_model_file(path, comm, info, table, w, {true, true, false});
}

/// Out of the page cache, once per pass.
void forget(Communicator const& comm, std::vector<std::string> const& files) {
  comm.barrier();
  if (comm.root()) {
    for (auto const& f : files) {
      if (!std::filesystem::exists(f)) continue;
      FileDescriptor const file(f, O_RDONLY);
      ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    }
  }
  comm.barrier();
}

/// Bytes a second of all ranks, each reading its stretch of every file.
double read_rate(Communicator const& comm, std::vector<std::string> const& files) {
  std::vector<char> buffer(static_cast<std::size_t>(kRequest));
  Index bytes = 0;
  comm.barrier();
  double const begin = seconds();
  for (auto const& f : files) {
    FileDescriptor const file(f, O_RDONLY);
    Index const size = static_cast<Index>(std::filesystem::file_size(f));
    Index const end = size * (comm.rank() + 1) / comm.size();
    for (Index at = size * comm.rank() / comm.size(); at < end;) {
      auto const want = static_cast<std::size_t>(std::min(kRequest, end - at));
      ssize_t const got = ::pread(file.get(), buffer.data(), want, at);
      require(got > 0, f + ": cannot read");
      at += got;
      bytes += got;
    }
  }
  comm.barrier();
  return static_cast<double>(comm.sum(bytes)) / (seconds() - begin);
}

/// The same for one file of `size` bytes, written and synced.
double write_rate(Communicator const& comm, std::string const& path, Index size) {
  std::vector<char> const buffer(static_cast<std::size_t>(kRequest), 'x');
  if (comm.root()) FileDescriptor(path, O_WRONLY | O_CREAT | O_TRUNC).close();
  comm.barrier();
  double const begin = seconds();
  FileDescriptor const file(path, O_WRONLY);
  Index const end = size * (comm.rank() + 1) / comm.size();
  for (Index at = size * comm.rank() / comm.size(); at < end;) {
    ssize_t const got =
        ::pwrite(file.get(), buffer.data(), static_cast<std::size_t>(std::min(kRequest, end - at)), at);
    require(got > 0, path + ": cannot write");
    at += got;
  }
  require(::fsync(file.get()) == 0, path + ": cannot sync");
  comm.barrier();
  double const rate = static_cast<double>(size) / (seconds() - begin);
  if (comm.root()) std::filesystem::remove(path);
  return rate;
}

/// Bytes copied a second by one thread a rank, all ranks at once.
double copy_rate(Communicator const& comm) {
  std::size_t const n = std::size_t{256} << 20;
  std::vector<char> from(n, 'x'), to(n, 'y');
  double best = 0.0;
  for (int i = 0; i < 3; ++i) {
    comm.barrier();
    double const begin = seconds();
    std::memcpy(to.data(), from.data(), n);
    comm.barrier();
    best = std::max(best, static_cast<double>(n) * comm.size() / (seconds() - begin));
    std::swap(from, to);
  }
  return best;
}

int bench(std::vector<std::string> const& arguments) {
  auto const number = [&](std::size_t i, Index otherwise) {
    return arguments.size() > i ? static_cast<Index>(std::stoll(arguments[i])) : otherwise;
  };
  require(!arguments.empty(), "bench_expand DIRECTORY [cold|warm] [checkpoints] [experts] [piece elements]");
  Communicator const world = Communicator::world();
  std::string const root = arguments[0];
  bool const cold = arguments.size() > 1 && arguments[1] == "cold";
  Index const m = number(2, 8);
  upcycle::ExpandOptions options;
  options.count = number(3, 2 * m);
  options.piece_elements = number(4, options.piece_elements);
  options.start = "prepare/checkpoint_00.h5";
  options.reads = "bench";

  ModelFileInfo const info = bench_info();
  if (world.root()) {
    std::filesystem::create_directories(root + "/prepare");
    std::filesystem::remove_all(root + "/expand");
    std::filesystem::create_directories(root + "/expand");
  }
  world.barrier();
  std::vector<std::string> files, paths = {root + "/" + options.start};
  write_expert(world, paths[0], info, -1);
  for (Index e = 0; e < m; ++e) {
    files.push_back(fmt::format("prepare/expert_{:02}.h5", e));
    paths.push_back(root + "/" + files.back());
    write_expert(world, paths.back(), info, e);
  }
  require(options.count > m, "bench_expand: more experts than checkpoints");
  ParameterTable const table(info.model, info.expert);
  Index const ffn = model_file_bytes(table, {false, true, false});
  Index const whole = model_file_bytes(table, {true, true, false});

  // Before each child the same bytes are read and written plainly: figures of one moment are compared.
  struct Measured {
    double read, write, begin, end;
  };
  std::vector<Measured> children;
  double gram = 0.0;
  auto const between = [&](Index child) {
    double const end = seconds();
    children.empty() ? void(gram = end - gram) : void(children.back().end = end);
    if (child > m) paths.push_back(fmt::format("{}/expand/expert_{:02}.h5", root, child - 1));
    std::vector<std::string> const pool(paths.begin() + 1, paths.end());
    if (cold) forget(world, paths);
    Measured now{read_rate(world, pool), write_rate(world, root + "/expand/plain", whole), 0.0, 0.0};
    if (cold) forget(world, paths);
    now.begin = seconds();
    children.push_back(now);
  };
  if (cold) forget(world, paths);
  gram = seconds();
  upcycle::grow_family(world, root, files, info, options, between);
  world.barrier();
  children.back().end = seconds();

  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  double const resident = world.max(static_cast<double>(usage.ru_maxrss) / 1024.0);
  double const copy = copy_rate(world);  // last: its buffers would be the largest
  std::vector<double> shares;
  double total = 0.0, bytes = 0.0;
  std::string lines;
  for (std::size_t i = 0; i < children.size(); ++i) {
    Measured const& c = children[i];
    double const from_pool = static_cast<double>((m + static_cast<Index>(i)) * ffn);
    double const written = static_cast<double>(whole);
    double const time = c.end - c.begin, counted = from_pool + written;
    double const disk = counted / (from_pool / c.read + written / c.write);
    shares.push_back(counted / time / std::min(disk, copy));
    total += time;
    bytes += counted;
    lines += fmt::format(
        "child {:2}: {:.2f} s, {:.2f} GB/s; plain read {:.2f}, write and sync {:.2f}, both {:.2f} "
        "GB/s; share {:.2f}\n",
        m + static_cast<Index>(i), time, counted / time * 1e-9, c.read * 1e-9, c.write * 1e-9, disk * 1e-9,
        shares.back());
  }
  std::sort(shares.begin(), shares.end());
  if (world.root()) {
    fmt::print(
        "ranks {}, {}, {} -> {} experts, {:.1f} MB a file of which FFN {:.1f} MB, pieces of {} elements\n{}",
        world.size(), cold ? "cold" : "warm", m, options.count, static_cast<double>(whole) * 1e-6,
        static_cast<double>(ffn) * 1e-6, options.piece_elements, lines);
    fmt::print(
        "children {:.2f} s, {:.2f} GB counted, {:.2f} GB/s; first Gram matrix {:.2f} s; copy {:.2f} GB/s\n",
        total, bytes * 1e-9, bytes / total * 1e-9, gram, copy * 1e-9);
    fmt::print(
        "share of the smaller of copy and disk: median {:.2f}, least {:.2f}, best {:.2f}; largest resident "
        "set {:.0f} MiB\n",
        shares[shares.size() / 2], shares.front(), shares.back(), resident);
  }
  return 0;
}

}  // namespace
}  // namespace upit

int main(int argc, char** argv) {
  upit::Runtime runtime(argc, argv);
  return runtime.run([&] { return upit::bench({argv + 1, argv + argc}); });
}
