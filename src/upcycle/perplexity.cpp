// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/perplexity.hpp"

#include <algorithm>

namespace upit::upcycle {
namespace {

// Tokens of one pass, about: enough rows for the products, few enough that blocks can be shared out evenly.
constexpr Index kBlockTokens = 4096;
constexpr Index kBlockSamples = 16;

}  // namespace

PerplexityScorer::PerplexityScorer(Communicator const& comm, ModelConfig const& model,
                                   ExpertConfig const& expert, ParameterTable const& table,
                                   TokenStore const& store, std::vector<Index> samples)
    : alone_(comm.split(comm.rank())),
      store_(&store),
      samples_(std::move(samples)),
      block_(std::clamp<Index>(kBlockTokens / std::max<Index>(model.context, 1), 1, kBlockSamples)),
      evaluator_(alone_, model, expert, table) {}

Index PerplexityScorer::blocks(Index part, Index parts) const {
  Index const all = (static_cast<Index>(samples_.size()) + block_ - 1) / block_;
  return (all - part + parts - 1) / parts;
}

std::optional<std::vector<double>> PerplexityScorer::score(ModelWeights<float> const& weights, Index part,
                                                           Index parts,
                                                           std::function<bool(Index)> const& stop) {
  std::vector<double> scores(samples_.size(), 0.0);
  EvaluationOptions options;
  options.micro_batch = block_;
  Index const mine = blocks(part, parts), most = blocks(0, parts);
  for (Index b = 0; b < most; ++b) {
    if (b >= mine) {
      if (stop) stop(mine);  // the others' last block: nothing is left to stop
      continue;
    }
    auto const begin = static_cast<std::size_t>((part + b * parts) * block_);
    auto const count = std::min(static_cast<std::size_t>(block_), samples_.size() - begin);
    Evaluation const e =
        evaluator_.evaluate(weights, *store_, std::span(samples_).subspan(begin, count), options);
    for (std::size_t i = 0; i < count; ++i) scores[begin + i] = e.nll[i] / static_cast<double>(e.targets[i]);
    if (stop && stop(b + 1) && b + 1 < most) return std::nullopt;
  }
  return scores;
}

}  // namespace upit::upcycle
