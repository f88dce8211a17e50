"""plait: an IR-centric graph compiler."""
