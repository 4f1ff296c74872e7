"""For nbdkit's Python plugin: a disk that is a file, and a record of each write and flush in order.

A record entry is one letter (W write, F flush), offset (8 bytes), length (4 bytes), both little-endian, and the bytes of a write.
Runs in the system's Python, without psf.
"""

import builtins
import os

import nbdkit

API_VERSION = 2
_settings = {}


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def config(key, value):
    _settings[key] = value


def get_ready():
    _settings["descriptor"] = os.open(_settings["image"], os.O_RDWR)
    _settings["file"] = builtins.open(_settings["record"], "ab", buffering=0)


def open(readonly):
    return 1


def get_size(handle):
    return os.fstat(_settings["descriptor"]).st_size


def can_flush(handle):
    return True


def can_fua(handle):
    return nbdkit.FUA_NATIVE


def pread(handle, buffer, offset, flags):
    buffer[:] = os.pread(_settings["descriptor"], len(buffer), offset)


def pwrite(handle, buffer, offset, flags):
    length = len(buffer)
    _settings["file"].write(b"W" + offset.to_bytes(8, "little") + length.to_bytes(4, "little") + bytes(buffer))
    os.pwrite(_settings["descriptor"], buffer, offset)
    if flags & nbdkit.FLAG_FUA:
        flush(handle, flags)


def flush(handle, flags):
    _settings["file"].write(b"F" + bytes(12))
