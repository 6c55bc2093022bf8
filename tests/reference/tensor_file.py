# SPDX-License-Identifier: Apache-2.0
# Owns the safetensors format of the reference files: read and written by hand, F32, F64 and I64 only.
"""A file is an 8-byte little-endian length, a JSON header of that length, and the tensors' bytes."""

import array
import json
import struct
import sys

import torch

_CODES = {"F32": ("f", torch.float32), "F64": ("d", torch.float64), "I64": ("q", torch.int64)}
_NAMES = {kind: name for name, (_, kind) in _CODES.items()}


def write(path, tensors, metadata):
    """Writes name -> tensor in the order given; metadata is a dict of strings."""
    header, pieces, at = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        kind = _NAMES[tensor.dtype]
        data = array.array(_CODES[kind][0], tensor.detach().reshape(-1).tolist())
        if sys.byteorder == "big":
            data.byteswap()
        data = data.tobytes()
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        pieces.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        file.write(b"".join(pieces))


def read(path):
    """Returns (name -> tensor, metadata)."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        body = file.read()
    metadata, tensors = header.pop("__metadata__", {}), {}
    for name, entry in header.items():
        code, kind = _CODES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        data = array.array(code)
        data.frombytes(body[begin:end])
        if sys.byteorder == "big":
            data.byteswap()
        tensors[name] = torch.tensor(data.tolist(), dtype=kind).reshape(entry["shape"])
    return tensors, metadata
