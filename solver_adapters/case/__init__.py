"""Whole FE² cases from a file: ``twoscale run CASE.toml``.

:mod:`schema` says what a case is, :mod:`reading` reads one and tells every mistake with its line, :mod:`building` makes
meshes, closures and the macro problem of it, :mod:`running` steps it to its full load, :mod:`outputs` keeps results.
"""
