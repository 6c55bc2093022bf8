// SPDX-License-Identifier: Apache-2.0
// Stage 3: router initialisation (UpIT, section 2.2, Algorithm 3).
#include "upit/upcycle/route.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "upit/config/printer.hpp"
#include "upit/core/error.hpp"
#include "upit/core/progress.hpp"
#include "upit/core/timer.hpp"
#include "upit/upcycle/stage.hpp"
#include "upit/upcycle/training.hpp"

namespace upit::upcycle {
namespace {

constexpr char const* kMatrixFile = "perplexity.h5";
constexpr char const* kMatrixName = "log_perplexity";

[[noreturn]] void interrupt(Run const& run, std::string const& done) {
  throw Interrupted(
      fmt::format("stage 3 stopped ({}): {}; the same command goes on from here", run.stop_reason(), done));
}

RouteTraining training_settings(Run const& run, ModelConfig const& model, int group_ranks) {
  Deck const& deck = run.deck();
  RouteTraining s;
  s.model = model;
  s.expert = single_expert(deck, RouterUse::auxiliary);
  s.options = trainer_options(deck);
  s.options.language_weight = deck.route.alpha;
  s.options.auxiliary_weight = 1.0 - deck.route.alpha;
  s.context = deck.data.context;
  s.packing = deck.data.packing;
  s.batch = deck.route.batch;
  // train.micro_batch is the memory of all ranks; a group has its share. Nothing here is taken over a
  // micro-step, so that where a batch is cut only rounds.
  s.micro_batch = std::max<Index>(1, deck.train.micro_batch * group_ranks / run.world().size());
  s.epochs = deck.route.epochs;
  s.learning_rate = deck.route.learning_rate;
  s.negatives = deck.route.negatives;
  if (run.options().rehearse > 0) s.max_steps = run.options().rehearse;
  s.seed = run.seed();
  return s;
}

/// One pass through the stage: what its parts share.
struct Routing {
  Run& run;
  Stage& stage;
  ExpertSet const& from;
  ExpertSet const& to;
  ExpertGroups groups;
  std::vector<Index> seeds;  // indices into the training set

  Index experts() const { return groups.experts(); }
  std::string path(std::string const& file) const { return run.path(stage.file(file)); }

  void load_expert(Index e, ParameterTable const& table, ModelWeights<float> const& weights) const {
    std::string const path = run.path(from.files[at(e)]);
    std::string const base = read_model_info(path, &groups.group()).base_hash;
    if (base != from.base.hash) {
      throw AgreedError(fmt::format("{} belongs to a base model with hash {}; this run's base has {}", path,
                                    base, from.base.hash));
    }
    read_model_file(path, &groups.group(), table, weights, {false, true, false});
    if (from.backbones.empty()) return;
    read_model_file(run.path(from.backbones[at(e)]), &groups.group(), table, weights, {true, false, false});
  }

