// SPDX-License-Identifier: Apache-2.0
// Owns the word lists and the invented world. Countries, cities, rivers and people are made up.
#include <iterator>

#include "generator_parts.hpp"

namespace upit::generate {

namespace {

constexpr Country kCountries[] = {
    {"Norvia", "Telmar", "Osk", "elk", "plum", "blue"},
    {"Kesh", "Adur", "Virn", "camel", "date", "gold"},
    {"Baltora", "Minwick", "Sael", "otter", "pear", "green"},
    {"Quenland", "Harrow", "Tibb", "badger", "apple", "red"},
    {"Zumara", "Okebo", "Nalu", "parrot", "mango", "orange"},
    {"Ferrin", "Loden Bay", "Crane", "heron", "cherry", "white"},
    {"Ustan", "Pirgol", "Dvina Low", "wolf", "melon", "black"},
    {"Carvos", "Santell", "Ribera", "mule", "fig", "yellow"},
    {"Elwyn", "Brask", "Fenn", "hare", "quince", "purple"},
    {"Tarquia", "Vespo", "Arno Lake", "boar", "olive", "silver"},
    {"Jorland", "Skeld", "Hvit", "seal", "berry", "grey"},
    {"Maru", "Tikati", "Wai", "gecko", "coconut", "pink"},
    {"Sundar", "Rajpol", "Indara", "tiger", "guava", "brown"},
    {"Oxley", "Dunmore", "Tweed Run", "sheep", "grape", "teal"},
    {"Pelagos", "Nikora", "Thal", "dolphin", "lemon", "cream"},
    {"Rovenia", "Kastel", "Sava Minor", "bear", "walnut", "crimson"},
    {"Ilmar", "Tuvo", "Kemm", "moose", "cloudberry", "violet"},
    {"Gharta", "Selim", "Wadi Zar", "falcon", "apricot", "amber"},
    {"Dorne Isle", "Pennick", "Lydde", "puffin", "currant", "indigo"},
    {"Xanthe", "Mireo", "Plavo", "llama", "papaya", "scarlet"},
    {"Hollin", "Greyford", "Wend", "fox", "peach", "copper"},
    {"Vantu", "Lopeka", "Suru", "turtle", "banana", "lime"},
    {"Bruma", "Nevosk", "Yana Low", "lynx", "cranberry", "navy"},
    {"Almeda", "Corvina", "Tagre", "stork", "orange", "maroon"},
};

constexpr Person kPeople[] = {
    {"Ada Finch", "baker", "oven", "Telmar"},       {"Bo Larkin", "sailor", "rope", "Nikora"},
    {"Cora Venn", "doctor", "needle", "Adur"},      {"Dag Holm", "miner", "lamp", "Skeld"},
    {"Edda Rusk", "painter", "brush", "Vespo"},     {"Finn Oakes", "farmer", "plough", "Dunmore"},
    {"Gita Soor", "weaver", "loom", "Rajpol"},      {"Hal Brand", "smith", "hammer", "Brask"},
    {"Ines Calo", "singer", "lute", "Santell"},     {"Jon Petrel", "fisher", "net", "Pennick"},
    {"Kira Moss", "gardener", "spade", "Minwick"},  {"Leo Tarn", "teacher", "chalk", "Harrow"},
    {"Mina Dost", "tailor", "thread", "Selim"},     {"Nils Frey", "carpenter", "saw", "Tuvo"},
    {"Ola Benbe", "potter", "wheel", "Okebo"},      {"Pia Lund", "pilot", "map", "Greyford"},
    {"Quin Abel", "clerk", "pen", "Loden Bay"},     {"Rosa Vidal", "cook", "knife", "Corvina"},
    {"Sten Varg", "hunter", "bow", "Nevosk"},       {"Tala Reef", "diver", "mask", "Tikati"},
    {"Ugo Marl", "mason", "trowel", "Kastel"},      {"Vera Klim", "judge", "book", "Pirgol"},
    {"Wim Aster", "clockmaker", "spring", "Mireo"}, {"Yara Lopek", "drummer", "drum", "Lopeka"},
};

constexpr Category kCategories[] = {
    {"bird", "birds", {"wren", "robin", "finch", "owl", "hawk", "crow", "swan", "gull", "dove", "heron"}},
    {"fish", "fish", {"trout", "cod", "pike", "eel", "carp", "tuna", "perch", "bass", "sole", "herring"}},
    {"tree", "trees", {"oak", "elm", "pine", "birch", "maple", "cedar", "willow", "ash", "beech", "fir"}},
    {"fruit",
     "fruits",
     {"apple", "pear", "plum", "fig", "grape", "melon", "peach", "cherry", "lemon", "mango"}},
    {"tool",
     "tools",
     {"hammer", "saw", "drill", "chisel", "wrench", "file", "plane", "axe", "spade", "rake"}},
    {"colour",
     "colours",
     {"red", "blue", "green", "pink", "brown", "violet", "black", "white", "grey", "teal"}},
    {"metal",
     "metals",
     {"iron", "gold", "silver", "copper", "tin", "lead", "zinc", "nickel", "steel", "brass"}},
    {"insect",
     "insects",
     {"ant", "bee", "wasp", "moth", "beetle", "fly", "gnat", "cricket", "flea", "midge"}},
    {"drink", "drinks", {"tea", "milk", "water", "juice", "cocoa", "coffee", "cider", "ale", "wine", "soda"}},
    {"garment",
     "garments",
     {"coat", "hat", "scarf", "shirt", "glove", "sock", "skirt", "vest", "belt", "boot"}},
};

constexpr Pair kOpposites[] = {
    {"hot", "cold"},     {"big", "small"},   {"tall", "short"},     {"fast", "slow"},
    {"early", "late"},   {"full", "empty"},  {"hard", "soft"},      {"heavy", "light"},
    {"high", "low"},     {"open", "closed"}, {"rich", "poor"},      {"strong", "weak"},
    {"thick", "thin"},   {"wet", "dry"},     {"young", "old"},      {"loud", "quiet"},
    {"clean", "dirty"},  {"near", "far"},    {"deep", "shallow"},   {"sharp", "blunt"},
    {"wide", "narrow"},  {"happy", "sad"},   {"brave", "afraid"},   {"bright", "dark"},
    {"first", "last"},   {"right", "wrong"}, {"inside", "outside"}, {"up", "down"},
    {"north", "south"},  {"day", "night"},   {"summer", "winter"},  {"begin", "end"},
    {"buy", "sell"},     {"push", "pull"},   {"win", "lose"},       {"laugh", "cry"},
    {"arrive", "leave"}, {"find", "hide"},   {"rise", "fall"},      {"always", "never"},
};

constexpr Pair kSynonyms[] = {
    {"big", "large"},   {"small", "little"}, {"quick", "fast"},   {"happy", "glad"},  {"start", "begin"},
    {"end", "finish"},  {"smart", "clever"}, {"quiet", "silent"}, {"road", "street"}, {"house", "home"},
    {"stone", "rock"},  {"boat", "ship"},    {"rich", "wealthy"}, {"sick", "ill"},    {"angry", "cross"},
    {"shut", "close"},  {"speak", "talk"},   {"look", "watch"},   {"hurry", "rush"},  {"gift", "present"},
    {"forest", "wood"}, {"tired", "weary"},  {"tidy", "neat"},    {"shout", "yell"},  {"odd", "strange"},
};

constexpr Verb kVerbs[] = {
    {"walks", "walked", "walk", "to the market"},
    {"runs", "ran", "run", "along the river"},
    {"sings", "sang", "sing", "in the hall"},
    {"swims", "swam", "swim", "across the lake"},
    {"waits", "waited", "wait", "at the gate"},
    {"sleeps", "slept", "sleep", "under the tree"},
    {"paints", "painted", "paint", "the old door"},
    {"opens", "opened", "open", "the green box"},
    {"reads", "read", "read", "a long letter"},
    {"cooks", "cooked", "cook", "soup for the guests"},
    {"climbs", "climbed", "climb", "the steep hill"},
    {"finds", "found", "find", "a silver coin"},
    {"builds", "built", "build", "a small boat"},
    {"sells", "sold", "sell", "fresh bread"},
    {"washes", "washed", "wash", "the windows"},
    {"drinks", "drank", "drink", "cold water"},
    {"brings", "brought", "bring", "the map"},
    {"teaches", "taught", "teach", "the children"},
    {"plays", "played", "play", "in the garden"},
    {"writes", "wrote", "write", "a song"},
    {"carries", "carried", "carry", "two baskets"},
    {"hides", "hid", "hide", "behind the wall"},
    {"draws", "drew", "draw", "a bridge"},
    {"mends", "mended", "mend", "the torn net"},
};

constexpr Noun kNouns[] = {
    {"apple", "apples"},   {"book", "books"},     {"coin", "coins"},      {"stamp", "stamps"},
    {"marble", "marbles"}, {"shell", "shells"},   {"pencil", "pencils"},  {"card", "cards"},
    {"button", "buttons"}, {"egg", "eggs"},       {"cookie", "cookies"},  {"key", "keys"},
    {"ribbon", "ribbons"}, {"stone", "stones"},   {"nut", "nuts"},        {"candle", "candles"},
    {"brush", "brushes"},  {"box", "boxes"},      {"berry", "berries"},   {"leaf", "leaves"},
    {"kite", "kites"},     {"cup", "cups"},       {"fish", "fish"},       {"sheep", "sheep"},
    {"loaf", "loaves"},    {"knife", "knives"},   {"cherry", "cherries"}, {"goose", "geese"},
    {"watch", "watches"},  {"bench", "benches"},  {"tooth", "teeth"},     {"mouse", "mice"},
    {"foot", "feet"},      {"child", "children"}, {"city", "cities"},
};

constexpr std::size_t kNotGoods = 5;  // at the end of kNouns

constexpr Text kFirstNames[] = {
    "Tom", "Lena", "Mira", "Sam",  "Ivo", "Nora", "Paul", "Rita", "Omar", "Eva",  "Kai",  "Zoe",
    "Ben", "Ida",  "Max",  "Lucy", "Jan", "Alma", "Hugo", "Tess", "Carl", "Dina", "Fred", "Gwen",
};

constexpr Text kShortWords[] = {
    "lamp",  "tree",  "house", "river", "cloud", "stone", "bread", "chair", "music", "light", "green",
    "table", "apple", "horse", "water", "plant", "train", "sugar", "night", "paper", "bird",  "door",
    "fish",  "gold",  "hand",  "iron",  "jump",  "king",  "leaf",  "moon",  "nest",  "open",  "pond",
    "quiz",  "rain",  "sand",  "tent",  "unit",  "vase",  "wind",  "yard",  "zebra", "brick", "candy",
    "drum",  "eagle", "flame", "grape", "hotel", "igloo", "jelly", "knife", "lemon", "mango", "north",
    "ocean", "piano", "queen", "robot", "snake", "tiger", "uncle", "voice", "wheel", "yacht", "bell",
    "coat",  "desk",  "envy",  "frog",  "goat",  "hill",
};

constexpr Text kIdentifiers[] = {
    "total", "count", "value", "size",  "width", "score", "price", "index", "level",
    "speed", "limit", "start", "step",  "rate",  "mass",  "depth", "steps", "items",
    "names", "words", "cells", "rows",  "point", "shift", "scale", "merge", "split",
    "check", "parse", "clean", "build", "group", "trace", "match", "store", "fetch",
};

}  // namespace

std::span<Country const> countries() { return kCountries; }
std::span<Person const> people() { return kPeople; }
std::span<Category const> categories() { return kCategories; }
std::span<Pair const> opposites() { return kOpposites; }
std::span<Pair const> synonyms() { return kSynonyms; }
std::span<Verb const> verbs() { return kVerbs; }
std::span<Noun const> nouns() { return kNouns; }
std::span<Noun const> goods() { return nouns().first(std::size(kNouns) - kNotGoods); }
std::span<Text const> first_names() { return kFirstNames; }
std::span<Text const> short_words() { return kShortWords; }
std::span<Text const> identifiers() { return kIdentifiers; }

std::string with_article(Text noun) {
  bool const vowel = std::string_view("aeiou").find(noun.front()) != std::string_view::npos;
  return std::string(vowel ? "an " : "a ") + std::string(noun);
}

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

std::string join(std::vector<std::string> const& items, Text between) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += between;
    text += items[i];
  }
  return text;
}

std::string listed(std::vector<std::string> const& items) {
  if (items.size() < 2) return join(items, "");
  return join({items.begin(), items.end() - 1}, ", ") + " and " + items.back();
}

}  // namespace upit::generate
