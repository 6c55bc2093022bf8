// SPDX-License-Identifier: Apache-2.0
#include "upit/train/bench_work.hpp"

#include <algorithm>

#include "upit/core/product_region.hpp"
#include "upit/kernels/traffic.hpp"

namespace upit {
namespace {

constexpr std::string_view kPrefix = "upit::";

double real(Index i) { return static_cast<double>(i); }

/// Of weights and activations.
double value_bytes(BenchOptions const& o) { return o.precision == Precision::bf16 ? 2.0 : 4.0; }

kernels::KernelShape shape_of(BenchOptions const& o, BenchCase const& c) {
  ModelConfig const& m = o.model;
  kernels::KernelShape s;
  s.tokens = real(c.profile_tokens);
  s.sequence = real(m.context);
  s.width = real(m.width);
  s.ffn = real(c.kind == BenchKind::dense_wide ? m.ffn * o.active : m.ffn);
  s.vocabulary = real(m.vocabulary);
  s.heads = real(m.heads);
  s.kv_heads = real(m.kv_heads);
  s.head_width = real(m.head_width);
  bool const routed = c.kind == BenchKind::ffn_moe || c.kind == BenchKind::lora_moe;
  s.experts = routed ? real(o.experts) : 1.0;
  s.active = routed ? real(o.active) : 1.0;
  s.rank = real(o.rank);
  s.parts = 1.5;  // gate and up together, then down: the mean of two calls
  s.value_bytes = value_bytes(o);
  return s;
}

/// SwiGLU of FFN experts runs over slots.
bool over_slots(BenchCase const& c, std::string_view kernel) {
  return c.kind == BenchKind::ffn_moe && kernel.starts_with("swiglu");
}

/// Of kernels over flat buffers those that take activations (N, C), not parameters.
bool over_rows(std::string_view kernel) {
  return kernel == "fill" || kernel == "convert" || kernel == "add_wide";
}

/// Called for pieces of a whole that the shape names: chunks of rows, spans of parameters.
bool in_pieces(std::string_view kernel) {
  return kernel.starts_with("cross_entropy") ||
         (kernel.starts_with("attention_") && kernel != "attention_delta") || kernel == "adamw" ||
         kernel == "squared_norm";
}

/// All operands are counted as stored in `bytes` each; gradients of weights are wider under bf16.
Work product_work(ProductExtents const& p, double calls, double bytes) {
  double const groups = real(std::max<Index>(p.groups, 1));
  double const a = real(p.m) * real(p.k), b = real(p.k) * real(p.n), c = real(p.m) * real(p.n);
  double const elements =
      a + (p.groups > 0 && !p.grouped_c ? groups * b : b) + (p.grouped_c ? groups * c : c);
  return {calls * p.flops(), calls * bytes * elements, bytes * elements};
}

Work attention_work(BenchOptions const& o, BenchCase const& c, bool forward, double calls) {
  ModelConfig const& m = o.model;
  double const tokens = real(c.profile_tokens), q = real(m.heads * m.head_width);
  double const kv = 2.0 * real(m.kv_heads * m.head_width), heads = real(m.heads), value = value_bytes(o);
  // qkv in, attended and log-sum-exp out; backward: qkv, attended's gradient, log-sum-exp and delta in, the
  // gradient of qkv out.
  double const bytes = forward ? tokens * (value * (q + kv + q) + 4.0 * heads)
                               : tokens * (value * (2.0 * (q + kv) + q) + 8.0 * heads);
  double const flops = (forward ? 2.0 : 4.0) * tokens * real(m.context) * real(m.width);
  return {calls * flops, calls * bytes, bytes};
}

}  // namespace

Work work_of(BenchOptions const& options, BenchCase const& c, std::string_view label, double calls) {
  if (auto const product = read_product_label(label))
    return product_work(*product, calls, value_bytes(options));
  if (!label.starts_with(kPrefix)) return {};
  std::string_view const kernel = label.substr(kPrefix.size());
  if (kernel == "attention_forward") return attention_work(options, c, true, calls);
  if (kernel == "attention_backward") return attention_work(options, c, false, calls);
  kernels::KernelShape shape = shape_of(options, c);
  if (over_slots(c, kernel)) shape.tokens *= shape.active;
  shape.elements = over_rows(kernel) ? shape.tokens * shape.width : real(c.trained);
  auto const traffic = kernels::kernel_traffic(kernel, shape);
  if (!traffic) return {};
  double const times = in_pieces(kernel) ? 1.0 : calls / real(kernels::kernel_launches(kernel));
  return {0.0, times * traffic->moved(), in_pieces(kernel) ? traffic->set / calls : traffic->set};
}

}  // namespace upit
