// SPDX-License-Identifier: Apache-2.0
// Owns the text of a resolved deck.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "upit/config/deck.hpp"

namespace upit {

/// The whole deck as TOML, every key written out; it parses back to an equal deck. With comments each key
/// carries its meaning, unit, what is allowed, and its default where the value differs from it.
std::string print_deck(Deck const& deck, bool with_comments);

/// The lines of one table, as `print_deck` without comments writes them: what a stage hashes.
std::string deck_table(Deck const& deck, std::string_view table);

/// The keys that differ between two texts of `deck_table` or `print_deck` (without comments), each as
/// "post_train.top_k: was 2, is 4". A key that one text lacks reads "nothing".
std::vector<std::string> changed_keys(std::string const& before, std::string const& now);

}  // namespace upit
