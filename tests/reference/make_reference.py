# SPDX-License-Identifier: Apache-2.0
# Owns the parity cases: tiny models, two batches, and what PyTorch gets from them, in one file per case.
"""Makes tests/reference/<case>.safetensors:

    apt-get install -y --no-install-recommends python3-torch      # Debian 12: PyTorch 1.13
    /usr/bin/python3 tests/reference/make_reference.py            # every case, in double precision
    /usr/bin/python3 tests/reference/make_reference.py CASE...    # these cases
    /usr/bin/python3 tests/reference/make_reference.py --stories DIRECTORY TEXT

The form with --stories prints the mean next-token loss of a Hugging Face directory on a text (needs
python3-sentencepiece).

A file holds the initial weights under the names and layouts of include/upit/model/parameters.hpp (their values are
exact in fp32), the batches (batch.0.*, batch.1.*), and, computed in double:
  expect.logits (N, V)          of batch 0 at the initial weights
  expect.lm, .total             its losses there; .balance and .auxiliary where the case has them
  expect.gradient.<name>        of the total loss there, unclipped, for every trained tensor
  expect.losses (10)            the total loss before each of ten AdamW steps, batches 0 and 1 taking turns
  expect.norms (10)             the gradient's global norm in each of those steps, before clipping
The deck of the case is JSON in the metadata entry "config".
"""

import json
import os
import sys

import torch

import llama
import tensor_file

STEPS = 10
LENGTHS = ((9, 5, 7), (6, 1, 11))  # a sample of one token attends to itself alone
# The smallest distance of a chosen expert's logit from a rejected one's, over all tokens, layers and steps: far above
# what fp32 rounding moves a logit by, so that every correct program makes the same choices.
MARGIN = 2e-3

MODEL = dict(layers=2, width=16, heads=4, kv_heads=2, head_width=4, ffn=28, vocabulary=29, context=16,
             norm_eps=1e-3, rope_theta=10000.0, tied=True)
EXPERT = dict(count=4, active=2, rank=3, alpha=4.0, mix="branch", order="topk_softmax", router="gate")
TRAINING = dict(trained=["expert", "router"], learning_rate=2e-3, beta1=0.9, beta2=0.95, epsilon=1e-8,
                weight_decay=0.0, clip=1.0, balance=0.01, auxiliary_alpha=0.5)
DENSE = dict(count=0, active=1, rank=0, router="none")
BACKBONE = dict(trained=["backbone"])
FFN_EXPERTS = dict(kind="ffn", rank=0)  # whole FFNs; without "kind" experts are LoRA
# The balance loss weighs ten times what it does by default, so that a wrong one shows in losses and gradients.
ALL = dict(trained=["backbone", "expert", "router"], balance=0.1)

CASES = {
    # 4 heads of 6 beside a width of 20: nothing may take the heads' width for the model's.
    "dense_tied": (dict(width=20, head_width=6, ffn=24), DENSE, BACKBONE),
    "dense_untied": (dict(kv_heads=4, vocabulary=31, rope_theta=500.0, tied=False), DENSE,
                     dict(BACKBONE, weight_decay=0.01)),
    # Its gradients are now above, now below this bound; those of the other cases are always clipped.
    "lora": (dict(tied=False, ffn=40, width=24, head_width=6),
             dict(count=1, active=1, router="none"), dict(trained=["expert"], clip=3.0)),
    "moe_branch": ({}, {}, {}),
    "moe_ffn": ({}, dict(mix="ffn"), {}),
    "moe_branch_softmax_topk": ({}, dict(order="softmax_topk"), {}),
    "moe_ffn_softmax_topk": ({}, dict(mix="ffn", order="softmax_topk", active=3), {}),
    "moe_experts": (dict(width=12, ffn=10), FFN_EXPERTS, ALL),
    "moe_experts_softmax_topk": (dict(width=12, ffn=10, tied=False),
                                 dict(FFN_EXPERTS, count=5, active=3, order="softmax_topk"),
                                 dict(ALL, weight_decay=0.01)),
    "moe_auxiliary": ({}, dict(count=1, active=1, router="auxiliary"), dict(auxiliary_alpha=0.3)),
}


