"""Reading runs back: summaries, places, comparisons."""
