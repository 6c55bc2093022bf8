// SPDX-License-Identifier: Apache-2.0
#include "upit/model/head.hpp"

#include <algorithm>
#include <type_traits>

#include "upit/kernels/cross_entropy.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/kernels/gather.hpp"
#include "upit/model/products.hpp"

namespace upit {
namespace {

/// Rows that keep a chunk of logits near 16 MiB of fp32: enough rows for the products, little enough for
/// caches.
Index chunk_rows(Index vocabulary, Index max_tokens) {
  Index const wanted = (Index{1} << 22) / std::max<Index>(vocabulary, 1);
  return std::clamp<Index>(wanted, 64, std::max<Index>(64, max_tokens));
}

/// Logits are Real<T>, for the losses; where that is T, the gradient takes their place.
template <class T>
constexpr bool kSame = std::is_same_v<T, Real<T>>;

template <class V>
V uninitialised(char const* name, Index rows, Index columns) {
  return V(Kokkos::view_alloc(std::string("upit::head.") + name, Kokkos::WithoutInitializing), rows, columns);
}

}  // namespace

template <class T>
Head<T>::Head(ModelConfig const& model, Index max_tokens, bool with_backward)
    : chunk_(chunk_rows(model.vocabulary, max_tokens)),
      rows_(uninitialised<View2<T>>("rows", max_tokens, model.width)),
      drows_(uninitialised<View2<T>>("drows", with_backward ? max_tokens : 0, model.width)),
      logits_(uninitialised<View2<Real<T>>>("logits", chunk_, model.vocabulary)),
      dlogits_(uninitialised<View2<T>>("dlogits", !kSame<T> && with_backward ? chunk_ : 0, model.vocabulary)),
      nll_("upit::head.nll", max_tokens),
      nll_copy_("upit::head.nll_copy", max_tokens) {
  nll_host_.reserve(static_cast<std::size_t>(max_tokens));
}

template <class T>
double Head<T>::forward(Exec const& exec, View2<T> const& y, Parameter<T> const& head, Batch const& batch,
                        double loss_scale, View2<T> const* dy) {
  Index const n = batch.tokens(), m = batch.targets();
  auto const width = static_cast<Index>(y.extent(1)), vocabulary = static_cast<Index>(logits_.extent(1));
  // Where every row has a target, no rows move.
  bool const all = m == n;
  View2<T> const in = all ? y : View2<T>(rows_.data(), m, width);
  View1<int const> const row(batch.target_rows().data(), m);
  if (!all) kernels::gather_rows<T>(exec, y, row, in);
  View2<T> const din = dy == nullptr ? View2<T>() : all ? *dy : View2<T>(drows_.data(), m, width);
  for (Index first = 0; first < m; first += chunk_) {
    Index const rows = std::min(chunk_, m - first);
    View2<T> const x(in.data() + first * width, rows, width);
    View2<Real<T>> const logits(logits_.data(), rows, vocabulary);
    View1<int const> const target(batch.dense_target().data() + first, rows);
    View1<Real<T>> const nll(nll_.data() + first, rows);
    linear<T>(exec, x, head.weight, logits);
    if (dy == nullptr) {
      kernels::cross_entropy<Real<T>>(exec, target, logits, nll);
      continue;
    }
    kernels::cross_entropy_backward<Real<T>>(exec, target, static_cast<Real<T>>(loss_scale), logits, nll);
    View2<T> dlogits(dlogits_.data(), rows, vocabulary);
    if constexpr (kSame<T>) {
      dlogits = logits;
    } else {
      kernels::convert<T, Real<T>>(exec, logits, dlogits);
    }
    linear_backward<T>(exec, dlogits, head.weight, View2<T>(din.data() + first * width, rows, width));
    linear_backward_weight<T>(exec, dlogits, x, head.gradient);
  }
  if (dy != nullptr && !all) {
    kernels::fill<T>(exec, *dy, T(0));
    kernels::scatter_rows<T>(exec, din, row, *dy);
  }
  HostView1<Real<T>> const copy(nll_copy_.data(), m);
  Kokkos::deep_copy(exec, copy, View1<Real<T>>(nll_.data(), m));
  exec.fence();
  nll_host_.assign(copy.data(), copy.data() + m);
  double sum = 0.0;  // one thread, in order: the same for any number of threads
  for (double const value : nll_host_) sum += value;
  return sum;
}

template <class T>
Index Head<T>::bytes() const {
  return static_cast<Index>((rows_.span() + drows_.span() + dlogits_.span()) * sizeof(T) +
                            (logits_.span() + nll_.span()) * sizeof(Real<T>));
}

template class Head<float>;
template class Head<double>;
template class Head<bfloat16>;

}  // namespace upit
