"""Books, films, shows, games and toys: departments where series are followed in order."""
from catalog import Shop
from words import BRANDS, FIRST, LAST, ORDINAL, PARTS, ROMAN, STORIES


def volume_title(rng, genre):
    adjectives, things, places, _ = STORIES[genre]
    place = rng.choice(places).replace("-", " ")
    return rng.choice([f"{rng.choice(adjectives)} {rng.choice(things)}", f"The {rng.choice(things)} of {place}",
                       f"A {rng.choice(things)} for {place}", f"{rng.choice(PARTS)} and {rng.choice(PARTS)}"])


def books(shop: Shop):
    rng = shop.rng
    for genre, (adjectives, things, places, plots) in STORIES.items():
        for _ in range(10):
            author = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
            series, plot = f"The {rng.choice(adjectives)} {rng.choice(things)}", rng.choice(plots)
            volumes = []
            for n in range(rng.choice([3, 3, 4, 5, 5, 6])):
                about = f"The story of {plot}" if n == 0 else f"{rng.choice(['The story goes on', 'Nothing is as it was', 'An old friend returns'])} in {rng.choice(places).replace('-', ' ')}"
                volumes.append(shop.add(f"{volume_title(rng, genre)} ({series}, Book {n + 1})", author, ["Books", genre, "Series"], 12,
                                        f"{about}. Book {ORDINAL[n].lower()} of {series} by {author}. {genre}, {rng.randrange(180, 620, 10)} pages."))
            shop.chain(volumes, 0.88)
            shop.entry(volumes[0], genre, 3.0)
            if genre in ("Fantasy", "Crime", "Science Fiction") and rng.random() < 0.45:  # the book is filmed, and the film played
                brand = rng.choice(BRANDS["screen"])
                film = shop.add(f"{series}: The Motion Picture", brand, ["Film & TV", "Films", genre], 15, f"{plot[0].upper()}{plot[1:]}: the film of the novels by {author}.")
                game = shop.add(f"{series}: The Video Game", rng.choice(BRANDS["studio"]), ["Games", "Adventure", genre], 45, f"Play the story of {plot}. For all consoles.")
                shop.leads_to(volumes[min(2, len(volumes) - 1)], film, 0.5)
                shop.leads_to(film, game, 0.4)
                shop.leads_to(film, volumes[0], 0.3)
                shop.entry(film, genre, 0.8)
        for _ in range(16):
            author = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
            alone = shop.add(volume_title(rng, genre), author, ["Books", genre, "Novels"], 10, f"A novel about {rng.choice(plots)}. By {author}. {genre}, {rng.randrange(150, 480, 10)} pages.")
            shop.entry(alone, genre, 0.8)


def screen(shop: Shop):
    rng = shop.rng
    for genre, (adjectives, things, places, plots) in STORIES.items():
        for _ in range(6):
            brand, place, plot = rng.choice(BRANDS["screen"]), rng.choice(places).replace("-", " "), rng.choice(plots)
            show = f"{rng.choice(adjectives)} {place}"
            seasons = [shop.add(f"{show}: Season {n + 1}", brand, ["Film & TV", "Shows", genre], 22, f"Season {ORDINAL[n].lower()} of the {genre.lower()} show about {plot}. {rng.randrange(6, 13)} episodes.")
                       for n in range(rng.choice([2, 3, 3, 4, 5]))]
            shop.chain(seasons, 0.9)
            shop.entry(seasons[0], genre, 2.4)
        for _ in range(13):
            brand = rng.choice(BRANDS["screen"])
            film = shop.add(volume_title(rng, genre), brand, ["Film & TV", "Films", genre], 12, f"A film about {rng.choice(plots)}. {genre}, {rng.randrange(84, 165)} minutes.")
            shop.entry(film, genre, 0.8, (1, 1, 1, 1.5))