  PerplexityMatrix perplexities();
  Buckets buckets(std::optional<PerplexityMatrix>& matrix);
  std::vector<RouteOutcome> train(std::vector<std::vector<Index>> const& samples);
  std::vector<RouteOutcome> finished() const;
  void keep_round(std::vector<RouteOutcome> const& outcomes, std::vector<double> const& rows,
                  std::vector<Index> const& first_step) const;
};

void write_matrix(std::string const& path, Communicator const& world, PerplexityMatrix const& m) {
  H5File file = H5File::create(path, &world);
  std::vector<Index> const shape = {m.samples, m.experts};
  file.write_all<double>(kMatrixName, m.value, shape);
  file.close();
}

PerplexityMatrix Routing::perplexities() {
  Communicator const& world = run.world();
  PerplexityMatrix matrix(static_cast<Index>(seeds.size()), experts());
  if (run.directory().exists(stage.file(kMatrixFile))) {
    H5File file = H5File::open(path(kMatrixFile), &world);
    file.require_dataset<double>(kMatrixName, std::vector<Index>{matrix.samples, matrix.experts});
    matrix.value = file.read_all<double>(kMatrixName);
    file.close();
  }
  ExpertConfig const shape = single_expert(run.deck(), RouterUse::none);
  ParameterTable const table(from.base.model, shape);
  ModelWeights<float> const weights(precision_of(run.deck()), table);
  load_base(run, from.base, table, weights);
  PerplexityScorer scorer(world, from.base.model, shape, table, run.data().train, seeds);
  Index const blocks = scorer.blocks(groups.group().rank(), groups.group().size());
  Index missing = 0;
  for (Index round = 0; round < groups.rounds(); ++round) {
    missing += groups.expert(round) >= 0 && !matrix.known(groups.expert(round)) ? 1 : 0;
  }
  Progress progress(run.console(), "route: perplexities", missing * blocks);
  bool stopped = false;
  fill_perplexities(
      groups, scorer, weights, [&](Index e) { load_expert(e, table, weights); }, matrix,
      [&] {
        write_matrix(path(kMatrixFile), world, matrix);
        return !(stopped = run.should_stop());
      },
      [&](Index done, double seconds) {
        progress.update(done);
        return run.has_reason_to_stop(2.0 * seconds);
      });
  progress.finish();
  if (stopped) interrupt(run, "perplexities known so far are kept");
  return matrix;
}

Buckets Routing::buckets(std::optional<PerplexityMatrix>& matrix) {
  RouteDeck const& deck = run.deck().route;
  auto const count = static_cast<Index>(seeds.size());
  Index const capacity = bucket_capacity(count, experts(), deck.bucket);
  Buckets buckets;
  if (deck.data == "random") {
    buckets = random_buckets(count, experts(), capacity);
  } else {
    matrix = perplexities();
    buckets = assign_buckets(matrix->value, experts(),
                             {capacity, deck.overflow == "drop", deck.score == "centred"});
  }
  run.directory().write_text(stage.file("buckets.csv"),
                             buckets_csv(run.data().train, seeds, buckets, matrix ? &*matrix : nullptr));
  return buckets;
}

/// Experts whose files are whole, with what is known of their training.
std::vector<RouteOutcome> Routing::finished() const {
  std::vector<RouteOutcome> outcomes;
  if (!run.directory().exists(stage.file("training.csv"))) return outcomes;
  std::string const text = run.directory().read_text(stage.file("training.csv"));
  run.world().agree([&] { outcomes = parse_training_csv(text); });
  std::vector<bool> whole(at(experts()));
  for (Index e = 0; e < experts(); ++e) whole[at(e)] = run.directory().exists(to.files[at(e)]);
  std::erase_if(outcomes,
                [&](RouteOutcome const& o) { return o.expert >= experts() || !whole[at(o.expert)]; });
  return outcomes;
}

constexpr std::size_t kRowNumbers = 7;  // expert and the fields of RouteStep

/// Rows of metrics.csv and training.csv. They are written before the experts' files: what a kill leaves of an
/// unfinished expert is removed at the next start, what belongs to a finished one is there.
void Routing::keep_round(std::vector<RouteOutcome> const& outcomes, std::vector<double> const& rows,
                         std::vector<Index> const& first_step) const {
  run.directory().write_text(stage.file("training.csv"), training_csv(outcomes));
  run.world().agree_on_root([&] {
    for (std::size_t i = 0; i + kRowNumbers <= rows.size(); i += kRowNumbers) {
      double const* const r = rows.data() + i;
      Index const step = first_step[static_cast<std::size_t>(r[0])] + static_cast<Index>(r[1]) + 1;
      run.metric("route", step,
                 {{"loss", r[2]},
                  {"auxiliary", r[3]},
                  {"norm", r[4]},
                  {"learning_rate", run.deck().route.learning_rate},
                  {"tokens_per_second", r[5]},
                  {"seconds", r[6]}});
    }
    // Groups do not end their experts in order once a launch was stopped.
    if (run.metrics() != nullptr) run.metrics()->sort("route");
  });
}

std::vector<RouteOutcome> Routing::train(std::vector<std::vector<Index>> const& samples) {
  Communicator const& world = run.world();
  Communicator const& group = groups.group();
  RouteTraining const settings = training_settings(run, from.base.model, group.size());
  RouteTrainer trainer(group, settings, run.data().train, samples);
  load_base(run, from.base, trainer.table(), trainer.values());
  Groups const kept = {false, true, true};

  std::vector<RouteOutcome> outcomes = finished();
  std::vector<bool> done(at(experts()), false);
  for (auto const& o : outcomes) done[at(o.expert)] = true;
  // In metrics.csv the steps of the stage count on from expert to expert, from 1.
  std::vector<Index> first_step(at(experts()) + 1, 0);
  for (Index e = 0; e < experts(); ++e) first_step[at(e + 1)] = first_step[at(e)] + trainer.steps(e);
  world.agree_on_root([&] {
    if (run.metrics() == nullptr) return;
    run.metrics()->cut_back([&](std::string_view name, Index step) {
      if (name != "route") return true;
      auto const next = std::lower_bound(first_step.begin(), first_step.end(), step);
      Index const e = static_cast<Index>(next - first_step.begin()) - 1;
      return e >= 0 && e < experts() && done[at(e)];
    });
  });
  auto const missing = static_cast<Index>(std::count(done.begin(), done.end(), false));
  run.directory().require_free_space(missing * model_file_bytes(trainer.table(), kept),
                                     "the experts of stage 3");

  Index planned = 0, taken = 0;
  for (Index round = 0; round < groups.rounds(); ++round) {
    Index const e = groups.expert(round);
    if (e >= 0 && !done[at(e)]) planned += trainer.steps(e);
  }
  Progress progress(run.console(),
                    groups.groups() > 1 ? fmt::format("route (1 of {} groups)", groups.groups()) : "route",
                    planned);
  Index const every = run.options().rehearse > 0 ? 1 : run.deck().run.log_every;
  for (Index round = 0; round < groups.rounds(); ++round) {
    auto const all = groups.of_round(round);
    if (std::all_of(all.begin(), all.end(), [&](Index e) { return done[at(e)]; })) continue;
    Index const e = groups.expert(round);
    bool const mine = e >= 0 && !done[at(e)];
    bool trained = false;  // here; a group that has a reason to stop gives its expert up
    std::vector<double> rows, outcome;
    groups.together([&] {
      if (!mine) return;
      load_expert(e, trainer.table(), trainer.values());
      auto const after_step = [&](RouteStep const& s) {
        progress.update(++taken, fmt::format("expert {}  loss {:.4f}  router loss {:.4f}  {:.0f} tokens/s", e,
                                             s.loss, s.auxiliary, s.tokens_per_second));
        if (!group.root() || ((s.step + 1) % every != 0 && s.step + 1 != trainer.steps(e))) return;
        rows.insert(rows.end(), {static_cast<double>(e), static_cast<double>(s.step), s.loss, s.auxiliary,
                                 s.norm, s.tokens_per_second, s.seconds});
      };
      auto const o =
          trainer.train(e, after_step, [&](double seconds) { return run.has_reason_to_stop(2.0 * seconds); });
      trained = o.has_value();
      if (!trained) rows.clear();
      if (!trained || !group.root()) return;
      outcome = {static_cast<double>(o->expert),
                 static_cast<double>(o->steps),
                 o->loss_before,
                 o->loss_after,
                 o->auxiliary_before,
                 o->auxiliary_after,
                 o->spread,
                 o->moved};
    });
    auto const numbers = world.gather_all(std::span<double const>(outcome));
    for (std::size_t i = 0; i + 8 <= numbers.size(); i += 8) {
      double const* const x = numbers.data() + i;
      outcomes.push_back(
          {static_cast<Index>(x[0]), static_cast<Index>(x[1]), x[2], x[3], x[4], x[5], x[6], x[7]});
      done[at(outcomes.back().expert)] = true;
    }
    std::sort(outcomes.begin(), outcomes.end(),
              [](auto const& a, auto const& b) { return a.expert < b.expert; });
    keep_round(outcomes, world.gather_all(std::span<double const>(rows)), first_step);
    groups.together([&] {
      if (!trained) return;
      write_model_file(
          run.path(to.files[at(e)]), group,
          run.file_info("expert", from.base.model, settings.expert, from.base.hash, trainer.steps(e)),
          trainer.table(), trainer.weights(), kept);
    });
    // An expert that was given up is not done, and a reason that a group had stays: the stage stops here.
    bool const more = std::count(done.begin(), done.end(), false) > 0;
    if (more && run.should_stop()) {
      progress.finish();
      interrupt(run, fmt::format("{} of {} experts are trained", outcomes.size(), experts()));
    }
  }
  progress.finish();
  return outcomes;
}

std::string stage_inputs(Run const& run, ExpertSet const& experts) {
  Deck const& deck = run.deck();
  return data_inputs(run) + lora_inputs(deck) + deck_table(deck, "route") +
         fmt::format("[expert]\ncount = {}\n[reads]\nexpand = \"{}\"\n", experts.files.size(), experts.hash);
}

}  // namespace

PerplexityMatrix::PerplexityMatrix(Index s, Index n)
    : samples(s), experts(n), value(at(s * n), std::numeric_limits<double>::quiet_NaN()) {}

bool PerplexityMatrix::known(Index expert) const { return samples == 0 || !std::isnan(value[at(expert)]); }

void fill_perplexities(ExpertGroups const& groups, PerplexityScorer& scorer,
                       ModelWeights<float> const& weights, std::function<void(Index expert)> const& load,
                       PerplexityMatrix& matrix, std::function<bool()> const& after_round,
                       std::function<bool(Index, double)> const& stop) {
  Communicator const &world = groups.world(), &group = groups.group();
  Index finished = 0;
  for (Index round = 0; round < groups.rounds(); ++round) {
    std::vector<Index> columns = groups.of_round(round);
    std::erase_if(columns, [&](Index e) { return matrix.known(e); });
    if (columns.empty()) continue;
    Index const mine = groups.expert(round);
    std::vector<double> part(at(matrix.samples) * columns.size(), 0.0);
    std::vector<Index> given_up(columns.size(), 0);
    groups.together([&] {
      auto const found = std::find(columns.begin(), columns.end(), mine);
      if (found == columns.end()) return;
      auto const column = static_cast<std::size_t>(found - columns.begin());
      load(mine);
      Stopwatch watch;
      auto const scores = scorer.score(weights, group.rank(), group.size(), [&](Index done) {
        bool const here = stop && stop(finished + done, watch.seconds());
        watch.restart();
        return group.any(here);
      });
      given_up[column] = scores ? 0 : 1;
      if (!scores) return;
      finished += scorer.blocks(group.rank(), group.size());
      for (std::size_t s = 0; s < scores->size(); ++s) part[s * columns.size() + column] = (*scores)[s];
    });
    world.sum(std::span<double>(part));  // one rank has the value, the others 0: no rounding
    world.sum(std::span<Index>(given_up));
    for (std::size_t i = 0; i < part.size(); ++i) {
      auto const s = i / columns.size(), e = at(columns[i % columns.size()]);
      if (given_up[i % columns.size()] > 0) continue;
      if (!std::isfinite(part[i])) {
        throw AgreedError(
            fmt::format("route: expert {} has log-perplexity {} on seed sample {}", e, part[i], s));
      }
      matrix.value[s * at(matrix.experts) + e] = part[i];
    }
    bool const incomplete =
        std::any_of(given_up.begin(), given_up.end(), [](Index count) { return count > 0; });
    if ((after_round && !after_round()) || incomplete) return;
  }
}

RoutedSet route(Run& run, ExpertSet const& experts) {
  Deck const& deck = run.deck();
  if (deck.route.data == "none") return {experts, false};
  Stage stage(run, "route", stage_inputs(run, experts));
  auto const n = static_cast<Index>(experts.files.size());
  RoutedSet result{experts, true};
  result.experts.hash = stage.output_hash();
  for (Index e = 0; e < n; ++e) result.experts.files[at(e)] = stage.file(fmt::format("expert_{:02}.h5", e));
  if (stage.complete()) return result;
  stage.begin();

  TokenStore const& store = run.data().train;
  Routing routing{run,
                  stage,
                  experts,
                  result.experts,
                  ExpertGroups(run.world(), n),
                  seed_set(store.size(), deck.route.seed_fraction, deck.route.seed_min, run.seed())};
  if (run.options().rehearse > 0) {
    auto const enough = at(n * deck.route.batch * run.options().rehearse);
    routing.seeds.resize(std::min(routing.seeds.size(), enough));
  }
  std::optional<PerplexityMatrix> matrix;
  Buckets const buckets = routing.buckets(matrix);
  std::vector<std::vector<Index>> samples(at(n));
  for (Index e = 0; e < n; ++e) {
    for (Index const s : buckets.members[at(e)]) samples[at(e)].push_back(routing.seeds[at(s)]);
  }
  auto const outcomes = routing.train(samples);

  auto const remarks = route_remarks(buckets, outcomes, run.options().rehearse > 0);
  run.console().say(
      route_table(store, routing.seeds, buckets, outcomes),
      fmt::format("stage 3: {} seeds for {} experts ({})", routing.seeds.size(), n, deck.route.data));
  for (auto const& line : remarks) run.console().say(line);
  stage.finish(fmt::format("{} seeds\n{}", routing.seeds.size(), fmt::join(remarks, "\n")));
  return result;
}

}  // namespace upit::upcycle
