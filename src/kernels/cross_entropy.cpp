// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the cross-entropy kernels.
#include "upit/kernels/cross_entropy.hpp"

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {
namespace {

KOKKOS_INLINE_FUNCTION Index block_end(Index block, Index vocabulary) {
  Index const end = (block + 1) * kVocabularyBlock;
  return end < vocabulary ? end : vocabulary;
}

}  // namespace

template <class R>
void cross_entropy(Exec const& exec, View1<int const> target, View2<R const> logits, View2<R> largest,
                   View2<R> sum, View1<R> nll) {
  Index const V = extent(logits, 0), M = extent(logits, 1), blocks = vocabulary_blocks(V);
  expect_shape(target, M, "cross_entropy: target is not (M)");
  expect_shape(nll, M, "cross_entropy: nll is not (M)");
  expect_shape(largest, blocks, M, "cross_entropy: largest is not (vocabulary_blocks(V), M)");
  expect_shape(sum, blocks, M, "cross_entropy: sum is not (vocabulary_blocks(V), M)");
  Kokkos::parallel_for(
      "upit::cross_entropy", row_policy(exec, blocks, M), KOKKOS_LAMBDA(Row const& row) {
        Index const b = row_index(row), begin = b * kVocabularyBlock, end = block_end(b, V);
        R* const most = largest.data() + b * M;
        R* const total = sum.data() + b * M;
        R const* const first = logits.data() + begin * M;
        row_for(row, M, [=](Index const m) {
          most[m] = first[m];
          total[m] = R(0);
        });
        for (Index v = begin + 1; v < end; ++v) {
          R const* const logit = logits.data() + v * M;
          row_for(row, M, [=](Index const m) { most[m] = logit[m] > most[m] ? logit[m] : most[m]; });
        }
        for (Index v = begin; v < end; ++v) {
          R const* const logit = logits.data() + v * M;
          row_for(row, M, [=](Index const m) { total[m] += fast_exp(logit[m] - most[m]); });
        }
      });
  Kokkos::parallel_for(
      "upit::cross_entropy_nll", Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(exec, 0, M),
      KOKKOS_LAMBDA(Index const m) {
        R most = largest(0, m);
        for (Index b = 1; b < blocks; ++b) most = largest(b, m) > most ? largest(b, m) : most;
        R total = R(0);
        for (Index b = 0; b < blocks; ++b) total += sum(b, m) * fast_exp(largest(b, m) - most);
        largest(0, m) = most;
        sum(0, m) = R(1) / total;
        Index const t = target(m);
        nll(m) = t < 0 ? R(0) : R(log(total)) + (most - logits(t, m));
      });
}

template <class T>
void cross_entropy_backward(Exec const& exec, View1<int const> target, Real<T> scale,
                            View2<Real<T> const> logits, View2<Real<T>> largest, View2<Real<T>> sum,
                            View2<T> dlogits, View1<Real<T>> nll) {
  using R = Real<T>;
  Index const V = extent(logits, 0), M = extent(logits, 1);
  expect_shape(dlogits, V, M, "cross_entropy_backward: dlogits is not (V, M)");
  cross_entropy<R>(exec, target, logits, largest, sum, nll);
  Kokkos::parallel_for(
      "upit::cross_entropy_backward", row_policy(exec, vocabulary_blocks(V), M),
      KOKKOS_LAMBDA(Row const& row) {
        Index const b = row_index(row), begin = b * kVocabularyBlock, end = block_end(b, V);
        int const* const id = target.data();
        R const* const most = largest.data();
        R const* const inverse = sum.data();
        for (Index v = begin; v < end; ++v) {
          R const* const logit = logits.data() + v * M;
          T* const out = dlogits.data() + v * M;
          row_for(row, M, [=](Index const m) {
            R const p = fast_exp(logit[m] - most[m]) * inverse[m] - (id[m] == v ? R(1) : R(0));
            out[m] = static_cast<T>(id[m] < 0 ? R(0) : scale * p);
          });
        }
      });
}

#define UPIT_INSTANTIATE(T)                                                                             \
  template void cross_entropy_backward<T>(Exec const&, View1<int const>, Real<T>, View2<Real<T> const>, \
                                          View2<Real<T>>, View2<Real<T>>, View2<T>, View1<Real<T>>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE
template void cross_entropy<float>(Exec const&, View1<int const>, View2<float const>, View2<float>,
                                   View2<float>, View1<float>);
template void cross_entropy<double>(Exec const&, View1<int const>, View2<double const>, View2<double>,
                                    View2<double>, View1<double>);

}  // namespace upit::kernels
