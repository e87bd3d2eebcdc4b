"""Parity fixtures (CPU, float32, eager attention, 1 thread). Writes OUT/* and OUT/README.md, which says what each file holds.
Token id of code c at level l = base + l*K + c (K codes per level)."""

import argparse
import json
import math
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
p = argparse.ArgumentParser()
p.add_argument("--out", default="target/fixtures")
p.add_argument("--only", default="")
a = p.parse_args()
OUT = a.out
os.makedirs(OUT, exist_ok=True)
import numpy as np
import torch
import transformers
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.set_grad_enabled(False)
readme = []


def d(*q):
    x = os.path.join(OUT, *q)
    os.makedirs(os.path.dirname(x), exist_ok=True)
    return x


def sv(path, t, note):
    save_file({k: v.contiguous() for k, v in t.items()}, path)
    readme.append((os.path.relpath(path, OUT), "; ".join(f"`{k}` {str(v.dtype)[6:]} {list(v.shape)}" for k, v in t.items()), note))


def js(path, o, note):
    json.dump(o, open(path, "w"))
    readme.append((os.path.relpath(path, OUT), ", ".join(o) if isinstance(o, dict) else f"list[{len(o)}]", note))


def wanted(n):
    return not a.only or n in a.only.split(",")


L, K = 4, 16  # 4 levels x 16 codes: small vocabulary, same structure as 4 x 256
rng = np.random.default_rng(7)
ALL = np.unique(rng.integers(0, K, (400, L)), axis=0)
CAT = ALL[rng.permutation(len(ALL))[:300]]
CAT = CAT[np.lexsort(CAT.T[::-1])]


def trie_fn(base, start):
    root = {}
    for row in (CAT + base + K * np.arange(L)).tolist():
        nd = root
        for t in row:
            nd = nd.setdefault(t, {})

    def fn(b, sent):
        nd = root
        for t in sent.tolist()[start:]:
            nd = nd.get(t)
            if nd is None:
                return [0]
        return list(nd) or [0]

    return fn


def exhaustive(seq_logprob, top):  # true top items by summed log-prob over the whole catalogue (what exact search would return)
    v, i = seq_logprob.topk(top, 1)
    return CAT[i.numpy()].tolist(), v.tolist()


def beams(m, base, gen_kw, start, nb):
    o = m.generate(
        **gen_kw,
        num_beams=nb,
        num_return_sequences=nb,
        max_new_tokens=L,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        prefix_allowed_tokens_fn=trie_fn(base, start),
        return_dict_in_generate=True,
        output_scores=True,
    )
    B = o.sequences.shape[0] // nb
    s = (o.sequences[:, -L:] - base - K * torch.arange(L)).view(B, nb, L)
    cs = {tuple(r) for r in CAT.tolist()}
    assert all(tuple(r) in cs for r in s.view(-1, L).tolist()), "a returned item is not in the catalogue"
    return s.tolist(), o.sequences_scores.view(B, nb).tolist()


# ------------------------------------------------------------ (i) T5
from transformers import T5Config, T5ForConditionalGeneration


