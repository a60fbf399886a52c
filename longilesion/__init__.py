"""Segmentation of tumours in follow-up CT, given the baseline scan, its outlined lesions and a click near each lesion."""

__version__ = "0.1.0"
