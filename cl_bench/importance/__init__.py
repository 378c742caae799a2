"""Fisher and the other scores that methods rank parameters by."""