def make_state(case, generator):
    """Random weights, large enough that attention, gates and experts are far from uniform; fp32 values in double."""
    shape, experts, state = case["model"], case["expert"], {}
    width, inner = shape["width"], shape["heads"] * shape["head_width"]
    key = shape["kv_heads"] * shape["head_width"]

    def normal(name, rows, columns, size=1.0):
        values = torch.randn(rows, columns, generator=generator, dtype=torch.float32)
        state[name] = (values * (size / columns**0.5)).double()

    def norm(name):
        state[name] = (1 + 0.2 * torch.randn(width, generator=generator, dtype=torch.float32)).double()

    normal("model.embed_tokens.weight", shape["vocabulary"], width, 2.0)
    for layer in range(shape["layers"]):
        prefix = f"model.layers.{layer}."
        norm(prefix + "input_layernorm.weight")
        norm(prefix + "post_attention_layernorm.weight")
        normal(prefix + "self_attn.q_proj.weight", inner, width, 1.5)
        normal(prefix + "self_attn.k_proj.weight", key, width, 1.5)
        normal(prefix + "self_attn.v_proj.weight", key, width)
        normal(prefix + "self_attn.o_proj.weight", width, inner)
        if not llama.has_ffn_experts(experts):
            normal(prefix + "mlp.gate_proj.weight", shape["ffn"], width, 1.5)
            normal(prefix + "mlp.up_proj.weight", shape["ffn"], width, 1.5)
            normal(prefix + "mlp.down_proj.weight", width, shape["ffn"])
        for e in range(experts["count"]):
            for linear in llama.LINEARS:
                rows, columns = (width, shape["ffn"]) if linear == "down" else (shape["ffn"], width)
                name = f"experts.{layer}.{e}.{linear}."
                if llama.has_ffn_experts(experts):
                    normal(name + "weight", rows, columns, 1.0 if linear == "down" else 1.5)
                else:
                    normal(name + "a", experts["rank"], columns)
                    normal(name + "b", rows, experts["rank"], 0.6)
        if experts["router"] != "none":
            normal(f"router.{layer}", experts["count"], width)
    norm("model.norm.weight")
    if not shape["tied"]:
        normal("lm_head.weight", shape["vocabulary"], width)
    return state


def group_of(name):
    return "expert" if name.startswith("experts.") else "router" if name.startswith("router.") else "backbone"


