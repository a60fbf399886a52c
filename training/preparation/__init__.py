"""Data sets as Grand-Challenge-shaped case folders with truth, and patient-wise folds: made here, read here."""
