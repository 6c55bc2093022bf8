// SPDX-License-Identifier: Apache-2.0
// Owns the tests of readers, draw and split.
#include "upit/text/dataset.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "unit/text/support.hpp"

namespace upit {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using test::message_of;
using test::Scratch;
using test::shared_data;

/// A folder of its own for each test.
class DataFiles : public ::testing::Test {
 protected:
  std::string write(std::string const& name, std::string const& content) const {
    return folder_.write(name, content);
  }
  /// `count` records with prompts "NAME 0", "NAME 1", ...
  std::string write_records(std::string const& name, int count) const {
    std::string text;
    for (int i = 0; i < count; ++i)
      text += fmt::format("{{\"instruction\": \"{0} {1}\", \"input\": \"\", \"output\": \"answer {1}\"}}\n",
                          name, i);
    return write(name + ".jsonl", text);
  }

  Scratch folder_;
};

std::set<std::string> texts(TokenStore const& store, int domain = -1) {
  auto const tokenizer = make_tokenizer("bytes");
  std::set<std::string> all;
  for (Index i = 0; i < store.size(); ++i)
    if (domain < 0 || store.samples[static_cast<std::size_t>(i)].domain == domain)
      all.insert(tokenizer->decode(store.tokens_of(i)));
  return all;
}

bool contains(std::set<std::string> const& large, std::set<std::string> const& small) {
  return std::includes(large.begin(), large.end(), small.begin(), small.end());
}

TEST_F(DataFiles, ReadsPlainAndGzip) {
  std::string const text =
      "{\"instruction\": \"a\", \"input\": \"b\", \"output\": \"c\", \"source\": 3}\n\n  \t\r\n"
      "{\"output\": \"\xc3\xa9\\n\", \"instruction\": \"no "
      "input\"}\r\n{\"instruction\":\"x\",\"input\":null,\"output\":\"\"}";
  std::string const plain = write("data.jsonl", text);
  std::string const packed = folder_.path("data.jsonl.gz");
  gzFile file = gzopen(packed.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  for (std::string const& path : {plain, packed}) {
    std::vector<Record> const records = read_records(path, 7);
    ASSERT_EQ(records.size(), 3u);
    EXPECT_EQ(records[0].instruction, "a");
    EXPECT_EQ(records[0].input, "b");
    EXPECT_EQ(records[0].output, "c");
    EXPECT_EQ(records[0].domain, 7);
    EXPECT_EQ(records[0].line, 1);
    EXPECT_EQ(records[1].input, "");
    EXPECT_EQ(records[1].output, "\xc3\xa9\n");
    EXPECT_EQ(records[1].line, 4);
    EXPECT_EQ(records[2].line, 5);
  }
}

TEST_F(DataFiles, BadLinesAreNamed) {
  std::string const good = "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}\n";
  struct Case {
    std::string line, expected;
  };
  for (Case const& c :
       {Case{"{\"instruction\": \"a\", ", "not valid JSON"}, Case{"[1, 2]", "array"},
        Case{"{\"instruction\": \"a\", \"input\": \"\"}", "no field \"output\""},
        Case{"{\"input\": \"a\", \"output\": \"\"}", "no field \"instruction\""},
        Case{"{\"instruction\": 3, \"output\": \"b\"}", "\"instruction\" is of type number"},
        Case{"{\"instruction\": \"a\", \"output\": null}", "\"output\" is of type null"},
        Case{"{\"instruction\": \"a\", \"input\": [], \"output\": \"b\"}", "\"input\" is of type array"},
        Case{"{\"instruction\": \"\xff\", \"output\": \"b\"}", "not valid JSON"}}) {
    std::string const path = write("bad.jsonl", good + "\n" + c.line + "\n" + good);
    std::string const message = message_of([&] { read_records(path, 0); });
    EXPECT_THAT(message, AllOf(HasSubstr(path + ":3: "), HasSubstr(c.expected)));
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  std::string const empty = write("empty.jsonl", "\n \n");
  EXPECT_THAT(message_of([&] { read_records(empty, 0); }), AllOf(HasSubstr(empty), HasSubstr("no records")));
  EXPECT_THAT(message_of([&] { read_records("no/such.jsonl", 0); }), HasSubstr("no/such.jsonl"));
}

TEST_F(DataFiles, TokenLines) {
  std::string const path = write("t.jsonl", "{\"tokens\": [1, 403, 407]}\n\n{\"tokens\":[0,511]}\n");
  TokenStore const store = read_token_lines(path, 512);
  ASSERT_EQ(store.size(), 2);
  EXPECT_THAT(store.tokens, ElementsAre(1, 403, 407, 0, 511));
  EXPECT_EQ(store.targets(0, false), 2);
  EXPECT_THAT(store.domains, ElementsAre("t"));
  for (auto const& [line, expected] : std::vector<std::pair<std::string, std::string>>{
           {"{\"tokens\": [1, 512]}", "token 512"},
           {"{\"tokens\": [1, -1]}", "token -1"},
           {"{\"tokens\": [1, 2.5]}", "an integer is needed"},
           {"{\"tokens\": [1, 18446744073709551615]}", "18446744073709551615"},
           {"{\"tokens\": [1]}", "at least 2"},
           {"{\"tokens\": \"1 2\"}", "type string"},
           {"{\"text\": [1, 2]}", "no field \"tokens\""}}) {
    std::string const bad = write("bad.jsonl", line);
    EXPECT_THAT(message_of([&] { read_token_lines(bad, 512); }),
                AllOf(HasSubstr(bad + ":1: "), HasSubstr(expected)));
  }
}

TEST(SourceCounts, ExactAndMonotone) {
  EXPECT_THAT(source_counts({1, 1, 3}, 33000), ElementsAre(6600, 6600, 19800));
  EXPECT_THAT(source_counts({1, 1, 3}, 3300), ElementsAre(660, 660, 1980));
  EXPECT_THAT(source_counts({1, 1, 1}, 6600), ElementsAre(2200, 2200, 2200));
  EXPECT_THAT(source_counts({2}, 0), ElementsAre(0));
  std::vector<Index> before = {0, 0, 0, 0};
  for (Index n = 1; n < 300; ++n) {
    std::vector<Index> const now = source_counts({5, 3, 1, 0.3}, n);
    for (std::size_t s = 0; s < 4; ++s)
      EXPECT_GE(now[s], before[s]);  // else smaller draws would not be nested
    before = now;
  }
}

TEST(HeldOut, ShareAndAtLeastOne) {
  for (double const h : {0.05, 0.1, 0.3}) {
    Index held = 0;
    for (Index j = 0; j < 6000; ++j) held += is_held_out(j, h);
    EXPECT_EQ(held, static_cast<Index>(std::llround(6000 * h)));
    EXPECT_TRUE(is_held_out(0, h));
  }
  for (Index j = 0; j < 100; ++j) EXPECT_FALSE(is_held_out(j, 0.0));
}

TEST_F(DataFiles, DrawsByWeightAndNests) {
  auto const tokenizer = make_tokenizer("bytes");
  DataDeck deck;
  deck.source = {{write_records("code", 60), "", 1.0},
                 {write_records("math", 80), "", 1.0},
                 {write_records("talk", 200), "general", 3.0}};
  deck.held_out = 0.1;
  deck.samples = 300;
  Dataset const large = load_dataset(deck, *tokenizer, 4);
  EXPECT_THAT(large.train.domains, ElementsAre("code", "math", "general"));
  EXPECT_EQ(texts(large.train, 0).size() + texts(large.held_out, 0).size(), 60u);
  EXPECT_EQ(texts(large.train, 2).size() + texts(large.held_out, 2).size(), 180u);
  EXPECT_EQ(texts(large.held_out, 0).size(), 6u);
  EXPECT_EQ(texts(large.held_out, 2).size(), 18u);
  EXPECT_EQ(large.report.distinct, 300);
  EXPECT_EQ(large.report.sources[2].found, 200);
  EXPECT_EQ(large.report.sources[2].drawn, 180);
  EXPECT_EQ(large.report.sources[2].held_out, 18);

  for (Index const samples : {Index{1}, Index{7}, Index{100}, Index{299}}) {
    deck.samples = samples;
    if (samples == 1) deck.held_out = 0.0;  // one sample cannot be both
    Dataset const small = load_dataset(deck, *tokenizer, 4);
    deck.held_out = 0.1;
    EXPECT_EQ(small.train.size() + small.held_out.size(), samples);
    if (samples == 1) continue;
    EXPECT_TRUE(contains(texts(large.train), texts(small.train)));
    EXPECT_TRUE(contains(texts(large.held_out), texts(small.held_out)));
  }

  deck.samples = 100;
  Dataset const again = load_dataset(deck, *tokenizer, 4), other = load_dataset(deck, *tokenizer, 5);
  EXPECT_EQ(again.train.hash(), load_dataset(deck, *tokenizer, 4).train.hash());
  EXPECT_NE(again.train.hash(), other.train.hash());
  EXPECT_NE(texts(again.train), texts(other.train));
}

TEST_F(DataFiles, TooFewRecordsNamesSourceFoundAndNeeded) {
  auto const tokenizer = make_tokenizer("bytes");
  DataDeck deck;
  deck.source = {{write_records("code", 100), "", 1.0}, {write_records("math", 9), "", 1.0}};
  deck.samples = 20;
  EXPECT_THAT(message_of([&] { load_dataset(deck, *tokenizer, 1); }),
              AllOf(HasSubstr("math.jsonl"), HasSubstr("found 9"), HasSubstr("needs 10")));
  deck.source[1].weight = 0.0;
  EXPECT_THAT(message_of([&] { load_dataset(deck, *tokenizer, 1); }), HasSubstr("weight 0"));
}

TEST_F(DataFiles, EqualRecordsAreTakenOnce) {
  auto const tokenizer = make_tokenizer("bytes");
  std::string const first = write_records("code", 30);
  DataDeck deck;
  deck.source = {{first, "", 1.0}, {first, "again", 1.0}};
  deck.samples = 20;
  EXPECT_THAT(message_of([&] { load_dataset(deck, *tokenizer, 1); }), HasSubstr("found 0"));
  std::ofstream(folder_.path("twice.jsonl")) << std::ifstream(first).rdbuf() << std::ifstream(first).rdbuf();
  deck.source = {{folder_.path("twice.jsonl"), "", 1.0}};
  deck.samples = 30;
  Dataset const data = load_dataset(deck, *tokenizer, 1);
  EXPECT_EQ(data.report.duplicates, 30);
  EXPECT_EQ(data.report.distinct, 30);
  EXPECT_EQ(texts(data.train).size() + texts(data.held_out).size(), 30u);
}

TEST_F(DataFiles, TooLong) {
  auto const tokenizer = make_tokenizer("bytes");
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += fmt::format("{{\"instruction\": \"{}\", \"output\": \"{}\"}}\n", i,
                        std::string(static_cast<std::size_t>(i % 2 == 0 ? 100 : 5), 'x'));
  DataDeck deck;
  deck.source = {{write("mixed.jsonl", text), "", 1.0}};
  deck.context = 32;
  deck.samples = 20;
  deck.held_out = 0.0;
  deck.too_long = "drop";
  Dataset const dropped = load_dataset(deck, *tokenizer, 1);
  EXPECT_EQ(dropped.train.size(), 20);
  EXPECT_GT(dropped.report.dropped, 0);
  EXPECT_LE(dropped.train.longest(), 20);
  deck.samples = 21;
  EXPECT_THAT(message_of([&] { load_dataset(deck, *tokenizer, 1); }),
              AllOf(HasSubstr("found 20"), HasSubstr("needs 21")));

  deck.too_long = "truncate";
  deck.samples = 40;
  Dataset const cut = load_dataset(deck, *tokenizer, 1);
  EXPECT_EQ(cut.report.truncated, 20);
  EXPECT_EQ(cut.train.longest(), 32);
  for (Index i = 0; i < cut.train.size(); ++i) EXPECT_GE(cut.train.targets(i, false), 6);

  deck.too_long = "error";
  EXPECT_THAT(message_of([&] { load_dataset(deck, *tokenizer, 1); }),
              AllOf(HasSubstr("mixed.jsonl:"), HasSubstr("data.context = 32"), HasSubstr("tokens")));
  deck.too_long = "ignore";
  EXPECT_THAT(message_of([&] { load_dataset(deck, *tokenizer, 1); }), HasSubstr("ignore"));
}

TEST_F(DataFiles, LoadFileKeepsOrder) {
  auto const tokenizer = make_tokenizer("bytes");
  DataReport report;
  TokenStore const store = load_file(write_records("code", 5), "", DataDeck{}, *tokenizer, &report);
  ASSERT_EQ(store.size(), 5);
  EXPECT_THAT(store.domains, ElementsAre("code"));
  for (Index i = 0; i < 5; ++i)
    EXPECT_EQ(tokenizer->decode(store.tokens_of(i)), fmt::format("code {0}\n>answer {0}", i));
  EXPECT_EQ(report.sources[0].drawn, 5);
}

TEST(Generated, HeldOutNeverOccursInTraining) {
  auto const tokenizer = make_tokenizer("bytes");
  DataDeck deck;
  Dataset const data = load_dataset(deck, *tokenizer, 1);
  EXPECT_EQ(data.train.size(), 6270);
  EXPECT_EQ(data.held_out.size(), 330);
  EXPECT_EQ(data.report.distinct, 6600);
  EXPECT_LE(data.report.mean_bytes, 120.0);
  EXPECT_EQ(data.report.truncated, 0);
  EXPECT_THAT(data.train.domains, ElementsAre("code", "math", "general"));

  // By prompt, which is stronger than by text.
  auto const prompts = [&](TokenStore const& store) {
    std::multiset<std::string> all;
    for (Index i = 0; i < store.size(); ++i)
      all.insert(tokenizer->decode(store.tokens_of(i).first(
          static_cast<std::size_t>(store.samples[static_cast<std::size_t>(i)].response))));
    return all;
  };
  auto const trained = prompts(data.train), held_out = prompts(data.held_out);
  EXPECT_EQ(std::set<std::string>(trained.begin(), trained.end()).size(), trained.size());
  for (std::string const& prompt : held_out) EXPECT_EQ(trained.count(prompt), 0u) << prompt;
  for (int domain = 0; domain < 3; ++domain) EXPECT_EQ(texts(data.held_out, domain).size(), 110u);

  deck.samples = 900;
  Dataset const small = load_dataset(deck, *tokenizer, 1);
  EXPECT_TRUE(contains(texts(data.train), texts(small.train)));
  EXPECT_TRUE(contains(texts(data.held_out), texts(small.held_out)));
  deck.samples = 20000;
  EXPECT_EQ(load_dataset(deck, *tokenizer, 1).report.distinct, 20000);
}

TEST(Generated, PretrainingDocuments) {
  auto const tokenizer = make_tokenizer("bytes");
  PretrainDeck deck;
  deck.documents = 300;
  TokenStore const store = pretrain_documents(deck, 160, *tokenizer, 1);
  ASSERT_EQ(store.size(), 300);
  EXPECT_EQ(store.longest(), 160);
  for (Index i = 0; i < store.size(); ++i) {
    EXPECT_EQ(store.tokens_of(i)[0], tokenizer->bos());
    EXPECT_EQ(store.targets(i, false), store.input_tokens(i));
  }
  EXPECT_EQ(store.hash(), pretrain_documents(deck, 160, *tokenizer, 1).hash());
  EXPECT_NE(store.hash(), pretrain_documents(deck, 160, *tokenizer, 2).hash());
}

TEST(TokenStore, HashSeesTokensBoundariesAndDomains) {
  auto const store = [](std::vector<std::vector<int>> const& samples, int response,
                        std::string const& domain) {
    TokenStore s;
    s.domains = {domain};
    for (std::vector<int> const& sample : samples) s.append(sample, response, 0);
    return s.hash();
  };
  std::uint64_t const base = store({{1, 2, 3}, {4, 5}}, 1, "d");
  EXPECT_EQ(base, store({{1, 2, 3}, {4, 5}}, 1, "d"));
  EXPECT_NE(base, store({{1, 2}, {3, 4, 5}}, 1, "d"));
  EXPECT_NE(base, store({{1, 2, 3}, {4, 6}}, 1, "d"));
  EXPECT_NE(base, store({{1, 2, 3}, {4, 5}}, 0, "d"));
  EXPECT_NE(base, store({{1, 2, 3}, {4, 5}}, 1, "e"));
}

TEST(RealData, OneTenthAtOneOneThree) {
  std::string const model = shared_data("models/stories260K/tokenizer.model");
  if (model.empty()) GTEST_SKIP() << "no shared data at " << UPIT_SHARED_DATA;
  auto const tokenizer = make_tokenizer(model);
  DataDeck deck;
  deck.source = {{shared_data("instruct/code.jsonl.gz"), "", 1.0},
                 {shared_data("instruct/math.jsonl.gz"), "", 1.0},
                 {shared_data("instruct/general.jsonl.gz"), "", 3.0}};
  deck.format = "alpaca";
  deck.context = 512;
  deck.samples = 500;
  Dataset const data = load_dataset(deck, *tokenizer, 1);
  EXPECT_EQ(data.train.size() + data.held_out.size(), 500);
  EXPECT_EQ(data.held_out.size(), 25);
  EXPECT_THAT(data.train.domains, ElementsAre("code", "math", "general"));
  EXPECT_EQ(data.report.sources[2].drawn, 300);
  EXPECT_LE(data.train.longest(), 512);
  for (Index i = 0; i < data.train.size(); ++i) {
    EXPECT_EQ(data.train.tokens_of(i)[0], 1);
    EXPECT_GE(data.train.targets(i, false), 1);
  }
}

}  // namespace
}  // namespace upit
