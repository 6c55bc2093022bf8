// SPDX-License-Identifier: Apache-2.0
#include "upit/train/bench.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "upit/core/error.hpp"
#include "upit/core/progress.hpp"
#include "upit/core/random.hpp"
#include "upit/core/timer.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/train/trainer.hpp"

namespace upit {
namespace {

double median(std::vector<double> values) {
  std::ranges::sort(values);
  std::size_t const n = values.size();
  return n == 0 ? 0.0 : 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

/// Ids drawn at random; with context + 1 of them a sample feeds `context` tokens.
TokenStore random_tokens(BenchOptions const& options) {
  TokenStore store;
  store.domains = {"random"};
  auto const vocabulary = static_cast<std::uint64_t>(options.model.vocabulary);
  std::vector<int> tokens(static_cast<std::size_t>(options.model.context) + 1);
  for (Index s = 0; s < options.sequences; ++s) {
    RandomKey const key = random_key(options.seed, "bench tokens", s);
    for (std::size_t t = 0; t < tokens.size(); ++t)
      tokens[t] = static_cast<int>(random_below(key, t, vocabulary));
    store.append(tokens, 1, 0);
  }
  return store;
}

ExpertConfig expert_config(BenchOptions const& options, BenchKind kind) {
  ExpertConfig e;
  if (kind == BenchKind::dense || kind == BenchKind::dense_wide) return e;
  if (kind == BenchKind::ffn_moe) {
    e.kind = ExpertKind::ffn;
    e.count = options.experts;
    e.active = options.active;
    e.router = RouterUse::gate;
    return e;
  }
  e.count = 1;
  e.rank = options.rank;
  e.alpha = 2.0 * static_cast<double>(options.rank);
  if (kind == BenchKind::lora) return e;
  e.count = options.experts;
  e.active = options.active;
  e.mix = options.mix;
  e.router = RouterUse::gate;
  return e;
}

ModelConfig model_config(BenchOptions const& options, BenchKind kind) {
  ModelConfig m = options.model;
  if (kind == BenchKind::dense_wide) m.ffn *= options.active;
  return m;
}

Trained trained_groups(BenchKind kind) {
  switch (kind) {
    case BenchKind::dense:
    case BenchKind::dense_wide:
      return {true, false, false};
    case BenchKind::ffn_moe:
      return {true, true, true};
    case BenchKind::lora:
      return {false, true, false};
    case BenchKind::lora_moe:
      break;
  }
  return {false, true, true};
}

/// FFN experts, each with values of its own, as a backbone's are.
void randomise_experts(ParameterTable const& table, std::uint64_t seed, Weights<float> const& weights) {
  constexpr double kDeviation = 0.02;
  auto const host = Kokkos::create_mirror_view(weights.expert);
  Index number = 0;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    RandomKey const key = random_key(seed, "bench experts", number++);
    Index const before = t.shape[0] > 0 ? t.first * (t.size() / t.shape[0]) : 0;
    for (Index i = 0; i < t.size(); ++i) {
      // Uniform of the same deviation: the values do not matter here and a normal costs three times as much.
      double const u = random_uniform(key, static_cast<std::uint64_t>(before + i));
      host(t.offset + i) = static_cast<float>(kDeviation * std::sqrt(12.0) * (u - 0.5));
    }
  }
  Kokkos::deep_copy(weights.expert, host);
}

/// LoRA starts with B = 0; here B is random too, as in the middle of a training.
void randomise_b(ParameterTable const& table, std::uint64_t seed, Weights<float> const& weights) {
  auto const host = Kokkos::create_mirror_view(weights.expert);
  Kokkos::deep_copy(host, weights.expert);
  Index number = 0;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert || !t.name.ends_with("_b")) continue;
    RandomKey const key = random_key(seed, "bench lora", number++);
    for (Index i = 0; i < t.size(); ++i) {
      host(t.offset + i) = static_cast<float>(0.02 * random_normal(key, static_cast<std::uint64_t>(i)));
    }
  }
  Kokkos::deep_copy(weights.expert, host);
}

using CaseTrainer = std::unique_ptr<Trainer<float>>;