def t5(name, ff, tie, seed):
    torch.manual_seed(seed)
    base = 2
    V = base + L * K
    kw = {} if tie else {"tie_word_embeddings": False}
    cfg = T5Config(
        vocab_size=V,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj=ff,
        dropout_rate=0.1,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        **kw,
    )
    m = T5ForConditionalGeneration._from_config(cfg, attn_implementation="eager").eval()
    with torch.no_grad():  # HF's init leaves tied T5 nearly flat; spread weights so that rankings are not decided in the last bits
        for n_, q in m.named_parameters():
            if "layer_norm" in n_:
                q.copy_(1 + 0.1 * torch.randn_like(q))
            elif "relative_attention_bias" in n_:
                q.copy_(0.5 * torch.randn_like(q))
            elif "shared" in n_:
                q.copy_(torch.randn_like(q))
            else:
                q.copy_(torch.randn_like(q) * (0.35 if q.shape[-1] <= 32 else 0.2))
    m.save_pretrained(d(name, "x").rsplit("/", 1)[0])
    m.generation_config.eos_token_id = None
    m.config.eos_token_id = None
    B, T = 3, 40
    g = np.random.default_rng(seed)
    it = CAT[g.integers(0, len(CAT), (B, T // L))]
    ids = torch.from_numpy((it + base + K * np.arange(L)).reshape(B, T))
    ln = torch.tensor([T, T - 12, 8])
    mask = (torch.arange(T)[None] < ln[:, None]).long()
    ids = ids * mask
    lab = torch.from_numpy(CAT[g.integers(0, len(CAT), B)] + base + K * np.arange(L))
    dec = torch.cat([torch.zeros(B, 1, dtype=torch.long), lab[:, :-1]], 1)
    out = m(input_ids=ids, attention_mask=mask, decoder_input_ids=dec)
    loss = F.cross_entropy(out.logits.reshape(-1, V), lab.reshape(-1))
    s, sc = beams(m, base, dict(input_ids=ids, attention_mask=mask), 1, 10)
    C_ = torch.from_numpy(CAT + base + K * np.arange(L))
    dall = torch.cat([torch.zeros(len(CAT), 1, dtype=torch.long), C_[:, :-1]], 1)
    lp = []
    for b in range(B):
        o = m(
            input_ids=ids[b : b + 1].expand(len(CAT), -1), attention_mask=mask[b : b + 1].expand(len(CAT), -1), decoder_input_ids=dall
        ).logits.log_softmax(-1)
        lp.append(o.gather(2, C_[..., None])[..., 0].sum(1))
    ex, exs = exhaustive(torch.stack(lp), 10)
    enc = m.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    m.train()
    m.zero_grad()
    for mod in m.modules():
        if isinstance(mod, torch.nn.Dropout):
            mod.p = 0.0
        if hasattr(mod, "dropout") and isinstance(mod.dropout, float):
            mod.dropout = 0.0
    with torch.enable_grad():
        m.config.dropout_rate = 0.0
        l2 = m(input_ids=ids, attention_mask=mask, labels=lab).loss
        l2.backward()
    assert abs(l2.item() - loss.item()) < 1e-5, (l2, loss)
    gr = {n_: q.grad for n_, q in m.named_parameters() if q.grad is not None}
    sv(
        d(name, "io.safetensors"),
        dict(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=dec,
            labels=lab,
            logits=out.logits,
            encoder_last_hidden_state=enc,
            loss=loss.reshape(1),
        ),
        f"HF forward of {name}/model.safetensors (eager, eval). feed_forward {ff}, tie_word_embeddings {tie} (tied: decoder output is scaled by d_model**-0.5; tie False: not scaled, see config)",
    )
    sv(d(name, "grads.safetensors"), {k: v for k, v in gr.items()}, "gradients of the mean cross-entropy (dropout 0) for every parameter")
    js(
        d(name, "beams.json"),
        dict(
            catalog=CAT.tolist(),
            base=base,
            levels=L,
            codes_per_level=K,
            num_beams=10,
            length_penalty=0.0,
            max_new_tokens=L,
            eos_token_id=None,
            sequences=s,
            scores=sc,
            exhaustive_top10=ex,
            exhaustive_scores=exs,
        ),
        "constrained beam results from HF generate(prefix_allowed_tokens_fn); sequences are codes (user, rank, level); score = sum of full-vocabulary log-probs; exhaustive_* = exact ranking of the whole catalogue",
    )
    return scale_note(cfg)


def scale_note(c):
    return getattr(c, "scale_decoder_outputs", None)


if wanted("t5"):
    t5("t5_relu_tied", "relu", True, 11)
    t5("t5_gated_gelu", "gated-gelu", True, 12)
    t5("t5_gated_gelu_noscale", "gated-gelu", False, 13)

# ------------------------------------------------------------ (ii) decoder-only
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM


def lm(name, cls, cfg, seed):
    torch.manual_seed(seed)
    base = 4
    V = cfg.vocab_size
    m = cls._from_config(cfg, attn_implementation="eager").eval()
    with torch.no_grad():
        for n_, q in m.named_parameters():
            if "norm" in n_:
                q.copy_(1 + 0.1 * torch.randn_like(q))
            elif "embed" in n_ or "lm_head" in n_:
                q.copy_(torch.randn_like(q) * 0.7)
            else:
                q.copy_(torch.randn_like(q) * 0.25)
    m.save_pretrained(d(name, "x").rsplit("/", 1)[0])
    m.generation_config.eos_token_id = None
    m.config.eos_token_id = None
    m.generation_config.pad_token_id = 0
    B, T = 3, 24
    g = np.random.default_rng(seed)
    it = CAT[g.integers(0, len(CAT), (B, T // L))]
    ids = torch.from_numpy((it + base + K * np.arange(L)).reshape(B, T))
    pad = torch.tensor([0, 8, 12])
    mask = (torch.arange(T)[None] >= pad[:, None]).long()
    ids = ids * mask  # LEFT padding, pad id 0
    pos = (mask.cumsum(1) - 1).clamp(min=0)
    lg = m(input_ids=ids, attention_mask=mask, position_ids=pos).logits
    s, sc = beams(m, base, dict(input_ids=ids, attention_mask=mask), T, 10)
    lp = []
    for b in range(B):
        pr = ids[b, pad[b] :]
        full = torch.cat([pr[None].expand(len(CAT), -1), torch.from_numpy(CAT + base + K * np.arange(L))], 1)
        o = m(input_ids=full).logits.log_softmax(-1)[:, len(pr) - 1 : -1]
        lp.append(o.gather(2, full[:, len(pr) :, None])[..., 0].sum(1))
    ex, exs = exhaustive(torch.stack(lp), 10)
    sv(
        d(name, "io.safetensors"),
        dict(input_ids=ids, attention_mask=mask, position_ids=pos, logits=lg),
        "HF forward, left-padded prompts; logits at padded positions are meaningless, compare where attention_mask = 1",
    )
    js(
        d(name, "beams.json"),
        dict(
            catalog=CAT.tolist(),
            base=base,
            levels=L,
            codes_per_level=K,
            num_beams=10,
            length_penalty=0.0,
            max_new_tokens=L,
            sequences=s,
            scores=sc,
            exhaustive_top10=ex,
            exhaustive_scores=exs,
        ),
        "as for T5, the prompt is the context",
    )


if wanted("lm"):
    com = dict(
        vocab_size=4 + L * K,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    lm("qwen3_tiny", Qwen3ForCausalLM, Qwen3Config(**com, head_dim=16, tie_word_embeddings=True), 21)
    lm("llama_tiny", LlamaForCausalLM, LlamaConfig(**com, tie_word_embeddings=False), 22)
    lm("qwen2_tiny", Qwen2ForCausalLM, Qwen2Config(**com, tie_word_embeddings=False), 23)
    # Llama 3.1's slower positions, with constants that change half of the frequencies of so small a head.
    slow = dict(
        rope_type="llama3",
        rope_theta=10000.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    lm("llama_slow_tiny", LlamaForCausalLM, LlamaConfig(**com, rope_parameters=slow, tie_word_embeddings=True), 24)

# ------------------------------------------------------------ (iii) RQ-VAE + residual k-means
if wanted("rq"):
    torch.manual_seed(31)
    D, hid, E, LV, KK, beta = 48, [32, 24], 8, 3, 32, 0.25
    g = torch.Generator().manual_seed(31)
    x = torch.randn(6, D, generator=g)[torch.randint(0, 6, (200,), generator=g)] + 0.4 * torch.randn(200, D, generator=g)
    dims = [D] + hid + [E]
    W = {}
    for nm, dd in (("enc", dims), ("dec", dims[::-1])):
        for i in range(len(dd) - 1):
            W[f"{nm}.{i}.weight"] = torch.randn(dd[i + 1], dd[i], generator=g) * (1.4 / dd[i] ** 0.5)
            W[f"{nm}.{i}.bias"] = 0.05 * torch.randn(dd[i + 1], generator=g)

    def mlp(nm, h, n):
        for i in range(n):
            h = F.linear(h, W[f"{nm}.{i}.weight"], W[f"{nm}.{i}.bias"])
            if i < n - 1:
                h = F.relu(h)
        return h

    z0 = mlp("enc", x, 3)
    r = z0
    cbs = []
    for l in range(LV):
        cb = r[torch.randperm(200, generator=g)[:KK]] + 0.02 * torch.randn(KK, E, generator=g)
        cbs.append(cb)
        r = r - cb[torch.cdist(r, cb).argmin(1)]
    W["codebooks"] = torch.stack(cbs)
    P = {k: v.clone().requires_grad_(True) for k, v in W.items()}
    W = P
    with torch.enable_grad():
        z = mlp("enc", x, 3)
        r = z
        q = 0
        codes = []
        per = []
        res_ = []
        for l in range(LV):
            cb = P["codebooks"][l]
            i = torch.cdist(r.detach().double(), cb.detach().double()).argmin(1)
            e = cb[i]
            per.append(F.mse_loss(e, r.detach()) + beta * F.mse_loss(r, e.detach()))
            q = q + e
            res_.append(r)
            r = r - e.detach()
            codes.append(i)
        rec = mlp("dec", z + (q - z).detach(), 3)
        lrec = F.mse_loss(rec, x)
        lq = torch.stack(per).sum()
        tot = lrec + lq
        tot.backward()
    dd2 = torch.stack(
        [torch.cdist(res_[l].detach().double(), P["codebooks"][l].detach().double()).topk(2, 1, largest=False)[0] for l in range(LV)]
    )
    gap = (dd2[..., 1] - dd2[..., 0]).min().item()
    sv(
        d("rqvae", "weights.safetensors"),
        {k: v.detach() for k, v in P.items()},
        "MLP 48-32-24-8 encoder (ReLU between layers), mirrored decoder; codebooks (levels, codes, dim)",
    )
    sv(
        d("rqvae", "io.safetensors"),
        dict(
            x=x,
            latent=z.detach(),
            codes=torch.stack(codes, 1),
            quantised=q.detach(),
            recon=rec.detach(),
            loss_recon=lrec.detach().reshape(1),
            loss_quant_per_level=torch.stack(per).detach(),
            loss_quant_sum=lq.detach().reshape(1),
            loss_total=tot.detach().reshape(1),
        ),
        f"loss_recon = mean over all elements of (recon-x)^2; per level: mse(sg[r], e) + 0.25 mse(r, sg[e]) (means over all elements); total = recon + sum over levels (LC-Rec uses the MEAN over levels: divide the sum by 3); straight-through z + sg[q - z]; residual passed on is r - sg[e]; smallest best-vs-second distance gap {gap:.2e}",
    )
    sv(d("rqvae", "grads.safetensors"), {k: v.grad for k, v in P.items()}, "gradients of loss_total")
    import faiss

    faiss.omp_set_num_threads(1)
    xr = np.random.default_rng(41).standard_normal((2000, 16)).astype(np.float32)
    xr[:, :4] *= 3
    r = xr.copy()
    cb = []
    for l in range(3):
        km = faiss.Kmeans(16, 32, niter=15, seed=5 + l, max_points_per_centroid=10**9)
        km.train(r)
        c = km.centroids.copy()
        cb.append(c)
        ix = faiss.IndexFlatL2(16)
        ix.add(c)
        r = r - c[ix.search(r, 1)[1][:, 0]]
    r = xr.copy()
    cd = []
    err = []
    gaps = []
    for c in cb:
        ix = faiss.IndexFlatL2(16)
        ix.add(c)
        i = ix.search(r, 1)[1][:, 0]
        dd = np.sort(((r[:, None].astype(np.float64) - c[None]) ** 2).sum(-1), 1)
        gaps.append((dd[:, 1] - dd[:, 0]).min())
        cd.append(i)
        r = r - c[i]
        err.append(float((r**2).sum(1).mean()))
    bq = {}
    for beam in (1, 5):
        q_ = faiss.ResidualQuantizer(16, 3, 5)
        q_.max_beam_size = beam
        q_.train_type = 0
        q_.cp.seed = 9
        q_.train(xr)
        faiss.copy_array_to_vector(np.concatenate(cb).ravel(), q_.codebooks)
        q_.compute_codebook_tables()
        pc = q_.compute_codes(xr)
        bits = np.unpackbits(pc, axis=1, bitorder="little")
        cc = np.stack([(bits[:, 5 * l : 5 * l + 5] * (1 << np.arange(5))).sum(1) for l in range(3)], 1)
        bq[f"codes_beam{beam}"] = torch.from_numpy(cc.astype(np.int64))
        bq[f"mse_beam{beam}"] = torch.tensor([float(((sum(cb[l][cc[:, l]] for l in range(3)) - xr) ** 2).sum(1).mean())])
    sv(
        d("rkmeans", "residual_kmeans.safetensors"),
        dict(
            x=torch.from_numpy(xr),
            codebooks=torch.from_numpy(np.stack(cb)),
            codes=torch.from_numpy(np.stack(cd, 1)),
            residual_mse_per_level=torch.tensor(err),
            **bq,
        ),
        f"codebooks from faiss.Kmeans per level; codes = greedy nearest (IndexFlatL2) on residuals; codes_beam1/5 = faiss ResidualQuantizer.compute_codes with those codebooks; greedy == beam1 on {float((bq['codes_beam1'].numpy() == np.stack(cd, 1)).all(1).mean()):.4f} of rows; smallest squared-distance gap {min(gaps):.2e}",
    )

# ------------------------------------------------------------ (iv) metrics
if wanted("metrics"):
    g = np.random.default_rng(51)
    U, N, M = 64, 500, 50
    ranked = np.stack([g.permutation(N)[:M] for _ in range(U)])
    tgt = g.integers(0, N, U)
    for u in range(0, U, 2):
        tgt[u] = ranked[u, g.integers(0, 12 if u % 4 else M)]
    multi = [[int(v) for v in g.choice(N, size=int(g.integers(1, 6)), replace=False)] for _ in range(U)]
    for u in range(0, U, 3):
        multi[u][0] = int(ranked[u, g.integers(0, 10)])
        multi[u] = sorted(set(multi[u]))
    single, mult, per = {}, {}, {}
    for k in (1, 5, 10, 20, 50):
        rk = [(np.flatnonzero(ranked[u, :k] == tgt[u]).tolist() or [None])[0] for u in range(U)]
        nd = [0.0 if r is None else 1 / math.log2(r + 2) for r in rk]
        single[f"Recall@{k}"] = sum(r is not None for r in rk) / U
        single[f"NDCG@{k}"] = sum(nd) / U
        single[f"MRR@{k}"] = sum(0 if r is None else 1 / (r + 1) for r in rk) / U
        per[f"NDCG@{k}"] = nd
        R = []
        Nn = []
        for u in range(U):
            S = set(multi[u])
            hit = [i for i, v in enumerate(ranked[u, :k].tolist()) if v in S]
            R.append(len(hit) / len(S))
            Nn.append(sum(1 / math.log2(i + 2) for i in hit) / sum(1 / math.log2(i + 2) for i in range(min(k, len(S)))))
        mult[f"Recall@{k}"] = float(np.mean(R))
        mult[f"NDCG@{k}"] = float(np.mean(Nn))
    from sklearn.metrics import ndcg_score

    sk = []
    for u in range(U):
        rel = np.zeros(N)
        rel[multi[u]] = 1
        sc = np.zeros(N)
        sc[ranked[u]] = np.arange(M, 0, -1)
        sk.append(ndcg_score(rel[None], np.where(sc > 0, sc, -np.arange(N) - 1.0)[None], k=10))
    assert abs(np.mean(sk) - mult["NDCG@10"]) < 1e-9, (np.mean(sk), mult["NDCG@10"])
    js(
        d("metrics", "ranking_metrics.json"),
        dict(ranked=ranked.tolist(), target=tgt.tolist(), targets_multi=multi, single=single, multi=mult, per_user=per),
        "64 users x 50 ranked ids; single: one held-out target (Recall = hit rate, NDCG = 1/log2(rank+2), MRR = 1/(rank+1), rank 0-based); multi: Recall = hits/|targets|, NDCG with ideal DCG over min(k,|targets|); multi NDCG@10 agrees with sklearn.ndcg_score",
    )

with open(d("README.md" if not a.only else "README.part.md"), "w") as f:
    f.write(
        f"# Parity fixtures\nWritten by `benches/peers/make_fixtures.py` (torch {torch.__version__}, transformers {transformers.__version__}; CPU, float32, eager attention, 1 thread). Random-init weights, no licence questions.\n\n"
        f"Catalogue for every beam fixture: {len(CAT)} unique 4-level IDs, {K} codes per level (in each beams.json). Token id = base + level*{K} + code (T5 base 2: 0 pad/decoder start, 1 eos; decoder-only base 4: 0 pad, 1 eos, 2 bos).\n"
        "Tolerance advice: logits 1e-4 abs; codes exact except where the stated gap is below 1e-5; beams: compare sequences where neighbouring scores differ by > 1e-4.\n\n| file | content | note |\n| --- | --- | --- |\n"
    )
    for r in readme:
        f.write("| " + " | ".join(str(v).replace("|", "/") for v in r) + " |\n")
    f.write("| */config.json, */model.safetensors, */generation_config.json | HF checkpoint | written by save_pretrained |\n")
print("ok", len(readme))
