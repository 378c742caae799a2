"""One file per method; `base.py` is the contract, `registry.py` finds them."""
