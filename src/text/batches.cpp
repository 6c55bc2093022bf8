// SPDX-License-Identifier: Apache-2.0
// Owns the running order, packing, and the deal of sequences to ranks.
#include "upit/text/batches.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"

namespace upit {

namespace {

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

std::vector<Index> all_samples(TokenStore const& store) {
  std::vector<Index> indices(at(store.size()));
  std::iota(indices.begin(), indices.end(), Index{0});
  return indices;
}

std::vector<Sequence> one_each(std::span<Index const> samples) {
  std::vector<Sequence> sequences;
  sequences.reserve(samples.size());
  for (Index const i : samples) sequences.push_back({{i}});
  return sequences;
}

MicroStep deal(TokenStore const& store, std::span<Sequence const> sequences, int ranks, bool loss_on_all) {
  expect(ranks > 0, "a micro-step is dealt to at least one rank");
  MicroStep micro;
  micro.per_rank.resize(static_cast<std::size_t>(ranks));
  std::vector<Index> length(sequences.size(), 0);
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (Index const i : sequences[s].samples) {
      length[s] += store.input_tokens(i);
      micro.targets += store.targets(i, loss_on_all);
    }
    micro.tokens += length[s];
  }
  std::vector<std::size_t> by_length(sequences.size());
  std::iota(by_length.begin(), by_length.end(), std::size_t{0});
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](std::size_t a, std::size_t b) { return length[a] > length[b]; });

  auto const cap = at(ceil_div(static_cast<Index>(sequences.size()), ranks));
  std::vector<Index> load(static_cast<std::size_t>(ranks), 0);
  for (std::size_t const s : by_length) {
    std::size_t lightest = 0;
    Index least = std::numeric_limits<Index>::max();
    for (std::size_t r = 0; r < load.size(); ++r)
      if (micro.per_rank[r].size() < cap && load[r] < least) {
        lightest = r;
        least = load[r];
      }
    micro.per_rank[lightest].push_back(sequences[s]);
    load[lightest] += length[s];
  }
  return micro;
}

}  // namespace

std::vector<Index> epoch_order(Index samples, std::uint64_t seed, Index epoch) {
  std::vector<Index> order(at(samples));
  std::iota(order.begin(), order.end(), Index{0});
  RandomKey const key = random_key(seed, "epoch order", epoch);
  for (Index i = samples - 1; i > 0; --i) {  // Fisher and Yates
    auto const j = random_below(key, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(i) + 1);
    std::swap(order[at(i)], order[static_cast<std::size_t>(j)]);
  }
  return order;
}

std::vector<Sequence> pack_first_fit(TokenStore const& store, std::span<Index const> samples, Index context) {
  std::vector<Sequence> sequences;
  std::vector<Index> room;
  for (Index const i : samples) {
    Index const length = store.input_tokens(i);
    expect(length <= context, "a sample is longer than the context it is packed into");
    std::size_t s = 0;
    while (s < room.size() && room[s] < length) ++s;
    if (s == room.size()) {
      sequences.emplace_back();
      room.push_back(context);
    }
    sequences[s].samples.push_back(i);
    room[s] -= length;
  }
  return sequences;
}

BatchPlan::BatchPlan(TokenStore const& store, Index context, bool packing, Index batch, Index micro_batch,
                     std::uint64_t seed)
    : BatchPlan(store, all_samples(store), context, packing, batch, micro_batch, seed) {}

BatchPlan::BatchPlan(TokenStore const& store, std::vector<Index> subset, Index context, bool packing,
                     Index batch, Index micro_batch, std::uint64_t seed)
    : store_(&store),
      subset_(std::move(subset)),
      context_(context),
      batch_(batch),
      micro_batch_(micro_batch),
      packing_(packing),
      seed_(seed) {
  expect(batch > 0 && micro_batch > 0 && context > 0, "batch, micro_batch and context are positive");
  for (Index const i : subset_) {
    expect(i >= 0 && i < store.size(), "a batch plan names samples of its store");
    Index const length = store.input_tokens(i);
    expect(length <= context, "a sample is longer than the context");
    longest_ = std::max(longest_, length);
  }
}

Index BatchPlan::steps(double epochs) const {
  // The small number keeps 2.0 epochs of 64 samples in batches of 128 at one step whatever the rounding.
  double const exact = epochs * static_cast<double>(samples()) / static_cast<double>(batch_);
  return exact > 0.0 ? std::max<Index>(1, static_cast<Index>(std::ceil(exact - 1e-9))) : 0;
}

std::vector<Index> const& BatchPlan::order(Index epoch) const {
  CachedOrder& slot = cache_[epoch % 2];
  if (slot.epoch != epoch) slot = {epoch, epoch_order(samples(), seed_, epoch)};
  return slot.order;
}

std::vector<Index> BatchPlan::step_samples(Index step, Index first_sample) const {
  expect(samples() > 0, "a batch plan without samples has no steps");
  expect(step >= 0 && first_sample >= 0, "steps and positions count from 0");
  std::vector<Index> chosen;
  chosen.reserve(at(batch_));
  Index const first = first_sample + step * batch_;
  for (Index p = first; p < first + batch_; ++p)
    chosen.push_back(subset_[at(order(p / samples())[at(p % samples())])]);
  return chosen;
}

std::vector<MicroStep> BatchPlan::step(Index step, Index first_sample, int ranks, bool loss_on_all) const {
  std::vector<Index> const chosen = step_samples(step, first_sample);
  std::vector<Sequence> const sequences =
      packing_ ? pack_first_fit(*store_, chosen, context_) : one_each(chosen);
  Index const count = static_cast<Index>(sequences.size());
  Index const cuts = ceil_div(count, micro_batch_);
  std::vector<MicroStep> micro_steps;
  micro_steps.reserve(at(cuts));
  for (Index m = 0; m < cuts; ++m) {
    Index const begin = count * m / cuts, end = count * (m + 1) / cuts;
    micro_steps.push_back(
        deal(*store_, std::span(sequences).subspan(at(begin), at(end - begin)), ranks, loss_on_all));
  }
  return micro_steps;
}

Index BatchPlan::max_tokens_per_rank(int ranks) const {
  Index const sequences = ceil_div(std::min(batch_, micro_batch_), ranks);
  return sequences * (packing_ ? std::min(context_, longest_ * batch_) : longest_);
}

std::vector<MicroStep> evaluation_steps(TokenStore const& store, std::span<Index const> samples,
                                        Index micro_batch, int ranks, bool loss_on_all) {
  expect(micro_batch > 0, "micro_batch is positive");
  std::vector<Sequence> const sequences = one_each(samples);
  std::vector<MicroStep> micro_steps;
  for (std::size_t begin = 0; begin < sequences.size(); begin += at(micro_batch)) {
    std::size_t const count = std::min(at(micro_batch), sequences.size() - begin);
    micro_steps.push_back(deal(store, std::span(sequences).subspan(begin, count), ranks, loss_on_all));
  }
  return micro_steps;
}

std::vector<MicroStep> evaluation_steps(TokenStore const& store, Index micro_batch, int ranks,
                                        bool loss_on_all) {
  return evaluation_steps(store, all_samples(store), micro_batch, ranks, loss_on_all);
}

}  // namespace upit
