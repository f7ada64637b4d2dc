"""How people ask for a sound: phrases to train on, and others held out to see whether the query is understood."""

from __future__ import annotations

SYNTHETIC: dict[str, tuple[str, ...]] = {
    "flute": ("flute", "a flute playing", "a flute melody", "someone plays the flute", "a wooden flute", "flute music"),
    "guitar": ("guitar", "an acoustic guitar", "a guitar being played", "plucked guitar strings", "strumming a guitar"),
    "bell": ("bell", "a bell ringing", "the ringing of a bell", "church bells", "a bell is struck", "an alarm bell"),
    "drums": ("drums", "a drum loop", "someone plays the drums", "a drum kit", "a drum beat", "drums and cymbals"),
    "bird": ("bird", "a bird singing", "birds chirping", "the song of a bird", "a bird chirps", "birdsong in a tree"),
    "siren": (
        "siren",
        "a siren wailing",
        "a police siren",
        "the siren of an ambulance",
        "a siren sounds",
        "a loud siren",
    ),
    "speech": ("speech", "a person speaking", "someone talking", "a human voice", "a man talks", "a woman is speaking"),
    "dog": ("dog", "a dog barking", "dogs bark", "the barking of a dog", "a dog barks", "a small dog barks loudly"),
    "rain": ("rain", "rain falling", "the sound of rain", "heavy rain", "raindrops on a roof", "it is raining"),
    "engine": (
        "engine",
        "an engine running",
        "a car engine",
        "the engine of a truck",
        "a motor idling",
        "a running motor",
    ),
}

SYNTHETIC_PARAPHRASES: dict[str, tuple[str, ...]] = {
    "flute": ("a flutist performing a tune", "the sound of a woodwind, a flute", "a piece for solo flute"),
    "guitar": ("a guitarist playing chords", "notes picked on a guitar", "a classical guitar piece"),
    "bell": ("bells chiming from a tower", "ding dong of a bell", "a metal bell tolls"),
    "drums": ("a drummer keeps the rhythm", "percussion with snare and kick drum", "drumming"),
    "bird": ("a songbird tweeting in the morning", "chirping of small birds", "the call of a sparrow"),
    "siren": ("emergency vehicle with its siren on", "a fire truck passes with sirens", "sirens howling in the street"),
    "speech": ("people in conversation", "somebody says something", "the voice of a person who talks"),
    "dog": ("a puppy woofing", "barks of an angry dog", "a hound is barking"),
    "rain": ("a downpour of rain", "rainfall pattering outside", "water drops from a rain shower"),
    "engine": ("a vehicle with its engine on", "the rumble of an engine", "an automobile motor revving"),
}

REAL: dict[str, tuple[str, ...]] = {
    "speech": SYNTHETIC["speech"],
    "music": ("music", "background music", "a piece of music", "a song playing", "instrumental music", "a band plays"),
    "drums": SYNTHETIC["drums"],
    "guitar": SYNTHETIC["guitar"],
    "animal": ("animal", "an animal", "the call of an animal", "animal sounds", "a farm animal", "noises of animals"),
    "instrument": (
        "instrument",
        "a musical instrument",
        "a single instrument playing",
        "someone plays an instrument",
        "the sound of an instrument",
    ),
    "everyday": (
        "everyday sounds",
        "a noise",
        "a sound effect",
        "environmental noise",
        "household noises",
        "sounds around us",
    ),
}

REAL_PARAPHRASES: dict[str, tuple[str, ...]] = {
    "speech": SYNTHETIC_PARAPHRASES["speech"],
    "music": ("a tune played by several instruments", "a melody with accompaniment", "a song on the radio"),
    "drums": SYNTHETIC_PARAPHRASES["drums"],
    "guitar": SYNTHETIC_PARAPHRASES["guitar"],
    "animal": ("a creature calling", "livestock and birds", "a beast makes its sound"),
    "instrument": ("notes of a solo instrument", "an orchestra instrument on its own", "a musician practises scales"),
    "everyday": ("background noises of daily life", "foley effects", "something rattles and clatters"),
}

COVERS: dict[str, tuple[str, ...]] = {"music": ("drums", "guitar", "instrument"), "instrument": ("drums", "guitar")}
"""Kinds whose captions are true of other kinds too: in a mixture of both, a query would have two right answers."""

_TEMPLATES = ("{}", "the sound of {}", "a recording of {}", "{} in the background")
_HELD_OUT_TEMPLATES = ("please keep the {}", "i can hear {}", "some noise made by {}")


def ambiguous(one: str, other: str) -> bool:
    """Whether what asks for one of two kinds may also mean the other."""
    return other in COVERS.get(one, ()) or one in COVERS.get(other, ())


def from_name(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Captions to train on and held-out ones for a class of which only the name is known, such as that of a folder."""
    plain = " ".join(name.replace("_", " ").replace("-", " ").split()).lower()
    return (
        tuple(template.format(plain) for template in _TEMPLATES),
        tuple(template.format(plain) for template in _HELD_OUT_TEMPLATES),
    )
