"""P1a: faiss ResidualQuantizer / ResidualCoarseQuantizer: train time, encode items/s, recon MSE, unique-ID rate."""

import measuring as C

p = C.base_parser(__doc__, runs=3)
p.add_argument("--kind", choices=["rq", "rcq"], default="rq")
p.add_argument("--n", type=int, default=100_000)
p.add_argument("--d", type=int, default=768)
p.add_argument("--levels", type=int, default=3)
p.add_argument("--nbits", type=int, default=8)
p.add_argument("--beam", type=int, default=1)
p.add_argument("--lut", type=int, default=1, help="use_beam_LUT")
p.add_argument("--train-n", type=int, default=100_000, help="train on the first train-n rows")
p.add_argument("--train-runs", type=int, default=1)
p.add_argument("--progressive", type=int, default=1, help="1: faiss default (progressive-dim k-means); 0: plain k-means per level")
p.add_argument("--input", help=".npy/.safetensors/.json float matrix")
p.add_argument("--save-codes")
p.add_argument("--save-codebooks")
a = p.parse_args()
C.set_threads(a.threads)
import numpy as np
import faiss

faiss.omp_set_num_threads(a.threads)
x = C.get_embeddings(a)
n, d = x.shape
xt = x[: a.train_n]


def make():
    if a.kind == "rq":
        q = faiss.ResidualQuantizer(d, a.levels, a.nbits)
        r = q
    else:
        q = faiss.ResidualCoarseQuantizer(d, a.levels, a.nbits)
        r = q.rq
    r.max_beam_size = a.beam
    r.use_beam_LUT = a.lut
    r.train_type = 1 if a.progressive else 0  # Train_progressive_dim / Train_default
    if a.kind == "rcq":
        r.train_type |= 2048  # Skip_codebook_tables
    r.cp.seed = a.seed
    return q, r


def train():
    q, r = make()
    q.train(xt)
    return q, r


tt, (q, r) = C.timed(train, a.train_runs, 0)
C.log("train", tt)
if a.kind == "rq":
    enc = lambda: q.compute_codes(x)
else:
    q.set_beam_factor(float(a.beam))
    enc = lambda: q.search(x, 1)[1]
ts, codes = C.timed(enc, a.runs, a.warmup if n <= 200_000 else 0)
C.log("encode", ts)
res = dict(
    peer=f"faiss-{a.kind}",
    n=n,
    d=d,
    levels=a.levels,
    nbits=a.nbits,
    beam=a.beam,
    lut=a.lut,
    progressive=a.progressive,
    train_n=len(xt),
    train=C.stats(tt),
    encode=C.stats(ts),
)
res["encode_items_per_s"] = n / res["encode"]["median_s"]
res["encode_items_per_cpu_s"] = n / res["encode"]["cpu_median_s"]
res["train_s"] = res["train"]["median_s"]
m = min(n, 100_000)
if a.kind == "rq":
    rec = q.decode(codes[:m])
    u = np.unique(codes, axis=0).shape[0]
    res["recon_mse"] = float(((rec - x[:m]) ** 2).sum(1).mean())
    res["unique_frac"] = u / n
    if a.save_codes:
        np.save(a.save_codes, codes)
    if a.save_codebooks:
        np.save(a.save_codebooks, faiss.vector_to_array(q.codebooks).reshape(a.levels, 2**a.nbits, d))
else:
    res["unique_frac"] = np.unique(codes).size / n
res["data_var"] = float(((x[:m] - x[:m].mean(0)) ** 2).sum(1).mean())
C.emit(res)
