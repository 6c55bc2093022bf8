// SPDX-License-Identifier: Apache-2.0
// Owns reading one deck on all ranks.
#include <filesystem>

#include "upit/config/printer.hpp"
#include "upit/config/reader.hpp"

namespace upit {

Deck read_deck(std::string const& path, std::vector<std::string> const& overrides, Communicator const& comm) {
  std::string text, current;
  comm.agree_on_root([&] {
    text = read_deck_text(path);
    current = std::filesystem::current_path().string();
  });
  comm.broadcast(text);
  comm.broadcast(current);
  Deck deck;
  comm.agree([&] { deck = parse_deck(text, path, overrides, current); });
  std::string const different = comm.same(print_deck(deck, false))
                                    ? ""
                                    : path + ": ranks read different decks; start all with one command";
  comm.agree(different);
  return deck;
}

}  // namespace upit
