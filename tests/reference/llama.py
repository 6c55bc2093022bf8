# SPDX-License-Identifier: Apache-2.0
# Owns the independent model: a Llama with LoRA or FFN experts in plain PyTorch, one sample at a time, autograd only.
"""Written from the papers and from the conventions of Hugging Face checkpoints, not from the C++ program.

The state is a dict of tensors under Hugging Face names (model.layers.0.self_attn.q_proj.weight ...). Beside them,
layer l may hold LoRA experts, `experts.<l>.<e>.<linear>.{a,b}` with linear in gate, up, down (a: rank x in, b: out x
rank), or, in place of its mlp, FFN experts `experts.<l>.<e>.<linear>.weight`; and router rows `router.<l>` (E x width).
Nothing is fused, packed or factored: experts are loops that every token passes through, gates of zero included, samples
are separate passes, low-rank matrices of the form "ffn" are multiplied out into whole weights.
"""

import torch
import torch.nn.functional as F

LINEARS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def rms_norm(x, weight, eps):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def rotary(x, theta):
    """x (heads, positions, D), positions from 0; the halves of a head rotate against each other."""
    size, count = x.shape[-1], x.shape[-2]
    frequency = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(count, dtype=torch.float64), frequency)
    angle = torch.cat((angle, angle), dim=-1)
    half = torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1)
    return x * angle.cos().to(x.dtype) + half * angle.sin().to(x.dtype)


def attention(state, shape, layer, x):
    prefix = f"model.layers.{layer}.self_attn."
    count, size = x.shape[0], shape["head_width"]

    def heads(name, number):
        return F.linear(x, state[prefix + name + ".weight"]).view(count, number, size).transpose(0, 1)

    query = rotary(heads("q_proj", shape["heads"]), shape["rope_theta"])
    key = rotary(heads("k_proj", shape["kv_heads"]), shape["rope_theta"])
    value = heads("v_proj", shape["kv_heads"])
    group = shape["heads"] // shape["kv_heads"]
    key, value = key.repeat_interleave(group, dim=0), value.repeat_interleave(group, dim=0)
    score = query @ key.transpose(1, 2) / size**0.5
    future = torch.ones(count, count, dtype=torch.bool).triu(1)
    share = score.masked_fill(future, float("-inf")).softmax(-1)
    return F.linear((share @ value).transpose(0, 1).reshape(count, -1), state[prefix + "o_proj.weight"])


def has_ffn_experts(experts):
    return experts["count"] > 0 and experts.get("kind", "lora") == "ffn"


def gates(experts, logits):
    """Gate of every expert for every token, zero where not chosen, and the ids chosen (tokens, K)."""
    everywhere = logits.softmax(-1)
    chosen = logits.topk(experts["active"], dim=-1).indices
    if experts["order"] == "topk_softmax":
        kept = logits.gather(-1, chosen).softmax(-1)
    else:
        kept = everywhere.gather(-1, chosen) * (experts["count"] / experts["active"])
    return torch.zeros_like(logits).scatter(-1, chosen, kept), chosen, everywhere


def block(state, experts, layer, h, trace):
    """The FFN block on h (tokens, width); appends what the losses need to trace."""

    def expert(e, linear):
        name = f"experts.{layer}.{e}.{linear}."
        return state[name + "a"], state[name + "b"]

    def ffn(weight):
        return F.linear(F.silu(F.linear(h, weight["gate"])) * F.linear(h, weight["up"]), weight["down"])

    def gated_sum(weight):
        out = 0
        for e in range(experts["count"]):
            out = out + gate[:, e : e + 1] * ffn(weight(e))
        return out

    if experts["router"] == "gate":
        logits = F.linear(h, state[f"router.{layer}"])
        gate, chosen, everywhere = gates(experts, logits)
        trace.append({"logits": logits, "chosen": chosen, "probability": everywhere})
    else:
        gate = torch.ones(h.shape[0], 1, dtype=h.dtype)
        if experts["router"] == "auxiliary":
            trace.append({"logits": F.linear(h, state[f"router.{layer}"])})

    if has_ffn_experts(experts):
        return gated_sum(lambda e: {k: state[f"experts.{layer}.{e}.{k}.weight"] for k in LINEARS})

    base = {k: state[f"model.layers.{layer}.mlp.{name}.weight"] for k, name in LINEARS.items()}
    if experts["count"] == 0:
        return ffn(base)
    scale = experts["alpha"] / experts["rank"]
    if experts["mix"] == "ffn":
        pairs = [{k: expert(e, k) for k in LINEARS} for e in range(experts["count"])]
        return gated_sum(lambda e: {k: base[k] + scale * (b @ a) for k, (a, b) in pairs[e].items()})

    def branch(linear, x):
        out = F.linear(x, base[linear])
        for e in range(experts["count"]):
            a, b = expert(e, linear)
            out = out + gate[:, e : e + 1] * scale * F.linear(F.linear(x, a), b)
        return out

    return branch("down", F.silu(branch("gate", h)) * branch("up", h))


def run_sample(state, shape, experts, token):
    """Logits (tokens, vocabulary) of one sample, and one trace entry per layer with a router."""
    trace = []
    x = state["model.embed_tokens.weight"][token]
    for layer in range(shape["layers"]):
        prefix, eps = f"model.layers.{layer}.", shape["norm_eps"]
        x = x + attention(state, shape, layer, rms_norm(x, state[prefix + "input_layernorm.weight"], eps))
        h = rms_norm(x, state[prefix + "post_attention_layernorm.weight"], eps)
        x = x + block(state, experts, layer, h, trace)
    head = state["model.embed_tokens.weight" if shape["tied"] else "lm_head.weight"]
    return F.linear(rms_norm(x, state["model.norm.weight"], shape["norm_eps"]), head), trace


def losses(state, case, batch):
    """Every loss of one pass over a batch of samples; "total" is what is trained."""
    shape, experts, training = case["model"], case["expert"], case["training"]
    results = [run_sample(state, shape, experts, token) for token in batch["samples"]]
    logits = torch.cat([r[0] for r in results])
    layers = [
        {k: torch.cat([r[1][l][k] for r in results]) for k in results[0][1][l]} for l in range(len(results[0][1]))
    ]
    out = {"logits": logits}
    out["lm"] = F.cross_entropy(logits, batch["target"], ignore_index=-1)  # mean over the targets
    out["total"] = out["lm"]
    if experts["router"] == "gate":
        balance, margin, used = 0, [], []
        for layer in layers:
            count = torch.bincount(layer["chosen"].reshape(-1), minlength=experts["count"])
            share = count.to(logits.dtype) / layer["chosen"].numel()
            balance = balance + experts["count"] * (share * layer["probability"].mean(0)).sum()
            ranked = layer["logits"].sort(-1, descending=True).values
            margin.append((ranked[:, experts["active"] - 1] - ranked[:, experts["active"]]).min().item())
            used.append((count > 0).sum().item())
        out["balance"] = balance / len(layers)
        out["total"] = out["lm"] + training["balance"] * out["balance"]
        out["margin"], out["used"] = min(margin), min(used)
    if experts["router"] == "auxiliary":
        out["auxiliary"] = torch.stack([-F.logsigmoid(layer["logits"]).mean() for layer in layers]).mean()
        share = training["auxiliary_alpha"]
        out["total"] = share * out["lm"] + (1 - share) * out["auxiliary"]
    return out