def games(shop: Shop):
    rng = shop.rng
    kinds = {"Racing": "Grand Turbo Drift Neon", "Strategy": "Settlers Legions Harbours Dynasties", "Adventure": "Wanderer Labyrinth Relic Voyage", "Puzzle": "Blocks Gears Tangle Prism"}
    own = {}
    for console in BRANDS["console"]:
        for model in ("Home", "Pocket"):
            name = f"{console} {model}"
            main = shop.add(f"{name} Console, 512 GB", console, ["Games", "Consoles", console], 320, f"The {model.lower()} console by {console}. Comes with one controller and a charging cable.")
            for what, price, chance in [("Second Controller", 55, .6), ("Charging Dock", 35, .45), ("Headset", 70, .4), ("Memory Card 1 TB", 90, .4), ("Travel Case", 25, .6 if model == "Pocket" else .1)]:
                shop.leads_to(main, shop.add(f"{what} for {name}", console, ["Games", "Accessories", console], price, f"{what} made for the {name}. Does not fit other consoles."), chance)
            shop.entry(main, console, 4.0, (0.7, 0.7, 1, 2.2))
            own[name] = main
    for kind, words in kinds.items():
        for _ in range(10):
            studio, console = rng.choice(BRANDS["studio"]), rng.choice(list(own))
            name = f"{rng.choice(words.split())} {rng.choice(STORIES['Science Fiction'][1] + STORIES['Fantasy'][1])}"
            parts = [shop.add(f"{name}{ROMAN[n]} ({console})", studio, ["Games", kind, console], 50, f"Part {ORDINAL[n].lower()} of the {kind.lower()} series by {studio.replace('-', ' ')}, for {console}.")
                     for n in range(rng.choice([2, 3, 3, 4]))]
            shop.chain(parts, 0.85)
            shop.entry(parts[0], console.split()[0], 1.6)
            shop.leads_to(own[console], parts[0], 0.25)  # nobody buys a console without games
        for _ in range(9):
            console = rng.choice(list(own))
            alone = shop.add(f"{rng.choice(words.split())}: {rng.choice(PARTS)} ({console})", rng.choice(BRANDS["studio"]), ["Games", kind, console], 30, f"A {kind.lower()} game for one to four players, for {console}.")
            shop.entry(alone, console.split()[0], 0.7)
            shop.leads_to(own[console], alone, 0.06)


def toys(shop: Shop):
    rng = shop.rng
    for theme in "Castle Harbour Moonbase Jungle Pirates Farm Airport Undersea Knights Railway Circus Volcano Arctic Desert".split():
        steps = [shop.add(f"{theme} Building Set {n + 1}: {rng.choice(['Gatehouse', 'Workshop', 'Tower', 'Bridge', 'Market', 'Hideout', 'Landing Stage'])}", "Brixelo", ["Toys", "Building Sets", theme],
                          20 + 15 * n, f"Set {ORDINAL[n].lower()} of the {theme} world: {rng.randrange(80, 900, 10)} bricks, fits the other {theme} sets.") for n in range(rng.choice([4, 5, 6]))]
        shop.chain(steps, 0.82)
        shop.entry(steps[0], "building", 2.0, (0.8, 0.8, 1, 2.2))
    for scale in "N H0 G".split():
        start = shop.add(f"Model Railway Starter Set, Scale {scale}", "Railino", ["Toys", "Model Railways", f"Scale {scale}"], 140, f"Locomotive, two wagons and an oval of track. Scale {scale}.")
        kit = [shop.add(f"{what}, Scale {scale}", "Railino", ["Toys", "Model Railways", f"Scale {scale}"], price, f"{what} for Railino railways. Scale {scale} only.")
               for what, price in [("Straight Track, 12 Pieces", 20), ("Pair of Switches", 30), ("Station Building", 40), ("Goods Wagons, Set of 3", 45), ("Signal Bridge", 25), ("Digital Controller", 90), ("Mountain Tunnel", 35), ("Second Locomotive", 110)]]
        shop.leads_to(start, kit[0], 0.9)
        shop.chain(kit, 0.75)
        shop.entry(start, "railway", 3.0, (0.6, 0.6, 1.2, 2.4))
    for n in range(28):
        name = f"{rng.choice(STORIES['History'][0])} {rng.choice(STORIES['History'][1])}"
        game = shop.add(f"{name}: The Board Game", "Tabletorium", ["Toys", "Board Games", "Base Games"], 40, f"A board game for {rng.choice(['two', 'two to four', 'three to six'])} players, {rng.randrange(30, 150, 15)} minutes.")
        more = [shop.add(f"{name}: {rng.choice(PARTS)} Expansion {k + 1}", "Tabletorium", ["Toys", "Board Games", "Expansions"], 22, f"Expansion {ORDINAL[k].lower()} for {name}. The base game is needed.") for k in range(rng.choice([1, 2, 2, 3]))]
        shop.chain([game] + more, 0.75)
        shop.entry(game, "board games", 1.6, (0.8, 0.8, 1.2, 1.8))


DEPARTMENTS = [books, screen, games, toys]
