"""The story of a run: resolve, run, stage, loop, rescore."""
