"""Scripts that complete psf's words in a shell. They hold the words themselves, so that completing starts nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

Words = dict[str, list[str]]
"""What may come behind `psf` ('') and behind each command."""


def completion(parsed: argparse.Namespace) -> int:
    """Print the script of a shell."""
    from psf.cli import _parser  # noqa: PLC0415 - which imports this module's caller

    words = words_of(_parser())
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[parsed.shell]
    sys.stdout.write(script(words))
    return 0


def words_of(parser: argparse.ArgumentParser) -> Words:
    """Commands, their commands, flags and choices."""
    found: Words = {}
    _collect(parser, "", found)
    return found


def _collect(parser: argparse.ArgumentParser, path: str, found: Words) -> None:
    words = found.setdefault(path, [])
    for action in parser._actions:  # noqa: SLF001 - argparse tells it in no other way
        words += [flag for flag in action.option_strings if flag.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, below in action.choices.items():
                words.append(name)
                _collect(below, f"{path} {name}".strip(), found)
        elif not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]


def _cases(words: Words) -> Iterator[str]:
    for path, given in words.items():
        yield f'        "{path}") words="{" ".join(given)}" ;;'


def _bash(words: Words) -> str:
    groups = " ".join(sorted({path.split(" ")[0] for path in words if " " in path}))
    cases = "\n".join(_cases(words))
    return f"""# source <(psf completion bash)
_psf() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" path="" words=""
    if (( COMP_CWORD > 1 )); then path="${{COMP_WORDS[1]}}"; fi
    case " {groups} " in *" $path "*) if (( COMP_CWORD > 2 )); then path="$path ${{COMP_WORDS[2]}}"; fi ;; esac
    case "$path" in
{cases}
    esac
    COMPREPLY=( $(compgen -W "$words" -- "$word") )
}}
complete -o default -F _psf psf
"""


def _zsh(words: Words) -> str:
    return (
        "# source <(psf completion zsh)\nautoload -U +X bashcompinit && bashcompinit\n" + _bash(words).split("\n", 1)[1]
    )


def _fish(words: Words) -> str:
    lines = ["# psf completion fish | source"]
    for path, given in words.items():
        if not path:
            condition = "__fish_use_subcommand"
        else:
            condition = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in path.split(" "))
        for word in given:
            flag = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            files = " -f" if not word.startswith("--") else ""
            lines.append(f"complete -c psf -n '{condition}'{files} {flag}")
    return "\n".join(lines) + "\n"
