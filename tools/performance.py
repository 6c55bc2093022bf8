#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures this program on this machine and writes docs/performance.md with its pictures.

    tools/performance.py BUILD                 measure, keep the results as JSON, write the document
    tools/performance.py BUILD --part kernels  measure a part again, with the other results that are kept
    tools/performance.py --from docs/performance.json       write the document again, without measuring

BUILD is a folder configured with -DUPIT_BENCHMARKS=ON in which the targets upit and bench_kernels are built. What is
timed runs without a profile; a second, shorter run of the same steps takes the profile. The document says how long all
of it took. --quick (few repeats and points) is for trying the script, not for figures.
Needs Python 3.9 and, for the pictures, Matplotlib.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # tools/ stays as it is
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "performance"))

# What is run for kinds of step, by name: options of `upit bench` over the flagship shapes, its defaults. A case that
# another is compared with stands in the same run, so that both meet the same machine.
FLAGSHIP = {
    "kinds": ["--cases", "dense,lora,lora_moe,dense_wide,ffn_moe"],
    "mix ffn": ["--cases", "lora,lora_moe", "--mix", "ffn"],
    "top-4": ["--cases", "lora,lora_moe", "--top-k", "4"],
    "top-4, mix ffn": ["--cases", "lora,lora_moe", "--top-k", "4", "--mix", "ffn"],
    "small": ["--cases", "dense,lora,lora_moe", "--width", "64", "--layers", "5", "--heads", "4", "--kv-heads", "4",
              "--ffn", "172", "--vocabulary", "512"],
    "bf16": ["--cases", "dense,lora_moe", "--precision", "bf16"],
    "long": ["--cases", "dense", "--sequence", "4096", "--sequences", "1"],
}

# What grows, from a base small enough to be timed often. The length of sequences grows in a step of 8,192 tokens.
BASE = {"width": 256, "layers": 4, "heads": 4, "kv-heads": 4, "ffn": 688, "vocabulary": 4096, "sequence": 256,
        "sequences": 4, "experts": 8, "top-k": 2, "rank": 8}
ALL_CASES = "dense,lora,lora_moe,ffn_moe"


