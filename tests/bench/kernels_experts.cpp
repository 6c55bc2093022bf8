// SPDX-License-Identifier: Apache-2.0
// Owns the cases of the kernels of a mixture of experts: router, dispatch, combination, low-rank parts.
#include <array>
#include <memory>
#include <utility>

#include "kernel_suite.hpp"
#include "upit/kernels/dispatch.hpp"
#include "upit/kernels/low_rank_gate.hpp"
#include "upit/kernels/router.hpp"
#include "upit/kernels/slot_ffn.hpp"

namespace upit::bench {
namespace {

using View1i = View1<int const>;
using View2f = View2<float const>;
using View2i = View2<int const>;

/// Tokens whose router has chosen, sorted by expert.
struct Routed {
  View2<float> logits, probability, gate, dgate;
  View2<int> expert;
  View1<Index> offset;
  View1<int> order, place;

  Routed(Index n, Index experts, Index active)
      : logits(values(n, experts, 1)),
        probability("upit::bench.probability", n, experts),
        gate("upit::bench.gate", n, active),
        dgate("upit::bench.dgate", n, active),
        expert("upit::bench.expert", n, active),
        offset("upit::bench.offset", experts + 1),
        order("upit::bench.order", n * active),
        place("upit::bench.place", n * active) {
    Exec const e;
    kernels::router_topk<float>(e, false, 1.0f, View2f(logits), expert, gate, probability);
    kernels::dispatch_plan(e, View2i(expert), experts, offset, order, place);
    e.fence();
  }
};

void add_router(Suite& suite, Size const& size) {
  KernelShape const s = size.shape;
  Index const n = whole(s.tokens), e = whole(s.experts), k = whole(s.active);
  suite.memory("router_topk", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    return [=](Exec const& x) {
      kernels::router_topk<float>(x, false, 1.0f, View2f(r.logits), r.expert, r.gate, r.probability);
    };
  });
  suite.memory("router_backward", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const dlogits = values(n, e, 2);
    auto const balance = flat_values(e, 3);
    return [=](Exec const& x) {
      kernels::router_backward<float>(x, false, 1.0f, View2f(r.probability), View2i(r.expert), View2f(r.gate),
                                      View2f(r.dgate), View1<float const>(balance), dlogits);
    };
  });
  suite.memory("router_statistics", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    View1<double> const assigned("upit::bench.assigned", e), sum("upit::bench.sum", e),
        entropy("upit::bench.entropy", 1);
    return [=](Exec const& x) {
      kernels::router_statistics<float>(x, View2i(r.expert), View2f(r.probability), assigned, sum, entropy);
    };
  });
  suite.memory("auxiliary_router", size, s, [=]() -> Call {
    auto const logit = flat_values(n, 1), dlogit = flat_values(n, 2);
    View1<double> const loss("upit::bench.loss", 1);
    return [=](Exec const& x) {
      kernels::auxiliary_router<float>(x, View1<float const>(logit), true, 1.0f, dlogit, loss);
    };
  });
  suite.memory("dispatch_plan", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    return [=](Exec const& x) { kernels::dispatch_plan(x, View2i(r.expert), e, r.offset, r.order, r.place); };
  });
}

/// Slots of FFN experts: rows of C.
void add_slots(Suite& suite, Size const& size) {
  KernelShape const s = size.shape;
  Index const n = whole(s.tokens), e = whole(s.experts), k = whole(s.active), c = whole(s.width);
  suite.memory("gather_slots", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const x = values(n, c, 2), y = values(n * k, c, 3);
    return [=](Exec const& exec) { kernels::gather_slots<float>(exec, View2f(x), View1i(r.order), k, y); };
  });
  suite.memory("combine_slots", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const y = values(n * k, c, 2), out = values(n, c, 3);
    return [=](Exec const& exec) {
      kernels::combine_slots<float>(exec, View2f(y), View2f(r.gate), View1i(r.place), out);
    };
  });
  suite.memory("combine_slots_backward", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const dout = values(n, c, 2), y = values(n * k, c, 3), dy = values(n * k, c, 4);
    return [=](Exec const& exec) {
      kernels::combine_slots_backward<float>(exec, View2f(dout), View2f(y), View2f(r.gate), View1i(r.place),
                                             dy, r.dgate);
    };
  });
  suite.memory("sum_slots", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const y = values(n * k, c, 2), out = values(n, c, 3);
    return [=](Exec const& exec) { kernels::sum_slots<float>(exec, View2f(y), View1i(r.place), k, out); };
  });
}

