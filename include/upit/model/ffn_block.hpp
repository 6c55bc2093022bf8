// SPDX-License-Identifier: Apache-2.0
// Owns the FFN block: the dense SwiGLU FFN, LoRA beside it, and the mixtures of LoRA and of FFN experts.
#pragma once

#include "upit/core/random.hpp"
#include "upit/model/batch.hpp"
#include "upit/model/layer_parameters.hpp"
#include "upit/model/workspace.hpp"

namespace upit {

template <class T>
class FfnExperts;

/// What one block needs in one pass.
template <class T>
struct FfnPass {
  Exec exec;
  ModelConfig const& model;
  ExpertConfig const& expert;
  LayerParameters<T> const& parameter;
  LayerState<T> const& state;
  Scratch<T> const& scratch;
  Batch const& batch;
  double dropout = 0.0;        // 0 outside training
  RandomKey h_mask, act_mask;  // of this (seed, step, layer) and matrix
  Index layer = 0;
  FfnExperts<T>* experts = nullptr;  // where FFN experts mix
};

/// Router logits s = W_r h, top-k, gates. state.h in; logits, expert, gate, probability out.
template <class T>
void route_tokens(FfnPass<T> const& pass);

/// state.h (N, C) in; scratch.branch (N, C) out. The base matrices are applied once, whatever K is.
///   dense:  W_down (silu(W_gate h) * W_up h)
///   branch: every linear becomes W x + (alpha/r) sum_k g_k B_k A_k x
///   ffn:    sum_k g_k FFN_k(h); W_down is applied to sum_k g_k a_k because it is linear
/// FFN experts have no base matrices: sum_k g_k FFN_k(h), collective over the ranks that share the experts.
template <class T>
void ffn_forward(FfnPass<T> const& pass);

/// Gradient of `ffn_forward`. dout = scratch.dx (N, C) in; scratch.dh (N, C) out unless nothing below is
/// trained
/// (`need_dh` false). Adds to the gradients of trained tensors. `state.gate_up` becomes its own gradient.
///   balance (E) or extent 0: coefficient of the router's probabilities in the loss.
/// With an auxiliary router, scratch.dlogits (N, 1) holds the gradient of its loss on entry.
template <class T>
void ffn_backward(FfnPass<T> const& pass, View1<Real<T>> const& balance, bool need_dh);

}  // namespace upit
