"""Synthetic longitudinal pairs: a real scan or a phantom seen twice, with lesions that persist, change, come and go."""
