"""Cameras, kitchen, garden, outdoor, care and office: departments where one thing calls for another, or for a season."""
from catalog import EVEN, Shop
from words import BRANDS, GOOD


def photo(shop: Shop):
    rng = shop.rng
    shared = {}
    for brand in BRANDS["photo"]:
        for what, price in [("Camera Bag", 60), ("Tripod", 90), ("Memory Card 128 GB", 30), ("Neck Strap", 25), ("Lens Cleaning Kit", 15), ("Polarising Filter", 45), ("Reflector", 30)]:
            shared.setdefault(what, []).append(shop.add(f"{brand} {what}", brand, ["Photo", "Accessories", what + "s"], price, f"{what} for every camera. {rng.choice(GOOD)}."))
    for acc in sum(shared.values(), []):
        shop.entry(acc, "accessories", 0.4)
    favourite = {what: rng.choice(of) for what, of in shared.items()}
    for brand in BRANDS["camera"]:
        path = ["Photo", brand]
        lenses = [shop.add(f"{brand} {mm} mm Lens f/{f}", brand, path + ["Lenses"], price, f"{kind} lens for {brand} bodies.")
                  for mm, f, price, kind in [("50", "1.8", 190, "Everyday"), ("24-70", "4", 520, "Zoom"), ("70-200", "4", 780, "Tele zoom"), ("16", "2.8", 430, "Wide-angle"), ("105", "2.8", 560, "Macro"), ("400", "5.6", 1400, "Wildlife")]]
        battery = shop.add(f"{brand} Spare Battery", brand, path + ["Power"], 55, f"Lithium battery for all {brand} bodies.")
        charger = shop.add(f"{brand} Twin Charger", brand, path + ["Power"], 40, f"Charges two {brand} batteries at once.")
        flash = shop.add(f"{brand} Speed Flash", brand, path + ["Flashes"], 180, f"Flash for {brand} bodies. {rng.choice(GOOD)}.")
        shop.leads_to(battery, charger, 0.45)
        shop.chain(lenses, 0.5)
        bodies = []
        for model, price in [("One", 450), ("Pro", 1200), ("Travel", 650)]:
            body = shop.add(f"{brand} {model} Mirrorless Camera", brand, path + ["Bodies"], price, f"{model} body with 24 megapixels, without lens. {rng.choice(GOOD)}.")
            bodies.append(body)
            for then, chance in [(lenses[0], .65), (battery, .6), (favourite["Memory Card 128 GB"], .5), (favourite["Camera Bag"], .4), (flash, .2)]:
                shop.leads_to(body, then, chance)
            shop.entry(body, brand, 3.0, (1, 1.4, 1, 1.6))
        shop.chain([bodies[0], bodies[2], bodies[1]], 0.25)
        shop.leads_to(lenses[2], favourite["Tripod"], 0.5)
        shop.leads_to(lenses[3], favourite["Polarising Filter"], 0.5)


