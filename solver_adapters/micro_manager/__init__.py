"""Simulations of the preCICE Micro Manager as closures, and what both directions share."""
