// SPDX-License-Identifier: Apache-2.0
// Owns the check that stage 3 does the same on any number of ranks, stops wherever it is asked to, and goes
// on.
#include "upit/upcycle/route.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>

#include "mpi/io/shared_scratch.hpp"
#include "unit/upcycle/route_support.hpp"

namespace upit::upcycle {
namespace {

constexpr Index kExperts = 5;  // no multiple of 2 or 4: groups end with different counts of experts

std::vector<float> host_copy(View1<float> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  return {host.data(), host.data() + host.extent(0)};
}

TEST(RouteGroups, EveryExpertHasOneGroupAndOneRound) {
  Communicator const world = Communicator::world();
  for (Index const n : {1, 3, 5, 8}) {
    ExpertGroups const groups(world, n);
    EXPECT_EQ(groups.groups(), std::min<Index>(n, world.size()));
    std::vector<Index> mine(static_cast<std::size_t>(n), 0), listed(static_cast<std::size_t>(n), 0);
    for (Index round = 0; round < groups.rounds(); ++round) {
      Index const e = groups.expert(round);
      if (e >= 0 && groups.group().root()) ++mine[static_cast<std::size_t>(e)];
      for (Index const k : groups.of_round(round)) ++listed[static_cast<std::size_t>(k)];
    }
    world.sum(std::span<Index>(mine));
    EXPECT_EQ(mine, std::vector<Index>(static_cast<std::size_t>(n), 1));
    EXPECT_EQ(listed, std::vector<Index>(static_cast<std::size_t>(n), 1));
    EXPECT_EQ(world.sum(groups.group().root() ? Index{1} : Index{0}), groups.groups());
  }
}

TEST(RouteGroups, AnErrorOfOneGroupReachesAllRanks) {
  Communicator const world = Communicator::world();
  ExpertGroups const groups(world, kExperts);
  test::expect_agreed(world,
                      [&] {
                        groups.together([&] {
                          if (groups.expert(0) == groups.groups() - 1)
                            throw AgreedError("the last group failed");
                        });
                      },
                      {"the last group failed"});
  groups.together([] {});
}

struct Work {
  PerplexityMatrix matrix;
  std::vector<Index> expert_of;
  std::vector<std::vector<float>> expert, router;  // after training
  std::vector<RouteOutcome> outcomes;
};

/// The heart of the stage on the ranks of `comm`.
Work run_on(Communicator const& comm, TokenStore const& store) {
  RouteTraining const settings = test::route_settings(0.1);
  ExpertConfig const plain = test::route_expert(RouterUse::none, 0.1);
  ParameterTable const table(settings.model, plain);
  Weights<float> const weights(table);
  ExpertGroups const groups(comm, kExperts);
  auto const seeds = seed_set(store.size(), 0.5, 1, 3);
  PerplexityScorer scorer(comm, settings.model, plain, table, store, seeds);
  Work work;
  work.matrix = PerplexityMatrix(static_cast<Index>(seeds.size()), kExperts);
  fill_perplexities(
      groups, scorer, weights, [&](Index e) { test::fill_route_weights(table, e, weights); }, work.matrix);
  Index const capacity = bucket_capacity(work.matrix.samples, kExperts, 0);
  Buckets const buckets = assign_buckets(work.matrix.value, kExperts, {capacity, false, false});
  work.expert_of = buckets.expert_of;
  std::vector<std::vector<Index>> samples;
  for (auto const& members : buckets.members) {
    samples.emplace_back();
    for (Index const s : members) samples.back().push_back(seeds[static_cast<std::size_t>(s)]);
  }
  RouteTrainer trainer(groups.group(), settings, store, samples);
  work.expert.resize(kExperts);
  work.router.resize(kExperts);
  for (Index round = 0; round < groups.rounds(); ++round) {
    Index const e = groups.expert(round);
    if (e < 0) continue;
    test::fill_route_weights(trainer.table(), e, trainer.weights());
    work.outcomes.push_back(trainer.train(e).value());
    work.expert[static_cast<std::size_t>(e)] = host_copy(trainer.weights().expert);
    work.router[static_cast<std::size_t>(e)] = host_copy(trainer.weights().router);
  }
  return work;
}

double distance(std::vector<float> const& a, std::vector<float> const& b) {
  double difference = 0.0, length = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    length += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / length);
}

TEST(Route, RanksShareTheWorkAndAgreeWithOne) {
  Communicator const world = Communicator::world();
  TokenStore const store = test::route_store(90);
  Communicator const alone = world.split(world.rank());
  Work const one = run_on(alone, store), all = run_on(world, store);
  EXPECT_EQ(all.matrix.value, one.matrix.value);
  EXPECT_EQ(all.expert_of, one.expert_of);
  for (auto const& o : all.outcomes) {
    auto const e = static_cast<std::size_t>(o.expert);
    RouteOutcome const& expected = one.outcomes[e];
    EXPECT_EQ(o.steps, expected.steps);
    // Some steps of fp32 training: relative 1e-5 for losses (DESIGN, "Deterministic"); AdamW divides by the
    // size of a gradient, so that weights whose gradient is near 0 move further apart.
    EXPECT_NEAR(o.loss_after / expected.loss_after, 1.0, 1e-5);
    EXPECT_NEAR(o.auxiliary_after / expected.auxiliary_after, 1.0, 1e-5);
    EXPECT_LT(distance(all.expert[e], one.expert[e]), 1e-4);
    EXPECT_LT(distance(all.router[e], one.router[e]), 1e-4);
    EXPECT_LT(o.auxiliary_after, o.auxiliary_before);
  }
}

TEST(Route, MoreRanksThanExpertsTrainTogether) {
  Communicator const world = Communicator::world();
  TokenStore const store = test::route_store(40);
  std::vector<std::vector<Index>> bucket(1);
  for (Index i = 0; i < 13; ++i) bucket[0].push_back(3 * i);
  Communicator const alone = world.split(world.rank());
  std::vector<std::vector<float>> router;
  for (Communicator const* const comm : {&world, &alone}) {
    RouteTrainer trainer(*comm, test::route_settings(0.1), store, bucket);
    test::fill_route_weights(trainer.table(), 0, trainer.weights());
    trainer.train(0);
    router.push_back(host_copy(trainer.weights().router));
  }
  EXPECT_LT(distance(router[0], router[1]), 1e-4);
}

TEST(Route, AGroupGivesItsExpertUpWhenOneRankWantsToStop) {
  Communicator const world = Communicator::world();
  TokenStore const store = test::route_store(40);
  std::vector<std::vector<Index>> bucket(1);
  for (Index i = 0; i < 13; ++i) bucket[0].push_back(3 * i);
  RouteTrainer trainer(world, test::route_settings(0.1), store, bucket);
  test::fill_route_weights(trainer.table(), 0, trainer.weights());
  Index steps = 0;
  auto const outcome = trainer.train(
      0, [&](RouteStep const&) { ++steps; },
      [&](double) { return world.rank() == world.size() - 1 && steps == 2; });
  EXPECT_FALSE(outcome.has_value());
  EXPECT_EQ(steps, 2);
}

TEST(Route, AGroupGivesItsColumnUpAndTheOthersAreKept) {
  Communicator const world = Communicator::world();
  TokenStore const store = test::route_store(90);
  RouteTraining const settings = test::route_settings(0.0);
  ExpertConfig const plain = test::route_expert(RouterUse::none, 0.0);
  ParameterTable const table(settings.model, plain);
  Weights<float> const weights(table);
  Index const experts = 2;  // on four ranks two of them share a column
  ExpertGroups const groups(world, experts);
  std::vector<Index> seeds;
  for (Index s = 0; s < 90; ++s) seeds.push_back(s);
  PerplexityScorer scorer(world, settings.model, plain, table, store, seeds);
  auto const load = [&](Index e) { test::fill_route_weights(table, e, weights); };
  PerplexityMatrix matrix(90, experts), expected(90, experts);
  fill_perplexities(groups, scorer, weights, load, expected);
  Index rounds = 0;
  fill_perplexities(
      groups, scorer, weights, load, matrix, [&] { return ++rounds > 0; },
      [&](Index done, double) { return world.rank() == world.size() - 1 && done == 1; });
  EXPECT_EQ(rounds, 1);  // none begins after it
  EXPECT_EQ(matrix.known(0), groups.groups() == 2);
  EXPECT_FALSE(matrix.known(1));
  fill_perplexities(groups, scorer, weights, load, matrix);
  EXPECT_EQ(matrix.value, expected.value);
}

/// A run directory with a tiny base and kExperts experts.
struct StageFixture {
  explicit StageFixture(Communicator const& w, std::string const& directory) : world(w) {
    deck.run.directory = directory;
    deck.run.log_every = 3;
    deck.data.samples = 120;
    deck.data.context = 64;
    deck.expert.count = kExperts;
    deck.lora.rank = 2;
    deck.route.seed_min = 60;
    deck.route.batch = 4;
    deck.route.learning_rate = 3e-3;
    model.layers = 2;
    model.width = 16;
    model.heads = 2;
    model.kv_heads = 1;
    model.head_width = 8;
    model.ffn = 24;
    model.vocabulary = 258;
    model.context = 64;
    model.tied = true;
  }

