"""Reload every checkpoint fixture from disk and re-derive what the fixture says, without HF generate: logits, loss, and the constrained beam by an independent plain-python beam."""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoModelForCausalLM

torch.set_num_threads(1)
torch.set_grad_enabled(False)
R = sys.argv[1] if len(sys.argv) > 1 else "target/fixtures"
out = {}


def beam(step, cat, base, K, L, nb):  # step(prefix codes) -> log-probs over the vocabulary after that prefix
    bs = [((), 0.0)]
    for l in range(L):
        c = []
        for pre, s in bs:
            lp = step(pre)
            ok = sorted({r[l] for r in cat if tuple(r[:l]) == pre})
            c += [(pre + (k,), s + lp[base + l * K + k].item()) for k in ok]
        bs = sorted(c, key=lambda t: -t[1])[:nb]
    return bs


for name in sorted(os.listdir(R)):
    p = os.path.join(R, name)
    if not os.path.exists(os.path.join(p, "config.json")):
        continue
    io = load_file(os.path.join(p, "io.safetensors"))
    b = json.load(open(os.path.join(p, "beams.json")))
    base, K, L = b["base"], b["codes_per_level"], b["levels"]
    keys = list(load_file(os.path.join(p, "model.safetensors")))
    if name.startswith("t5"):
        m = AutoModelForSeq2SeqLM.from_pretrained(p).eval()
        lg = m(input_ids=io["input_ids"], attention_mask=io["attention_mask"], decoder_input_ids=io["decoder_input_ids"]).logits
        d = (lg - io["logits"]).abs().max().item()
        gk = set(load_file(os.path.join(p, "grads.safetensors")))
        miss = [k for k, _ in m.named_parameters() if k not in gk]

        def mk(u):
            T = int(io["attention_mask"][u].sum())
            ids = io["input_ids"][u : u + 1, :T]
            return (
                lambda pre: m(input_ids=ids, decoder_input_ids=torch.tensor([[0] + [base + i * K + c for i, c in enumerate(pre)]]))
                .logits[0, -1]
                .log_softmax(-1)
            )

    else:
        m = AutoModelForCausalLM.from_pretrained(p).eval()
        lg = m(input_ids=io["input_ids"], attention_mask=io["attention_mask"], position_ids=io["position_ids"]).logits
        d = ((lg - io["logits"]).abs() * io["attention_mask"][..., None]).max().item()
        miss = []

        def mk(u):
            ids = io["input_ids"][u][io["attention_mask"][u].bool()].tolist()
            return (
                lambda pre: m(input_ids=torch.tensor([ids + [base + i * K + c for i, c in enumerate(pre)]])).logits[0, -1].log_softmax(-1)
            )

    bad = 0
    sd = 0
    gap = 9e9
    for u in range(len(b["sequences"])):
        q = beam(mk(u), b["catalog"], base, K, L, b["num_beams"])
        bad += sum(list(x[0]) != y for x, y in zip(q, b["sequences"][u]))
        sd = max(sd, max(abs(x[1] - y) for x, y in zip(q, b["scores"][u])))
        s = b["scores"][u]
        gap = min(gap, min(s[i] - s[i + 1] for i in range(len(s) - 1)))
    rec = (
        sum(len({tuple(x) for x in b["sequences"][u]} & {tuple(x) for x in b["exhaustive_top10"][u]}) for u in range(len(b["sequences"])))
        / 10
        / len(b["sequences"])
    )
    out[name] = dict(
        logit_max_diff=d,
        beam_rows_differing=bad,
        score_max_diff=sd,
        min_score_gap=gap,
        beam_vs_exhaustive_overlap=rec,
        lm_head_in_file=any("lm_head" in k for k in keys),
        grads_missing=miss,
    )
print(json.dumps(out, indent=0))
