// SPDX-License-Identifier: Apache-2.0
// Owns the table of kernels: their bytes, arithmetic and launches.
#include "upit/kernels/traffic.hpp"

#include "upit/kernels/cross_entropy.hpp"

namespace upit::kernels {
namespace {

constexpr double kReal = 4.0;  // sums, norms, router, moments
constexpr double kId = 4.0;    // tokens, experts, places

/// Read, written, and what is in both: its bytes are in the working set once.
Traffic moved(double read, double written, double both = 0.0) {
  return {read + both, written + both, read + written + both};
}

using S = KernelShape const&;

constexpr auto kNothing = [](S) { return Arithmetic{}; };

struct Entry {
  std::string_view kernel;
  Traffic (*bytes)(S);
  Arithmetic (*arithmetic)(S) = kNothing;
  Index launches = 1;  // of one call
};

double slots(S s) { return s.tokens * s.active; }
double row(S s) { return s.tokens * s.width * s.value_bytes; }                       // (N, C)
double wide(S s) { return s.tokens * s.ffn * s.value_bytes; }                        // (N, F)
double logits(S s) { return s.tokens * s.vocabulary * kReal; }                       // (M, V)
double reals(S s) { return s.tokens * kReal; }                                       // (N)
double ids(S s) { return s.tokens * kId; }                                           // (N)
double slot_ids(S s) { return slots(s) * kId; }                                      // (N*K)
double gates(S s) { return slots(s) * kReal; }                                       // (N, K)
double routed(S s) { return s.tokens * s.experts * kReal; }                          // (N, E)
double slot_wide(S s) { return slots(s) * s.ffn * s.value_bytes; }                   // (N*K, F)
double low(S s) { return s.tokens * s.experts * s.parts * s.rank * s.value_bytes; }  // (N, E*J*R)
double slot_low(S s) { return slots(s) * s.parts * s.rank * s.value_bytes; }         // (N*K, J*R)
double slot_matrices(S s) {
  return 3 * s.experts * s.rank * s.ffn * s.value_bytes;
}  // B of gate and up, A of down
double routes(S s) { return gates(s) + 3 * slot_ids(s); }  // gate, expert, order, place

Traffic rotary(S s) {
  double const table = s.sequence * s.head_width * kReal;  // cosine and sine, D/2 each
  return moved(ids(s) + table, 0.0, s.tokens * (s.heads + s.kv_heads) * s.head_width * s.value_bytes);
}

Traffic dropout(double read, double written, double both, S s) {
  return moved(read + s.tokens * (8.0 + kId), written, both);  // sample and position of each token
}

Traffic cross_entropy_backward(S s) {
  // Gradients take the place of the logits, unless they are stored narrower.
  if (s.value_bytes == kReal) return moved(ids(s), reals(s), logits(s));
  return moved(ids(s) + logits(s), reals(s) + s.tokens * s.vocabulary * s.value_bytes);
}

/// Scores of all heads of whole samples, the half under the diagonal; a mean over their blocks.
double scores(S s) { return s.heads * s.tokens * (s.sequence + 1) / 2; }

Traffic attention_softmax(S s) {
  // Probabilities take the place of the scores, unless products take them narrower.
  double const rounded = s.value_bytes == kReal ? 0.0 : scores(s) * s.value_bytes;
  return moved(0.0, s.tokens * s.heads * kReal + rounded, scores(s) * kReal);
}

Traffic attention_softmax_backward(S s) {
  double const rounded = s.value_bytes == kReal ? 0.0 : 2 * scores(s) * s.value_bytes;
  return moved(2 * s.tokens * s.heads * kReal, rounded, 2 * scores(s) * kReal);
}

Arithmetic exponentials(double count) { return {.exponentials = count}; }
Arithmetic of_swiglu(S s) { return exponentials(s.tokens * s.ffn); }
Arithmetic of_logits(S s) { return exponentials(s.tokens * s.vocabulary); }
Arithmetic of_scores(S s) { return exponentials(scores(s)); }
Arithmetic of_dropout(S s) { return {.counters = s.tokens * s.width / 4}; }  // four numbers each

Traffic adamw(S s) {
  // Gradient in, master and moments in and out; narrower weights are a rounded copy of the masters.
  double const copy = s.value_bytes == kReal ? 0.0 : s.elements * s.value_bytes;
  return moved(s.elements * kReal, copy, 3.0 * s.elements * kReal);
}

// One line a kernel, in the order of a step.
constexpr Entry kTable[] = {
    {"embedding_forward", [](S s) { return moved(ids(s) + row(s), row(s)); }},
    {"rmsnorm_forward", [](S s) { return moved(row(s) + s.width * s.value_bytes, row(s) + reals(s)); }},
    {"add_rmsnorm_forward",
     [](S s) { return moved(2 * row(s) + s.width * s.value_bytes, 2 * row(s) + reals(s)); }},
    {"rotary_forward", rotary},
    {"swiglu_forward", [](S s) { return moved(2 * wide(s), wide(s)); }, of_swiglu},
    {"router_topk", [](S s) { return moved(routed(s), slot_ids(s) + gates(s) + routed(s)); },
     [](S s) { return exponentials(s.tokens * (s.experts + s.active)); }},
    {"router_statistics", [](S s) { return moved(slot_ids(s) + routed(s), 16.0 * s.experts + 8.0); },
     kNothing, 3},
    {"auxiliary_router", [](S s) { return moved(reals(s), reals(s)); }, kNothing, 3},
    {"dispatch_plan",  // with enough slots for counters of their own
     [](S s) { return moved(slot_ids(s), 2 * slot_ids(s) + 8.0 * (s.experts + 1)); }, kNothing, 5},
    {"gather_slots", [](S s) { return moved(row(s) + slot_ids(s), s.active * row(s)); }},
    {"combine_slots", [](S s) { return moved(s.active * row(s) + gates(s) + slot_ids(s), row(s)); }},
    {"low_rank_gate_forward", [](S s) { return moved(slot_low(s) + slot_ids(s) + gates(s), low(s)); }},
    {"gather_low_rank", [](S s) { return moved(slot_low(s) + 2 * slot_ids(s), slot_low(s)); }},
    {"scatter_low_rank", [](S s) { return moved(slot_low(s) + 2 * slot_ids(s), low(s)); }},
    {"slot_ffn_forward",
     [](S s) {
       return moved(2 * wide(s) + slot_matrices(s) + slots(s) * 2 * s.rank * s.value_bytes + routes(s),
                    wide(s) + slots(s) * s.rank * kReal);
     },
     [](S s) {
       return Arithmetic{.exponentials = slots(s) * s.ffn, .flops = 6 * s.rank * slots(s) * s.ffn};
     }},
    {"dropout_forward", [](S s) { return dropout(row(s), row(s), 0.0, s); }, of_dropout},
    {"dropout_mask",  // of A of down, the only one stored
     [](S s) { return moved(s.tokens * (8.0 + kId), wide(s)); },
     [](S s) { return Arithmetic{.counters = s.tokens * s.ffn / 4}; }},
    {"gather_rows", [](S s) { return moved(row(s) + ids(s), row(s)); }},
    {"cross_entropy", [](S s) { return moved(logits(s) + ids(s), reals(s)); }, of_logits, 2},
    {"cross_entropy_backward", cross_entropy_backward,  // the call; its launches are those that follow
     [](S s) { return exponentials((s.value_bytes == kReal ? 1 : 2) * s.tokens * s.vocabulary); }, 3},
    {"cross_entropy_exponentials", [](S s) { return moved(ids(s), reals(s), logits(s)); }, of_logits},
    {"cross_entropy_gradient", [](S s) { return moved(ids(s) + reals(s), 0.0, logits(s)); }},
    {"cross_entropy_rounded",
     [](S s) { return moved(ids(s) + 2 * reals(s) + logits(s), s.tokens * s.vocabulary * s.value_bytes); },
     of_logits},
    {"cross_entropy_nll",
     [](S s) {
       double const blocks = static_cast<double>(vocabulary_blocks(static_cast<Index>(s.vocabulary)));
       return moved(ids(s) + blocks * reals(s), 0.0, blocks * reals(s) + reals(s));
     }},
    {"scatter_rows", [](S s) { return moved(row(s) + ids(s), row(s)); }},
    {"rmsnorm_backward",
     [](S s) { return moved(2 * row(s) + s.width * s.value_bytes + reals(s), 0.0, row(s)); }},
    {"rmsnorm_backward_weight", [](S s) { return moved(2 * row(s) + reals(s), 0.0, s.width * kReal); }},
    {"swiglu_backward", [](S s) { return moved(wide(s), 0.0, 2 * wide(s)); }, of_swiglu},
    {"low_rank_gate_backward",
     [](S s) { return moved(2 * slot_low(s) + slot_ids(s) + gates(s), low(s), gates(s)); }},
    {"combine_slots_backward",
     [](S s) {
       double const y = s.active * row(s);
       return moved(row(s) + y + gates(s) + slot_ids(s), y, gates(s));
     }},
    {"slot_ffn_backward",
     [](S s) {
       return moved(wide(s) + slot_matrices(s) + slots(s) * 3 * s.rank * s.value_bytes + routes(s),
                    3 * slot_wide(s) + slots(s) * 2 * s.rank * kReal, 2 * wide(s) + gates(s));
     },
     [](S s) {
       return Arithmetic{.exponentials = slots(s) * s.ffn, .flops = 10 * s.rank * slots(s) * s.ffn};
     }},
    {"sum_slots", [](S s) { return moved(s.active * row(s) + slot_ids(s), row(s)); }},
    {"dropout_backward", [](S s) { return dropout(row(s), 0.0, row(s), s); }, of_dropout},
    {"router_backward",
     [](S s) { return moved(routed(s) + slot_ids(s) + 2 * gates(s) + s.experts * kReal, routed(s)); }},
    {"attention_delta",
     [](S s) {
       return moved(2 * s.tokens * s.heads * s.head_width * s.value_bytes, s.tokens * s.heads * kReal);
     }},
    {"attention_softmax", attention_softmax, of_scores},
    {"attention_softmax_backward", attention_softmax_backward, of_scores},
    {"attention_round",
     [](S s) {
       double const sums = s.tokens * 2 * s.kv_heads * s.head_width;
       return moved(sums * kReal, sums * s.value_bytes);
     }},
    {"rotary_backward", rotary},
    {"embedding_backward", [](S s) { return moved(ids(s) + row(s), 0.0, s.tokens * s.width * kReal); }},
    {"fill", [](S s) { return moved(0.0, s.elements * s.value_bytes); }},
    {"add", [](S s) { return moved(s.elements * s.value_bytes, 0.0, s.elements * s.value_bytes); }},
    {"add_wide", [](S s) { return moved(s.elements * kReal, 0.0, s.elements * s.value_bytes); }},
    {"convert",  // between reals and values, either way
     [](S s) { return moved(s.elements * kReal, s.elements * s.value_bytes); }},
    {"scale", [](S s) { return moved(0.0, 0.0, s.elements * s.value_bytes); }},
    {"squared_norm", [](S s) { return moved(s.elements * kReal, 0.0); }},
    {"adamw", adamw},
};

Entry const* find(std::string_view kernel) {
  for (auto const& e : kTable) {
    if (e.kernel == kernel) return &e;
  }
  return nullptr;
}

}  // namespace

std::optional<Traffic> kernel_traffic(std::string_view kernel, KernelShape const& shape) {
  Entry const* const e = find(kernel);
  return e == nullptr ? std::nullopt : std::optional(e->bytes(shape));
}

Arithmetic kernel_arithmetic(std::string_view kernel, KernelShape const& shape) {
  Entry const* const e = find(kernel);
  return e == nullptr ? Arithmetic{} : e->arithmetic(shape);
}

Index kernel_launches(std::string_view kernel) {
  Entry const* const e = find(kernel);
  return e == nullptr ? 1 : e->launches;
}

std::vector<std::string_view> kernels_with_traffic() {
  std::vector<std::string_view> out;
  for (auto const& e : kTable) out.push_back(e.kernel);
  return out;
}

}  // namespace upit::kernels
