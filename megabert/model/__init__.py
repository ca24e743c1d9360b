"""The encoder and its heads, as in the paper: no rank and no partition is known here."""
