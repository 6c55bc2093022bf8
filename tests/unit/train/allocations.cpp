// SPDX-License-Identifier: Apache-2.0
// Owns the check that a training step allocates nothing and that all its kernels carry our labels. Kokkos
// calls tools through plain function pointers, hence the variables of this file.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/tiny_training.hpp"

namespace upit::test {
namespace {

std::vector<std::string> allocated, launched;

void note_allocation(Kokkos_Profiling_SpaceHandle, char const* label, void const*, std::uint64_t) {
  allocated.emplace_back(label);
}
void note_launch(char const* label, std::uint32_t, std::uint64_t*) { launched.emplace_back(label); }

/// Listens to Kokkos while it lives.
class Listener {
 public:
  Listener() {
    allocated.clear();
    launched.clear();
    set(note_allocation, note_launch);
  }
  ~Listener() { set(nullptr, nullptr); }
  Listener(Listener const&) = delete;
  Listener& operator=(Listener const&) = delete;

 private:
  static void set(decltype(&note_allocation) allocation, decltype(&note_launch) launch) {
    using namespace Kokkos::Tools::Experimental;
    set_allocate_data_callback(allocation);
    set_begin_parallel_for_callback(launch);
    set_begin_parallel_reduce_callback(launch);
    set_begin_parallel_scan_callback(launch);
  }
};

TEST(Allocations, AreHeard) {
  {
    Listener const listener;
    View1<float> const view("heard", 3);
    Kokkos::parallel_for("also heard", Kokkos::RangePolicy<HostExec>(0, 1), [](int) {});
  }
  EXPECT_EQ(allocated, std::vector<std::string>{"heard"});
  ASSERT_FALSE(launched.empty());
  EXPECT_EQ(launched.back(), "also heard");
  View1<float> const unheard("unheard", 3);
  EXPECT_EQ(allocated.size(), 1u);
}

class TrainingStep : public ::testing::TestWithParam<TrainingCase> {};

TEST_P(TrainingStep, AllocatesNothingAndLaunchesOnlyNamedKernels) {
  TrainingCase const& c = GetParam();
  Communicator const comm = Communicator::world();
  TokenStore const store = tiny_store(14, c.tiny.model.vocabulary, 2, kTrainingContext + 1);
  BatchPlan const plan(store, kTrainingContext, c.packing, c.batch, c.micro_batch, 4);
  Trainer<float> trainer(comm, c.tiny.model, c.tiny.expert, c.tiny.trained, plan.max_tokens_per_rank(1),
                         training_options<float>(c));
  copy_held(trainer.table(), trainer.values(), trainer.table(), random_weights<float>(trainer.table(), 5));
  // Steps of other lengths than the third: nothing may be sized by what happens to come first.
  for (Index s = 0; s < 2; ++s) trainer.step(store, plan.step(s, 0, 1, false), s, kTrainingRate);
  auto const micro = plan.step(2, 0, 1, false);
  auto const negatives = c.auxiliary_share > 0.0 ? plan.step(50, 0, 1, false) : std::vector<MicroStep>();
  {
    Listener const listener;
    trainer.step(store, micro, 2, kTrainingRate, negatives);
  }
  EXPECT_EQ(allocated, std::vector<std::string>());
  Index ours = 0;
  for (auto const& label : launched) {
    ours += label.starts_with("upit::") ? 1 : 0;
    EXPECT_TRUE(label.starts_with("upit::") || label.starts_with("Kokkos::")) << label;
  }
  EXPECT_GT(ours, 20);
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainingStep, ::testing::ValuesIn(training_cases()),
                         [](auto const& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Bf16, TrainingStep, ::testing::ValuesIn(bf16_cases()),
                         [](auto const& info) { return info.param.name; });

}  // namespace
}  // namespace upit::test
