// SPDX-License-Identifier: Apache-2.0
// Owns one MPI communicator: collectives on host memory, and the way all ranks agree on an error.
#pragma once

#include <mpi.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "upit/core/error.hpp"
#include "upit/core/index.hpp"

namespace upit {

/// Movable, not copyable. Every method is collective over the communicator unless said otherwise; counts are
/// 64-bit, messages above `int` are split. Throws `Error` naming the MPI call where MPI reports one.
class Communicator {
 public:
  /// A duplicate of MPI_COMM_WORLD.
  static Communicator world();
  ~Communicator();
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool root() const { return rank_ == 0; }
  MPI_Comm get() const { return comm_; }

  /// Ranks of equal colour, ordered by rank.
  Communicator split(int color) const;
  Communicator split_by_node() const;

  void barrier() const;
  /// In place, element by element.
  void sum(std::span<float> values) const;
  void sum(std::span<double> values) const;
  void sum(std::span<Index> values) const;
  double sum(double value) const;
  double max(double value) const;  // NaN if any rank has NaN
  Index sum(Index value) const;
  Index max(Index value) const;
  Index min(Index value) const;
  bool all(bool value) const;
  bool any(bool value) const;
  void broadcast(std::string& text, int root = 0) const;
  void broadcast(std::span<float> values, int root = 0) const;
  void broadcast(std::span<double> values, int root = 0) const;
  void broadcast(std::span<Index> values, int root = 0) const;
  /// Every rank's values, in rank order, on every rank; lengths may differ.
  std::vector<double> gather_all(std::span<double const> values) const;
  std::vector<Index> gather_all(std::span<Index const> values) const;
  std::vector<std::string> gather_all(std::string const& text) const;
  /// True if all ranks pass the same bytes.
  bool same(std::string const& text) const;

  /// Runs `work` on every rank (it must not communicate). If any rank throws, all ranks throw `AgreedError`
  /// with the message of the lowest such rank. `Interrupted` passes through: every rank must throw it.
  void agree(std::function<void()> const& work) const;
  /// The same, with `work` on rank 0 only.
  void agree_on_root(std::function<void()> const& work) const;
  /// The same for a status found earlier: empty text means no error here.
  void agree(std::string const& error, Ending ending = Ending::orderly) const;

 private:
  explicit Communicator(MPI_Comm comm);
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace upit
