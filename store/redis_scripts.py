"""The scripts that Redis runs for us (store/lua), each one change or one look that nothing else comes between."""

from __future__ import annotations

from importlib import resources

_FOLDER = resources.files("store") / "lua"
CLAIM = "claim"
CHANGES = ("advance", "add", "extend", "drop", "pin", "unpin", "epochs")
LOOKS = ("look", "read", "made_under", "sessions", "tenant", "expired", "scan", "pins")


def _text(*names: str) -> str:
    return "\n".join((_FOLDER / f"{name}.lua").read_text() for name in names)


def load() -> dict[str, str]:
    """The text of each script, by its name."""
    return {
        CLAIM: _text(CLAIM),
        **{name: _text("begin", name) for name in LOOKS},
        **{name: _text("begin", "writing", name) for name in CHANGES},
    }