  RoutedSet route_once(RunOptions const& options = {}) {
    Console console(false);
    Run run(deck, world, console, options);
    ExpertSet set;
    set.base.path = run.path("base.h5");
    set.base.model = model;
    ExpertConfig const single = single_expert(deck, RouterUse::none);
    ParameterTable const table(model, single), dense(model, {});
    Weights<float> const weights(dense);
    initialise_backbone(dense, model, 5, weights);
    set.base.hash = backbone_hash(dense, weights);
    bool const first = !run.directory().exists("base.h5");
    if (first) {
      write_model_file(set.base.path, world, run.file_info("dense", model, {}, set.base.hash, 0), dense,
                       weights, {true, false, false});
    }
    for (Index e = 0; e < kExperts; ++e) {
      set.files.push_back("from_" + std::to_string(e) + ".h5");
      if (!first) continue;
      Weights<float> const expert =
          test::random_weights<float>(table, 40 + static_cast<std::uint64_t>(e), 0.1);
      if (e == other_backbone) Kokkos::deep_copy(expert.backbone, 0.05F);
      write_model_file(run.path(set.files.back()), world,
                       run.file_info("expert", model, single, set.base.hash, 0), table, expert,
                       expert_groups(deck));
    }
    if (has_ffn_experts(deck)) set.backbones = set.files;
    set.hash = "experts of a test";
    return route(run, set);
  }

