"""Users of the demo and what they take, one event after another.

A user has favourite departments and, in each, favourite groups. Each step is one of
  follow   (66 %) something already on the user's mind: mostly the latest thing, but threads interleave
  begin    (29 %) a new thread: an entry of a favourite group, weighted by popularity and season
  stray    ( 5 %) any item, whatever the taste (gifts, noise)
Nothing is taken twice. So the next item depends on the last one, but also on threads left open a few steps ago,
on what was taken already, on taste and on the season."""
import random
from bisect import bisect
from itertools import accumulate

from catalog import Shop

FOLLOW, STRAY, LATEST = 0.66, 0.05, 0.55
ON_MIND = 6                      # older threads are forgotten
FIRST_DAY, DAYS = 1_672_531_200, 730  # 2023-01-01 and two years
DAY = 86_400


def season(time: int) -> int:
    """0 spring, 1 summer, 2 autumn, 3 winter (northern half)."""
    day = (time - FIRST_DAY) // DAY % 365
    return 3 if day < 59 or day >= 334 else (day - 59) // 92


class Shelf:
    """Entries of one group, drawn by weight in a season."""

    def __init__(self, entries):
        self.items = [e.item for e in entries]
        self.sums = [list(accumulate(e.weight * e.season[s] for e in entries)) for s in range(4)]

    def draw(self, rng, when):
        sums = self.sums[when]
        return self.items[bisect(sums, rng.random() * sums[-1])]


class Crowd:
    def __init__(self, shop: Shop, rng: random.Random):
        self.shop, self.rng = shop, rng
        groups = {}
        for e in shop.entries:
            groups.setdefault(e.group, []).append(e)
        self.shelves = {g: Shelf(es) for g, es in groups.items()}
        self.everything = Shelf(shop.entries)
        self.by_department = {}
        for g in self.shelves:
            self.by_department.setdefault(g.split("/")[0], []).append(g)
        self.departments = sorted(self.by_department)
        self.size = {d: sum(self.shelves[g].sums[0][-1] for g in gs) ** 0.5 for d, gs in self.by_department.items()}

    def taste(self):
        """[(group, weight)]: two or three departments, one to three groups in each."""
        rng, out = self.rng, []
        for rank in range(rng.choice([2, 2, 3])):
            department = rng.choices(self.departments, [self.size[d] for d in self.departments])[0]
            for g in rng.sample(self.by_department[department], min(len(self.by_department[department]), rng.choice([1, 2, 2, 3]))):
                out.append((g, rng.random() / (1 + rank)))
        return out

    def history(self, length: int, start: int):
        """[(item, time)] of one user."""
        rng, taste, mind, seen, out, time = self.rng, self.taste(), [], set(), [], start
        groups, weights = [g for g, _ in taste], [w for _, w in taste]
        while len(out) < length:
            if out and rng.random() > 0.12:  # else the same basket, at the same second
                time += int(rng.expovariate(1 / 9.0) * DAY) + rng.randrange(600, 43_200)
            mind = [i for i in mind if i not in seen][-ON_MIND:]
            if mind and rng.random() < FOLLOW:
                back = 0
                while back < len(mind) - 1 and rng.random() > LATEST:
                    back += 1
                item = mind[-1 - back]
            elif rng.random() < STRAY / (1 - FOLLOW):
                item = self.everything.draw(rng, season(time))
            else:
                item = self.shelves[rng.choices(groups, weights)[0]].draw(rng, season(time))
            if item in seen:
                if rng.random() < 0.1:  # a taste that has run dry widens
                    extra = self.taste()
                    groups, weights = groups + [g for g, _ in extra], weights + [w for _, w in extra]
                continue
            seen.add(item)
            out.append((item, time))
            news = [then for then, chance in self.shop.follow.get(item, []) if rng.random() < chance]
            mind += [i for i in reversed(news) if i not in mind]
        return out


def histories(shop: Shop, users: int, seed: int):
    """One list of (item, time) a user; 5 to 40 events, but 2 for the user before the last and 3 for the last."""
    rng = random.Random(seed)
    crowd, out = Crowd(shop, rng), []
    for _ in range(users - 2):
        length = min(40, 5 + int(rng.lognormvariate(2.35, 0.7)))
        out.append(crowd.history(length, FIRST_DAY + rng.randrange(int(DAYS * 0.8) * DAY)))
    return out + [crowd.history(n, FIRST_DAY + rng.randrange(DAYS * DAY)) for n in (2, 3)]
