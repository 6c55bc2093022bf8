// SPDX-License-Identifier: Apache-2.0
// Owns the cases that are products of matrices: all shapes of a step, by each linked BLAS and by the rule of
// linalg, and attention.
#include <fmt/format.h>

#include <array>
#include <vector>

#include "backend.hpp"
#include "kernel_suite.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/model/attention.hpp"

namespace upit::bench {
namespace {

/// C = op(A) op(B), plus C for gradients of weights.
struct Product {
  std::string name;
  Op a, b;
  Index m, n, k;
  float beta = 0.0f;
};

/// The three products of y (N, out) = x (N, in) W^T: forward, gradient of x, gradient of W.
void add_linear(std::vector<Product>& list, std::string const& name, Index n, Index in, Index out) {
  list.push_back({name, Op::none, Op::transpose, n, out, in});
  list.push_back({name, Op::none, Op::none, n, in, out});
  list.push_back({name, Op::transpose, Op::none, out, in, n, 1.0f});
}

/// Those of y (N, out) = x (N, in) B, B (in, out): stacked low-rank B.
void add_stacked(std::vector<Product>& list, std::string const& name, Index n, Index in, Index out) {
  list.push_back({name, Op::none, Op::none, n, out, in});
  list.push_back({name, Op::none, Op::transpose, n, in, out});
  list.push_back({name, Op::transpose, Op::none, in, out, n, 1.0f});
}

using Library = void (*)(Op, Op, Index, Index, Index, float, float const*, Index, float const*, Index, float,
                         float*, Index);

void by_rule(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda, float const* B,
             Index ldb, float beta, float* C, Index ldc) {
  gemm<float>(Exec(), a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

struct Named {
  char const* name;
  Library product;
};

std::vector<Named> libraries() {
  std::vector<Named> out = {{"rule", by_rule}};
#if !defined(KOKKOS_ENABLE_CUDA) && !defined(KOKKOS_ENABLE_HIP)
  out.push_back({"OpenBLAS", backend::gemm_blas});
#endif
#ifdef UPIT_HAS_ONEDNN
  out.push_back({"oneDNN", backend::gemm_onednn});
#endif
  return out;
}

std::string shape_text(Op a, Op b, Index m, Index n, Index k) {
  auto const flag = [](Op op) { return op == Op::transpose ? 't' : 'n'; };
  return fmt::format("{}x{}x{}_{}{}", m, n, k, flag(a), flag(b));
}

double flops_of(Index m, Index n, Index k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

void add(Suite& suite, Size const& size, Product const& p) {
  for (Named const& library : libraries()) {
    std::string const name = fmt::format("product/{}/{}/{}/{}", size.name, p.name,
                                         shape_text(p.a, p.b, p.m, p.n, p.k), library.name);
    suite.products(name, flops_of(p.m, p.n, p.k), [p, product = library.product]() -> Call {
      auto const a = flat_values(p.m * p.k, 1), b = flat_values(p.k * p.n, 2), c = flat_values(p.m * p.n, 3);
      Index const lda = p.a == Op::none ? p.k : p.m, ldb = p.b == Op::none ? p.n : p.k;
      return [=](Exec const&) {
        product(p.a, p.b, p.m, p.n, p.k, 1.0f, a.data(), lda, b.data(), ldb, p.beta, c.data(), p.n);
      };
    });
  }
}

/// Rows spread evenly over groups, each with its own B, as `grouped_gemm` takes them; or, transposed, each
/// with its own C. Libraries go group by group.
void add_grouped(Suite& suite, Size const& size, std::string const& what, Index groups, Index rows, Op b,
                 Index n, Index k, bool weight) {
  Index const each = rows / groups;
  std::vector<Index> offset(at(groups) + 1);
  for (Index e = 0; e <= groups; ++e) offset[at(e)] = e * each;
  Index const m = weight ? n : rows, columns = weight ? k : n, depth = weight ? rows : k;
  for (Named const& library : libraries()) {
    std::string const name =
        fmt::format("grouped/{}/{}/{}of_{}/{}", size.name, what, groups,
                    shape_text(weight ? Op::transpose : Op::none, b, m, columns, depth), library.name);
    bool const rule = library.product == by_rule;
    suite.products(name, flops_of(rows, n, k), [=, product = library.product]() -> Call {
      // x (rows, k) and y (rows, n) together, W (groups, n k).
      auto const x = flat_values(rows * k, 1), y = flat_values(rows * n, 2),
                 w = flat_values(groups * n * k, 3);
      Index const ldb = b == Op::none ? n : k;
      if (weight && rule) {
        return [=](Exec const& e) {
          grouped_gemm_transposed<float>(e, groups, offset.data(), n, k, 1.0f, y.data(), n, x.data(), k, 1.0f,
                                         w.data(), k, n * k);
        };
      }
      if (rule) {
        return [=](Exec const& e) {
          grouped_gemm<float>(e, groups, offset.data(), b, n, k, 1.0f, x.data(), k, w.data(), ldb, n * k,
                              0.0f, y.data(), n);
        };
      }
      return [=](Exec const&) {
        for (Index g = 0; g < groups; ++g) {
          float* const wg = w.data() + g * n * k;
          float* const xg = x.data() + g * each * k;
          float* const yg = y.data() + g * each * n;
          if (weight) {
            product(Op::transpose, Op::none, n, k, each, 1.0f, yg, n, xg, k, 1.0f, wg, k);
          } else {
            product(Op::none, b, each, n, k, 1.0f, xg, k, wg, ldb, 0.0f, yg, n);
          }
        }
      };
    });
  }
}

void add_grouped_linear(Suite& suite, Size const& size, std::string const& what, Index groups, Index rows,
                        Index in, Index out) {
  add_grouped(suite, size, what, groups, rows, Op::transpose, out, in, false);
  add_grouped(suite, size, what, groups, rows, Op::none, in, out, false);
  add_grouped(suite, size, what, groups, rows, Op::none, out, in, true);
}

}  // namespace

void add_products(Suite& suite, Size const& size) {
  KernelShape const& s = size.shape;
  Index const n = whole(s.tokens), c = whole(s.width), f = whole(s.ffn), e = whole(s.experts);
  Index const k = whole(s.active), r = whole(s.rank), q = whole(s.heads * s.head_width);
  std::vector<Product> list;
  add_linear(list, "qkv", n, c, q + 2 * whole(s.kv_heads * s.head_width));
  add_linear(list, "attention_out", n, q, c);
  add_linear(list, "gate_up", n, c, 2 * f);
  add_linear(list, "down", n, f, c);
  // Logits of the head stand as (V, rows).
  Index const rows = size.chunk, v = whole(s.vocabulary);
  list.push_back({"head", Op::none, Op::transpose, v, rows, c});
  list.push_back({"head", Op::transpose, Op::none, rows, c, v});
  list.push_back({"head", Op::none, Op::none, v, c, rows, 1.0f});
  add_linear(list, "router", n, c, e);
  for (Index const experts : {Index{1}, e}) {
    std::string const kind = experts == 1 ? "lora" : "lora_moe";
    add_linear(list, kind + "_gate_up_a", n, c, 2 * experts * r);
    add_stacked(list, kind + "_gate_b", n, experts * r, f);
    add_linear(list, kind + "_down_a", n, f, experts * r);
    add_stacked(list, kind + "_down_b", n, experts * r, c);
  }
  for (auto const& p : list) add(suite, size, p);
  add_grouped_linear(suite, size, "ffn_moe_gate_up", e, n * k, c, 2 * f);
  add_grouped_linear(suite, size, "ffn_moe_down", e, n * k, f, c);
  add_grouped_linear(suite, size, "lora_ffn_down_a", e, n * k, f, r);
  add_grouped(suite, size, "lora_ffn_gate_b", e, n * k, Op::none, f, r, false);
  add_grouped(suite, size, "lora_ffn_gate_b", e, n * k, Op::transpose, r, f, false);
}

void add_attention(Suite& suite) {
  constexpr Index kTokens = 4096, kWidth = 512;
  for (Index const length : {Index{512}, Index{4096}}) {
    for (Index const head : {Index{64}, Index{128}}) {
      ModelConfig model;
      model.width = kWidth;
      model.heads = model.kv_heads = kWidth / head;
      model.head_width = head;
      model.context = length;
      std::vector<Index> start;
      for (Index t = 0; t <= kTokens; t += length) start.push_back(t);
      // As docs/performance.md counts: half the scores, no recomputation.
      double const forward = 2.0 * static_cast<double>(kTokens * length * kWidth);
      for (int const passes : {1, 2, 3}) {  // forward, backward, both
        char const* const name = passes == 1 ? "forward" : passes == 2 ? "backward" : "both";
        double const flops = forward * (passes == 1 ? 1.0 : passes == 2 ? 2.0 : 3.0);
        suite.products(fmt::format("attention_{}/s{}/d{}", name, length, head), flops, [=]() -> Call {
          auto const attention = std::make_shared<Attention<float> const>(model, length, true);
          auto const qkv = values(kTokens, 3 * kWidth, 1), dqkv = values(kTokens, 3 * kWidth, 2);
          auto const out = values(kTokens, kWidth, 3), dout = values(kTokens, kWidth, 4);
          auto const sum = values(kTokens, model.heads, 5), delta = values(kTokens, model.heads, 6);
          attention->forward(Exec(), View2<float const>(qkv), start, out, sum);
          return [=](Exec const& exec) {
            if (passes & 1) attention->forward(exec, View2<float const>(qkv), start, out, sum);
            if (passes & 2) {
              attention->backward(exec, View2<float const>(qkv), start, View2<float const>(sum),
                                  View2<float const>(dout), View2<float const>(delta), dqkv);
            }
          };
        });
      }
    }
  }
}

}  // namespace upit::bench
