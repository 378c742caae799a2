"""In which precision a model's weights may be kept."""

from typing import Literal

Dtype = Literal["bfloat16", "float16", "float32", "float64"]
