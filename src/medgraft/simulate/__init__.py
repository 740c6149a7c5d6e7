"""Studies with known answers, written in the on-disk formats of public data sets; one file a format.

``medgraft.simulate.chest_xray``: frontal chest radiographs as DICOM and CSV (RSNA Pneumonia Detection Challenge).
"""
