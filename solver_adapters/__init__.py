"""Adapters between existing solvers and the closure contract of :mod:`coupling`.

Macro scale: :mod:`solver_adapters.fenicsx` (closures in DOLFINx forms), made of :mod:`solver_adapters.macro`.
Fine scale: :mod:`solver_adapters.fenicsx_rve` (RVEs), made of what is in :mod:`solver_adapters.rve`: unit cells from
``meshes`` (generators), ``unit_cells`` (arrays and files) or ``voxels`` (images); ``kinematics``, the kinds of problem;
``energies``, the materials; ``ensembles``, statistics over random cells; ``fields``, what happens inside. Interfaces of
others: :mod:`solver_adapters.external_operator` (dolfinx-external-operator), :mod:`solver_adapters.materials`
(dolfinx_materials), :mod:`solver_adapters.precice_micro` (preCICE Micro Manager).

Each is imported by its own name, so that nothing is loaded but what a run uses.
"""
