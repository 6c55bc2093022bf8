// SPDX-License-Identifier: Apache-2.0
// Owns the router: choice of experts, their gates, the gradient of both losses through it, its statistics.
#include "upit/kernels/router.hpp"

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

// E is small: a token is one thread's work.
using TokenPolicy = Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>;

// softmax of x[0..n) into y; x and y may be the same.
template <class R>
KOKKOS_INLINE_FUNCTION void softmax(Index n, R const* x, R* y) {
  R largest = x[0];
  for (Index i = 1; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  R sum = 0;
  for (Index i = 0; i < n; ++i) {
    y[i] = fast_exp(x[i] - largest);
    sum += y[i];
  }
  R const inverse = R(1) / sum;
  for (Index i = 0; i < n; ++i) y[i] *= inverse;
}

// K times the largest of what comes after the last choice in the order (falling logit, rising id): no
// scratch. NaN sorts as -infinity, so that ids stay in range; its gate is NaN and the loss shows it.
template <class R>
KOKKOS_INLINE_FUNCTION void choose(Index experts, Index active, R const* logit, int* chosen) {
  R const lowest = -Kokkos::reduction_identity<R>::min();
  R last = 0;
  for (Index k = 0; k < active; ++k) {
    Index best = -1;
    R most = 0;
    for (Index e = 0; e < experts; ++e) {
      R const s = logit[e] > lowest ? logit[e] : lowest;  // also NaN
      bool const left = k == 0 || s < last || (s == last && e > chosen[k - 1]);
      if (left && (best < 0 || s > most)) {
        best = e;
        most = s;
      }
    }
    chosen[k] = static_cast<int>(best);
    last = most;
  }
}

}  // namespace

template <class R>
void router_topk(Exec const& exec, bool softmax_first, R scale, View2<R const> const& logits,
                 View2<int> const& expert, View2<R> const& gate, View2<R> const& probability) {
  Index const tokens = extent(logits, 0);
  Index const experts = extent(logits, 1);
  Index const active = extent(expert, 1);
  expect(tokens == 0 || (active >= 1 && active <= experts), "router_topk: 1 <= K <= E");
  expect_shape(expert, tokens, active, "router_topk: expert");
  expect_shape(gate, tokens, active, "router_topk: gate");
  expect_shape(probability, tokens, experts, "router_topk: probability");

  Kokkos::parallel_for(
      "upit::router_topk", TokenPolicy(exec, 0, tokens), KOKKOS_LAMBDA(Index const n) {
        R const* const s = logits.data() + n * experts;
        R* const p = probability.data() + n * experts;
        int* const chosen = expert.data() + n * active;
        R* const g = gate.data() + n * active;
        softmax(experts, s, p);
        choose(experts, active, s, chosen);
        if (softmax_first) {
          for (Index k = 0; k < active; ++k) g[k] = scale * p[chosen[k]];
        } else {
          for (Index k = 0; k < active; ++k) g[k] = s[chosen[k]];
          softmax(active, g, g);
        }
      });
}

template <class R>
void router_backward(Exec const& exec, bool softmax_first, R scale, View2<R const> const& probability,
                     View2<int const> const& expert, View2<R const> const& gate, View2<R const> const& dgate,
                     View1<R const> const& balance, View2<R> const& dlogits) {
  Index const tokens = extent(probability, 0);
  Index const experts = extent(probability, 1);
  Index const active = extent(expert, 1);
  bool const balanced = balance.extent(0) > 0;
  expect_shape(expert, tokens, active, "router_backward: expert");
  expect_shape(gate, tokens, active, "router_backward: gate");
  expect_shape(dgate, tokens, active, "router_backward: dgate");
  expect(!balanced || extent(balance, 0) == experts, "router_backward: balance");
  expect_shape(dlogits, tokens, experts, "router_backward: dlogits");

  Kokkos::parallel_for(
      "upit::router_backward", TokenPolicy(exec, 0, tokens), KOKKOS_LAMBDA(Index const n) {
        R const* const p = probability.data() + n * experts;
        int const* const chosen = expert.data() + n * active;
        R const* const g = gate.data() + n * active;
        R const* const dg = dgate.data() + n * active;
        R* const ds = dlogits.data() + n * experts;

        // Gradient of p, then through the softmax over all E.
        for (Index e = 0; e < experts; ++e) ds[e] = balanced ? balance(e) : R(0);
        if (softmax_first) {
          for (Index k = 0; k < active; ++k) ds[chosen[k]] += scale * dg[k];
        }
        R mean = 0;
        for (Index e = 0; e < experts; ++e) mean += p[e] * ds[e];
        for (Index e = 0; e < experts; ++e) ds[e] = p[e] * (ds[e] - mean);

        if (!softmax_first) {  // through the softmax over the K chosen
          R mean_gate = 0;
          for (Index k = 0; k < active; ++k) mean_gate += g[k] * dg[k];
          for (Index k = 0; k < active; ++k) ds[chosen[k]] += g[k] * (dg[k] - mean_gate);
        }
      });
}

