// SPDX-License-Identifier: Apache-2.0
// Owns small models with random weights and a small batch, for tests of gradients and steps.
#pragma once

#include <vector>

#include "support/values.hpp"
#include "upit/core/random.hpp"
#include "upit/model/transformer.hpp"

namespace upit::test {

struct TinyCase {
  ModelConfig model;
  ExpertConfig expert;
  Trained trained;
};

inline ModelConfig tiny_model(bool tied, Index kv_heads) {
  ModelConfig m;
  m.layers = 2;
  m.width = 12;
  m.heads = 4;
  m.kv_heads = kv_heads;
  m.head_width = 4;
  m.ffn = 10;
  m.vocabulary = 17;
  m.context = 96;
  m.tied = tied;
  return m;
}

inline ExpertConfig tiny_experts(Index count, Index active, LoraMix mix, RouterOrder order,
                                 double dropout = 0.0) {
  ExpertConfig e;
  e.count = count;
  e.active = active;
  e.rank = 3;
  e.alpha = 6.0;
  e.dropout = dropout;
  e.mix = mix;
  e.order = order;
  e.router = count > 1 ? RouterUse::gate : RouterUse::none;
  return e;
}

inline ExpertConfig tiny_ffn_experts(Index count, Index active, RouterOrder order,
                                     RouterUse router = RouterUse::gate) {
  ExpertConfig e;
  e.kind = ExpertKind::ffn;
  e.count = count;
  e.active = active;
  e.order = order;
  e.router = router;
  return e;
}

/// Every weight drawn from U(-a, a), norms around one: far from the symmetric points of a fresh model.
template <class T>
Weights<T> random_weights(ParameterTable const& table, std::uint64_t seed, double a = 0.4) {
  Weights<T> const w(table);
  Index number = 0;
  for (auto const& t : table.tensors()) {
    RandomKey const key = random_key(seed, "test", number++);
    T* const data =
        t.group == Group::router ? reinterpret_cast<T*>(w.router.data() + t.offset) : w.tensor(t).data();
    std::vector<T> values;
    for (Index i = 0; i < t.size(); ++i) {
      double const u = 2.0 * random_uniform(key, static_cast<std::uint64_t>(i)) - 1.0;
      values.push_back(static_cast<T>(t.shape.size() == 1 ? 1.0 + 0.3 * u : a * u));
    }
    put_all(data, values);
  }
  return w;
}

/// Samples of the given lengths; about one position in three carries no target.
inline HostBatch random_batch(std::vector<Index> const& lengths, Index vocabulary, std::uint64_t seed,
                              bool all_targets = false) {
  HostBatch batch;
  RandomKey const key = random_key(seed, "batch");
  std::uint64_t i = 0;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    std::vector<int> token, target;
    for (Index k = 0; k < lengths[s]; ++k) {
      token.push_back(static_cast<int>(random_below(key, i++, static_cast<std::uint64_t>(vocabulary))));
      int const t = static_cast<int>(random_below(key, i++, static_cast<std::uint64_t>(vocabulary)));
      target.push_back(!all_targets && random_below(key, i++, 3) == 0 ? -1 : t);
    }
    batch.append(token, target, 100 + s);
  }
  return batch;
}

}  // namespace upit::test
