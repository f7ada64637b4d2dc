"""Where real sounds are found among Debian's packages, and what is to be heard in which of their files."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from rectiflow.fetch import Package

DEBIAN_COPYRIGHT = "usr/share/doc/*/copyright"


@dataclass(frozen=True)
class Origin:
    """One package and its sounds.

    rules: (pattern of a path inside the package or one of its containers, kind of sound); the first that fits a path decides,
    an empty kind leaves the file out, and so does no fit. group: which part of the path recordings share that must not
    be split: "folder" for a speaker or a kit, "name" for one animal, instrument or track, whatever the number behind it, "unit"
    for one creature of a game, whatever it does.
    """

    package: Package
    rules: tuple[tuple[str, str], ...]
    group: str = "name"

    def rule(self, path: str) -> tuple[str, str]:
        """The first rule that a path inside the package, or one of its containers, fits; twice "" where none does."""
        return next((rule for rule in self.rules if fnmatch(f"/{path}", rule[0])), ("", ""))


def debian(name: str, version: str, sha256: str, licence: str, wanted: str) -> Package:
    """A Debian package of sounds, of which another version will do where the pinned one is gone."""
    return Package(
        registry="apt",
        name=name,
        version=version,
        sha256=sha256,
        licence=licence,
        attribution=f"sounds of the Debian package {name}, its authors in licences/{name}.txt",
        wanted=(wanted, DEBIAN_COPYRIGHT),
        any_version=True,
    )


SOUNDFONT = debian(
    "timgm6mb-soundfont",
    "1.3-5",
    "034abdfb296d9353433513dad5dbdcab46425ee6008fc02fe7039b46e75edc54",
    "GPL-2",
    "usr/share/sounds/sf2/*.sf2",
)
"""Recorded notes of the instruments of General MIDI, that melodies are played on."""

ORIGINS = (
    Origin(
        debian(
            "fillets-ng-data-cs",
            "1.0.1-1.1",
            "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14",
            "GPL-2+",
            "usr/share/games/fillets-ng/sound/*.ogg",
        ),
        (("*/cs/*.ogg", "speech"),),
        group="folder",
    ),
    Origin(
        debian(
            "asc-music",
            "1.3-6",
            "369f2d396adb8db9003ef73b797d529e284a7764a5ff4b59a50a4c8b9294da5f",
            "GPL-2+",
            "usr/share/games/asc/music/*",
        ),
        (("*", "music"),),
    ),
    Origin(
        debian(
            "trackballs-data",
            "1.3.4-1",
            "ebc05f997c12896d8a0016990efbf01445b65b66f1eb45759a6277426cc13dac",
            "GPL-2+, Ethymonics Free Music License, CC0-1.0",
            "usr/share/games/trackballs/music/*.ogg",
        ),
        (("*", "music"),),
    ),
    Origin(
        debian(
            "extremetuxracer-data",
            "0.8.2-1",
            "8ce6c82e6fb89549d284f43f6c4b0a9d82e6c0e5da753bee0ef419276a21470c",
            "GPL-2+, CC0",
            "usr/share/games/etr/*",
        ),
        (("*/music/*.ogg", "music"), ("*/sounds/*_slide.wav", "everyday"), ("*/sounds/tree_hit.wav", "everyday")),
    ),
    Origin(
        debian(
            "frozen-bubble-data",
            "2.212-11",
            "39cdfd07d9532d1558762cf265a844d09015c4540568573c50f444cc084166e0",
            "GPL-2",
            "usr/share/games/frozen-bubble/snd/*.ogg",
        ),
        (
            ("*zik*.ogg", "music"),
            ("*/applause.ogg", "everyday"),
            ("*/snore.ogg", "everyday"),
            ("*/typewriter.ogg", "everyday"),
        ),
    ),
    Origin(
        debian(
            "hydrogen-drumkits",
            "2017.09.19~dfsg-1",
            "6ea3c6df9a67762e2362f946c695e619859126b19fbccf32a2e8f07dfd03b2f4",
            "GPL-2+, CC-BY-3.0, CC-BY-SA-3.0, CC0, by kit",
            "usr/share/hydrogen/data/drumkits/*",
        ),
        (("*.wav", "drums"), ("*.flac", "drums"), ("*.aiff", "drums")),
        group="folder",
    ),
    Origin(
        debian(
            "hydrogen-drumkits-effects",
            "2017.09.19~dfsg-1",
            "4ca3ff30e89d044952ad8a4ed28c60e8e5e1f8fec0ddcf0e1e7e2c84ce2975c8",
            "CC-BY-3.0",
            "usr/share/hydrogen/data/drumkits/belofilms_GuitarStrums/*.flac",
        ),
        (("*", "guitar"),),
    ),
    Origin(
        debian(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            "GPL-2",
            "usr/share/tuxpaint/stamps/*.ogg",
        ),
        (
            ("*_desc*", ""),
            ("*/animals/*", "animal"),
            ("*/household/*", "everyday"),
            ("*/naturalforces/*", "everyday"),
            ("*/vehicles/*", "everyday"),
        ),
    ),
    Origin(
        debian(
            "gcompris-qt-data",
            "3.1-2",
            "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
            "CC-BY-SA-3.0, CC-BY-SA-4.0, CC-BY, CC0-1.0, public domain, GPL-3+, by file",
            "usr/share/gcompris-qt/rcc/*.rcc",
        ),
        (
            ("*/explore_farm_animals/*", "animal"),
            ("*/explore_world_music/*", "music"),
            ("*/instruments/*guitar*", "guitar"),
            ("*/instruments/*drum*", "drums"),
            ("*/instruments/*bongo*", "drums"),
            ("*/instruments/*cymbal*", "drums"),
            ("*/instruments/*castanets*", "drums"),
            ("*/instruments/*maracas*", "drums"),
            ("*/instruments/*tambourine*", "drums"),
            ("*/instruments/*timpani*", "drums"),
            ("*/instruments/*triangle*", "drums"),
            ("*/instruments/*", "instrument"),
            ("*/memory-sound/*guitar*", "guitar"),
            ("*/memory-sound/*Bark*", "animal"),
            ("*/memory-sound/*Buddhist*", "drums"),
            ("*/memory-sound/*Frogs*", "animal"),
            ("*/memory-sound/*LaPause*", ""),
            ("*/memory-sound/*Weird*", ""),
            ("*/memory-sound/*.ogg", "everyday"),
            ("*/canal_lock/*", "everyday"),
            ("*/watercycle/*", "everyday"),
            ("*/guessnumber/*", "everyday"),
            ("*/money/*", "everyday"),
            ("*/railroad/*", "everyday"),
        ),
    ),
    Origin(
        debian(
            "sonic-pi-samples",
            "3.2.2~repack-8",
            "25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
            "CC0-1.0, CC-BY-SA-4.0",
            "usr/share/sonic-pi/samples/*.flac",
        ),
        (
            ("*/bd_*", "drums"),
            ("*/sn_*", "drums"),
            ("*/drum_*", "drums"),
            ("*/tabla_*", "drums"),
            ("*/loop_amen*", "drums"),
            ("*/loop_breakbeat*", "drums"),
            ("*/loop_tabla*", "drums"),
            ("*/guit_*", "guitar"),
            ("*/misc_crow*", "animal"),
            ("*/perc_door*", "everyday"),
            ("*/loop_3d_printer*", "everyday"),
            ("*/ambi_piano*", "instrument"),
        ),
    ),
    Origin(
        debian(
            "lmms-common",
            "1.2.2+dfsg1-6",
            "7d9aa55dd05f11edc57104203ee1c350e3e41f8936ab3741da2bb1158fd46c37",
            "GPL-2+, CC-BY-SA",
            "usr/share/lmms/samples/*.ogg",
        ),
        (
            ("*/drums/*", "drums"),
            ("*/beats/*beat*", "drums"),
            ("*/beats/break*", "drums"),
            ("*/instruments/*guitar*", "guitar"),
            ("*/instruments/bass*", "guitar"),
            ("*/latin/latin_guitar*", "guitar"),
            ("*/instruments/*", "instrument"),
            ("*/stringsnpads/*string*", "instrument"),
            ("*/stringsnpads/bell*", "instrument"),
            ("*/misc/applause*", "everyday"),
            ("*/misc/metronome*", "everyday"),
            ("*/misc/raving_crowd*", "everyday"),
            ("*/effects/explode*", "everyday"),
            ("*/effects/scratch*", "everyday"),
        ),
    ),
    Origin(
        debian(
            "minetest-data",
            "5.6.1+dfsg+~1.9.0mt8+dfsg-2",
            "91371dd2bd51cfcd4fa60c138667989a47047dfe1a47f7523b9ad1782d397585",
            "CC-BY-SA-3.0, CC-BY-3.0, by file",
            "usr/share/games/minetest/games/minetest_game/mods/*.ogg",
        ),
        (("*/player_damage*", ""), ("*", "everyday")),
    ),
    Origin(
        debian(
            "minetest-mod-homedecor",
            "20210327.1-2",
            "555d078c37e2a26a66aea20affa8031ea7ff05e9def7c2f9eb60cd422feb9f6c",
            "LGPL-3, CC-BY-SA-4.0, by file",
            "usr/share/games/minetest/mods/*.ogg",
        ),
        (("*", "everyday"),),
    ),
    Origin(
        debian(
            "lincity-ng-data",
            "2.9~git20150314-5",
            "8f5e85bd42879abdc7099b035d7a3d7468eceb6b93b52a12270c28f3f3c792f9",
            "GPL-2+",
            "usr/share/games/lincity-ng/sounds/*.wav",
        ),
        tuple(
            (f"*/sounds/{name}*", "everyday")
            for name in (
                *(
                    "Blacksmith",
                    "Build",
                    "CoalMine",
                    "DirtTrack",
                    "Fire[0-9]",
                    "Industry",
                    "Mill",
                    "OreMine",
                    "PowerCoal",
                ),
                *("RailTrain", "Raze", "Recycle", "Rocket", "Tip", "Trafic", "Water", "WindMill"),
            )
        ),
    ),
    Origin(
        debian(
            "wesnoth-1.16-data",
            "1:1.16.9-1",
            "1012b964bd412a6770685e3324ae3b61e176caff7846192d1ee63d55cd621e26",
            "GPL-2+",
            "usr/share/games/wesnoth/*/data/core/sounds/*",
        ),
        (
            ("*/ambient/birds*", "animal"),
            ("*/bat-*", "animal"),
            ("*/gryphon-*", "animal"),
            ("*/horse-*", "animal"),
            ("*/tusker-*", "animal"),
            ("*/wolf-*", "animal"),
            ("*/horn-signals/*", "instrument"),
            ("*/fanfare-*", "instrument"),
            ("*/wardrums*", "drums"),
            *(
                (f"*/sounds/{name}*", "everyday")
                for name in (
                    *(
                        "ambient/campfire",
                        "ambient/ship",
                        "axe",
                        "bow",
                        "cave-in",
                        "club",
                        "crossbow",
                        "explosion",
                        "fire",
                    ),
                    *("flail", "fuse", "gold", "gunshot", "hatchet", "knife", "lightning", "mace", "net", "open-chest"),
                    *("rumble", "sling", "spear", "staff", "sword", "throw", "thunderstick", "torch", "water-blast"),
                )
            ),
        ),
    ),
)
