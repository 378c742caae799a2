"""Our own lm-eval model, which reads what prompts share once."""