def kitchen(shop: Shop):
    rng = shop.rng
    beans = [shop.add(f"{brand} {roast} Beans {origin}, 1 kg", brand, ["Kitchen", "Coffee Beans", roast], 19, f"{roast} coffee beans from {origin}. Notes of {rng.choice(['cocoa', 'berries', 'nuts', 'caramel', 'citrus', 'plum'])}.")
             for brand in BRANDS["coffee"] for roast, origin in [("Espresso Roast", "Highlands"), ("Espresso Roast", "Islands"), ("Filter Roast", "Lakes"), ("Filter Roast", "Volcanoes"), ("Decaf", "Valleys")]]
    for group in range(0, len(beans), 5):  # who likes a roaster works through its beans
        shop.chain(beans[group:group + 5], 0.45)
    for bean in beans:
        shop.entry(bean, "coffee", 0.5)
    for i, brand in enumerate(BRANDS["espresso"]):
        path = ["Kitchen", "Espresso", brand]
        grinder = shop.add(f"{brand} Burr Grinder", brand, path, 180, f"Conical burrs, 40 grind settings. {rng.choice(GOOD)}.")
        tools = [shop.add(f"{brand} {what}", brand, path, price, f"{what} for {brand} machines.") for what, price in
                 [("Tamper 58 mm", 30), ("Milk Jug", 22), ("Knock Box", 25), ("Set of 6 Espresso Cups", 35), ("Descaler", 12), ("Water Filter, Pack of 4", 28), ("Precision Basket", 26)]]
        for model, price in [("Manuale", 390), ("Automatica", 620), ("Doppia", 980)]:
            machine = shop.add(f"{brand} {model} Espresso Machine", brand, path, price, f"Espresso machine with {rng.choice([9, 15])} bar pump. {rng.choice(GOOD)}.")
            for then, chance in [(grinder, .6), (tools[0], .5), (tools[1], .4), (beans[5 * i], .55)]:
                shop.leads_to(machine, then, chance)
            shop.entry(machine, "espresso", 2.0, (1, 0.8, 1, 1.7))
        shop.chain(tools, 0.55)
        shop.leads_to(grinder, beans[5 * i + 1], 0.55)
    for brand in BRANDS["kitchen"]:
        mixer = shop.add(f"{brand} Stand Mixer 5 l", brand, ["Kitchen", "Baking", "Mixers"], 330, f"Stand mixer with steel bowl. {rng.choice(GOOD)}.")
        more = [shop.add(f"{brand} {what}", brand, ["Kitchen", "Baking", "Mixer Attachments"], price, f"{what} for the {brand} stand mixer.") for what, price in
                [("Dough Hook", 30), ("Pasta Roller", 110), ("Meat Mincer", 80), ("Spiral Slicer", 70), ("Ice Cream Bowl", 90)]]
        shop.chain([mixer] + more, 0.65)
        shop.entry(mixer, "baking", 2.0, (0.8, 0.7, 1.2, 1.8))
        knives = [shop.add(f"{brand} {what}", brand, ["Kitchen", "Knives", brand], price, f"{what}. Forged steel, ash handle.") for what, price in
                  [("Chef's Knife 20 cm", 90), ("Bread Knife", 60), ("Paring Knife", 35), ("Whetstone 1000/6000", 45), ("Magnetic Knife Rack", 50), ("End-Grain Board", 85)]]
        shop.chain(knives, 0.6)
        shop.entry(knives[0], "knives", 1.6)
        for what, price, season in [("Preserving Jars, Set of 12", 28, (.3, 1.6, 2.6, .3)), ("Ice Lolly Moulds", 14, (.8, 3, .3, .1)), ("Cookie Cutters, Winter Set", 12, (.1, .1, .8, 3.5)), ("Picnic Hamper", 60, (1.6, 2.6, .4, .1)), ("Fondue Set", 55, (.3, .1, .8, 3))]:
            shop.entry(shop.add(f"{brand} {what}", brand, ["Kitchen", "Seasonal", what.split(",")[0]], price, f"{what} by {brand}. {rng.choice(GOOD)}."), "seasonal", 1.0, season)


def garden(shop: Shop):
    rng = shop.rng
    year = [("Spring", (3.5, .6, .2, .3), ["Seed Tray", "Potting Soil 40 l", "Tomato Seeds", "Sweet Pea Seeds", "Hand Trowel", "Plant Labels", "Grow Lamp"]),
            ("Summer", (.6, 3.5, .4, .1), ["Garden Hose 30 m", "Sprinkler", "Tomato Feed", "Parasol", "Hammock", "Fruit Net", "Watering Timer"]),
            ("Autumn", (.2, .4, 3.5, .4), ["Leaf Rake", "Tulip Bulbs", "Compost Bin", "Pruning Shears", "Apple Picker", "Garden Shredder", "Fleece Cover"]),
            ("Winter", (.4, .1, .6, 3.5), ["Bird Feeder", "Bird Seed 10 kg", "Snow Shovel", "Frost Cloth", "Fat Balls, Box of 50", "String Lights", "De-icing Salt"])]
    for brand in BRANDS["garden"]:
        for name, season, things in year:
            row = [shop.add(f"{brand} {what}", brand, ["Garden", name, what.split(",")[0]], rng.choice([9, 15, 24, 39, 60]), f"{what} for the {name.lower()} garden. {rng.choice(GOOD)}.") for what in things]
            shop.chain(row, 0.6)
            shop.entry(row[0], brand, 2.4, season)
            shop.entry(rng.choice(row), brand, 0.8, season)


