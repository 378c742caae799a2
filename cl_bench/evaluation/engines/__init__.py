"""Who answers: ours, Hugging Face's, a subprocess."""
