"""Breaks of intake and of the simulated studies."""

# ruff: noqa: E501  (a snippet stands on one line)
from __future__ import annotations

from breaks import Break

BREAKS = [
    Break(
        "export-counts-from-0",
        "CEUS-P01",
        "write_frames",
        "f'{tumour}_{video}_{index + 1}.{ending}'",
        "f'{tumour}_{video}_{index}.{ending}'",
        "off by one",
    ),
    Break(
        "export-last-frame-lost",
        "CEUS-P01",
        "write_frames",
        "range(array.shape[1])",
        "range(array.shape[1] - 1)",
        "last one lost",
    ),
    Break(
        "export-colours-turned",
        "CEUS-P01",
        "write_frames",
        "array[:, index].transpose(1, 2, 0)",
        "array[::-1, index].transpose(1, 2, 0)",
        "axis turned",
    ),
    Break("export-rows-and-columns", "CEUS-P01", "write_frames", "array[0, index]", "array[0, index].T", "axis turned"),
    Break(
        "export-format-ignored",
        "CEUS-P01",
        "write_frames",
        "suffix if frame.dtype == np.uint8 else 'png'",
        "'bmp' if frame.dtype == np.uint8 else 'png'",
        "option ignored",
    ),
    Break("export-videos-from-0", "CEUS-P01", "video_names", "start=1", "start=0", "off by one"),
    Break("export-names-kept", "CEUS-P01", "video_names", "coded(name)", "name", "privacy"),
    Break("grey-of-red", "CEUS-P11", "channels_first", "luminance(pixels)", "pixels[..., 0]", "mean"),
    Break(
        "monochrome1-not-inverted",
        "CEUS-P11 PNEU-D01",
        "Values.__call__",
        "self.interpretation == 'MONOCHROME1'",
        "False",
        "modality",
    ),
    Break(
        "monochrome1-of-16-bits",
        "CEUS-P11 PNEU-D01",
        "Values.__call__",
        "(1 << self.bits) - 1 - pixels",
        "np.iinfo(pixels.dtype).max - pixels",
        "modality",
    ),
    Break(
        "hounsfield-offset-lost",
        "",
        "Values._rescaled",
        "pixels.astype(np.int32) + int(intercept)",
        "pixels.astype(np.int32)",
        "unit",
        ("intake/test_readers.py",),
    ),
    # ------------------------------------------------------------------ RSNA
    Break(
        "rsna-least-target",
        "PNEU-D01 PNEU-D02",
        "rsna:plan",
        "pl.col('Target').cast(pl.Float64, strict=False).max()",
        "(1 - pl.col('Target').cast(pl.Float64, strict=False)).max()",
        "direction",
    ),
    Break(
        "rsna-boxes-of-the-first-row",
        "PNEU-D02",
        "rsna:plan",
        "table.join(greatest, on='patientId', how='left', maintain_order='left')",
        "table.unique('patientId', keep='first', maintain_order=True).join(greatest, on='patientId', how='left', maintain_order='left')",
        "last one lost",
    ),
    Break("rsna-third-class-lost", "PNEU-D03", "rsna:plan", "targets.append('class_info')", "pass", "option ignored"),
    Break(
        "rsna-people-ignored",
        "PNEU-D05 PNEU-D04",
        "rsna:plan",
        "fixed['patient'] = 'patient_id'",
        "fixed['patient'] = 'image'",
        "role",
        ("intake/test_scan.py::test_rsna_rows_are_collapsed_to_images",),
    ),
    Break("rsna-no-warning", "PNEU-D05", "rsna:plan", "warnings.append(notice('image_not_person'))", "pass", "report"),
    Break(
        "box-x-and-y-swapped",
        "PNEU-D02",
        "labels:_box",
        "Box.from_xywh(x, y, width, height)",
        "Box.from_xywh(y, x, width, height)",
        "a coordinate axis turned",
    ),
    # ------------------------------------------------------------------ splits
    Break(
        "split-not-stratified",
        "PNEU-D04 PNEU-S01",
        "splits:_parts",
        "dealt[turn % parts].add(members[int(place)])",
        "dealt[(turn * turn) % parts].add(members[int(place)])",
        "mean",
    ),
    Break(
        "split-seed-ignored",
        "",
        "splits:_parts",
        "seed & 2 ** 63 - 1",
        "0",
        "option ignored",
        ("ground/test_splits.py",),
    ),
    Break(
        "split-each-class-from-the-first", "PNEU-D04 PNEU-S01", "splits:_parts", "turn += 1", "turn += 2", "off by one"
    ),
    Break(
        "split-select-is-test",
        "PNEU-S01",
        "splits:_rows_of_fold",
        "'select' if p in select else 'train'",
        "'train'",
        "role",
    ),
    Break(
        "split-share-of-half",
        "PNEU-S01",
        "splits:_rows_of_fold",
        "max(2, round(1 / select_share))",
        "2",
        "factor",
        ("engine/test_transfer_recipes.py::test_split_80_20_chooses_on_the_part_it_reports_and_says_so",),
    ),
    Break(
        "split-fault-unsaid", "PNEU-S01", "config:COMPAT", "notice('split_80_20')", "notice('two_roles_one')", "report"
    ),
    Break(
        "split-test-trains-too",
        "PNEU-D04",
        "make_splits",
        "sorted(set(classes) - test)",
        "sorted(set(classes))",
        "role",
    ),
    # ------------------------------------------------------------------ simulated radiographs
    Break(
        "simulated-never-inverted",
        "PNEU-D06",
        "chest_xray:_write_dicom",
        "'MONOCHROME1' if inverted else 'MONOCHROME2'",
        "'MONOCHROME2'",
        "modality",
    ),
    Break(
        "simulated-view-lost",
        "PNEU-D06",
        "chest_xray:_write_dicom",
        "(shot.sex, f'{shot.age:03d}Y', shot.view)",
        "(shot.sex, f'{shot.age:03d}Y', 'PA')",
        "report",
    ),
    Break(
        "simulated-patient-named",
        "PNEU-D06",
        "chest_xray:_write_dicom",
        "file.PatientID = file.PatientName = image_id",
        "file.PatientID = file.PatientName = str(number)",
        "names",
    ),
    # ------------------------------------------------------------------ quantities
    Break(
        "quantity-read-as-class",
        "ECHO-E12",
        "describe_target",
        "numeric and (kind == QUANTITY or (kind is None and (not (whole and len(distinct) <= MOST_CLASSES_OF_NUMBERS))))",
        "numeric and kind == QUANTITY",
        "modality",
    ),
]
