"""Intake: raw studies (pictures, videos, volumes, DICOM) become arrays and tables. No torch."""
