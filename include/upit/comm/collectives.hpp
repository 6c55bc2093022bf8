// SPDX-License-Identifier: Apache-2.0
// Owns collectives on Views: straight from the memory of the execution space, or through pinned memory.
#pragma once

#include "upit/comm/communicator.hpp"
#include "upit/core/types.hpp"

namespace upit {

/// Sum over ranks, in place, element by element. Collective. Waits for `exec`, and is finished when it
/// returns; with one rank it does nothing. Memory that the host cannot reach goes to MPI where that is
/// GPU-aware, else piece by piece through pinned memory that is kept for the next call.
void sum(Communicator const& comm, Exec const& exec, View1<float> const& values);
void sum(Communicator const& comm, Exec const& exec, View1<double> const& values);

/// Values of rank `root` on every rank, in place; otherwise like `sum`.
void broadcast(Communicator const& comm, Exec const& exec, View1<float> const& values, int root = 0);
void broadcast(Communicator const& comm, Exec const& exec, View1<double> const& values, int root = 0);

}  // namespace upit
