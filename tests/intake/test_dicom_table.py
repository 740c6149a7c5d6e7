"""The table of pydicom's own files in docs/formats.md says what a scan does today."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def table() -> ModuleType:
    pytest.importorskip("data_store", reason="pydicom-data is absent")
    spec = importlib.util.spec_from_file_location("dicom_table", ROOT / "scripts" / "dicom_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dicom_table"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def page(table: ModuleType) -> str:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    text = text.split(table.BEGIN)[1].split(table.END)[0].strip()
    if f"pydicom {version('pydicom')} and pydicom-data {version('pydicom-data')}:" not in text:
        pytest.skip("the table was made with other versions of pydicom")
    return text


def test_every_file_of_pydicom_becomes_what_the_table_says(table: ModuleType) -> None:
    """Outcomes only: kind, shape, type, unit or reason of all files; the second decoder is the slow test's."""
    text = page(table)
    found = table.rows(second=False)
    cases = sum(r.case for r in found)
    assert f"{len(found)} files, {cases} become cases, {len(found) - cases} are refused" in text
    assert cases >= 150 and len(found) >= 230
    written = [re.split(r" \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")][1:]
    outcomes = {cells[0]: cells[3] for cells in written}
    for row in found:
        if row.name in outcomes:
            assert outcomes[row.name] == row.outcome, row.name
        else:
            assert any(
                name.startswith(row.name.rpartition("/")[0] + "/ (") and outcome == row.outcome
                for name, outcome in outcomes.items()
            ), row.name


@pytest.mark.slow
def test_cases_equal_what_a_second_decoder_gives(table: ModuleType) -> None:
    found = table.rows()
    assert table.markdown(found) == page(table)
    alone = [r.name for r in found if r.case and not r.compared.startswith("equal")]
    assert alone == ["rtdose_1frame.dcm"]  # the second decoder refuses it; compressed siblings equal it


@pytest.mark.filterwarnings("ignore")
def test_the_second_decoder_agrees_on_colours(table: ModuleType) -> None:
    """A part of the slow test, one file of each colour space and compression."""
    files = dict(table.files())
    names = [
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_jls_lossy_sample.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "GDCMJ2K_TextGBR.dcm",
    ]
    names += [
        "OBXXXX1A_rle.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "color-pl.dcm",
        "gdcm-US-ALOKA-16_big.dcm",
        "dicomdirtests/77654033/CR1/6154",
    ]
    assert {name: table.row(name, files[name]).compared for name in names} == dict.fromkeys(names, "equal")
    planted = table.row("SC_rgb.dcm", files["SC_rgb.dcm"])
    assert planted.compared == "equal"
    study = table.open_study(files["SC_rgb.dcm"], table.LIMITS)
    array = table.np.stack(list(table.guarded(study, table.LIMITS)), axis=1)
    assert table.compare(array[::-1], study, files["SC_rgb.dcm"]) != "equal"  # channels in another order are noticed
