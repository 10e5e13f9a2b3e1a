"""How good the generators are: figures, their protocol, and a report to look at."""
