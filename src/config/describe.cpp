// SPDX-License-Identifier: Apache-2.0
// Owns the description of every deck key. To add a key: a field with its default in deck.hpp, an entry here.
// "UpIT" is arXiv 2410.01610; "ours" marks a choice that the papers leave open.
#include "upit/config/describe.hpp"

namespace upit {
namespace {

KeyLimits any_text() { return {}; }
KeyLimits any_bool() { return {}; }
KeyLimits a_path(std::string_view word = {}) {
  KeyLimits limits;
  limits.path = true;
  limits.not_path = word;
  return limits;
}
KeyLimits one_of(std::vector<std::string_view> words) {
  KeyLimits limits;
  limits.words = std::move(words);
  return limits;
}
KeyLimits between(double low, double high) {
  KeyLimits limits;
  limits.low = low;
  limits.high = high;
  return limits;
}
/// Far from where the reader of TOML saturates silently, 2^63, and from where products of extents overflow.
KeyLimits at_least(double low, double guard = 1e12) {
  KeyLimits limits = between(low, guard);
  limits.guard = true;
  return limits;
}
/// (low, high)
KeyLimits inside(double low, double high) {
  KeyLimits limits = between(low, high);
  limits.low_open = limits.high_open = true;
  return limits;
}
/// (0, high]; without `high`, no bound but the guard.
KeyLimits positive(double high = 0) {
  KeyLimits limits = high > 0 ? between(0, high) : at_least(0);
  limits.low_open = true;
  return limits;
}
/// [0, 1)
KeyLimits share() {
  KeyLimits limits = between(0, 1);
  limits.high_open = true;
  return limits;
}

DeckTable describe_run(RunDeck& d) {
  return {
      "run",
      "Where the run lives and how often it speaks and saves.",
      {
          {"directory", &d.directory, any_text(), "",
           "Folder of everything the run writes, from the current directory. The same command in the same "
           "folder resumes."},
          {"seed", &d.seed, at_least(0, 1e18), "",
           "All random numbers follow from it: initial weights, order of samples, dropout, DARE masks."},
          {"time_limit", &d.time_limit, any_text(), "",
           "\"HH:MM:SS\" or seconds, in quotes; empty for none. A launch that reaches it saves a checkpoint "
           "and exits with 75."},
          {"checkpoint_every", &d.checkpoint_every, at_least(1), "steps",
           "How often training saves its restart state; the last two are kept."},
          {"log_every", &d.log_every, at_least(1), "steps", "How often a line goes to the log."},
      }};
}

DeckTable describe_model(ModelDeck& d) {
  return {
      "model",
      "The dense base. Without a base named here, a Llama of the shapes below is pre-trained first.",
      {
          {"base", &d.base, a_path(), "",
           "Hugging Face Llama directory, or a model file of upit; empty: pre-train one ([pretrain]). With "
           "a base, the other keys of this table are not used."},
          {"layers", &d.layers, at_least(1, 1e5), "", "Transformer blocks, L."},
          {"width", &d.width, at_least(2, 1e6), "channels",
           "Width of the residual stream, d; heads divide it into heads of even width."},
          {"heads", &d.heads, at_least(1, 1e5), "", "Attention heads, H."},
          {"kv_heads", &d.kv_heads, at_least(1, 1e5), "",
           "Key-value heads, G, shared by H/G heads each (grouped-query attention)."},
          {"ffn", &d.ffn, at_least(1, 1e6), "channels", "Hidden width of the SwiGLU FFN, f."},
          {"norm_eps", &d.norm_eps, positive(1), "", "Added inside the root of RMSNorm."},
          {"rope_theta", &d.rope_theta, positive(), "", "Base of the rotary embedding's wavelengths."},
          {"tied", &d.tied, any_bool(), "", "Output head and embedding are one matrix."},
      }};
}

DeckTable describe_data(DataDeck& d) {
  return {"data",
          "The instruction samples, drawn once without replacement; every stage reads the same set.",
          {
              {"samples", &d.samples, at_least(1), "samples",
               "How many are drawn, training and held-out together, split over the sources by weight. A "
               "smaller set is part of a larger one."},
              {"held_out", &d.held_out, inside(0, 1), "share of samples",
               "Kept out of training for the held-out losses."},
              {"tokenizer", &d.tokenizer, a_path("bytes"), "",
               "One token per byte, or the tokenizer.model of SentencePiece."},
              {"format", &d.format, one_of({"plain", "alpaca"}), "",
               "Template that turns instruction, input and output into one text."},
              {"context", &d.context, at_least(7, 1e8), "tokens",
               "Longest sample, and length of a packed sequence. UpIT: 2048."},
              {"packing", &d.packing, any_bool(), "",
               "Fill a sequence with several samples; none sees another, positions restart."},
              {"too_long", &d.too_long, one_of({"truncate", "drop", "error"}), "",
               "What happens to a sample longer than context; the number is logged (ours)."},
              {"loss_on", &d.loss_on, one_of({"response", "all"}), "",
               "Tokens that count in the loss: those of the response (ours), or all."},
              {"source",
               &d.source,
               {},
               "",
               "Files of instruction samples; without any, the program makes its own samples of code, "
               "arithmetic and general tasks."},
          }};
}

DeckTable describe_pretrain(PretrainDeck& d) {
  return {"pretrain",
          "Makes a base out of generated text, all parameters trained. Skipped when model.base names one.",
          {
              {"documents", &d.documents, at_least(1), "documents",
               "Texts generated for it; none of them is an instruction sample of [data]."},
              {"epochs", &d.epochs, positive(), "epochs", "Passes over the documents."},
              {"batch", &d.batch, at_least(1), "documents", "In one optimizer step, over all ranks."},
              {"learning_rate", &d.learning_rate, positive(10), "", "Peak rate of AdamW."},
              {"schedule", &d.schedule, one_of({"constant", "cosine"}), "",
               "After the warm-up the rate stays, or falls along half a cosine."},
              {"warmup", &d.warmup, share(), "share of steps", "Linear rise of the rate at the start."},
          }};
}

DeckTable describe_train(TrainDeck& d) {
  return {
      "train",
      "Training of the stages prepare and post_train; AdamW moments start at zero in each.",
      {
          {"micro_batch", &d.micro_batch, at_least(1), "sequences",
           "In one forward and backward pass, over all ranks. It bounds memory, and load balance is taken "
           "over it; it does not depend on the number of ranks."},
          {"batch", &d.batch, at_least(1), "samples",
           "In one optimizer step, over all ranks, packed or not. UpIT: 128."},
          {"learning_rate", &d.learning_rate, positive(10), "",
           "Peak rate of AdamW. UpIT: 2e-4 for LoRA, 2e-5 "
           "for FFN experts."},
          {"schedule", &d.schedule, one_of({"constant", "cosine"}), "",
           "After the warm-up the rate stays (UpIT), or falls along half a cosine."},
          {"warmup", &d.warmup, share(), "share of steps", "Linear rise of the rate at the start."},
          {"clip", &d.clip, positive(), "", "Largest norm of the gradient over all trained parameters."},
          {"beta1", &d.beta1, share(), "", "AdamW: decay of the first moment."},
          {"beta2", &d.beta2, share(), "", "AdamW: decay of the second moment."},
          {"epsilon", &d.epsilon, positive(1), "", "AdamW: added to the root of the second moment."},
          {"weight_decay", &d.weight_decay, between(0, 10), "", "AdamW: decoupled decay."},
          {"precision", &d.precision, one_of({"fp32", "bf16"}), "",
           "What stages that train or score compute in. bf16: weights, activations and their gradients of 16 "
           "bits; "
           "sums, softmax, norms, routers, losses, gradients of weights and the weights that are trained "
           "stay fp32, "
           "and so do files."},
          {"tf32", &d.tf32, any_bool(), "",
           "NVIDIA devices only: products of fp32 matrices, except those of routers, round their inputs to "
           "TF32, 10 bits behind the point, and add in fp32."},
      }};
}

DeckTable describe_expert(ExpertDeck& d) {
  return {"expert",
          "What an expert is, and how many the model gets.",
          {
              {"kind", &d.kind, one_of({"lora", "ffn"}), "",
               "lora: low-rank matrices on gate, up and down of every FFN, the backbone frozen. ffn: whole "
               "FFNs, everything trained; [lora] is not used then."},
              {"count", &d.count, at_least(1, 1e5), "experts", "Experts of the MoE model, n in UpIT."},
          }};
}

DeckTable describe_lora(LoraDeck& d) {
  return {"lora",
          "LoRA on a linear W: W x + (alpha/rank) B A x, with A from Kaiming's uniform law and B zero.",
          {
              {"rank", &d.rank, at_least(1, 1e5), "", "Rank r of A and B (ours)."},
              {"alpha", &d.alpha, positive(), "", "Scale: the product is multiplied by alpha/rank (ours)."},
              {"dropout", &d.dropout, share(), "probability",
               "Drops channels of the input of A, in every training stage (ours)."},
              {"mix", &d.mix, one_of({"branch", "ffn"}), "",
               "branch: gates weigh the LoRA terms inside each linear, as in LoRAMoE (UpIT, appendix A.4). "
               "ffn: gates weigh whole FFNs, the form that Mixtral files hold (ours)."},
          }};
}

DeckTable describe_prepare(PrepareDeck& d) {
  return {"prepare",
          "Stage 1: tune the dense model, save checkpoints at even times; each is an expert (UpIT).",
          {
              {"epochs", &d.epochs, positive(), "epochs", "Passes over the training samples."},
              {"checkpoints", &d.checkpoints, at_least(1, 1e5), "checkpoints",
               "How many become experts, m. Twice as many are saved, at times jT/(2m)."},
              {"select", &d.select, one_of({"back_half", "front_half", "uniform"}), "",
               "Which m of the 2m: the last, the first, or every second."},
              {"include_base", &d.include_base, any_bool(), "",
               "The untuned base takes the place of the earliest checkpoint (UpIT, table 5). It is never a "
               "parent."},
          }};
}

DeckTable describe_expand(ExpandDeck& d) {
  return {"expand",
          "Stage 2: merge pairs until expert.count experts are there (UpIT, algorithm 2).",
          {
              {"strategy", &d.strategy, one_of({"genetic", "random", "none"}), "",
               "Parents are the least similar pair, or any pair; none: expert.count is prepare.checkpoints."},
              {"similarity", &d.similarity, one_of({"task_vector", "weights"}), "",
               "What the cosine compares: expert minus start (ours), or the weights themselves."},
              {"dare_drop", &d.dare_drop, share(), "probability",
               "DARE drops each element of a task vector and divides the rest by 1 - p (value ours)."},
              {"reuse_pairs", &d.reuse_pairs, any_bool(), "",
               "A pair may have several children, as algorithm 2 is printed; false: each pair once."},
              {"backbone", &d.backbone, one_of({"mean", "weighted"}), "",
               "FFN experts: a child's backbone is the plain mean of its parents' (UpIT), or weighted as its "
               "FFNs are (ours)."},
          }};
}

DeckTable describe_route(RouteDeck& d) {
  return {
      "route",
      "Stage 3: give each expert the seed samples it is best at, train it and its routing vectors on them "
      "(UpIT, algorithm 3, equations 1 and 2).",
      {
          {"data", &d.data, one_of({"skilled", "random", "none"}), "",
           "skilled: samples of lowest perplexity. random: any samples. none: no training, the router "
           "starts random."},
          {"seed_fraction", &d.seed_fraction, between(0, 1), "share of training samples",
           "Size of the seed set."},
          {"seed_min", &d.seed_min, at_least(1), "samples",
           "The seed set has at least so many, as far as there are training samples (UpIT never had fewer "
           "than 500)."},
          {"epochs", &d.epochs, positive(), "epochs", "Passes over an expert's samples."},
          {"alpha", &d.alpha, between(0, 1), "",
           "Weight of the language loss; the auxiliary loss gets 1 - alpha (UpIT, equation 1)."},
          {"batch", &d.batch, at_least(1), "samples",
           "In one optimizer step of one expert (ours: with train.batch a bucket gives a handful of "
           "steps)."},
          {"learning_rate", &d.learning_rate, positive(10), "",
           "Rate of AdamW for experts and routing vectors, constant."},
          {"bucket", &d.bucket, at_least(0), "samples",
           "Most samples an expert takes, C; 0: seed samples over experts, rounded up (ours)."},
          {"overflow", &d.overflow, one_of({"next", "drop"}), "",
           "A sample whose best expert is full goes to the next best (ours), or is dropped (algorithm 3 "
           "as printed)."},
          {"score", &d.score, one_of({"perplexity", "centred"}), "",
           "Experts compare by perplexity, or with each one's mean log-perplexity taken off (ours)."},
          {"negatives", &d.negatives, any_bool(), "",
           "Add tokens of other experts' samples with target 0 to the auxiliary loss (ours); equation 2 "
           "has positives only."},
      }};
}

DeckTable describe_upcycle(UpcycleDeck& d) {
  return {"upcycle",
          "Stage 4: stack the experts, and the routing vectors as rows of a router, into one MoE model.",
          {
              {"router_order", &d.router_order, one_of({"topk_softmax", "softmax_topk"}), "",
               "Softmax over the chosen experts; or over all, of which the chosen keep theirs, times "
               "experts/top_k (ours)."},
              {"backbone", &d.backbone, one_of({"all", "checkpoints"}), "",
               "FFN experts: the backbone is the mean over all expert models (UpIT), or over the checkpoints "
               "of stage 1 alone (ours)."},
          }};
}

DeckTable describe_post_train(PostTrainDeck& d) {
  return {"post_train",
          "Stage 5: train the MoE model, experts and router, on the training samples.",
          {
              {"epochs", &d.epochs, positive(), "epochs",
               "Passes over the training samples; the count goes on from stage 1."},
              {"top_k", &d.top_k, at_least(1, 1e5), "experts", "Experts that each token visits, K."},
              {"balance", &d.balance, at_least(0, 1e6), "",
               "Coefficient of the load-balancing loss E sum f P (UpIT, 2.2); 1 at uniform routing, E/K at "
               "collapse (value ours)."},
          }};
}

DeckTable describe_evaluate(EvaluateDeck& d) {
  return {
      "evaluate",
      "Stage 6: held-out loss by domain, and where tokens go.",
      {
          {"micro_batch", &d.micro_batch, at_least(1), "sequences", "In one forward pass, over all ranks."},
      }};
}

DeckTable describe_parallel(ParallelDeck& d) {
  return {
      "parallel",
      "How ranks share the work.",
      {
          {"expert", &d.expert, at_least(1, 1e5), "ranks",
           "Ranks that share one set of FFN experts, each holding some of them; it divides the number "
           "of ranks. LoRA experts stay whole on every rank: 1."},
          {"capacity", &d.capacity, between(0.01, 1e3), "times the balanced load",
           "Room for the tokens that come to a rank's experts. What exceeds it takes further rounds, no "
           "token is dropped."},
          {"chunks", &d.chunks, between(1, 64), "",
           "Cuts of a round: on a GPU one is sent while the experts work on another; on hosts 1 is best."},
      }};
}

}  // namespace

std::vector<DeckTable> describe(Deck& deck) {
  return {
      describe_run(deck.run),           describe_model(deck.model),      describe_data(deck.data),
      describe_pretrain(deck.pretrain), describe_train(deck.train),      describe_expert(deck.expert),
      describe_lora(deck.lora),         describe_prepare(deck.prepare),  describe_expand(deck.expand),
      describe_route(deck.route),       describe_upcycle(deck.upcycle),  describe_post_train(deck.post_train),
      describe_evaluate(deck.evaluate), describe_parallel(deck.parallel)};
}

DeckTable describe(SourceDeck& d) {
  return {
      "data.source",
      "A file of instruction samples.",
      {
          {"path", &d.path, a_path(), "", "JSON lines with instruction, input and output, plain or gzip."},
          {"domain", &d.domain, any_text(), "",
           "Name under which losses are reported; empty: the file's name without endings."},
          {"weight", &d.weight, positive(), "",
           "Share of data.samples drawn from it, relative to the other weights."},
      }};
}

}  // namespace upit
