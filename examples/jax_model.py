"""A simulator in JAX as a model: automatic differentiation gives what a basis needs.

    crbsvd check-model examples/jax_model.py:Balanced --set n=300
    crbsvd basis examples/jax_model.py:Balanced --set n=300 -o balanced

As a script it does both. JAX is no part of this program: `pip install jax`. With torch it is the same, with
`torch.func.jacfwd` in place of `jax.jacfwd`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

# derivatives are compared with differences, which single precision drowns
jax.config.update("jax_enable_x64", True)

parameters = [("T1", "s", 0.1, 4.0), ("T2", "s", 0.02, 2.0), ("w0", "rad/s", -300.0, 300.0)]


class Balanced:
    """Balanced steady-state free precession after an inversion: rotations and relaxation, pulse by pulse."""

    parameters = parameters

    def __init__(self, n: int = 300, tr: float = 5e-3):
        self.n, self.tr = n, tr
        # degrees, two lobes; every other pulse is the other way round
        angles = 10 + 50 * np.abs(np.sin(2 * np.pi * np.arange(n) / n))
        self._angles = jnp.asarray(np.deg2rad(angles) * (-1) ** np.arange(n))
        self._signal = jax.jit(jax.vmap(self._train))
        self._jacobian = jax.jit(jax.vmap(jax.jacfwd(self._train)))

    def signal(self, theta: np.ndarray) -> np.ndarray:
        """Return the signals (B, T) of theta (B, 3)."""
        return self._complex(self._signal(theta))

    def signal_and_jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the signals (B, T) and their derivatives (B, 3, T)."""
        return self.signal(theta), np.moveaxis(self._complex(np.moveaxis(self._jacobian(theta), -1, 2)), 1, 2)

    def _train(self, theta: jax.Array) -> jax.Array:
        """Return the signal of one fingerprint, real and imaginary parts (T, 2)."""
        t1, t2, w0 = theta
        half = self.tr / 2
        c, s = jnp.cos(w0 * half), jnp.sin(w0 * half)
        decay, recovery = jnp.exp(-half / t2), jnp.exp(-half / t1)

        def waited(m: jax.Array) -> jax.Array:
            x, y, z = m
            return jnp.stack([decay * (c * x - s * y), decay * (s * x + c * y), 1 + recovery * (z - 1)])

        def pulse(m: jax.Array, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
            x, y, z = m
            a, b = jnp.cos(angle), jnp.sin(angle)
            echo = waited(jnp.stack([x, a * y - b * z, b * y + a * z]))
            return waited(echo), echo[:2] * jnp.sign(angle)

        return jax.lax.scan(pulse, jnp.array([0.0, 0.0, -1.0]), self._angles)[1]

    @staticmethod
    def _complex(parts: jax.Array) -> np.ndarray:
        parts = np.asarray(parts)
        return np.asarray(parts[..., 0] + 1j * parts[..., 1])


def main() -> None:
    """Check the model, and make a basis of it."""
    from crbsvd_plugin.cli import main as crbsvd

    spec, settings = f"{Path(__file__)}:Balanced", ["--set", "n=300"]
    name = str(Path(sys.argv[1]) / "balanced")
    status = crbsvd(["check-model", spec, *settings])
    sys.exit(status or crbsvd(["basis", spec, *settings, "-o", name, "--train", "2000", "--atoms", "none"]))


if __name__ == "__main__":
    main()
