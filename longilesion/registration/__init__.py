"""Registration: positions of baseline points in a follow-up scan of the same patient, with a confidence."""
