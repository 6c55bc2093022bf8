// SPDX-License-Identifier: Apache-2.0
// Owns what both forms of LoRA mixing share inside src/model.
#pragma once

#include "upit/kernels/dropout.hpp"
#include "upit/model/ffn_block.hpp"

namespace upit::detail {

/// Letters of the formulas, as the products want them.
template <class T>
struct Extents {
  Index n, c, f, e, r, k, er;
  Real<T> scale;
  explicit Extents(FfnPass<T> const& p)
      : n(static_cast<Index>(p.state.h.extent(0))),
        c(p.model.width),
        f(p.model.ffn),
        e(p.expert.count),
        r(p.expert.rank),
        k(static_cast<Index>(p.state.expert.extent(1))),
        er(e * r),
        scale(static_cast<Real<T>>(p.expert.scale())) {}
};

template <class T>
bool mixes_slots(FfnPass<T> const& p) {
  return p.expert.mixes_lora_ffns();
}

/// Input of A of gate and up: h, or h under dropout when training.
template <class T>
View2<T> low_rank_input(FfnPass<T> const& p) {
  return p.dropout > 0.0 ? p.state.h_dropped : p.state.h;
}

template <class T>
void drop_h(FfnPass<T> const& p) {
  if (p.dropout <= 0.0) return;
  kernels::dropout_forward<T>(p.exec, p.state.h, p.batch.sample(), p.batch.position(), p.h_mask,
                              static_cast<Real<T>>(p.dropout), p.state.h_dropped);
}

/// dh += the gradient that reaches h through A of gate and up: dropout'(dlow1 A).
template <class T>
void backward_through_a(FfnPass<T> const& p);

template <class T>
void mixed_forward(FfnPass<T> const& pass);
template <class T>
void mixed_backward(FfnPass<T> const& pass, bool need_dh);

}  // namespace upit::detail
