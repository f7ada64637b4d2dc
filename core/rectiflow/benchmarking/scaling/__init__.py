"""How cost grows: with batch, state, sequence, evaluations and processes."""
