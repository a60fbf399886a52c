"""How long a case takes, where the time goes, and what a straightforward program needs for it."""
