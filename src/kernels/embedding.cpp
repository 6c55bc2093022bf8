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

template <class T>
void embedding_backward(Exec const& exec, View1<int const> token, View2<T const> dout,
                        View2<Real<T>> dtable) {
  Index const N = extent(token, 0), C = extent(dtable, 1);
  expect_shape(dout, N, C, "embedding_backward: dout is not (N, C)");
  Index const block = column_block(exec, C);
  Kokkos::parallel_for(
      "upit::embedding_backward", column_policy(exec, C, block), KOKKOS_LAMBDA(Index const b) {
        Index const begin = b * block, width = C - begin < block ? C - begin : block;
        for (Index n = 0; n < N; ++n) {
          T const* const from = dout.data() + n * C + begin;
          Real<T>* const to = dtable.data() + token(n) * C + begin;
          row_for(Index{0}, width, [=](Index const c) { to[c] += static_cast<Real<T>>(from[c]); });
        }
      });
}

#define UPIT_INSTANTIATE(T)                                                                    \
  template void embedding_forward<T>(Exec const&, View1<int const>, View2<T const>, View2<T>); \
  template void embedding_backward<T>(Exec const&, View1<int const>, View2<T const>, View2<Real<T>>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
