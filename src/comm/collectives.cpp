// SPDX-License-Identifier: Apache-2.0
#include "upit/comm/collectives.hpp"

#include <algorithm>

#include "gpu_aware.hpp"

namespace upit {
namespace {

constexpr Index kStagedBytes = Index{16} << 20;

/// Pinned memory for one piece of any type. Freed before Kokkos ends.
char* staging() {
  static PinnedView1<char> buffer;
  if (buffer.data() == nullptr) {
    Kokkos::push_finalize_hook([] { buffer = {}; });
    buffer = PinnedView1<char>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "upit::comm::staging"),
                               kStagedBytes);
  }
  return buffer.data();
}

/// Calls work(span) on memory that MPI can read and that holds `values`, then brings it back.
template <class T, class Work>
void in_reach(Communicator const& comm, Exec const& exec, View1<T> const& values, Work const& work) {
  if (comm.size() == 1) return;
  Index const n = static_cast<Index>(values.extent(0));
  if (kHostReachesMemory || mpi_is_gpu_aware()) {
    exec.fence();  // what was enqueued may still write the values
    work(std::span<T>(values.data(), at(n)));
    return;
  }
  Index const piece = kStagedBytes / static_cast<Index>(sizeof(T));
  for (Index first = 0; first < n; first += piece) {
    Index const count = std::min(piece, n - first);
    View1<T> const device(values.data() + first, count);
    PinnedView1<T> const host(reinterpret_cast<T*>(staging()), count);
    Kokkos::deep_copy(exec, host, device);
    exec.fence();  // the copy is what MPI sends
    work(std::span<T>(host.data(), at(count)));
    Kokkos::deep_copy(exec, device, host);
    exec.fence();  // the staging buffer is used again
  }
}

}  // namespace

void sum(Communicator const& comm, Exec const& exec, View1<float> const& values) {
  in_reach(comm, exec, values, [&](std::span<float> part) { comm.sum(part); });
}
void sum(Communicator const& comm, Exec const& exec, View1<double> const& values) {
  in_reach(comm, exec, values, [&](std::span<double> part) { comm.sum(part); });
}
void broadcast(Communicator const& comm, Exec const& exec, View1<float> const& values, int root) {
  in_reach(comm, exec, values, [&](std::span<float> part) { comm.broadcast(part, root); });
}
void broadcast(Communicator const& comm, Exec const& exec, View1<double> const& values, int root) {
  in_reach(comm, exec, values, [&](std::span<double> part) { comm.broadcast(part, root); });
}

}  // namespace upit
