# SPDX-License-Identifier: Apache-2.0
"""The text of docs/performance.md: fixed words, every figure from the results."""

import textwrap

import figures
import pictures

AXES = {
    "tokens": ("tokens of a step", "Tokens of a step: sequences of {sequence} tokens"),
    "sequence": ("tokens of a sequence", "Length of the sequences, 8,192 tokens a step"),
    "width": ("model width d", "Width d; FFN 43/16 d, heads of 64"),
    "layers": ("layers", "Layers"),
    "experts": ("experts", "Experts, {top-k} of them active"),
    "active": ("active experts K", "Active experts K of {experts}"),
    "rank": ("LoRA rank r", "LoRA rank r"),
}
RANK_FORMS = {"same step": "The same step, 8 sequences, over more ranks",
              "same share": "A step that grows with the ranks, 4 sequences for each"}


def para(text):
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False) + "\n"


def table(headers, rows, left=1):
    """Markdown; the first `left` columns are words, the others figures."""
    line = lambda cells: "| " + " | ".join(str(c) for c in cells) + " |"
    rule = ["---"] * left + ["---:"] * (len(headers) - left)
    return "\n".join([line(headers), line(rule)] + [line(r) for r in rows]) + "\n"


def digits(value, count=3):
    """`count` significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    text = f"{value:.{count}g}"
    return f"{float(text):,.0f}" if "e" in text or abs(value) >= 10 ** (count - 1) else text


def size_text(size):
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{digits(size / scale)} {unit}"
    return f"{size:.0f} B"


def cache_bytes(text):
    return float(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]]


class Document:
    def __init__(self, data, folder):
        self.data = data
        self.folder = folder
        self.curve = figures.CopyCurve(data["kernels"])
        self.text = []

    def add(self, *blocks):
        self.text += blocks

    def picture(self, name, alt, draw, *arguments):
        (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        draw(*arguments, self.folder / "pictures" / f"performance_{name}.svg")
        self.add(f"![{alt}](pictures/performance_{name}.svg)\n")

    def head(self):
        d, m = self.data, self.data["machine"]
        caches = ", ".join(f"{name} {size}" for name, size in m["caches"].items())
        threads = f"{d['threads']} thread" + ("s" if d["threads"] > 1 else "")
        self.add("# Performance\n", "<!-- Written by tools/performance.py: change that, not this. -->\n")
        if d["quick"]:
            self.add("**A trial of the script, with few repeats: no figure below is to be relied on.**\n")
        self.add(para(f"""Measured on {m['processor']} (family {m['family']}, model
            {m['model']}{', ' + m['vector'] if m['vector'] else ''}), {m['cores']} cores for this process, {caches},
            {size_text(m['memory_bytes'])} of memory; one rank with {threads}, single precision, unless another number is
            named. Machines are shared and noisy, so that times come as the best and the median of a few repetitions,
            and shares compare what was measured side by side."""))
        names = {"flagship": "kinds of step", "profiles": "where their time goes", "kernels":
                 "kernels, attention and products", "growth": "growth", "ranks": "ranks"}
        self.add(table(["part", "commit", "date", "minutes"],
                       [[names[part], p["commit"].split(",")[0], p["date"], f"{p['minutes']:.1f}" if p["minutes"] else "-"]
                        for part, p in d["parts"].items()], left=3))

    def counting(self):
        self.add("## What is counted\n")
        self.add(para("""A step is: zero the gradients, forward, backward, clip, AdamW; random tokens, every position a
            loss token, one sample a sequence, no dropout. Its FLOPs per token, for width d, L layers, H heads, G
            key-value heads, FFN width f, vocabulary V, sequence s, K active experts and rank r
            ([notation](notation.md)), are"""))
        self.add("```\nP = L (2 d d + 2 d d G/H + m 3 d f) + V d     m = K for FFN experts, else 1\n"
                 "F = c P + 6 L s d + 18 L n r (d + f)         c = 6 all trained, 4 frozen backbone; n = 0 all trained,"
                 " 1 LoRA, K LoRA-MoE\n```\n")
        self.add(para("""Router, norms, rotary embedding, softmax, activation, cross-entropy and optimizer count nothing,
            and nothing is subtracted below the lowest trained tensor, so that the share says how much of the machine
            reaches the mathematics of the model."""))
        self.add(para("""The ceiling is the best speed of the linked BLASes at three products, 1024 x 1024 x 1024,
            2048 x 2752 x 512 and 2048 x 512 x 2752, on the same threads, sampled around each step or kernel. The bytes of
            a kernel are its inputs once and its outputs once, whatever it does in between (`kernels/traffic` has the
            table). They are compared with a copy whose source and target together have the size of the kernel's working
            set, made by the same threads in the same run. The floor of a part of a step is the larger of its FLOPs at
            the ceiling and its bytes at the speed of that copy; floor / time says how near it comes."""))

    def kinds(self):
        self.add("## Kinds of step\n")
        rows = []
        for run, bench in self.data["flagship"].items():
            shapes, done = bench["shapes"], figures.bench_cases(bench)
            for case, c in done.items():
                if run.startswith(("mix", "top")) and case == "lora":
                    continue  # there for the ratio
                aim = figures.AIMS.get((run, case))
                rows.append([figures.case_name(run, case), f"{c['flops_per_token'] / 1e6:,.1f}",
                             f"{1e3 * c['seconds_best']:,.0f}", f"{1e3 * c['seconds_median']:,.0f}",
                             f"{c['tokens_per_second_best']:,.0f}", f"{c['gflops_best']:.1f}",
                             f"{c['share_best']:.3f}", f"{c['share_median']:.3f}", f"{aim:.2f}" if aim else "-",
                             size_text(c["bytes_per_rank"])])
        flagship = self.data["flagship"]["kinds"]["shapes"]
        self.add(para(self.shapes_text(flagship)))
        self.add(table(["kind of step", "MFLOP a token", "ms best", "median", "tokens/s best", "GFLOP/s best",
                        "share best", "median", "aim", "memory"], rows))
        small = self.data["flagship"].get("small")
        if small:
            self.add(para("Small: " + self.shapes_text(small["shapes"])[len("Shapes: "):]))
        if "bf16" in self.data["flagship"]:
            self.add(para("bf16: weights and activations in bfloat16, sums, norms, router and masters in fp32; the "
                          "ceiling is that of bfloat16 products, "
                          f"{self.data['flagship']['bf16']['ceiling_gflops']['best']:.0f} GFLOP/s beside "
                          f"{self.data['flagship']['kinds']['ceiling_gflops']['best']:.0f} in fp32."))
        if "long" in self.data["flagship"]:
            self.add(para("Long: the flagship shapes with sequences of "
                          f"{self.data['flagship']['long']['shapes']['sequence']:,} tokens."))
        ratios = []
        for run, case, other, aim in figures.RATIOS:
            done = figures.bench_cases(self.data["flagship"].get(run, {"cases": []}))
            if case in done and other in done:
                best = done[case]["seconds_best"] / done[other]["seconds_best"]
                median = done[case]["seconds_median"] / done[other]["seconds_median"]
                ratios.append([f"{figures.case_name(run, case)} over {figures.CASES[other]}", f"{best:.3f}",
                               f"{median:.3f}", f"at most {aim:.2f}"])
        for case, c in figures.bench_cases(self.data["flagship"].get("bf16", {"cases": []})).items():
            other = figures.bench_cases(self.data["flagship"]["kinds"])[case]
            ratios.append([f"{figures.case_name('kinds', case)} in fp32 over bf16"] +
                          [f"{other[key] / c[key]:.3f}" for key in ("seconds_best", "seconds_median")] +
                          [f"at least {figures.BF16_AIM}, or the share"])
        self.add("Time over that of another step, taken in turns in one run (bf16: in runs of their own):\n",
                 table(["steps", "best", "median", "aim"], ratios))

    def shapes_text(self, s):
        return (f"Shapes: d {s['width']}, L {s['layers']}, H {s['heads']}, G {s['kv_heads']}, f {s['ffn']:,}, "
                f"V {s['vocabulary']:,}; {s['sequences']} sequences of {s['sequence']:,} tokens a step; "
                f"E {s['experts']}, K {s['top_k']}, r {s['rank']}.")

    def profiled(self):
        """(name, case's results, ceiling in GFLOP/s of that run) of every profiled step, the partner cases once."""
        for run, bench in self.data["profiles"].items():
            for case, c in figures.bench_cases(bench).items():
                if run.startswith(("mix", "top")) and case == "lora":
                    continue
                yield figures.case_name(run, case), run, c, bench["ceiling_gflops"]["best"]

    def where(self):
        self.add("## Where the time of a step goes\n")
        self.add(para(f"""From the regions and kernels that Kokkos reports (`upit bench --profile`), the mean of
            steps of their own, which listening to every kernel makes a little longer than those above. Wide products are those of the model's matrices; narrow ones have an extent of at most
            {figures.NARROW}: low ranks and the router. The optimizer includes the norm that clips and the zeroing of
            gradients. Host is what lies between kernels."""))
        bars = [(name, figures.parts(c["profile"])) for name, run, c, _ in self.profiled() if run != "small"]
        self.picture("steps", "Milliseconds of a training step by part, for each kind of step", pictures.steps, bars)
        rows = []
        for name, _, c, _ in self.profiled():
            seconds = figures.parts(c["profile"])
            rows.append([name] + [f"{100.0 * seconds[p] / c['profile']['seconds']:.1f}" for p in figures.PARTS])
        self.add("Per cent of the step:\n", table(["kind of step"] + figures.PARTS, rows))
        self.regions()
        for name, run, c, ceiling in self.profiled():
            if run in ("kinds", "mix ffn", "small"):
                self.breakdown(name, c, ceiling)

    def regions(self):
        """Milliseconds by region, the first levels; kinds of step side by side."""
        columns, labels, values = [], [], {}
        for name, run, c, _ in self.profiled():
            if run != "kinds":
                continue
            columns.append(name)
            path = []
            for node in c["profile"]["tree"]:
                path = path[:node["depth"]] + [node["label"]]
                if node["kind"] == "region" and node["depth"] <= 4:
                    key = tuple(path[1:])
                    if key not in labels:
                        # After its brothers that are there already and what lies within these.
                        place = max((i + 1 for i, l in enumerate(labels) if l[:len(key) - 1] == key[:-1]), default=0)
                        labels.insert(place, key)
                    values[key, name] = 1e3 * node["seconds"]
        rows = []
        for key in labels:
            word = key[-1].replace("upit::", "") if key else "step"
            row = ["&nbsp;" * 4 * len(key) + f"`{word}`" if key else word]
            row += [f"{values[key, c]:,.2f}" if (key, c) in values else "-" for c in columns]
            if key and max(values.get((key, c), 0.0) for c in columns) < 0.05:
                continue
            rows.append(row)
        self.add("Milliseconds by region, what lies within included; regions below 0.05 ms are left out:\n",
                 table(["region"] + columns, rows))

    def breakdown(self, name, c, ceiling):
        profile = c["profile"]
        total = profile["seconds"]
        rows, rest, rest_floor, floors = [], profile["host_seconds"], 0.0, 0.0
        for r in profile["rows"]:
            floor = figures.floor_seconds(r, ceiling, self.curve)
            floors += floor
            if r["share"] < 0.01:
                rest += r["seconds"]
                rest_floor += floor
                continue
            rate = lambda key: f"{r[key] / r['seconds'] / 1e9:.1f}" if r.get(key) else "-"
            rows.append([f"`{r['label'].replace('upit::', '')}`", f"{r['calls']:g}", f"{1e3 * r['seconds']:,.2f}",
                         f"{100 * r['share']:.1f}", f"{r.get('flops', 0) / 1e9:.1f}" if r.get("flops") else "-",
                         f"{r.get('bytes', 0) / 1e6:,.1f}" if r.get("bytes") else "-", rate("flops"), rate("bytes"),
                         f"{1e3 * floor:,.2f}", f"{floor / r['seconds']:.2f}" if floor else "-"])
        rows.append(["everything below 1 %, and the host", "-", f"{1e3 * rest:,.2f}", f"{100 * rest / total:.1f}", "-",
                     "-", "-", "-", f"{1e3 * rest_floor:,.2f}", f"{rest_floor / rest:.2f}" if rest else "-"])
        rows.append(["**step**", "-", f"{1e3 * total:,.2f}", "100.0", "-", "-", "-", "-", f"{1e3 * floors:,.2f}",
                     f"{floors / total:.2f}"])
        self.add(f"### {name[0].upper()}{name[1:]}\n",
                 table(["part (products: m x n x k, n or t: not or transposed)", "calls", "ms", "%", "GFLOP", "MB",
                        "GFLOP/s", "GB/s", "floor, ms", "floor / time"], rows))

    def kernels(self):
        self.add("## Kernels\n")
        self.add(para("""Each kernel of a step by itself at the flagship shapes, best of many calls; its working set may
            lie in a cache, and so may the copy's. A kernel has three floors: its bytes at the bandwidth of a copy with
            the same working set; its exponentials, random counters and products at rates measured with all operands in
            the first-level cache; its launches without a body. The highest is its floor, and says what it is bound by.
            Those bound by memory aim at 0.7 of the copy. A share above 1 is that of a kernel that mostly reads, or
            writes where it has read: a copy also fetches the lines that it overwrites, which nobody counts; or of one
            whose exponentials overlap with more than they do alone."""))
        rows = figures.kernel_rows(self.data["kernels"])
        self.picture("kernels", "Speed of each kernel as a share of its floor", pictures.kernels, rows)
        self.add(table(["kernel", "bound by", "MB moved", "working set", "microseconds", "floor", "floor / time", "GB/s",
                        "copy GB/s", "share of copy"],
                       [[f"`{r['kernel']}`", r["bound"], digits(r["bytes"] / 1e6), size_text(r["set_bytes"]),
                         digits(1e6 * r["best_seconds"]), digits(1e6 * r["floor_share"] * r["best_seconds"]),
                         f"{r['floor_share']:.2f}", digits(r["gbytes_per_second"]),
                         digits(r["copy_gbytes_per_second"]), f"{r['copy_share']:.2f}"] for r in rows], left=2))
        marks = [(name, cache_bytes(size)) for name, size in self.data["machine"]["caches"].items()]
        self.add(para("The copy's bandwidth, by working set; dotted lines are the sizes of the caches of one core."))
        self.picture("copy", "Bandwidth of a copy by its working set", pictures.copies, self.curve.points, marks)

    def attention(self):
        rows = figures.attention_rows(self.data["kernels"])
        if not rows:
            return
        self.add("## Attention\n")
        self.add(para("""One layer of 4,096 tokens and width 512. Counted are 2 s d FLOPs a token forward and 4 s d
            backward: half the scores, since the mask is causal, and no recomputation; backward really forms five
            products where four are counted."""))
        out = []
        for (s, d), r in sorted(rows.items()):
            out.append([f"{s:,}", d] + [f"{1e3 * r[p]['best_seconds']:.2f}" for p in ("forward", "backward", "both")] +
                       [f"{r[p]['ceiling_share']:.3f}" for p in ("forward", "backward", "both")] +
                       [f"{figures.ATTENTION_AIMS[s]:.2f}" if s in figures.ATTENTION_AIMS else "-"])
        self.add(table(["sequence", "head width", "ms forward", "backward", "both", "share forward", "backward", "both",
                        "aim"], out, left=0))

    def products(self):
        rows = figures.product_rows(self.data["kernels"])
        if not rows:
            return
        self.add("## Products\n")
        self.add(para("""Every product of a step at the flagship shapes, m x n x k, by each linked BLAS and as the
            program chooses; n and t say whether A and B are transposed. Grouped products go over the experts' rows,
            evenly spread. Narrow products cannot reach the ceiling: their bytes bound them."""))
        self.picture("products", "Speed of each product of a step by library, as a share of the ceiling",
                     pictures.products, rows)
        libraries = [l for l in pictures.LIBRARIES if any(l in r["share"] for r in rows)]
        self.add(table(["product", "m x n x k", "GFLOP"] + [f"share, {'chosen' if l == 'rule' else l}" for l in libraries],
                       [[r["what"].replace("_", " "), r["shape"].replace("_", " "), digits(r["flops"] / 1e9)] +
                        [f"{r['share'][l]:.3f}" if l in r["share"] else "-" for l in libraries] for r in rows], left=2))

    def growth(self):
        self.add("## How the cost grows\n")
        base = self.data["base"]
        self.add(para(f"""From shapes that are small enough to be timed often, d {base['width']}, L {base['layers']},
            f {base['ffn']}, V {base['vocabulary']:,}, {base['sequences']} sequences of {base['sequence']} tokens, E
            {base['experts']}, K {base['top-k']}, r {base['rank']}, one is changed at a time (sequences grow in a step of 8,192 tokens). Dotted: time in proportion to
            what grows. Small steps lie above it, where launches and the head's share count. Best times."""))
        for axis, points in self.data["growth"].items():
            label, title = AXES[axis]
            title = title.format(**base)
            lines = {}
            for p in points:
                for case, c in figures.bench_cases(p["bench"]).items():
                    lines.setdefault(case, []).append((p["x"], 1e3 * c["seconds_best"]))
            self.add(f"### {title}\n")
            self.picture(f"growth_{axis}", f"Milliseconds of a step by {label}", pictures.growth, lines, label, title, 1)
            rows = []
            for p in points:
                done = figures.bench_cases(p["bench"])
                rows.append([f"{p['x']:,}"] + [digits(1e3 * done[c]["seconds_best"]) for c in lines] +
                            [f"{done[c]['gflops_best']:.1f}" for c in lines])
            self.add(table([label] + [f"ms, {figures.CASES[c]}" for c in lines] +
                           [f"GFLOP/s, {figures.CASES[c]}" for c in lines], rows, left=0))

    def ranks(self):
        self.add("### Ranks\n")
        self.add(para("""One thread a rank. Ranks share the tokens of a step and pay for the sum of the gradients; FFN
            experts are spread over all of them, and tokens travel to their experts. Efficiency is the time of one rank, divided by the ranks where the
            step stays the same, over the time."""))
        for form, points in self.data["ranks"].items():
            title, lines, rows = RANK_FORMS[form], {}, []
            first = figures.bench_cases(points[0]["bench"])
            for p in points:
                done = figures.bench_cases(p["bench"])
                for case, c in done.items():
                    lines.setdefault(case, []).append((p["x"], 1e3 * c["seconds_best"]))
                share = p["x"] if form == "same step" else 1
                rows.append([p["x"]] + [digits(1e3 * c["seconds_best"]) for c in done.values()] +
                            [f"{first[case]['seconds_best'] / share / c['seconds_best']:.2f}" for case, c in done.items()])
            self.add(f"**{title}**\n")
            if len(points) > 1:
                self.picture(f"ranks_{form.split()[1]}", f"Milliseconds of a step by ranks: {title.lower()}",
                             pictures.growth, lines, "ranks", title, -1 if form == "same step" else 0)
            names = [figures.CASES[c] for c in first]
            self.add(table(["ranks"] + [f"ms, {n}" for n in names] + [f"efficiency, {n}" for n in names], rows, left=0))

    def repeat(self):
        self.add("## How to repeat this\n")
        self.add("```sh\ncmake --preset openmp -DUPIT_BENCHMARKS=ON && cmake --build --preset openmp --target upit "
                 "bench_kernels\n"
                 "tools/performance.py build/openmp                        # measures: the minutes stand above\n"
                 "tools/performance.py build/openmp --part kernels         # one part again\n"
                 "tools/performance.py --from docs/performance.json        # this page again from the results kept\n"
                 "build/openmp/upit bench --profile --cases dense          # one kind of step\n"
                 "build/openmp/tests/bench/bench_kernels --benchmark_filter=swiglu\n```\n")
        self.add(para("""Nothing else should run meanwhile. `bench_kernels` also has larger shapes than those shown here
            (`--benchmark_filter=large`)."""))


def write(data, folder):
    document = Document(data, folder)
    for part in (document.head, document.counting, document.kinds, document.where, document.kernels, document.attention,
                 document.products, document.growth, document.ranks, document.repeat):
        part()
    (folder / "performance.md").write_text("\n".join(document.text))