template <class R>
void router_statistics(Exec const& exec, View2<int const> const& expert, View2<R const> const& probability,
                       View1<double> const& assigned, View1<double> const& probability_sum,
                       View1<double> const& entropy) {
  Index const tokens = extent(probability, 0);
  Index const experts = extent(probability, 1);
  Index const active = extent(expert, 1);
  expect_shape(expert, tokens, active, "router_statistics: expert");
  expect_shape(assigned, experts, "router_statistics: assigned");
  expect_shape(probability_sum, experts, "router_statistics: probability_sum");
  expect_shape(entropy, 1, "router_statistics: entropy");

  // `assigned` first holds each expert's part of the entropy: the logarithms are the work, and so spread.
  Kokkos::parallel_for(
      "upit::router_statistics", row_policy(exec, experts, tokens), KOKKOS_LAMBDA(Row const& row) {
        Index const e = row_index(row);
        R const* const p = probability.data() + e;
        double const part = row_sum<double>(row, tokens, [&](Index const n) {
          R const q = p[n * experts];
          return q > R(0) ? -static_cast<double>(q * log(q)) : static_cast<double>(q) * 0.0;  // NaN stays
        });
        double const sum =
            row_sum<double>(row, tokens, [&](Index const n) { return static_cast<double>(p[n * experts]); });
        row_once(row, [&] {
          assigned(e) = part;
          probability_sum(e) = sum;
        });
      });
  Kokkos::parallel_for(
      "upit::router_statistics", row_policy(exec, 1, experts), KOKKOS_LAMBDA(Row const& row) {
        double const sum = row_sum<double>(row, experts, [&](Index const e) { return assigned(e); });
        row_once(row, [&] { entropy(0) = sum; });
      });
  Kokkos::parallel_for(
      "upit::router_statistics", row_policy(exec, experts, tokens * active), KOKKOS_LAMBDA(Row const& row) {
        Index const e = row_index(row);
        int const* const chosen = expert.data();
        double const count =
            row_sum<double>(row, tokens * active, [&](Index const s) { return chosen[s] == e ? 1.0 : 0.0; });
        row_once(row, [&] { assigned(e) = count; });
      });
}

template <class R>
void auxiliary_router(Exec const& exec, View1<R const> const& logit, bool positive, R weight,
                      View1<R> const& dlogit, View1<double> const& loss) {
  Index const tokens = extent(logit, 0);
  expect_shape(dlogit, tokens, "auxiliary_router: dlogit");
  expect_shape(loss, 1, "auxiliary_router: loss");
  R const sign = positive ? R(1) : R(-1);

  // `dlogit` first holds each token's loss: computed in parallel, added in one order.
  Kokkos::parallel_for(
      "upit::auxiliary_router", TokenPolicy(exec, 0, tokens), KOKKOS_LAMBDA(Index const n) {
        R const z = sign * logit(n);
        dlogit(n) = (z < R(0) ? -z : R(0)) + log1p(exp(z < R(0) ? z : -z));
      });
  Kokkos::parallel_for(
      "upit::auxiliary_router", row_policy(exec, 1, tokens), KOKKOS_LAMBDA(Row const& row) {
        double const sum =
            row_sum<double>(row, tokens, [&](Index const n) { return static_cast<double>(dlogit(n)); });
        row_once(row, [&] { loss(0) += sum; });
      });
  Kokkos::parallel_for(
      "upit::auxiliary_router", TokenPolicy(exec, 0, tokens), KOKKOS_LAMBDA(Index const n) {
        R const z = sign * logit(n);
        dlogit(n) = -sign * weight / (R(1) + exp(z));  // exp(z) = infinity gives the right 0
      });
}

#define UPIT_INSTANTIATE(R)                                                                              \
  template void router_topk<R>(Exec const&, bool, R, View2<R const> const&, View2<int> const&,           \
                               View2<R> const&, View2<R> const&);                                        \
  template void router_backward<R>(Exec const&, bool, R, View2<R const> const&, View2<int const> const&, \
                                   View2<R const> const&, View2<R const> const&, View1<R const> const&,  \
                                   View2<R> const&);                                                     \
  template void router_statistics<R>(Exec const&, View2<int const> const&, View2<R const> const&,        \
                                     View1<double> const&, View1<double> const&, View1<double> const&);  \
  template void auxiliary_router<R>(Exec const&, View1<R const> const&, bool, R, View1<R> const&,        \
                                    View1<double> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
