"""Synthetic problems planted in real text (in the manner of RULER), of any length, with gold reasoning.

To add a task, write a function and a line. The function, in a file of its own like lookup.py, draws people from `Names`
and returns a `Planting`: facts (the needed ones first), question, answers, chain of thought. The line names it in
`TASKS` of generate.py. Length, depth, look-alike distractors, seeds, token counts, workers, resuming and the grid are
then there; tests/data/test_synthesis_solver.py asks for a solver that reads the document and finds the gold answer.
"""
