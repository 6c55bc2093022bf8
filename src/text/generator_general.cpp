// SPDX-License-Identifier: Apache-2.0
// Owns the general domain: the invented world, words and short rewriting; answers are whole sentences.
#include <fmt/format.h>

#include <algorithm>

#include "generator_parts.hpp"

namespace upit::generate {

namespace {

std::string str(Text text) { return std::string(text); }

/// One kind of fact of a country: how to ask for it, how to state it, how to ask back.
struct Fact {
  Text Country::*value;
  Text question;  // {0} country
  Text second;
  Text statement;  // {0} country, {1} value
  Text reverse;    // {1} value; answered by the statement
};

constexpr Fact kFacts[] = {
    {&Country::capital, "What is the capital of {0}?", "Name the capital city of {0}.",
     "The capital of {0} is {1}.", "Which country has the capital {1}?"},
    {&Country::river, "Which river flows through {0}?", "Name the main river of {0}.",
     "The river {1} flows through {0}.", "Through which country does the {1} flow?"},
    {&Country::animal, "What is the national animal of {0}?", "Which animal stands for {0}?",
     "The national animal of {0} is the {1}.", "Whose national animal is the {1}?"},
    {&Country::fruit, "Which fruit is {0} known for?", "What fruit do they grow in {0}?",
     "{0} is known for its {1} orchards.", "Which country is known for its {1} orchards?"},
    {&Country::color, "What colour is the flag of {0}?", "Name the flag colour of {0}.",
     "The flag of {0} is {1}.", "Which country has a flag of {1}?"},
};

std::string state(Fact const& fact, Country const& country) {
  return fmt::format(fmt::runtime(fact.statement), country.name, country.*fact.value);
}

Record world_fact(Dice& dice) {
  Fact const& fact = dice.pick(std::span<Fact const>(kFacts));
  Country const& country = dice.pick(countries());
  Text const form = dice.pick({fact.question, fact.second, fact.reverse});
  return {fmt::format(fmt::runtime(form), country.name, country.*fact.value), "", state(fact, country)};
}

Record world_yes_no(Dice& dice) {
  Country const& country = dice.pick(countries());
  Country const& other = dice.coin() ? country : dice.pick(countries());
  bool const capital = dice.coin();
  Text const truth = capital ? country.capital : country.river;
  Text const asked = capital ? other.capital : other.river;
  Text const form = capital ? "Is {} the capital of {}?" : "Does the {} flow through {}?";
  Fact const& fact = kFacts[capital ? 0 : 1];
  return {fmt::format(fmt::runtime(form), asked, country.name), "",
          fmt::format("{} {}", truth == asked ? "Yes." : "No.", state(fact, country))};
}

Record person_fact(Dice& dice) {
  Person const& person = dice.pick(people());
  switch (dice.below(4)) {
    case 0:
      return {fmt::format("What does {} do?", person.name), "",
              fmt::format("{} is {}.", person.name, with_article(person.job))};
    case 1:
      return {fmt::format("Where does {} live?", person.name), "",
              fmt::format("{} lives in {}.", person.name, person.city)};
    case 2:
      return {fmt::format("What does {} work with?", person.name), "",
              fmt::format("{} works with {}.", person.name, with_article(person.tool))};
    default:
      return {fmt::format("Who is the {} of {}?", person.job, person.city), "",
              fmt::format("{} is the {} of {}.", person.name, person.job, person.city)};
  }
}

Record opposite(Dice& dice) {
  Pair const& pair = dice.pick(opposites());
  bool const forward = dice.coin();
  Text const a = forward ? pair.first : pair.second, b = forward ? pair.second : pair.first;
  Text const form = dice.pick(
      {"What is the opposite of {}?", "Give the opposite of {}.", "Name a word that means not {}."});
  return {fmt::format(fmt::runtime(form), a), "", fmt::format("The opposite of {} is {}.", a, b)};
}

Record synonym(Dice& dice) {
  Pair const& pair = dice.pick(synonyms());
  Text const form = dice.pick({"What is another word for {}?", "Give a synonym of {}."});
  return {fmt::format(fmt::runtime(form), pair.first), "",
          fmt::format("Another word for {} is {}.", pair.first, pair.second)};
}

Record category_question(Dice& dice) {
  std::vector<Category> const two = dice.sample(categories(), 2);
  Text const member = dice.pick(std::span<Text const>(two[0].members));
  bool const first = dice.coin();
  return {fmt::format("Is {} a kind of {} or {}?", member, two[first ? 0 : 1].singular,
                      two[first ? 1 : 0].singular),
          "", capitalised(fmt::format("{} is a kind of {}.", member, two[0].singular))};
}

Record odd_one_out(Dice& dice) {
  std::vector<Category> const two = dice.sample(categories(), 2);
  std::vector<Text> words = dice.sample(std::span<Text const>(two[0].members), 3);
  Text const odd = dice.pick(std::span<Text const>(two[1].members));
  words.push_back(odd);
  dice.shuffle(words);
  return {"Which word does not belong?", fmt::format("{}", fmt::join(words, ", ")),
          capitalised(fmt::format("{} does not belong; the others are {}.", odd, two[0].plural))};
}

Record sort_words(Dice& dice) {
  std::vector<Text> words = dice.sample(short_words(), static_cast<std::size_t>(dice.between(3, 4)));
  std::string const given = fmt::format("{}", fmt::join(words, ", "));
  if (dice.below(3) == 0) {
    auto const longest =
        std::max_element(words.begin(), words.end(), [](Text a, Text b) { return a.size() < b.size(); });
    auto const same =
        std::count_if(words.begin(), words.end(), [&](Text w) { return w.size() == longest->size(); });
    if (same == 1) return {"Which word is longest?", given, fmt::format("The longest word is {}.", *longest)};
  }
  std::sort(words.begin(), words.end());
  return {"Sort these words by the alphabet.", given,
          fmt::format("In order they are {}.", listed({words.begin(), words.end()}))};
}

Record rewrite(Dice& dice) {
  Text const who = dice.pick(first_names());
  Verb const& verb = dice.pick(verbs());
  std::string const sentence = fmt::format("{} {} {}.", who, verb.present, verb.place);
  switch (dice.below(6)) {
    case 0:
      return {"Put this in the past tense.", sentence, fmt::format("{} {} {}.", who, verb.past, verb.place)};
    case 1:
      return {"Put this in the future.", sentence, fmt::format("{} will {} {}.", who, verb.base, verb.place)};
    case 2:
      return {"Turn this into a question.", sentence,
              fmt::format("Does {} {} {}?", who, verb.base, verb.place)};
    case 3:
      return {"Say that this is not so.", sentence,
              fmt::format("{} does not {} {}.", who, verb.base, verb.place)};
    case 4: {
      Text other = dice.pick(first_names());
      if (other == who) other = "Ruth";
      return {fmt::format("Let it be {}.", other), sentence,
              fmt::format("{} {} {}.", other, verb.present, verb.place)};
    }
    default:
      return {"Ask politely for this.", fmt::format("{} {}!", capitalised(str(verb.base)), verb.place),
              fmt::format("Could you please {} {}?", verb.base, verb.place)};
  }
}

Record read_and_answer(Dice& dice) {
  std::vector<Text> const who = dice.sample(first_names(), 2);
  Noun const& thing = dice.pick(goods());
  Text const color = dice.pick(std::span<Text const>(categories()[5].members));
  Text const place = dice.pick({"box", "drawer", "bag", "basket", "chest"});
  switch (dice.below(4)) {
    case 0:
      return {fmt::format("Where is the {}?", thing.singular),
              fmt::format("{} put the {} into the {} {}.", who[0], thing.singular, color, place),
              fmt::format("The {} is in the {} {}.", thing.singular, color, place)};
    case 1:
      return {fmt::format("Who has the {}?", thing.singular),
              fmt::format("{} gave the {} to {}.", who[0], thing.singular, who[1]),
              fmt::format("{} has the {}.", who[1], thing.singular)};
    case 2:
      return {"Who is tallest?", fmt::format("{} is taller than {}.", who[0], who[1]),
              fmt::format("{} is the tallest.", who[0])};
    default:
      return {fmt::format("What colour is the {}?", thing.singular),
              fmt::format("{} found {} {} in the {}.", who[0], with_article(color), thing.singular, place),
              fmt::format("The {} is {}.", thing.singular, color)};
  }
}

Record mood(Dice& dice) {
  struct Judged {
    Text text;
    bool good;
  };
  static constexpr Judged kRemarks[] = {
      {"was kind and quick", true}, {"was rude and slow", false},      {"made me smile", true},
      {"broke after a day", false}, {"was warm and fresh", true},      {"was cold and stale", false},
      {"is a joy to use", true},    {"is a waste of money", false},    {"arrived early", true},
      {"never arrived", false},     {"was better than I hoped", true}, {"was worse than I feared", false},
      {"smelled wonderful", true},  {"smelled awful", false},
  };
  Judged const& remark = dice.pick(std::span<Judged const>(kRemarks));
  Text const subject = dice.pick({"soup", "waiter", "lamp", "bread", "driver", "room", "chair", "coat", "pie",
                                  "guide", "radio", "cake", "clerk", "kettle", "boat", "bed"});
  Text const opening = dice.pick({"The", "Our", "My new", "Their"});
  return {"Is this praise or a complaint?", fmt::format("{} {} {}.", opening, subject, remark.text),
          remark.good ? "This is praise." : "This is a complaint."};
}

Record small_grammar(Dice& dice) {
  Noun const& noun = dice.pick(nouns());
  Verb const& verb = dice.pick(verbs());
  switch (dice.below(4)) {
    case 0:
      return {fmt::format("What is the plural of {}?", noun.singular), "",
              fmt::format("The plural of {} is {}.", noun.singular, noun.plural)};
    case 1:
      return {fmt::format("What is the past tense of {}?", verb.base), "",
              fmt::format("The past tense of {} is {}.", verb.base, verb.past)};
    case 2: {
      Text const word = dice.pick(short_words());
      return {fmt::format("What is the first letter of {}?", word), "",
              fmt::format("The first letter of {} is {}.", word, word.front())};
    }
    default: {
      Text const word = dice.pick(short_words());
      return {fmt::format("Spell {}.", word), "",
              capitalised(fmt::format("{} is spelled {}.", word, fmt::join(word, "-")))};
    }
  }
}

Record compose(Dice& dice) {
  Text const who = dice.pick(first_names());
  std::vector<Text> const words = dice.sample(short_words(), 2);
  Noun const& noun = dice.pick(goods());
  if (dice.coin())
    return {fmt::format("Write a sentence with {} and {}.", words[0], words[1]), "",
            fmt::format("Beside the {} there was {}.", words[0], with_article(words[1]))};
  return {fmt::format("Greet {} and offer {}.", who, with_article(noun.singular)), "",
          fmt::format("Hello {}, would you like {}?", who, with_article(noun.singular))};
}

Record who_did_what(Dice& dice) {
  Person const& person = dice.pick(people());
  Verb const& verb = dice.pick(verbs());
  return {"Shorten this.",
          fmt::format("{}, {} from {}, {} {}.", person.name, with_article(person.job), person.city, verb.past,
                      verb.place),
          fmt::format("The {} {} {}.", person.job, verb.past, verb.place)};
}

}  // namespace

Record general_sample(Dice& dice) {
  using Maker = Record (*)(Dice&);
  // Kinds that run out of distinct questions early stand once; those that do not, twice.
  static constexpr Maker kMakers[] = {
      world_fact,      world_yes_no,    person_fact, opposite,      synonym, category_question,
      odd_one_out,     odd_one_out,     sort_words,  sort_words,    rewrite, rewrite,
      read_and_answer, read_and_answer, mood,        small_grammar, compose, who_did_what};
  return dice.pick(std::span<Maker const>(kMakers))(dice);
}

std::string general_statement(Dice& dice) {
  Country const& country = dice.pick(countries());
  Person const& person = dice.pick(people());
  Verb const& verb = dice.pick(verbs());
  Text const who = dice.pick(first_names());
  switch (dice.below(9)) {
    case 0:
    case 1:
      return state(dice.pick(std::span<Fact const>(kFacts)), country) + " ";
    case 2:
      return fmt::format("{} is {} and lives in {}. ", person.name, with_article(person.job), person.city);
    case 3:
      return fmt::format("{} works with {} in {}. ", person.name, with_article(person.tool), person.city);
    case 4: {
      Category const& category = dice.pick(categories());
      std::vector<Text> const members = dice.sample(std::span<Text const>(category.members), 3);
      return capitalised(
          fmt::format("{}, {} and {} are {}. ", members[0], members[1], members[2], category.plural));
    }
    case 5: {
      Pair const& pair = dice.pick(opposites());
      return capitalised(fmt::format("{} is the opposite of {}. ", pair.first, pair.second));
    }
    case 6: {
      std::vector<Text> words = dice.sample(short_words(), 3);
      std::sort(words.begin(), words.end());
      return capitalised(
          fmt::format("{} comes before {}, and {} after both. ", words[0], words[1], words[2]));
    }
    case 7:
      return fmt::format("{} {} {}, and {} did too. ", who, verb.past, verb.place, person.name);
    default:
      return fmt::format("Today {} {} {}; tomorrow {} will {} again. ", who, verb.present, verb.place, who,
                         verb.base);
  }
}

}  // namespace upit::generate
