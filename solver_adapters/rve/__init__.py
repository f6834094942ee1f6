"""What an RVE is made of: unit cells, materials, kinematics, boundary conditions, the discrete problem."""
