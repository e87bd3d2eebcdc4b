#!/usr/bin/env python3
"""Makes the demo set in this folder: items.parquet, interactions.parquet, embeddings.safetensors. About a minute.

    python3 -m venv .venv-demo && .venv-demo/bin/pip install --no-deps -r data/demo/requirements.txt
    .venv-demo/bin/python data/demo/make.py                       # --out DIR, --no-embeddings

Same seed, same bytes for both tables; the embeddings are equal up to the last bit of f16 (BLAS differs between machines).
README.md here says what the columns are; stories.py and goods.py hold the products, behaviour.py the users."""
import argparse
import hashlib
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

import behaviour
import catalog
import goods
import stories

SEED, USERS, COLD = 20261, 3000, 40


def text_of(item):
    """The sentence that is embedded; parts that are missing are left out."""
    parts = [item.title, item.brand and f"Brand: {item.brand}", f"Category: {' > '.join(item.path)}", item.description]
    return " ".join(p.rstrip(".") + "." for p in parts if p)


def make_shop():
    shop = catalog.Shop(random.Random(SEED))
    for department in stories.DEPARTMENTS + goods.DEPARTMENTS:
        department(shop)
    catalog.add_cold_items(shop, COLD)
    catalog.spoil(shop)
    return shop


def write(table, path):
    pq.write_table(table, path, compression="zstd", compression_level=19, store_schema=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--no-embeddings", action="store_true", help="write the two tables only")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    shop = make_shop()
    order = list(range(len(shop.items)))  # so that an id tells nothing about series or department
    random.Random(SEED + 1).shuffle(order)
    item_id = {item: f"B{row + 1:04d}" for row, item in enumerate(order)}
    items = [shop.items[i] for i in order]
    write(pa.table({
        "item_id": pa.array([item_id[i] for i in order]),
        "title": pa.array([i.title for i in items], pa.string()),
        "brand": pa.array([i.brand for i in items], pa.string()),
        "categories": pa.array([" > ".join(i.path) for i in items]),
        "price": pa.array([i.price for i in items], pa.float64()),
        "description": pa.array([i.description for i in items], pa.string()),
    }), args.out / "items.parquet")

    people = behaviour.histories(shop, USERS, SEED + 2)
    events = [(time, f"u{u + 1:04d}", item_id[i]) for u, history in enumerate(people) for i, time in history]
    events.sort(key=lambda e: e[0])  # a log, as shops keep it; stable, so a basket keeps its order
    write(pa.table({
        "user_id": pa.array([u for _, u, _ in events]),
        "item_id": pa.array([i for _, _, i in events]),
        "timestamp": pa.array([t for t, _, _ in events], pa.int64()),
    }), args.out / "interactions.parquet")
    print(f"{len(items)} items, {len(people)} users, {len(events)} interactions")

    if not args.no_embeddings:
        from minilm import MiniLm
        vectors = MiniLm().encode([text_of(i) for i in items]).astype(np.float16)
        save_file({"embeddings": vectors}, args.out / "embeddings.safetensors", {"model": "all-MiniLM-L6-v2", "rows": "items.parquet, in its order"})
    for name in ("items.parquet", "interactions.parquet", "embeddings.safetensors"):
        path = args.out / name
        if path.exists():
            print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
