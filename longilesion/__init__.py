"""Segmentation of tumours in follow-up CT, given the baseline scan with its lesions, and clicks near them."""

__version__ = "0.1.0"
