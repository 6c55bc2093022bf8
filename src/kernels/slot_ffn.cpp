// SPDX-License-Identifier: Apache-2.0
// Owns what LoRA experts mixed after whole FFNs add to the base FFN between gate and down, slot by slot.
//
// A host thread takes a block of tokens, a stretch of columns at a time, and the slots of that block expert
// after expert: a stretch of an expert's matrices stays in the first-level cache for all of them (all
// experts' matrices pass the second level), and what the slots of a token add to in the second. Its loops
// have few enough operands for the registers. On a device a team takes a token; an element's way stays in the
// registers of one thread.
#include "upit/kernels/slot_ffn.hpp"

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

constexpr Index kTokens = 32;  // of a host block
constexpr Index kStretch =
    192;  // columns: 3R rows of them, of an expert's matrices, fit the first-level cache

// The arguments as a kernel wants them: pointers, which a host loop keeps in registers.
template <class T>
struct Slots {
  T const *gate_b, *up_b, *down_a, *low, *mask;
  int const *expert, *order, *place;
  Index const* offset;
  Real<T> const* gate;
  Index tokens, experts, active, rank, width;
};

template <class T>
Slots<T> checked(SlotFfn<T> const& s, Index tokens, Index width) {
  Index const active = extent(s.gate, 1), rank = extent(s.gate_b, 1), slots = tokens * active;
  expect(active > 0, "slot_ffn: K >= 1");
  auto const fits = [&](View3<T const> const& b) {
    return b.extent(0) == s.gate_b.extent(0) && extent(b, 1) == rank && extent(b, 2) == width;
  };
  expect(fits(s.gate_b) && fits(s.up_b) && fits(s.down_a), "slot_ffn: matrices of the experts");
  expect_shape(s.gate, tokens, active, "slot_ffn: gate");
  expect_shape(s.expert, tokens, active, "slot_ffn: expert");
  expect_shape(s.offset, extent(s.gate_b, 0) + 1, "slot_ffn: offset");
  expect_shape(s.order, slots, "slot_ffn: order");
  expect_shape(s.place, slots, "slot_ffn: place");
  expect_shape(s.low, slots, 2 * rank, "slot_ffn: low");
  bool const masked = extent(s.mask, 0) > 0;
  if (masked) expect_shape(s.mask, tokens, width, "slot_ffn: mask");
  return {s.gate_b.data(),
          s.up_b.data(),
          s.down_a.data(),
          s.low.data(),
          masked ? s.mask.data() : nullptr,
          s.expert.data(),
          s.order.data(),
          s.place.data(),
          s.offset.data(),
          s.gate.data(),
          tokens,
          extent(s.gate_b, 0),
          active,
          rank,
          width};
}

// out[i] = base[i] + sum over r < 8 of x[r] b[r*stride + i], and the same with 4
template <class R, class B, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_eight(B const* base, T const* x, T const* b, Index stride, Index n,
                                           R* out) {
  R const x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3], x4 = x[4], x5 = x[5], x6 = x[6], x7 = x[7];
  T const *const b0 = b, *const b1 = b0 + stride, *const b2 = b1 + stride, *const b3 = b2 + stride,
                 *const b4 = b3 + stride, *const b5 = b4 + stride, *const b6 = b5 + stride,
                 *const b7 = b6 + stride;
#pragma omp simd
  for (Index i = 0; i < n; ++i) {
    R const even = R(base[i]) + x0 * R(b0[i]) + x2 * R(b2[i]) + x4 * R(b4[i]) + x6 * R(b6[i]);
    R const odd = x1 * R(b1[i]) + x3 * R(b3[i]) + x5 * R(b5[i]) + x7 * R(b7[i]);
    out[i] = even + odd;
  }
}

template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_one(R x, T const* b, Index n, R* out) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) out[i] += x * R(b[i]);
}

// out[i] = base[i] + sum over r of x[r] b[r*stride + i], on one thread
template <class R, class B, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_low_rank(B const* base, T const* x, Index rank, T const* b, Index stride,
                                              Index n, R* out) {
  Index r = 0;
  if (rank >= 8) {
    add_eight<R>(base, x, b, stride, n, out);
    for (r = 8; r + 8 <= rank; r += 8) add_eight<R>(out, x + r, b + r * stride, stride, n, out);
  } else {
#pragma omp simd
    for (Index i = 0; i < n; ++i) out[i] = R(base[i]);
  }
  for (; r < rank; ++r) add_one<R>(R(x[r]), b + r * stride, n, out);
}

