"""Judging: point metrics, patient-level intervals, paired tests, calibration and the summary. numpy only, no torch."""
