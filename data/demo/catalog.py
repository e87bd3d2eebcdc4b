"""The catalog of the demo: items, and what tends to follow what.

`Shop` collects items and two kinds of structure that behaviour.py plays out:
  follow[i]   items that taking item i puts on a user's mind, each with a probability (the next volume, the right battery)
  entries     items with which something new begins (a first volume, a camera body), each with a weight, a department,
              a taste group (genre, brand, style) and a weight per season
"""
import random
from dataclasses import dataclass, field

EVEN = (1.0, 1.0, 1.0, 1.0)  # spring, summer, autumn, winter


@dataclass
class Item:
    title: str | None
    brand: str | None
    path: list[str]
    price: float | None
    description: str | None


@dataclass
class Entry:
    item: int
    department: str
    group: str
    weight: float
    season: tuple[float, float, float, float] = EVEN


@dataclass
class Shop:
    rng: random.Random
    items: list[Item] = field(default_factory=list)
    follow: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    titles: set[str] = field(default_factory=set)

    def add(self, title, brand, path, price, description) -> int:
        """Adds an item; `price` is a middle price, from which a shop price within a fifth is drawn."""
        spoken = brand.replace("-", " ")
        title = title.replace(brand, spoken)
        while title in self.titles:
            title += ", New Edition"
        self.titles.add(title)
        shop_price = round(round(price * self.rng.uniform(0.8, 1.2)) - 0.01, 2)
        self.items.append(Item(title, spoken, [part.replace("-", " ") for part in path], shop_price, description))
        return len(self.items) - 1

    def leads_to(self, first: int, then: int, probability: float):
        self.follow.setdefault(first, []).append((then, probability))

    def chain(self, items: list[int], probability: float):
        """A series: each item leads to the next one, and now and then somebody skips one."""
        for a, b in zip(items, items[1:]):
            self.leads_to(a, b, probability)
        for a, b in zip(items, items[2:]):
            self.leads_to(a, b, 0.04)

    def entry(self, item: int, group: str, weight: float, season=EVEN):
        """Long tail: the weight is multiplied by a log-normal draw."""
        department = self.items[item].path[0]
        self.entries.append(Entry(item, department, f"{department}/{group}", weight * self.rng.lognormvariate(0.0, 1.2), season))


def spoil(shop: Shop):
    """What real catalogs have: fields left empty, items listed twice with the same text, odd characters, a very long title."""
    rng = shop.rng
    for item in shop.items:
        if rng.random() < 0.05:
            item.brand = None
        if rng.random() < 0.04:
            item.price = None
        if rng.random() < 0.05:
            item.description = None
    for original in rng.sample(range(len(shop.items)), 14):  # the same text under a second id
        it = shop.items[original]
        shop.items.append(Item(it.title, it.brand, list(it.path), it.price, it.description))
        shop.entries.append(Entry(len(shop.items) - 1, it.path[0], f"{it.path[0]}/listed twice", 0.4))
    for nameless in rng.sample(range(len(shop.items)), 2):
        shop.items[nameless].title = None
    for odd, mark in zip(rng.sample(range(len(shop.items)), 4), ['10" Édition spéciale', "(w/ “smart” quotes, commas; & tabs)", "日本語版", "🎁 gift pack"]):
        if shop.items[odd].title:
            shop.items[odd].title += " " + mark
    wordy = rng.randrange(len(shop.items))
    if shop.items[wordy].title:
        shop.items[wordy].title += ", with " + ", ".join(f"extra part no. {n} of 30" for n in range(1, 31))


def add_cold_items(shop: Shop, count: int):
    """Items nobody has bought yet: no entry and nothing leads to them."""
    for n in range(count):
        department, kind, brand = shop.rng.choice([("Books", "Science Fiction", "Mira Ostrova"), ("Kitchen", "Coffee Beans", "Highbean"),
                                                   ("Outdoor", "Tents", "Fjellmark"), ("Beauty & Care", "Serums", "Dermalune")])
        shop.add(f"{brand}: the {kind.lower()} of next season, no. {n + 1}", brand, [department, kind, "Not Yet Released"], 29, f"To be released soon. {kind} by {brand}.")
