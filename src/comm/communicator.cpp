// SPDX-License-Identifier: Apache-2.0
#include "upit/comm/communicator.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "check_mpi.hpp"
#include "upit/comm/message_limit.hpp"

namespace upit {
namespace {

Index limit = Index{1} << 30;

template <class T>
MPI_Datatype datatype();
template <>
MPI_Datatype datatype<float>() {
  return MPI_FLOAT;
}
template <>
MPI_Datatype datatype<double>() {
  return MPI_DOUBLE;
}
template <>
MPI_Datatype datatype<Index>() {
  return MPI_INT64_T;
}
template <>
MPI_Datatype datatype<char>() {
  return MPI_CHAR;
}

/// Calls piece(first, count) over [0, n) in pieces that one MPI call may carry.
template <class Piece>
void in_pieces(Index n, Piece const& piece) {
  for (Index first = 0; first < n; first += limit) {
    piece(first, static_cast<int>(std::min(limit, n - first)));
  }
}

template <class T>
void reduce_in_place(T* values, Index n, MPI_Op op, MPI_Comm comm) {
  in_pieces(n, [&](Index first, int count) {
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, values + first, count, datatype<T>(), op, comm), "MPI_Allreduce");
  });
}

template <class T>
T reduced(T value, MPI_Op op, MPI_Comm comm) {
  reduce_in_place(&value, 1, op, comm);
  return value;
}

template <class T>
void broadcast_in_place(T* values, Index n, int root, MPI_Comm comm) {
  in_pieces(n, [&](Index first, int count) {
    check_mpi(MPI_Bcast(values + first, count, datatype<T>(), root, comm), "MPI_Bcast");
  });
}

/// Every rank's values after each other. `lengths` receives every rank's count.
template <class T>
std::vector<T> gather(std::span<T const> values, std::vector<Index>& lengths, MPI_Comm comm, int rank,
                      int size) {
  lengths.assign(static_cast<std::size_t>(size), 0);
  Index const mine = std::ssize(values);
  check_mpi(MPI_Allgather(&mine, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm), "MPI_Allgather");
  Index total = 0;
  for (Index const length : lengths) total += length;
  std::vector<T> all(static_cast<std::size_t>(total));
  if (total <= limit) {
    std::vector<int> counts;
    std::vector<int> offsets;
    int offset = 0;
    for (Index const length : lengths) {
      counts.push_back(static_cast<int>(length));
      offsets.push_back(offset);
      offset += static_cast<int>(length);
    }
    check_mpi(MPI_Allgatherv(values.data(), static_cast<int>(mine), datatype<T>(), all.data(), counts.data(),
                             offsets.data(), datatype<T>(), comm),
              "MPI_Allgatherv");
    return all;
  }
  // Offsets above `int` cannot be said to MPI_Allgatherv: one rank after the other.
  T* begin = all.data();
  for (int from = 0; from < size; ++from) {
    Index const length = lengths[static_cast<std::size_t>(from)];
    if (from == rank) std::copy(values.begin(), values.end(), begin);
    broadcast_in_place(begin, length, from, comm);
    begin += length;
  }
  return all;
}

}  // namespace

void set_message_limit(Index elements) {
  require(elements >= 1 && elements <= std::numeric_limits<int>::max(),
          "the message limit must fit an MPI count");
  limit = elements;
}
Index message_limit() { return limit; }

Communicator::Communicator(MPI_Comm comm) : comm_(comm) {
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
}

Communicator Communicator::world() {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup");
  return Communicator(copy);
}

Communicator::~Communicator() {
  if (comm_ == MPI_COMM_NULL) return;
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) MPI_Comm_free(&comm_);
}

Communicator::Communicator(Communicator&& other) noexcept
    : comm_(std::exchange(other.comm_, MPI_COMM_NULL)), rank_(other.rank_), size_(other.size_) {}

Communicator& Communicator::operator=(Communicator&& other) noexcept {
  std::swap(comm_, other.comm_);
  std::swap(rank_, other.rank_);
  std::swap(size_, other.size_);
  return *this;
}

Communicator Communicator::split(int color) const {
  expect(color >= 0, "a colour is not negative");
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
  return Communicator(part);
}

