"""DICOM files: the header, the pixels, the place in space and the times of frames, and the study that they make."""
