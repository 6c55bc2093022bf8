// SPDX-License-Identifier: Apache-2.0
// Owns the checks that look at more than one key of a deck.
#pragma once

#include <string>
#include <vector>

#include "upit/config/deck.hpp"

namespace upit {

/// Keys that do not fit together. `keys[0]` is the one that `text` speaks about.
struct DeckFault {
  std::vector<std::string> keys;
  std::string text;  // what was found, what is allowed
};

/// Every fault of a deck whose single keys are all in range. Looks at no file.
std::vector<DeckFault> find_faults(Deck const& deck);

/// Sentences about choices that are allowed and probably not meant.
std::vector<std::string> deck_warnings(Deck const& deck);

}  // namespace upit
