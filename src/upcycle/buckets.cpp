// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/buckets.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/text/batches.hpp"

namespace upit::upcycle {
namespace {

/// Takes each expert's mean over the samples off its column.
void centre(std::vector<double>& score, Index seeds, Index experts) {
  for (Index e = 0; e < experts; ++e) {
    double mean = 0.0;
    for (Index s = 0; s < seeds; ++s) mean += score[at(s * experts + e)] / static_cast<double>(seeds);
    for (Index s = 0; s < seeds; ++s) score[at(s * experts + e)] -= mean;
  }
}

Buckets empty_buckets(Index seeds, Index experts) {
  Buckets b;
  b.members.resize(at(experts));
  b.expert_of.assign(at(seeds), -1);
  return b;
}

void put(Buckets& b, Index sample, Index expert) {
  b.members[at(expert)].push_back(sample);
  b.expert_of[at(sample)] = expert;
}

}  // namespace

std::vector<Index> seed_set(Index samples, double fraction, Index minimum, std::uint64_t seed) {
  // The small number keeps a hundredth of 6300 samples at 63 whatever the rounding.
  auto const share = static_cast<Index>(std::ceil(fraction * static_cast<double>(samples) - 1e-9));
  Index const wanted = std::min(samples, std::max(minimum, share));
  RandomKey const key = random_key(seed, "route seed set");
  std::vector<Index> order = epoch_order(samples, (static_cast<std::uint64_t>(key.high) << 32) | key.low, 0);
  order.resize(at(wanted));
  return order;
}

Index bucket_capacity(Index seeds, Index experts, Index given) {
  expect(experts > 0, "buckets need experts");
  return given > 0 ? given : (seeds + experts - 1) / experts;
}

Buckets assign_buckets(std::span<double const> log_perplexity, Index experts, BucketRules const& rules) {
  expect(experts > 0 && static_cast<Index>(log_perplexity.size()) % experts == 0,
         "log-perplexities have shape (S, n)");
  Index const seeds = static_cast<Index>(log_perplexity.size()) / experts;
  std::vector<double> score(log_perplexity.begin(), log_perplexity.end());
  for (double const x : score) expect(std::isfinite(x), "log-perplexities are finite");
  if (rules.centred) centre(score, seeds, experts);

  Buckets b = empty_buckets(seeds, experts);
  b.first_choices.assign(at(experts), 0);
  b.own_margin.assign(at(experts), 0.0);
  std::vector<Index> ranking(at(experts));
  for (Index s = 0; s < seeds; ++s) {
    double const* const row = score.data() + s * experts;
    std::iota(ranking.begin(), ranking.end(), Index{0});
    std::stable_sort(ranking.begin(), ranking.end(), [row](Index a, Index c) { return row[a] < row[c]; });
    Index const first = ranking.front();
    ++b.first_choices[at(first)];
    if (experts > 1) b.margin += (row[ranking[1]] - row[first]) / static_cast<double>(seeds);
    for (Index const e : ranking) {
      if (static_cast<Index>(b.members[at(e)].size()) < rules.capacity) {
        put(b, s, e);
        if (experts > 1) b.own_margin[at(e)] += row[e == first ? ranking[1] : first] - row[e];
        break;
      }
      if (rules.drop) break;
    }
    if (b.expert_of[at(s)] < 0) ++b.dropped;
  }
  for (Index e = 0; e < experts; ++e) {
    auto const size = static_cast<double>(b.members[at(e)].size());
    if (size > 0.0) b.own_margin[at(e)] /= size;
  }
  return b;
}

Buckets random_buckets(Index seeds, Index experts, Index capacity) {
  expect(experts > 0, "buckets need experts");
  Buckets b = empty_buckets(seeds, experts);
  for (Index s = 0; s < seeds; ++s) {
    if (static_cast<Index>(b.members[at(s % experts)].size()) < capacity) {
      put(b, s, s % experts);
    } else {
      ++b.dropped;
    }
  }
  return b;
}

}  // namespace upit::upcycle
