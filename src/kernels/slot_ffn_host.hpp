// SPDX-License-Identifier: Apache-2.0
// Owns the slot_ffn kernels' body of hosts: a thread takes a block of tokens, a stretch of columns at a time,
// and the slots of that block expert after expert, two slots at once. All experts' matrices pass the
// second-level cache once a block; a stretch of an expert's stays in the first level, and what the slots of a
// token add to in the second.
#pragma once

#include "slot_ffn_slots.hpp"

namespace upit::kernels::slots {

constexpr Index kTokens = 64;    // of a block
constexpr Index kStretch = 192;  // columns: R rows of them, of an expert's matrix, fit the first-level cache

// Columns of a stretch: equal shares of the width, in whole vectors.
inline Index stretch_of(Index width) {
  constexpr Index kVector = 16;
  Index const count = width > kStretch ? (width + kStretch - 1) / kStretch : 1;
  Index const share = (width + count - 1) / count;
  return (share + kVector - 1) / kVector * kVector;
}

// Two slots of one expert share the loads of its matrices.
template <class P>
struct Pair {
  P a, b;
};

// out[i] = base[i] + sum over r < 8 of x[r] b[r*stride + i]
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

// The same for two slots.
template <class R, class B, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_eight(Pair<B const*> base, Pair<T const*> x, T const* b, Index stride,
                                           Index n, Pair<R*> out) {
  R const x0 = x.a[0], x1 = x.a[1], x2 = x.a[2], x3 = x.a[3], x4 = x.a[4], x5 = x.a[5], x6 = x.a[6],
          x7 = x.a[7];
  R const y0 = x.b[0], y1 = x.b[1], y2 = x.b[2], y3 = x.b[3], y4 = x.b[4], y5 = x.b[5], y6 = x.b[6],
          y7 = x.b[7];
  T const *const b0 = b, *const b1 = b0 + stride, *const b2 = b1 + stride, *const b3 = b2 + stride,
                 *const b4 = b3 + stride, *const b5 = b4 + stride, *const b6 = b5 + stride,
                 *const b7 = b6 + stride;
  B const *const base_a = base.a, *const base_b = base.b;
  R *const out_a = out.a, *const out_b = out.b;
  // A vector at a time through local arrays: of one loop with two results, GCC makes two loops.
  auto const add = [&](Index const i, Index const count) {
    R sum_a[Lanes<R, 64>::kCount], sum_b[Lanes<R, 64>::kCount];
#pragma omp simd
    for (Index l = 0; l < count; ++l) {
      R const c0 = b0[i + l], c1 = b1[i + l], c2 = b2[i + l], c3 = b3[i + l], c4 = b4[i + l], c5 = b5[i + l],
              c6 = b6[i + l], c7 = b7[i + l];
      R const even_a = R(base_a[i + l]) + x0 * c0 + x2 * c2 + x4 * c4 + x6 * c6;
      R const odd_a = x1 * c1 + x3 * c3 + x5 * c5 + x7 * c7;
      R const even_b = R(base_b[i + l]) + y0 * c0 + y2 * c2 + y4 * c4 + y6 * c6;
      R const odd_b = y1 * c1 + y3 * c3 + y5 * c5 + y7 * c7;
      sum_a[l] = even_a + odd_a;
      sum_b[l] = even_b + odd_b;
    }
#pragma omp simd
    for (Index l = 0; l < count; ++l) out_a[i + l] = sum_a[l];
#pragma omp simd
    for (Index l = 0; l < count; ++l) out_b[i + l] = sum_b[l];
  };
  constexpr Index kCount = Lanes<R, 64>::kCount;
  Index i = 0;
  for (; i + kCount <= n; i += kCount) add(i, kCount);
  if (i < n) add(i, n - i);
}

// out[i] = base[i] + sum over r of x[r] b[r*stride + i]
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
  for (; r < rank; ++r) {
    R const factor = x[r];
    T const* const from = b + r * stride;
#pragma omp simd
    for (Index i = 0; i < n; ++i) out[i] += factor * R(from[i]);
  }
}

