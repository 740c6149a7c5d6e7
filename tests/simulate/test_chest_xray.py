"""Simulated chest radiographs: valid files, a truth that fits them, nothing that gives the class away for free."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.stats import mannwhitneyu

from medgraft.errors import UserError
from medgraft.simulate.chest_xray import NORMAL, OPACITY, OTHER, SimulationReport, radiograph, simulate
from medgraft.stats.baseline import trivial_auc


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulationReport:
    return simulate(
        tmp_path_factory.mktemp("sim"),
        patients=24,
        images_per_patient=(1, 3),
        size=128,
        difficulty=0.2,
        prevalence=0.4,
        seed=5,
    )


def test_pneu_d06_files_are_valid_dicom_and_agree_with_the_tables(made: SimulationReport) -> None:
    """PNEU-D06: the on-disk format, read back by pydicom and compared with what was drawn."""
    files = sorted((made.out / "stage_2_train_images").glob("*.dcm"))
    labels = {row["patientId"]: row for row in rows(made.out / "labels.csv")}
    assert {path.stem for path in files} == set(labels) and len(files) == made.images
    photometric = Counter()
    means = []
    for path in files:
        study = pydicom.dcmread(path)  # without force: a true part 10 file
        row = labels[path.stem]
        assert (study.Rows, study.Columns, study.BitsStored, study.SamplesPerPixel) == (128, 128, 8, 1)
        assert (study.PatientID, study.PatientSex, int(study.PatientAge[:3]), study.ViewPosition) == (
            path.stem,
            row["sex"],
            int(row["age"]),
            row["view"],
        )
        assert study.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50"
        photometric[study.PhotometricInterpretation] += 1
        pixels = study.pixel_array
        means.append(float(255 - pixels.mean() if study.PhotometricInterpretation == "MONOCHROME1" else pixels.mean()))
    assert (
        set(photometric) == {"MONOCHROME1", "MONOCHROME2"} and photometric["MONOCHROME1"] < photometric["MONOCHROME2"]
    )
    order = {row["patientId"]: index for index, row in enumerate(rows(made.out / "labels.csv"))}
    assert np.allclose(
        means, [made.facts[order[path.stem], 2] for path in files], atol=1.0
    )  # inversion undone, JPEG close


def test_pneu_d06_label_files_have_a_row_a_box_and_fit_the_truth(made: SimulationReport) -> None:
    boxes, classes = rows(made.out / "stage_2_train_labels.csv"), rows(made.out / "stage_2_detailed_class_info.csv")
    assert [row["patientId"] for row in boxes] == [row["patientId"] for row in classes]
    truth = defaultdict(list)
    for row in rows(made.out / "truth.csv"):
        truth[row["patientId"]].append(row)
    finding = {row["patientId"]: row["class"] for row in classes}
    assert Counter(finding.values()) == Counter(made.counts) and min(made.counts.values()) > 0
    assert made.counts[OPACITY] == round(0.4 * made.images) == made.target.sum()
    found = 0
    for image, name in finding.items():
        mine = [row for row in boxes if row["patientId"] == image]
        planted = [row for row in truth[image] if row["kind"] == "opacity"]
        if name == OPACITY:
            corners = ("x", "y", "width", "height")
            assert [[row[c] for c in corners] for row in mine] == [
                [row[c] for c in corners] for row in planted
            ] and planted
            assert all(row["Target"] == "1" for row in mine)
            assert all(float(row["x"]) >= 0 and float(row["x"]) + float(row["width"]) <= 128 for row in mine)
            found += len(mine)
        else:
            assert len(mine) == 1 and mine[0]["Target"] == "0" and mine[0]["x"] == "" and not planted
            assert bool(truth[image]) == (name == OTHER)  # the not-normal hold something else, the normal nothing
    assert found == made.boxes > made.counts[OPACITY]
    patients = Counter(row["patient"] for row in rows(made.out / "patient_mapping.csv"))
    assert len(patients) == made.patients and set(patients.values()) == {1, 2, 3}


def test_boxes_cover_the_planted_opacity_and_sides_are_true() -> None:
    for patient in range(12):
        shot = radiograph(3, patient, 0, OPACITY, size=128, difficulty=0.5)
        covered = np.zeros_like(shot.opacity, dtype=bool)
        for finding in shot.findings:
            if finding.kind != "opacity":
                continue
            box = finding.box
            covered[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = True
            middle = box.x + box.width / 2
            assert (middle > 64) == (finding.side == "left")  # the patient's left is on the right of the image
        assert shot.opacity[covered].sum() > 0.95 * shot.opacity.sum() > 0
        assert covered.mean() < 0.5
    assert not radiograph(3, 0, 0, NORMAL, size=128).opacity.any()


def test_the_same_arguments_write_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    def digest(name: str, seed: int) -> dict[str, str]:
        out = tmp_path / name
        simulate(out, patients=3, images_per_patient=2, size=64, seed=seed, encoding="raw")
        return {
            str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(out.rglob("*"))
            if p.is_file()
        }

    first, second, other = digest("a", 1), digest("b", 1), digest("c", 2)
    assert first == second and len(first) == 6 + 5
    assert not set(first.values()) & set(other.values())


def test_one_image_is_drawn_alone_and_at_any_size_with_the_same_anatomy() -> None:
    small, large = (radiograph(7, 4, 1, OPACITY, size=size) for size in (128, 512))
    reduced = large.pixels.reshape(128, 4, 128, 4).mean(axis=(1, 3))
    assert np.corrcoef(reduced.ravel(), small.pixels.ravel())[0, 1] > 0.98
    assert len(small.findings) == len(large.findings)
    normal = radiograph(7, 4, 1, NORMAL, size=128)  # the same person without the disease
    outside = small.opacity == 0
    assert np.corrcoef(normal.pixels[outside], small.pixels[outside])[0, 1] > 0.98


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("patients", [30, 120])
def test_size_and_brightness_do_not_tell_the_class(tmp_path: Path, difficulty: float, patients: int) -> None:
    made = simulate(
        tmp_path / "s",
        patients=patients,
        images_per_patient=(1, 2),
        size=64,
        difficulty=difficulty,
        prevalence=0.3,
        seed=patients,
    )
    found = trivial_auc(made.facts, made.target, made.patient, resamples=200)
    print(
        f"difficulty {difficulty}, {made.images} images: AUC of size and brightness {found.value:.3f} "
        f"({found.low:.3f} to {found.high:.3f})"
    )
    assert found.value < 0.65
    made.facts[:, 2] += 40 * made.target  # the oracle of this test: it does see an exposure that depends on the class
    assert trivial_auc(made.facts, made.target, made.patient, resamples=200).value > 0.75


def separability(difficulty: float) -> float:
    """AUC of (mean inside the true box - mean inside its mirror image) against healthy people at the same places."""
    sick, healthy = [], []
    for patient in range(36):
        shot = radiograph(11, patient, 0, OPACITY, size=128, difficulty=difficulty)
        normal = radiograph(11, patient + 1000, 0, NORMAL, size=128, difficulty=difficulty)
        box = next(f.box for f in shot.findings if f.kind == "opacity")
        lines, columns = slice(int(box.y), int(box.y + box.height)), slice(int(box.x), int(box.x + box.width))
        for pixels, into in ((shot.pixels, sick), (normal.pixels, healthy)):
            into.append(pixels[lines, columns].mean() - pixels[:, ::-1][lines, columns].mean())
    return float(mannwhitneyu(sick, healthy).statistic / len(sick) / len(healthy))


def test_difficulty_makes_the_opacities_harder_to_see() -> None:
    easy, middle, hard = (separability(d) for d in (0.0, 0.5, 1.0))
    print(f"box against mirror: {easy:.3f} {middle:.3f} {hard:.3f}")
    assert easy > 0.85 and easy > middle + 0.02 and middle > hard + 0.02 and hard > 0.5


def test_impossible_arguments_and_a_used_folder_are_refused_in_one_line(tmp_path: Path) -> None:
    for wrong in (
        {"difficulty": 1.5},
        {"prevalence": -0.1},
        {"size": 8},
        {"images_per_patient": (3, 2)},
        {"patients": 0},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            simulate(tmp_path / "no", **wrong)
    assert not (tmp_path / "no").exists()
    simulate(tmp_path / "yes", patients=1, size=64)
    with pytest.raises(UserError, match="out=DIR"):
        simulate(tmp_path / "yes", patients=1, size=64)
