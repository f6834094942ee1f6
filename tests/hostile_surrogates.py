"""Surrogates that mean no good: whatever they say, the exact mode must give the classical answer."""

from dataclasses import replace

import numpy as np

from coupling.contract import Response


class Hostile:
    """A surrogate with a closure's components: ``answer`` maps gradients (n, k) to flux and tangent."""

    def __init__(self, spec, answer):
        self.spec = replace(spec, state_size=0, history=False, symmetric=False)
        self.answer = answer

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        flux, tangent = self.answer(gradient)
        return Response(flux, tangent, np.zeros(len(gradient), np.int8))


def random_weights(spec, seed=0, size=1.0, width=16):
    """An untrained network q = size·B tanh(A (g − g_ref) + a), with its exact tangent."""
    rng = np.random.default_rng(seed)
    A, a, B = rng.normal(size=(width, spec.k)) * 3.0, rng.normal(size=width), rng.normal(size=(spec.m, width)) * size

    def answer(g):
        y = np.tanh((g - np.array(spec.reference)) @ A.T + a)
        return y @ B.T, np.einsum("mw,nw,wk->nmk", B, 1.0 - y * y, A)

    return Hostile(spec, answer)


def constant(spec, value=7.0):
    return Hostile(spec, lambda g: (np.full((len(g), spec.m), value), np.zeros((len(g), spec.m, spec.k))))


def not_a_number(spec):
    return constant(spec, np.nan)


def raising(spec):
    def answer(g):
        raise ArithmeticError("the model is broken")

    return Hostile(spec, answer)


HOSTILE = {"random weights": random_weights, "constant": constant, "NaN": not_a_number, "exception": raising}
