"""Many cases: what is to be done, workers that keep a model loaded, and a table and a page of all lesions."""
