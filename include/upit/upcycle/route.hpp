// SPDX-License-Identifier: Apache-2.0
// Owns stage 3: which expert is good at what, and experts and routing vectors trained on that.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "upit/upcycle/buckets.hpp"
#include "upit/upcycle/perplexity.hpp"
#include "upit/upcycle/route_groups.hpp"
#include "upit/upcycle/route_training.hpp"
#include "upit/upcycle/run.hpp"

namespace upit::upcycle {

/// The experts after stage 3: files with /expert and, with `has_vectors`, /router (1, C) in every layer;
/// backbones of FFN experts stay in the files of stage 2.
struct RoutedSet {
  ExpertSet experts;
  bool has_vectors = false;  // false: the router starts random (route.data = "none")
};

/// Stage 3 (Algorithm 3 and equations 1 and 2 of UpIT). Leaves route/expert_NN.h5, route/buckets.csv and
/// route/training.csv. A stop is heeded after every training step and every block of perplexities: finished
/// experts and columns are kept, a group that hears of it begins the one at hand again at the next launch.
RoutedSet route(Run& run, ExpertSet const& experts);

/// Log-perplexity of every seed sample under every expert, (S, n), NaN in columns not yet known.
struct PerplexityMatrix {
  Index samples = 0, experts = 0;
  std::vector<double> value;

  PerplexityMatrix() = default;
  PerplexityMatrix(Index samples, Index experts);
  bool known(Index expert) const;
};

/// Fills the unknown columns, one round of the groups after another; equal on all ranks, and the same bits on
/// any number of ranks. `load` puts an expert into the weights that `scorer` is given; it may communicate
/// within the group. `after_round` may keep what is known; when it returns false the rest stays unknown.
/// `stop` is asked on every rank after every block, with this rank's count of finished blocks and about the
/// seconds until it is asked again. If any rank says true, its group gives up its column, and what follows
/// the round stays unknown too. Throws `AgreedError` naming expert and sample if a perplexity is not finite.
void fill_perplexities(ExpertGroups const& groups, PerplexityScorer& scorer,
                       ModelWeights<float> const& weights, std::function<void(Index expert)> const& load,
                       PerplexityMatrix& matrix, std::function<bool()> const& after_round = {},
                       std::function<bool(Index, double)> const& stop = {});

// Texts that the stage leaves.

/// One line a seed sample: its index in the training set, domain, expert (-1: dropped), perplexities.
std::string buckets_csv(TokenStore const& store, std::vector<Index> const& seeds, Buckets const& buckets,
                        PerplexityMatrix const* matrix);
/// One line an expert that is trained; numbers read back as they were.
std::string training_csv(std::vector<RouteOutcome> const& outcomes);
/// Throws `Error` naming the line that cannot be read.
std::vector<RouteOutcome> parse_training_csv(std::string const& text);

/// The table at the end of the stage: bucket by domain, share of first choices, margin, steps, losses.
Table route_table(TokenStore const& store, std::vector<Index> const& seeds, Buckets const& buckets,
                  std::vector<RouteOutcome> const& outcomes);
/// What is said under the table, line by line: first choices beside 1/n, margin, dropped samples, how far the
/// logits moved beside a random router's spread, and warnings.
std::vector<std::string> route_remarks(Buckets const& buckets, std::vector<RouteOutcome> const& outcomes,
                                       bool rehearsal);

}  // namespace upit::upcycle
