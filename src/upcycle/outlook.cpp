// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/outlook.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "upit/core/error.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/linalg/tf32.hpp"
#include "upit/text/batches.hpp"
#include "upit/text/generator.hpp"
#include "upit/upcycle/buckets.hpp"
#include "upit/upcycle/checkpoints.hpp"
#include "upit/upcycle/training.hpp"

namespace upit::upcycle {
namespace {

constexpr Index kFewSteps = 100;

}  // namespace

Index route_steps(Deck const& deck, TokenStore const& training_set) {
  RouteDeck const& r = deck.route;
  if (r.data == "none") return 0;
  std::vector<Index> seeds = seed_set(training_set.size(), r.seed_fraction, r.seed_min, deck.run.seed);
  auto const count = static_cast<Index>(seeds.size());
  Index const bucket = std::min(count, bucket_capacity(count, deck.expert.count, r.bucket));
  seeds.resize(static_cast<std::size_t>(bucket));
  return BatchPlan(training_set, std::move(seeds), deck.data.context, deck.data.packing, r.batch, 1,
                   deck.run.seed)
      .steps(r.epochs);
}

void check_outlook(Deck const& deck, Dataset const& data) {
  require(precision_of(deck) != Precision::bf16 || bf16_products() != Bf16Products::none,
          "train.precision = \"bf16\" needs a build with oneDNN 2.x and a processor with AVX-512; "
          "\"fp32\" runs everywhere");
  require(!deck.train.tf32 || has_tf32(),
          "train.tf32 = true needs a build for NVIDIA devices and one of compute capability 8.0 or more; "
          "false runs everywhere");
  if (deck.model.base.empty()) require_documents(deck.pretrain.documents);
  BatchPlan const batches(data.train, deck.data.context, deck.data.packing, deck.train.batch,
                          deck.train.micro_batch, deck.run.seed);
  checkpoint_steps(batches.steps(deck.prepare.epochs), deck.prepare.checkpoints);
}

std::vector<std::string> outlook_warnings(Deck const& deck, Dataset const& data) {
  std::vector<std::string> warnings;
  if (precision_of(deck) == Precision::bf16 && bf16_products() == Bf16Products::emulated) {
    warnings.push_back(
        "train.precision = \"bf16\": this processor has no 16-bit products (AVX512_BF16); they are emulated, "
        "and \"fp32\" is faster here");
  }
  for (auto const& source : data.report.sources) {
    if (source.drawn > 0) continue;
    warnings.push_back(fmt::format("{} gives none of data.samples = {}: its weight is too small", source.name,
                                   deck.data.samples));
  }
  for (std::size_t d = 0; d < data.held_out.domains.size(); ++d) {
    auto const of_domain = [d](TokenSample const& s) { return s.domain == static_cast<int>(d); };
    if (std::ranges::any_of(data.held_out.samples, of_domain)) continue;
    warnings.push_back(fmt::format("domain {} has no held-out sample: nothing will be known of it",
                                   data.held_out.domains[d]));
  }
  if (Index const steps = route_steps(deck, data.train); deck.route.data != "none" && steps < kFewSteps) {
    warnings.push_back(
        fmt::format("stage route trains an expert and its routing vectors for {} steps only; below {} "
                    "they hardly move (more epochs, a smaller route.batch, more seeds)",
                    steps, kFewSteps));
  }
  return warnings;
}

}  // namespace upit::upcycle
