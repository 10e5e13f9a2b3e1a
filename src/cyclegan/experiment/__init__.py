"""A training as this project runs it: networks from parameters, session, samples, lineage, trials."""
