// SPDX-License-Identifier: Apache-2.0
#include "upit/train/batch_builder.hpp"

#include "upit/core/profiling.hpp"

namespace upit {

void build_batch(TokenStore const& store, std::span<Sequence const> sequences, bool loss_on_all,
                 bool with_targets, HostBatch& out) {
  ProfilingRegion const region("upit::build_batch");
  out.clear();
  std::vector<int> token, target;
  for (auto const& sequence : sequences) {
    for (Index const i : sequence.samples) {
      auto const tokens = store.tokens_of(i);
      auto const first_target = static_cast<std::size_t>(
          loss_on_all ? 1 : std::max(1, store.samples[static_cast<std::size_t>(i)].response));
      token.assign(tokens.begin(), tokens.end() - 1);
      target.assign(tokens.size() - 1, -1);
      for (std::size_t t = first_target; with_targets && t < tokens.size(); ++t) target[t - 1] = tokens[t];
      out.append(token, target, static_cast<std::uint64_t>(i));
    }
  }
}

}  // namespace upit
