"""Exported files open in biotite and gemmi; pictures and pages show the chains they were given."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from biotite.structure.io.pdb import PDBFile
from biotite.structure.io.pdbx import CIFFile, get_structure
from PIL import Image

from rectiflow.errors import ConfigError, DataError
from rectiflow_proteins.output import write_structure
from rectiflow_proteins.plots import contact_maps, ramachandran_plot
from rectiflow_proteins.reading import Segment
from rectiflow_proteins.ribbons import COLOURS, paint, ribbon, upright
from rectiflow_proteins.viewer import viewer_page


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_files_open_elsewhere(crambin: Segment, tmp_path: Path, suffix: str) -> None:
    path = write_structure(tmp_path / f"x{suffix}", [crambin.atoms], crambin.sequence)
    array = (
        PDBFile.read(path).get_structure(model=1) if suffix == ".pdb" else get_structure(CIFFile.read(path), model=1)
    )
    np.testing.assert_allclose(array.coord.reshape(-1, 4, 3), crambin.atoms.numpy(), atol=1e-3)
    assert array.atom_name.tolist() == ["N", "CA", "C", "O"] * 46
    assert array.element[:4].tolist() == ["N", "C", "C", "O"]
    polymer = gemmi.read_structure(str(path))[0][0].get_polymer()
    assert gemmi.one_letter_code([residue.name for residue in polymer]) == crambin.sequence


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_trajectories_have_one_model_a_state(crambin: Segment, tmp_path: Path, suffix: str) -> None:
    states = [crambin.atoms * scale for scale in (0.2, 0.6, 1.0)]
    structure = gemmi.read_structure(str(write_structure(tmp_path / f"x{suffix}", states)))
    assert len(structure) == 3
    assert structure[2][0][5]["CA"][0].pos.x == pytest.approx(float(crambin.atoms[5, 1, 0]), abs=1e-3)


def test_what_cannot_be_written(crambin: Segment, tmp_path: Path) -> None:
    atoms = crambin.atoms
    with pytest.raises(ConfigError, match=r"\.pdb or \.cif"):
        write_structure(tmp_path / "x.xyz", [atoms])
    for models, sequence in (([], ""), ([atoms, atoms[:5]], ""), ([atoms[:, :3]], ""), ([atoms], "AAA")):
        with pytest.raises(ConfigError, match=r"\(N, 4, 3\)"):
            write_structure(tmp_path / "x.pdb", models, sequence)
    with pytest.raises(DataError, match="finite"):
        write_structure(tmp_path / "x.pdb", [atoms + float("nan")])
    with pytest.raises(DataError, match="centre"):
        write_structure(tmp_path / "x.pdb", [atoms + 20_000])


def test_upright_turns_and_never_mirrors(crambin: Segment) -> None:
    turned = upright(crambin.atoms)
    before, after = (torch.cdist(points[:, 1], points[:, 1]) for points in (crambin.atoms, turned))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    spread = turned[:, 1].square().mean(0)
    assert spread[1] > spread[0] > spread[2]
    volume = [float(torch.linalg.det(points[[5, 17, 30], 1] - points[2, 1])) for points in (crambin.atoms, turned)]
    assert volume[0] == pytest.approx(volume[1])


def test_ribbons_follow_the_chain(crambin: Segment) -> None:
    one = ribbon(crambin.atoms, sides=4, steps=5)
    assert one.corners.shape == (45 * 5 + 1, 4, 3)
    centre = torch.tensor(one.corners.mean(1))[::5]
    places = upright(crambin.atoms)[:, 1]
    gap = torch.linalg.vector_norm(centre - places, dim=1)
    assert gap[[0, -1]].max() < 1e-6
    assert gap.max() < 2.5
    assert set(one.states.tolist()) <= {0, 1, 2}


def test_pictures_show_helices_and_strands(crambin: Segment, bpti: Segment) -> None:
    picture = paint([ribbon(crambin.atoms), ribbon(bpti.atoms)], columns=2, tile=96)
    assert picture.size == (192, 96)
    pixels = np.asarray(picture).reshape(-1, 3).astype(int)
    drawn = (pixels.min(1) < 235).mean()
    assert 0.02 < drawn < 0.6
    for colour in COLOURS[1:]:
        direction = np.array(colour) / np.linalg.norm(colour)
        cosine = (pixels @ direction) / (np.linalg.norm(pixels, axis=1) + 1e-9)
        assert ((cosine > 0.985) & (pixels.min(1) < 150)).mean() > 0.003


def test_plots(crambin: Segment, bpti: Segment) -> None:
    for picture in (
        ramachandran_plot([crambin.atoms], [bpti.atoms]),
        ramachandran_plot([crambin.atoms]),
        contact_maps([crambin.atoms, bpti.atoms, crambin.atoms], columns=2),
    ):
        assert isinstance(picture, Image.Image)
        assert min(picture.size) > 150
    with pytest.raises(ConfigError, match="at least 1"):
        contact_maps([])


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_view_is_one_page_with_the_chains(crambin: Segment, bpti: Segment) -> None:
    caption = 'crambin </script> "&<'
    pictures = {"Contacts": contact_maps([crambin.atoms])}
    page = viewer_page([crambin.atoms, bpti.atoms], [caption, "BPTI"], title="<b>", pictures=pictures)
    parsed = _Page()
    parsed.feed(page)
    assert parsed.tags.count("script") == 1
    # Without scripts there is a picture, and nothing to press.
    still = parsed.addresses[0].removeprefix("data:image/png;base64,")
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(still))).convert("RGB")).min(-1) < 200).mean() > 0.02
    assert re.search(r"<canvas hidden.*\n<nav hidden>", page)
    assert all(address.startswith("data:image/png") for address in parsed.addresses)
    assert "{{" not in page
    assert "&lt;b&gt;" in page
    data = json.loads(re.search(r"const chains = (\[.*?\]);\n", page)[1])  # type: ignore[index]
    assert [entry["caption"] for entry in data] == [caption, "BPTI"]
    assert len(data[0]["corners"]) == 3 * data[0]["sides"] * len(data[0]["states"])
    assert len(page) < 200_000
    with pytest.raises(ConfigError, match=r"caption each"):
        viewer_page([crambin.atoms], [])
