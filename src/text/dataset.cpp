// SPDX-License-Identifier: Apache-2.0
// Owns the draw from weighted sources and the split into training and held-out samples.
#include "upit/text/dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <unordered_set>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/io/hash.hpp"
#include "upit/text/generator.hpp"

namespace upit {

namespace {

/// Hashes of record texts seen so far.
using Seen = std::unordered_set<std::string>;

std::string fingerprint(Record const& record) {
  // Lengths first, so that text moved from one part to the next makes another record.
  return hash_text(fmt::format("{} {} {}{}{}", record.instruction.size(), record.input.size(),
                               record.instruction, record.input, record.output));
}

/// Records in drawn order, one at a time.
struct Source {
  SourceReport report;
  int domain = 0;
  std::function<bool(Record&)> next;
};

int domain_index(std::vector<std::string>& domains, std::string const& name) {
  auto const found = std::find(domains.begin(), domains.end(), name);
  if (found != domains.end()) return static_cast<int>(found - domains.begin());
  domains.push_back(name);
  return static_cast<int>(domains.size()) - 1;
}

std::vector<Source> generated_sources(std::uint64_t seed, std::vector<std::string>& domains) {
  std::vector<Source> sources;
  for (std::string const& name : generator_domains()) {
    auto stream = std::make_shared<RecordStream>(static_cast<int>(sources.size()), seed);
    Source source;
    source.report.name = "generator:" + name;
    source.report.domain = name;
    source.domain = domain_index(domains, name);
    source.next = [stream](Record& record) { return stream->next(record); };
    sources.push_back(std::move(source));
  }
  return sources;
}

std::vector<Source> file_sources(std::vector<SourceDeck> const& decks, std::uint64_t seed,
                                 std::vector<std::string>& domains, Index& duplicates) {
  std::vector<Source> sources;
  Seen seen;
  for (SourceDeck const& deck : decks) {
    Source source;
    source.report.name = deck.path;
    source.report.domain = deck.domain.empty() ? domain_of_path(deck.path) : deck.domain;
    source.domain = domain_index(domains, source.report.domain);
    std::vector<Record> records = read_records(deck.path, source.domain);
    duplicates += static_cast<Index>(std::erase_if(
        records, [&](Record const& record) { return !seen.insert(fingerprint(record)).second; }));
    source.report.found = static_cast<Index>(records.size());

    // Keyed by the source's place in the deck: two sources of one file are put into different orders.
    RandomKey const key = random_key(seed, "draw from source", static_cast<Index>(sources.size()));
    for (std::size_t i = records.size(); i > 1; --i)
      std::swap(records[i - 1], records[static_cast<std::size_t>(random_below(key, i, i))]);

    source.next = [pool = std::move(records), taken = std::size_t{0}](Record& record) mutable {
      if (taken == pool.size()) return false;
      record = std::move(pool[taken++]);
      return true;
    };
    sources.push_back(std::move(source));
  }
  return sources;
}

[[noreturn]] void fail_too_few(SourceReport const& report, Index usable, Index needed, DataDeck const& deck) {
  fail(fmt::format(
      "{}: found {} usable records (too long and dropped: {}), data.samples = {} at these weights "
      "needs {}",
      report.name, usable, report.dropped, deck.samples, needed));
}

/// What is known before the first record is looked at.
void require_enough(SourceReport const& report, Index needed, DataDeck const& deck) {
  if (deck.source.empty()) {
    require(
        needed <= kMostGeneratedSamples,
        fmt::format("data.samples = {}: that is {} of {}, which makes at most {}; name files of samples in "
                    "data.source",
                    deck.samples, needed, report.name, kMostGeneratedSamples));
  } else if (report.found < needed) {
    fail_too_few(report, report.found, needed, deck);
  }
}

/// How records become samples of at most context + 1 tokens (the model is fed all but the last).
class Encoder {
 public:
  Encoder(DataDeck const& deck, Tokenizer const& tokenizer)
      : tokenizer_(&tokenizer),
        format_(prompt_format(deck.format)),
        limit_(deck.context + 1),
        rule_(deck.too_long) {
    require(limit_ >= 8, fmt::format("data.context: found {}, at least 7 is needed", deck.context));
    require(
        rule_ == "truncate" || rule_ == "drop" || rule_ == "error",
        fmt::format("data.too_long: found \"{}\", allowed are \"truncate\", \"drop\" and \"error\"", rule_));
  }
  /// False: the record is to be passed over. Counts into `report`.
  bool encode(Record const& record, EncodedSample& sample, SourceReport& report) const {
    sample = encode_sample(format_, record, *tokenizer_);
    Index const length = static_cast<Index>(sample.tokens.size());
    if (length <= limit_) return true;
    if (rule_ == "drop") {
      ++report.dropped;
      return false;
    }
    require(rule_ == "truncate",
            fmt::format(
                "{}:{}: a sample of {} tokens, data.context = {} allows {} and data.too_long is \"error\"",
                report.name, record.line, length, limit_ - 1, limit_));
    truncate_sample(sample, limit_, tokenizer_->bos() >= 0);
    ++report.truncated;
    return true;
  }