Communicator Communicator::split_by_node() const {
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &part),
            "MPI_Comm_split_type");
  return Communicator(part);
}

void Communicator::barrier() const { check_mpi(MPI_Barrier(comm_), "MPI_Barrier"); }

void Communicator::sum(std::span<float> values) const {
  reduce_in_place(values.data(), std::ssize(values), MPI_SUM, comm_);
}
void Communicator::sum(std::span<double> values) const {
  reduce_in_place(values.data(), std::ssize(values), MPI_SUM, comm_);
}
void Communicator::sum(std::span<Index> values) const {
  reduce_in_place(values.data(), std::ssize(values), MPI_SUM, comm_);
}
double Communicator::sum(double value) const { return reduced(value, MPI_SUM, comm_); }
Index Communicator::sum(Index value) const { return reduced(value, MPI_SUM, comm_); }
Index Communicator::max(Index value) const { return reduced(value, MPI_MAX, comm_); }
Index Communicator::min(Index value) const { return reduced(value, MPI_MIN, comm_); }
bool Communicator::all(bool value) const { return min(Index{value}) != 0; }
bool Communicator::any(bool value) const { return max(Index{value}) != 0; }

double Communicator::max(double value) const {
  // MPI_MAX may lose a NaN, depending on the order of the ranks: it travels beside the value.
  bool const nan = std::isnan(value);
  std::array<double, 2> pair = {nan ? -std::numeric_limits<double>::infinity() : value, nan ? 1.0 : 0.0};
  reduce_in_place(pair.data(), 2, MPI_MAX, comm_);
  return pair[1] > 0.0 ? std::numeric_limits<double>::quiet_NaN() : pair[0];
}

void Communicator::broadcast(std::string& text, int root) const {
  Index length = std::ssize(text);
  broadcast_in_place(&length, 1, root, comm_);
  text.resize(static_cast<std::size_t>(length));
  broadcast_in_place(text.data(), length, root, comm_);
}
void Communicator::broadcast(std::span<float> values, int root) const {
  broadcast_in_place(values.data(), std::ssize(values), root, comm_);
}
void Communicator::broadcast(std::span<double> values, int root) const {
  broadcast_in_place(values.data(), std::ssize(values), root, comm_);
}
void Communicator::broadcast(std::span<Index> values, int root) const {
  broadcast_in_place(values.data(), std::ssize(values), root, comm_);
}
std::vector<double> Communicator::gather_all(std::span<double const> values) const {
  std::vector<Index> lengths;
  return gather(values, lengths, comm_, rank_, size_);
}
std::vector<Index> Communicator::gather_all(std::span<Index const> values) const {
  std::vector<Index> lengths;
  return gather(values, lengths, comm_, rank_, size_);
}
std::vector<std::string> Communicator::gather_all(std::string const& text) const {
  std::vector<Index> lengths;
  std::vector<char> const all = gather(std::span<char const>(text), lengths, comm_, rank_, size_);
  std::vector<std::string> texts;
  char const* begin = all.data();
  for (Index const length : lengths) {
    texts.emplace_back(begin, static_cast<std::size_t>(length));
    begin += length;
  }
  return texts;
}

bool Communicator::same(std::string const& text) const {
  std::string first = text;
  broadcast(first);
  return all(first == text);
}

void Communicator::agree(std::string const& error, Ending ending) const {
  int const first = static_cast<int>(min(Index{error.empty() ? size_ : rank_}));
  if (first == size_) return;
  std::string text = error;
  broadcast(text, first);
  bool const abort = max(Index{ending == Ending::abort ? 1 : 0}) > 0;
  throw AgreedError(text, abort ? Ending::abort : Ending::orderly);
}

void Communicator::agree(std::function<void()> const& work) const {
  std::string error;
  Ending ending = Ending::orderly;
  try {
    work();
  } catch (Interrupted const&) {
    throw;
  } catch (Error const& e) {
    error = e.what();
    ending = e.ending();
  } catch (std::bad_alloc const&) {
    error = "out of memory";
  } catch (std::exception const& e) {
    error = e.what();
    if (error.empty()) error = "unknown error";
  }
  agree(error, ending);
}

void Communicator::agree_on_root(std::function<void()> const& work) const {
  agree([&] {
    if (root()) work();
  });
}

}  // namespace upit