def by_width(d):
    return {"width": d, "heads": max(d // 64, 1), "kv-heads": max(d // 64, 1), "ffn": d * 43 // 16}


GROWTH = {
    "tokens": (ALL_CASES, [(256 * n, {"sequences": n}) for n in (1, 2, 4, 8, 16)]),
    "sequence": (ALL_CASES, [(s, {"sequence": s, "sequences": 8192 // s}) for s in (128, 512, 2048, 8192)]),
    "width": (ALL_CASES, [(d, by_width(d)) for d in (64, 128, 256, 512, 1024)]),
    "layers": (ALL_CASES, [(n, {"layers": n}) for n in (1, 2, 4, 8, 16)]),
    "experts": ("lora_moe,ffn_moe", [(e, {"experts": e}) for e in (2, 4, 8, 16, 32)]),
    "active": ("lora_moe,ffn_moe", [(k, {"top-k": k}) for k in (1, 2, 4, 8)]),
    "rank": ("lora,lora_moe", [(r, {"rank": r}) for r in (2, 4, 8, 16, 32, 64)]),
}
QUICK = {"tokens": (0, 2), "sequence": (0, 1), "width": (0, 2), "layers": (0, 2), "experts": (0, 2), "active": (0, 1),
         "rank": (0, 2)}

# One thread a rank, so that only ranks grow: over the sequences of one step, or with as many sequences for each.
def rank_counts(most):
    return [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= most]


STEP_SEQUENCES, RANK_SEQUENCES = 8, 4


class Measurement:
    def __init__(self, build, arguments):
        self.program = build / "upit"
        self.kernels = build / "tests" / "bench" / "bench_kernels"
        for path in (self.program, self.kernels):
            if not path.exists():
                sys.exit(f"{path} is not there: configure with -DUPIT_BENCHMARKS=ON, build upit and bench_kernels")
        self.quick = arguments.quick
        self.repeats = 1 if self.quick else 5
        self.threads = arguments.threads or len(os.sched_getaffinity(0))
        self.launcher = arguments.launcher.split()
        self.folder = tempfile.TemporaryDirectory()

    def environment(self, threads, ranks):
        # One rank's threads stay on their cores; those of several would all be bound to the same ones.
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_PROC_BIND="true" if ranks == 1 else "false",
                   OMPI_MCA_hwloc_base_binding_policy="none", OMPI_MCA_rmaps_base_oversubscribe="1")
        if os.geteuid() == 0:  # containers
            env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        return env

    def call(self, command, threads, ranks=1):
        result = subprocess.run([str(c) for c in command], env=self.environment(threads, ranks), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\nended with {result.returncode}:\n{result.stdout[-2000:]}")

    def bench(self, options, repeats, ranks=1, threads=None, profile=False):
        out = pathlib.Path(self.folder.name) / "bench.json"
        command = self.launcher + ["-n", str(ranks)] if ranks > 1 else []
        command = command + [self.program, "bench", "--repeat", str(repeats), "--json", out] + options
        if profile:
            command.append("--profile")
        say("upit bench " + " ".join(options) + (f" ({ranks} ranks)" if ranks > 1 else ""))
        self.call(command, threads or self.threads, ranks)
        return json.loads(out.read_text())

    def growth(self, cases, point, repeats, **more):
        settings = dict(BASE, **point)
        options = ["--cases", cases, "--ceiling", "once"]
        for name, value in settings.items():
            options += ["--" + name, str(value)]
        return self.bench(options, repeats, **more)

    def suite(self):
        out = pathlib.Path(self.folder.name) / "kernels.json"
        chosen = "/flagship|^attention_(forward|backward|both)|^copy"
        command = [self.kernels, f"--benchmark_out={out}", "--benchmark_out_format=json",
                   f"--benchmark_min_time={0.01 if self.quick else 0.1}", f"--benchmark_filter={chosen}"]
        say("bench_kernels")
        self.call(command, self.threads)
        rows = []
        for b in json.loads(out.read_text())["benchmarks"]:
            row = {key: b[key] for key in COUNTERS if key in b}
            if b.get("label"):
                row["bound"] = b["label"]
            row["name"] = b["name"].split("/manual_time")[0].split("/iterations")[0]
            rows.append(row)
        return rows

    # Parts, each of which can be measured again alone.

    def kinds(self):
        wanted = {name: FLAGSHIP[name] for name in (("kinds", "small") if self.quick else FLAGSHIP)}
        if not machine()["bf16"]:
            wanted.pop("bf16", None)
        return wanted

    def flagship(self):
        return {name: self.bench(options, self.repeats) for name, options in self.kinds().items()}

    def profiles(self):
        return {name: self.bench(options + ["--ceiling", "once"], 1 if self.quick else 2, profile=True)
                for name, options in self.kinds().items()}

    def growths(self):
        out = {}
        for axis, (cases, points) in GROWTH.items():
            chosen = [points[i] for i in QUICK[axis]] if self.quick else points
            out[axis] = [{"x": x, "bench": self.growth(cases, point, self.repeats)} for x, point in chosen]
        return out

    def ranks(self):
        """Two forms of growth: the same step over more ranks, and a step that grows with them."""
        out = {}
        for form, most, sequences in (("same step", STEP_SEQUENCES, lambda n: STEP_SEQUENCES),
                                      ("same share", self.threads, lambda n: RANK_SEQUENCES * n)):
            out[form] = [{"x": n, "bench": self.growth(ALL_CASES, {"sequences": sequences(n), "group": n},
                                                       self.repeats, ranks=n, threads=1)}
                         for n in rank_counts(min(self.threads, most))]
        return out

    PARTS = {"flagship": flagship, "profiles": profiles, "kernels": suite, "growth": growths, "ranks": ranks}

    def measure(self, parts, target):
        """Measures `parts` and writes the results after each, into those that `target` holds of the others."""
        data = json.loads(target.read_text()) if set(parts) != set(self.PARTS) else {"parts": {}}
        for part in parts:
            begin = time.monotonic()
            data[part] = rounded(self.PARTS[part](self))
            data["parts"][part] = {"commit": commit(self.program), "minutes": rounded((time.monotonic() - begin) / 60.0),
                                   "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")}
            data.update(machine=machine(), threads=self.threads, quick=self.quick, base=BASE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(data, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
            say(f"{part}: {target}")
        return data


COUNTERS = ("bytes", "set_bytes", "flops", "best_seconds", "gbytes_per_second", "copy_gbytes_per_second", "copy_share",
            "traffic_seconds", "arithmetic_seconds", "launch_seconds", "floor_share", "gflops", "ceiling_gflops", "ceiling_share")


def say(text):
    print(text, file=sys.stderr, flush=True)


def commit(program):
    text = subprocess.run([str(program), "--version"], text=True, stdout=subprocess.PIPE, check=True).stdout
    return text.strip()


def machine():
    """Processor, cores that this process may use, caches, memory: from /proc and /sys."""
    cpu = pathlib.Path("/proc/cpuinfo").read_text()
    field = lambda key: next((line.split(":", 1)[1].strip() for line in cpu.splitlines() if line.startswith(key)), "")
    flags = set(field("flags").split())
    vector = next((name for name, flag in (("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags), "")
    caches = {}
    for entry in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (entry / "type").read_text().strip() != "Instruction":
            caches["L" + (entry / "level").read_text().strip()] = (entry / "size").read_text().strip()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"processor": field("model name"), "family": field("cpu family"), "model": field("model"),
            "cores": len(os.sched_getaffinity(0)), "vector": vector, "bf16": "avx512_bf16" in flags, "caches": caches,
            "memory_bytes": pages}


def rounded(value):
    """Six digits are more than any figure here is good for, and keep the file small."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", type=pathlib.Path, help="folder of the build")
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="results to render instead of measuring")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "docs", help="folder of the document")
    parser.add_argument("--quick", action="store_true", help="few repeats and points")
    parser.add_argument("--part", choices=list(Measurement.PARTS), help="measure this part only, keep the others")
    parser.add_argument("--threads", type=int, help="threads of one rank; default: the cores this process may use")
    parser.add_argument("--launcher", default="mpirun", help="starts ranks, with -n N; default: mpirun")
    arguments = parser.parse_args()
    if (arguments.build is None) == (arguments.source is None):
        parser.error("give either BUILD or --from FILE")
    import report  # first, so that a lack of Matplotlib shows before the measuring
    if arguments.source:
        data = json.loads(arguments.source.read_text())
    else:
        measurement = Measurement(arguments.build.resolve(), arguments)
        data = measurement.measure([arguments.part] if arguments.part else list(Measurement.PARTS),
                                   arguments.out / "performance.json")
    report.write(data, arguments.out)
    say(f"document: {arguments.out / 'performance.md'}")


if __name__ == "__main__":
    main()
