"""Synthetic problems planted in real text (in the manner of RULER), of any length, with gold reasoning."""
