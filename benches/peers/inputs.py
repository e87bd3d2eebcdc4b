"""The inputs that peer and project share, written once: `inputs.py FOLDER`.

  catalog_100k.npy   u16 [100000, 4]   unique semantic IDs, 256 codes a level, sorted
  catalog_1m.npy     u16 [1000000, 4]  the same, for building tries
  histories.npy      i64 [64, 80]      token ids of 64 users: 20 items of the catalog each
  embeddings.npy     f32 [100000, 768] a hierarchical Gaussian mixture
  model/             a T5 of TIGER's size with random weights, Hugging Face layout"""

import os
import sys

import measuring as C

SEED = 1234
folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
import numpy as np


def path(name):
    return os.path.join(folder, name)


catalog = C.cached("catalog", path("catalog_100k.npy"), lambda: C.gen_catalog(100_000, 4, 256, SEED))
C.cached("catalog", path("catalog_1m.npy"), lambda: C.gen_catalog(1_000_000, 4, 256, SEED))
C.cached("embeddings", path("embeddings.npy"), lambda: C.gen_embeddings(100_000, 768, SEED))


def histories():
    items = catalog[np.random.default_rng(SEED + 1).integers(0, len(catalog), (64, 20))].astype(np.int64)
    return (items + 2 + 256 * np.arange(4)).reshape(64, 80)


C.cached("histories", path("histories.npy"), histories)
if not os.path.exists(path("model/model.safetensors")):
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(SEED)
    config = T5Config(vocab_size=1026, d_model=128, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4, num_heads=6, feed_forward_proj="relu",
                      decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    T5ForConditionalGeneration(config).save_pretrained(path("model"))
    C.log("[model] wrote", path("model"))
