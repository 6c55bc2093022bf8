// SPDX-License-Identifier: Apache-2.0
#include "upit/comm/token_exchange.hpp"

#include <fmt/core.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "check_mpi.hpp"
#include "gpu_aware.hpp"
#include "upit/comm/message_limit.hpp"
#include "upit/core/timer.hpp"

namespace upit {
namespace {

constexpr int kLanes = 2;  // one chunk on its way while another is worked on
constexpr int kTag = 1;

ExchangePath chosen(ExchangePath path) {
  if (path != ExchangePath::automatic || kHostReachesMemory) return path;
  return mpi_is_gpu_aware() ? ExchangePath::pairwise : ExchangePath::staged;
}

/// A row of elements as one MPI datatype, so that counts are rows.
template <class T>
class RowType {
 public:
  explicit RowType(Index width) {
    expect(width >= 1 && width <= std::numeric_limits<int>::max(), "a row's width fits an MPI count");
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bfloat16>);
    MPI_Datatype const element = std::is_same_v<T, float>    ? MPI_FLOAT
                                 : std::is_same_v<T, double> ? MPI_DOUBLE
                                                             : MPI_UINT16_T;
    check_mpi(MPI_Type_contiguous(static_cast<int>(width), element, &type_), "MPI_Type_contiguous");
    check_mpi(MPI_Type_commit(&type_), "MPI_Type_commit");
  }
  ~RowType() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0) MPI_Type_free(&type_);
  }
  RowType(RowType const&) = delete;
  RowType& operator=(RowType const&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// Rows to or from each rank of the group, as intervals of a buffer.
template <class T>
struct Rows {
  T* data;
  std::span<Index const> count;
  std::span<Index const> offset;
};

/// Most rows that any two ranks can exchange in a piece.
Index largest_pair(ExchangeShape const& shape) {
  Index largest = 0;
  for (Index q = 0; q < shape.ranks(); ++q) largest = std::max(largest, exchange_capacity(shape, q));
  return std::min(shape.max_slots, (largest + shape.chunks - 1) / shape.chunks);
}

/// Most rows that a rank can send in a piece.
Index most_sent(ExchangeShape const& shape) {
  Index rows = 0;
  for (Index q = 0; q < shape.ranks(); ++q) {
    rows += (exchange_capacity(shape, q) + shape.chunks - 1) / shape.chunks;
  }
  return std::min(shape.max_slots, rows);
}

template <class T, class Space>
auto flat(T* data, Index n) {
  return Kokkos::View<T*, Kokkos::LayoutRight, Space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(data, n);
}

template <class View>
void check_rows(View const& view, Index width) {
  expect(static_cast<Index>(view.extent(1)) == width, "rows have the width of the exchange");
  expect(view.extent(0) < 2 || static_cast<Index>(view.stride(0)) == width, "rows follow each other");
}

}  // namespace

/// Everything that an operation under way needs.
template <class T>
struct TokenExchange<T>::State {
  /// One operation. Arrays have their sizes from construction on: MPI reads them until the wait is over.
  struct Lane {
    bool busy = false;
    bool back = false;
    std::vector<MPI_Request> requests;
    int begun = 0;
    std::vector<int> arguments;  // of each call: send counts, displacements, receive counts, displacements
    Exec exec;
    View2<T const> in;
    View2<T> out;
    // Staging: pinned copies of what goes and comes on the side of the slots, and on that of the experts.
    Kokkos::View<T*, Kokkos::LayoutRight, PinnedMemory> slots, arrived;
    std::vector<Index> slot_row, slot_count;  // (P) where rows lie among the sorted slots, and how many
    std::vector<Index> staged_row;            // (P) where they lie in `slots`
    Index staged_rows = 0, arrived_rows = 0;
  };

