"""What the macro adapter is made of: fluxes in forms, their points, one agreed evaluation, SNES and load stepping."""
