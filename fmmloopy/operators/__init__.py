"""The operators of the fast multipole method, each a loopy kernel that is only math: no tags, splits or devices.

An operator is a record, `fmmloopy.operators.operator.Operator`, in a file of its own beside its math. To add one, write
that file and name it here.
"""

from __future__ import annotations

from fmmloopy.operators.check_to_equivalent import CHECK_TO_EQUIVALENT
from fmmloopy.operators.l2l import L2L
from fmmloopy.operators.l2p import L2P
from fmmloopy.operators.m2l import M2L
from fmmloopy.operators.m2l_forward import M2L_FORWARD
from fmmloopy.operators.m2l_hadamard import M2L_HADAMARD
from fmmloopy.operators.m2l_inverse import M2L_INVERSE
from fmmloopy.operators.m2l_svd import M2L_SVD
from fmmloopy.operators.m2m import M2M
from fmmloopy.operators.m2p import M2P
from fmmloopy.operators.operator import Form, Kernel, Operator, Specification
from fmmloopy.operators.p2l import P2L
from fmmloopy.operators.p2m import P2M
from fmmloopy.operators.p2p import P2P
from fmmloopy.operators.p2p_mutual import P2P_MUTUAL

__all__ = [
    "CHECK_TO_EQUIVALENT",
    "L2L",
    "L2P",
    "M2L",
    "M2L_FORMS",
    "M2L_FORWARD",
    "M2L_HADAMARD",
    "M2L_INVERSE",
    "M2L_SVD",
    "M2M",
    "M2P",
    "OPERATORS",
    "P2L",
    "P2M",
    "P2P",
    "P2P_MUTUAL",
    "Form",
    "Kernel",
    "Operator",
    "Specification",
]

ALL = (
    P2P,
    P2P_MUTUAL,
    P2M,
    P2L,
    M2M,
    M2L,
    M2L_FORWARD,
    M2L_HADAMARD,
    M2L_INVERSE,
    M2L_SVD,
    L2L,
    L2P,
    M2P,
    CHECK_TO_EQUIVALENT,
)

OPERATORS = {operator.name: operator for operator in ALL}
"""Operators by name: those that a book may have a recipe for. M2L has a dense form, one by Fourier transform in three
stages, and one compressed by singular values; P2M, P2L and M2L end with the pseudo-inverse, check -> equivalent."""

M2L_FORMS = {form: tuple(operator for operator in ALL if operator.m2l == form) for form in ("fft", "svd", "dense")}
"""Stages of each form of M2L, in order."""
