// SPDX-License-Identifier: Apache-2.0
#include "upit/model/product_memory.hpp"

#include <algorithm>
#include <type_traits>

#include "upit/linalg/gemm.hpp"
#include "upit/model/head.hpp"

namespace upit {
namespace {

template <class T>
class Largest {
 public:
  explicit Largest(bool with_backward) : with_backward_(with_backward) {}
  Index bytes() const { return bytes_; }

  void add(Op a, Op b, Index m, Index n, Index k) {
    bytes_ = std::max(bytes_, gemm_kept_bytes<T>(a, b, m, n, k));
  }

  /// y (rows, out) = x W^T, dx = dy W, dW = dy^T x.
  void linear(Index rows, Index out, Index in) {
    add(Op::none, Op::transpose, rows, out, in);
    if (!with_backward_) return;
    add(Op::none, Op::none, rows, in, out);
    add(Op::transpose, Op::none, out, in, rows);
  }

  /// Logits stand as (V, rows).
  void head(Index rows, Index vocabulary, Index width) {
    add(Op::none, Op::transpose, vocabulary, rows, width);
    if (!with_backward_) return;
    add(Op::transpose, Op::none, rows, width, vocabulary);
    add(Op::none, Op::none, vocabulary, width, rows);
  }

 private:
  bool with_backward_;
  Index bytes_ = 0;
};

template <class T>
Index largest(ModelConfig const& model, ExpertConfig const& expert, ParameterTable const& table, Index tokens,
              bool with_backward) {
  Largest<T> most(with_backward);
  for (auto const& t : table.tensors()) {
    if (t.layer != 0 || t.shape.size() < 2 || t.group == Group::router) continue;  // layers are alike
    bool const ffns = t.group == Group::expert && expert.kind == ExpertKind::ffn;
    Index const columns = t.shape.back();
    if (ffns && !std::is_same_v<T, Real<T>>) {
      // Grouped products of 16 bits take the kernel for any extents, as those with A^T do.
      most.add(Op::transpose, Op::none, t.shape[1], columns, tokens);
    } else if (ffns) {  // one product for each expert
      most.linear(tokens, t.shape[1], columns);
    } else if (t.size() > 0) {  // LoRA experts are multiplied together: their rows are one matrix
      most.linear(tokens, t.size() / columns, columns);
    }
  }
  most.head(std::min(head_rows(model.vocabulary, tokens), tokens), model.vocabulary, model.width);
  return most.bytes();
}

}  // namespace

Index product_bytes(Precision precision, ModelConfig const& model, ExpertConfig const& expert,
                    ParameterTable const& table, Index tokens, bool with_backward) {
  auto const count = precision == Precision::bf16 ? largest<bfloat16> : largest<float>;
  return count(model, expert, table, tokens, with_backward);
}

}  // namespace upit