  std::vector<float> values(RoutedSet const& set) {
    std::vector<float> all;
    ParameterTable const table(model, single_expert(deck, RouterUse::auxiliary));
    for (auto const& file : set.experts.files) {
      Weights<float> const weights(table);
      read_model_file(deck.run.directory + "/" + file, &world, table, weights, {false, true, true});
      for (auto const& part : {host_copy(weights.expert), host_copy(weights.router)}) {
        all.insert(all.end(), part.begin(), part.end());
      }
    }
    return all;
  }

  std::string text(std::string const& file) { return read_text_file(deck.run.directory + "/" + file); }

  std::vector<double> perplexities() const {
    H5File file = H5File::open(deck.run.directory + "/route/perplexity.h5", &world);
    auto values = file.read_all<double>("log_perplexity");
    file.close();
    return values;
  }
  Index other_backbone = -1;  // FFN experts: the one whose backbone is another

  Communicator const& world;
  Deck deck;
  ModelConfig model;
};

/// metrics.csv without its timings.
std::string rows_of(std::string const& metrics) {
  std::string out;
  std::size_t begin = 0;
  while (begin < metrics.size()) {
    std::size_t const end = std::min(metrics.find('\n', begin), metrics.size());
    std::string const line = metrics.substr(begin, end - begin);
    out +=
        line.substr(0, line.find(',', line.find(',', line.find(',') + 1) + 1)) + "\n";  // stage, step, loss
    begin = end + 1;
  }
  return out;
}

// Kokkos calls tools through plain function pointers, hence the variables.
constexpr char const *kStep = "upit::train_step", *kBlock = "upit::evaluate";
std::vector<std::string> regions;
Index regions_left = 0;

void note_region(char const* label) {
  if (std::find(regions.begin(), regions.end(), label) == regions.end()) return;
  if (--regions_left == 0) std::raise(SIGUSR1);
}

/// While it lives, SIGUSR1 reaches one rank in the `count`-th step or block.
class StopAt {
 public:
  StopAt(Communicator const& world, int rank, std::vector<std::string> const& labels, Index count) {
    install_stop_signals();
    if (world.rank() != rank) return;
    regions = labels;
    regions_left = count;
    Kokkos::Tools::Experimental::set_push_region_callback(note_region);
  }
  ~StopAt() {
    Kokkos::Tools::Experimental::set_push_region_callback(nullptr);
    clear_stop_request();
  }
  StopAt(StopAt const&) = delete;
  StopAt& operator=(StopAt const&) = delete;
};

TEST(RouteStage, WhatOtherGroupsFinishIsKept) {
  Communicator const world = Communicator::world();
  test::SharedScratch const scratch(world);
  StageFixture fixture(world, scratch.path("run"));
  int const last = world.size() - 1;
  {
    StopAt const stop(world, last, {kBlock}, 2);
    EXPECT_THROW(fixture.route_once(), Interrupted);
  }
  H5File file = H5File::open(fixture.deck.run.directory + "/route/perplexity.h5", &world);
  auto const values = file.read_all<double>("log_perplexity");
  file.close();
  ASSERT_EQ(values.size(), static_cast<std::size_t>(60 * kExperts));
  for (Index e = 0; e < kExperts; ++e) {
    EXPECT_EQ(std::isnan(values[static_cast<std::size_t>(e)]), e >= last) << e;
  }
  {
    StopAt const stop(world, last, {kStep}, 2);
    EXPECT_THROW(fixture.route_once(), Interrupted);
  }
  world.barrier();
  for (Index e = 0; e < kExperts; ++e) {
    std::string const name = fixture.deck.run.directory + "/route/expert_0" + std::to_string(e) + ".h5";
    EXPECT_EQ(std::filesystem::exists(name), e < last) << name;
  }
  EXPECT_EQ(parse_training_csv(fixture.text("route/training.csv")).size(), static_cast<std::size_t>(last));
  std::string const metrics = fixture.text("metrics.csv");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 1 + 4 * last);
}

