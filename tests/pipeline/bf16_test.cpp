// SPDX-License-Identifier: Apache-2.0
// Owns the tests of whole runs in 16 bits: killed and resumed, what files hold, how near fp32 they come.
#include <cmath>

#include "support.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit::test {
namespace {

struct Bf16Case {
  int ranks;
  std::string kind;
};

std::vector<std::string> changes_of(Bf16Case const& c, std::string const& precision) {
  // FFN experts are spread over the ranks, so that rows travel in 16 bits.
  std::string const group = std::to_string(c.kind == "ffn" ? c.ranks : 1);
  return {"expert.kind=" + c.kind, "train.precision=" + precision, "run.log_every=4",
          "parallel.expert=" + group};
}

class Bf16Run : public ::testing::TestWithParam<Bf16Case> {
 protected:
  void SetUp() override {
    if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, Bf16Run,
                         ::testing::Values(Bf16Case{1, "lora"}, Bf16Case{2, "lora"}, Bf16Case{2, "ffn"}),
                         [](auto const& info) {
                           return info.param.kind + "On" + std::to_string(info.param.ranks);
                         });

TEST_P(Bf16Run, KilledAndResumedEqualsTheStraightRunAndFilesAreExact) {
  Workplace const place;
  auto const changes = changes_of(GetParam(), "bf16");
  place.complete(GetParam().ranks, "straight", changes);
  std::string const straight = place.path("straight"), run = place.path("run");
  for (char const* stage : {"pretrain", "prepare", "route", "post_train"}) {
    auto const job = place.start(GetParam().ranks, place.deck("run", changes));
    ASSERT_TRUE(wait_until(
        [&] {
          return !state_steps(run, stage).empty() ||
                 (std::string(stage) == "route" && is_begun(run, stage)) || !job->running();
        },
        kPatience, 0.2));
    nap(10.0);
    job->kill_all();
  }
  place.complete(GetParam().ranks, "run", changes);
  expect_no_row_twice(run);
  expect_same_run(straight, run);

  // What no stage trains is in the last file as the first one had it, not rounded; what is trained is finer
  // than 16 bits.
  H5File base = H5File::open(straight + "/pretrain/base.h5", nullptr);
  H5File model = H5File::open(straight + "/post_train/model.h5", nullptr);
  std::vector<std::string> names;
  list_datasets(base, "/", names);
  std::size_t finer = 0;
  for (auto const& name : names) {
    for (float const value : base.read_all<float>(name))
      finer += static_cast<float>(bfloat16(value)) != value ? 1 : 0;
    if (GetParam().kind == "lora") {
      EXPECT_TRUE(same_bits<float>(base, model, name)) << name;
    }
  }
  EXPECT_GT(finer, 1000U);
  base.close();
  model.close();
  expect_one_error(place.launch(GetParam().ranks, place.deck("straight", changes_of(GetParam(), "fp32"))),
                   {"stage pretrain", "train.precision: was \"bf16\", is \"fp32\""});
}

// Steps of stage 0 begin with the same weights and see the same data: what differs is rounding. The mean over
// a thousand targets of numbers that were each rounded some fifty times, by 2^-8 / sqrt(6), is off by 1e-4 or
// so of itself as long as the weights are the same, and they part slowly: 0.5 % leaves room for sixteen
// steps.
TEST_P(Bf16Run, PretrainingLearnsAsInFp32) {
  Workplace const place;
  std::vector<double> losses[2];
  for (int p = 0; p < 2; ++p) {
    std::string const precision = p == 0 ? "fp32" : "bf16";
    auto changes = changes_of(GetParam(), precision);
    changes.back() = "run.log_every=1";
    place.complete(GetParam().ranks, precision, changes);
    for (auto const& row : metrics_of(place.path(precision))) {
      if (row.at("stage") == "pretrain") losses[p].push_back(std::stod(row.at("loss")));
    }
  }
  ASSERT_EQ(losses[0].size(), losses[1].size());
  ASSERT_GT(losses[0].size(), 10U);
  EXPECT_NE(losses[0], losses[1]);
  for (std::size_t s = 0; s < losses[0].size(); ++s) {
    EXPECT_NEAR(losses[1][s], losses[0][s], 0.005 * losses[0][s]) << "step " << s + 1;
  }
}

}  // namespace
}  // namespace upit::test