def our_layout(tensors, case):
    """The same values under the names of parameters.hpp; leaves out what `tensors` does not hold."""
    shape, count, ours = case["model"], case["expert"]["count"], {}

    def put(name, *sources, axis=0):
        if all(s in tensors for s in sources):
            ours[name] = torch.cat([tensors[s] for s in sources], axis)

    put("embedding", "model.embed_tokens.weight")
    for layer in range(shape["layers"]):
        prefix, to = f"model.layers.{layer}.", f"layers.{layer}."
        put(to + "attention_norm", prefix + "input_layernorm.weight")
        put(to + "attention.qkv", *(f"{prefix}self_attn.{x}_proj.weight" for x in "qkv"))
        put(to + "attention.out", prefix + "self_attn.o_proj.weight")
        put(to + "ffn_norm", prefix + "post_attention_layernorm.weight")
        put(to + "ffn.gate_up", prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight")
        put(to + "ffn.down", prefix + "mlp.down_proj.weight")
        if count and f"experts.{layer}.0.gate.a" in tensors:
            a, b = ({k: torch.stack([tensors[f"experts.{layer}.{e}.{k}.{ab}"] for e in range(count)])
                     for k in llama.LINEARS} for ab in "ab")
            ours[to + "lora.gate_up_a"] = torch.cat((a["gate"], a["up"]), 1)
            ours[to + "lora.gate_b"] = b["gate"].transpose(1, 2)
            ours[to + "lora.up_b"] = b["up"].transpose(1, 2)
            ours[to + "lora.down_a"] = a["down"]
            ours[to + "lora.down_b"] = b["down"].transpose(1, 2)
        if count and f"experts.{layer}.0.gate.weight" in tensors:
            weight = {k: torch.stack([tensors[f"experts.{layer}.{e}.{k}.weight"] for e in range(count)])
                      for k in llama.LINEARS}
            ours[to + "experts.gate_up"] = torch.cat((weight["gate"], weight["up"]), 1)
            ours[to + "experts.down"] = weight["down"]
        put(to + "router", f"router.{layer}")
    put("norm", "model.norm.weight")
    put("head", "lm_head.weight")
    return ours


def make_batch(case, lengths, generator):
    """Samples of `lengths` input tokens; the target is the next token, and about two in five have none."""
    samples, target, position, start = [], [], [], [0]
    for length in lengths:
        token = torch.randint(case["model"]["vocabulary"], (length + 1,), generator=generator)
        follow = token[1:].clone()
        follow[: (length + 2) // 4] = -1  # a prompt; the sample of one token keeps its target
        follow[torch.rand(length, generator=generator) < 0.2] = -1
        samples.append(token[:-1])
        target.append(follow)
        position.append(torch.arange(length))
        start.append(start[-1] + length)
    return {"samples": samples, "target": torch.cat(target), "position": torch.cat(position),
            "start": torch.tensor(start)}


def train(start, case, batches, kind):
    """Ten steps from `start` in floating-point type `kind`; returns what each step saw, and the first gradients."""
    options = case["training"]
    state = {k: v.to(kind).clone() for k, v in start.items()}
    trained = {k: v.requires_grad_() for k, v in state.items() if group_of(k) in options["trained"]}
    optimizer = torch.optim.AdamW(trained.values(), lr=options["learning_rate"], eps=options["epsilon"],
                                  betas=(options["beta1"], options["beta2"]), weight_decay=options["weight_decay"])
    steps, gradients = [], None
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = llama.losses(state, case, batches[step % len(batches)])
        loss["total"].backward()
        norm = torch.stack([p.grad.pow(2).sum() for p in trained.values()]).sum().sqrt()
        if step == 0:
            gradients = {k: p.grad.clone() for k, p in trained.items()}
        for p in trained.values():
            p.grad *= min(1.0, options["clip"] / norm.item())
        optimizer.step()
        loss = {k: v.detach() if torch.is_tensor(v) else v for k, v in loss.items()}
        steps.append(dict(loss, norm=norm.detach()))
    return steps, gradients


def distance(value, reference):
    return ((value.double() - reference).abs().max() / reference.abs().max()).item()


def make_case(name, directory):
    changes = CASES[name]
    case = {"model": dict(MODEL, **changes[0]), "expert": dict(EXPERT, **changes[1]),
            "training": dict(TRAINING, **changes[2])}
    for seed in range(1, 1000):
        generator = torch.Generator().manual_seed(seed)
        state = make_state(case, generator)
        batches = [make_batch(case, lengths, generator) for lengths in LENGTHS]
        steps, gradients = train(state, case, batches, torch.float64)
        if min(s.get("margin", 1.0) for s in steps) > MARGIN:
            break
    else:
        sys.exit(f"{name}: no seed keeps the router {MARGIN} away from ties")
    case["seed"] = seed

    tensors = our_layout(state, case)
    for i, batch in enumerate(batches):
        for key in ("position", "target", "start"):
            tensors[f"batch.{i}.{key}"] = batch[key]
        tensors[f"batch.{i}.token"] = torch.cat(batch["samples"])
    for key in ("logits", "lm", "total", "balance", "auxiliary"):
        if key in steps[0]:
            tensors["expect." + key] = steps[0][key]
    for key, value in our_layout(gradients, case).items():
        tensors["expect.gradient." + key] = value
    tensors["expect.losses"] = torch.stack([s["total"] for s in steps])
    tensors["expect.norms"] = torch.stack([s["norm"] for s in steps])
    tensor_file.write(os.path.join(directory, name + ".safetensors"), tensors,
                      {"config": json.dumps(case), "made_by": "tests/reference/make_reference.py"})

    # What fp32 costs PyTorch itself: the tolerances of tests/parity must leave room for as much.
    single, single_gradients = train(state, case, batches, torch.float32)
    apart = max(distance(single_gradients[k], gradients[k]) for k in gradients if gradients[k].abs().max() > 0)
    losses = max(abs(a["total"].item() / b["total"].item() - 1) for a, b in zip(single, steps))
    print(f"{name}: seed {seed}, loss {steps[0]['total']:.6f} to {steps[-2]['total']:.6f}, norm "
          f"{min(s['norm'] for s in steps):.2f} to {max(s['norm'] for s in steps):.2f}, margin "
          f"{min(s.get('margin', 0) for s in steps):.4f}, experts used {min(s.get('used', 0) for s in steps)}; fp32 is "
          f"off by {distance(single[0]['logits'], steps[0]['logits']):.1e} in logits, {apart:.1e} in gradients, "
          f"{losses:.1e} in ten losses")


def stories(directory, text):
    """Mean next-token loss of a Hugging Face Llama on `text` behind BOS, in fp32 and double."""
    import sentencepiece

    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    state, _ = tensor_file.read(os.path.join(directory, "model.safetensors"))
    pieces = sentencepiece.SentencePieceProcessor(model_file=os.path.join(directory, "tokenizer.model"))
    token = torch.tensor([config["bos_token_id"]] + pieces.encode(text))
    shape = dict(layers=config["num_hidden_layers"], heads=config["num_attention_heads"],
                 kv_heads=config["num_key_value_heads"], norm_eps=config["rms_norm_eps"],
                 head_width=config["hidden_size"] // config["num_attention_heads"],
                 rope_theta=config["rope_theta"], tied=config["tie_word_embeddings"])
    print(f"{len(token)} tokens: {token.tolist()}")
    for kind in (torch.float32, torch.float64):
        logits, _ = llama.run_sample({k: v.to(kind) for k, v in state.items()}, shape, DENSE, token)
        print(f"{kind}: {torch.nn.functional.cross_entropy(logits[:-1], token[1:]).item():.8f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--stories"]:
        stories(*sys.argv[2:4])
    else:
        for case_name in sys.argv[1:] or CASES:
            make_case(case_name, os.path.dirname(os.path.abspath(__file__)))
