"""What the command line does: one verb a file, each `run(spec, config)` after the configuration is known to be sound."""
