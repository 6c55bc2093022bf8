// SPDX-License-Identifier: Apache-2.0
// Owns the start and end of the program: MPI, threads, Kokkos, and what becomes of an error.
#pragma once

#include <functional>
#include <string>

#include "upit/core/index.hpp"

namespace upit {

/// One per program, first in main, destroyed last. Starts MPI, then chooses threads, then starts Kokkos; ends
/// them in reverse. SIGXFSZ is ignored from here on: the write fails instead. What the surroundings have
/// already started (a test program) is used and left running.
class Runtime {
 public:
  Runtime(int& argc, char**& argv);
  ~Runtime();
  Runtime(Runtime const&) = delete;
  Runtime& operator=(Runtime const&) = delete;

  /// Runs the program's body and turns what it throws into an exit code: `AgreedError` is one line from rank
  /// 0 and 1 on every rank; `Interrupted` one line and 75; anything else is one line that names the rank and
  /// MPI_Abort(1), or, alone, one line and 1. Everything that owns a View must live inside `body`.
  int run(std::function<int()> const& body);

  /// Host threads of this rank.
  Index threads() const { return threads_; }
  /// Ranks, nodes, threads, and why so many: one line, the same on every rank.
  std::string description() const { return description_; }

 private:
  void start_kokkos(int node_rank);
  int failed(std::string const& what) const;

  bool owns_mpi_ = false;
  bool owns_kokkos_ = false;
  int rank_ = 0;
  int size_ = 1;
  Index threads_ = 1;
  std::string description_;
};

}  // namespace upit