// out[r] += dot(b[r], x), on one thread
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_dots(T const* b, Index stride, Index rank, R const* x, Index n, R* out) {
  Index r = 0;
  for (; r + 8 <= rank; r += 8) {
    T const *const b0 = b + r * stride, *const b1 = b0 + stride, *const b2 = b1 + stride,
                   *const b3 = b2 + stride, *const b4 = b3 + stride, *const b5 = b4 + stride,
                   *const b6 = b5 + stride, *const b7 = b6 + stride;
    R s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
    for (Index i = 0; i < n; ++i) {
      s0 += R(b0[i]) * x[i], s1 += R(b1[i]) * x[i], s2 += R(b2[i]) * x[i], s3 += R(b3[i]) * x[i];
      s4 += R(b4[i]) * x[i], s5 += R(b5[i]) * x[i], s6 += R(b6[i]) * x[i], s7 += R(b7[i]) * x[i];
    }
    out[r] += s0, out[r + 1] += s1, out[r + 2] += s2, out[r + 3] += s3;
    out[r + 4] += s4, out[r + 5] += s5, out[r + 6] += s6, out[r + 7] += s7;
  }
  for (; r < rank; ++r) {
    T const* const from = b + r * stride;
    R sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < n; ++i) sum += R(from[i]) * x[i];
    out[r] += sum;
  }
}

// base + sum over r of x[r] b[r*stride], on a device
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION R low_rank_element(R base, T const* x, Index rank, T const* b, Index stride) {
  for (Index r = 0; r < rank; ++r) base += R(x[r]) * R(b[r * stride]);
  return base;
}

// out[r] = dot(b[r], x), by the threads of a row
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void row_dots(Row const& row, T const* b, Index stride, Index rank, T const* x,
                                          Index n, R* out) {
  for (Index r = 0; r < rank; ++r) {
    T const* const from = b + r * stride;
    R const dot = row_sum<R>(row, n, [=](Index const i) { return R(from[i]) * R(x[i]); });
    row_once(row, [=] { out[r] = dot; });
  }
}

// Where gate and up, a slot's own, meet their derivatives.
template <class R>
struct Swiglu {
  R act, dgate, dup;  // silu(gate) * up; its derivatives
  KOKKOS_FORCEINLINE_FUNCTION Swiglu(R gate, R up) {
    R const sigmoid = R(1) / (R(1) + fast_exp(-gate));
    dup = gate * sigmoid;
    act = dup * up;
    dgate = up * sigmoid * (R(1) + gate * (R(1) - sigmoid));
  }
};

// Calls f(p, slot) for the slots of tokens [begin, end) of expert e.
template <class T, class F>
KOKKOS_FORCEINLINE_FUNCTION void for_slots(Slots<T> const& s, Index e, Index begin, Index end, F const& f) {
  Index p = s.offset[e], above = s.offset[e + 1];
  Index const last = above;
  while (p < above) {  // slots of an expert are in order
    Index const middle = p + (above - p) / 2;
    if (s.order[middle] < begin * s.active) {
      p = middle + 1;
    } else {
      above = middle;
    }
  }
  for (; p < last && s.order[p] < end * s.active; ++p) f(p, static_cast<Index>(s.order[p]));
}

// Asks for n elements that are wanted later: a row's stretches are too short for the processor to foresee
// them (a third of the time, measured).
template <class T>
KOKKOS_FORCEINLINE_FUNCTION void fetch(T const* x, Index n) {
#if defined(__GNUC__) && !defined(__CUDA_ARCH__) && !defined(__HIP_DEVICE_COMPILE__)
  constexpr Index kLine = 64 / static_cast<Index>(sizeof(T));
  for (Index i = 0; i < n; i += kLine) __builtin_prefetch(x + i);
#else
  (void)x, (void)n;
#endif
}

template <class R>
KOKKOS_FORCEINLINE_FUNCTION void set_zero(R* x, Index n) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) x[i] = 0;
}

