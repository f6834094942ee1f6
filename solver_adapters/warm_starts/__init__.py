"""What :mod:`solver_adapters.petsc_snes` is made of: vectors, tolerances, options, time steps, tangent predictor."""
