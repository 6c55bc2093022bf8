// SPDX-License-Identifier: Apache-2.0
// Owns Algorithm 3 of UpIT: the seed set and which expert gets which seed sample.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "upit/core/index.hpp"

namespace upit::upcycle {

/// Indices of the seed set, in the order in which they were drawn: max(minimum, ceil(fraction * samples)) of
/// `samples`, all of them if there are fewer. The first S of one permutation from (seed, samples), so that a
/// smaller set is a part of a larger one. A random order matters: early samples find empty buckets, and a
/// store lists its sources one after the other.
std::vector<Index> seed_set(Index samples, double fraction, Index minimum, std::uint64_t seed);

/// C of Algorithm 3: `given`, or ceil(seeds / experts) if that is 0 (ours).
Index bucket_capacity(Index seeds, Index experts, Index given);

struct BucketRules {
  Index capacity = 0;    // C
  bool drop = false;     // a sample whose first choice is full is dropped, as Algorithm 3 is printed
  bool centred = false;  // each expert's mean log-perplexity is subtracted first (ours)
};

/// S seed samples, n experts. Seed samples are named by their place in the seed set.
struct Buckets {
  std::vector<std::vector<Index>> members;  // (n) seed samples of each expert, rising
  std::vector<Index> expert_of;             // (S) -1: dropped
  Index dropped = 0;
  // What follows is empty or 0 for random buckets.
  std::vector<Index> first_choices;  // (n) samples that this expert has the lowest score on
  double margin = 0.0;               // mean over all samples of second lowest score - lowest
  std::vector<double> own_margin;    // (n) mean over members of lowest score of the others - own: negative
                                     // where samples spilled over from better experts
};

/// Algorithm 3. `score` (S, n): log-perplexity of each sample under each expert. Every sample in turn goes to
/// the expert with the lowest score whose bucket holds fewer than C samples; equal scores go to the lower
/// expert. If all buckets are full it is dropped. All scores must be finite.
Buckets assign_buckets(std::span<double const> score, Index experts, BucketRules const& rules);

/// route.data = "random": seed sample s goes to expert s mod n while there is room. The seed set is in random
/// order already.
Buckets random_buckets(Index seeds, Index experts, Index capacity);

}  // namespace upit::upcycle