template <class R, class B, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_low_rank(Pair<B const*> base, Pair<T const*> x, Index rank, T const* b,
                                              Index stride, Index n, Pair<R*> out) {
  if (rank % 8 != 0) {
    add_low_rank<R>(base.a, x.a, rank, b, stride, n, out.a);
    add_low_rank<R>(base.b, x.b, rank, b, stride, n, out.b);
    return;
  }
  add_eight<R, B, T>(base, x, b, stride, n, out);
  for (Index r = 8; r < rank; r += 8) {
    add_eight<R, R, T>({out.a, out.b}, {x.a + r, x.b + r}, b + r * stride, stride, n, out);
  }
}

// A vector of partial sums for each of eight rows.
template <class R>
struct EightSums {
  Lanes<R, 64> s0{R(0)}, s1{R(0)}, s2{R(0)}, s3{R(0)}, s4{R(0)}, s5{R(0)}, s6{R(0)}, s7{R(0)};

  KOKKOS_FORCEINLINE_FUNCTION void add_to(R* out) {
    out[0] += s0.sum(), out[1] += s1.sum(), out[2] += s2.sum(), out[3] += s3.sum();
    out[4] += s4.sum(), out[5] += s5.sum(), out[6] += s6.sum(), out[7] += s7.sum();
  }
};

// out[r] += dot(b[r], x) for r < 8
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_eight_dots(T const* b, Index stride, R const* x, Index n, R* out) {
  T const *const b0 = b, *const b1 = b0 + stride, *const b2 = b1 + stride, *const b3 = b2 + stride,
                 *const b4 = b3 + stride, *const b5 = b4 + stride, *const b6 = b5 + stride,
                 *const b7 = b6 + stride;
  EightSums<R> s;
  auto const add = [&](Index const i, Index const count) {
#pragma omp simd
    for (Index l = 0; l < count; ++l) {
      R const v = x[i + l];
      s.s0.lane[l] += R(b0[i + l]) * v, s.s1.lane[l] += R(b1[i + l]) * v, s.s2.lane[l] += R(b2[i + l]) * v,
          s.s3.lane[l] += R(b3[i + l]) * v, s.s4.lane[l] += R(b4[i + l]) * v,
          s.s5.lane[l] += R(b5[i + l]) * v, s.s6.lane[l] += R(b6[i + l]) * v,
          s.s7.lane[l] += R(b7[i + l]) * v;
    }
  };
  constexpr Index kCount = Lanes<R, 64>::kCount;
  Index i = 0;
  for (; i + kCount <= n; i += kCount) add(i, kCount);
  add(i, n - i);
  s.add_to(out);
}

// The same for two slots.
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_eight_dots(T const* b, Index stride, Pair<R const*> x, Index n,
                                                Pair<R*> out) {
  T const *const b0 = b, *const b1 = b0 + stride, *const b2 = b1 + stride, *const b3 = b2 + stride,
                 *const b4 = b3 + stride, *const b5 = b4 + stride, *const b6 = b5 + stride,
                 *const b7 = b6 + stride;
  R const *const x_a = x.a, *const x_b = x.b;
  EightSums<R> s, t;
  auto const add = [&](Index const i, Index const count) {
#pragma omp simd
    for (Index l = 0; l < count; ++l) {
      R const v = x_a[i + l], w = x_b[i + l];
      R const c0 = b0[i + l], c1 = b1[i + l], c2 = b2[i + l], c3 = b3[i + l], c4 = b4[i + l], c5 = b5[i + l],
              c6 = b6[i + l], c7 = b7[i + l];
      s.s0.lane[l] += c0 * v, s.s1.lane[l] += c1 * v, s.s2.lane[l] += c2 * v, s.s3.lane[l] += c3 * v,
          s.s4.lane[l] += c4 * v, s.s5.lane[l] += c5 * v, s.s6.lane[l] += c6 * v, s.s7.lane[l] += c7 * v;
      t.s0.lane[l] += c0 * w, t.s1.lane[l] += c1 * w, t.s2.lane[l] += c2 * w, t.s3.lane[l] += c3 * w,
          t.s4.lane[l] += c4 * w, t.s5.lane[l] += c5 * w, t.s6.lane[l] += c6 * w, t.s7.lane[l] += c7 * w;
    }
  };
  constexpr Index kCount = Lanes<R, 64>::kCount;
  Index i = 0;
  for (; i + kCount <= n; i += kCount) add(i, kCount);
  if (i < n) add(i, n - i);
  s.add_to(out.a);
  t.add_to(out.b);
}

