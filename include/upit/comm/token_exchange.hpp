// SPDX-License-Identifier: Apache-2.0
// Owns the movement of rows between ranks that hold different experts.
#pragma once

#include <memory>
#include <utility>

#include "upit/comm/communicator.hpp"
#include "upit/comm/exchange_plan.hpp"
#include "upit/core/types.hpp"

namespace upit {

/// How rows travel. `automatic`: by MPI_Ialltoallv from where they lie if the host reaches them; from device
/// memory, `pairwise` if MPI says that it is GPU-aware, `staged` if not.
///   staged    MPI_Ialltoallv between pinned host buffers, copies before and after
///   pairwise  MPI_Isend and MPI_Irecv of each pair of ranks: Open MPI takes device pointers there, but not
///   in
///             collectives that do not block (its FAQ, "Running CUDA-aware Open MPI")
/// The same on all ranks.
enum class ExchangePath { automatic, staged, pairwise };

struct ExchangeStatistics {
  double seconds = 0.0;  // with an exchange under way, counts included
  double blocked = 0.0;  // of these inside MPI and staging copies, where this rank could do nothing else
  double bytes = 0.0;    // sent to other ranks
};

/// Sends slots to the ranks of their experts and back, piece by piece of an `ExchangePlan`. T is float or
/// double. Every method is collective over the group unless said otherwise, in the same order on all ranks.
/// Two operations may be under way at a time. Throws `Error` naming the MPI call where MPI reports one and
/// `std::logic_error` on wrong use. Allocates only in the constructor.
template <class T>
class TokenExchange {
  struct State;

 public:
  /// An exchange under way; it keeps the buffers of both ends alive.
  class [[nodiscard]] Pending {
   public:
    Pending() = default;  // of nothing
    /// Waits if nobody has, without errors: MPI must not write into memory that was given back.
    ~Pending() { abandon(); }
    Pending(Pending&& other) noexcept;
    Pending& operator=(Pending&& other) noexcept;  // waits for what it held before
    /// Ends the operation: afterwards the rows are there for whatever is enqueued on the instance that began
    /// it, and all buffers may be used again. Nothing happens the second time. Not collective.
    void wait();

   private:
    friend class TokenExchange;
    Pending(std::shared_ptr<State> state, int lane) : state_(std::move(state)), lane_(lane) {}
    void abandon() noexcept;
    std::shared_ptr<State> state_;
    int lane_ = 0;
  };

  /// Rows have `width` columns. Reads `message_limit()`: a piece in which two ranks exchange more than that
  /// many elements (or one row) is split over several calls. `shape.ranks()` must be the size of the group.
  TokenExchange(Communicator const& group, ExchangeShape shape, Index width,
                ExchangePath path = ExchangePath::automatic);

  ExchangeShape const& shape() const;
  /// Rows that a round brings here at most. Not collective.
  Index capacity() const;

  /// Tells all ranks what each sends.
  ///
  ///   offset  (E + 1)  in   on the host: first sorted slot of each expert on this rank, from 0
  ///   plan             out  of this shape and rank
  void count(Index const* offset, ExchangePlan& plan);

  /// Brings rows to their experts. Fences `exec` first: MPI reads what was enqueued to be written. The rows
  /// sent and those of `arrived` belong to MPI until the wait is over; `piece` may be used again at once.
  ///
  ///   slots    (N*K, C)     in   sorted by expert
  ///   arrived  (>= rows, C) out  rows [0, rows): source after source, in each by expert
  [[nodiscard]] Pending send(Exec const& exec, ExchangePlan::Piece const& piece, View2<T const> const& slots,
                             View2<T> const& arrived);

  /// The way back: `arrived` in, ordered as above; the same places of `slots` out, other places untouched.
  [[nodiscard]] Pending send_back(Exec const& exec, ExchangePlan::Piece const& piece,
                                  View2<T const> const& arrived, View2<T> const& slots);

  /// Since construction or the last reset, on this rank. Not collective.
  ExchangeStatistics statistics() const;
  void reset_statistics();

 private:
  Pending operate(Exec const& exec, ExchangePlan::Piece const& piece, bool back, View2<T const> const& in,
                  View2<T> const& out);
  std::shared_ptr<State> state_;  // shared with operations under way, which may outlive the exchange
};

}  // namespace upit
