"""Breakage: psf could not do its work. How a program ends is never one of these; that is a result."""

from __future__ import annotations


class ExecutorError(Exception):
    """Base of all. `code` is stable and may be shown to clients; the text names no host path."""

    code = "executor_error"


class SandboxUnavailable(ExecutorError):
    """No sandbox can be had on this machine. The message says what was tried and what to do."""

    code = "sandbox_unavailable"


class OptionRefused(SandboxUnavailable):
    """What the configuration tells a sandbox makes no sense. Another sandbox must not be taken instead: this one is meant."""


class SystemUnknown(ExecutorError):
    """A session asks for an image or a work directory that its server does not have. The message says what would do."""

    code = "system_unknown"


class SandboxBroken(ExecutorError):
    """The sandbox failed while it was setting up, running or cleaning: nothing may be concluded about the program."""

    code = "sandbox_broken"

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.detail = detail
        """What is for the log only: it may name paths of the host."""


class EgressUnavailable(ExecutorError):
    """A run asks for egress, which its sandbox cannot give here. Nothing ran. The message says what is missing."""

    code = "egress_unavailable"


class DeterminismUnavailable(ExecutorError):
    """A run asks for the profile that makes programs repeat, which its sandbox cannot give here. Nothing ran. The message says why."""

    code = "determinism_unavailable"


class Overloaded(ExecutorError):
    """Too much is asked for at once. `reason` says of what."""

    code = "overloaded"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; try again later")


class FilesTooLarge(ExecutorError):
    """The files sent with a step do not fit into its scratch. Nothing ran."""

    code = "files_too_large"
