"""MRD headers: incomplete ones, what they say of counters and noise, and where they put an image."""

from __future__ import annotations

import ismrmrd
import pytest
from ismrmrd import xsd
from test_mrd import header

from crbsvd_plugin import mrd
from crbsvd_plugin.errors import UserError
from crbsvd_plugin.geometry import Geometry


def test_header_that_lacks_and_adds_elements() -> None:
    text = """<?xml version="1.0"?><ismrmrdHeader><news>1</news><encoding><trajectory>koosh</trajectory><reconSpace>
      <matrixSize><x>8</x><y>8</y><z>1</z></matrixSize><fieldOfView_mm><x>240</x><y>240</y><z>5</z></fieldOfView_mm>
      </reconSpace></encoding></ismrmrdHeader>"""
    read = mrd.parse_header(text.encode() + b"\0")
    assert read.experimentalConditions is None
    assert mrd.limits(read) == {}
    assert mrd.user_strings(read) == {}
    assert mrd.noise_bandwidth(read) is None
    assert mrd.geometry_of(read, ismrmrd.Acquisition()) == Geometry((8, 8, 1), (30.0, 30.0, 5.0))


def test_complete_header_answers() -> None:
    read = mrd.parse_header(xsd.ToXML(header()))
    assert mrd.limits(read)["contrast"] == (0, 4)
    assert mrd.limits(read)["repetition"] == (0, 1)
    assert mrd.limits(read, 1) == {}
    assert mrd.user_strings(read) == {"trajectory_unit": "cycles/fov"}
    assert mrd.noise_bandwidth(read) == 1.0


def test_geometry_comes_from_header_and_readout() -> None:
    readout = ismrmrd.Acquisition()
    readout.position[:] = [1, 2, 3]
    readout.read_dir[:], readout.phase_dir[:], readout.slice_dir[:] = [0, 1, 0], [0, 0, -1], [-1, 0, 0]
    expected = Geometry((6, 6, 1), (2.0, 2.0, 5.0), (1, 2, 3), (0, 1, 0), (0, 0, -1), (-1, 0, 0))
    assert mrd.geometry_of(header(), readout) == expected


def test_empty_recon_space_falls_back_to_the_encoded_one() -> None:
    empty = header()
    empty.encoding[0].reconSpace.matrixSize.x = 0
    # the encoded space of a radial scan has twice as many samples over twice the field of view
    assert mrd.geometry_of(empty, ismrmrd.Acquisition()) == Geometry((12, 6, 1), (2.0, 2.0, 5.0))


def test_header_without_sizes_is_refused() -> None:
    nothing = mrd.parse_header("<ismrmrdHeader><encoding/></ismrmrdHeader>")
    with pytest.raises(UserError, match="neither matrixSize nor fieldOfView_mm"):
        mrd.geometry_of(nothing, ismrmrd.Acquisition())
    with pytest.raises(UserError, match=r"0 encodings.*number 0"):
        mrd.geometry_of(mrd.parse_header("<ismrmrdHeader/>"), ismrmrd.Acquisition())


def test_metres_are_recognised() -> None:
    metres = header()
    fov = metres.encoding[0].reconSpace.fieldOfView_mm
    fov.x, fov.y, fov.z = 0.24, 0.24, 0.005
    with pytest.raises(UserError, match="looks like metres"):
        mrd.geometry_of(metres, ismrmrd.Acquisition())
