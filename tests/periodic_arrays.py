"""Square arrays of disks and cubic arrays of spheres solved without meshes: what meshes of them must converge to."""

from functools import cache
from itertools import product
from math import comb, factorial, pi

import numpy as np
from scipy.linalg import null_space
from scipy.special import jv, lpmv, spherical_jn

from coupling.polar import mandel_basis

EISENSTEIN_4 = 3.151212002153897


def conducting_disks(fraction, contrast, terms=20):
    """Conductivity of a square array of disks in a matrix of conductivity 1, by Rayleigh's multipoles.

    Around a disk of radius a the potential is Re Σ (A_n zⁿ + B_n z⁻ⁿ), n odd; its surface asks A_n = −B_n/(τ a²ⁿ)
    with τ = (σ − 1)/(σ + 1). The other disks make A_n = −Σ C(n + m − 1, n) S_{n+m} B_m, S_n = Σ w⁻ⁿ over the
    lattice; the mean field and Lorentz's field of the dipoles add −1 − π B_1 to A_1. Then κ = 1 + 2π B_1 (Rayleigh
    1892, Phil. Mag. 34, 481; Perrins, McKenzie & McPhedran 1979).
    """
    orders, tau = range(1, 2 * terms, 2), (contrast - 1) / (contrast + 1)
    scale = np.array([(fraction / pi) ** (n / 2) for n in orders])  # of the unknowns B_n/aⁿ
    sums = np.array([[-float(comb(n + m - 1, n)) * _eisenstein(n + m) for m in orders] for n in orders])
    matrix = -np.eye(terms) / tau - scale[:, None] * sums * scale
    matrix[0, 0] += pi * scale[0] ** 2
    right = np.zeros(terms)
    right[0] = -scale[0]
    return 1 + 2 * pi * np.linalg.solve(matrix, right)[0] * scale[0]


@cache
def _eisenstein(n):
    """S_n without n = 2, which the mean field stands for."""
    if n == 4:
        return EISENSTEIN_4
    x, y = np.meshgrid(np.arange(-40, 41), np.arange(-40, 41))
    w = (x + 1j * y)[(x != 0) | (y != 0)]
    return float((w ** -float(n)).sum().real) if n % 4 == 0 else 0.0


def conducting_spheres(fraction, contrast, largest=9):
    """Conductivity of a simple cubic array of spheres in a matrix of conductivity 1, by Rayleigh's multipoles.

    Around a sphere the potential is Σ A_nm R̄_nm + B_nm I_nm, n odd, with the solid harmonics R_nm = rⁿ P_nm
    e^imφ/(n + m)! and I_nm = (n − m)! r^−(n+1) P_nm e^imφ; its surface asks A_nm = (n − m)! (n + m)! a^−(2n+1) (σn
    + n + 1)/(n(1 − σ)) B_n−m. The other spheres make A_nm = −Σ S_{n+n',m+m'} B_n'm', S_nm = Σ I_nm over the
    lattice; the mean field and Lorentz's field of the dipoles add −1 − 4π/3 B_10 to A_10. Then κ = 1 + 4π B_10
    (Rayleigh 1892, Phil. Mag. 34, 481; McPhedran & McKenzie 1978, Proc. R. Soc. A 359, 45).
    """
    radius = (3 * fraction / (4 * pi)) ** (1 / 3)
    known = [(n, m) for n in range(1, largest + 1, 2) for m in range(-n, n + 1) if m % 4 == 0]
    matrix, dipole = np.zeros((len(known), len(known))), known.index((1, 0))
    for i, (n, m) in enumerate(known):
        surface = (contrast * n + n + 1) / (n * (1 - contrast)) * radius ** -(2 * n + 1)
        matrix[i] = [_lattice_sum(n + other, abs(m + k)) for other, k in known]
        matrix[i, known.index((n, -m))] += factorial(n - m) * factorial(n + m) * surface
    matrix[dipole, dipole] += 4 * pi / 3
    right = np.zeros(len(known))
    right[dipole] = -1.0
    return 1 + 4 * pi * np.linalg.solve(matrix, right)[dipole]


@cache
def _lattice_sum(n, m):
    """S_nm over the points of the cubic lattice within a sphere; S_2m = 0, which Lorentz's field stands for."""
    if n == 2 or m > n:
        return 0.0
    x, y, z = np.meshgrid(*[np.arange(-24.0, 25.0)] * 3)
    r = np.sqrt(x * x + y * y + z * z)
    inside = (r > 0) & (r < 24.5)
    x, y, z, r = x[inside], y[inside], z[inside], r[inside]
    legendre = (-1) ** m * lpmv(m, n, z / r)  # without the phase of Condon and Shortley
    return float((factorial(n - m) * legendre * np.cos(m * np.arctan2(y, x)) / r ** (n + 1)).sum())


