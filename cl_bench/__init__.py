"""cl-bench: sequential fine-tuning of language models, and what it costs them."""

__version__ = "0.1.0"
