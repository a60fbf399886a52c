"""Synthetic longitudinal pairs: a real scan or a phantom imaged twice, with lesions of all fates."""