// out[r] += dot(b[r], x)
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_dots(T const* b, Index stride, Index rank, R const* x, Index n, R* out) {
  Index r = 0;
  for (; r + 8 <= rank; r += 8) add_eight_dots<R>(b + r * stride, stride, x, n, out + r);
  for (; r < rank; ++r) {
    T const* const from = b + r * stride;
    out[r] += row_sum<R>(Index{0}, n, [=](Index const i) { return R(from[i]) * x[i]; });
  }
}

template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void add_dots(T const* b, Index stride, Index rank, Pair<R const*> x, Index n,
                                          Pair<R*> out) {
  if (rank % 8 != 0) {
    add_dots<R>(b, stride, rank, x.a, n, out.a);
    add_dots<R>(b, stride, rank, x.b, n, out.b);
    return;
  }
  for (Index r = 0; r < rank; r += 8) {
    add_eight_dots<R, T>(b + r * stride, stride, x, n, {out.a + r, out.b + r});
  }
}

// First sorted place of expert e whose slot is not below `slot`: slots of an expert are in order.
template <class T>
KOKKOS_FORCEINLINE_FUNCTION Index first_place(Slots<T> const& s, Index e, Index slot) {
  Index p = s.offset[e], above = s.offset[e + 1];
  while (p < above) {
    Index const middle = p + (above - p) / 2;
    if (s.order[middle] < slot) {
      p = middle + 1;
    } else {
      above = middle;
    }
  }
  return p;
}

template <class R>
KOKKOS_FORCEINLINE_FUNCTION void set_zero(R* x, Index n) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) x[i] = 0;
}

// sum += g act of one slot; mask * act takes the place of up.
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION void act_of_slot(R const* gate, R* up, R g, T const* mask, Index n, R* sum) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) {
    R const a = gate[i] / (R(1) + fast_exp(-gate[i])) * up[i];
    sum[i] += g * a;
    up[i] = a;
  }
  if (mask != nullptr) {
#pragma omp simd
    for (Index i = 0; i < n; ++i) up[i] *= R(mask[i]);
  }
}

