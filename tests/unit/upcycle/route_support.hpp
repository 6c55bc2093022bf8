// SPDX-License-Identifier: Apache-2.0
// Owns what tests of stage 3 share: a small store in which domains differ, a tiny base, and experts.
#pragma once

#include "support/tiny_model.hpp"
#include "upit/text/sample.hpp"
#include "upit/upcycle/route_training.hpp"

namespace upit::test {

/// Samples of 4 to 20 tokens in three domains; each domain uses a third of the vocabulary of `tiny_model`.
inline TokenStore route_store(Index samples) {
  TokenStore store;
  store.domains = {"a", "b", "c"};
  RandomKey const key = random_key(4, "route store");
  std::uint64_t i = 0;
  for (Index s = 0; s < samples; ++s) {
    int const domain = static_cast<int>(s % 3);
    auto const length = 4 + random_below(key, i++, 17);
    std::vector<int> tokens;
    for (std::uint64_t t = 0; t < length; ++t) {
      tokens.push_back(5 * domain + static_cast<int>(random_below(key, i++, 6)));
    }
    store.append(tokens, static_cast<int>(1 + random_below(key, i++, length - 2)), domain);
  }
  return store;
}

inline ExpertConfig route_expert(RouterUse router, double dropout) {
  ExpertConfig e = tiny_experts(1, 1, LoraMix::branch, RouterOrder::topk_softmax);
  e.router = router;
  e.dropout = dropout;
  return e;
}

/// Random base, and expert number `expert` in the LoRA tensors.
inline void fill_route_weights(ParameterTable const& table, Index expert, Weights<float> const& weights) {
  Weights<float> const base = random_weights<float>(table, 7);
  Weights<float> const lora = random_weights<float>(table, 100 + static_cast<std::uint64_t>(expert));
  Kokkos::deep_copy(weights.backbone, base.backbone);
  Kokkos::deep_copy(weights.expert, lora.expert);
}

inline upcycle::RouteTraining route_settings(double dropout) {
  upcycle::RouteTraining s;
  s.model = tiny_model(true, 2);
  s.expert = route_expert(RouterUse::auxiliary, dropout);
  s.options.language_weight = 0.5;
  s.options.auxiliary_weight = 0.5;
  s.context = 32;
  s.batch = 8;
  s.micro_batch = 5;  // two micro-steps
  s.epochs = 4.0;
  s.learning_rate = 5e-3;
  s.seed = 11;
  return s;
}

}  // namespace upit::test
