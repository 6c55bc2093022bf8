// SPDX-License-Identifier: Apache-2.0
// Owns reading a deck: TOML and overrides in, a checked `Deck` out.
#pragma once

#include <string>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/config/deck.hpp"

namespace upit {

/// Reads a deck from its text. `overrides` are "table.key=value", later ones win over earlier ones and over
/// the text. Paths in the text are taken from the folder of `file_name`, paths in overrides from `current`
/// (empty: the current directory), and all of them come out absolute; run.directory stays as written.
/// Throws one `Error` that lists every fault, one per line: "file:line: table.key: found, allowed".
Deck parse_deck(std::string const& text, std::string const& file_name,
                std::vector<std::string> const& overrides, std::string const& current = "");

/// The text of a deck file. Throws `Error` with the system's reason if it cannot be read.
std::string read_deck_text(std::string const& path);

/// Reads a deck file on this rank. Throws `Error` as `parse_deck` does, or if the file cannot be read.
Deck read_deck(std::string const& path, std::vector<std::string> const& overrides);

/// The same for all ranks: rank 0 reads, every rank parses the same text, and all compare the result.
/// Throws `AgreedError` everywhere.
Deck read_deck(std::string const& path, std::vector<std::string> const& overrides, Communicator const& comm);

}  // namespace upit
