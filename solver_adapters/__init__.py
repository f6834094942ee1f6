"""Adapters between existing solvers and the closure contract of :mod:`coupling`.

Macro scale: :mod:`solver_adapters.fenicsx` (closures in DOLFINx forms), :mod:`solver_adapters.load_stepping`.
Fine scale: :mod:`solver_adapters.fenicsx_rve` (RVEs). Their unit cells come from :mod:`solver_adapters.rve_meshes`
(generators), :mod:`solver_adapters.unit_cells` (arrays and files) or :mod:`solver_adapters.voxels` (images); what kind
of problem they are is in :mod:`solver_adapters.kinematics`, their materials in :mod:`solver_adapters.energies`;
statistics over random ones are in :mod:`solver_adapters.ensembles`. Interfaces of others:
:mod:`solver_adapters.external_operator` (dolfinx-external-operator), :mod:`solver_adapters.materials`
(dolfinx_materials), :mod:`solver_adapters.precice_micro` (preCICE Micro Manager).

Each is imported by its own name, so that nothing is loaded but what a run uses.
"""
