"""P2: TIGER-size T5 training samples/s on CPU fp32 (forward + backward + AdamW).
Model: transformers T5ForConditionalGeneration."""

import measuring as C

p = C.base_parser(__doc__, runs=3)
p.add_argument("--batch", type=int, default=256)
p.add_argument("--enc-len", type=int, default=80)
p.add_argument("--dec-len", type=int, default=4)
p.add_argument("--layers", type=int, default=4)
p.add_argument("--d-model", type=int, default=128)
p.add_argument("--d-ff", type=int, default=1024)
p.add_argument("--heads", type=int, default=6)
p.add_argument("--d-kv", type=int, default=64)
p.add_argument("--vocab", type=int, default=1026)
p.add_argument("--ff", default="relu")
p.add_argument("--dropout", type=float, default=0.1)
p.add_argument("--attn", default="sdpa", choices=["sdpa", "eager"])
p.add_argument("--steps", type=int, default=3, help="optimiser steps per timed run")
p.add_argument("--compile", type=int, default=0)
p.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="of the forward pass, by autocast")
p.add_argument("--ragged", type=int, default=0, help="1: random history length 20..enc_len with padding + attention mask")
p.add_argument("--input", help=".safetensors/.npz-like: input_ids, attention_mask, labels (int64)")
p.add_argument("--save-input")
p.add_argument("--model-dir", help="HF directory to load instead of random init")
p.add_argument("--save-model")
a = p.parse_args()
C.set_threads(a.threads)
import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

torch.set_num_threads(a.threads)
torch.manual_seed(a.seed)
idle = C.cur_rss_mb()
if a.model_dir:
    m = T5ForConditionalGeneration.from_pretrained(a.model_dir, attn_implementation=a.attn)
else:
    m = T5ForConditionalGeneration._from_config(
        T5Config(
            vocab_size=a.vocab,
            d_model=a.d_model,
            d_kv=a.d_kv,
            d_ff=a.d_ff,
            num_layers=a.layers,
            num_decoder_layers=a.layers,
            num_heads=a.heads,
            feed_forward_proj=a.ff,
            dropout_rate=a.dropout,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        ),
        attn_implementation=a.attn,
    )
if a.save_model:
    m.save_pretrained(a.save_model)
g = np.random.default_rng(a.seed)
nb = 4
if a.input:
    from safetensors.torch import load_file

    t = load_file(a.input)
    ids, mask, lab = t["input_ids"], t["attention_mask"], t["labels"]
    nb = len(ids) // a.batch
else:
    N = nb * a.batch
    code = g.integers(0, 256, (N, a.enc_len))
    ids = torch.from_numpy(code + 256 * (np.arange(a.enc_len) % 4) + 2)
    mask = torch.ones_like(ids)
    if a.ragged:
        L = torch.from_numpy(g.integers(5, a.enc_len // 4 + 1, N) * 4)
        mask = (torch.arange(a.enc_len)[None] < L[:, None]).long()
        ids = ids * mask
    lab = torch.from_numpy(g.integers(0, 256, (N, a.dec_len)) + 256 * np.arange(a.dec_len) + 2)
if a.save_input:
    from safetensors.torch import save_file

    save_file({"input_ids": ids, "attention_mask": mask, "labels": lab}, a.save_input)
m.train()
opt = torch.optim.AdamW(m.parameters(), lr=1e-3)
step = [0]
losses = []
fwd = torch.compile(m) if a.compile else m


def run():
    for _ in range(a.steps):
        s = (step[0] % nb) * a.batch
        step[0] += 1
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
            part = slice(s, s + a.batch)
            l = fwd(input_ids=ids[part], attention_mask=mask[part], labels=lab[part]).loss
        opt.zero_grad(set_to_none=True)
        l.backward()
        opt.step()
        losses.append(l.item())


ts, _ = C.timed(run, a.runs, a.warmup)
C.log(ts)
res = dict(
    peer="hf-t5-train",
    batch=a.batch,
    enc_len=a.enc_len,
    dec_len=a.dec_len,
    dropout=a.dropout if not a.model_dir else m.config.dropout_rate,
    attn=a.attn,
    compiled=a.compile,
    ragged=a.ragged,
    params=sum(q.numel() for q in m.parameters()),
    steps_per_run=a.steps,
    train=C.stats(ts),
    first_loss=losses[0],
    last_loss=losses[-1],
)
res["samples_per_s"] = a.batch * a.steps / res["train"]["median_s"]
res["s_per_step"] = res["train"]["median_s"] / a.steps
res["samples_per_cpu_s"] = a.batch * a.steps / res["train"]["cpu_median_s"]
res["dtype"] = a.dtype
res["memory_beyond_idle_mib"] = C.peak_rss_mb() - idle
C.emit(res)
