// SPDX-License-Identifier: Apache-2.0
// Owns the activations of the model: what forward keeps for backward, and scratch that all layers share.
#pragma once

#include <vector>

#include "upit/model/config.hpp"
#include "upit/model/parameters.hpp"

namespace upit {

/// The first n rows of a (max, columns) buffer.
template <class T>
View2<T> first_rows(View2<T> const& buffer, Index n) {
  return View2<T>(buffer.data(), n, buffer.extent(1));
}
template <class T>
View1<T> first_rows(View1<T> const& buffer, Index n) {
  return View1<T>(buffer.data(), n);
}

/// All elements of a View as one row. Copies between Views of one rank take nvcc a fraction of the time.
template <class T>
View1<T> elements(View2<T> const& view) {
  return View1<T>(view.data(), view.size());
}

/// What one layer keeps between forward and backward. S = N * K slots, sorted by expert, in "ffn" mixing.
template <class T>
struct LayerState {
  View2<T> x;                     // (N, C) residual stream entering the layer
  View1<Real<T>> rstd_attention;  // (N)
  View2<T> h_attention;           // (N, C) after the attention norm
  View2<T> qkv;                   // (N, (H+2G)D) after rotary
  View2<T> attended;              // (N, HD)
  View2<Real<T>> log_sum_exp;     // (N, H)
  View2<T> x_middle;              // (N, C) residual stream after attention
  View1<Real<T>> rstd_ffn;        // (N)
  View2<T> h;                     // (N, C) after the FFN norm
  View2<T> gate_up;               // (N, 2F) of the base; its gradient after backward; not with FFN experts
  View2<T> act;                   // (N, F) entering the base down product
  View2<T> h_dropped;             // (N, C) h under LoRA dropout; h itself without dropout
  View2<T> act_dropped;           // (N, F) likewise; not used in "ffn" mixing
  View2<T> low1, gated1;          // (N, E*2R) [e][part][r]; (N, 2*E*R) [part][e][r]
  View2<T> low2, gated2;          // (N, E*R)
  View2<Real<T>> logits, probability;  // (N, E)
  View2<Real<T>> gate;                 // (N, K)
  View2<int> expert;                   // (N, K)
  // "ffn" mixing only
  View1<Index> offset;             // (E + 1) first sorted slot of each expert
  PinnedView1<Index> offset_host;  // (E + 1)
  View1<int> order, place;         // (S) slot at each sorted place; its inverse
  View2<T> slot_low;               // (S, 2R)
};

/// Scratch that every layer uses in turn.
template <class T>
struct Scratch {
  View2<T> branch;                // (N, C) what a block adds to the residual stream
  View2<T> dx, dh, width;         // (N, C)
  View2<T> dattended;             // (N, HD)
  View2<T> dqkv;                  // (N, (H+2G)D)
  View2<Real<T>> delta;           // (N, H)
  View2<T> dact, ffn;             // (N, F)
  View2<T> dlow1, dgated1;        // (N, 2*E*R)
  View2<T> dlow2, dgated2;        // (N, E*R)
  View2<Real<T>> dgate, dlogits;  // (N, K), (N, E)
  View2<Real<T>> wide;            // (N, C) beside a router, where T is narrower
  // "ffn" mixing only
  View2<T> mask;                        // (N, F) of the dropout of A of down
  View2<T> slot_act, dslot_gate_up;     // (S, F), (S, 2F)
  View2<T> dslot_low2;                  // (S, R)
  View2<Real<T>> slot_low2, dslot_low;  // (S, R), (S, 2R)
};

template <class T>
class Workspace {
 public:
  /// Without `with_backward` all layers share one state, router choices excepted.
  Workspace(ModelConfig const& model, ExpertConfig const& expert, Index max_tokens, bool with_backward);

  /// Views on the first n tokens.
  LayerState<T> layer(Index l, Index n) const;
  Scratch<T> scratch(Index n) const;
  Index bytes() const { return bytes_; }

 private:
  template <class V>
  V make(char const* name, Index rows, Index columns);
  LayerState<T> make_state(Index n);
  void make_router_state(LayerState<T>& s, Index n);

  ModelConfig model_;
  ExpertConfig expert_;
  Index bytes_ = 0;
  std::vector<LayerState<T>> layers_;
  Scratch<T> scratch_;
};

extern template class Workspace<float>;
extern template class Workspace<double>;
extern template class Workspace<bfloat16>;

}  // namespace upit
