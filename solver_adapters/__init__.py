"""Adapters between existing solvers and the closure contract of :mod:`coupling`.

Macro scale: :mod:`solver_adapters.fenicsx` (closures in DOLFINx forms), :mod:`solver_adapters.load_stepping`.
Fine scale: :mod:`solver_adapters.fenicsx_rve` (periodic RVEs). Interfaces of others:
:mod:`solver_adapters.external_operator` (dolfinx-external-operator), :mod:`solver_adapters.materials`
(dolfinx_materials), :mod:`solver_adapters.precice_micro` (preCICE Micro Manager). Each is imported by its own name, so
that nothing is loaded but what a run uses.
"""
