"""Arrays of other libraries, in and out: those of pyopencl, and those that DLPack exchanges."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPENCL = "pyopencl"
"""The library whose arrays are recognized by their type, since DLPack does not exchange them."""

HOST = 1
"""DLPack's type of device for memory of the host."""

COPIES = ("cpu", "get")
"""Methods of arrays on a device that copy them to the host: PyTorch's, and CuPy's."""


def on_host(values: Any, name: str) -> Any:
    """Return an array of another library as a numpy array, and everything else unchanged.

    What is in the memory of the host is not copied.

    Raises:
        ValueError: it cannot be read; the message names its type.
    """
    if not _is_foreign(values):
        return values
    try:
        if _library(values) == OPENCL:
            return values.get() if values.flags.forc else _strided(values)
        if values.__dlpack_device__()[0] != HOST:
            copy = next((method for method in COPIES if hasattr(values, method)), None)
            if copy is None and not hasattr(values, "__array__"):
                raise TypeError("it is on a device, and has no method to copy it to the host")
            return np.asarray(getattr(values, copy)() if copy else values)
        return np.from_dlpack(values)
    except Exception as error:  # each library has its own
        said = " ".join(str(error).split())
        raise ValueError(
            f"{name} is an array of type {_type_name(values)}, which cannot be read ({said}); convert it to a numpy "
            "array"
        ) from error


def like(result: NDArray[Any], given: Any) -> Any:
    """Return a result as an array of the library, and on the device, of what the caller gave.

    Libraries that exchange arrays and cannot make them from numpy's get these.
    """
    if not _is_foreign(given):
        return result
    library = _library(given)
    if library == OPENCL:
        copy = type(given)(given.queue, result.shape, result.dtype)
        copy.set(result)
        return copy
    functions = given.__array_namespace__() if hasattr(given, "__array_namespace__") else sys.modules[library]
    if not hasattr(functions, "asarray"):
        return result
    return functions.asarray(result, **({"device": given.device} if library == "torch" else {}))


def write_out(out: Any, results: tuple[NDArray[Any], ...]) -> tuple[Any, ...]:
    """Write results to the arrays of the caller, of whatever library, and return these.

    Raises:
        ValueError: they are not as many as the results, or not arrays of their shapes and types that can be written to.
            If the first two are wrong, nothing has been written.
    """
    arrays = tuple(out) if isinstance(out, (tuple, list)) else (out,)
    if len(arrays) != len(results):
        given = "1 array" if len(arrays) == 1 else f"{len(arrays)} arrays"
        raise ValueError(f"out has {given}, expected {len(results)}: one for each result")
    for array, result in zip(arrays, results, strict=True):
        _check_out(array, result)
    for array, result in zip(arrays, results, strict=True):
        if isinstance(array, np.ndarray):
            np.copyto(array, result)
            continue
        try:
            if _library(array) == OPENCL:
                array.set(np.require(result, requirements="C" if array.flags.c_contiguous else "F"))
            else:
                array[...] = like(result, array)
        except Exception as error:  # each library has its own
            said = " ".join(str(error).split())
            raise ValueError(
                f"out is an array of type {_type_name(array)}, which cannot be written to ({said}); leave it out"
            ) from error
    return arrays


def _check_out(array: Any, result: NDArray[Any]) -> None:
    """Make sure that an array can take a result."""
    expected = f"shape {result.shape} and dtype {result.dtype}"
    is_numpy = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    if not is_numpy and not _is_foreign(array):
        raise ValueError(
            f"out is an array of type {_type_name(array)}, expected one of numpy, pyopencl or DLPack, of {expected}"
        )
    shape = tuple(getattr(array, "shape", ()))
    dtype = str(getattr(array, "dtype", "unknown")).rpartition(".")[2]  # torch.float64
    if (shape, dtype) != (result.shape, result.dtype.name):
        raise ValueError(f"out has shape {shape} and dtype {dtype}, expected {expected}")
    if is_numpy and not array.flags.writeable:
        raise ValueError("out cannot be written to, expected a writeable array")
    if _library(array) == OPENCL and not array.flags.forc:
        raise ValueError("out is an array of pyopencl with gaps, expected a contiguous one")


def _strided(values: Any) -> NDArray[Any]:
    """Return an array of pyopencl that has gaps, or another order, by copying the memory that it spans."""
    itemsize = values.dtype.itemsize
    reaches = [(length - 1) * stride for length, stride in zip(values.shape, values.strides, strict=True)]
    below, above = sum(min(reach, 0) for reach in reaches), sum(max(reach, 0) for reach in reaches)
    count = (above - below) // itemsize + 1
    memory = type(values)(
        values.queue, (count,), values.dtype, data=values.base_data, offset=values.offset + below
    ).get()
    view = np.lib.stride_tricks.as_strided(memory[-below // itemsize :], values.shape, values.strides)
    return np.ascontiguousarray(view)


def _is_foreign(values: Any) -> bool:
    if isinstance(values, (np.ndarray, np.generic)):
        return False
    is_opencl = _library(values) == OPENCL and hasattr(values, "queue")
    return is_opencl or (hasattr(values, "__dlpack__") and hasattr(values, "__dlpack_device__"))


def _library(values: Any) -> str:
    return type(values).__module__.partition(".")[0]


def _type_name(values: Any) -> str:
    return f"{type(values).__module__}.{type(values).__qualname__}"
