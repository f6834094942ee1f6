"""Adapters between existing solvers and the closure contract of :mod:`coupling`.

Macro scale: :mod:`solver_adapters.fenicsx` (closures in DOLFINx forms), :mod:`solver_adapters.load_stepping`.
Fine scale: :mod:`solver_adapters.fenicsx_rve` (periodic RVEs). Each is imported by its own name, so that nothing is
loaded but what a run uses.
"""
