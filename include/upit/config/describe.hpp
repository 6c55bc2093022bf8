// SPDX-License-Identifier: Apache-2.0
// Owns the description of every deck key: where it lives, what it may hold, what it means. Reader, printer,
// checks and `upit deck --all` all walk this description; there is no second list of keys.
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "upit/config/deck.hpp"

namespace upit {

/// Points at the field of a deck that a key sets.
using KeyValue = std::variant<bool*, Index*, std::uint64_t*, double*, std::string*, std::vector<SourceDeck>*>;

/// What a key may hold. Numbers: an interval. Text: one of `words` when there are any.
struct KeyLimits {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;
  bool guard =
      false;  // high only keeps products from overflowing: it is named to those who pass it, not before
  std::vector<std::string_view> words;
  bool path = false;               // read relative to the deck's folder
  std::string_view not_path = {};  // the one word that is no path, where path is set
};

struct DeckKey {
  std::string_view name;
  KeyValue value;
  KeyLimits limits;
  std::string_view unit;
  std::string_view meaning;
};

struct DeckTable {
  std::string_view name;
  std::string_view meaning;
  std::vector<DeckKey> keys;
};

/// Every table and key of `deck`, in the order in which decks are printed. The pointers are into `deck`,
/// which must outlive the result and stay where it is.
std::vector<DeckTable> describe(Deck& deck);

/// The keys of one [[data.source]].
DeckTable describe(SourceDeck& source);

/// What a key may hold, in words: "an integer, at least 1".
std::string allowed_text(DeckKey const& key);

/// The value as TOML writes it; doubles in the fewest digits that read back to the same bits. A list of
/// sources becomes an array of inline tables.
std::string value_text(KeyValue const& value);

/// Whether `value` lies in the interval; NaN and infinities never do.
bool within(KeyLimits const& limits, double value);

/// The candidate with the smallest edit distance to `word` (insert, delete, replace, swap neighbours); of
/// equals the one with the longest common beginning, then the first. Empty if there are no candidates.
std::string nearest(std::string_view word, std::vector<std::string> const& candidates);

}  // namespace upit
