"""P3: catalog-constrained beam search on a TIGER-size T5 (4+4 layers, d_model 128). Modes:
  hf-trie   transformers generate + prefix_allowed_tokens_fn over a nested python dict (the usual recipe)
  hf-none   transformers generate without a constraint (overhead share = 1 - none/trie)
  hf-csr    transformers generate + vectorised LogitsProcessor over the CSR trie (torch ops, no python per beam)
  torch-csr hand-written torch: encoder + KV-cached decoder on the same weights, cross-attention K/V kept once per user (not per beam),
            first step on 1 row per user, candidates gathered from the CSR trie (branch-limited), top-k
  torch-none  the same without the trie (all 256 codes of the level), to show the constraint's share in the strong baseline
Item id token = 2 + 256*level + code; decoder start 0 (= pad), eos disabled. All modes return the same lists (checked by --check)."""

import json
import time
import measuring as C

p = C.base_parser(__doc__, runs=3)
p.add_argument("--mode", default="torch-csr", help="comma list of hf-trie hf-none hf-csr torch-csr torch-none")
p.add_argument("--n", default="12000", help="catalog items (comma list)")
p.add_argument("--skew", default="uniform", choices=["uniform", "zipf"])
p.add_argument("--k", default="10", help="beams = returned items (comma list)")
p.add_argument("--batch", default="8", help="comma list")
p.add_argument("--warm-once", type=int, default=0, help="1: warm up on the first configuration only")
p.add_argument("--enc-len", type=int, default=80)
p.add_argument("--users", type=int, default=0, help="0: one batch per run")
p.add_argument("--model-dir", help="HF T5 dir (config.json + model.safetensors)")
p.add_argument("--save-model")
p.add_argument("--input", help="catalog .npy/.json/.safetensors (n,4) codes")
p.add_argument("--histories", help=".npy (users, enc_len) token ids")
p.add_argument("--save-histories")
p.add_argument("--save-output", help="json with sequences (codes) and scores")
p.add_argument("--check", help="compare with another mode's --save-output")
a = p.parse_args()
C.set_threads(a.threads)
import numpy as np
import torch
import torch.nn.functional as F
from transformers import T5Config, T5ForConditionalGeneration, LogitsProcessor, LogitsProcessorList

torch.set_num_threads(a.threads)
torch.manual_seed(a.seed)
torch.set_grad_enabled(False)
L, V0, KC = 4, 2, 256
if a.model_dir:
    m = T5ForConditionalGeneration.from_pretrained(a.model_dir)
