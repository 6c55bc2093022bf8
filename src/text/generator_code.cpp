// SPDX-License-Identifier: Apache-2.0
// Owns the code domain: short Python questions whose answers are code or what the code prints.
#include <fmt/format.h>

#include <algorithm>

#include "generator_parts.hpp"

namespace upit::generate {

namespace {

struct Operation {
  Text words;   // "returns {0} plus {1}"
  Text symbol;  // Python
};

constexpr Operation kOperations[] = {
    {"plus", "+"}, {"minus", "-"}, {"times", "*"}, {"modulo", "%"}, {"divided by", "/"}};

std::string name_with_number(Dice& dice) {
  return fmt::format("{}_{}", dice.pick(identifiers()), dice.between(2, 30));
}

Record function_from_words(Dice& dice) {
  Operation const& op = dice.pick(std::span<Operation const>(kOperations));
  Text const name = dice.pick(identifiers());
  Text const argument = dice.pick({"x", "n", "a", "k", "value"});
  int const number = dice.between(2, 20);
  Text const form =
      dice.pick({"Write a function {0} that returns {1} {2} {3}.", "Define {0}({1}) to give {1} {2} {3}."});
  return {fmt::format(fmt::runtime(form), name, argument, op.words, number), "",
          fmt::format("def {}({}):\n    return {} {} {}", name, argument, argument, op.symbol, number)};
}

Record lambda_from_words(Dice& dice) {
  Operation const& op = dice.pick(std::span<Operation const>(kOperations));
  Text const name = dice.pick(identifiers());
  int const number = dice.between(2, 20);
  return {fmt::format("Write {} as a lambda: x {} {}.", name, op.words, number), "",
          fmt::format("{} = lambda x: x {} {}", name, op.symbol, number)};
}

Record evaluate_expression(Dice& dice) {
  int const a = dice.between(1, 12), b = dice.between(1, 9), c = dice.between(1, 9);
  Text const form = dice.pick({"What does print({}) show?", "Evaluate in Python: {}"});
  std::string expression;
  int value = 0;
  switch (dice.below(5)) {
    case 0:
      expression = fmt::format("{} * ({} + {})", a, b, c), value = a * (b + c);
      break;
    case 1:
      expression = fmt::format("{} + {} * {}", a, b, c), value = a + b * c;
      break;
    case 2:
      expression = fmt::format("{} % {}", a + 10, b + 1), value = (a + 10) % (b + 1);
      break;
    case 3:
      expression = fmt::format("{} // {}", a + 12, b + 1), value = (a + 12) / (b + 1);
      break;
    default:
      expression = fmt::format("max({}, {}) - {}", a, b, c), value = std::max(a, b) - c;
      break;
  }
  return {fmt::format(fmt::runtime(form), expression), "", fmt::format("{}", value)};
}

Record string_operation(Dice& dice) {
  std::string const word(dice.pick(short_words()));
  std::string const other(dice.pick(short_words()));
  std::string call, result;
  switch (dice.below(7)) {
    case 0: {
      std::string upper = word;
      for (char& c : upper) c = static_cast<char>(c - 'a' + 'A');
      call = fmt::format("\"{}\".upper()", word), result = fmt::format("\"{}\"", upper);
      break;
    }
    case 1:
      call = fmt::format("\"{}\"[::-1]", word);
      result = fmt::format("\"{}\"", std::string(word.rbegin(), word.rend()));
      break;
    case 2:
      call = fmt::format("len(\"{}\")", word + other), result = fmt::format("{}", word.size() + other.size());
      break;
    case 3: {
      std::size_t const i = dice.below(word.size());
      call = fmt::format("\"{}\"[{}]", word, i), result = fmt::format("\"{}\"", word[i]);
      break;
    }
    case 4:
      call = fmt::format("\"{}\" + \"{}\"", word, other), result = fmt::format("\"{}{}\"", word, other);
      break;
    case 5: {
      auto const n = static_cast<std::size_t>(dice.between(1, 3));
      call = fmt::format("\"{}\"[:{}]", word, n), result = fmt::format("\"{}\"", word.substr(0, n));
      break;
    }
    default:
      call = fmt::format("\"{} {}\".split()", word, other),
      result = fmt::format("[\"{}\", \"{}\"]", word, other);
      break;
  }
  Text const form = dice.pick({"What does {} return?", "Result of {}"});
  return {fmt::format(fmt::runtime(form), call), "", result};
}

std::string python_list(std::vector<int> const& values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

Record list_operation(Dice& dice) {
  std::vector<int> values(static_cast<std::size_t>(dice.between(3, 4)));
  for (int& v : values) v = dice.between(1, 20);
  std::string const list = python_list(values);
  std::string call, result;
  switch (dice.below(6)) {
    case 0: {
      std::vector<int> sorted = values;
      std::sort(sorted.begin(), sorted.end());
      call = fmt::format("sorted({})", list), result = python_list(sorted);
      break;
    }
    case 1:
      call = fmt::format("max({})", list),
      result = fmt::format("{}", *std::max_element(values.begin(), values.end()));
      break;
    case 2:
      call = fmt::format("min({})", list),
      result = fmt::format("{}", *std::min_element(values.begin(), values.end()));
      break;
    case 3: {
      int sum = 0;
      for (int const v : values) sum += v;
      call = fmt::format("sum({})", list), result = fmt::format("{}", sum);
      break;
    }
    case 4: {
      std::size_t const i = dice.below(values.size());
      call = fmt::format("{}[{}]", list, i), result = fmt::format("{}", values[i]);
      break;
    }
    default:
      call = fmt::format("{}[::-1]", list), result = python_list({values.rbegin(), values.rend()});
      break;
  }
  return {fmt::format("What does {} return?", call), "", result};
}

/// A short piece of code and the same with one mistake.
Record fix_syntax(Dice& dice) {
  std::string const name(dice.pick(identifiers()));
  Text const word = dice.pick(short_words());
  int const n = dice.between(2, 40);
  std::string good, bad;
  switch (dice.below(6)) {
    case 0:
      good = fmt::format("for i in range({}):\n    print({})", n, name);
      bad = fmt::format("for i in range({})\n    print({})", n, name);
      break;
    case 1:
      good = fmt::format("if {} > {}:\n    {} = {}", name, n, name, n);
      bad = fmt::format("if {} > {}\n    {} = {}", name, n, name, n);
      break;
    case 2:
      good = fmt::format("print(\"{} {}\")", word, n), bad = fmt::format("print(\"{} {}\"", word, n);
      break;
    case 3:
      good = fmt::format("{} = \"{}\"", name, word), bad = fmt::format("{} = \"{}", name, word);
      break;
    case 4:
      good = fmt::format("if {} == {}:\n    print(\"{}\")", name, n, word);
      bad = fmt::format("if {} = {}:\n    print(\"{}\")", name, n, word);
      break;
    default:
      good = fmt::format("def {}(x):\n    return x + {}", name, n);
      bad = fmt::format("def {}(x:\n    return x + {}", name, n);
      break;
  }
  return {"Fix the syntax.", bad, good};
}

Record write_loop(Dice& dice) {
  Text const word = dice.pick(short_words());
  int const n = dice.between(2, 12);
  if (dice.coin())
    return {fmt::format("Print \"{}\" {} times with a for loop.", word, n), "",
            fmt::format("for i in range({}):\n    print(\"{}\")", n, word)};
  int const m = n + dice.between(1, 15);
  return {fmt::format("Print the numbers from {} to {}.", n, m), "",
          fmt::format("for i in range({}, {}):\n    print(i)", n, m + 1)};
}

Record rename_variable(Dice& dice) {
  std::vector<Text> const names = dice.sample(identifiers(), 2);
  Text const old_name = dice.pick({"x", "y", "a", "b", "tmp"});
  int const n = dice.between(1, 30);
  Text const form =
      dice.pick({"{0} = {0} + {1}", "{0} = {1}\nprint({0})", "{2} = {0} * {1}", "return {0} - {1}"});
  return {fmt::format("Rename {} to {}.", old_name, names[0]),
          fmt::format(fmt::runtime(form), old_name, n, names[1]),
          fmt::format(fmt::runtime(form), names[0], n, names[1])};
}

Record build_literal(Dice& dice) {
  std::vector<Text> const words = dice.sample(short_words(), 2);
  int const a = dice.between(1, 20), b = dice.between(1, 20);
  switch (dice.below(3)) {
    case 0:
      return {fmt::format("Make a dictionary: {} is {}, {} is {}.", words[0], a, words[1], b), "",
              fmt::format("{{\"{}\": {}, \"{}\": {}}}", words[0], a, words[1], b)};
    case 1:
      return {fmt::format("Make a list of the strings {} and {}.", words[0], words[1]), "",
              fmt::format("[\"{}\", \"{}\"]", words[0], words[1])};
    default: {
      Text const name = dice.pick(identifiers());
      return {fmt::format("Set {} to the tuple of {} and {}.", name, a, b), "",
              fmt::format("{} = ({}, {})", name, a, b)};
    }
  }
}

Record trace_condition(Dice& dice) {
  Text const name = dice.pick({"x", "n", "k", "age", "size"});
  std::vector<Text> const words = dice.sample(short_words(), 2);
  int const value = dice.between(1, 20), limit = dice.between(1, 20);
  return {"What does this print?",
          fmt::format("{} = {}\nif {} > {}:\n    print(\"{}\")\nelse:\n    print(\"{}\")", name, value, name,
                      limit, words[0], words[1]),
          std::string(value > limit ? words[0] : words[1])};
}

Record trace_variables(Dice& dice) {
  int const a = dice.between(1, 15), b = dice.between(1, 9);
  bool const plus = dice.coin();
  Text const name = dice.pick({"b", "c", "y", "z"});
  return {"What does this print?",
          fmt::format("a = {}\n{} = a {} {}\nprint({})", a, name, plus ? '+' : '*', b, name),
          fmt::format("{}", plus ? a + b : a * b)};
}

Record comment_line(Dice& dice) {
  std::string const name(dice.pick(identifiers()));
  int const n = dice.between(2, 30);
  std::string line, comment;
  switch (dice.below(5)) {
    case 0:
      line = fmt::format("{} += {}", name, n), comment = fmt::format("add {} to {}", n, name);
      break;
    case 1:
      line = fmt::format("{} -= {}", name, n), comment = fmt::format("take {} from {}", n, name);
      break;
    case 2:
      line = fmt::format("{} *= {}", name, n), comment = fmt::format("multiply {} by {}", name, n);
      break;
    case 3:
      line = fmt::format("{}.append({})", name, n), comment = fmt::format("put {} at the end of {}", n, name);
      break;
    default:
      line = fmt::format("{} = [0] * {}", name, n),
      comment = fmt::format("make {} a list of {} zeros", name, n);
      break;
  }
  if (dice.coin()) return {"Write a comment for this line.", line, "# " + comment};
  return {fmt::format("Write one line: {}.", comment), "", line};
}

Record call_function(Dice& dice) {
  Text const name = dice.pick(identifiers());
  int const n = dice.between(1, 9), x = dice.between(1, 9);
  bool const plus = dice.coin();
  return {fmt::format("What does {}({}) return?", name, x),
          fmt::format("def {}(x):\n    return x {} {}", name, plus ? '+' : '*', n),
          fmt::format("{}", plus ? x + n : x * n)};
}

}  // namespace

Record code_sample(Dice& dice) {
  using Maker = Record (*)(Dice&);
  static constexpr Maker kMakers[] = {
      function_from_words, lambda_from_words, evaluate_expression, string_operation, list_operation,
      fix_syntax,          write_loop,        rename_variable,     build_literal,    trace_condition,
      trace_variables,     comment_line,      call_function};
  return dice.pick(std::span<Maker const>(kMakers))(dice);
}

std::string code_statement(Dice& dice) {
  std::string const name(dice.pick(identifiers()));
  std::string const word(dice.pick(short_words()));
  int const a = dice.between(1, 20), b = dice.between(1, 12);
  switch (dice.below(10)) {
    case 0: {
      Operation const& op = dice.pick(std::span<Operation const>(kOperations));
      return fmt::format("# {}: x {} {}\ndef {}(x):\n    return x {} {}\n", name, op.words, a, name,
                         op.symbol, a);
    }
    case 1:
      return fmt::format("for i in range({}):\n    print(\"{}\")\n", a, word);
    case 2:
      return fmt::format("{} = {}\n{} += {}  # now {}\n", name, a, name, b, a + b);
    case 3:
      return fmt::format("print({} * {})  # {}\n", a, b, a * b);
    case 4:
      return fmt::format("assert {} + {} == {}\n", a, b, a + b);
    case 5:
      return fmt::format("assert len(\"{}\") == {}\n", word, word.size());
    case 6:
      return fmt::format("assert \"{}\"[::-1] == \"{}\"\n", word, std::string(word.rbegin(), word.rend()));
    case 7:
      return fmt::format("if {} > {}:\n    print(\"{}\")\n", name, a, word);
    case 8: {
      std::vector<int> values = {a, b, dice.between(1, 20)};
      std::string const list = python_list(values);
      std::sort(values.begin(), values.end());
      return fmt::format("assert sorted({}) == {}\n", list, python_list(values));
    }
    default:
      return fmt::format("{} = {{\"{}\": {}}}\n", name_with_number(dice), word, a);
  }
}

}  // namespace upit::generate