  State(Communicator const& group, ExchangeShape shape, Index columns, ExchangePath wanted)
      : plan(std::move(shape), group.rank()),
        comm(group.split(0)),
        width(columns),
        path(chosen(wanted)),
        row(columns),
        pair_rows(std::max(Index{1}, message_limit() / columns)) {
    ExchangeShape const& s = plan.shape();
    P = s.ranks();
    std::string text = fmt::format("{} {} {} {} {} {}", s.max_slots, s.capacity, s.chunks, width, pair_rows,
                                   static_cast<int>(path));
    for (Index const first : s.first) text += fmt::format(" {}", first);
    expect(comm.same(text), "an exchange is the same on all ranks of its group");
    counts.assign(at(s.experts()), 0);
    all_counts.assign(at(P * s.experts()), 0);
    Index const calls = (largest_pair(s) + pair_rows - 1) / pair_rows;
    for (Lane& lane : lanes) {
      lane.requests.assign(at(path == ExchangePath::pairwise ? 2 * P * calls : calls), MPI_REQUEST_NULL);
      if (path != ExchangePath::pairwise) lane.arguments.assign(at(4 * P * calls), 0);
      if (path != ExchangePath::staged) continue;
      auto const make = [&](Index rows) {
        return Kokkos::View<T*, Kokkos::LayoutRight, PinnedMemory>(
            Kokkos::view_alloc(Kokkos::WithoutInitializing, "upit::comm::exchange"), rows * width);
      };
      lane.slots = make(most_sent(s));
      lane.arrived = make(plan.piece_capacity());
      lane.slot_row.assign(at(P), 0);
      lane.slot_count.assign(at(P), 0);
      lane.staged_row.assign(at(P), 0);
    }
  }

  void enter() {
    if (under_way++ == 0) since.restart();
  }
  void leave() {
    if (--under_way == 0) statistics.seconds += since.seconds();
  }

  int claim() {
    auto const free = std::find_if(lanes.begin(), lanes.end(), [](Lane const& l) { return !l.busy; });
    expect(free != lanes.end(), "two operations are under way at most");
    free->busy = true;
    enter();
    return static_cast<int>(free - lanes.begin());
  }

  MPI_Request* next_request(Lane& lane) {
    expect(lane.begun < std::ssize(lane.requests), "there are requests for the largest piece");
    return &lane.requests[at(lane.begun++)];
  }

  /// Starts all calls of a piece; none if nobody sends anything.
  void start(Lane& lane, Index largest, Rows<T const> const& from, Rows<T> const& to) {
    int const peers = static_cast<int>(P);
    int* argument = lane.arguments.data();
    for (Index skip = 0; skip < largest; skip += pair_rows) {
      auto const part = [&](Index count) {
        return static_cast<int>(std::clamp(count - skip, Index{0}, pair_rows));
      };
      if (path == ExchangePath::pairwise) {
        // Receives first. Two messages of a pair keep their order, so one tag is enough.
        for (int q = 0; q < peers; ++q) {
          if (int const n = part(to.count[at(q)]); n > 0)
            check_mpi(MPI_Irecv(to.data + (to.offset[at(q)] + skip) * width, n, row.get(), q, kTag,
                                comm.get(), next_request(lane)),
                      "MPI_Irecv");
        }
        for (int q = 0; q < peers; ++q) {
          if (int const n = part(from.count[at(q)]); n > 0)
            check_mpi(MPI_Isend(from.data + (from.offset[at(q)] + skip) * width, n, row.get(), q, kTag,
                                comm.get(), next_request(lane)),
                      "MPI_Isend");
        }
        continue;
      }
      int* const begin = argument;
      auto const fill = [&](std::span<Index const> count, std::span<Index const> offset) {
        for (Index q = 0; q < P; ++q) *argument++ = part(count[at(q)]);
        for (Index q = 0; q < P; ++q) {
          Index const place = offset[at(q)] + std::min(skip, count[at(q)]);
          expect(place <= std::numeric_limits<int>::max(), "displacements in rows fit into int");
          *argument++ = static_cast<int>(place);
        }
      };
      fill(from.count, from.offset);
      fill(to.count, to.offset);
      check_mpi(MPI_Ialltoallv(from.data, begin, begin + P, row.get(), to.data, begin + 2 * P, begin + 3 * P,
                               row.get(), comm.get(), next_request(lane)),
                "MPI_Ialltoallv");
    }
  }

  /// Notes where the rows on the slots' side lie; they stand closely in the staging buffer.
  void lay_out(Lane& lane, ExchangePlan::Piece const& piece) {
    std::copy(piece.send_offset.begin(), piece.send_offset.end(), lane.slot_row.begin());
    std::copy(piece.send_count.begin(), piece.send_count.end(), lane.slot_count.begin());
    lane.staged_rows = 0;
    for (Index q = 0; q < P; ++q) {
      lane.staged_row[at(q)] = lane.staged_rows;
      lane.staged_rows += piece.send_count[at(q)];
    }
    lane.arrived_rows = piece.rows;
    expect(lane.staged_rows * width <= static_cast<Index>(lane.slots.extent(0)) &&
               lane.arrived_rows * width <= static_cast<Index>(lane.arrived.extent(0)),
           "the staging buffers hold any piece");
  }

