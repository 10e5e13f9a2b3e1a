"""HTML pages and plots of the evaluation and the search. Nothing is measured here."""
