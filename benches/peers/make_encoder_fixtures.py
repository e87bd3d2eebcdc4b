"""Tiny checkpoints of the text and image encoders with random weights, and what transformers makes of them (CPU, float32,
eager attention, 1 thread). Writes OUT/{bert,t5,qwen3,siglip}_tiny, each a folder as a hub has it, with golden.safetensors."""

import argparse
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
p = argparse.ArgumentParser()
p.add_argument("--out", default="crates/sidereal-embed/tests/fixtures")
a = p.parse_args()
import numpy as np
import torch
import torch.nn.functional as F
import transformers as tf
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

torch.set_num_threads(1)
torch.set_grad_enabled(False)
TEXTS = [
    "A wooden puzzle for children",
    "",
    "stainless steel kitchen knife, 20 cm blade. sharp and light; comes with a sheath and a five year guarantee",
    "coffee",
    "Wireless headphones with 30 h battery. Brand: Nova. Price: 59.9",
]
CORPUS = TEXTS + [
    "a toy of wood for children aged three and up", "knife of steel for the kitchen", "ground coffee, 250 g",
    "running shoes with a light mesh upper", "headphones without wires and a long battery life", "price brand title description",
]


def folder(name):
    path = os.path.join(a.out, name)
    os.makedirs(path, exist_ok=True)
    return path