TEST(RouteStage, StoppedAndResumedEqualsStraight) {
  Communicator const world = Communicator::world();
  test::SharedScratch const scratch(world);
  StageFixture straight(world, scratch.path("straight")), stopped(world, scratch.path("stopped"));
  RoutedSet const expected = straight.route_once();
  EXPECT_TRUE(expected.has_vectors);
  ASSERT_EQ(expected.experts.files.size(), static_cast<std::size_t>(kExperts));
  EXPECT_EQ(expected.experts.files[4], "route/expert_04.h5");

  // Every launch is stopped three steps or blocks later than the one before, on another rank: within a column
  // of 4 blocks, between columns, within an expert of 12 steps.
  int interruptions = 0;
  RoutedSet resumed;
  for (bool done = false; !done;) {
    ASSERT_LE(interruptions, 20);
    StopAt const stop(world, interruptions % world.size(), {kStep, kBlock}, 2 + 3 * interruptions);
    try {
      resumed = stopped.route_once();
      done = true;
    } catch (Interrupted const&) {
      ++interruptions;
    }
  }
  EXPECT_GE(interruptions, 2);  // eight on one rank
  EXPECT_EQ(stopped.values(resumed), straight.values(expected));
  EXPECT_EQ(stopped.text("route/buckets.csv"), straight.text("route/buckets.csv"));
  EXPECT_EQ(stopped.text("route/training.csv"), straight.text("route/training.csv"));
  EXPECT_EQ(rows_of(stopped.text("metrics.csv")), rows_of(straight.text("metrics.csv")));
  EXPECT_EQ(resumed.experts.hash, expected.experts.hash);

  // 60 seeds, 12 an expert, 4 epochs in batches of 4: 12 steps each, a row every third.
  auto const outcomes = parse_training_csv(straight.text("route/training.csv"));
  ASSERT_EQ(outcomes.size(), static_cast<std::size_t>(kExperts));
  for (auto const& o : outcomes) {
    EXPECT_EQ(o.steps, 12);
    EXPECT_LT(o.auxiliary_after, o.auxiliary_before);
    EXPECT_GT(o.moved, 0.0);
  }
  std::string const metrics = straight.text("metrics.csv");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 1 + 4 * kExperts);
}

TEST(RouteStage, ALostExpertAloneIsTrainedAgain) {
  Communicator const world = Communicator::world();
  test::SharedScratch const scratch(world);
  StageFixture fixture(world, scratch.path("run"));
  RoutedSet const set = fixture.route_once();
  auto const expected = fixture.values(set);
  std::string const metrics = fixture.text("metrics.csv"), record = fixture.text("route/stage.txt");
  world.barrier();
  auto const kept = std::filesystem::last_write_time(fixture.deck.run.directory + "/route/expert_02.h5");
  world.barrier();
  if (world.root()) {  // as a kill between two files leaves it
    std::filesystem::remove(fixture.deck.run.directory + "/route/expert_03.h5");
    std::string begun = record;
    begun.replace(0, begun.find("[inputs]"), "begun\n");
    write_text_file(fixture.deck.run.directory + "/route/stage.txt", begun);
  }
  world.barrier();
  EXPECT_EQ(fixture.values(fixture.route_once()), expected);
  EXPECT_EQ(std::filesystem::last_write_time(fixture.deck.run.directory + "/route/expert_02.h5"), kept);
  EXPECT_EQ(rows_of(fixture.text("metrics.csv")), rows_of(metrics));
  EXPECT_EQ(fixture.text("route/stage.txt"), record);
}

