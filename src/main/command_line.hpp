// SPDX-License-Identifier: Apache-2.0
// Owns what the command line can ask for. Parsing looks at nothing but its words, so all ranks agree.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "upit/train/bench.hpp"

namespace upit {

/// `upit DECK` and `upit rehearse DECK`.
struct RunCommand {
  std::string deck;
  std::vector<std::string> overrides;
  std::string redo;  // a stage; empty: none
  bool rehearse = false;
};

struct CheckCommand {
  std::string deck;
  std::vector<std::string> overrides;
  Index ranks = 0;  // to plan for; 0: those that run
};

/// Without a deck: the defaults.
struct DeckCommand {
  std::string deck;
  std::vector<std::string> overrides;
  bool comments = false;
};

struct InspectCommand {
  std::vector<std::string> paths;
};

/// Either `data` or `tokens`.
struct EvalCommand {
  std::string model;
  std::vector<std::string> data;
  std::string tokens;
  std::string json;       // file to write; empty: none
  std::string tokenizer;  // empty: the model's
  std::string format;     // prompt template; empty: the model's
  std::string loss_on = "response";
  std::string too_long = "truncate";
  Index context = 0;  // 0: the model's
  Index micro_batch = 32;
};

struct BenchCommand {
  BenchOptions options;
  std::string json;
};

/// Something to print: help or version.
struct TextCommand {
  std::string text;
};

using Command = std::variant<RunCommand, CheckCommand, DeckCommand, InspectCommand, EvalCommand, BenchCommand,
                             TextCommand>;

/// Throws `Error` of one line for anything that cannot be meant.
Command parse_command_line(int argc, char const* const* argv);

}  // namespace upit