  void copy_in(Lane& lane) {
    if (lane.back) {
      Index const n = lane.arrived_rows * width;
      Kokkos::deep_copy(lane.exec, flat<T, PinnedMemory>(lane.arrived.data(), n),
                        flat<T const, Memory>(lane.in.data(), n));
      return;
    }
    for (Index q = 0; q < P; ++q) {
      Index const n = lane.slot_count[at(q)] * width;
      if (n == 0) continue;
      Kokkos::deep_copy(lane.exec,
                        flat<T, PinnedMemory>(lane.slots.data() + lane.staged_row[at(q)] * width, n),
                        flat<T const, Memory>(lane.in.data() + lane.slot_row[at(q)] * width, n));
    }
  }

  void copy_out(Lane& lane) {
    if (!lane.back) {
      Index const n = lane.arrived_rows * width;
      Kokkos::deep_copy(lane.exec, flat<T, Memory>(lane.out.data(), n),
                        flat<T const, PinnedMemory>(lane.arrived.data(), n));
      return;
    }
    for (Index q = 0; q < P; ++q) {
      Index const n = lane.slot_count[at(q)] * width;
      if (n == 0) continue;
      Kokkos::deep_copy(lane.exec, flat<T, Memory>(lane.out.data() + lane.slot_row[at(q)] * width, n),
                        flat<T const, PinnedMemory>(lane.slots.data() + lane.staged_row[at(q)] * width, n));
    }
  }

  /// The operation's lane is claimed and a Pending watches over it.
  void begin(Lane& lane, Exec const& exec, ExchangePlan::Piece const& piece, bool back,
             View2<T const> const& in, View2<T> const& out) {
    lane.back = back;
    lane.exec = exec;
    lane.in = in;
    lane.out = out;
    bool const staged = path == ExchangePath::staged;
    Stopwatch const call;
    if (staged) {
      lay_out(lane, piece);
      copy_in(lane);
      exec.fence();  // MPI reads the staging buffer
    }
    Rows<T const> from{in.data(), piece.send_count, piece.send_offset};
    Rows<T> to{out.data(), piece.receive_count, piece.receive_offset};
    if (back) {
      std::swap(from.count, to.count);
      std::swap(from.offset, to.offset);
    }
    if (staged) {
      from.data = back ? lane.arrived.data() : lane.slots.data();
      to.data = back ? lane.slots.data() : lane.arrived.data();
      (back ? to.offset : from.offset) = lane.staged_row;
    }
    for (Index q = 0; q < P; ++q) {
      if (q != comm.rank())
        statistics.bytes += static_cast<double>(from.count[at(q)]) * static_cast<double>(width) * sizeof(T);
    }
    try {
      start(lane, piece.largest, from, to);
    } catch (Error const&) {
      // A message that is not sent is waited for in vain; collectives were begun by every rank or none.
      if (path == ExchangePath::pairwise) {
        for (int i = 0; i < lane.begun; ++i) {
          if (lane.requests[at(i)] != MPI_REQUEST_NULL) MPI_Cancel(&lane.requests[at(i)]);
        }
      }
      throw;
    }
    statistics.blocked += call.seconds();
  }

  /// Ends what was begun, and copies if it went well; the lane is free afterwards in any case.
  int finish(Lane& lane, bool copy) {
    Stopwatch const call;
    int const code = MPI_Waitall(lane.begun, lane.requests.data(), MPI_STATUSES_IGNORE);
    if (code == MPI_SUCCESS && copy && path == ExchangePath::staged) {
      copy_out(lane);
      lane.exec.fence();  // the staging buffer is used again
    }
    lane.begun = 0;
    lane.in = {};
    lane.out = {};
    lane.busy = false;
    statistics.blocked += call.seconds();
    leave();
    return code;
  }

  ExchangePlan plan;  // for its shape and capacities
  Communicator comm;  // a duplicate: no other message is mistaken for one of these
  Index width;
  ExchangePath path;
  RowType<T> row;
  Index pair_rows;  // between two ranks in one call
  Index P = 1;
  std::vector<Index> counts;      // (E)
  std::vector<Index> all_counts;  // (P, E)
  std::array<Lane, kLanes> lanes;
  ExchangeStatistics statistics;
  Stopwatch since;
  int under_way = 0;
};

template <class T>
TokenExchange<T>::Pending::Pending(Pending&& other) noexcept
    : state_(std::move(other.state_)), lane_(other.lane_) {}

