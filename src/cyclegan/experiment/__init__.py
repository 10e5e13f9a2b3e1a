"""A training from parameters and data: networks, plan, session, samples, lineage, trials of a search."""