template <class T>
inline void host_forward(Slots<T> const& s, Index block, T const* base, T* act, Real<T>* low2) {
  using R = Real<T>;
  Index const F = s.width, rank = s.rank, first = block * kTokens;
  Index const end = s.tokens - first < kTokens ? s.tokens : first + kTokens;
  for (Index slot = first * s.active; slot < end * s.active; ++slot) {
    set_zero(low2 + static_cast<Index>(s.place[slot]) * rank, rank);
  }
  alignas(64) R sum[kTokens * kStretch], gate[2 * kStretch], up[2 * kStretch];
  Pair<R*> const gates = {gate, gate + kStretch}, ups = {up, up + kStretch};
  Index const stretch = stretch_of(F);
  for (Index begin = 0; begin < F; begin += stretch) {
    Index const n = F - begin < stretch ? F - begin : stretch;
    Index const next = F - begin - n < n ? F - begin - n : n;
    set_zero(sum, (end - first) * kStretch);
    auto const finish = [&](Index const slot, R const* g, R* u) {
      Index const token = slot / s.active;
      T const* const from = base + token * 2 * F + begin;
      fetch(from + n, next);
      fetch(from + F + n, next);
      act_of_slot(g, u, s.gate[slot], s.mask == nullptr ? nullptr : s.mask + token * F + begin, n,
                  sum + (token - first) * kStretch);
    };
    for (Index e = 0; e < s.experts; ++e) {
      Index const at = e * rank * F + begin, last = first_place(s, e, end * s.active);
      T const *const gate_b = s.gate_b + at, *const up_b = s.up_b + at, *const down_a = s.down_a + at;
      Index p = first_place(s, e, first * s.active);
      for (; p + 2 <= last; p += 2) {
        Index const slot = s.order[p], other = s.order[p + 1];
        T const *const from = base + slot / s.active * 2 * F + begin, *const from_other =
                                                                          base + other / s.active * 2 * F +
                                                                          begin;
        T const *const low = s.low + p * 2 * rank, *const low_other = low + 2 * rank;
        add_low_rank<R, T, T>({from, from_other}, {low, low_other}, rank, gate_b, F, n, gates);
        add_low_rank<R, T, T>({from + F, from_other + F}, {low + rank, low_other + rank}, rank, up_b, F, n,
                              ups);
        finish(slot, gates.a, ups.a);
        finish(other, gates.b, ups.b);
        add_dots<R, T>(down_a, F, rank, {ups.a, ups.b}, n, {low2 + p * rank, low2 + (p + 1) * rank});
      }
      if (p < last) {
        Index const slot = s.order[p];
        T const *const from = base + slot / s.active * 2 * F + begin, *const low = s.low + p * 2 * rank;
        add_low_rank<R>(from, low, rank, gate_b, F, n, gate);
        add_low_rank<R>(from + F, low + rank, rank, up_b, F, n, up);
        finish(slot, gate, up);
        add_dots<R>(down_a, F, rank, up, n, low2 + p * rank);
      }
    }
    for (Index token = first; token < end; ++token) {
      R const* const from = sum + (token - first) * kStretch;
      T* const to = act + token * F + begin;
#pragma omp simd
      for (Index i = 0; i < n; ++i) to[i] = T(from[i]);
    }
  }
}

// Gradients of one slot from its gate, up and dlow2 down_a (`extra`); the first two take the place of gate
// and up. Returns dact . act.
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION R gradients_of_slot(R* gate, R* up, R* extra, R g, T const* mask, T const* dact,
                                                Index n, T* act, T* dgate, T* dup, R* gate_sum, R* up_sum) {
  if (mask != nullptr) {
#pragma omp simd
    for (Index i = 0; i < n; ++i) extra[i] *= R(mask[i]);
  }
  Lanes<R, 64> dot(R(0));
  dot.walk(n, [=](Index const i, R const sum) {
    Swiglu<R> const swiglu(gate[i], up[i]);
    R const from_act = R(dact[i]);
    R const da = g * from_act + extra[i];
    R const dg = da * swiglu.dgate, du = da * swiglu.dup;
    act[i] = T(swiglu.act);
    gate[i] = dg;
    up[i] = du;
    dgate[i] = T(dg);
    dup[i] = T(du);
    gate_sum[i] += dg;
    up_sum[i] += du;
    return sum + from_act * swiglu.act;
  });
  if (mask != nullptr) {
#pragma omp simd
    for (Index i = 0; i < n; ++i) act[i] = T(R(mask[i]) * R(act[i]));
  }
  return dot.sum();
}