template <class T>
KOKKOS_FORCEINLINE_FUNCTION void host_forward(Slots<T> const& s, Index block, T const* base, T* act,
                                              Real<T>* low2) {
  using R = Real<T>;
  Index const F = s.width, first = block * kTokens;
  Index const end = s.tokens - first < kTokens ? s.tokens : first + kTokens;
  for (Index slot = first * s.active; slot < end * s.active; ++slot) {
    set_zero(low2 + static_cast<Index>(s.place[slot]) * s.rank, s.rank);
  }
  alignas(64) R sum[kTokens * kStretch], gate[kStretch], up[kStretch];
  for (Index begin = 0; begin < F; begin += kStretch) {
    Index const n = F - begin < kStretch ? F - begin : kStretch;
    set_zero(sum, (end - first) * kStretch);
    for (Index e = 0; e < s.experts; ++e) {
      Index const at = e * s.rank * F + begin;
      for_slots(s, e, first, end, [&](Index const p, Index const slot) {
        Index const token = slot / s.active;
        T const *const base_gate = base + token * 2 * F + begin, *const low = s.low + p * 2 * s.rank;
        add_low_rank<R>(base_gate, low, s.rank, s.gate_b + at, F, n, gate);
        add_low_rank<R>(base_gate + F, low + s.rank, s.rank, s.up_b + at, F, n, up);
        Index const next = F - begin - n < n ? F - begin - n : n;
        fetch(base_gate + n, next);
        fetch(base_gate + F + n, next);
        R const g = s.gate[slot];
        R* const to = sum + (token - first) * kStretch;
#pragma omp simd
        for (Index i = 0; i < n; ++i) {
          R const a = gate[i] / (R(1) + fast_exp(-gate[i])) * up[i];
          to[i] += g * a;
          up[i] = a;
        }
        if (s.mask != nullptr) {
          T const* const mask = s.mask + token * F + begin;
#pragma omp simd
          for (Index i = 0; i < n; ++i) up[i] *= R(mask[i]);
        }
        add_dots<R>(s.down_a + at, F, s.rank, up, n, low2 + p * s.rank);
      });
    }
    for (Index token = first; token < end; ++token) {
      R const* const from = sum + (token - first) * kStretch;
      T* const to = act + token * F + begin;
#pragma omp simd
      for (Index i = 0; i < n; ++i) to[i] = T(from[i]);
    }
  }
}

template <class T>
KOKKOS_FORCEINLINE_FUNCTION void device_forward(Row const& row, Slots<T> const& s, Index token, T const* base,
                                                T* act, T* slot_act, Real<T>* low2) {
  using R = Real<T>;
  Index const F = s.width;
  T const* const mask = s.mask == nullptr ? nullptr : s.mask + token * F;
  row_for(row, F, [=](Index const f) {
    R sum = 0;
    for (Index k = 0; k < s.active; ++k) {
      Index const slot = token * s.active + k, p = s.place[slot];
      Index const at = s.expert[slot] * s.rank * F + f;
      T const* const low = s.low + p * 2 * s.rank;
      R const gate = low_rank_element(R(base[f]), low, s.rank, s.gate_b + at, F);
      R const up = low_rank_element(R(base[F + f]), low + s.rank, s.rank, s.up_b + at, F);
      R const a = gate / (R(1) + fast_exp(-gate)) * up;
      sum += s.gate[slot] * a;
      slot_act[p * F + f] = T(mask == nullptr ? a : R(mask[f]) * a);
    }
    act[f] = T(sum);
  });
  row_barrier(row);
  for (Index k = 0; k < s.active; ++k) {
    Index const slot = token * s.active + k, p = s.place[slot];
    row_dots<R>(row, s.down_a + s.expert[slot] * s.rank * F, F, s.rank, slot_act + p * F, F,
                low2 + p * s.rank);
  }
}

template <class T>
struct Gradients {
  T const *dact, *dlow2;
  T *base, *slot_act, *dslot;
  Real<T>*dlow, *dgate;
};

