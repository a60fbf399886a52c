"""Training of models of lesion types, after LIDIA."""
