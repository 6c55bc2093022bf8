// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the cross-entropy kernels.
#include "upit/kernels/cross_entropy.hpp"

#include <type_traits>

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {
namespace {

KOKKOS_INLINE_FUNCTION Index block_end(Index block, Index vocabulary) {
  Index const end = (block + 1) * kVocabularyBlock;
  return end < vocabulary ? end : vocabulary;
}

constexpr Index kIds = 4;  // that share the loads and stores of a target's maximum and sum

// largest, sum: of each block of the vocabulary. nll: the target's logit. With kStore, exponentials take the
// place of the logits or stand beside them.
template <bool kStore, class R>
void sum_blocks(Exec const& exec, char const* label, View1<int const> const& target,
                View2<R const> const& logits, View2<R> const& largest, View2<R> const& sum,
                View2<R> const& exponential, View1<R> const& nll) {
  Index const V = extent(logits, 0), M = extent(logits, 1);
  Kokkos::parallel_for(
      label, row_policy(exec, vocabulary_blocks(V), M), KOKKOS_LAMBDA(Row const& row) {
        Index const b = row_index(row), begin = b * kVocabularyBlock, end = block_end(b, V);
        int const* const id = target.data();
        R* const most = largest.data() + b * M;
        R* const total = sum.data() + b * M;
        R* const wanted = nll.data();
        R const* const logit = logits.data();
        row_for(row, M, [=](Index const m) {
          most[m] = logit[begin * M + m];
          total[m] = R(0);
          if (id[m] >= begin && id[m] < end) wanted[m] = logit[id[m] * M + m];
        });
        Index v = begin;
        for (; v + kIds <= end; v += kIds) {
          R const *const x0 = logit + v * M, *const x1 = x0 + M, *const x2 = x1 + M, *const x3 = x2 + M;
          row_for(row, M, [=](Index const m) {
            R const first = x0[m] > most[m] ? x0[m] : most[m];
            R const second = x1[m] > first ? x1[m] : first;
            R const third = x2[m] > second ? x2[m] : second;
            most[m] = x3[m] > third ? x3[m] : third;
          });
        }
        for (; v < end; ++v) {
          R const* const x = logit + v * M;
          row_for(row, M, [=](Index const m) { most[m] = x[m] > most[m] ? x[m] : most[m]; });
        }
        row_barrier(row);
        for (v = begin; v < end; ++v) {
          R const* const x = logit + v * M;
          R* const e = exponential.data() + v * M;
          Index const next = v + kVocabularyBlock < V ? kVocabularyBlock * M : 0;
          row_for_fetching(
              row, M,
              [=](Index const m) {
                R const y = fast_exp(x[m] - most[m]);
                if constexpr (kStore) e[m] = y;
                total[m] += y;
              },
              x + next);
        }
      });
}

// From what sum_blocks leaves: nll, and in `sum` what exp(logit - largest) is to be multiplied by to be the
// probability.
template <class R>
void join_blocks(Exec const& exec, View1<int const> const& target, View2<R> const& largest,
                 View2<R> const& sum, View1<R> const& nll) {
  constexpr Index kColumns = kHostRows ? 64 : 1;
  Index const blocks = extent(largest, 0), M = extent(largest, 1);
  Kokkos::parallel_for(
      "upit::cross_entropy_nll",
      Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(exec, 0, (M + kColumns - 1) / kColumns),
      KOKKOS_LAMBDA(Index const column) {
        Index const begin = column * kColumns, n = M - begin < kColumns ? M - begin : kColumns;
        R most[kColumns], total[kColumns];
        row_for(Index{0}, n, [&](Index const i) {
          most[i] = largest.data()[begin + i];
          total[i] = R(0);
        });
        for (Index b = 1; b < blocks; ++b) {
          R const* const x = largest.data() + b * M + begin;
          row_for(Index{0}, n, [&](Index const i) { most[i] = x[i] > most[i] ? x[i] : most[i]; });
        }
        for (Index b = 0; b < blocks; ++b) {
          R const* const x = largest.data() + b * M + begin;
          R* const s = sum.data() + b * M + begin;
          row_for(Index{0}, n, [&](Index const i) {
            R const factor = fast_exp(x[i] - most[i]);
            total[i] += s[i] * factor;
            s[i] = factor;
          });
        }
        R inverse[kColumns];
        row_for(Index{0}, n, [&](Index const i) { inverse[i] = R(1) / total[i]; });
        for (Index b = 0; b < blocks; ++b) {
          R* const s = sum.data() + b * M + begin;
          row_for(Index{0}, n, [&](Index const i) { s[i] *= inverse[i]; });
        }
        for (Index i = 0; i < n; ++i) {
          Index const m = begin + i;
          nll(m) = target(m) < 0 ? R(0) : R(log(total[i])) + (most[i] - nll(m));
        }
      });
}

// Exponentials of logits less the block's maximum become the gradient.
template <class R>
void scale_blocks(Exec const& exec, View1<int const> const& target, R scale, View2<R> const& sum,
                  View2<R> const& dlogits) {
  Index const V = extent(dlogits, 0), M = extent(dlogits, 1);
  Kokkos::parallel_for(
      "upit::cross_entropy_gradient", row_policy(exec, vocabulary_blocks(V), M),
      KOKKOS_LAMBDA(Row const& row) {
        Index const b = row_index(row), begin = b * kVocabularyBlock, end = block_end(b, V);
        int const* const id = target.data();
        R* const factor = sum.data() + b * M;
        R* const out = dlogits.data();
        row_for(row, M, [=](Index const m) { factor[m] *= scale; });
        row_barrier(row);
        for (Index v = begin; v < end; ++v) {
          R* const e = out + v * M;
          Index const next = v + kIds < V ? kIds * M : 0;
          row_for_fetching(
              row, M, [=](Index const m) { e[m] = id[m] < 0 ? R(0) : e[m] * factor[m]; }, e + next);
        }
        row_barrier(row);
        row_for(row, M, [=](Index const m) {
          if (id[m] >= begin && id[m] < end) out[id[m] * M + m] -= scale;
        });
      });
}

// The gradient in a type narrower than the logits: exponentials anew.
template <class T>
void round_blocks(Exec const& exec, View1<int const> const& target, Real<T> scale,
                  View2<Real<T> const> const& logits, View2<Real<T>> const& largest,
                  View2<Real<T>> const& sum, View2<T> const& dlogits) {
  using R = Real<T>;
  Index const V = extent(logits, 0), M = extent(logits, 1);
  Kokkos::parallel_for(
      "upit::cross_entropy_rounded", row_policy(exec, vocabulary_blocks(V), M),
      KOKKOS_LAMBDA(Row const& row) {
        Index const b = row_index(row), begin = b * kVocabularyBlock, end = block_end(b, V);
        int const* const id = target.data();
        R const* const most = largest.data() + b * M;
        R const* const factor = sum.data() + b * M;
        for (Index v = begin; v < end; ++v) {
          R const* const logit = logits.data() + v * M;
          T* const out = dlogits.data() + v * M;
          Index const next = v + kIds < V ? kIds * M : 0;
          row_for_fetching(
              row, M,
              [=](Index const m) {
                R const p = fast_exp(logit[m] - most[m]) * factor[m] - (id[m] == v ? R(1) : R(0));
                out[m] = static_cast<T>(id[m] < 0 ? R(0) : scale * p);
              },
              logit + next);
        }
      });
}

template <class R>
void check_shapes(View1<int const> const& target, View2<R const> const& logits, View2<R> const& largest,
                  View2<R> const& sum, View1<R> const& nll) {
  Index const M = extent(logits, 1), blocks = vocabulary_blocks(extent(logits, 0));
  expect_shape(target, M, "cross_entropy: target is not (M)");
  expect_shape(nll, M, "cross_entropy: nll is not (M)");
  expect_shape(largest, blocks, M, "cross_entropy: largest is not (vocabulary_blocks(V), M)");
  expect_shape(sum, blocks, M, "cross_entropy: sum is not (vocabulary_blocks(V), M)");
}

}  // namespace

template <class R>
void cross_entropy(Exec const& exec, View1<int const> target, View2<R const> logits, View2<R> largest,
                   View2<R> sum, View1<R> nll) {
  check_shapes<R>(target, logits, largest, sum, nll);
  sum_blocks<false, R>(exec, "upit::cross_entropy", target, logits, largest, sum, View2<R>(), nll);
  join_blocks<R>(exec, target, largest, sum, nll);
}

template <class T>
void cross_entropy_backward(Exec const& exec, View1<int const> target, Real<T> scale,
                            View2<Real<T> const> logits, View2<Real<T>> largest, View2<Real<T>> sum,
                            View2<T> dlogits, View1<Real<T>> nll) {
  using R = Real<T>;
  check_shapes<R>(target, logits, largest, sum, nll);
  expect_shape(dlogits, extent(logits, 0), extent(logits, 1),
               "cross_entropy_backward: dlogits is not (V, M)");
  if constexpr (std::is_same_v<T, R>) {
    sum_blocks<true, R>(exec, "upit::cross_entropy_exponentials", target, logits, largest, sum, dlogits, nll);
    join_blocks<R>(exec, target, largest, sum, nll);
    scale_blocks<R>(exec, target, scale, sum, dlogits);
  } else {
    sum_blocks<false, R>(exec, "upit::cross_entropy", target, logits, largest, sum, View2<R>(), nll);
    join_blocks<R>(exec, target, largest, sum, nll);
    round_blocks<T>(exec, target, scale, logits, largest, sum, dlogits);
  }
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
