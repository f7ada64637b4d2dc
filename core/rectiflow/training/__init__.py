"""The training loop on Lightning Fabric, and what makes it dependable: checkpoints, exact resume, signals, logs."""