else:
    m = T5ForConditionalGeneration(
        T5Config(
            vocab_size=V0 + L * KC,
            d_model=128,
            d_kv=64,
            d_ff=1024,
            num_layers=4,
            num_decoder_layers=4,
            num_heads=6,
            feed_forward_proj="relu",
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
m.eval()
m.generation_config.eos_token_id = None
m.config.eos_token_id = None
if a.save_model:
    m.save_pretrained(a.save_model)


# ---------------- tries
def dict_trie(cat):
    root = {}
    for row in (cat + V0 + KC * np.arange(L)).tolist():
        nd = root
        for t in row:
            nd = nd.setdefault(t, {})
    return root


class CSR:
    """level l node ids are ranks of the sorted unique length-l prefixes; children of node i are ptr[l][i]..ptr[l][i+1] at level l+1"""

    def __init__(s, cat):
        s.ptr, s.tok, s.maxb = [], [], []
        prev = np.zeros(1, np.int64)
        full = np.zeros(len(cat), np.int64)
        for l in range(L):
            full = full * KC + cat[:, l]
        full = np.unique(full)
        for l in range(L):
            u = np.unique(full // KC ** (L - 1 - l))
            par = np.searchsorted(prev, u // KC)
            ptr = np.zeros(len(prev) + 1, np.int64)
            np.cumsum(np.bincount(par, minlength=len(prev)), out=ptr[1:])
            s.ptr.append(torch.from_numpy(ptr))
            s.tok.append(torch.from_numpy((u % KC).astype(np.int64)))
            s.maxb.append(int(np.diff(ptr).max()))
            prev = u


# ---------------- HF modes
def hf_generate(ids, mode, K, root, tr):
    kw = {}
    if mode == "hf-trie":

        def fn(b, sent):
            nd = root
            for t in sent.tolist()[1:]:
                nd = nd.get(t)
                if nd is None:
                    return [0]  # dead beam
            return list(nd)

        kw["prefix_allowed_tokens_fn"] = fn
    elif mode == "hf-csr":

        class P(LogitsProcessor):
            def __call__(s, input_ids, scores):
                l = input_ids.shape[1] - 1
                nd = torch.zeros(len(input_ids), dtype=torch.long)
                ok = torch.ones(len(input_ids), dtype=torch.bool)
                for j in range(l):  # walk the prefix (<= 3 vectorised steps)
                    c = input_ids[:, j + 1] - V0 - KC * j
                    st, en = tr.ptr[j][nd], tr.ptr[j][nd + 1]
                    w = st[:, None] + torch.arange(tr.maxb[j])
                    in_ = w < en[:, None]
                    w = w.clamp(max=len(tr.tok[j]) - 1)
                    hit = (tr.tok[j][w] == c[:, None]) & in_
                    ok &= hit.any(1)
                    nd = torch.where(ok, w.gather(1, hit.int().argmax(1, keepdim=True))[:, 0], 0)
                st, en = tr.ptr[l][nd], tr.ptr[l][nd + 1]
                w = st[:, None] + torch.arange(tr.maxb[l])
                in_ = (w < en[:, None]) & ok[:, None]
                t = tr.tok[l][w.clamp(max=len(tr.tok[l]) - 1)] + V0 + KC * l
                out = torch.full_like(scores, -float("inf"))
                t = torch.where(in_, t, 0)
                return out.scatter_(1, t, torch.where(in_, scores.gather(1, t), -float("inf")))

        kw["logits_processor"] = LogitsProcessorList([P()])
    o = m.generate(
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        num_beams=K,
        num_return_sequences=K,
        max_new_tokens=L,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        return_dict_in_generate=True,
        output_scores=bool(a.save_output or a.check),
        **kw,
    )
    sc = o.sequences_scores if getattr(o, "sequences_scores", None) is not None else torch.zeros(len(o.sequences))
    return o.sequences[:, 1:].view(len(ids), K, L), sc.view(len(ids), K)


# ---------------- hand-written torch
class Fast:
    def __init__(s, m):
        c = m.config
        s.H, s.dk, s.eps, s.D = c.num_heads, c.d_kv, c.layer_norm_epsilon, c.d_model
        s.c = c
        s.E = m.shared.weight
        s.scale = c.d_model**-0.5 if c.scale_decoder_outputs else 1.0
        s.lm = (m.lm_head.weight * s.scale).t().contiguous()
        at = lambda A: (torch.cat([A.q.weight, A.k.weight, A.v.weight]).t().contiguous(), A.o.weight.t().contiguous())

        def ff(f):
            d = f.DenseReluDense
            return (f.layer_norm.weight, d.wi.weight.t().contiguous(), d.wo.weight.t().contiguous())

        s.enc = [dict(n1=b.layer[0].layer_norm.weight, sa=at(b.layer[0].SelfAttention), ff=ff(b.layer[1])) for b in m.encoder.block]
        s.dec = [
            dict(
                n1=b.layer[0].layer_norm.weight,
                sa=at(b.layer[0].SelfAttention),
                n2=b.layer[1].layer_norm.weight,
                cq=b.layer[1].EncDecAttention.q.weight.t().contiguous(),
                ckv=torch.cat([b.layer[1].EncDecAttention.k.weight, b.layer[1].EncDecAttention.v.weight]).t().contiguous(),
                co=b.layer[1].EncDecAttention.o.weight.t().contiguous(),
                ff=ff(b.layer[2]),
            )
            for b in m.decoder.block
        ]
        s.eb, s.db = m.encoder.block[0].layer[0].SelfAttention, m.decoder.block[0].layer[0].SelfAttention
        s.en, s.dn = m.encoder.final_layer_norm.weight, m.decoder.final_layer_norm.weight
        s.bias = {}

    def rms(s, x, w):
        return F.rms_norm(x, (s.D,), w, s.eps)

    def mlp(s, x, f):
        return x + F.relu(s.rms(x, f[0]) @ f[1]) @ f[2]

    def encode(s, ids):
        B, T = ids.shape
        x = F.embedding(ids, s.E)
        if T not in s.bias:
            s.bias[T] = s.eb.compute_bias(T, T)
        am = s.bias[T].masked_fill((ids == 0)[:, None, None], torch.finfo(torch.float32).min) if (ids == 0).any() else s.bias[T]
        for b in s.enc:
            q, k, v = (s.rms(x, b["n1"]) @ b["sa"][0]).view(B, T, 3, s.H, s.dk).permute(2, 0, 3, 1, 4)
            x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=am, scale=1.0).transpose(1, 2).reshape(B, T, -1) @ b["sa"][1]
            x = s.mlp(x, b["ff"])
        return s.rms(x, s.en)

    def generate(s, ids, K, trie):
        B, T = ids.shape
        e = s.encode(ids)
        pad = ids == 0
        cm = None if not pad.any() else torch.zeros(B, 1, 1, T).masked_fill(pad[:, None, None], torch.finfo(torch.float32).min)
        ck = [(e @ b["ckv"]).view(B, T, 2, s.H, s.dk).permute(2, 0, 3, 1, 4) for b in s.dec]
        if "dec" not in s.bias:
            s.bias["dec"] = s.db.compute_bias(L, L)
        W = 1
        tok = torch.zeros(B, 1, dtype=torch.long)
        cache = [None] * len(s.dec)
        seq = None
        score = torch.zeros(B, 1)
        node = torch.zeros(B, 1, dtype=torch.long)
        for l in range(L):
            x = F.embedding(tok, s.E)  # [B,W,D]
            bias = s.bias["dec"][:, :, l : l + 1, : l + 1]
            for i, b in enumerate(s.dec):
                q, k, v = (s.rms(x, b["n1"]) @ b["sa"][0]).view(B * W, 1, 3, s.H, s.dk).permute(2, 0, 3, 1, 4)
                if cache[i] is not None:
                    k = torch.cat([cache[i][0], k], 2)
                    v = torch.cat([cache[i][1], v], 2)
                cache[i] = (k, v)
                x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).reshape(B, W, -1) @ b["sa"][1]
                q = (s.rms(x, b["n2"]) @ b["cq"]).view(B, W, s.H, s.dk).transpose(1, 2)  # all beams of a user share its K/V
                x = (
                    x
                    + F.scaled_dot_product_attention(q, ck[i][0], ck[i][1], attn_mask=cm, scale=1.0).transpose(1, 2).reshape(B, W, -1)
                    @ b["co"]
                )
                x = s.mlp(x, b["ff"])
            logit = s.rms(x, s.dn) @ s.lm
            lse = logit.logsumexp(-1, keepdim=True)
            lv = logit[..., V0 + KC * l : V0 + KC * (l + 1)]
            if trie is None:
                cand = lv - lse
                M = KC
                code = None
            else:
                st = trie.ptr[l][node]
                en = trie.ptr[l][node + 1]
                M = trie.maxb[l]
                w = st[..., None] + torch.arange(M)
                bad = w >= en[..., None]
                w.clamp_(max=len(trie.tok[l]) - 1)
                code = trie.tok[l][w]
                cand = (lv.gather(2, code) - lse).masked_fill_(bad, -float("inf"))
            flat = (score[..., None] + cand).view(B, W * M)
            kk = min(K, W * M)
            score, ix = flat.topk(kk, 1)
            par = torch.div(ix, M, rounding_mode="floor")
            if trie is None:
                c = ix % M
            else:
                c = code.view(B, -1).gather(1, ix)
                node = w.view(B, -1).gather(1, ix)
            seq = c[..., None] if seq is None else torch.cat([seq.gather(1, par[..., None].expand(-1, -1, l)), c[..., None]], 2)
            if l + 1 < L:
                rows = (par + torch.arange(B)[:, None] * W).view(-1)
                cache = [(k[rows], v[rows]) for k, v in cache]
                W = kk
                tok = c + V0 + KC * l
        return seq + V0 + KC * torch.arange(L), score


fast = Fast(m)
modes = a.mode.split(",")
ints = lambda s: [int(v) for v in str(s).split(",")]


def full(c):
    return ((c[..., 0] * KC + c[..., 1]) * KC + c[..., 2]) * KC + c[..., 3]


results = []
warmed = 0
for n in ints(a.n):
    a.n = n
    cat = C.get_catalog(a).astype(np.int64)
    root = tr = None
    build = {}
    if "hf-trie" in modes:
        t0 = time.perf_counter()
        root = dict_trie(cat)
        build["hf-trie"] = time.perf_counter() - t0
    if {"hf-csr", "torch-csr"} & set(modes):
        t0 = time.perf_counter()
        tr = CSR(cat)
        build["hf-csr"] = build["torch-csr"] = time.perf_counter() - t0
    for K in ints(a.k):
        for batch in ints(a.batch):
            users = a.users or batch
            if a.histories:
                hist = torch.from_numpy(np.load(a.histories).astype(np.int64))[:users]
                users = len(hist)
            else:
                g = np.random.default_rng(a.seed + 1)
                it = cat[g.integers(0, len(cat), (users, a.enc_len // L))]
                hist = torch.from_numpy((it + V0 + KC * np.arange(L)).reshape(users, -1))
            if a.save_histories:
                np.save(a.save_histories, hist.numpy())

            def run(mode):
                step = (
                    (lambda ids: fast.generate(ids, K, tr if mode == "torch-csr" else None))
                    if mode.startswith("torch")
                    else (lambda ids: hf_generate(ids, mode, K, root, tr))
                )
                return [step(hist[s : s + batch]) for s in range(0, users, batch)]

            S = {md: C.Samples() for md in modes}
            O = {}
            with torch.inference_mode():
                for r in range(
                    (0 if warmed else a.warmup) + a.runs
                ):  # rounds: every mode once per round, so that ratios share the machine's load
                    for md in modes if r % 2 == 0 else modes[::-1]:
                        ts, O[md] = C.timed(lambda: run(md), 1, 0)
                        if warmed or r >= a.warmup:
                            S[md].append(ts[0])
                            S[md].cpu.append(ts.cpu[0])
            warmed = warmed or a.warm_once
            ref = None
            for md in modes:
                seqs = torch.cat([o[0] for o in O[md]]) - V0 - KC * torch.arange(L)
                scores = torch.cat([o[1] for o in O[md]])
                st = C.stats(S[md])
                res = dict(
                    peer=md,
                    n=len(cat),
                    skew=a.skew if not a.input else "file",
                    k=K,
                    batch=batch,
                    users=users,
                    enc_len=hist.shape[1],
                    build_s=build.get(md),
                    gen=st,
                )
                res["users_per_s"] = users / st["median_s"]
                res["users_per_cpu_s"] = users / max(st["cpu_median_s"], 1e-9)
                res["latency_ms_per_batch"] = 1e3 * st["median_s"] * batch / users
                if not md.endswith("none"):
                    res["valid_frac"] = float(np.isin(full(seqs.numpy()), full(cat)).mean())
                    if ref is None:
                        ref = seqs
                    else:
                        res["same_as_first_frac"] = float((ref == seqs).all(-1).float().mean())
                if a.save_output:
                    json.dump({"sequences": seqs.tolist(), "scores": scores.tolist()}, open(a.save_output, "w"))
                if a.check:
                    o = json.load(open(a.check))
                    Q = torch.tensor(o["sequences"])
                    res["same_sequences_frac"] = float((Q == seqs).all(-1).float().mean())
                    res["max_score_diff"] = float((torch.tensor(o["scores"]) - scores).abs().max())
                results.append(res)
                C.log(
                    md,
                    n,
                    K,
                    batch,
                    f"{res['users_per_s']:.2f} users/s",
                    f"{res['users_per_cpu_s']:.2f} per cpu-s",
                    [round(v, 4) for v in S[md]],
                )
C.emit(results[0] if len(results) == 1 else {"results": results, "threads": a.threads})
