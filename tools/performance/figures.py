# SPDX-License-Identifier: Apache-2.0
"""The quantities that docs/performance.md shows, from the results that tools/performance.py keeps."""

import math
import re

CASES = {"dense": "dense", "dense_wide": "dense, FFN K times as wide", "lora": "LoRA", "lora_moe": "LoRA-MoE",
         "ffn_moe": "FFN-MoE"}

# What this program aims at, as shares of the ceiling and as ratios to another case of the same run.
AIMS = {("kinds", "dense"): 0.80, ("kinds", "ffn_moe"): 0.78, ("kinds", "lora"): 0.84, ("kinds", "lora_moe"): 0.80,
        ("mix ffn", "lora_moe"): 0.80, ("bf16", "dense"): 0.55, ("bf16", "lora_moe"): 0.55, ("small", "dense"): 0.25, ("small", "lora"): 0.25, ("small", "lora_moe"): 0.25}
RATIOS = [("kinds", "ffn_moe", "dense_wide", 1.08), ("kinds", "lora_moe", "lora", 1.10),
          ("mix ffn", "lora_moe", "lora", 1.10), ("top-4", "lora_moe", "lora", 1.20),
          ("top-4, mix ffn", "lora_moe", "lora", 1.20)]
BF16_AIM = 1.6  # times the tokens per second of single precision, or the share above
KERNEL_AIM = 0.70
ATTENTION_AIMS = {512: 0.45, 4096: 0.50}

# Parts of a step, in the order in which they are stacked.
PARTS = ["wide products", "narrow products", "attention", "cross-entropy", "optimizer", "other kernels", "host"]
NARROW = 128  # a product with an extent up to this is narrow: low ranks, router


def case_name(run, case):
    name = CASES[case]
    if case == "lora_moe":
        name += " (whole FFNs mixed)" if "mix ffn" in run else " (each linear mixed)"
        if run.startswith("top-4"):
            name += ", top-4"
    if run in ("small", "long", "bf16"):
        name += f", {run}"
    return name


def extents(label):
    """(m, n, k) of a product's label, or None."""
    found = re.search(r"(\d+)x(\d+)x(\d+) ([nt])([nt])", label)
    return tuple(int(x) for x in found.groups()[:3]) if found and "gemm" in label else None


def part_of(row):
    shape = extents(row["label"])
    label = row["label"].split("::")[-1]
    if shape:
        return "narrow products" if min(shape) <= NARROW else "wide products"
    if row["kind"] == "region":
        return "host"
    if label.startswith("attention"):
        return "attention"
    if label.startswith("cross_entropy"):
        return "cross-entropy"
    if label in ("adamw", "squared_norm") or label.endswith("deep_copy, fill"):
        return "optimizer"
    return "other kernels"


def parts(profile):
    """Seconds of a step by part."""
    out = dict.fromkeys(PARTS, 0.0)
    for row in profile["rows"]:
        out[part_of(row)] += row["seconds"]
    out["host"] += profile["host_seconds"]
    return out


class CopyCurve:
    """Copy bandwidth by working set, linear between its points in the logarithm of the set."""

    def __init__(self, kernels):
        self.points = sorted((r["set_bytes"], r["copy_gbytes_per_second"]) for r in kernels
                             if r["name"].startswith("copy/"))

    def at(self, size):
        if size <= self.points[0][0]:
            return self.points[0][1]
        for (a, low), (b, high) in zip(self.points, self.points[1:]):
            if size <= b:
                share = (math.log(size) - math.log(a)) / (math.log(b) - math.log(a))
                return low + share * (high - low)
        return self.points[-1][1]


def floor_seconds(row, ceiling, curve):
    """What a part of a step takes at least: its FLOPs at the ceiling, or its bytes at the speed of a copy."""
    compute = row.get("flops", 0.0) / (ceiling * 1e9)
    memory = row.get("bytes", 0.0) / (curve.at(row["set_bytes"]) * 1e9) if row.get("set_bytes") else 0.0
    return max(compute, memory)


def bench_cases(bench):
    return {c["case"]: c for c in bench["cases"]}


def kernel_rows(kernels, size="flagship"):
    return [dict(r, kernel=r["name"].split("/")[0]) for r in kernels
            if "copy_share" in r and r["name"].endswith("/" + size)]


def product_rows(kernels):
    """One entry a shape: name, shape, and the share of the ceiling by library."""
    out = {}
    for r in kernels:
        if not r["name"].startswith(("product/", "grouped/")):
            continue
        _, _, what, shape, library = r["name"].split("/")
        entry = out.setdefault((what, shape), {"what": what, "shape": shape, "flops": r["flops"], "share": {},
                                               "seconds": {}})
        entry["share"][library] = r["ceiling_share"]
        entry["seconds"][library] = r["best_seconds"]
    return list(out.values())


def attention_rows(kernels):
    out = {}
    for r in kernels:
        found = re.fullmatch(r"attention_(\w+)/s(\d+)/d(\d+)", r["name"])
        if found:
            out.setdefault((int(found[2]), int(found[3])), {})[found[1]] = r
    return out