def js(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as out:
        json.dump(value, out, indent=1)
        out.write("\n")


def weights(path, tensors, spread=None):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def randomise(model, seed):
    """Larger than the usual initial weights, so that a wrong norm, mask or activation shows."""
    g = torch.Generator().manual_seed(seed)
    for name, w in model.named_parameters():
        noise = torch.randn(w.shape, generator=g)
        norm = w.dim() == 1 and name.endswith("weight")
        w.copy_(1 + 0.2 * noise if norm else 0.25 * noise if w.dim() > 1 else 0.1 * noise)
    return model.eval()


def sentence_modules(path, pooling, width, dense=None, normalise=True):
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Pooling", "sentence_transformers.models.Pooling")]
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    js(f"{path}/1_Pooling/config.json", {"word_embedding_dimension": width, **{f"pooling_mode_{m}": m == pooling for m in modes}})
    if dense is not None:
        modules.append(("2_Dense", "sentence_transformers.models.Dense"))
        js(f"{path}/2_Dense/config.json", {"in_features": dense.shape[1], "out_features": dense.shape[0], "bias": False,
                                           "activation_function": "torch.nn.modules.linear.Identity"})
        weights(f"{path}/2_Dense/model.safetensors", {"linear.weight": dense})
    if normalise:
        modules.append((f"{len(modules)}_Normalize", "sentence_transformers.models.Normalize"))
    js(f"{path}/modules.json", [{"idx": i, "name": str(i), "path": m, "type": t} for i, (m, t) in enumerate(modules)])


def tokens(tokenizer, limit, end=None):
    """Right-padded ids and mask; `end` is appended, within the limit."""
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        if end is not None:
            ids = ids[: limit - 1] + [end]
        rows.append(ids)
    assert max(map(len, rows)) <= limit
    longest = max(map(len, rows))
    ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return ids, mask


def golden(path, embeddings, ids=None, mask=None):
    tensors = {"embeddings": embeddings.float()}
    if ids is not None:
        tensors |= {"input_ids": ids, "attention_mask": mask}
    weights(f"{path}/golden.safetensors", tensors)
    js(f"{path}/texts.json", TEXTS)


def mean(hidden, mask):
    m = mask[..., None].float()
    return (hidden * m).sum(1) / m.sum(1)


def bert():
    path = folder("bert_tiny")
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=180, special_tokens=special, show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    t.save(f"{path}/tokenizer.json")
    config = tf.BertConfig(vocab_size=t.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                           max_position_embeddings=64, attn_implementation="eager")
    config.architectures = ["BertModel"]
    model = randomise(tf.BertModel(config, add_pooling_layer=False), 1)
    weights(f"{path}/model.safetensors", model.state_dict())
    js(f"{path}/config.json", config.to_diff_dict() | {k: getattr(config, k) for k in ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
       "intermediate_size", "max_position_embeddings", "layer_norm_eps", "hidden_act", "type_vocab_size", "model_type", "architectures", "pad_token_id"]})
    js(f"{path}/sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    sentence_modules(path, "mean_tokens", 32)
    ids, mask = tokens(t, 48)
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    golden(path, F.normalize(mean(hidden, mask), dim=1), ids, mask)


def t5():
    path = folder("t5_tiny")
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    t.save(f"{path}/tokenizer.json")
    config = tf.T5Config(vocab_size=t.get_vocab_size(), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=3, relative_attention_num_buckets=8,
                         relative_attention_max_distance=20, feed_forward_proj="gated-gelu", attn_implementation="eager")
    config.architectures = ["T5EncoderModel"]
    model = randomise(tf.T5EncoderModel(config), 2)
    state = model.state_dict()
    state = {k: v for k, v in state.items() if k != "encoder.embed_tokens.weight"}
    weights(f"{path}/model.safetensors", state)
    js(f"{path}/config.json", {k: getattr(config, k) for k in ["vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
       "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj", "model_type", "architectures", "is_encoder_decoder"]})
    dense = torch.randn((24, 32), generator=torch.Generator().manual_seed(20)) * 0.3
    sentence_modules(path, "mean_tokens", 32, dense)
    ids, mask = tokens(t, 64)
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    golden(path, F.normalize(mean(hidden, mask) @ dense.T, dim=1), ids, mask)


def qwen3():
    path = folder("qwen3_tiny")
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>", "<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator(CORPUS, trainer)
    t.save(f"{path}/tokenizer.json")
    config = tf.Qwen3Config(vocab_size=t.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                            head_dim=8, max_position_embeddings=128, tie_word_embeddings=True, attn_implementation="eager")
    config.architectures = ["Qwen3ForCausalLM"]
    model = randomise(tf.Qwen3Model(config), 3)
    weights(f"{path}/model.safetensors", model.state_dict())
    js(f"{path}/config.json", {k: getattr(config, k) for k in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
       "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "attention_bias", "model_type", "architectures"]}
       | {"eos_token_id": 0, "rope_theta": 1000000})
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 1000000.0}
    model.rotary_emb = type(model.rotary_emb)(model.config)
    ids, mask = tokens(t, 128, end=0)
    # As its card does: padded on the left, the last token pooled.
    left = torch.stack([torch.cat([i[m == 0], i[m == 1]]) for i, m in zip(ids, mask)])
    left_mask = torch.stack([torch.cat([m[m == 0], m[m == 1]]) for m in mask])
    hidden = model(input_ids=left, attention_mask=left_mask).last_hidden_state[:, -1]
    alone = torch.cat([model(input_ids=i[m == 1][None]).last_hidden_state[:, -1] for i, m in zip(ids, mask)])
    assert (hidden - alone).abs().max() < 1e-4, (hidden - alone).abs().max()
    golden(path, F.normalize(hidden, dim=1), ids, mask)


def siglip():
    path = folder("siglip_tiny")
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, num_channels=3)
    config = tf.SiglipVisionConfig(**vision, attn_implementation="eager")
    model = randomise(tf.SiglipVisionModel(config), 4)
    state = {k if k.startswith("vision_model.") else f"vision_model.{k}": v for k, v in model.state_dict().items()}
    weights(f"{path}/model.safetensors", {k: v for k, v in state.items() if "position_ids" not in k})
    js(f"{path}/config.json", {"architectures": ["SiglipModel"], "model_type": "siglip", "vision_config": {**vision, "model_type": "siglip_vision_model"}})
    js(f"{path}/preprocessor_config.json", {"do_resize": True, "size": {"height": 32, "width": 32}, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255,
       "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor"})
    rng = np.random.default_rng(5)

    def picture(height, width):
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(x / rng.uniform(3, 9) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(3, 9)) for _ in range(3)]
        return Image.fromarray(((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8))

    pictures = [("same.png", picture(32, 32)), ("wide.png", picture(50, 90)), ("small.png", picture(20, 17)), ("photo.jpg", picture(48, 64)), ("lossless.webp", picture(40, 33))]
    pixels = []
    for name, image in pictures:
        image.save(f"{path}/{name}", **({"quality": 95, "subsampling": 0} if name.endswith("jpg") else {"lossless": True} if name.endswith("webp") else {}))
        read = Image.open(f"{path}/{name}").convert("RGB").resize((32, 32), resample=Image.Resampling.BICUBIC)
        pixels.append((torch.tensor(np.asarray(read)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5)
    pixels = torch.stack(pixels)
    pooled = model(pixel_values=pixels).pooler_output
    weights(f"{path}/golden.safetensors", {"pixels": pixels, "embeddings": pooled, "normalised": F.normalize(pooled, dim=1)})
    js(f"{path}/pictures.json", [name for name, _ in pictures])


for make in [bert, t5, qwen3, siglip]:
    make()
    print(make.__name__, flush=True)
