"""Disputes for people: proofs from files, their judgement, and what a court's events tell.

files.py      proof files and trace files: JSON from anybody, read strictly
inputs.py     Programs, states and batches from files, as a Program's arguments
archived.py   the same from a run's folder: a unit's segment, or a round's merge
proving.py    where a claimed result goes wrong first, and the proof of it
judging.py    a proof's verdict: the referee in Python, the contract in this process, the contract on a chain
playing.py    disputes of a person without a node: accusing, and playing to the end
history.py    disputes as a court's events tell them
telling.py    findings, proofs and verdicts in words and as JSON
wording.py    operations, elements and values in words
"""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.disputes: a bare 'import {__name__}' would make a second, unequal set of classes")
