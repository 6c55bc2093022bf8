// SPDX-License-Identifier: Apache-2.0
// Owns the shapes of a model: the dense Llama backbone and what its FFN blocks carry beside it.
#pragma once

#include <string>

#include "upit/core/index.hpp"

namespace upit {

/// Shape of the dense backbone. Letters: see docs/notation.md.
struct ModelConfig {
  Index layers = 0;      // L
  Index width = 0;       // C
  Index heads = 0;       // H
  Index kv_heads = 0;    // G
  Index head_width = 0;  // D
  Index ffn = 0;         // F
  Index vocabulary = 0;  // V
  Index context = 0;     // longest sample, in tokens
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;
  bool tied = false;  // head = embedding

  bool operator==(ModelConfig const&) const = default;
};

/// How gates follow from router logits (docs/method.md).
enum class RouterOrder { topk_softmax, softmax_topk };
/// Where gated LoRA experts are summed: in each linear, or after whole FFNs.
enum class LoraMix { branch, ffn };
/// What router rows do: nothing there, gate the experts, or only meet the auxiliary loss of stage 3.
enum class RouterUse { none, gate, auxiliary };

/// Low-rank matrices beside a shared FFN, or whole FFNs in its place.
enum class ExpertKind { lora, ffn };

/// What every FFN block carries: LoRA experts beside the base FFN, or FFN experts instead of it.
struct ExpertConfig {
  ExpertKind kind = ExpertKind::lora;
  Index count = 0;   // E; 0: plain dense model
  Index active = 1;  // K
  Index rank = 0;    // R; 0 for FFN experts
  double alpha = 16.0;
  double dropout = 0.0;
  LoraMix mix = LoraMix::branch;
  RouterOrder order = RouterOrder::topk_softmax;
  RouterUse router = RouterUse::none;  // none with count = 1: LoRA on a dense model, or its own FFN

  bool has_lora() const { return count > 0 && kind == ExpertKind::lora; }
  /// LoRA experts of which each token visits K whole FFNs.
  bool mixes_lora_ffns() const { return has_lora() && mix == LoraMix::ffn && router == RouterUse::gate; }
  /// FFN experts among which a router chooses; without one, a single FFN expert is a dense model's FFN.
  bool mixes_ffns() const { return count > 0 && kind == ExpertKind::ffn && router == RouterUse::gate; }

  double scale() const { return rank > 0 ? alpha / static_cast<double>(rank) : 0.0; }
  bool operator==(ExpertConfig const&) const = default;
};

/// Throws `Error` naming the field unless the shapes fit together (H divides by G, K <= E, D even, ...).
void check(ModelConfig const& model, ExpertConfig const& expert);

}  // namespace upit