template <class T>
KOKKOS_FORCEINLINE_FUNCTION void host_backward(Slots<T> const& s, Index block, Gradients<T> const& d) {
  using R = Real<T>;
  Index const F = s.width, first = block * kTokens;
  Index const end = s.tokens - first < kTokens ? s.tokens : first + kTokens;
  for (Index slot = first * s.active; slot < end * s.active; ++slot) {
    set_zero(d.dlow + static_cast<Index>(s.place[slot]) * 2 * s.rank, 2 * s.rank);
  }
  alignas(64) R gate_sum[kTokens * kStretch], up_sum[kTokens * kStretch];
  alignas(64) R gate[kStretch], up[kStretch], extra[kStretch];
  for (Index begin = 0; begin < F; begin += kStretch) {
    Index const n = F - begin < kStretch ? F - begin : kStretch;
    set_zero(gate_sum, (end - first) * kStretch);
    set_zero(up_sum, (end - first) * kStretch);
    for (Index e = 0; e < s.experts; ++e) {
      Index const at = e * s.rank * F + begin;
      for_slots(s, e, first, end, [&](Index const p, Index const slot) {
        Index const token = slot / s.active;
        T const *const base_gate = d.base + token * 2 * F + begin, *const low = s.low + p * 2 * s.rank;
        add_low_rank<R>(base_gate, low, s.rank, s.gate_b + at, F, n, gate);
        add_low_rank<R>(base_gate + F, low + s.rank, s.rank, s.up_b + at, F, n, up);
        Index const next = F - begin - n < n ? F - begin - n : n;
        fetch(base_gate + n, next);
        fetch(base_gate + F + n, next);
        fetch(d.dact + token * F + begin + n, next);
        set_zero(extra, n);
        add_low_rank<R>(extra, d.dlow2 + p * s.rank, s.rank, s.down_a + at, F, n, extra);
        T const* const mask = s.mask == nullptr ? nullptr : s.mask + token * F + begin;
        if (mask != nullptr) {
#pragma omp simd
          for (Index i = 0; i < n; ++i) extra[i] *= R(mask[i]);
        }
        T const* const dact = d.dact + token * F + begin;
        T *const a = d.slot_act + p * F + begin, *const dgate = d.dslot + p * 2 * F + begin;
        T* const dup = dgate + F;
        R *const gate_to = gate_sum + (token - first) * kStretch, *const up_to =
                                                                      up_sum + (gate_to - gate_sum);
        R const g = s.gate[slot];
        R dot = 0;
#pragma omp simd reduction(+ : dot)
        for (Index i = 0; i < n; ++i) {
          Swiglu<R> const swiglu(gate[i], up[i]);
          R const from_act = R(dact[i]);
          R const da = g * from_act + extra[i];
          R const dg = da * swiglu.dgate, du = da * swiglu.dup;
          dot += from_act * swiglu.act;
          a[i] = T(swiglu.act);
          gate[i] = dg;
          up[i] = du;
          dgate[i] = T(dg);
          dup[i] = T(du);
          gate_to[i] += dg;
          up_to[i] += du;
        }
        if (mask != nullptr) {
#pragma omp simd
          for (Index i = 0; i < n; ++i) a[i] = T(R(mask[i]) * R(a[i]));
        }
        d.dgate[slot] += dot;
        add_dots<R>(s.gate_b + at, F, s.rank, gate, n, d.dlow + p * 2 * s.rank);
        add_dots<R>(s.up_b + at, F, s.rank, up, n, d.dlow + p * 2 * s.rank + s.rank);
      });
    }
    for (Index token = first; token < end; ++token) {
      R const *const gate_from = gate_sum + (token - first) * kStretch, *const up_from =
                                                                            up_sum +
                                                                            (token - first) * kStretch;
      T *const to = d.base + token * 2 * F + begin, *const up_to = to + F;
#pragma omp simd
      for (Index i = 0; i < n; ++i) {
        to[i] = T(gate_from[i]);
        up_to[i] = T(up_from[i]);
      }
    }
  }
}

template <class T>
KOKKOS_FORCEINLINE_FUNCTION void device_backward(Row const& row, Slots<T> const& s, Index token,
                                                 Gradients<T> const& d) {
  using R = Real<T>;
  Index const F = s.width;
  T const* const mask = s.mask == nullptr ? nullptr : s.mask + token * F;
  T const* const dact = d.dact + token * F;
  T* const base = d.base + token * 2 * F;
  // The router's gradients need a unmasked: one slot after the other, before base is overwritten.
  for (Index k = 0; k < s.active; ++k) {
    Index const slot = token * s.active + k, p = s.place[slot];
    Index const expert = s.expert[slot] * s.rank * F;
    T const* const low = s.low + p * 2 * s.rank;
    T const* const dlow2 = d.dlow2 + p * s.rank;
    R const g = s.gate[slot];
    R const dot = row_sum<R>(row, F, [=](Index const f) {
      R const gate = low_rank_element(R(base[f]), low, s.rank, s.gate_b + expert + f, F);
      R const up = low_rank_element(R(base[F + f]), low + s.rank, s.rank, s.up_b + expert + f, F);
      R const extra = low_rank_element(R(0), dlow2, s.rank, s.down_a + expert + f, F);
      R const kept = mask == nullptr ? R(1) : R(mask[f]);
      Swiglu<R> const swiglu(gate, up);
      R const da = g * R(dact[f]) + kept * extra;
      d.slot_act[p * F + f] = T(kept * swiglu.act);
      d.dslot[p * 2 * F + f] = T(da * swiglu.dgate);
      d.dslot[p * 2 * F + F + f] = T(da * swiglu.dup);
      return R(dact[f]) * swiglu.act;
    });
    row_once(row, [=] { d.dgate[slot] += dot; });
    row_barrier(row);
    row_dots<R>(row, s.gate_b + expert, F, s.rank, d.dslot + p * 2 * F, F, d.dlow + p * 2 * s.rank);
    row_dots<R>(row, s.up_b + expert, F, s.rank, d.dslot + p * 2 * F + F, F,
                d.dlow + p * 2 * s.rank + s.rank);
  }
  row_for(row, F, [=](Index const f) {
    R gate_sum = 0, up_sum = 0;
    for (Index k = 0; k < s.active; ++k) {
      T const* const from = d.dslot + static_cast<Index>(s.place[token * s.active + k]) * 2 * F;
      gate_sum += R(from[f]);
      up_sum += R(from[F + f]);
    }
    base[f] = T(gate_sum);
    base[F + f] = T(up_sum);
  });
}