template <class T>
inline void host_backward(Slots<T> const& s, Index block, Gradients<T> const& d) {
  using R = Real<T>;
  Index const F = s.width, rank = s.rank, slots = s.tokens * s.active, first = block * kTokens;
  Index const end = s.tokens - first < kTokens ? s.tokens : first + kTokens;
  for (Index slot = first * s.active; slot < end * s.active; ++slot) {
    set_zero(d.dlow + static_cast<Index>(s.place[slot]) * 2 * rank, 2 * rank);
  }
  alignas(64) R gate_sum[kTokens * kStretch], up_sum[kTokens * kStretch];
  alignas(64) R gate[2 * kStretch], up[2 * kStretch], extra[2 * kStretch];
  Pair<R*> const gates = {gate, gate + kStretch}, ups = {up, up + kStretch},
                 extras = {extra, extra + kStretch};
  Index const stretch = stretch_of(F);
  for (Index begin = 0; begin < F; begin += stretch) {
    Index const n = F - begin < stretch ? F - begin : stretch;
    Index const next = F - begin - n < n ? F - begin - n : n;
    set_zero(gate_sum, (end - first) * kStretch);
    set_zero(up_sum, (end - first) * kStretch);
    auto const finish = [&](Index const p, Index const slot, R* g, R* u, R* x)
        __attribute__((always_inline)) {
      Index const token = slot / s.active, row = (token - first) * kStretch;
      T const* const from = d.base + token * 2 * F + begin;
      T const* const dact = d.dact + token * F + begin;
      fetch(from + n, next);
      fetch(from + F + n, next);
      fetch(dact + n, next);
      T* const dgate = d.dslot + p * 2 * F + begin;
      Index const soon = p + 2;
      if (soon < slots) {
        fetch_to_write(d.slot_act + soon * F + begin, n);
        fetch_to_write(d.dslot + soon * 2 * F + begin, n);
        fetch_to_write(d.dslot + soon * 2 * F + F + begin, n);
      }
      d.dgate[slot] += gradients_of_slot(
          g, u, x, s.gate[slot], s.mask == nullptr ? nullptr : s.mask + token * F + begin, dact, n,
          d.slot_act + p * F + begin, dgate, dgate + F, gate_sum + row, up_sum + row);
    };
    for (Index e = 0; e < s.experts; ++e) {
      Index const at = e * rank * F + begin, last = first_place(s, e, end * s.active);
      T const *const gate_b = s.gate_b + at, *const up_b = s.up_b + at, *const down_a = s.down_a + at;
      Index p = first_place(s, e, first * s.active);
      for (; p + 2 <= last; p += 2) {
        Index const slot = s.order[p], other = s.order[p + 1];
        T const *const from = d.base + slot / s.active * 2 * F + begin, *const from_other =
                                                                            d.base +
                                                                            other / s.active * 2 * F + begin;
        T const *const low = s.low + p * 2 * rank, *const low_other = low + 2 * rank;
        add_low_rank<R, T, T>({from, from_other}, {low, low_other}, rank, gate_b, F, n, gates);
        add_low_rank<R, T, T>({from + F, from_other + F}, {low + rank, low_other + rank}, rank, up_b, F, n,
                              ups);
        T const *const dlow2 = d.dlow2 + p * rank, *const dlow2_other = dlow2 + rank;
        set_zero(extra, 2 * kStretch);
        add_low_rank<R, R, T>({extras.a, extras.b}, {dlow2, dlow2_other}, rank, down_a, F, n, extras);
        finish(p, slot, gates.a, ups.a, extras.a);
        finish(p + 1, other, gates.b, ups.b, extras.b);
        R *const dlow = d.dlow + p * 2 * rank, *const dlow_other = dlow + 2 * rank;
        add_dots<R, T>(gate_b, F, rank, {gates.a, gates.b}, n, {dlow, dlow_other});
        add_dots<R, T>(up_b, F, rank, {ups.a, ups.b}, n, {dlow + rank, dlow_other + rank});
      }
      if (p < last) {
        Index const slot = s.order[p];
        T const *const from = d.base + slot / s.active * 2 * F + begin, *const low = s.low + p * 2 * rank;
        R* const dlow = d.dlow + p * 2 * rank;
        add_low_rank<R>(from, low, rank, gate_b, F, n, gate);
        add_low_rank<R>(from + F, low + rank, rank, up_b, F, n, up);
        set_zero(extra, n);
        add_low_rank<R>(extra, d.dlow2 + p * rank, rank, down_a, F, n, extra);
        finish(p, slot, gate, up, extra);
        add_dots<R>(gate_b, F, rank, gate, n, dlow);
        add_dots<R>(up_b, F, rank, up, n, dlow + rank);
      }
    }
    for (Index token = first; token < end; ++token) {
      Index const row = (token - first) * kStretch;
      R const *const gate_from = gate_sum + row, *const up_from = up_sum + row;
      T *const to = d.base + token * 2 * F + begin, *const up_to = to + F;
#pragma omp simd
      for (Index i = 0; i < n; ++i) {
        to[i] = T(gate_from[i]);
        up_to[i] = T(up_from[i]);
      }
    }
  }
}

}  // namespace upit::kernels::slots
