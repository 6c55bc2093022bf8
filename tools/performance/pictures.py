# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/performance.md. Colours are those of Okabe and Ito, which colour-blind readers tell apart;
lines also differ in their markers."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import matplotlib.ticker

import figures

COLOURS = {"dense": "#0072B2", "dense_wide": "#56B4E9", "lora": "#E69F00", "lora_moe": "#D55E00", "ffn_moe": "#009E73"}
MARKERS = {"dense": "o", "dense_wide": "v", "lora": "s", "lora_moe": "D", "ffn_moe": "^"}
PART_COLOURS = ["#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00", "#CC79A7", "#999999"]
LIBRARIES = {"rule": ("#000000", "o"), "OpenBLAS": ("#E69F00", "s"), "oneDNN": ("#0072B2", "D")}

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "upit",
                     "svg.fonttype": "path", "axes.titlesize": 10, "legend.frameon": False})


def save(figure, path):
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def steps(bars, path):
    """bars: (name, seconds by part)."""
    figure, axis = plt.subplots(figsize=(7.2, 0.42 * len(bars) + 1.5))
    left = [0.0] * len(bars)
    for part, colour in zip(figures.PARTS, PART_COLOURS):
        width = [1e3 * seconds[part] for _, seconds in bars]
        axis.barh(range(len(bars)), width, left=left, color=colour, edgecolor="white", linewidth=0.5, label=part)
        left = [a + b for a, b in zip(left, width)]
    for i, total in enumerate(left):
        axis.text(total, i, f" {total:.0f} ms", va="center")
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()
    axis.set_xlim(0, max(left) * 1.12)
    axis.set_xlabel("milliseconds of a training step")
    axis.legend(ncol=4, loc="upper center", bbox_to_anchor=(0.4, -0.75 / figure.get_figheight() - 0.02))
    save(figure, path)


BOUNDS = {"memory": ("#0072B2", "o"), "arithmetic": ("#E69F00", "s"), "launch": ("#999999", "^")}


def kernels(rows, path):
    rows = sorted(rows, key=lambda r: (list(BOUNDS).index(r["bound"]), r["floor_share"]), reverse=True)
    figure, axis = plt.subplots(figsize=(7.2, 0.19 * len(rows) + 1.2))
    axis.hlines(range(len(rows)), 0, [r["floor_share"] for r in rows], color="#cccccc", linewidth=1)
    for bound, (colour, marker) in BOUNDS.items():
        here = [(r["floor_share"], i) for i, r in enumerate(rows) if r["bound"] == bound]
        if here:
            axis.plot(*zip(*here), marker, color=colour, markersize=5, linestyle="none", label=f"bound by {bound}")
    memory = [i for i, r in enumerate(rows) if r["bound"] == "memory"]
    if memory:
        axis.vlines(figures.KERNEL_AIM, min(memory) - 0.5, max(memory) + 0.5, color="#D55E00", linewidth=1,
                    linestyle="--", label=f"aim {figures.KERNEL_AIM:g}")
    axis.set_yticks(range(len(rows)), [r["kernel"] for r in rows])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlim(left=0)
    axis.set_xlabel("floor / time")
    axis.legend(ncol=4, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    save(figure, path)


def products(rows, path):
    figure, axis = plt.subplots(figsize=(7.2, 0.18 * len(rows) + 1.1))
    for i, row in enumerate(rows):
        shares = list(row["share"].values())
        axis.hlines(i, min(shares), max(shares), color="#cccccc", linewidth=1)
    for library, (colour, marker) in LIBRARIES.items():
        here = [(row["share"][library], i) for i, row in enumerate(rows) if library in row["share"]]
        if here:
            hollow = library == "rule"
            axis.plot(*zip(*here), marker, color=colour, label="chosen by the program" if hollow else library,
                      markerfacecolor="none" if hollow else colour, markersize=7 if hollow else 4, linestyle="none")
    axis.set_yticks(range(len(rows)), [f"{row['what']}  {row['shape'].replace('_', ' ')}" for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("FLOPs per second, as a share of the ceiling")
    axis.legend(ncol=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    save(figure, path)


def copies(points, marks, path):
    """marks: (name, bytes) of caches."""
    figure, axis = plt.subplots(figsize=(4.8, 3.0))
    axis.loglog(*zip(*points), "o-", color="#0072B2", markersize=4)
    for name, size in marks:
        axis.axvline(size, color="#999999", linewidth=0.8, linestyle=":")
        axis.text(size, 1.01, name, color="#555555", ha="center", va="bottom", fontsize=8,
                  transform=axis.get_xaxis_transform())
    axis.set_xlabel("working set, bytes (source and target)")
    axis.set_ylabel("copy bandwidth, GB/s")
    plain_ticks(axis.yaxis)
    save(figure, path)


def plain_ticks(axis):
    """1, 2, 5, 10, ..., written out."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def growth(lines, x_label, title, power, path):
    """lines: case -> [(x, milliseconds)]; a dotted line shows x to that power."""
    figure, axis = plt.subplots(figsize=(5.2, 3.4))
    for case, points in lines.items():
        axis.loglog(*zip(*points), marker=MARKERS[case], color=COLOURS[case], markersize=4.5, linewidth=1.4)
    xs = sorted({x for points in lines.values() for x, _ in points})
    bottom = min(y for p in lines.values() for _, y in p)
    # What x to that power would take: below the lowest line, through its end or its start.
    if power:
        at = 0 if power < 0 else -1
        y = min(points[at][1] for points in lines.values()) / 1.6
        line = [y * (x / xs[at]) ** power for x in (xs[0], xs[-1])]
        axis.loglog([xs[0], xs[-1]], line, color="#999999", linewidth=1, linestyle=":")
        axis.annotate("proportional" if power > 0 else "inverse", (xs[-1], line[-1]), xytext=(7, -2),
                      textcoords="offset points", color="#777777", va="center", fontsize=8)
        bottom = min(bottom, *line)
    ends = sorted(((points[-1][1], case) for case, points in lines.items()))
    # Names beside the last points, moved apart where these are close.
    top = max(y for y, _ in ends)
    gap, last = (max(top / bottom, 2.0)) ** 0.065, 0.0
    for y, case in ends:
        last = max(y, last * gap)
        axis.annotate(figures.CASES[case], (xs[-1], last), xytext=(7, 0), textcoords="offset points",
                      color=COLOURS[case], va="center")
    axis.set_ylim(bottom / 1.5, max(max(y for p in lines.values() for _, y in p), last) * 1.3)
    axis.set_xticks(xs, [f"{x:g}" for x in xs])
    plain_ticks(axis.yaxis)
    axis.minorticks_off()
    axis.set_xlabel(x_label)
    axis.set_ylabel("milliseconds of a step")
    axis.set_title(title, loc="left")
    save(figure, path)