template <class T>
KOKKOS_FORCEINLINE_FUNCTION void row_forward(Row const& row, Slots<T> const& s, T const* base, T* act,
                                             T* slot_act, Real<T>* low2) {
  if constexpr (kHostRows) {
    (void)slot_act;
    host_forward(s, row_index(row), base, act, low2);
  } else {
    Index const n = row_index(row);
    device_forward(row, s, n, base + n * 2 * s.width, act + n * s.width, slot_act, low2);
  }
}

template <class T>
KOKKOS_FORCEINLINE_FUNCTION void row_backward(Row const& row, Slots<T> const& s, Gradients<T> const& d) {
  if constexpr (kHostRows) {
    host_backward(s, row_index(row), d);
  } else {
    device_backward(row, s, row_index(row), d);
  }
}

Index rows_of(Index tokens) { return kHostRows ? (tokens + kTokens - 1) / kTokens : tokens; }

}  // namespace

template <class T>
void slot_ffn_forward(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& base,
                      View2<T> const& act, View2<T> const& slot_act, View2<Real<T>> const& low2) {
  Index const tokens = extent(act, 0), width = extent(act, 1);
  Slots<T> const s = checked(slots, tokens, width);
  expect_shape(base, tokens, 2 * width, "slot_ffn_forward: base");
  if (!kHostRows) expect_shape(slot_act, tokens * s.active, width, "slot_ffn_forward: slot_act");
  expect_shape(low2, tokens * s.active, s.rank, "slot_ffn_forward: low2");
  T const* const b = base.data();
  T *const a = act.data(), *const each = slot_act.data();
  Real<T>* const l = low2.data();
  Kokkos::parallel_for(
      "upit::slot_ffn_forward", row_policy(exec, rows_of(tokens), width),
      KOKKOS_LAMBDA(Row const& row) { row_forward<T>(row, s, b, a, each, l); });
}

template <class T>
void slot_ffn_backward(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& dact,
                       View2<T const> const& dlow2, View2<T> const& base, View2<T> const& slot_act,
                       View2<T> const& dslot, View2<Real<T>> const& dlow, View2<Real<T>> const& dgate) {
  Index const tokens = extent(dact, 0), width = extent(dact, 1);
  Slots<T> const s = checked(slots, tokens, width);
  Index const count = tokens * s.active;
  expect_shape(dlow2, count, s.rank, "slot_ffn_backward: dlow2");
  expect_shape(base, tokens, 2 * width, "slot_ffn_backward: base");
  expect_shape(slot_act, count, width, "slot_ffn_backward: slot_act");
  expect_shape(dslot, count, 2 * width, "slot_ffn_backward: dslot");
  expect_shape(dlow, count, 2 * s.rank, "slot_ffn_backward: dlow");
  expect_shape(dgate, tokens, s.active, "slot_ffn_backward: dgate");
  Gradients<T> const d = {dact.data(),  dlow2.data(), base.data(), slot_act.data(),
                          dslot.data(), dlow.data(),  dgate.data()};
  Kokkos::parallel_for(
      "upit::slot_ffn_backward", row_policy(exec, rows_of(tokens), width),
      KOKKOS_LAMBDA(Row const& row) { row_backward<T>(row, s, d); });
}

#define UPIT_INSTANTIATE(T)                                                                                 \
  template void slot_ffn_forward<T>(Exec const&, SlotFfn<T> const&, View2<T const> const&, View2<T> const&, \
                                    View2<T> const&, View2<Real<T>> const&);                                \
  template void slot_ffn_backward<T>(Exec const&, SlotFfn<T> const&, View2<T const> const&,                 \
                                     View2<T const> const&, View2<T> const&, View2<T> const&,               \
                                     View2<T> const&, View2<Real<T>> const&, View2<Real<T>> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
