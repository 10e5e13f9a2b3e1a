"""Metrics of generators, and the protocol that measures them. Reports and plots are in `cyclegan.report`."""
