// SPDX-License-Identifier: Apache-2.0
// Owns how records become the training set and the held-out set.
#pragma once

#include <string>
#include <vector>

#include "upit/config/deck.hpp"
#include "upit/text/records.hpp"
#include "upit/text/sample.hpp"
#include "upit/text/template.hpp"
#include "upit/text/tokenizer.hpp"

namespace upit {

/// What became of one source.
struct SourceReport {
  std::string name;  // path, or "generator:code" and so on
  std::string domain;
  Index found = 0;      // distinct records; the generator makes only what is drawn
  Index drawn = 0;      // samples taken, held-out ones included
  Index held_out = 0;   // of those
  Index truncated = 0;  // of those
  Index dropped = 0;    // too long ones passed over on the way (data.too_long = "drop")
};

struct DataReport {
  std::vector<SourceReport> sources;
  Index truncated = 0, dropped = 0;
  Index duplicates = 0;     // records left out because an equal one came earlier
  Index distinct = 0;       // different texts among the samples drawn: all of them
  double mean_bytes = 0.0;  // instruction + input + output of the samples drawn
  double mean_tokens = 0.0;
};

struct Dataset {
  TokenStore train, held_out;
  DataReport report;
};

/// Reads the sources (or runs the generator: code, math, general at equal weight) and draws `deck.samples`.
///
/// Draw. A record equal to an earlier one (same instruction, input, output; sources in deck order) is left
/// out. Each source is put into an order of its own, from (seed, source) alone, and gives its first
/// `source_counts` usable records. A usable record has at most context + 1 tokens, or is cut to that
/// (`too_long`). So a smaller `samples` draws, from every source, a prefix of what a larger one draws.
///
/// Split. Record j of a source's order is held out where ceil(j h) steps up, h = deck.held_out: h of every
/// source, at least its first record if h > 0. Whether a record is held out does not depend on `samples`:
/// nothing held out at one size is trained on at another.
///
/// Both stores list source after source in drawn order; domains are numbered by first appearance. Throws
/// `Error`: bad file (see read_records), bad weight, too few records (source, found and needed named), a
/// record above the context with too_long = "error", nothing left to train on. No MPI inside: same arguments,
/// same result on every rank.
Dataset load_dataset(DataDeck const& deck, Tokenizer const& tokenizer, std::uint64_t seed);

/// All records of one file in file order, for evaluation; `too_long` as in the deck. Throws as load_dataset.
TokenStore load_file(std::string const& path, std::string const& domain, DataDeck const& deck,
                     Tokenizer const& tokenizer, DataReport* report = nullptr);

/// Unlabelled documents from the generator, in a random stream of their own: BOS, text of 100 to 250 bytes,
/// EOS, cut to context + 1 tokens; every predicted token is a target (response = 1). Distinct; a document
/// never has the form of a sample.
TokenStore pretrain_documents(PretrainDeck const& deck, Index context, Tokenizer const& tokenizer,
                              std::uint64_t seed);

/// Splits `samples` over sources by weight: one after the other to the source with the largest
/// weight / (2 count + 1), ties to the earlier (Sainte-Lague). Exact where the shares are whole numbers, and
/// no source ever loses by a larger `samples`, which the largest-remainder rule does not promise and nested
/// draws need.
std::vector<Index> source_counts(std::vector<double> const& weights, Index samples);

/// Whether record j of a source's order is held out; see load_dataset.
bool is_held_out(Index j, double fraction);

}  // namespace upit