def outdoor(shop: Shop):
    rng = shop.rng
    trips = [("Camping", (1.2, 3, .6, .1), ["2-Person Tent", "Sleeping Bag", "Sleeping Mat", "Tent Pegs, Set of 16", "Camping Lantern", "Folding Chair"]),
             ("Camp Kitchen", (1, 2.6, .8, .3), ["Gas Stove", "Gas Canister, Pack of 3", "Titanium Pot", "Spork Set", "Dehydrated Meals, Box of 10"]),
             ("Hiking", (2, 1.6, 2, .3), ["Hiking Boots", "Wool Socks, 3 Pairs", "Boot Wax", "Trekking Poles", "Rucksack 45 l", "Rain Cover", "Water Bladder"]),
             ("Winter Sports", (.2, .1, .7, 3.5), ["Touring Skis", "Ski Bindings", "Ski Boots", "Climbing Skins", "Avalanche Probe", "Goggles", "Ski Wax Kit"]),
             ("Cycling", (2.4, 2, .8, .2), ["Gravel Bike", "Helmet", "Floor Pump", "Bike Lights", "Frame Bag", "Spare Tubes, Pack of 4"])]
    for brand in BRANDS["outdoor"]:
        for sport, season, things in trips:
            kit = [shop.add(f"{brand} {what}", brand, ["Outdoor", sport, what.split(",")[0]], 200 if k == 0 else rng.choice([12, 25, 45, 80]), f"{what} for {sport.lower()}. {rng.choice(GOOD)}.") for k, what in enumerate(things)]
            shop.chain(kit, 0.7)
            shop.entry(kit[0], sport, 2.0, season)


def care(shop: Shop):
    rng = shop.rng
    routine = [("Cleanser", "Cleansers"), ("Toner", "Toners"), ("Serum", "Serums"), ("Eye Cream", "Creams"), ("Day Cream", "Creams"), ("Night Cream", "Creams"), ("Clay Mask", "Masks"), ("Body Lotion", "Body"), ("Hand Cream", "Body")]
    for brand in BRANDS["care"]:
        for skin in ("Dry Skin", "Oily Skin"):
            line = [shop.add(f"{brand} {what} for {skin}", brand, ["Beauty & Care", kind, skin], 18, f"{what} with {rng.choice(['rose water', 'aloe', 'oat', 'green tea', 'sea buckthorn', 'jojoba'])}, for {skin.lower()}.") for what, kind in routine]
            shop.chain(line, 0.72)
            shop.entry(line[0], skin, 1.8)
            shop.entry(line[4], skin, 0.6)
        sun = shop.add(f"{brand} Sun Lotion SPF 50", brand, ["Beauty & Care", "Sun", "Lotions"], 20, "Water-resistant sun lotion.")
        shop.leads_to(sun, shop.add(f"{brand} After Sun Gel", brand, ["Beauty & Care", "Sun", "After Sun"], 15, "Cools the skin after a day in the sun."), 0.7)
        shop.entry(sun, "sun", 1.2, (0.8, 4, .3, .1))


def office(shop: Shop):
    rng = shop.rng
    sets = {"Inkora": ("Inkjet Printer", ["Black Ink", "Colour Ink, Pack of 3", "Photo Paper, 100 Sheets", "Cleaning Cartridge"]),
            "Printavo": ("Laser Printer", ["Toner Black", "Drum Unit", "Copy Paper, 2500 Sheets", "Paper Tray"]),
            "Typeform-Labs": ("Mechanical Keyboard", ["Wrist Rest", "Keycap Set", "Switch Tester", "Coiled Cable", "Desk Mat"]),
            "Dockly": ("Laptop Dock", ["Monitor Arm", "Second Monitor 27 inch", "Webcam", "Ring Light", "USB Microphone", "Boom Arm"]),
            "Vaculon": ("Robot Vacuum", ["Dust Bags, Pack of 6", "Side Brushes, Pack of 4", "Filter Set", "Mop Pads, Pack of 5"]),
            "Papermill-Nine": ("Fountain Pen", ["Bottled Ink", "Ink Converter", "Dotted Notebook A5", "Pen Roll", "Blotting Paper"])}
    for brand, (main, more) in sets.items():
        for model in ("100", "200 Plus", "Studio"):
            name = f"{brand.replace('-', ' ')} {main} {model}"
            ids = [shop.add(name, brand, ["Office", main + "s", brand.replace("-", " ")], 150, f"{main} for home and office. {rng.choice(GOOD)}.")]
            ids += [shop.add(f"{what} for {name}", brand, ["Office", "Supplies", brand.replace("-", " ")], 25, f"{what}, fits the {name} only.") for what in more]
            shop.chain(ids, 0.75)
            shop.entry(ids[0], brand, 2.0, (1, 0.8, 1.5, 1.1) if main != "Robot Vacuum" else EVEN)


DEPARTMENTS = [photo, kitchen, garden, outdoor, care, office]
