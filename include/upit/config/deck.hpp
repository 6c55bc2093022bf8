// SPDX-License-Identifier: Apache-2.0
// Owns the typed form of a deck: one struct per table, defaults in place. Meaning, unit and range of every
// key stand in src/config/describe.cpp, once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "upit/core/index.hpp"

namespace upit {

struct RunDeck {
  std::string directory = "runs/upit";
  std::uint64_t seed = 1;
  std::string time_limit = "";   // "HH:MM:SS" or seconds; empty: none
  Index checkpoint_every = 200;  // steps
  Index log_every = 20;          // steps

  bool operator==(RunDeck const&) const = default;
};

struct ModelDeck {
  std::string base = "";  // Hugging Face directory or a file of ours; empty: pre-train a small one
  Index layers = 4, width = 128, heads = 4, kv_heads = 4, ffn = 352;
  double norm_eps = 1e-5, rope_theta = 10000.0;
  bool tied = true;

  bool operator==(ModelDeck const&) const = default;
};

struct SourceDeck {
  std::string path;
  std::string domain = "";  // empty: the file's name without endings
  double weight = 1.0;

  bool operator==(SourceDeck const&) const = default;
};

struct DataDeck {
  std::vector<SourceDeck> source;   // [[data.source]]; empty: the embedded generator
  Index samples = 6600;             // training and held-out samples drawn from the sources, by weight
  double held_out = 0.05;           // share of them kept for evaluation
  std::string tokenizer = "bytes";  // or the path of a SentencePiece tokenizer.model
  std::string format = "plain";     // prompt template: plain | alpaca
  Index context = 256;              // tokens
  bool packing = false;
  std::string too_long = "truncate";  // truncate | drop | error
  std::string loss_on = "response";   // response | all

  bool operator==(DataDeck const&) const = default;
};

struct PretrainDeck {
  Index documents = 20000;  // generated; never overlaps data
  double epochs = 1.0;
  Index batch = 128;
  double learning_rate = 2e-3;
  std::string schedule = "cosine";
  double warmup = 0.05;  // share of steps

  bool operator==(PretrainDeck const&) const = default;
};

struct TrainDeck {
  Index micro_batch = 64;  // sequences over all ranks
  Index batch = 128;       // samples
  double learning_rate = 2e-4;
  std::string schedule = "constant";  // constant | cosine
  double warmup = 0.0;
  double clip = 1.0;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.0;
  std::string precision = "fp32";  // fp32 | bf16
  bool tf32 = false;

  bool operator==(TrainDeck const&) const = default;
};

struct ExpertDeck {
  std::string kind = "lora";  // lora | ffn
  Index count = 8;            // n

  bool operator==(ExpertDeck const&) const = default;
};

struct LoraDeck {
  Index rank = 8;
  double alpha = 16.0, dropout = 0.05;
  std::string mix = "branch";  // branch | ffn

  bool operator==(LoraDeck const&) const = default;
};

struct PrepareDeck {
  double epochs = 2.0;
  Index checkpoints = 4;             // m
  std::string select = "back_half";  // back_half | front_half | uniform
  bool include_base = false;

  bool operator==(PrepareDeck const&) const = default;
};

struct ExpandDeck {
  std::string strategy = "genetic";        // genetic | random | none
  std::string similarity = "task_vector";  // task_vector | weights
  double dare_drop = 0.2;
  bool reuse_pairs = true;
  std::string backbone = "mean";  // mean | weighted

  bool operator==(ExpandDeck const&) const = default;
};

struct RouteDeck {
  std::string data = "skilled";  // skilled | random | none
  double seed_fraction = 0.01;
  Index seed_min = 500;
  double epochs = 4.0;
  double alpha = 0.5;
  Index batch = 16;
  double learning_rate = 2e-4;
  Index bucket = 0;                  // samples; 0: ceil(seed samples / experts)
  std::string overflow = "next";     // next | drop
  std::string score = "perplexity";  // perplexity | centred
  bool negatives = false;

  bool operator==(RouteDeck const&) const = default;
};

struct UpcycleDeck {
  std::string router_order = "topk_softmax";  // topk_softmax | softmax_topk
  std::string backbone = "all";               // all | checkpoints

  bool operator==(UpcycleDeck const&) const = default;
};

struct PostTrainDeck {
  double epochs = 2.0;
  Index top_k = 2;
  double balance = 0.01;  // coefficient of the load-balancing loss

  bool operator==(PostTrainDeck const&) const = default;
};

struct EvaluateDeck {
  Index micro_batch = 64;  // sequences over all ranks

  bool operator==(EvaluateDeck const&) const = default;
};

struct ParallelDeck {
  Index expert = 1;       // ranks of an expert group
  double capacity = 2.0;  // rows of a rank's buffers over the balanced load
  Index chunks = 1;       // of a round of the token exchange

  bool operator==(ParallelDeck const&) const = default;
};

struct Deck {
  RunDeck run;
  ModelDeck model;
  DataDeck data;
  PretrainDeck pretrain;
  TrainDeck train;
  ExpertDeck expert;
  LoraDeck lora;
  PrepareDeck prepare;
  ExpandDeck expand;
  RouteDeck route;
  UpcycleDeck upcycle;
  PostTrainDeck post_train;
  EvaluateDeck evaluate;
  ParallelDeck parallel;

  bool operator==(Deck const&) const = default;
};

}  // namespace upit
