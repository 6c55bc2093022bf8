// SPDX-License-Identifier: Apache-2.0
// Owns the math domain: small sums and word problems; every answer shows its steps and ends in "Answer: N".
#include <fmt/format.h>

#include <algorithm>

#include "generator_parts.hpp"

namespace upit::generate {

namespace {

std::string answer(std::string const& steps, int value) {
  return fmt::format("{}. Answer: {}", steps, value);
}

Record single_sum(Dice& dice) {
  int const a = dice.between(1, 60), b = dice.between(1, 40);
  switch (dice.below(4)) {
    case 0:
      return {
          fmt::format(fmt::runtime(dice.pick({"What is {} + {}?", "Add {} and {}.", "Compute {} plus {}."})),
                      a, b),
          "", answer(fmt::format("{} + {} = {}", a, b, a + b), a + b)};
    case 1:
      return {fmt::format(fmt::runtime(dice.pick({"What is {} - {}?", "Compute {} minus {}."})), a + b, b),
              "", answer(fmt::format("{} - {} = {}", a + b, b, a), a)};
    case 2: {
      int const x = dice.between(2, 12), y = dice.between(2, 12);
      return {fmt::format(
                  fmt::runtime(dice.pick({"What is {} * {}?", "Multiply {} by {}.", "Compute {} times {}."})),
                  x, y),
              "", answer(fmt::format("{} * {} = {}", x, y, x * y), x * y)};
    }
    default: {
      int const x = dice.between(2, 12), y = dice.between(2, 12);
      return {fmt::format(fmt::runtime(dice.pick({"What is {} / {}?", "Divide {} by {}."})), x * y, y), "",
              answer(fmt::format("{} / {} = {}", x * y, y, x), x)};
    }
  }
}

Record chained_sum(Dice& dice) {
  int const a = dice.between(2, 30), b = dice.between(2, 20), c = dice.between(1, 9);
  if (dice.coin())
    return {fmt::format("What is {} + {} - {}?", a, b, c), "",
            answer(fmt::format("{} + {} = {}; {} - {} = {}", a, b, a + b, a + b, c, a + b - c), a + b - c)};
  int const x = dice.between(2, 9);
  return {fmt::format("What is {} * {} + {}?", x, c, a), "",
          answer(fmt::format("{} * {} = {}; {} + {} = {}", x, c, x * c, x * c, a, x * c + a), x * c + a)};
}

/// One change to a count of things: gain or loss.
Record one_step_story(Dice& dice) {
  Text const who = dice.pick(first_names());
  Text const what = dice.pick(goods()).plural;
  int const a = dice.between(3, 30), b = dice.between(2, 20);
  bool const gains = dice.coin();
  Text const event =
      gains ? dice.pick({"buys {} more", "finds {} more", "gets {} from a friend", "makes {} more"})
            : dice.pick({"gives away {}", "loses {}", "sells {}", "drops {}"});
  int const start = gains ? a : a + b, end = gains ? a + b : a;
  return {fmt::format("{} has {} {} and {}. How many now?", who, start, what,
                      fmt::format(fmt::runtime(event), b)),
          "", answer(fmt::format("{} {} {} = {}", start, gains ? '+' : '-', b, end), end)};
}

Record groups_story(Dice& dice) {
  Text const what = dice.pick(goods()).plural;
  Text const holder = dice.pick({"bags", "trays", "shelves", "jars", "crates"});
  int const groups = dice.between(2, 10), each = dice.between(2, 12);
  if (dice.coin())
    return {
        fmt::format("There are {} {} with {} {} each. How many {} in all?", groups, holder, each, what, what),
        "", answer(fmt::format("{} * {} = {}", groups, each, groups * each), groups * each)};
  return {
      fmt::format("{} {} are put into {} {} equally. How many in each?", groups * each, what, groups, holder),
      "", answer(fmt::format("{} / {} = {}", groups * each, groups, each), each)};
}

Record two_step_story(Dice& dice) {
  std::vector<Text> const who = dice.sample(first_names(), 2);
  Text const what = dice.pick(goods()).plural;
  int const a = dice.between(2, 15), b = dice.between(2, 10);
  switch (dice.below(3)) {
    case 0:
      return {fmt::format("{} has {} {}. {} has {} more. How many do they have together?", who[0], a, what,
                          who[1], b),
              "",
              answer(fmt::format("{} + {} = {}; {} + {} = {}", a, b, a + b, a, a + b, 2 * a + b), 2 * a + b)};
    case 1:
      return {
          fmt::format("{} has {} {}. {} has twice as many. How many in total?", who[0], a + b, what, who[1]),
          "",
          answer(
              fmt::format("2 * {} = {}; {} + {} = {}", a + b, 2 * (a + b), a + b, 2 * (a + b), 3 * (a + b)),
              3 * (a + b))};
    default: {
      int const c = dice.between(1, b);
      return {fmt::format("{} buys {} {}, gets {} more, then loses {}. How many are left?", who[0], a, what,
                          b, c),
              "",
              answer(fmt::format("{} + {} = {}; {} - {} = {}", a, b, a + b, a + b, c, a + b - c), a + b - c)};
    }
  }
}

Record price_story(Dice& dice) {
  Text const who = dice.pick(first_names());
  Noun const& thing = dice.pick(goods());
  int const price = dice.between(2, 9), count = dice.between(2, 8);
  if (dice.coin())
    return {
        fmt::format("One {} costs {} coins. What do {} {} cost?", thing.singular, price, count, thing.plural),
        "", answer(fmt::format("{} * {} = {}", price, count, price * count), price * count)};
  int const paid = price * count + dice.between(1, 10);
  return {
      fmt::format("{} pays {} for {} {} at {} each. How much change?", who, paid, count, thing.plural, price),
      "",
      answer(fmt::format("{} * {} = {}; {} - {} = {}", count, price, count * price, paid, count * price,
                         paid - count * price),
             paid - count * price)};
}

Record compare_numbers(Dice& dice) {
  int const a = dice.between(1, 99);
  int b = dice.between(1, 98);
  if (b >= a) ++b;
  bool const larger = dice.coin();
  int const result = larger ? std::max(a, b) : std::min(a, b);
  return {fmt::format("Which is {}, {} or {}?", larger ? "larger" : "smaller", a, b), "",
          answer(fmt::format("{} {} {}", result, larger ? '>' : '<', a + b - result), result)};
}

Record next_in_sequence(Dice& dice) {
  int const start = dice.between(1, 20), step = dice.between(2, 10);
  bool const up = dice.coin();
  int const first = up ? start : start + 4 * step, d = up ? step : -step;
  return {fmt::format("What comes next: {}, {}, {}, {}?", first, first + d, first + 2 * d, first + 3 * d), "",
          answer(fmt::format("{} {} each time", up ? "Add" : "Take", step), first + 4 * d)};
}

Record solve_for_x(Dice& dice) {
  int const x = dice.between(1, 25), b = dice.between(1, 25);
  switch (dice.below(3)) {
    case 0:
      return {fmt::format("Solve x + {} = {}.", b, x + b), "",
              answer(fmt::format("x = {} - {}", x + b, b), x)};
    case 1:
      return {fmt::format("Solve x - {} = {}.", b, x), "", answer(fmt::format("x = {} + {}", x, b), x + b)};
    default: {
      int const c = dice.between(2, 9);
      return {fmt::format("Solve {} * x = {}.", c, c * x), "",
              answer(fmt::format("x = {} / {}", c * x, c), x)};
    }
  }
}

Record rectangle(Dice& dice) {
  int const w = dice.between(2, 12), h = dice.between(2, 12);
  Text const what = dice.pick({"garden", "room", "field", "rug", "wall", "page"});
  if (dice.coin())
    return {fmt::format("A {} is {} by {}. What is its area?", what, w, h), "",
            answer(fmt::format("{} * {} = {}", w, h, w * h), w * h)};
  return {fmt::format("A {} is {} by {}. What is its perimeter?", what, w, h), "",
          answer(fmt::format("{} + {} = {}; 2 * {} = {}", w, h, w + h, w + h, 2 * (w + h)), 2 * (w + h))};
}

Record number_facts(Dice& dice) {
  int const n = dice.between(1, 150);
  switch (dice.below(5)) {
    case 0:
      return {fmt::format("Is {} even or odd?", n), "",
              fmt::format("{} ends in {}. Answer: {}", n, n % 10, n % 2 ? "odd" : "even")};
    case 1:
      return {fmt::format("What is double {}?", n), "", answer(fmt::format("2 * {} = {}", n, 2 * n), 2 * n)};
    case 2:
      return {fmt::format("What is half of {}?", 2 * n), "", answer(fmt::format("{} / 2 = {}", 2 * n, n), n)};
    case 3:
      return {fmt::format("Round {} down to tens.", n), "",
              answer(fmt::format("{} tens fit", n / 10), n / 10 * 10)};
    default: {
      int const d = dice.between(2, 9);
      return {fmt::format("What is the remainder of {} by {}?", n, d), "",
              answer(fmt::format("{} = {} * {} + {}", n, n / d, d, n % d), n % d)};
    }
  }
}

Record travel(Dice& dice) {
  Text const who = dice.pick({"A train", "A bus", "A cart", "A ship", "A rider"});
  int const speed = dice.between(3, 20), hours = dice.between(2, 8);
  if (dice.coin())
    return {fmt::format("{} goes {} miles an hour for {} hours. How far?", who, speed, hours), "",
            answer(fmt::format("{} * {} = {}", speed, hours, speed * hours), speed * hours)};
  return {fmt::format("{} goes {} miles in {} hours. How fast?", who, speed * hours, hours), "",
          answer(fmt::format("{} / {} = {}", speed * hours, hours, speed), speed)};
}

}  // namespace

Record math_sample(Dice& dice) {
  using Maker = Record (*)(Dice&);
  // Stories, of which there are most, stand twice.
  static constexpr Maker kMakers[] = {
      single_sum,       single_sum,     chained_sum,    one_step_story, one_step_story, groups_story,
      groups_story,     two_step_story, two_step_story, price_story,    price_story,    compare_numbers,
      next_in_sequence, solve_for_x,    rectangle,      number_facts,   travel};
  return dice.pick(std::span<Maker const>(kMakers))(dice);
}

std::string math_statement(Dice& dice) {
  int const a = dice.between(1, 60), b = dice.between(1, 40);
  int const x = dice.between(2, 12), y = dice.between(2, 12);
  Text const who = dice.pick(first_names());
  Noun const& thing = dice.pick(goods());
  switch (dice.below(9)) {
    case 0:
      return fmt::format("{} + {} = {}. ", a, b, a + b);
    case 1:
      return fmt::format("{} - {} = {}. ", a + b, b, a);
    case 2:
      return fmt::format("{} * {} = {}, so {} / {} = {}. ", x, y, x * y, x * y, y, x);
    case 3:
      return fmt::format("{} plus {} makes {}. ", a, b, a + b);
    case 4:
      return fmt::format("{} had {} {} and got {} more, {} + {} = {} in all. ", who, a, thing.plural, b, a, b,
                         a + b);
    case 5:
      return fmt::format("{} had {} {} and gave {} away; {} - {} = {} were left. ", who, a + b, thing.plural,
                         b, a + b, b, a);
    case 6:
      return fmt::format("{} bags of {} {} hold {} * {} = {}. ", x, y, thing.plural, x, y, x * y);
    case 7:
      return fmt::format("{} is {} than {}. ", a, a > b ? "larger" : a < b ? "smaller" : "no other", b);
    default:
      return fmt::format("Count by {}: {}, {}, {}, {}. ", x, a, a + x, a + 2 * x, a + 3 * x);
  }
}

}  // namespace upit::generate
