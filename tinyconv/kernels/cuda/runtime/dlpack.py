"""Reading a DLPack capsule: how frameworks hand each other an array without copying it.

``x.__dlpack__()`` returns a capsule, a pointer to a C structure that says where the data lies and how it is laid out.
Who takes it renames the capsule and calls its deleter in the end. Source: dmlc/dlpack, dlpack.h.
"""

import ctypes
import weakref
from typing import Any

CUDA = 2  # kDLCUDA
_KINDS = {0: "i", 1: "u", 2: "f"}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.restype, _set_name.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


class Owner:
    """Keeps the memory alive; gives it back to the framework when it is collected."""


def describe(x: Any, stream: int | None, device_type: int = CUDA) -> tuple[dict[str, Any], Owner]:
    """The array as ``__cuda_array_interface__`` describes one, and the owner of its memory.

    ``stream`` is the CUDA stream that will read it: the framework makes it wait until the data is there.
    """
    found = x.__dlpack_device__()[0]
    if int(found) != device_type:
        raise TypeError(f"Expected an array on a CUDA device. Received one on DLPack device type {int(found)}.")
    capsule = x.__dlpack__() if stream is None else x.__dlpack__(stream=stream)
    managed = ctypes.cast(_get_pointer(capsule, b"dltensor"), ctypes.POINTER(_Managed))
    _set_name(capsule, b"used_dltensor")
    owner = Owner()
    deleter = managed.contents.deleter
    if deleter:
        weakref.finalize(owner, deleter, managed)
    tensor = managed.contents.tensor
    if tensor.kind not in _KINDS or tensor.lanes != 1:
        raise TypeError(f"Expected an array of numbers. Received DLPack type code {tensor.kind}.")
    size = tensor.bits // 8
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] * size for i in range(tensor.ndim)) if tensor.strides else None
    description = {
        "version": 3,
        "shape": shape,
        "strides": strides,
        "typestr": f"<{_KINDS[tensor.kind]}{size}",
        "data": ((tensor.data or 0) + tensor.byte_offset, False),
    }
    return description, owner
