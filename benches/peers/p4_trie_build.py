"""P4: build a constraint index over n random 4-level IDs: time and memory.
impl dict: nested python dict (what prefix_allowed_tokens_fn recipes use); csr: this file's compact rank-CSR (numpy, ptr int32 + token uint8). Memory = RSS growth over the build and, for arrays, the sum of nbytes kept.
"""

import gc
import measuring as C

p = C.base_parser(__doc__, runs=1)
p.add_argument("--impl", choices=["dict", "csr"], default="csr")
p.add_argument("--n", type=int, default=1_000_000)
p.add_argument("--skew", default="uniform", choices=["uniform", "zipf"])
p.add_argument("--unsorted", type=int, default=1, help="1: shuffle the rows first, so a build that needs sorted input pays for its sort")
p.add_argument("--input")
a = p.parse_args()
a.warmup = 0
C.set_threads(a.threads)
import numpy as np

cat = C.get_catalog(a)
if a.unsorted:
    cat = cat[np.random.default_rng(a.seed).permutation(len(cat))]
n, L = cat.shape
K = 256


def build():
    if a.impl == "dict":
        root = {}
        for s in range(0, n, 100_000):
            for row in cat[s : s + 100_000].tolist():
                nd = root
                for t in row[:-1]:
                    x = nd.get(t)
                    if x is None:
                        x = nd[t] = {}
                    nd = x
                nd[row[-1]] = True
        return root
    key = np.zeros(n, np.uint32)
    for l in range(L):
        key = key * np.uint32(K) + cat[:, l]
    if a.unsorted:
        key = np.sort(key)
    out = []
    u = key
    lev = []
    for l in range(L - 1, -1, -1):  # from the leaves up: run boundaries of the parents
        lev.append(u)
        par = u >> np.uint32(8)
        b = np.flatnonzero(np.concatenate([[True], par[1:] != par[:-1]]))
        out.append((np.append(b, len(u)).astype(np.int32), (u & np.uint32(255)).astype(np.uint8)))
        u = par[b]
    return out[::-1]


gc.collect()
r0 = C.cur_rss_mb()
ts, ix = C.timed(build, a.runs, 0)
C.log(ts)
gc.collect()
r1 = C.cur_rss_mb()
res = dict(peer=f"trie-{a.impl}", n=n, skew=a.skew, unsorted=a.unsorted, build=C.stats(ts), rss_growth_mb=round(r1 - r0, 1))
res["ids_per_s"] = n / res["build"]["median_s"]
if a.impl == "csr":
    res["index_mb"] = round(sum(x.nbytes + y.nbytes for x, y in ix) / 2**20, 1)
C.emit(res)
