// SPDX-License-Identifier: Apache-2.0
// Owns the growth of the pool: choose, merge, compare, until n experts are there.
#include "upit/upcycle/expand.hpp"

#include <fmt/format.h>

#include "upit/core/error.hpp"
#include "upit/upcycle/expand_pool.hpp"

namespace upit::upcycle {
namespace {

void check_counts(ExpandOptions const& options, Index m) {
  Index const n = options.count;
  Index const real = m - (options.base_is >= 0 ? 1 : 0);
  expect(options.base_is < m, "expand: the base is one of the experts");
  require(n >= m, fmt::format("expert.count: found {}, allowed: at least the {} checkpoints", n, m));
  if (n == m) return;
  require(options.strategy != Strategy::none,
          fmt::format("expand.strategy is \"none\": {} checkpoints cannot become {} experts", m, n));
  require(real >= 2, fmt::format("m < 2: {} more experts need two checkpoints as parents, found {}{}", n - m,
                                 real, options.base_is >= 0 ? " beside the base" : ""));
}

void check_expert(std::string const& path, ModelFileInfo const& found, ModelFileInfo const& wanted) {
  require(found.kind == "expert", fmt::format("{} is of kind \"{}\", an expert is wanted", path, found.kind));
  require(found.base_hash == wanted.base_hash,
          fmt::format("{}: this expert belongs to another base ({} instead of {})", path, found.base_hash,
                      wanted.base_hash));
  require(found.model == wanted.model && found.expert.kind == wanted.expert.kind &&
              found.expert.rank == wanted.expert.rank && found.expert.alpha == wanted.expert.alpha &&
              found.expert.count == 1,
          fmt::format("{}: shapes {}, wanted {}", path, model_json(found.model, found.expert),
                      model_json(wanted.model, wanted.expert)));
}

}  // namespace

Family grow_family(Communicator const& comm, std::string const& root, std::vector<std::string> const& files,
                   ModelFileInfo const& info, ExpandOptions const& options,
                   std::function<void(Index)> const& between) {
  Family family;
  family.names = files;
  family.checkpoints = static_cast<Index>(files.size());
  family.base_is = options.base_is;
  comm.agree([&] { check_counts(options, family.checkpoints); });
  auto const full = [&](Index i) { return root + "/" + family.names[static_cast<std::size_t>(i)]; };
  bool const ffn = info.expert.kind == ExpertKind::ffn;
  auto const judge = [&](std::string const& path) {
    ModelFileInfo const found = read_model_info(path, &comm);
    comm.agree([&] { check_expert(path, found, info); });
  };
  std::string const reads = options.reads + (ffn ? "\nbackbone " + backbone_name(options.backbone) : "");
  std::vector<std::string> paths, ancestry;
  for (Index i = 0; i < family.checkpoints; ++i) {
    paths.push_back(full(i));
    ancestry.push_back(reads + "\n" + family.names[static_cast<std::size_t>(i)]);
    judge(paths.back());
  }
  std::string const start = root + "/" + options.start;
  expect(ffn == !options.start.empty(), "expand: FFN experts, and they alone, start from a file");
  if (ffn) judge(start);
  auto const pool = make_pool(comm, info, options, start);
  pool->add_checkpoints(paths);

  std::set<std::pair<Index, Index>> used;
  for (Index number = family.checkpoints; number < options.count; ++number) {
    if (between) between(number);
    Child child;
    child.number = number;
    comm.agree([&] {
      auto const cosine = [&](Index i, Index j) { return pool->cosine(i, j); };
      std::tie(child.first, child.second) = choose_pair(options, number, cosine, used);
    });
    used.emplace(child.first, child.second);
    child.weight = child_weight(options.seed, number);
    child.similarity = pool->cosine(child.first, child.second);
    ancestry.push_back(child_ancestry(options, child, ancestry[static_cast<std::size_t>(child.first)],
                                      ancestry[static_cast<std::size_t>(child.second)]));
    family.names.push_back(fmt::format("expand/expert_{:02}.h5", number));
    bool const there = stored_ancestry(comm, full(number)) == ancestry.back();
    child.unmasked = pool->add_child(child, full(number), ancestry.back(), there);
    child.masked = {pool->cosine(number, child.first), pool->cosine(number, child.second)};
    family.children.push_back(child);
  }
  for (Index i = 0; i < options.count; ++i) {
    for (Index j = 0; j < options.count; ++j) family.similarity.push_back(pool->cosine(i, j));
  }
  return family;
}

}  // namespace upit::upcycle
