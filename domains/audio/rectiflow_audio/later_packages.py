"""Debian packages that joined the real sounds later; new ones go to the end, or recordings would change their splits."""

from __future__ import annotations

from rectiflow_audio.real_packages import Origin, debian


def _heard(kind: str, folder: str, names: str) -> tuple[tuple[str, str], ...]:
    """A rule for each of some beginnings of file names in a folder."""
    return tuple((f"*/{folder}/{name}*", kind) for name in names.split())


LATER = (
    Origin(
        debian(
            "scorched3d-data",
            "44+dfsg-8",
            "b0be0a6d561966a62b1f135e0e6f5681c85f12e34ecad5777cb1af9fbcb7f1da",
            "GPL-2+, CC-BY-SA-3.0",
            "usr/share/games/scorched3d/data/globalmods/*",
        ),
        (
            *_heard("animal", "misc", "bats bird cows dog frogs gull moo rooster sheep wolf"),
            *_heard("animal", "explosions", "bees."),
            *_heard("everyday", "misc", "apache camera carhorn cessna cheeringloop citysounds factoryloop firetruck"),
            *_heard("everyday", "misc", "f16 f18 helicopter jet oceanwaves policecar rain splash t38 thunder"),
            *_heard("everyday", "explosions", "thunder"),
            *_heard("everyday", "shoot", "machinegun shotgun"),
            ("*/data/music/*.ogg", "music"),
        ),
    ),
    Origin(
        debian(
            "flare-game",
            "1.14-1",
            "4ab6a8298276013d35a0806257e130d992761af1b749041433b409c3dafec508",
            "CC-BY-SA-3.0+",
            "usr/share/games/flare/mods/*.ogg",
        ),
        (
            *_heard("animal", "environment", "bird_twitter forest_owl raven"),
            *_heard("everyday", "environment", "anvil cave_droplets cave_wind falling_rocks minecart open_fire rain"),
            *_heard("everyday", "environment", "river stairs stone_open wind"),
            *_heard("everyday", "soundfx", "door_open wood_open"),
            *_heard("everyday", "powers", "thunder"),
            ("*/soundfx/inventory/*", "everyday"),
            ("*/soundfx/steps/*", "everyday"),
            ("*/music/*_theme*", "music"),
            ("*/music/wind_ambient*", "everyday"),
        ),
    ),
    Origin(
        debian(
            "lugaru-data",
            "1.2-6",
            "6a25e8d2d7c2d94b7873669d1f52137b2ba56e86ba5c2f08fefeacd65e526023",
            "CC-BY-SA-3.0, CC-BY-SA-4.0, GPL-2+, by file",
            "usr/share/games/lugaru/Sounds/*.ogg",
        ),
        (
            *_heard("animal", "Sounds", "Bark Growl Hawk Snarl"),
            *_heard(
                "everyday", "Sounds", "Break Broken BushRustle Clank Fire. FootStep Knife MetalHit StaffBreak Wind"
            ),
            *_heard("music", "Sounds", "Music1Grass Music2 Music3"),
        ),
    ),
    Origin(
        debian(
            "simutrans-pak64",
            "121.0-1",
            "46c8420e162941e6d87382b43c508b1dbf48015fcd782f0c4425952ba72745cc",
            "Artistic-1.0",
            "usr/share/games/simutrans/pak/sound/*.wav",
        ),
        (
            *_heard("animal", "sound", "horse seagulls"),
            *_heard("everyday", "sound", "Water boat-horn bus buzzsaw cash comet-jet crossing diesel explosion gavel"),
            *_heard("everyday", "sound", "jackhammer planelow steam tree-cutting truck"),
        ),
    ),
    Origin(
        debian(
            "sound-icons",
            "0.1-8",
            "cbb7defa9cab0c86c9151e72c6c8a99a0ed21d244bc4c7cffdde7a0e4d9fa5b3",
            "GPL-2+",
            "usr/share/sounds/sound-icons/*.wav",
        ),
        (
            *_heard("animal", "sound-icons", "canary"),
            *_heard("instrument", "sound-icons", "cembalo klavichord piano trumpet violoncello xylofon"),
            *_heard("guitar", "sound-icons", "guitar"),
            *_heard("everyday", "sound-icons", "glass-water"),
        ),
    ),
    Origin(
        debian(
            "asterisk-moh-opsound-wav",
            "2.03-1.1",
            "8f9d808a729d305c2d3343993f21ca5e6829e411682618dc8ea7aa8bc24a566c",
            "CC-BY-SA-3.0",
            "usr/share/asterisk/moh/*.wav",
        ),
        (("*", "music"),),
    ),
    Origin(
        debian(
            "pushover-data",
            "0.0.5+git20180909-4",
            "75f52ad553c73660489631b4b4eeb308c3601beee68a097abdd5f2e4e442cbfb",
            "GPL-3+",
            "usr/share/pushover/themes/*.ogg",
        ),
        (("*", "music"),),
    ),
    Origin(
        debian(
            "megaglest-data",
            "3.13.0-3",
            "ed4783d9fc78e201a548b266f7c30325eb16cfd58a20bf4597dd6e622f84a07e",
            "CC-BY-SA-3.0",
            "usr/share/games/megaglest/*",
        ),
        (
            *_heard("animal", "sounds", "bee[0-9] bull_ chicken cow_ eagle_ ele[0-9] hawk mudchute_cow owl pig_"),
            *_heard("animal", "sounds", "rooster sheep snake wolf"),
            *_heard("everyday", "sounds", "anvil arrow_hit rain wind"),
            ("*/water_sounds/*", "everyday"),
            ("*/factions/*/music/*.ogg", "music"),
            ("*/menu/music/menu_music.ogg", "music"),
        ),
        group="unit",
    ),
)
