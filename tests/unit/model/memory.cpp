// SPDX-License-Identifier: Apache-2.0
// Owns the checks of what passes hold: workspaces without a backward pass, scratch of products.
#include <gtest/gtest.h>

#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"
#include "upit/kernels/slot_ffn.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/model/product_memory.hpp"
#include "upit/model/workspace.hpp"

namespace upit::test {
namespace {

TEST(Workspace, HoldsActivationsOfSlotsWhereTheyAreNeeded) {
  ModelConfig const m = tiny_model(true, 2);
  ExpertConfig const e = tiny_experts(5, 2, LoraMix::ffn, RouterOrder::topk_softmax);
  Index const n = 6, slots = n * e.active;
  Workspace<float> const forward(m, e, n, false), both(m, e, n, true);
  EXPECT_EQ(both.scratch(n).slot_act.extent_int(0), slots);
  EXPECT_EQ(both.scratch(n).slot_act.extent_int(1), m.ffn);
  EXPECT_EQ(static_cast<Index>(forward.scratch(n).slot_act.size()),
            kernels::kSlotFfnForwardKeepsAct ? slots * m.ffn : 0);
}

TEST(Workspace, OfForwardPassesAloneGivesTheSameLosses) {
  ModelConfig const m = tiny_model(true, 2);
  ExpertConfig const e = tiny_experts(5, 2, LoraMix::ffn, RouterOrder::topk_softmax);
  ParameterTable const table(m, e);
  auto const weights = random_weights<float>(table, 3);
  HostBatch const host = random_batch({9, 4}, m.vocabulary, 5);
  Batch batch(host.tokens());
  batch.assign(host);
  auto const losses = [&](bool with_backward) {
    Transformer<float> model(m, e, table, host.tokens(), with_backward);
    model.forward(Exec(), weights, batch, {}, View1<float>());
    return model.target_nll();
  };
  EXPECT_EQ(losses(false), losses(true));
}

/// The copy of B^T, where this build makes one.
Index copy_of(Index elements) {
  bool const copies = gemm_kept_bytes<float>(Op::none, Op::transpose, 64, 10, 10) > 0;
  return copies ? elements * static_cast<Index>(sizeof(float)) : 0;
}

TEST(ProductMemory, IsACopyOfTheLargestMatrix) {
  ModelConfig m = tiny_model(false, 2);
  m.ffn = 100;
  Index const tokens = 40, c = m.width;
  auto const bytes = [&](ExpertConfig const& e, Index n) {
    return product_bytes(Precision::fp32, m, e, ParameterTable(m, e), n, true);
  };
  EXPECT_EQ(bytes({}, tokens), copy_of(2 * m.ffn * c));  // gate and up
  EXPECT_EQ(bytes(tiny_ffn_experts(5, 2, RouterOrder::topk_softmax), tokens),
            copy_of(2 * m.ffn * c));  // of one
  ExpertConfig const lora = tiny_experts(5, 2, LoraMix::branch, RouterOrder::topk_softmax);
  EXPECT_EQ(bytes(lora, tokens), copy_of(2 * m.ffn * c));
  ExpertConfig many = lora;
  many.count = 50;
  EXPECT_EQ(bytes(many, tokens), copy_of(many.count * many.rank * m.ffn));  // down_a, all experts
  // Below 16 rows nothing is copied but, at the head, the rows themselves.
  EXPECT_EQ(bytes({}, 15), copy_of(15 * c));
}

}  // namespace
}  // namespace upit::test
