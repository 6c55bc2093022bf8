// SPDX-License-Identifier: Apache-2.0
// Owns tests of metrics.csv.
#include "upit/io/metrics.hpp"

#include <limits>

#include "scratch.hpp"

using namespace upit;
using upit::test::expect_error;
using upit::test::Scratch;

namespace {
std::vector<std::string> const kColumns = {"loss", "rate"};
}

TEST(Metrics, RowsAreThereAtOnce) {
  Scratch const s;
  MetricsFile m(s.path("m.csv"), kColumns);
  EXPECT_EQ(read_text_file(s.path("m.csv")), "stage,step,loss,rate\n");
  m.append("prepare", 1, {{"loss", 0.1}, {"rate", 2e-4}});
  m.append("prepare", 2, {{"rate", 1.0}});
  m.append("prepare", 3, {});
  EXPECT_EQ(read_text_file(s.path("m.csv")),
            "stage,step,loss,rate\nprepare,1,0.1,0.0002\nprepare,2,,1\nprepare,3,,\n");
  m.append("prepare", 4, {{"loss", std::numeric_limits<double>::quiet_NaN()}});
  EXPECT_THAT(read_text_file(s.path("m.csv")), ::testing::EndsWith("prepare,4,nan,\n"));
  EXPECT_THROW(m.append("prepare", 5, {{"los", 1.0}}), std::logic_error);
  EXPECT_THROW(m.append("pre,pare", 5, {}), std::logic_error);
}

TEST(Metrics, NumbersComeBackExactly) {
  Scratch const s;
  double const value = 1.0 / 3.0;
  MetricsFile m(s.path("m.csv"), kColumns);
  m.append("a", 0, {{"loss", value}});
  std::string const text = read_text_file(s.path("m.csv"));
  EXPECT_EQ(std::stod(text.substr(text.find("a,0,") + 4)), value);
}

TEST(Metrics, ContinuesAndDropsAHalfRow) {
  Scratch const s;
  {
    MetricsFile m(s.path("m.csv"), kColumns);
    m.append("a", 1, {{"loss", 1.0}});
  }
  std::ofstream(s.path("m.csv"), std::ios::app) << "a,2,0.";  // killed here
  MetricsFile m(s.path("m.csv"), kColumns);
  m.append("a", 2, {{"loss", 2.0}});
  EXPECT_EQ(read_text_file(s.path("m.csv")), "stage,step,loss,rate\na,1,1,\na,2,2,\n");
}

TEST(Metrics, CutBack) {
  Scratch const s;
  MetricsFile m(s.path("m.csv"), {});
  for (char const* stage : {"pretrain", "prepare", "route"}) {
    for (Index step = 1; step <= 3; ++step) m.append(stage, step, {});
  }
  m.cut_back("prepare", 2);
  EXPECT_EQ(read_text_file(s.path("m.csv")),
            "stage,step\npretrain,1\npretrain,2\npretrain,3\nprepare,1\nprepare,2\n");
  m.append("prepare", 3, {});
  m.cut_back("route", 0);  // not begun: nothing to drop
  EXPECT_THAT(read_text_file(s.path("m.csv")), ::testing::EndsWith("prepare,2\nprepare,3\n"));
  m.cut_back("pretrain", 0);
  EXPECT_EQ(read_text_file(s.path("m.csv")), "stage,step\n");
  m.append("x", 1, {});
  m.append("y", 9, {});
  m.cut_back([](std::string_view stage, Index) { return stage != "x"; });
  EXPECT_EQ(read_text_file(s.path("m.csv")), "stage,step\ny,9\n");
}

TEST(Metrics, SortsTheRowsOfOneStageInTheirPlaces) {
  Scratch const s;
  MetricsFile m(s.path("m.csv"), {"loss"});
  m.append("b", 2, {{"loss", 0.5}});
  for (Index const step : {1, 2, 10, 4, 3}) m.append("a", step, {{"loss", static_cast<double>(step)}});
  m.append("b", 1, {});
  m.sort("a");
  std::string const sorted = "stage,step,loss\nb,2,0.5\na,1,1\na,2,2\na,3,3\na,4,4\na,10,10\nb,1,\n";
  EXPECT_EQ(read_text_file(s.path("m.csv")), sorted);
  auto const written = std::filesystem::last_write_time(s.path("m.csv"));
  m.sort("a");
  m.sort("none");
  EXPECT_EQ(std::filesystem::last_write_time(s.path("m.csv")), written);
  m.append("a", 11, {});  // into the file that took the old one's place
  EXPECT_EQ(read_text_file(s.path("m.csv")), sorted + "a,11,\n");
}

TEST(Metrics, OtherFilesAreRefused) {
  Scratch const s;
  s.write("m.csv", "stage,step,other\n");
  expect_error([&] { MetricsFile const m(s.path("m.csv"), kColumns); },
               {s.path("m.csv"), "other", "stage,step,loss,rate"});
  s.write("m.csv", "stage,step,loss,rate\na,1,2,3\na,b,2,3\n");
  expect_error([&] { MetricsFile const m(s.path("m.csv"), kColumns); }, {s.path("m.csv") + ":3"});
  s.write("m.csv", "stage,step,loss,rate\na,1,2\n");
  expect_error([&] { MetricsFile const m(s.path("m.csv"), kColumns); }, {s.path("m.csv") + ":2"});
  expect_error([&] { MetricsFile const m(s.path("no/m.csv"), kColumns); }, {s.path("no/m.csv")});
}
