"""Difference operators on the structured grids of DMDA."""
