"""P1c: residual k-means (RQ-KMeans as in OneRec / GRID): per level fit k-means on the residual, subtract, repeat.
impl faiss: faiss.Kmeans (Lloyd, max_points_per_centroid lifted); sklearn: KMeans(lloyd, n_init=1, k-means++);
mbk: sklearn MiniBatchKMeans."""

import measuring as C

p = C.base_parser(__doc__, runs=3)
p.add_argument("--impl", choices=["faiss", "sklearn", "mbk"], default="faiss")
p.add_argument("--n", type=int, default=100_000)
p.add_argument("--d", type=int, default=768)
p.add_argument("--levels", type=int, default=3)
p.add_argument("--k", type=int, default=256)
p.add_argument("--iters", type=int, default=20)
p.add_argument("--train-n", type=int, default=100_000)
p.add_argument("--train-runs", type=int, default=1)
p.add_argument("--batch", type=int, default=2048)
p.add_argument("--normalize-residuals", type=int, default=0)
p.add_argument("--input")
p.add_argument("--save-codebooks")
p.add_argument("--save-codes")
a = p.parse_args()
C.set_threads(a.threads)
import numpy as np
import faiss

faiss.omp_set_num_threads(a.threads)
x = C.get_embeddings(a)
n, d = x.shape
xt = x[: a.train_n]
if a.impl in ("sklearn", "mbk"):
    from sklearn.cluster import KMeans, MiniBatchKMeans


def fit(r, seed):
    if a.impl == "faiss":
        km = faiss.Kmeans(d, a.k, niter=a.iters, seed=seed, max_points_per_centroid=10**9)
        km.train(r)
        return km.centroids
    if a.impl == "sklearn":
        return KMeans(a.k, n_init=1, max_iter=a.iters, tol=0, random_state=seed).fit(r).cluster_centers_
    return MiniBatchKMeans(a.k, n_init=1, batch_size=a.batch, max_iter=a.iters, random_state=seed).fit(r).cluster_centers_


def assign(r, c):
    ix = faiss.IndexFlatL2(d)
    ix.add(c)
    return ix.search(r, 1)[1][:, 0]


def norm(r):
    return r / (np.linalg.norm(r, axis=1, keepdims=True) + 1e-8) if a.normalize_residuals else r


def train():
    r = norm(xt.copy())
    cbs = []
    for l in range(a.levels):
        c = np.ascontiguousarray(fit(r, a.seed + l), dtype=np.float32)
        cbs.append(c)
        r = norm(r - c[assign(r, c)])
    return cbs


tt, cbs = C.timed(train, a.train_runs, 0)
C.log("train", tt)


def enc():
    out = np.empty((n, a.levels), dtype=np.uint16)
    for s in range(0, n, 65536):
        r = norm(x[s : s + 65536].copy())
        for l, c in enumerate(cbs):
            i = assign(r, c)
            out[s : s + 65536, l] = i
            r = norm(r - c[i])
    return out


ts, codes = C.timed(enc, a.runs, a.warmup if n <= 200_000 else 0)
C.log("encode", ts)
m = min(n, 100_000)
rec = sum(c[codes[:m, l]] for l, c in enumerate(cbs))
res = dict(
    peer=f"rkmeans-{a.impl}",
    n=n,
    d=d,
    levels=a.levels,
    k=a.k,
    iters=a.iters,
    train_n=len(xt),
    train=C.stats(tt),
    encode=C.stats(ts),
    encode_note="encode is faiss IndexFlatL2 for every impl",
    recon_mse=float(((rec - x[:m]) ** 2).sum(1).mean()),
    unique_frac=np.unique(codes, axis=0).shape[0] / n,
    level0_used=int(np.unique(codes[:, 0]).size),
)
res["train_s"], res["train_cpu_s"] = res["train"]["median_s"], res["train"]["cpu_median_s"]
res["encode_items_per_s"] = n / res["encode"]["median_s"]
res["encode_items_per_cpu_s"] = n / res["encode"]["cpu_median_s"]
if a.save_codebooks:
    np.save(a.save_codebooks, np.stack(cbs))
if a.save_codes:
    np.save(a.save_codes, codes)
C.emit(res)
