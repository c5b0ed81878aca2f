"""What a host says becomes the one strict config, and no more than it may say."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from mrd_stream import header, readout

from crbsvd_plugin.errors import UserError
from crbsvd_plugin.markup import parse_xml
from crbsvd_plugin.mrd_header import geometry_of, parse_header
from crbsvd_plugin.settings import PRESETS, Online, Site


@pytest.fixture
def bases(made: Path, tmp_path: Path) -> Path:
    """A folder with the bases b and c.d, coefficient images, and a file that is no JSON."""
    folder = tmp_path / "bases"
    folder.mkdir()
    for suffix in (".cfl", ".hdr", ".json", ".h5"):
        shutil.copy(made / f"b{suffix}", folder)
        shutil.copy(made / f"b{suffix}", folder / f"c.d{suffix}")
    for suffix in (".cfl", ".hdr", ".json"):
        shutil.copy(made / f"c{suffix}", folder)
    (folder / "broken.json").write_text("{")
    return folder


def site(**settings: Any) -> Site:
    return Site(settings={"basis": "b", **settings})


WANTED = {"lam": 0.5, "rank": 3, "std": False, "shots": ("repetition", "average"), "images": "uint16", "coils": None}

XML = (
    '<configuration><property name="lam" value="0.5"/><property name="rank" value="3"/>'
    '<property name="std" value="0"/><property><name>shots</name><value>repetition,average</value></property>'
    '<property name="images" value="uint16"/><property name="coils" value=""/></configuration>\0'
)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(WANTED),
        json.dumps({"version": "1.0", "parameters": {k: str(v) for k, v in WANTED.items() if k != "shots"} | {
            "shots": "repetition, average"}}),
        'lam = 0.5\nrank = 3\nstd = false\nshots = ["repetition", "average"]\nimages = "uint16"\ncoils = "none"',
        XML,
    ],
    ids=["json", "openrecon", "toml", "xml"],
)  # fmt: skip
def test_every_form_says_the_same(text: str) -> None:
    found = site(std=True, coils=8).config(text)
    assert {name: getattr(found, name) for name in WANTED} == WANTED
    assert found == site(**WANTED).config()


@pytest.mark.parametrize("key", ["traj_units", "trajUnits", "traj-units", "TRAJUNITS", "trajunits"])
def test_names_of_hosts_that_may_not_have_underscores(key: str) -> None:
    assert site().config(json.dumps({key: "rad/m"})).traj_units == "rad/m"


def test_no_two_settings_have_one_name_without_underscores() -> None:
    names = [name.replace("_", "") for name in Online.__struct_fields__]
    assert len(set(names)) == len(names)


def test_later_texts_win_and_presets_come_first() -> None:
    presets = {**PRESETS, "fast": {"iterations": 5, "lam": 0.1}}
    host = Site(settings={"basis": "b", "iterations": 20, "rank": 4}, presets=presets)
    found = host.config("fast", '{"parameters": {"lam": "0.2"}}')
    assert (found.iterations, found.lam, found.rank) == (5, 0.2, 4)
    # what is typed in wins over what is picked, and both over nothing
    found = host.config('{"parameters": {"config": "crbsvd", "customconfig": "fast"}}')
    assert found.iterations == 5
    assert host.config('{"parameters": {"config": "crbsvd", "customconfig": ""}}').iterations == 20
    found = host.config("crbsvdcoefficients")
    assert (found.fit, found.coefficients) == (False, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"lambda": 1}', r"nothing is called 'lambda' \(did you mean 'lam'\?\)"),
        ('{"iterations": "many"}', "Expected `int`, got `str` - at `$.iterations`"),
        ('{"iterations": {"a": 1}}', "Expected `int`"),
        ('{"images": "int32"}', "Invalid enum value 'int32'"),
        ('{"parameters": 3}', "parameters must be an object"),
        ("[" * 100_000 + "=", "no valid TOML"),
        ('{"a": ' + "[" * 100_000, "no valid JSON"),
        ("<configuration><gadget/></configuration>", "the XML has a 'gadget'"),
        ("<configuration>" + "<property>" * 100, "64 levels"),
        ("os.path", "no preset is called 'os.path', expected one of: crbsvd, crbsvdcoefficients"),
        ("crbsvdd", r"did you mean 'crbsvd'\?"),
        ('{"kernelcache": "/tmp"}', "kernel_cache is for whoever starts"),
        ('{"bart_keep": "/tmp/files"}', "bart_keep is for whoever starts"),
        ('{"b1": "/etc/b1.nii"}', "b1 is for whoever starts"),
        ('{"basis": "b"}', "a basis cannot be chosen here"),
        ('{"replicas": 3}', "no standard deviations are wanted"),
    ],
)
def test_what_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("$.", r"\$\.").replace("`", ".")):
        site().config(text)


def test_a_basis_by_name(bases: Path) -> None:
    host = Site(bases=bases)
    assert host.config('{"basis": "b"}').basis == str(bases / "b")
    assert host.config('{"basis": "c.d"}').basis == str(bases / "c.d")
    with pytest.raises(UserError, match="no basis is named"):
        host.config()
    # of the site's own settings too
    assert Site(settings={"basis": "b"}, bases=bases).config().basis == str(bases / "b")


@pytest.mark.parametrize("name", ["../bases/b", "/etc/passwd", "./b", "..", ".", ".hidden", "b\0", "a/b"])
def test_names_that_are_paths(bases: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a basis"):
        Site(bases=bases).config(json.dumps({"basis": name}))


def test_a_basis_that_is_not_there(bases: Path) -> None:
    with pytest.raises(UserError, match=r"there is no basis 'bb', expected one of: b, c\.d \(did you mean 'b'\?\)"):
        Site(bases=bases).config('{"basis": "bb"}')


@pytest.mark.parametrize("suffix", [".json", ".cfl", ".hdr", ".h5"])
def test_links_out_of_the_folder(bases: Path, tmp_path: Path, suffix: str) -> None:
    shutil.move(bases / f"b{suffix}", tmp_path / f"b{suffix}")
    (bases / f"b{suffix}").symlink_to(tmp_path / f"b{suffix}")
    with pytest.raises(UserError, match="is a link that leads elsewhere"):
        Site(bases=bases).config('{"basis": "b"}')


def test_links_within_the_folder(bases: Path, tmp_path: Path) -> None:
    for suffix in (".json", ".cfl", ".hdr", ".h5"):
        (bases / f"e{suffix}").symlink_to(f"b{suffix}")
    (tmp_path / "elsewhere").symlink_to(bases)
    assert Site(bases=tmp_path / "elsewhere").config('{"basis": "e"}').basis.endswith("/e")


def test_a_file_of_settings(tmp_path: Path, bases: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('basis = "b"\nlam = 0.1\nkernel_cache = "k"\n[presets.fast]\niterations = 5\n')
    host = Site.load(file, bases)
    found = host.config("fast")
    assert (found.lam, found.iterations, found.kernel_cache) == (0.1, 5, "k")
    assert host.config("crbsvd").iterations == 30


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("lamm = 1", "nothing is called 'lamm'"),
        ("lam = []", "Expected `float`"),
        ("[presets.a]\nlamm = 1", "nothing is called 'lamm'"),
        ("[presets.a]\nlam = []", "Expected `float`"),
        ("presets = 3", "must be tables"),
        ("lam =", "cannot be read as TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_at_the_start(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "site.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=said.replace("`", ".")):
        Site.load(file, None)


def test_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        Site.load(None, tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read as TOML"):
        Site.load(tmp_path / "none.toml", None)
    assert list(tmp_path.iterdir()) == []


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.one_of(st.text(), st.sampled_from(["<", "{", "a="]).flatmap(lambda first: st.text().map(first.__add__)))
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UserError):
        site().config(text)


@hypothesis.settings(max_examples=300)
@hypothesis.given(st.integers(0, 10**9), st.binary(max_size=8), st.integers(0, 40))
def test_changed_headers_are_read_or_refused(at: int, other: bytes, cut: int) -> None:
    whole = header((4, 4, 1), 5).toXML().encode()
    start = at % len(whole)
    with suppress(UserError):
        found = parse_header(whole[:start] + other + whole[start + cut :])
        geometry_of(found, readout(np.ones((1, 4))))


# --- what lies ready in gadgets/config

CONFIGS = Path(__file__).parent.parent / "gadgets" / "config"


@pytest.mark.parametrize("chain", sorted(CONFIGS.glob("*.xml")), ids=lambda path: path.name)
def test_ready_chains(chain: Path) -> None:
    """Every external node starts a target that is there, or connects, and its properties are settings."""
    from crbsvd_gadgets import gadgetron_external

    nodes = parse_xml(chain.read_bytes()).findall("stream/external")
    assert nodes
    for node in nodes:
        execute, configuration = node.find("execute"), node.find("configuration")
        if execute is None:
            assert node.find("connect") is not None
        else:
            assert execute.get("name") == gadgetron_external.__name__
            assert callable(getattr(gadgetron_external, execute.get("target") or ""))
        assert configuration is not None
        for named in configuration.findall("property[@name='basis']"):
            configuration.remove(named)
        site().config(ElementTree.tostring(configuration, "unicode"))


def test_the_label_of_a_container() -> None:
    """What OpenRecon's schema demands of parameters, and that every one is a setting with a value that is allowed."""
    label = json.loads((CONFIGS / "OpenReconLabel.json").read_text())
    parameters = label["parameters"]
    assert len(parameters) <= 14
    assert all(parameter["id"].isalnum() for parameter in parameters)
    said = {parameter["id"]: str(parameter["default"]) for parameter in parameters}
    assert said.pop("basis") == "fisp"
    found = site().config(json.dumps({"version": "1.1", "parameters": said}))
    assert (found.images, found.iterations, found.coils) == ("uint16", 30, 8)
    for parameter in parameters:
        for value in parameter.get("values", []):
            assert value["id"].isalnum()
            if parameter["id"] != "basis":
                site().config(json.dumps({"parameters": {parameter["id"]: value["id"]}}))
    assert label["reconstruction"]["transfer_protocol"]["protocol"] == "ISMRMRD"