TEST(RouteStage, FfnExpertsAreScoredAndTrainedOnTheirOwnBackbones) {
  Communicator const world = Communicator::world();
  test::SharedScratch const scratch(world);
  StageFixture alike(world, scratch.path("alike")), other(world, scratch.path("other"));
  for (StageFixture* const fixture : {&alike, &other}) fixture->deck.expert.kind = "ffn";
  other.other_backbone = 1;
  RoutedSet const set = alike.route_once();
  other.route_once();
  EXPECT_TRUE(set.has_vectors);
  EXPECT_EQ(set.experts.backbones[1], "from_1.h5");

  auto const a = alike.perplexities(), b = other.perplexities();
  ASSERT_EQ(a.size(), static_cast<std::size_t>(60 * kExperts));
  ASSERT_EQ(b.size(), a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i] != b[i], i % kExperts == 1) << i;
  }
  // What is left holds FFN and vector; both have learnt, the backbone is not written again.
  ParameterTable const table(alike.model, single_expert(alike.deck, RouterUse::auxiliary));
  for (Index e = 0; e < kExperts; ++e) {
    auto const path = [&](std::string const& file) { return alike.deck.run.directory + "/" + file; };
    std::string const trained = path(set.experts.files[static_cast<std::size_t>(e)]);
    H5File file = H5File::open(trained, &world);
    EXPECT_TRUE(file.exists("expert/layers.0.experts.gate_up"));
    EXPECT_TRUE(file.exists("router/layers.1.router"));
    EXPECT_FALSE(file.exists("backbone/embedding"));
    file.close();
    Weights<float> const before(table), after(table);
    read_model_file(path(set.experts.backbones[static_cast<std::size_t>(e)]), &world, table, before,
                    {false, true, false});
    read_model_file(trained, &world, table, after, {false, true, false});
    EXPECT_NE(host_copy(before.expert), host_copy(after.expert));
  }
  for (auto const& o : parse_training_csv(alike.text("route/training.csv"))) {
    EXPECT_LT(o.loss_after, o.loss_before);
    EXPECT_LT(o.auxiliary_after, o.auxiliary_before);
  }
}

TEST(RouteStage, OtherChoices) {
  Communicator const world = Communicator::world();
  test::SharedScratch const scratch(world);
  StageFixture random(world, scratch.path("random"));
  random.deck.route.data = "random";
  random.deck.route.negatives = true;
  RunOptions two;
  two.rehearse = 2;
  RoutedSet const set = random.route_once(two);
  EXPECT_TRUE(set.has_vectors);
  for (auto const& o : parse_training_csv(random.text("route/training.csv"))) EXPECT_EQ(o.steps, 2);
  EXPECT_TRUE(random.text("route/buckets.csv").starts_with("sample,domain,expert\n"));

  StageFixture none(world, scratch.path("none"));
  none.deck.route.data = "none";
  RoutedSet const unchanged = none.route_once();
  EXPECT_FALSE(unchanged.has_vectors);
  EXPECT_EQ(unchanged.experts.files[2], "from_2.h5");
  EXPECT_EQ(unchanged.experts.hash, "experts of a test");
}

TEST(RouteStage, RefusesAnExpertOfAnotherBase) {
  Communicator const world = Communicator::world();
  test::SharedScratch const scratch(world);
  StageFixture fixture(world, scratch.path("run"));
  fixture.deck.route.data = "none";
  fixture.route_once();  // writes base and experts only
  ParameterTable const table(fixture.model, single_expert(fixture.deck, RouterUse::none));
  Weights<float> const weights(table);
  ModelFileInfo info;
  info.kind = "expert";
  info.model = fixture.model;
  info.expert = single_expert(fixture.deck, RouterUse::none);
  info.base_hash = "another";
  write_model_file(fixture.deck.run.directory + "/from_1.h5", world, info, table, weights,
                   {false, true, false});
  fixture.deck.route.data = "skilled";
  test::expect_agreed(world, [&] { fixture.route_once(); }, {"from_1.h5", "another"});
}

}  // namespace
}  // namespace upit::upcycle
