"""Evaluation of outlines: the challenge's score, and measures that studies report of lesions, exams and patients."""
