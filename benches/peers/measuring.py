"""Shared bits for the peer benchmarks: timing, synthetic data, loaders, JSON result line.

Conventions
  * every script prints human-readable progress on stderr and ONE JSON object as the last stdout line
  * every script takes --runs / --threads / --seed, and --input to read data another tool also reads
  * wall time is time.perf_counter; the JSON carries all samples plus median/min/max
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time


def base_parser(desc, runs=3):
    p = argparse.ArgumentParser(description=desc)
    p.add_argument("--runs", type=int, default=runs)
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=1234)
    return p


def set_threads(n):
    """Call before importing numpy/torch/faiss."""
    for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[k] = str(n)


def log(*a):
    print(*a, file=sys.stderr, flush=True)


def timed(fn, runs, warmup=1):
    """-> (Samples, last result). Samples is a list of wall seconds with .cpu = process CPU seconds (all threads) per run:
    on a contended machine cpu/wall << threads says the wall figure is inflated by waiting."""
    out = None
    for _ in range(warmup):
        out = fn()
    ts = Samples()
    for _ in range(runs):
        c = time.process_time()
        t = time.perf_counter()
        out = fn()
        ts.append(time.perf_counter() - t)
        ts.cpu.append(time.process_time() - c)
    return ts, out


class Samples(list):
    def __init__(self, *a):
        super().__init__(*a)
        self.cpu = []


def stats(ts):
    d = {"median_s": statistics.median(ts), "min_s": min(ts), "max_s": max(ts), "runs": len(ts), "samples_s": [round(t, 6) for t in ts]}
    if getattr(ts, "cpu", None):
        d["cpu_median_s"] = round(statistics.median(ts.cpu), 6)
    return d


def peak_rss_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cur_rss_mb():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def meta():
    v = {"python": platform.python_version(), "load1": os.getloadavg()[0]}
    for m in ("numpy", "torch", "transformers", "faiss", "sklearn", "jax"):
        if m in sys.modules:
            v[m] = getattr(sys.modules[m], "__version__", "?")
    return v


def emit(d):
    d["meta"] = meta()
    d["peak_rss_mb"] = round(peak_rss_mb(), 1)
    print(json.dumps(d), flush=True)


# ---------------------------------------------------------------- data
def gen_embeddings(n, d, seed):
    """float32 (n,d): 3-level hierarchical Gaussian mixture (64 -> 16 -> 16), unit-ish scale, row-shuffled."""
    import numpy as np

    rng = np.random.default_rng(seed)
    c1 = rng.standard_normal((64, d), dtype=np.float32)
    c2 = 0.6 * rng.standard_normal((64 * 16, d), dtype=np.float32)
    c3 = 0.4 * rng.standard_normal((64 * 256, d), dtype=np.float32)
    x = np.empty((n, d), dtype=np.float32)
    for s in range(0, n, 50_000):
        e = min(n, s + 50_000)
        k = rng.integers(0, 64 * 256, e - s)
        x[s:e] = 0.3 * rng.standard_normal((e - s, d), dtype=np.float32)
        x[s:e] += c1[k // 256]
        x[s:e] += c2[k // 16]
        x[s:e] += c3[k]
    x *= 1.0 / np.sqrt(d * (1 + 0.36 + 0.16 + 0.09))
    return x


def gen_catalog(n, levels, k, seed, skew="uniform"):
    """uint16 (n,levels), unique rows, lexicographically sorted. skew=zipf draws codes ~ 1/(r+5)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    p = None
    if skew == "zipf":
        p = 1.0 / (np.arange(k) + 5.0)
        p /= p.sum()
    keys = np.empty(0, dtype=np.int64)
    while keys.size < n:
        m = int((n - keys.size) * 1.3) + 1024
        c = rng.integers(0, k, (m, levels)) if p is None else rng.choice(k, size=(m, levels), p=p)
        key = c[:, 0].astype(np.int64)
        for l in range(1, levels):
            key = key * k + c[:, l]
        keys = np.unique(np.concatenate([keys, key]))
    keys = np.sort(rng.permutation(keys)[:n])
    out = np.empty((n, levels), dtype=np.uint16)
    for l in range(levels - 1, -1, -1):
        out[:, l] = keys % k
        keys //= k
    return out


def load_array(path, key=None):
    """.npy / .safetensors (key or first tensor) / .json (nested list, or {key: nested list}) -> numpy array."""
    import numpy as np

    if path.endswith(".npy"):
        return np.load(path)
    if path.endswith(".safetensors"):
        from safetensors.numpy import load_file

        t = load_file(path)
        return t[key or sorted(t)[0]]
    if path.endswith(".json"):
        d = json.load(open(path))
        if isinstance(d, dict):
            d = d[key or sorted(d)[0]]
        return np.asarray(d)
    raise SystemExit(f"unknown input type: {path}")


def cached(kind, path, make):
    """generated inputs are cached as .npy so the Rust tool can be given the same file"""
    import numpy as np

    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        tmp = path + f".{os.getpid()}.npy"
        np.save(tmp, make())
        os.replace(tmp, path)
        log(f"[{kind}] wrote {path}")
    return np.load(path)


DATA = os.environ.get("PEERBENCH_DATA", os.path.join("target", "peers", "data"))


def get_embeddings(a):
    if a.input:
        import numpy as np

        return np.ascontiguousarray(load_array(a.input), dtype=np.float32)
    return cached("emb", os.path.join(DATA, f"emb_{a.n}x{a.d}_s{a.seed}.npy"), lambda: gen_embeddings(a.n, a.d, a.seed))


def get_catalog(a, levels=4, k=256):
    if a.input:
        return load_array(a.input)
    skew = getattr(a, "skew", "uniform")
    return cached(
        "catalog", os.path.join(DATA, f"catalog_{a.n}x{levels}_{skew}_s{a.seed}.npy"), lambda: gen_catalog(a.n, levels, k, a.seed, skew)
    )