template <class T>
typename TokenExchange<T>::Pending& TokenExchange<T>::Pending::operator=(Pending&& other) noexcept {
  if (this == &other) return *this;
  abandon();
  state_ = std::move(other.state_);
  lane_ = other.lane_;
  return *this;
}

template <class T>
void TokenExchange<T>::Pending::wait() {
  if (!state_) return;
  auto const state = std::move(state_);
  check_mpi(state->finish(state->lanes[at(lane_)], true), "MPI_Waitall");
}

template <class T>
void TokenExchange<T>::Pending::abandon() noexcept {
  if (!state_) return;
  auto const state = std::move(state_);
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) (void)state->finish(state->lanes[at(lane_)], false);
}

template <class T>
TokenExchange<T>::TokenExchange(Communicator const& group, ExchangeShape shape, Index width,
                                ExchangePath path) {
  expect(!shape.first.empty() && shape.ranks() == group.size(), "a range of experts for every rank");
  expect(width >= 1, "rows have a width");
  state_ = std::make_shared<State>(group, std::move(shape), width, path);
}

template <class T>
ExchangeShape const& TokenExchange<T>::shape() const {
  return state_->plan.shape();
}

template <class T>
Index TokenExchange<T>::capacity() const {
  return state_->plan.capacity();
}

template <class T>
void TokenExchange<T>::count(Index const* offset, ExchangePlan& plan) {
  State& s = *state_;
  expect(plan.shape() == shape() && plan.rank() == s.plan.rank(), "the plan is of this exchange");
  expect(offset[0] == 0, "slots begin at 0");
  for (Index e = 0; e < shape().experts(); ++e) s.counts[at(e)] = offset[e + 1] - offset[e];
  int const n = static_cast<int>(shape().experts());
  s.enter();
  Stopwatch const call;
  int const code =
      MPI_Allgather(s.counts.data(), n, MPI_INT64_T, s.all_counts.data(), n, MPI_INT64_T, s.comm.get());
  s.statistics.blocked += call.seconds();
  s.statistics.bytes += static_cast<double>(n) * sizeof(Index) * static_cast<double>(s.P - 1);
  s.leave();
  check_mpi(code, "MPI_Allgather");
  plan.assign(s.all_counts);
}

template <class T>
typename TokenExchange<T>::Pending TokenExchange<T>::operate(Exec const& exec,
                                                             ExchangePlan::Piece const& piece, bool back,
                                                             View2<T const> const& in, View2<T> const& out) {
  State& s = *state_;
  check_rows(in, s.width);
  check_rows(out, s.width);
  expect(std::ssize(piece.send_count) == s.P && std::ssize(piece.receive_count) == s.P,
         "the piece is of this exchange");
  Index const slots = static_cast<Index>(back ? out.extent(0) : in.extent(0));
  Index const arrived = static_cast<Index>(back ? in.extent(0) : out.extent(0));
  expect(piece.rows <= arrived, "there is room for the rows of the piece");
  for (Index q = 0; q < s.P; ++q) {
    expect(piece.send_offset[at(q)] + piece.send_count[at(q)] <= slots, "the piece's slots are there");
  }
  exec.fence();  // MPI reads what was enqueued to be written, and writes what may still be read
  int const lane = s.claim();
  Pending pending(state_, lane);  // should an MPI call fail, it waits for those begun before
  s.begin(s.lanes[at(lane)], exec, piece, back, in, out);
  return pending;
}

template <class T>
typename TokenExchange<T>::Pending TokenExchange<T>::send(Exec const& exec, ExchangePlan::Piece const& piece,
                                                          View2<T const> const& slots,
                                                          View2<T> const& arrived) {
  return operate(exec, piece, false, slots, arrived);
}

template <class T>
typename TokenExchange<T>::Pending TokenExchange<T>::send_back(Exec const& exec,
                                                               ExchangePlan::Piece const& piece,
                                                               View2<T const> const& arrived,
                                                               View2<T> const& slots) {
  return operate(exec, piece, true, arrived, slots);
}

template <class T>
ExchangeStatistics TokenExchange<T>::statistics() const {
  return state_->statistics;
}

template <class T>
void TokenExchange<T>::reset_statistics() {
  expect(state_->under_way == 0, "nothing is under way");
  state_->statistics = {};
}

template class TokenExchange<float>;
template class TokenExchange<double>;
template class TokenExchange<bfloat16>;

}  // namespace upit
