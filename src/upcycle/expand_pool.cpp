// SPDX-License-Identifier: Apache-2.0
// Owns the choice of pool by the kind of expert, and the pool of LoRA experts.
#include "upit/upcycle/expand_pool.hpp"

namespace upit::upcycle {
namespace {

class LoraPool final : public ExpertPool {
 public:
  LoraPool(Communicator const& comm, ModelFileInfo const& info, ExpandOptions const& options)
      : comm_(&comm),
        info_(info),
        options_(options),
        table_(info.model, info.expert),
        similar_(comm, table_, options.similarity) {
    start_.expert = View1<float>("upit::expand_start", table_.extent(Group::expert));
    initialise_lora(table_, options.seed, start_);
  }

  void add_checkpoints(std::vector<std::string> const& paths) override {
    paths_ = paths;
    similar_.add(paths);
  }

  ChildCosines add_child(Child const& child, std::string const& path, std::string const& ancestry,
                         bool there) override {
    auto const of = [&](Index i) { return paths_[static_cast<std::size_t>(i)]; };
    if (!there) {
      write_child(*comm_, path, info_, table_, start_.expert, of(child.first), of(child.second), child,
                  options_, ancestry);
    }
    paths_.push_back(path);
    return similar_.add_child(path, child.first, child.second, child.weight);
  }

  double cosine(Index i, Index j) const override { return similar_.cosine(i, j); }

 private:
  Communicator const* comm_;
  ModelFileInfo info_;
  ExpandOptions options_;
  ParameterTable table_;
  Weights<float> start_;  // A0 and zero: one expert a rank
  SimilarityTable similar_;
  std::vector<std::string> paths_;
};

}  // namespace

std::unique_ptr<ExpertPool> make_lora_pool(Communicator const& comm, ModelFileInfo const& info,
                                           ExpandOptions const& options) {
  return std::make_unique<LoraPool>(comm, info, options);
}

std::unique_ptr<ExpertPool> make_pool(Communicator const& comm, ModelFileInfo const& info,
                                      ExpandOptions const& options, std::string const& start) {
  if (info.expert.kind == ExpertKind::ffn) return make_ffn_pool(comm, info, options, start);
  return make_lora_pool(comm, info, options);
}

}  // namespace upit::upcycle