/// Whether the two have the same backbone; then the values of `to` are those of `from`.
bool copy_backbone(ModelWeights<float> const& from, ModelWeights<float> const& to) {
  auto const differ = [](auto const& a, auto const& b) { return a.extent(0) != b.extent(0); };
  if (differ(from.fp32.backbone, to.fp32.backbone) || differ(from.bf16.backbone, to.bf16.backbone))
    return false;
  Kokkos::deep_copy(to.fp32.backbone, from.fp32.backbone);
  Kokkos::deep_copy(to.bf16.backbone, from.bf16.backbone);
  return true;
}

/// A trainer with random weights. Cases with the same backbone share its values, so those are copied.
CaseTrainer make_trainer(Communicator const& comm, RankGrid const& grid, BenchOptions const& options,
                         BenchKind kind, Index max_tokens, Trainer<float> const* first) {
  TrainerOptions settings;
  settings.loss_on_all = true;
  settings.balance = 0.01;
  settings.precision = options.precision;
  ModelConfig const model = model_config(options, kind);
  auto trainer = std::make_unique<Trainer<float>>(comm, model, expert_config(options, kind),
                                                  trained_groups(kind), max_tokens, settings,
                                                  ExpertParallel{&grid, options.capacity, options.chunks});
  auto const& weights = trainer->values();
  bool const same = first != nullptr && copy_backbone(first->values(), weights);
  if (!same) initialise_backbone(trainer->table(), model, options.seed, weights);
  initialise_router(trainer->table(), options.seed, 0, weights);
  // Experts are trained in every case: their masters are here.
  if (kind == BenchKind::ffn_moe) {
    randomise_experts(trainer->table(), options.seed, weights.fp32);
  } else {
    initialise_lora(trainer->table(), options.seed, weights);
    randomise_b(trainer->table(), options.seed, weights.fp32);
  }
  Exec const exec;
  weights.round(exec);
  exec.fence();
  return trainer;
}

/// Best library and shape, all ranks at once and summed.
double sample_ceiling(Communicator const& comm, GemmPeak const& peak, std::span<ProductShape const> shapes) {
  constexpr Index kRepeats = 2;
  double best = 0.0;
  for (Index library = 0; library < std::ssize(peak.libraries()); ++library) {
    for (auto const& shape : shapes) {
      comm.barrier();
      best = std::max(best, comm.sum(peak.measure(library, shape, kRepeats)));
    }
  }
  return best;
}

Index largest_resident_bytes() {
  struct rusage usage = {};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<Index>(usage.ru_maxrss) * 1024 : 0;
}

void check_options(BenchOptions const& options, int ranks) {
  require(options.sequences >= ranks,
          fmt::format("{} sequences for {} ranks; every rank needs one", options.sequences, ranks));
  require(options.repeats >= 1, fmt::format("{} repetitions; at least 1 is needed", options.repeats));
  require(!options.cases.empty(), "bench was given no case to time");
  require(options.precision == Precision::fp32 || bf16_products() != Bf16Products::none,
          "--precision bf16 needs a build with oneDNN 2.x and a processor with AVX-512");
  for (auto const kind : options.cases) check(model_config(options, kind), expert_config(options, kind));
}

}  // namespace

std::string_view name_of(BenchKind kind) {
  switch (kind) {
    case BenchKind::dense:
      return "dense";
    case BenchKind::dense_wide:
      return "dense_wide";
    case BenchKind::lora:
      return "lora";
    case BenchKind::ffn_moe:
      return "ffn_moe";
    case BenchKind::lora_moe:
      return "lora_moe";
  }
  return "";
}

double flops_per_token(ModelConfig const& m, BenchKind kind, Index sequence, Index active, Index rank) {
  auto const real = [](Index i) { return static_cast<double>(i); };
  double const layers = real(m.layers), d = real(m.width), f = real(m.ffn);
  bool const frozen = kind == BenchKind::lora || kind == BenchKind::lora_moe;
  bool const wide = kind == BenchKind::ffn_moe || kind == BenchKind::dense_wide;
  double const passes = wide ? real(active) : 1.0;
  double const low_rank = kind == BenchKind::lora ? 1.0 : kind == BenchKind::lora_moe ? real(active) : 0.0;
  double const parameters =
      layers * (2.0 * d * d + 2.0 * d * d * real(m.kv_heads) / real(m.heads) + passes * 3.0 * d * f) +
      real(m.vocabulary) * d;
  return (frozen ? 4.0 : 6.0) * parameters + 6.0 * layers * real(sequence) * d +
         18.0 * layers * low_rank * real(rank) * (d + f);
}

