// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the embedding kernels.
#include "upit/kernels/embedding.hpp"

#include "column_blocks.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

template <class T>
void embedding_forward(Exec const& exec, View1<int const> token, View2<T const> table, View2<T> out) {
  Index const N = extent(token, 0), C = extent(table, 1);
  expect_shape(out, N, C, "embedding_forward: out is not (N, C)");
  Kokkos::parallel_for(
      "upit::embedding_forward", row_policy(exec, N, C), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const from = table.data() + token(n) * C;
        T* const to = out.data() + n * C;
        row_for(row, C, [=](Index const c) { to[c] = from[c]; });
      });
}

namespace {

constexpr Index kAhead = 4;  // tokens whose rows of the table are asked for

// Hosts: a thread owns columns and takes the tokens in order.
template <class T>
void add_by_column_blocks(Exec const& exec, View1<int const> token, View2<T const> dout,
                          View2<Real<T>> dtable) {
  Index const N = extent(token, 0), C = extent(dtable, 1);
  Index const block = column_block(exec, C);
  Kokkos::parallel_for(
      "upit::embedding_backward", column_policy(exec, C, block), KOKKOS_LAMBDA(Index const b) {
        Index const begin = b * block, width = C - begin < block ? C - begin : block;
        for (Index n = 0; n < N; ++n) {
          if (n + kAhead < N) {
            fetch_to_write(dtable.data() + token(n + kAhead) * C + begin, width);
            fetch(dout.data() + (n + kAhead) * C + begin, width);
          }
          T const* const from = dout.data() + n * C + begin;
          Real<T>* const to = dtable.data() + token(n) * C + begin;
          row_for(Index{0}, width, [=](Index const c) { to[c] += static_cast<Real<T>>(from[c]); });
        }
      });
}

// Devices: a team owns a row of the table and looks for its token, a stretch at a time; most teams find
// nothing.
template <class T>
void add_by_vocabulary(Exec const& exec, View1<int const> token, View2<T const> dout, View2<Real<T>> dtable) {
  Index const N = extent(token, 0), V = extent(dtable, 0), C = extent(dtable, 1);
  constexpr Index kStretch = 1024;
  Kokkos::parallel_for(
      "upit::embedding_backward", row_policy(exec, V, kStretch), KOKKOS_LAMBDA(Row const& row) {
        Index const v = row_index(row);
        int const* const id = token.data();
        Real<T>* const to = dtable.data() + v * C;
        for (Index begin = 0; begin < N; begin += kStretch) {
          Index const end = begin + kStretch < N ? begin + kStretch : N;
          int const found =
              row_sum<int>(row, end - begin, [=](Index const i) { return id[begin + i] == v ? 1 : 0; });
          if (found == 0) continue;
          for (Index n = begin; n < end; ++n) {
            if (id[n] != v) continue;
            T const* const from = dout.data() + n * C;
            row_for(row, C, [=](Index const c) { to[c] += static_cast<Real<T>>(from[c]); });
          }
        }
      });
}

}  // namespace

template <class T>
void embedding_backward(Exec const& exec, View1<int const> token, View2<T const> dout,
                        View2<Real<T>> dtable) {
  expect_shape(dout, extent(token, 0), extent(dtable, 1), "embedding_backward: dout is not (N, C)");
  if constexpr (kHostRows)
    add_by_column_blocks<T>(exec, token, dout, dtable);
  else
    add_by_vocabulary<T>(exec, token, dout, dtable);
}

#define UPIT_INSTANTIATE(T)                                                                    \
  template void embedding_forward<T>(Exec const&, View1<int const>, View2<T const>, View2<T>); \
  template void embedding_backward<T>(Exec const&, View1<int const>, View2<T const>, View2<Real<T>>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
