// SPDX-License-Identifier: Apache-2.0
// Owns what the three parts of the generator share: dice, word lists, the invented world, and their entry
// points.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "upit/core/random.hpp"
#include "upit/text/sample.hpp"

namespace upit::generate {

using Text = std::string_view;

/// Draws of one sample or document, counted from 0 in a stream of its own.
class Dice {
 public:
  explicit Dice(RandomKey key) : key_(key) {}
  /// Uniform in [0, n).
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_below(key_, count_++, n)); }
  /// Uniform in [low, high].
  int between(int low, int high) {
    return low + static_cast<int>(below(static_cast<std::size_t>(high - low + 1)));
  }
  bool coin() { return below(2) == 1; }
  template <class T>
  T const& pick(std::span<T const> list) {
    return list[below(list.size())];
  }
  Text pick(std::initializer_list<Text> list) { return list.begin()[below(list.size())]; }
  /// `count` different elements of `list`, in random order.
  template <class T>
  std::vector<T> sample(std::span<T const> list, std::size_t count) {
    std::vector<T> pool(list.begin(), list.end());
    for (std::size_t i = 0; i < count; ++i) std::swap(pool[i], pool[i + below(pool.size() - i)]);
    pool.resize(count);
    return pool;
  }
  template <class T>
  void shuffle(std::vector<T>& list) {
    for (std::size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[below(i)]);
  }

 private:
  RandomKey key_;
  std::uint64_t count_ = 0;
};

/// The invented world. Fixed, not drawn: pre-training tells of the same places that samples ask about.
struct Country {
  Text name, capital, river, animal, fruit, color;
};
struct Person {
  Text name, job, tool, city;  // city: a capital
};
struct Category {
  Text singular, plural;
  std::array<Text, 10> members;
};
struct Pair {
  Text first, second;
};
struct Verb {
  Text present, past, base, place;  // walks, walked, walk, "to the market"
};
struct Noun {
  Text singular, plural;
};

std::span<Country const> countries();
std::span<Person const> people();
std::span<Category const> categories();
std::span<Pair const> opposites();
std::span<Pair const> synonyms();
std::span<Verb const> verbs();
std::span<Noun const> nouns();
std::span<Noun const> goods();  // those of them that people own and trade
std::span<Text const> first_names();
std::span<Text const> short_words();  // three to six lower-case letters
std::span<Text const> identifiers();  // names for variables and functions

/// "a" or "an" and the noun.
std::string with_article(Text noun);
/// First letter in upper case.
std::string capitalised(std::string text);
/// "a, b and c".
std::string listed(std::vector<std::string> const& items);
std::string join(std::vector<std::string> const& items, Text between);

/// One draft of a sample; `domain` and `line` are left alone. Drafts repeat: the caller keeps the first of
/// equal prompts.
Record code_sample(Dice& dice);
Record math_sample(Dice& dice);
Record general_sample(Dice& dice);

/// One statement (prose, or lines of code) of 15 to 110 bytes for pre-training documents.
std::string code_statement(Dice& dice);
std::string math_statement(Dice& dice);
std::string general_statement(Dice& dice);

}  // namespace upit::generate
