"""DICOM: CT series to volumes, segmentations and structure sets to lesion maps, results to segmentations and reports.

The only package that imports pydicom and highdicom.
"""
