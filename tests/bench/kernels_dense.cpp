// SPDX-License-Identifier: Apache-2.0
// Owns the cases of the kernels that dense and MoE models share.
#include <memory>

#include "kernel_suite.hpp"
#include "upit/kernels/adamw.hpp"
#include "upit/kernels/attention_softmax.hpp"
#include "upit/kernels/cross_entropy.hpp"
#include "upit/kernels/dropout.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/kernels/embedding.hpp"
#include "upit/kernels/gather.hpp"
#include "upit/kernels/rmsnorm.hpp"
#include "upit/kernels/rotary.hpp"
#include "upit/kernels/swiglu.hpp"

namespace upit::bench {
namespace {

using View1f = View1<float const>;
using View2f = View2<float const>;

void add_norms(Suite& suite, Size const& size) {
  Index const n = whole(size.shape.tokens), c = whole(size.shape.width);
  auto const forward = [n, c](bool sum) -> Call {
    auto const x = values(n, c, 1), delta = values(n, c, 2), y = values(n, c, 3), out = values(n, c, 4);
    auto const weight = flat_values(c, 5), rstd = flat_values(n, 6);
    if (!sum) {
      return [=](Exec const& e) {
        kernels::rmsnorm_forward<float>(e, View2f(x), View1f(weight), 1e-5f, y, rstd);
      };
    }
    return [=](Exec const& e) {
      kernels::add_rmsnorm_forward<float>(e, View2f(x), View2f(delta), View1f(weight), 1e-5f, out, y, rstd);
    };
  };
  suite.memory("rmsnorm_forward", size, size.shape, [=] { return forward(false); });
  suite.memory("add_rmsnorm_forward", size, size.shape, [=] { return forward(true); });
  suite.memory("rmsnorm_backward", size, size.shape, [n, c]() -> Call {
    auto const x = values(n, c, 1), dy = values(n, c, 2), dx = values(n, c, 3);
    auto const weight = flat_values(c, 4), rstd = flat_values(n, 5);
    return [=](Exec const& e) {
      kernels::rmsnorm_backward<float>(e, View2f(dy), View2f(x), View1f(weight), View1f(rstd), dx);
    };
  });
  suite.memory("rmsnorm_backward_weight", size, size.shape, [n, c]() -> Call {
    auto const x = values(n, c, 1), dy = values(n, c, 2);
    auto const dweight = flat_values(c, 3), rstd = flat_values(n, 4);
    return [=](Exec const& e) {
      kernels::rmsnorm_backward_weight<float>(e, View2f(dy), View2f(x), View1f(rstd), dweight);
    };
  });
}

void add_rotary(Suite& suite, Size const& size) {
  KernelShape const s = size.shape;
  Index const n = whole(s.tokens), heads = whole(s.heads + s.kv_heads), width = whole(s.head_width);
  Index const columns = whole(s.heads + 2 * s.kv_heads) * width, positions = whole(s.sequence);
  for (bool const forward : {true, false}) {
    suite.memory(forward ? "rotary_forward" : "rotary_backward", size, s, [=]() -> Call {
      auto const qkv = values(n, columns, 1), cosine = values(positions, width / 2, 2),
                 sine = values(positions, width / 2, 3);
      // Without an angle nothing is turned, so that values stay finite however often a call comes.
      Kokkos::deep_copy(cosine, 1.0f);
      Kokkos::deep_copy(sine, 0.0f);
      View1<int> const position("upit::bench.position", n);
      auto const host = Kokkos::create_mirror_view(position);
      for (Index i = 0; i < n; ++i) host(i) = static_cast<int>(i % positions);
      Kokkos::deep_copy(position, host);
      auto const kernel = forward ? kernels::rotary_forward<float> : kernels::rotary_backward<float>;
      return [=](Exec const& e) {
        kernel(e, View1<int const>(position), View2f(cosine), View2f(sine), heads, qkv);
      };
    });
  }
  suite.memory("attention_delta", size, s, [=]() -> Call {
    Index const h = whole(s.heads);
    auto const out = values(n, h * width, 1), dout = values(n, h * width, 2), delta = values(n, h, 3);
    return [=](Exec const& e) { kernels::attention_delta<float>(e, View2f(out), View2f(dout), h, delta); };
  });
}

void add_swiglu(Suite& suite, Size const& size) {
  Index const n = whole(size.shape.tokens), f = whole(size.shape.ffn);
  suite.memory("swiglu_forward", size, size.shape, [=]() -> Call {
    auto const gate_up = values(n, 2 * f, 1), act = values(n, f, 2);
    return [=](Exec const& e) { kernels::swiglu_forward<float>(e, View2f(gate_up), act); };
  });
  // In place: gradients of gradients would shrink to numbers that processors are slow with, so that they are
  // made new now and then. Only the best call counts, and that is one of the others.
  suite.memory("swiglu_backward", size, size.shape, [=]() -> Call {
    auto const fresh = values(n, 2 * f, 1), gate_up = values(n, 2 * f, 1), dact = values(n, f, 2);
    auto const calls = std::make_shared<Index>(0);
    return [=](Exec const& e) {
      constexpr Index kFresh = 16;
      if (++*calls % kFresh == 0) Kokkos::deep_copy(e, gate_up, fresh);
      kernels::swiglu_backward<float>(e, View2f(dact), gate_up);
    };
  });
}

void add_rows(Suite& suite, Size const& size) {
  Index const n = whole(size.shape.tokens), c = whole(size.shape.width), v = whole(size.shape.vocabulary);
  suite.memory("embedding_forward", size, size.shape, [=]() -> Call {
    auto const table = values(v, c, 1), out = values(n, c, 2);
    auto const token = ids(n, v);
    return [=](Exec const& e) {
      kernels::embedding_forward<float>(e, View1<int const>(token), View2f(table), out);
    };
  });
  suite.memory("embedding_backward", size, size.shape, [=]() -> Call {
    auto const table = values(v, c, 1), dout = values(n, c, 2);
    auto const token = ids(n, v);
    return [=](Exec const& e) {
      kernels::embedding_backward<float>(e, View1<int const>(token), View2f(dout), table);
    };
  });
  for (bool const gather : {true, false}) {
    suite.memory(gather ? "gather_rows" : "scatter_rows", size, size.shape, [=]() -> Call {
      auto const x = values(n, c, 1), y = values(n, c, 2);
      View1<int> const row("upit::bench.row", n);  // distinct, as scatter_rows asks
      auto const host = Kokkos::create_mirror_view(row);
      for (Index i = 0; i < n; ++i) host(i) = static_cast<int>((i * 7 + 3) % n);
      Kokkos::deep_copy(row, host);
      if (gather) {
        return [=](Exec const& e) { kernels::gather_rows<float>(e, View2f(x), View1<int const>(row), y); };
      }
      return [=](Exec const& e) { kernels::scatter_rows<float>(e, View2f(y), View1<int const>(row), x); };
    });
  }
  for (bool const forward : {true, false}) {
    suite.memory(forward ? "dropout_forward" : "dropout_backward", size, size.shape, [=]() -> Call {
      auto const x = values(n, c, 1), y = values(n, c, 2);
      View1<std::uint64_t> const sample("upit::bench.sample", n);
      auto const position = ids(n, 512);
      RandomKey const key = random_key(1, "bench dropout");
      auto const kernel = forward ? kernels::dropout_forward<float> : kernels::dropout_backward<float>;
      return [=](Exec const& e) {
        kernel(e, View2f(x), View1<std::uint64_t const>(sample), View1<int const>(position), key, 0.05f, y);
      };
    });
  }
}

void add_loss(Suite& suite, Size const& size) {
  KernelShape s = size.shape;
  s.tokens = static_cast<double>(size.chunk);
  Index const m = size.chunk, v = whole(s.vocabulary);
  for (bool const backward : {false, true}) {
    suite.memory(backward ? "cross_entropy_backward" : "cross_entropy", size, s, [=]() -> Call {
      Index const blocks = kernels::vocabulary_blocks(v);
      auto const logits = values(v, m, 1), largest = values(blocks, m, 2), sum = values(blocks, m, 3);
      auto const nll = flat_values(m, 4);
      auto const target = ids(m, v);
      if (!backward) {
        return [=](Exec const& e) {
          kernels::cross_entropy<float>(e, View1<int const>(target), View2f(logits), largest, sum, nll);
        };
      }
      // In place, as the head does it.
      return [=](Exec const& e) {
        kernels::cross_entropy_backward<float>(e, View1<int const>(target), 1.0f, View2f(logits), largest,
                                               sum, logits, nll);
      };
    });
  }
}

void add_flat(Suite& suite, Size const& size) {
  Index const n = whole(size.shape.elements);
  suite.memory("fill", size, size.shape, [=]() -> Call {
    auto const x = flat_values(n);
    return [=](Exec const& e) { kernels::fill<float>(e, x, 0.0f); };
  });
  suite.memory("add", size, size.shape, [=]() -> Call {
    auto const x = flat_values(n, 1), y = flat_values(n, 2);
    return [=](Exec const& e) { kernels::add<float>(e, View1f(x), y); };
  });
  suite.memory("scale", size, size.shape, [=]() -> Call {
    auto const x = flat_values(n);
    return [=](Exec const& e) { kernels::scale<float>(e, 1.0f, x); };
  });
  suite.memory("squared_norm", size, size.shape, [=]() -> Call {
    auto const x = flat_values(n);
    View1<double> const blocks("upit::bench.blocks", kernels::squared_norm_blocks(n));
    return
        [=](Exec const& e) { benchmark::DoNotOptimize(kernels::squared_norm<float>(e, View1f(x), blocks)); };
  });
  suite.memory("adamw", size, size.shape, [=]() -> Call {
    auto const gradient = flat_values(n, 1), weight = flat_values(n, 2);
    View1<float> const first("upit::bench.first", n), second("upit::bench.second", n);
    kernels::AdamwStep step;
    step.learning_rate = 1e-5;
    return [=](Exec const& e) { kernels::adamw<float>(e, View1f(gradient), weight, first, second, step); };
  });
}

}  // namespace

void add_dense_kernels(Suite& suite, Size const& size) {
  add_norms(suite, size);
  add_rotary(suite, size);
  add_swiglu(suite, size);
  add_rows(suite, size);
  add_loss(suite, size);
  add_flat(suite, size);
}

}  // namespace upit::bench