double BenchCase::best_seconds() const { return *std::ranges::min_element(seconds); }
double BenchCase::median_seconds() const { return median(seconds); }

double BenchCase::exchange_share() const {
  std::vector<double> shares;
  for (std::size_t i = 0; i < seconds.size(); ++i) shares.push_back(exchange_seconds[i] / seconds[i]);
  return median(shares);
}

double BenchCase::median_share() const {
  std::vector<double> shares;
  for (std::size_t i = 0; i < seconds.size(); ++i) shares.push_back(gflops(seconds[i]) / ceiling[i]);
  return median(shares);
}

double BenchReport::best_ceiling() const { return *std::ranges::max_element(ceiling); }
double BenchReport::median_ceiling() const { return median(ceiling); }

BenchReport run_bench(Communicator const& comm, BenchOptions const& options, Console& console) {
  comm.agree([&] { check_options(options, comm.size()); });
  TokenStore const store = random_tokens(options);
  auto const micro_steps = evaluation_steps(store, options.sequences, comm.size(), true);
  Index const per_rank = (options.sequences + comm.size() - 1) / comm.size();
  constexpr double kLearningRate = 1e-5;

  RankGrid const grid(comm, options.group, "--group");
  BenchReport report;
  std::vector<CaseTrainer> trainers;
  std::vector<Index> steps(options.cases.size(), 0);
  auto const timed_step = [&](std::size_t c, bool profile) {
    std::optional<ProfileListener> listener;
    comm.barrier();
    Stopwatch const watch;
    if (profile) listener.emplace(report.cases[c].profile);
    StepReport const step = trainers[c]->step(store, micro_steps, steps[c]++, kLearningRate);
    listener.reset();
    double const seconds = comm.max(watch.seconds());
    if (profile) ++report.cases[c].profile.steps;
    report.cases[c].loss = step.loss;
    report.cases[c].exchange_seconds.push_back(comm.sum(step.exchange.blocked) / comm.size());
    report.cases[c].exchange_bytes = comm.sum(step.exchange.bytes);
    return seconds;
  };
  for (std::size_t c = 0; c < options.cases.size(); ++c) {
    BenchCase one;
    one.kind = options.cases[c];
    one.tokens = options.sequences * options.model.context;
    one.flops = static_cast<double>(one.tokens) *
                flops_per_token(options.model, one.kind, options.model.context, options.active, options.rank);
    for (auto const& m : micro_steps) {
      one.profile_tokens += static_cast<Index>(m.per_rank[0].size()) * options.model.context;
    }
    report.cases.push_back(one);
    trainers.push_back(make_trainer(comm, grid, options, one.kind, per_rank * options.model.context,
                                    c > 0 ? trainers.front().get() : nullptr));
    report.cases[c].trained = trainers[c]->table().gradient_extent();
    report.cases[c].bytes = comm.max(trainers[c]->bytes());
    timed_step(c, false);  // the warm-up: pages are touched, libraries have made their kernels
    report.cases[c].exchange_seconds.clear();
  }
  GemmPeak const peak(options.shapes, options.precision == Precision::bf16);
  sample_ceiling(comm, peak, options.shapes);  // likewise

  Index const steps_to_time = options.repeats * std::ssize(options.cases);
  Progress progress(console, "bench", steps_to_time);
  report.ceiling.push_back(sample_ceiling(comm, peak, options.shapes));
  Index done = 0;
  for (Index r = 0; r < options.repeats; ++r) {
    for (std::size_t c = 0; c < trainers.size(); ++c) {
      BenchCase& one = report.cases[c];
      one.seconds.push_back(timed_step(c, options.profile));
      double const before = report.ceiling.back();
      bool const last = ++done == steps_to_time;
      if (options.ceiling_each || last) {
        report.ceiling.push_back(sample_ceiling(comm, peak, options.shapes));
      }
      one.ceiling.push_back(std::max(before, report.ceiling.back()));
      progress.update(done,
                      fmt::format("{} {:.1f} GFLOP/s", name_of(one.kind), one.gflops(one.seconds.back())));
    }
  }
  progress.finish();
  report.resident = comm.max(largest_resident_bytes());
  return report;
}

}  // namespace upit
