"""How good the generators are: metrics and the protocol by which they are measured. Nothing is drawn here."""
