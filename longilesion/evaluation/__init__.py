"""How good outlines are: the challenge's score, and what researchers report of lesions, exams and patients."""
