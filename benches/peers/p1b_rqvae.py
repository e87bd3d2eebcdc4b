"""P1b: torch RQ-VAE (MLP d-512-256-128-32, levels x 256): inference items/s and training samples/s (k-means init included apart).
impl own: this file's plain torch; vqpt: vector-quantize-pytorch ResidualVQ in the same MLP."""

import time
import measuring as C

p = C.base_parser(__doc__, runs=3)
p.add_argument("--mode", choices=["infer", "train"], default="infer")
p.add_argument("--impl", choices=["own", "vqpt"], default="own")
p.add_argument("--n", type=int, default=100_000)
p.add_argument("--d", type=int, default=768)
p.add_argument("--hidden", default="512,256,128")
p.add_argument("--e-dim", type=int, default=32)
p.add_argument("--levels", type=int, default=3)
p.add_argument("--k", type=int, default=256)
p.add_argument("--beta", type=float, default=0.25)
p.add_argument("--batch", type=int, default=1024)
p.add_argument("--infer-batch", type=int, default=8192)
p.add_argument("--steps", type=int, default=40, help="timed optimiser steps per run")
p.add_argument("--lr", type=float, default=1e-3)
p.add_argument("--init-n", type=int, default=0, help="rows for k-means init (0: the first batch)")
p.add_argument("--compile", type=int, default=0, help="torch.compile the training step (own impl)")
p.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="of the nets' products, by autocast")
p.add_argument("--input")
p.add_argument("--weights", help="own impl: safetensors with enc.*/dec.*/codebooks")
p.add_argument("--save-codes")
a = p.parse_args()
C.set_threads(a.threads)
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(a.threads)
torch.manual_seed(a.seed)
np.random.seed(a.seed)
x = torch.from_numpy(C.get_embeddings(a))
n, d = x.shape
hid = [int(h) for h in a.hidden.split(",")]


def mlp(dims):
    ls = []
    for i in range(len(dims) - 1):
        ls.append(nn.Linear(dims[i], dims[i + 1]))
        if i < len(dims) - 2:
            ls.append(nn.ReLU())
    return nn.Sequential(*ls)


def lloyd(z, k, iters, seed):
    g = torch.Generator().manual_seed(seed)
    c = z[torch.randperm(len(z), generator=g)[:k]].clone()
    for _ in range(iters):
        i = (c.pow(2).sum(1) - 2 * z @ c.T).argmin(1)
        s = torch.zeros_like(c).index_add_(0, i, z)
        w = torch.bincount(i, minlength=k)
        c = torch.where((w > 0)[:, None], s / w.clamp(min=1)[:, None], c)
    return c


def through(net, xb):
    if a.dtype == "f32":
        return net(xb)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net(xb).float()


class Own(nn.Module):
    def __init__(s):
        super().__init__()
        dims = [d] + hid + [a.e_dim]
        s.enc, s.dec = mlp(dims), mlp(dims[::-1])
        s.codebooks = nn.Parameter(torch.zeros(a.levels, a.k, a.e_dim))

    @torch.no_grad()
    def init(s, xb):
        r = through(s.enc, xb)
        for l in range(a.levels):
            c = lloyd(r, a.k, 10, a.seed + l)
            s.codebooks[l].copy_(c)
            r = r - c[(c.pow(2).sum(1) - 2 * r @ c.T).argmin(1)]

    @torch.no_grad()
    def codes(s, xb):
        r = through(s.enc, xb)
        out = []
        for l in range(a.levels):
            c = s.codebooks[l]
            i = torch.addmm(c.pow(2).sum(1), r, c.T, alpha=-2).argmin(1)
            out.append(i)
            r = r - c[i]
        return torch.stack(out, 1)

    def loss(s, xb):
        z = through(s.enc, xb)
        r, q, vq = z, 0, 0
        for l in range(a.levels):
            c = s.codebooks[l]
            i = torch.addmm(c.detach().pow(2).sum(1), r.detach(), c.detach().T, alpha=-2).argmin(1)
            e = F.embedding(i, c)
            vq = vq + F.mse_loss(e, r.detach()) + a.beta * F.mse_loss(r, e.detach())
            q = q + e
            r = r - e.detach()  # residual: codebook detached, gradient flows through r
        return F.mse_loss(through(s.dec, z + (q - z).detach()), xb) + vq


class VQPT(Own):
    def __init__(s):
        super().__init__()
        del s.codebooks
        from vector_quantize_pytorch import ResidualVQ

        s.rq = ResidualVQ(
            dim=a.e_dim,
            codebook_size=a.k,
            num_quantizers=a.levels,
            kmeans_init=True,
            kmeans_iters=10,
            learnable_codebook=True,
            ema_update=False,
            commitment_weight=a.beta,
        )

    def init(s, xb):
        s.train()
        s.rq(through(s.enc, xb)[None])

    @torch.no_grad()
    def codes(s, xb):
        return s.rq(through(s.enc, xb)[None])[1][0]

    def loss(s, xb):
        q, _, cl = s.rq(through(s.enc, xb)[None])
        return F.mse_loss(through(s.dec, q[0]), xb) + cl.sum()


def build():
    return Own() if a.impl == "own" else VQPT()


m = build()
if a.weights:
    from safetensors.torch import load_file

    m.load_state_dict(load_file(a.weights), strict=False)
res = dict(peer=f"rqvae-{a.impl}", mode=a.mode, n=n, d=d, dims=[d] + hid + [a.e_dim], levels=a.levels, k=a.k, dtype=a.dtype)
if not a.weights:
    t = time.perf_counter()
    with torch.no_grad():
        m.init(x[: a.init_n or a.batch])
    res["kmeans_init_s"] = time.perf_counter() - t
    C.log("init", res["kmeans_init_s"])
if a.mode == "infer":
    m.eval()

    @torch.inference_mode()
    def run():
        return torch.cat([m.codes(x[s : s + a.infer_batch]) for s in range(0, n, a.infer_batch)])

    ts, codes = C.timed(run, a.runs, a.warmup)
    res.update(infer=C.stats(ts), batch=a.infer_batch)
    res["items_per_s"] = n / res["infer"]["median_s"]
    res["items_per_cpu_s"] = n / res["infer"]["cpu_median_s"]
    res["unique_frac"] = len(torch.unique(codes, dim=0)) / n
    if a.save_codes:
        np.save(a.save_codes, codes.numpy().astype(np.uint16))
else:
    m.train()
    opt = torch.optim.AdamW(m.parameters(), lr=a.lr, weight_decay=1e-4)
    g = torch.Generator().manual_seed(a.seed)
    last = [0.0]
    lossf = torch.compile(m.loss) if a.compile else m.loss

    def run():
        for _ in range(a.steps):
            xb = x[torch.randint(0, n, (a.batch,), generator=g)]
            opt.zero_grad(set_to_none=True)
            l = lossf(xb)
            l.backward()
            opt.step()
            last[0] = l.detach()
        last[0] = l.item()

    ts, _ = C.timed(run, a.runs, a.warmup)
    res.update(train=C.stats(ts), batch=a.batch, steps_per_run=a.steps, last_loss=last[0], compiled=a.compile)
    res["samples_per_s"] = a.batch * a.steps / res["train"]["median_s"]
    res["samples_per_cpu_s"] = a.batch * a.steps / res["train"]["cpu_median_s"]
C.log(ts)
C.emit(res)