def array_of_balls(fraction, matrix, inclusion, dim, *, degree=4, waves=24):
    """Effective law of a square or cubic array of disks or spheres: lower bound for inclusions that are stiffer.

    Hashin and Shtrikman's principle with the matrix as reference and polarisations that are polynomials of the
    given degree in the inclusion: C* = C₁ + stat_τ ⟨2τ·e − τ·(C₂ − C₁)⁻¹τ − τ·Γτ⟩ (Willis 1977, J. Mech. Phys.
    Solids 25, 185). Γ acts on the Fourier coefficients, which are known in closed form up to a radial integral;
    those beyond ``waves`` see the surface of the ball only. It converges fast with the degree.

    Args:
        fraction: of the inclusions.
        matrix: C₁ (k, k), conductivity, or isotropic stiffness in Mandel form.
        inclusion: C₂ (k, k).
        dim: 2 or 3.
        degree: even.
        waves: largest number of waves along an edge of the cell.
    """
    radius = (fraction / pi) ** 0.5 if dim == 2 else (3 * fraction / (4 * pi)) ** (1 / 3)
    wave = np.array([n for n in product(range(-waves, waves + 1), repeat=dim) if 0 < np.dot(n, n) <= waves**2])
    wave = 2 * pi * wave[: len(wave) // 2]  # the others are their opposites
    length = np.linalg.norm(wave, axis=1)
    directions = wave / length[:, None]
    harmonics = [p for order in range(0, degree + 1, 2) for p in _harmonics(order, dim)]
    basis = [(p, q) for p in harmonics for q in range((degree - p.order) // 2 + 1)]
    transforms = np.array([_transform(p, q, length, directions, radius, dim) for p, q in basis])
    k, m = len(matrix), len(basis)
    greens = _greens(matrix, directions)

    points, weights = _ball(dim)
    values = np.array([p(points) * (points**2).sum(axis=1) ** q for p, q in basis]).reshape(m, -1)
    gram, means = (values * weights) @ values.T * radius**dim, values @ weights * radius**dim
    sphere, share = _sphere(dim)
    on_surface = np.array([p(sphere) for p, _ in basis]).reshape(m, -1)

    def correlated(phi, weight, at):
        return np.einsum("an,bn,n,nij->aibj", phi, phi, weight, _greens(matrix, at), optimize=True)

    constant = next(i for i, (p, q) in enumerate(basis) if q == 0 and p.order == 0)
    missing = fraction - fraction**2 - 2 * (transforms[constant] ** 2).sum() / on_surface[constant, 0] ** 2
    G = 2 * np.einsum("an,bn,nij->aibj", transforms, transforms, greens, optimize=True)
    G += missing * correlated(on_surface, share, sphere)
    M = np.einsum("ab,ij->aibj", gram, np.linalg.inv(inclusion - matrix)) + G
    v = np.einsum("a,ij->aij", means, np.eye(k)).reshape(m * k, k)
    return matrix + v.T @ np.linalg.solve(M.reshape(m * k, m * k), v)


class _Harmonic:
    """A homogeneous harmonic polynomial of even order."""

    def __init__(self, exponents, coefficients):
        self.exponents, self.coefficients, self.order = exponents, coefficients, int(exponents[0].sum())

    def __call__(self, x):
        return (x[:, None, :] ** self.exponents).prod(axis=2) @ self.coefficients


def _harmonics(order, dim):
    """All of them: the polynomials that the Laplacian takes to zero."""
    exponents = np.array([e for e in product(range(order + 1), repeat=dim) if sum(e) == order])
    lower = {e: i for i, e in enumerate(e for e in product(range(order + 1), repeat=dim) if sum(e) == order - 2)}
    laplacian = np.zeros((len(lower), len(exponents)))
    for column, exponent in enumerate(exponents):
        for axis in np.flatnonzero(exponent >= 2):
            less = exponent.copy()
            less[axis] -= 2
            laplacian[lower[tuple(less.tolist())], column] = exponent[axis] * (exponent[axis] - 1)
    return [_Harmonic(exponents, c) for c in (null_space(laplacian).T if lower else np.eye(len(exponents)))]


def _transform(harmonic, q, length, directions, radius, dim):
    """∫ H(x/a) |x/a|^2q exp(−ik·x) over the ball of radius a: H(k/|k|) times a radial integral (Rayleigh's formula)."""
    r, weights = _unit_interval(120)
    distinct, which = np.unique(np.round(length, 9), return_inverse=True)
    order, phase = harmonic.order, np.outer(distinct * radius, r)
    bessel = 2 * pi * jv(order, phase) if dim == 2 else 4 * pi * spherical_jn(order, phase)
    radial = bessel @ (weights * r ** (order + 2 * q + dim - 1)) * radius**dim
    return (-1) ** (order // 2) * harmonic(directions) * radial[which]


def _greens(matrix, n):
    """Γ (n, k, k) of the reference in directions n: B (BᵀCB)⁻¹Bᵀ, with B a the gradient of a wave of amplitude a."""
    dim = n.shape[1]
    B = n[:, :, None] if len(matrix) == dim else np.einsum("pij,nj->npi", mandel_basis(dim), n)
    return B @ np.linalg.inv(B.transpose(0, 2, 1) @ matrix @ B) @ B.transpose(0, 2, 1)


def _sphere(dim):
    """Directions and weights of the mean over all of them, exact for polynomials of degree 20 and more."""
    angle = 2 * pi * (np.arange(40) + 0.5) / 40
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if dim == 2:
        return circle, np.full(40, 1 / 40)
    height, weights = np.polynomial.legendre.leggauss(20)
    points = [[*(np.sqrt(1 - z * z) * c), z] for z in height for c in circle]
    return np.array(points), np.repeat(weights / 80, 40)


def _ball(dim):
    """Points and weights of the integral over the unit ball."""
    directions, share = _sphere(dim)
    r, weights = _unit_interval(12)
    area = 2 * pi if dim == 2 else 4 * pi
    points = (r[:, None, None] * directions).reshape(-1, dim)
    return points, np.outer(weights * r ** (dim - 1) * area, share).ravel()


def _unit_interval(n):
    """Points and weights of the integral from 0 to 1."""
    points, weights = np.polynomial.legendre.leggauss(n)
    return (points + 1) / 2, weights / 2
