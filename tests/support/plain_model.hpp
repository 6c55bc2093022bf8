// SPDX-License-Identifier: Apache-2.0
// Owns the model as plain loops in double over one sample: what the fast one is compared with. No products,
// no blocks, no batches, no shared code beyond names and shapes.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "upit/model/parameters.hpp"

namespace upit::test {

class PlainModel {
 public:
  using Vector = std::vector<double>;

  PlainModel(ModelConfig const& model, ExpertConfig const& expert, ParameterTable const& table,
             Weights<double> const& weights)
      : m_(model), e_(expert), table_(&table) {
    for (auto const& [to, from] :
         {std::pair(&w_.backbone, &weights.backbone), std::pair(&w_.expert, &weights.expert),
          std::pair(&w_.router, &weights.router)}) {
      *to = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), *from);
    }
  }

  /// Logits of every position of a sample.
  std::vector<Vector> logits(std::vector<int> const& token) const {
    std::vector<Vector> x;
    double const* const embedding = tensor("embedding");
    for (int const t : token) x.emplace_back(embedding + t * m_.width, embedding + (t + 1) * m_.width);
    for (int l = 0; l < m_.layers; ++l) {
      attend(l, x);
      for (auto& row : x) add(ffn(l, norm(row, tensor(l, "ffn_norm"))), row);
    }
    std::vector<Vector> out;
    double const* const head = tensor(m_.tied ? "embedding" : "head");
    for (auto const& row : x) out.push_back(multiply(head, m_.vocabulary, norm(row, tensor("norm"))));
    return out;
  }

  /// Nats of every target >= 0 of a sample, in order.
  Vector nll(std::vector<int> const& token, std::vector<int> const& target) const {
    auto const rows = logits(token);
    Vector out;
    for (std::size_t n = 0; n < rows.size(); ++n) {
      if (target[n] < 0) continue;
      double sum = 0.0;
      for (double const s : rows[n]) sum += std::exp(s);
      out.push_back(std::log(sum) - rows[n][static_cast<std::size_t>(target[n])]);
    }
    return out;
  }

 private:
  double const* tensor(Tensor const& t) const {
    auto const& buffer = t.group == Group::backbone ? w_.backbone
                         : t.group == Group::expert ? w_.expert
                                                    : w_.router;
    return buffer.data() + t.offset;
  }
  double const* tensor(char const* name) const { return tensor(table_->find(name)); }
  double const* tensor(int l, char const* rest) const { return tensor(table_->find(l, rest)); }

  static void add(Vector const& y, Vector& x) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  /// W x with W (rows, x.size()).
  static Vector multiply(double const* w, Index rows, Vector const& x) {
    Vector y(static_cast<std::size_t>(rows));
    for (auto& value : y) {
      value = std::inner_product(x.begin(), x.end(), w, 0.0);
      w += x.size();
    }
    return y;
  }
  Vector norm(Vector const& x, double const* weight) const {
    double const square = std::inner_product(x.begin(), x.end(), x.begin(), 0.0);
    double const rms = std::sqrt(square / static_cast<double>(x.size()) + m_.norm_eps);
    Vector y(x);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] *= weight[i] / rms;
    return y;
  }

  /// Half-split convention: channel i turns with channel i + D/2.
  void turn(double* head, Index position) const {
    Index const half = m_.head_width / 2;
    for (Index i = 0; i < half; ++i) {
      double const angle =
          static_cast<double>(position) *
          std::pow(m_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(2 * half));
      double const a = head[i], b = head[i + half];
      head[i] = a * std::cos(angle) - b * std::sin(angle);
      head[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }

  void attend(int l, std::vector<Vector>& x) const {
    Index const d = m_.head_width, heads = m_.heads, groups = m_.kv_heads;
    std::vector<Vector> qkv, out;
    for (std::size_t n = 0; n < x.size(); ++n) {
      qkv.push_back(multiply(tensor(l, "attention.qkv"), (heads + 2 * groups) * d,
                             norm(x[n], tensor(l, "attention_norm"))));
      for (Index h = 0; h < heads + groups; ++h) turn(qkv[n].data() + h * d, static_cast<Index>(n));
    }
    for (std::size_t n = 0; n < x.size(); ++n) {
      Vector attended(static_cast<std::size_t>(heads * d), 0.0);
      for (Index h = 0; h < heads; ++h) {
        Index const g = h / (heads / groups);
        double const* const q = qkv[n].data() + h * d;
        Vector p;
        for (std::size_t k = 0; k <= n; ++k) {
          double const score = std::inner_product(q, q + d, qkv[k].data() + (heads + g) * d, 0.0);
          p.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
        }
        double const sum = std::accumulate(p.begin(), p.end(), 0.0);
        for (std::size_t k = 0; k <= n; ++k) {
          double const* const v = qkv[k].data() + (heads + groups + g) * d;
          for (Index i = 0; i < d; ++i) attended[static_cast<std::size_t>(h * d + i)] += p[k] / sum * v[i];
        }
      }
      out.push_back(multiply(tensor(l, "attention.out"), m_.width, attended));
    }
    for (std::size_t n = 0; n < x.size(); ++n) add(out[n], x[n]);
  }

  /// (alpha/r) B_e A_e x; `a_row`: first row of A in the expert's block of `a_rows`; B stored transposed.
  Vector low_rank(int l, Index e, char const* a, Index a_row, Index a_rows, char const* b, Index out_width,
                  Vector const& x) const {
    Vector const low =
        multiply(tensor(l, a) + (e * a_rows + a_row) * static_cast<Index>(x.size()), e_.rank, x);
    double const* const rows = tensor(l, b) + e * e_.rank * out_width;
    Vector y(static_cast<std::size_t>(out_width), 0.0);
    for (Index r = 0; r < e_.rank; ++r) {
      for (Index i = 0; i < out_width; ++i) {
        y[static_cast<std::size_t>(i)] +=
            e_.scale() * low[static_cast<std::size_t>(r)] * rows[r * out_width + i];
      }
    }
    return y;
  }

  /// Gate of every expert; zero where not chosen.
  Vector gates(int l, Vector const& h) const {
    if (e_.router != RouterUse::gate) return Vector(static_cast<std::size_t>(e_.count), 1.0);
    Vector const s = multiply(tensor(l, "router"), e_.count, h);
    std::vector<std::size_t> by_logit(s.size());
    std::iota(by_logit.begin(), by_logit.end(), std::size_t{0});
    std::stable_sort(by_logit.begin(), by_logit.end(), [&](auto a, auto b) { return s[a] > s[b]; });
    bool const first = e_.order == RouterOrder::softmax_topk;
    double sum = 0.0;
    for (std::size_t i = 0; i < s.size(); ++i) {
      if (first || static_cast<Index>(i) < e_.active) sum += std::exp(s[by_logit[i]]);
    }
    Vector gate(s.size(), 0.0);
    for (std::size_t i = 0; i < static_cast<std::size_t>(e_.active); ++i) {
      double const whole = first ? static_cast<double>(e_.count) / static_cast<double>(e_.active) : 1.0;
      gate[by_logit[i]] = whole * std::exp(s[by_logit[i]]) / sum;
    }
    return gate;
  }

  Vector ffn(int l, Vector const& h) const {
    if (e_.count == 0) return one_ffn(l, h, {});
    Vector const gate = gates(l, h);
    if (e_.kind == ExpertKind::ffn) return ffn_experts(l, h, gate);
    if (e_.mix == LoraMix::branch) return one_ffn(l, h, gate);
    Vector sum(h.size(), 0.0);
    for (std::size_t e = 0; e < gate.size(); ++e) {
      if (gate[e] == 0.0) continue;
      Vector only(gate.size(), 0.0);
      only[e] = 1.0;
      Vector const one = one_ffn(l, h, only);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += gate[e] * one[i];
    }
    return sum;
  }

  Vector ffn_experts(int l, Vector const& h, Vector const& gate) const {
    Vector sum(h.size(), 0.0);
    Index const block = m_.ffn * m_.width;
    for (std::size_t e = 0; e < gate.size(); ++e) {
      if (gate[e] == 0.0) continue;
      auto const expert = static_cast<Index>(e);
      Vector const one =
          swiglu_ffn(multiply(tensor(l, "experts.gate_up") + expert * 2 * block, 2 * m_.ffn, h),
                     tensor(l, "experts.down") + expert * block);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += gate[e] * one[i];
    }
    return sum;
  }

  Vector swiglu_ffn(Vector const& gate_up, double const* down) const {
    auto const f = static_cast<std::size_t>(m_.ffn);
    Vector act(f);
    for (std::size_t i = 0; i < f; ++i) act[i] = gate_up[i] / (1.0 + std::exp(-gate_up[i])) * gate_up[f + i];
    return multiply(down, m_.width, act);
  }

  /// The FFN with sum_e weight_e (alpha/r) B_e A_e beside each of its matrices.
  Vector one_ffn(int l, Vector const& h, Vector const& weight) const {
    Vector gate_up = multiply(tensor(l, "ffn.gate_up"), 2 * m_.ffn, h);
    auto const f = static_cast<std::size_t>(m_.ffn);
    for (std::size_t e = 0; e < weight.size(); ++e) {
      auto const expert = static_cast<Index>(e);
      Vector const gate = low_rank(l, expert, "lora.gate_up_a", 0, 2 * e_.rank, "lora.gate_b", m_.ffn, h);
      Vector const up = low_rank(l, expert, "lora.gate_up_a", e_.rank, 2 * e_.rank, "lora.up_b", m_.ffn, h);
      for (std::size_t i = 0; i < f; ++i) {
        gate_up[i] += weight[e] * gate[i];
        gate_up[f + i] += weight[e] * up[i];
      }
    }
    Vector act(f);
    for (std::size_t i = 0; i < f; ++i) act[i] = gate_up[i] / (1.0 + std::exp(-gate_up[i])) * gate_up[f + i];
    Vector out = multiply(tensor(l, "ffn.down"), m_.width, act);
    for (std::size_t e = 0; e < weight.size(); ++e) {
      Vector const more =
          low_rank(l, static_cast<Index>(e), "lora.down_a", 0, e_.rank, "lora.down_b", m_.width, act);
      for (std::size_t i = 0; i < out.size(); ++i) out[i] += weight[e] * more[i];
    }
    return out;
  }

  ModelConfig m_;
  ExpertConfig e_;
  ParameterTable const* table_;
  struct {
    HostView1<double> backbone, expert, router;
  } w_;  // copies that loops on the host can read
};

}  // namespace upit::test
