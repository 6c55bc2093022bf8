// SPDX-License-Identifier: Apache-2.0
// Owns the comparison of the model with an independent one: tests/reference/make_reference.py says what and
// how.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>

#include "support/reference_file.hpp"
#include "upit/kernels/adamw.hpp"
#include "upit/model/transformer.hpp"

namespace upit::test {
namespace {

// Fractions of the largest value of the tensor compared, or of the loss. In double: some 300 roundings deep,
// each 1e-16, amplified by norms and softmax. In fp32 PyTorch itself, with its own order of sums, is off by
// up to 1.1e-6 in logits, 5.0e-6 in gradients and 5e-7 in losses (the script prints it).
template <class T>
struct Tolerance {
  static constexpr bool kDouble = std::is_same_v<T, double>;
  static constexpr double logits = kDouble ? 1e-11 : 1e-5;
  static constexpr double gradient = kDouble ? 1e-10 : 2e-5;
  static constexpr double loss = kDouble ? 1e-10 : 1e-5;
};

/// Copies doubles into a View of any type and place.
template <class V>
void fill(V const& view, std::vector<double> const& value) {
  ASSERT_EQ(view.extent(0), value.size());
  auto const host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < value.size(); ++i) host(i) = static_cast<typename V::value_type>(value[i]);
  Kokkos::deep_copy(view, host);
}

/// Largest difference over largest expected value; infinity where anything is not finite or shapes differ.
double distance(std::vector<double> const& value, std::vector<double> const& expected) {
  if (value.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double apart = 0, largest = 0;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (!std::isfinite(value[i])) return std::numeric_limits<double>::infinity();
    apart = std::max(apart, std::abs(value[i] - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return largest > 0 ? apart / largest : apart;
}

ModelConfig model_config(nlohmann::json const& from) {
  ModelConfig to;
  to.layers = from.at("layers");
  to.width = from.at("width");
  to.heads = from.at("heads");
  to.kv_heads = from.at("kv_heads");
  to.head_width = from.at("head_width");
  to.ffn = from.at("ffn");
  to.vocabulary = from.at("vocabulary");
  to.context = from.at("context");
  to.norm_eps = from.at("norm_eps");
  to.rope_theta = from.at("rope_theta");
  to.tied = from.at("tied");
  return to;
}

ExpertConfig expert_config(nlohmann::json const& from) {
  ExpertConfig to;
  to.count = from.at("count");
  if (to.count == 0) return to;
  to.kind = from.value("kind", "lora") == "ffn" ? ExpertKind::ffn : ExpertKind::lora;
  to.active = from.at("active");
  to.rank = from.at("rank");
  to.alpha = from.at("alpha");
  to.mix = from.at("mix") == "ffn" ? LoraMix::ffn : LoraMix::branch;
  to.order = from.at("order") == "softmax_topk" ? RouterOrder::softmax_topk : RouterOrder::topk_softmax;
  to.router = from.at("router") == "gate"        ? RouterUse::gate
              : from.at("router") == "auxiliary" ? RouterUse::auxiliary
                                                 : RouterUse::none;
  return to;
}

Trained trained(nlohmann::json const& training) {
  Trained to;
  for (auto const& group : training.at("trained")) {
    (group == "backbone" ? to.backbone : group == "expert" ? to.expert : to.router) = true;
  }
  return to;
}

HostBatch host_batch(ReferenceFile const& file, std::string const& name) {
  HostBatch batch;
  batch.token = file.integers(name + ".token");
  batch.position = file.integers(name + ".position");
  batch.target = file.integers(name + ".target");
  for (int const first : file.integers(name + ".start")) batch.start.push_back(first);
  for (Index m = 0; m < batch.segments(); ++m) {
    auto const length = static_cast<std::size_t>(batch.start[m + 1] - batch.start[m]);
    batch.sample.insert(batch.sample.end(), length, static_cast<std::uint64_t>(m));
  }
  return batch;
}

/// Losses of one pass, as the reference names them.
struct Losses {
  double lm = 0, balance = 0, auxiliary = 0, total = 0;
};

/// One case in one type: the model at its initial weights, ready to run either batch.
template <class T>
class Case {
 public:
  explicit Case(std::string const& name)
      : file(std::string(UPIT_SOURCE_DIR "/tests/reference/") + name + ".safetensors"),
        training(file.config().at("training")),
        model(model_config(file.config().at("model"))),
        expert(expert_config(file.config().at("expert"))),
        table(model, expert, test::trained(training)),
        weights(table),
        gradient("upit::test.gradient", table.gradient_extent()) {
    check(model, expert);
    Index longest = 0;
    for (int b = 0; b < 2; ++b) {
      host[b] = host_batch(file, "batch." + std::to_string(b));
      longest = std::max(longest, host[b].tokens());
    }
    for (int b = 0; b < 2; ++b) {
      batch[b] = Batch(longest);
      batch[b].assign(host[b]);
    }
    for (auto const& tensor : table.tensors()) {
      EXPECT_EQ(file.find(tensor.name).shape, tensor.shape) << tensor.name;
      fill(weights.tensor(tensor), file.find(tensor.name).value);
    }
    transformer = std::make_unique<Transformer<T>>(model, expert, table, longest, true);
  }

  /// Forward and, if `train`, backward of batch b; `gradient` then holds that of the total loss.
  Losses pass(int b, bool train) {
    auto const layers = static_cast<double>(model.layers), tokens = static_cast<double>(host[b].tokens());
    auto const targets = static_cast<double>(host[b].targets());
    bool const auxiliary = expert.router == RouterUse::auxiliary;
    double const share = auxiliary ? training.at("auxiliary_alpha").template get<double>() : 1.0;
    double const auxiliary_weight = (1 - share) / (layers * tokens);
    if (auxiliary) transformer->set_auxiliary({.weight = auxiliary_weight, .positive = true});
    PassOptions const options{.train = train, .loss_scale = share / targets};
    Kokkos::deep_copy(exec, gradient, 0);

    Losses losses;
    losses.lm = transformer->forward(exec, weights, batch[b], options, gradient) / targets;
    losses.total = share * losses.lm;
    std::vector<double> slope;  // (L, E) d(loss)/d(a token's softmax probability)
    if (expert.router == RouterUse::gate) {
      double const coefficient = training.at("balance");
      auto const& counts = transformer->router_counts();
      auto const experts = static_cast<double>(expert.count);
      for (std::size_t i = 0; i < counts.assigned.size(); ++i) {
        double const sent = counts.assigned[i] / (tokens * static_cast<double>(expert.active));
        losses.balance += experts * sent * counts.probability[i] / tokens / layers;
        slope.push_back(coefficient * experts * sent / (layers * tokens));
      }
      losses.total += coefficient * losses.balance;
    }
    if (auxiliary) {
      losses.auxiliary = transformer->auxiliary_loss() / (layers * tokens);
      losses.total += (1 - share) * losses.auxiliary;
    }
    if (train) transformer->backward(exec, weights, batch[b], options, slope, gradient);
    exec.fence();
    return losses;
  }

  Exec exec;
  ReferenceFile file;
  nlohmann::json training;
  ModelConfig model;
  ExpertConfig expert;
  ParameterTable table;
  Weights<T> weights;
  View1<Real<T>> gradient;
  HostBatch host[2];
  Batch batch[2];
  std::unique_ptr<Transformer<T>> transformer;
};

/// The optimizer's part of a step, over the spans that a case trains.
template <class T>
class Descent {
 public:
  explicit Descent(Case<T> const& c)
      : first_("upit::test.first_moment", c.table.gradient_extent()),
        second_("upit::test.second_moment", c.table.gradient_extent()),
        blocks_("upit::test.blocks", kernels::squared_norm_blocks(c.table.gradient_extent())) {}

  /// Clips and updates; returns the norm before clipping.
  double step(Case<T> const& c, Index number) {
    double const clip = c.training.at("clip");
    double const norm = std::sqrt(kernels::squared_norm<Real<T>>(c.exec, c.gradient, blocks_));
    kernels::AdamwStep const step{.learning_rate = c.training.at("learning_rate"),
                                  .beta1 = c.training.at("beta1"),
                                  .beta2 = c.training.at("beta2"),
                                  .epsilon = c.training.at("epsilon"),
                                  .weight_decay = c.training.at("weight_decay"),
                                  .gradient_scale = std::min(1.0, clip / norm),
                                  .step = number};
    for (auto const& span : c.table.trained_spans()) {
      auto const part = [&](auto const& buffer, Index offset) {
        return View1<Real<T>>(buffer.data() + offset, span.size);
      };
      auto const& group = span.group == Group::backbone ? c.weights.backbone
                          : span.group == Group::expert ? c.weights.expert
                                                        : c.weights.router;
      kernels::adamw<T>(c.exec, part(c.gradient, span.gradient_offset), part(group, span.offset),
                        part(first_, span.gradient_offset), part(second_, span.gradient_offset), step);
    }
    return norm;
  }

 private:
  View1<Real<T>> first_, second_;
  View1<double> blocks_;
};

template <class T>
void compare_forward(std::string const& name) {
  Case<T> c(name);
  auto const losses = c.pass(0, false);
  auto const close = [&](double value, char const* key) {
    if (!c.file.contains(key)) return;
    double const expected = c.file.scalar(key);
    EXPECT_NEAR(value, expected, Tolerance<T>::logits * std::abs(expected)) << key;
  };
  close(losses.lm, "expect.lm");
  close(losses.balance, "expect.balance");
  close(losses.auxiliary, "expect.auxiliary");
  close(losses.total, "expect.total");

  std::vector<int> row(c.host[0].token.size());
  for (std::size_t n = 0; n < row.size(); ++n) row[n] = static_cast<int>(n);
  auto const logits = c.transformer->logits(c.exec, c.weights, row);
  EXPECT_LE(distance(logits, c.file.find("expect.logits").value), Tolerance<T>::logits);
}

template <class T>
void compare_gradients(std::string const& name) {
  Case<T> c(name);
  c.pass(1, true);  // whatever another batch left behind must not show
  auto const losses = c.pass(0, true);
  EXPECT_NEAR(losses.total, c.file.scalar("expect.total"),
              Tolerance<T>::logits * c.file.scalar("expect.total"));
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), c.gradient);
  std::size_t compared = 0;
  for (auto const& tensor : c.table.tensors()) {
    if (tensor.gradient_offset < 0) continue;
    auto const* const begin = host.data() + tensor.gradient_offset;
    auto const& expected = c.file.find("expect.gradient." + tensor.name);
    EXPECT_EQ(expected.shape, tensor.shape) << tensor.name;
    EXPECT_LE(distance({begin, begin + tensor.size()}, expected.value), Tolerance<T>::gradient)
        << tensor.name;
    ++compared;
  }
  auto const expected =
      std::count_if(c.file.tensors().begin(), c.file.tensors().end(),
                    [](auto const& entry) { return entry.first.rfind("expect.gradient.", 0) == 0; });
  EXPECT_EQ(compared, static_cast<std::size_t>(expected))
      << "the table trains other tensors than the reference";
}

template <class T>
void compare_steps(std::string const& name) {
  Case<T> c(name);
  Descent<T> descent(c);
  auto const& losses = c.file.find("expect.losses").value;
  auto const& norms = c.file.find("expect.norms").value;
  ASSERT_EQ(losses.size(), 10u);
  for (std::size_t s = 0; s < losses.size(); ++s) {
    auto const loss = c.pass(static_cast<int>(s % 2), true);
    EXPECT_NEAR(loss.total, losses[s], Tolerance<T>::loss * losses[s]) << "loss before step " << s;
    double const norm = descent.step(c, static_cast<Index>(s) + 1);
    EXPECT_NEAR(norm, norms[s], Tolerance<T>::gradient * norms[s]) << "gradient norm of step " << s;
  }
}

class Parity : public ::testing::TestWithParam<char const*> {};

TEST_P(Parity, ForwardInDouble) { compare_forward<double>(GetParam()); }
TEST_P(Parity, ForwardInFloat) { compare_forward<float>(GetParam()); }
TEST_P(Parity, GradientsInDouble) { compare_gradients<double>(GetParam()); }
TEST_P(Parity, GradientsInFloat) { compare_gradients<float>(GetParam()); }
TEST_P(Parity, TenStepsInDouble) { compare_steps<double>(GetParam()); }
TEST_P(Parity, TenStepsInFloat) { compare_steps<float>(GetParam()); }

INSTANTIATE_TEST_SUITE_P(, Parity,
                         ::testing::Values("dense_tied", "dense_untied", "lora", "moe_branch", "moe_ffn",
                                           "moe_branch_softmax_topk", "moe_ffn_softmax_topk", "moe_experts",
                                           "moe_experts_softmax_topk", "moe_auxiliary"),
                         [](auto const& info) { return std::string(info.param); });

}  // namespace
}  // namespace upit::test
