"""Clients of a psf server, asynchronous and not. They import nothing of the server's own: all they know of it is its API."""

from __future__ import annotations

from psf.client.client import Client
from psf.client.errors import (
    Cancelled,
    ClientError,
    Conflict,
    Expired,
    Forbidden,
    GuaranteeMissing,
    HeadMoved,
    Invalid,
    KeyReused,
    MergeConflicts,
    Misused,
    NotFound,
    NotPsf,
    Overloaded,
    Refused,
    ServerFailed,
    Unauthenticated,
    Unreachable,
)
from psf.client.models import Limits, NewFile, Result
from psf.client.retrying import NO_RETRIES, Retries
from psf.client.sessions import Session
from psf.client.streaming import Event, Stream
from psf.client.sync import SyncClient, SyncSession, SyncStream

__all__ = [
    "NO_RETRIES", "Cancelled", "Client", "ClientError", "Conflict", "Event", "Expired", "Forbidden", "GuaranteeMissing", "HeadMoved",
    "Invalid", "KeyReused", "Limits", "MergeConflicts", "Misused", "NewFile", "NotFound", "NotPsf", "Overloaded", "Refused", "Result",
    "Retries", "ServerFailed", "Session", "Stream", "SyncClient", "SyncSession", "SyncStream", "Unauthenticated", "Unreachable",
]  # fmt: skip
