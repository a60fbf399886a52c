"""The report for people: one HTML file with pictures, curves and the response, that needs no network."""
