"""Word lists of the demo catalog. Every brand, person, series and product here is invented; any likeness is chance."""

FIRST = "Mira Tobin Ansel Ilse Corin Petra Joss Nadia Emeric Lotte Rafe Signe Oriel Dagny Pell Vesna Hugo Tamsin Bram Yara".split()
LAST = ("Ostrova Hollin Tamsey Brackwell Ilvane Quarrow Sundholm Pardeck Velloria Marchbank Thornsey Okundu Lindqvale "
        "Fenwray Castellor Draymoor Pellagrin Aruvane Whitlocke Novantes").split()

# genre: (adjectives, things, places, what it is about)
STORIES = {
    "Fantasy": ("Ashen Silver Hollow Thorned Winter Gilded Drowned Ember".split(),
                "Crown Oath Blade Throne Rune Wyrm Lantern Gate".split(),
                "Karrowmere Ildenfall Vash Thessaly-under-Stone Morrowdeep Eskarra".split(),
                ["a hedge witch who owes a debt to a dragon", "an exiled prince and the map that lies to him", "the last guild of rune smiths",
                 "a sword that remembers its owners", "a kingdom under a winter that does not end"]),
    "Crime": ("Quiet Broken Second Cold Borrowed Last Northern Paper".split(),
              "Witness Alibi Harbour Verdict Confession Ledger Bridge Informant".split(),
              "Saltmarsh Kestrel-Lane Duvenport Old-Quay Bleakholm Marrow-Street".split(),
              ["a detective who cannot forget a face", "a forger found in a locked archive", "a small port where everybody lies",
               "a judge with one case left", "a missing ferry and its only passenger"]),
    "Science Fiction": ("Orbital Silent Fractal Deep Stellar Quantum Distant Hollow".split(),
                        "Signal Colony Archive Drift Horizon Engine Meridian Vector".split(),
                        "Tau-Verin Kepra-Station New-Halcyon the-Far-Ring Oslo-Nine Perihelion".split(),
                        ["a salvage crew that answers the wrong call", "the first city beyond the heliopause", "a ship's mind on trial",
                         "a generation ship that has lost its log", "colonists who wake a century too early"]),
    "Romance": ("Lemon Sunday Almost Summer Unwritten Seaside Velvet Late".split(),
                "Letters Wedding Bakery Promise Season Balcony Waltz Address".split(),
                "Port-Isolde Lavender-Hill Montclar Willow-Bay Cassarina Little-Averley".split(),
                ["two rival bakers and one oven", "a florist who writes other people's letters", "a summer house let twice by mistake",
                 "a violinist and the neighbour below", "a wedding planner who does not believe in weddings"]),
    "History": ("Imperial Forgotten Iron Amber Long Royal Salted Burning".split(),
                "Road Fleet Harvest Treaty Siege Caravan Winter Mapmaker".split(),
                "the-Amber-Coast Varangia the-Salt-Road Lisandra the-Nine-Ports Old-Carthene".split(),
                ["traders who crossed a continent for salt", "the cook of a besieged city", "a cartographer in the service of two kings",
                 "sailors of the first amber fleet", "a harvest that started a war"]),
    "Children": ("Little Brave Sleepy Curious Purple Tiny Jolly Muddy".split(),
                 "Badger Lighthouse Bicycle Dragon Teapot Snowman Otter Train".split(),
                 "Puddleton Appletree-Farm Button-Hill the-Pond Cloud-Street Berry-Wood".split(),
                 ["a badger who wants to learn to swim", "a lighthouse that is afraid of the dark", "an otter with far too many hats",
                  "a train that takes the wrong track on purpose", "a dragon who sneezes soap bubbles"]),
}
PARTS = "Ashes Rivers Shadows Stones Embers Tides Letters Wolves Stars Bridges Keys Ravens Storms Gardens Bells Mirrors".split()

BRANDS = {
    "camera": "Halvora Lumenta Nortica Oculine Brevik Sontavik".split(),
    "photo": "Tragwell Filtrix Stativo Cardigo Lensloft".split(),
    "espresso": "Baristola Caldrino Moretta Fornello Velluto Pressano".split(),
    "coffee": "Cinder&Crema Highbean Ostara Slowroast Quillabamba-Coop Juniper-Lane".split(),
    "kitchen": "Hallenmark Kneadwell Sharpholt Copperlea Ovenbird".split(),
    "garden": "Greenholm Seedwick Rakeley Mossandra Wrenfield Aquarill".split(),
    "outdoor": "Fjellmark Tarnwild Ridgeback-Nord Kodiva Pinecrest-Trail Summitry".split(),
    "toys": "Brixelo Klonka Puzzlewick Railino Tabletorium".split(),
    "care": "Alvenia Rosmarine Dermalune Purlindel Sollina Bergamotte Nivara Hydralis Linden&Leaf Calmora".split(),
    "office": "Inkora Printavo Typeform-Labs Dockly Vaculon Papermill-Nine".split(),
    "console": "Orbix Playtide Nimbu".split(),
    "studio": "Lantern-Fox Ninth-Gate Bluebarrel Hexaworks Paper-Moon".split(),
    "screen": "Kinolux Northlight Grand-Meridian Vantablue".split(),
}
GOOD = ["Made to last", "A customer favourite", "Quiet, light and easy to clean", "New and improved this year", "Award-winning design",
        "Packed in recycled card", "With a five-year guarantee", "Good value for beginners", "The choice of professionals", "Small enough for any home"]
ORDINAL = "One Two Three Four Five Six Seven Eight Nine".split()
ROMAN = ["", " II", " III", " IV", " V"]
