"""Registration: where the points of a baseline scan lie in a follow-up scan of the same patient, and how sure."""
