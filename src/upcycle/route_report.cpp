// SPDX-License-Identifier: Apache-2.0
// Stage 3: files and tables for people.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "upit/core/error.hpp"
#include "upit/upcycle/route.hpp"

namespace upit::upcycle {
namespace {

constexpr Index kFewSteps = 100;
constexpr char const* kTrainingHeader =
    "expert,steps,loss_before,loss_after,auxiliary_before,auxiliary_after,spread,moved\n";

double root_mean_square(std::vector<RouteOutcome> const& outcomes, double RouteOutcome::*field) {
  double sum = 0.0, count = 0.0;
  for (auto const& o : outcomes) {
    if (std::isnan(o.*field)) continue;
    sum += o.*field * o.*field;
    count += 1.0;
  }
  return count > 0.0 ? std::sqrt(sum / count) : 0.0;
}

template <class T>
char const* parse_number(char const* first, char const* last, T& value, std::string const& line) {
  auto const [end, error] = std::from_chars(first, last, value);
  require(error == std::errc() && (end == last || *end == ','),
          fmt::format("training.csv of stage route: cannot read the line \"{}\"", line));
  return end == last ? end : end + 1;
}

}  // namespace

std::string buckets_csv(TokenStore const& store, std::vector<Index> const& seeds, Buckets const& buckets,
                        PerplexityMatrix const* matrix) {
  std::string text = "sample,domain,expert";
  for (Index e = 0; matrix != nullptr && e < matrix->experts; ++e) text += fmt::format(",perplexity_{}", e);
  text += '\n';
  for (std::size_t s = 0; s < seeds.size(); ++s) {
    auto const domain = static_cast<std::size_t>(store.samples[at(seeds[s])].domain);
    text += fmt::format("{},{},{}", seeds[s], store.domains.at(domain), buckets.expert_of[s]);
    for (Index e = 0; matrix != nullptr && e < matrix->experts; ++e) {
      text += fmt::format(",{:.6g}", std::exp(matrix->value[s * at(matrix->experts) + at(e)]));
    }
    text += '\n';
  }
  return text;
}

std::string training_csv(std::vector<RouteOutcome> const& outcomes) {
  std::string text = kTrainingHeader;
  for (auto const& o : outcomes) {
    text += fmt::format("{},{},{},{},{},{},{},{}\n", o.expert, o.steps, o.loss_before, o.loss_after,
                        o.auxiliary_before, o.auxiliary_after, o.spread, o.moved);
  }
  return text;
}

std::vector<RouteOutcome> parse_training_csv(std::string const& text) {
  require(text.starts_with(kTrainingHeader), "training.csv of stage route does not begin with its header");
  std::vector<RouteOutcome> outcomes;
  std::size_t begin = std::string_view(kTrainingHeader).size();
  while (begin < text.size()) {
    std::size_t const end = std::min(text.find('\n', begin), text.size());
    std::string const line = text.substr(begin, end - begin);
    char const *p = line.data(), *const last = p + line.size();
    RouteOutcome o;
    for (Index* const x : {&o.expert, &o.steps}) p = parse_number(p, last, *x, line);
    for (double* const x :
         {&o.loss_before, &o.loss_after, &o.auxiliary_before, &o.auxiliary_after, &o.spread, &o.moved}) {
      p = parse_number(p, last, *x, line);
    }
    outcomes.push_back(o);
    begin = end + 1;
  }
  return outcomes;
}

Table route_table(TokenStore const& store, std::vector<Index> const& seeds, Buckets const& buckets,
                  std::vector<RouteOutcome> const& outcomes) {
  std::vector<std::string> header = {"expert", "seeds"};
  header.insert(header.end(), store.domains.begin(), store.domains.end());
  bool const skilled = !buckets.first_choices.empty();
  if (skilled) header.insert(header.end(), {"first choices", "margin"});
  header.insert(header.end(),
                {"steps", "loss before", "after", "router loss before", "after", "logits moved"});
  Table table(header);
  for (auto const& o : outcomes) {
    auto const& members = buckets.members[at(o.expert)];
    std::vector<Index> by_domain(store.domains.size(), 0);
    for (Index const s : members)
      ++by_domain[static_cast<std::size_t>(store.samples[at(seeds[at(s)])].domain)];
    std::vector<std::string> row = {fmt::format("{}", o.expert), fmt::format("{}", members.size())};
    for (Index const count : by_domain) row.push_back(fmt::format("{}", count));
    if (skilled) {
      row.push_back(fmt::format("{:.3f}", static_cast<double>(buckets.first_choices[at(o.expert)]) /
                                              static_cast<double>(seeds.size())));
      row.push_back(fmt::format("{:+.4f}", buckets.own_margin[at(o.expert)]));
    }
    row.push_back(fmt::format("{}", o.steps));
    for (double const x : {o.loss_before, o.loss_after, o.auxiliary_before, o.auxiliary_after, o.moved}) {
      row.push_back(std::isnan(x) ? "-" : fmt::format("{:.4f}", x));
    }
    table.row(row);
  }
  return table;
}

std::vector<std::string> route_remarks(Buckets const& buckets, std::vector<RouteOutcome> const& outcomes,
                                       bool rehearsal) {
  std::vector<std::string> lines;
  auto const n = static_cast<double>(buckets.members.size());
  auto const seeds = static_cast<double>(buckets.expert_of.size());
  if (!buckets.first_choices.empty()) {
    auto const [least, most] =
        std::minmax_element(buckets.first_choices.begin(), buckets.first_choices.end());
    lines.push_back(fmt::format(
        "first choices: {:.3f} to {:.3f} of the seeds an expert, 1/n = {:.3f}; mean margin of best to second "
        "best log-perplexity {:.4f}",
        static_cast<double>(*least) / seeds, static_cast<double>(*most) / seeds, 1.0 / n, buckets.margin));
  }
  if (buckets.dropped > 0)
    lines.push_back(fmt::format("{} of {} seeds found no place", buckets.dropped, seeds));
  lines.push_back(fmt::format("router logits moved by {:.4f} (rms); those of a random router spread {:.4f}",
                              root_mean_square(outcomes, &RouteOutcome::moved),
                              root_mean_square(outcomes, &RouteOutcome::spread)));
  if (rehearsal) return lines;
  Index least = kFewSteps;
  for (auto const& o : outcomes) least = std::min(least, o.steps);
  if (least < kFewSteps) {
    lines.push_back(
        fmt::format("warning: an expert has only {} steps in stage 3; below {} the routing vectors hardly "
                    "move (a smaller "
                    "route.batch, more route.epochs or a larger route.seed_min give more)",
                    least, kFewSteps));
  }
  return lines;
}

}  // namespace upit::upcycle