 private:
  Tokenizer const* tokenizer_;
  PromptFormat format_;
  Index limit_;
  std::string rule_;
};

/// Adds one drawn record to the sums of a report; `finish` turns them into means.
class Tally {
 public:
  void add(Record const& record, EncodedSample const& sample) {
    bytes_ += static_cast<double>(record.instruction.size() + record.input.size() + record.output.size());
    tokens_ += static_cast<double>(sample.tokens.size());
    ++samples_;
    seen_.insert(fingerprint(record));
  }
  void finish(DataReport& report) const {
    for (SourceReport const& source : report.sources) {
      report.truncated += source.truncated;
      report.dropped += source.dropped;
    }
    report.distinct = static_cast<Index>(seen_.size());
    if (samples_ == 0) return;
    report.mean_bytes = bytes_ / static_cast<double>(samples_);
    report.mean_tokens = tokens_ / static_cast<double>(samples_);
  }

 private:
  double bytes_ = 0.0, tokens_ = 0.0;
  Index samples_ = 0;
  Seen seen_;
};

}  // namespace

std::vector<Index> source_counts(std::vector<double> const& weights, Index samples) {
  // Whoever has w / (2 c + 1) > t is served before all others, for any t. With t = sum(w) / (2 (samples -
  // S)), S sources, at most samples - S / 2 are served so, and these counts stay below that by at most two
  // each: only a few samples a source are left for the rule itself.
  std::vector<Index> counts(weights.size(), 0);
  auto const sources = static_cast<Index>(weights.size());
  double const sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  Index left = samples;
  for (std::size_t s = 0; s < weights.size() && samples > sources; ++s) {
    double const share = 2.0 * static_cast<double>(samples - sources) * (weights[s] / sum);  // w / t
    counts[s] = std::max<Index>(0, static_cast<Index>(0.5 * (share - 1.0)) - 1);
    left -= counts[s];
  }
  auto const odd = [&](std::size_t s) { return 2.0 * static_cast<double>(counts[s]) + 1.0; };
  for (; left > 0; --left) {
    std::size_t best = 0;
    for (std::size_t s = 1; s < weights.size(); ++s)
      if (weights[s] * odd(best) > weights[best] * odd(s)) best = s;
    ++counts[best];
  }
  return counts;
}

bool is_held_out(Index j, double fraction) {
  // The small number undoes rounding where j h is a whole number: 60 * 0.05 must not step up
  // at 3.0000000000000004.
  auto const steps = [&](Index n) { return std::ceil(static_cast<double>(n) * fraction - 1e-9); };
  return steps(j + 1) > steps(j);
}

Dataset load_dataset(DataDeck const& deck, Tokenizer const& tokenizer, std::uint64_t seed) {
  require(deck.samples > 0, fmt::format("data.samples: found {}, at least 1 is needed", deck.samples));
  require(deck.held_out >= 0.0 && deck.held_out < 1.0,
          fmt::format("data.held_out: found {}, a share of at least 0 and below 1 is needed", deck.held_out));
  Encoder const encoder(deck, tokenizer);
  Dataset data;
  std::vector<std::string> domains;
  std::vector<Source> sources;
  std::vector<double> weights;
  if (deck.source.empty()) {
    sources = generated_sources(seed, domains);
    weights.assign(sources.size(), 1.0);
  } else {
    for (SourceDeck const& source : deck.source) {
      require(std::isfinite(source.weight) && source.weight > 0.0,
              fmt::format("data.source {}: found weight {}, a number above 0 is needed", source.path,
                          source.weight));
      weights.push_back(source.weight);
    }
    sources = file_sources(deck.source, seed, domains, data.report.duplicates);
  }
  data.train.domains = data.held_out.domains = domains;

  std::vector<Index> const counts = source_counts(weights, deck.samples);
  for (std::size_t s = 0; s < sources.size(); ++s) require_enough(sources[s].report, counts[s], deck);
  Tally tally;
  Record record;
  EncodedSample sample;
  for (std::size_t s = 0; s < sources.size(); ++s) {
    Source& source = sources[s];
    SourceReport& report = source.report;
    while (report.drawn < counts[s]) {
      if (!source.next(record)) fail_too_few(report, report.drawn, counts[s], deck);
      if (!encoder.encode(record, sample, report)) continue;
      bool const held_out = is_held_out(report.drawn, deck.held_out);
      (held_out ? data.held_out : data.train).append(sample.tokens, sample.response, source.domain);
      report.held_out += held_out;
      ++report.drawn;
      tally.add(record, sample);
    }
    if (deck.source.empty()) report.found = report.drawn + report.dropped;
    data.report.sources.push_back(report);
  }
  tally.finish(data.report);
  require(data.train.size() > 0,
          fmt::format("data.samples = {} with data.held_out = {} leaves nothing to train on", deck.samples,
                      deck.held_out));
  return data;
}

TokenStore load_file(std::string const& path, std::string const& domain, DataDeck const& deck,
                     Tokenizer const& tokenizer, DataReport* report) {
  Encoder const encoder(deck, tokenizer);
  TokenStore store;
  SourceReport source;
  source.name = path;
  source.domain = domain.empty() ? domain_of_path(path) : domain;
  store.domains = {source.domain};
  Tally tally;
  EncodedSample sample;
  for (Record const& record : read_records(path, 0)) {
    ++source.found;
    if (!encoder.encode(record, sample, source)) continue;
    store.append(sample.tokens, sample.response, 0);
    ++source.drawn;
    tally.add(record, sample);
  }
  require(store.size() > 0, fmt::format("{}: all {} records are too long for data.context = {}", path,
                                        source.found, deck.context));
  if (report != nullptr) {
    report->sources.push_back(source);
    tally.finish(*report);
  }
  return store;
}

TokenStore pretrain_documents(PretrainDeck const& deck, Index context, Tokenizer const& tokenizer,
                              std::uint64_t seed) {
  require(tokenizer.eos() >= 0,
          "data.tokenizer: this tokenizer has no end-of-sequence token, which closes every document");
  TokenStore store;
  store.domains = generator_domains();
  std::vector<int> tokens;
  for (Document const& document : generate_documents(deck.documents, seed)) {
    tokens = tokenizer.encode(document.text);
    if (tokenizer.bos() >= 0) tokens.insert(tokens.begin(), tokenizer.bos());
    tokens.push_back(tokenizer.eos());
    if (static_cast<Index>(tokens.size()) > context + 1) tokens.resize(static_cast<std::size_t>(context) + 1);
    store.append(tokens, 1, document.domain);
  }
  return store;
}

}  // namespace upit
