// SPDX-License-Identifier: Apache-2.0
// For the time being: attention on 16-bit storage through copies in single precision.
#include "upit/kernels/elementwise.hpp"
#include "upit/model/attention.hpp"

namespace upit {
namespace {
View2<float> wide(Exec const& exec, View2<bfloat16 const> const& x) {
  View2<float> const out("upit::attention.wide", x.extent(0), x.extent(1));
  kernels::convert<float, bfloat16>(exec, x, out);
  return out;
}
}  // namespace
template <>
Attention<bfloat16>::Attention(ModelConfig const& model, Index longest, bool)
    : heads_(model.heads),
      groups_(model.kv_heads),
      head_width_(model.head_width),
      longest_(longest),
      threads_(0) {}
template <>
Index Attention<bfloat16>::bytes() const {
  return 0;
}
template <>
void Attention<bfloat16>::forward(Exec const& exec, View2<bfloat16 const> qkv,
                                  std::vector<Index> const& start, View2<bfloat16> attended,
                                  View2<float> lse) const {
  ModelConfig m;
  m.heads = heads_, m.kv_heads = groups_, m.head_width = head_width_;
  Attention<float> const single(m, longest_, false);
  View2<float> const out("upit::attention.wide", attended.extent(0), attended.extent(1));
  single.forward(exec, wide(exec, qkv), start, out, lse);
  kernels::convert<bfloat16, float>(exec, out, attended);
}
template <>
void Attention<bfloat16>::backward(Exec const& exec, View2<bfloat16 const> qkv,
                                   std::vector<Index> const& start, View2<float const> lse,
                                   View2<bfloat16 const> dattended, View2<float const> delta,
                                   View2<bfloat16> dqkv) const {
  ModelConfig m;
  m.heads = heads_, m.kv_heads = groups_, m.head_width = head_width_;
  Attention<float> const single(m, longest_, true);
  View2<float> const out("upit::attention.wide", dqkv.extent(0), dqkv.extent(1));
  single.backward(exec, wide(exec, qkv), start, lse, wide(exec, dattended), delta, out);
  kernels::convert<bfloat16, float>(exec, out, dqkv);
}
}  // namespace upit