/// Slots of LoRA experts mixed after whole FFNs, and low-rank activations of gate and up.
void add_low_rank(Suite& suite, Size const& size) {
  KernelShape s = size.shape;
  s.parts = 2;
  Index const n = whole(s.tokens), e = whole(s.experts), k = whole(s.active), f = whole(s.ffn);
  Index const j = 2 * whole(s.rank);
  suite.memory("low_rank_gate_forward", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const u = values(n, e * j, 2), v = values(n, e * j, 3);
    return [=](Exec const& x) {
      kernels::low_rank_gate_forward<float>(x, View2f(u), View2i(r.expert), View2f(r.gate), 2.0f, e, 2, v);
    };
  });
  suite.memory("low_rank_gate_backward", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const u = values(n, e * j, 2), dv = values(n, e * j, 3), du = values(n, e * j, 4);
    return [=](Exec const& x) {
      kernels::low_rank_gate_backward<float>(x, View2f(dv), View2f(u), View2i(r.expert), View2f(r.gate), 2.0f,
                                             e, 2, du, r.dgate);
    };
  });
  suite.memory("gather_low_rank", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const u = values(n, e * j, 2), y = values(n * k, j, 3);
    return [=](Exec const& x) {
      kernels::gather_low_rank<float>(x, View2f(u), View2i(r.expert), View1i(r.order), 2.0f, y);
    };
  });
  suite.memory("scatter_low_rank", size, s, [=]() -> Call {
    Routed const r(n, e, k);
    auto const dy = values(n * k, j, 2), du = values(n, e * j, 3);
    return [=](Exec const& x) {
      kernels::scatter_low_rank<float>(x, View2f(dy), View2i(r.expert), View1i(r.place), 2.0f, du);
    };
  });
  Index const rank = whole(s.rank);
  // Matrices stand as (E, R, F), activations of experts as sorted slots.
  auto const ffn = [=](Routed const& r) {
    View2<float> const b = values(e * rank, f, 5), up = values(e * rank, f, 6), a = values(e * rank, f, 7);
    auto const stack = [=](View2<float> const& m) { return View3<float const>(m.data(), e, rank, f); };
    return std::pair(std::array{b, up, a}, kernels::SlotFfn<float>{stack(b),
                                                                   stack(up),
                                                                   stack(a),
                                                                   values(n * k, 2 * rank, 8),
                                                                   r.expert,
                                                                   r.gate,
                                                                   r.offset,
                                                                   r.order,
                                                                   r.place,
                                                                   {}});
  };
  suite.memory("slot_ffn_forward", size, s, [=]() -> Call {
    auto const r = std::make_shared<Routed>(n, e, k);
    auto const slots = ffn(*r);
    auto const base = values(n, 2 * f, 2), act = values(n, f, 3), slot_act = values(n * k, f, 4),
               low2 = values(n * k, rank, 9);
    return [=](Exec const& x) {
      kernels::slot_ffn_forward<float>(x, slots.second, View2f(base), act, slot_act, low2);
    };
  });
  suite.memory("slot_ffn_backward", size, s, [=]() -> Call {
    auto const r = std::make_shared<Routed>(n, e, k);
    auto const slots = ffn(*r);
    auto const base = values(n, 2 * f, 2), dact = values(n, f, 3), slot_act = values(n * k, f, 4),
               dslot = values(n * k, 2 * f, 10), dlow2 = values(n * k, rank, 9),
               dlow = values(n * k, 2 * rank, 11);
    return [=](Exec const& x) {
      // Each call takes the gradient that the one before left for a base: numbers of no meaning, the same
      // time.
      kernels::slot_ffn_backward<float>(x, slots.second, View2f(dact), View2f(dlow2), base, slot_act, dslot,
                                        dlow, r->dgate);
    };
  });
}

}  // namespace

void add_expert_kernels(Suite& suite, Size const& size) {
  add_router(suite, size);
  add_slots(suite, size);
  add_low_rank(suite, size);
}

}  // namespace upit::bench
