"""What psf's own layer says no to. Each error carries its facts; psf.api.errors maps them to HTTP."""

from __future__ import annotations

from store.merging import Conflict

_PATHS_TOLD_MAX = 10


class PsfError(Exception):
    """Base of all. `code` is stable; the text is for the person or program that asked."""

    code = "psf_error"


class ConfigurationError(PsfError):
    """A setting is unknown or makes no sense. The text names it and says what would do."""

    code = "configuration"


class CannotListen(PsfError):
    """The server's address cannot be had. The text says which and what to type."""

    code = "cannot_listen"


class RuntimeUnknown(PsfError):
    """No language of this name."""

    code = "runtime_unknown"

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown language {name[:80]!r}; there are {', '.join(known)}")
        self.name, self.known = name, known


class InvalidField(PsfError):
    """A field of a request is wrong. `location` leads to it; the message says what would be right."""

    code = "invalid_field"

    def __init__(
        self, location: tuple[str | int, ...], message: str, value: object = None, kind: str = "value_error"
    ) -> None:
        super().__init__(f"{'.'.join(str(part) for part in location)}: {message}")
        self.location, self.message, self.value, self.kind = location, message, value, kind


class GuaranteeMissing(PsfError):
    """A call requires what the sandbox cannot give on this machine. `missing`: name -> why; `there`: what can be relied on."""

    code = "guarantee_missing"

    def __init__(self, sandbox: str, missing: dict[str, str], there: tuple[str, ...]) -> None:
        lacks = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
        super().__init__(f"the sandbox {sandbox} cannot guarantee here: {lacks}. It guarantees {', '.join(there)}")
        self.missing, self.there = missing, there


class NetworkRefused(PsfError):
    """A call or a session asks for a network that the server's configuration does not allow."""

    code = "network_refused"

    def __init__(self) -> None:
        super().__init__(
            "limits.network of the call or of its session: egress is not allowed on this server; its setting `allow_egress` (`psf serve --allow-egress`)"
            " allows it, and none and loopback need no permission"
        )


class SessionExpired(PsfError):
    """The session was idle for longer than its ttl. Its log can be read and it can be forked while it is retained."""

    code = "session_expired"

    def __init__(self, session_id: str) -> None:
        super().__init__("Session expired or not found")
        self.session_id = session_id


class SandboxDiffers(PsfError):
    """The session was made with another sandbox than this server has; what its programs see would change under them."""

    code = "sandbox_differs"

    def __init__(self, made_with: str, here: str) -> None:
        super().__init__(
            f"the session was made with the sandbox {made_with[:80]!r}, and this server uses {here!r}: start a server with"
            f" --executor {made_with[:80]}, or fork the session and go on in the fork"
        )
        self.made_with, self.here = made_with, here


class KeyReused(PsfError):
    """An Idempotency-Key that another request had, which asked for something else."""

    code = "key_reused"

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used for a request that asked for something else; a new request needs a new key"
        )


class QuotaReached(PsfError):
    """A tenant has as much as it may have. `what` it has, and how it gets room again."""

    code = "quota_reached"

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")


class StepCancelled(PsfError):
    """Somebody asked for the step to be stopped. The head has not moved."""

    code = "step_cancelled"

    def __init__(self) -> None:
        super().__init__("the step was cancelled by request; the head has not moved")


class SnapshotUnknown(PsfError):
    """No snapshot that the caller may see has this id, or no tag this name."""

    code = "snapshot_unknown"

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"{reference[:80]!r} is no snapshot or tag of yours; give the whole id of one, or the name of a tag"
        )


class PathMissing(PsfError):
    """Nothing stands at a path that was to be read or deleted."""

    code = "path_missing"

    def __init__(self, path: bytes) -> None:
        super().__init__(f"there is nothing at {path.decode(errors='backslashreplace')!r}")
        self.path = path


class NoCommonStep(PsfError):
    """Two histories cannot be merged: they have no step in common, and it cannot be told who changed what."""

    code = "no_common_step"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the history to be merged and that of {session_id} have no step in common")


class MergeConflicts(PsfError):
    """Both sides changed the same paths, differently. Nothing was merged."""

    code = "merge_conflicts"

    def __init__(self, ours: str, theirs: str, conflicts: tuple[Conflict, ...]) -> None:
        paths = ", ".join(b"/".join(one.path).decode(errors="backslashreplace") for one in conflicts[:_PATHS_TOLD_MAX])
        more = f" and {len(conflicts) - _PATHS_TOLD_MAX} more" if len(conflicts) > _PATHS_TOLD_MAX else ""
        super().__init__(
            f"both sides changed {paths}{more}; say whose is to be taken with `on_conflict` (ours, theirs), or write the files first"
        )
        self.ours, self.theirs, self.conflicts = ours, theirs, conflicts
