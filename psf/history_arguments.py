"""The arguments of the commands for sessions and their histories. What they do is loaded when one is asked for."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

_REFERENCE = "a session (id, unique beginning of it, or name), SESSION@PLACE, a tag, or a snapshot id; a place is a step number, -n, an id or a tag"
_SESSION = "a session by its id, a unique beginning of that, or its name"
_ACT = Callable[[argparse.Namespace], int]


def add(commands: Any) -> None:
    """Add the commands to a parser."""
    _add_running(commands)
    _add_looking(commands)
    _add_moving(commands)
    _add_asking(commands)
    completion = commands.add_parser("completion", help="print a script that completes psf's words in a shell", description="Print a script that completes psf's words: source <(psf completion bash)")  # fmt: skip
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(act=_later("psf.completion", "completion"))


def _add_running(commands: Any) -> None:
    new = _command(commands, "new", "psf.run_commands", "new", "make a session, and print its id")
    _beginning(new)
    run = _command(
        commands, "run", "psf.run_commands", "run", "run a program in a new session; exits with its exit code"
    )
    _beginning(run)
    run.add_argument("--rm", action="store_true", help="delete the session afterwards")
    _program(run)
    execute = _command(
        commands,
        "exec",
        "psf.run_commands",
        "execute",
        "run a program as the next step of a session; exits with its exit code",
    )
    execute.add_argument("session", metavar="SESSION", help=_SESSION)
    _options_of_program(execute)
    execute.add_argument(
        "rest",
        nargs=argparse.REMAINDER,
        metavar="PROGRAM ...",
        help="the file of the program, - for stdin (not with -c), and its arguments",
    )
    execute.set_defaults(act=_then(_rest_parser(), execute.get_default("act")), program=None, arguments=[])


def _rest_parser() -> argparse.ArgumentParser:
    """What may come behind the session: flags too, which argparse would take for the program's own."""
    rest = argparse.ArgumentParser(prog="psf exec SESSION")
    _connection(rest, json=True)
    _program(rest)
    return rest


def _then(rest: argparse.ArgumentParser, act: _ACT) -> _ACT:
    def parse_and_act(parsed: argparse.Namespace) -> int:
        del parsed.program, parsed.arguments
        return act(rest.parse_args(parsed.rest, parsed))

    return parse_and_act


def _beginning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="NAME", help="what to call it")
    parser.add_argument(
        "--ttl-s", type=float, metavar="NUMBER", help="idle seconds after which it expires (default: 30 days)"
    )
    parser.add_argument("--from", dest="start", metavar="REFERENCE", help="begin with this snapshot's files")
    parser.add_argument("--image", metavar="NAME", help="the image its programs see (docker)")
    if not parser.prog.endswith(" run"):
        parser.add_argument("-r", "--runtime", metavar="NAME", default="python", help="its language (default: python)")
        _limit(parser)


def _program(parser: argparse.ArgumentParser) -> None:
    _options_of_program(parser)
    parser.add_argument(
        "program", nargs="?", metavar="PROGRAM", help="the file of the program; - for stdin (not with -c)"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def _options_of_program(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--code", metavar="TEXT", help="the program itself")
    parser.add_argument(
        "-r",
        "--runtime",
        metavar="NAME",
        help="its language (default: by the file's name, else the session's; python in a new one)",
    )
    parser.add_argument("-i", "--stdin", metavar="FILE", help="what it reads; - for this command's own stdin")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable of this command's own that no record keeps",
    )
    parser.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a file of this machine that it finds as NAME",
    )
    parser.add_argument("--keep", choices=("all", "fetched"), help="what stays of the work directory (default: all)")
    parser.add_argument("--note", metavar="TEXT", help="kept in the log")
    parser.add_argument("--key", metavar="TEXT", help="however often asked for under this key, it is done once")
    parser.add_argument("--deterministic", action="store_true", help="under the profile that makes programs repeat")
    parser.add_argument("--memo", action="store_true", help="take an equal step's record if there is one")
    _limit(parser)


def _limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-l",
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as wall_time_s=60 or memory_bytes=1000000000",
    )


def _add_looking(commands: Any) -> None:
    listing = _command(commands, "ls", "psf.history_commands", "ls", "sessions and tags; or what lies in a snapshot")
    listing.add_argument("-a", "--all", action="store_true", help="sessions that have expired, too")
    listing.add_argument("-r", "--recursive", action="store_true", help="also what lies in its directories")
    listing.add_argument("reference", nargs="?", metavar="REFERENCE", help=_REFERENCE)
    listing.add_argument("path", nargs="?", default="", metavar="PATH")
    log = _command(commands, "log", "psf.log_command", "log", "the steps of a session as a graph, newest first")
    log.add_argument("session", metavar="SESSION", help=_SESSION)
    log.add_argument(
        "-n",
        "--limit",
        type=_count,
        default=50,
        metavar="NUMBER",
        help="no more than the last so many moves (default: %(default)s)",
    )
    log.add_argument("--moves", action="store_true", help="each move of the head, rollbacks too, instead of the graph")
    show = _command(
        commands, "show", "psf.history_commands", "show", "one step: what was asked, what was seen, what it changed"
    )
    show.add_argument("reference", metavar="REFERENCE", help=_REFERENCE)
    differ = _command(commands, "diff", "psf.history_commands", "diff", "what differs between two snapshots")
    differ.add_argument("before", metavar="REFERENCE", help=_REFERENCE)
    differ.add_argument("after", nargs="?", metavar="REFERENCE", help="default: the head of the first one's session")
    differ.add_argument("--names", action="store_true", help="only which paths")
    differ.add_argument("--exit-code", action="store_true", help="exit status 1 when anything differs")
    cat = _command(commands, "cat", "psf.copy_commands", "cat", "write a file of a snapshot to stdout", json=False)
    cat.add_argument("reference", metavar="REFERENCE[:PATH]", help=_REFERENCE)
    cat.add_argument("path", nargs="?", metavar="PATH")
    copy = _command(commands, "cp", "psf.copy_commands", "cp", "copy a file or folder into a session, or out of one")
    copy.add_argument("source", metavar="SOURCE", help="a path of this machine, or REFERENCE:PATH")
    copy.add_argument("target", metavar="TARGET", help="the other of the two; to be written, a session: SESSION:PATH")


def _add_moving(commands: Any) -> None:
    back = _command(
        commands,
        "rollback",
        "psf.history_commands",
        "rollback",
        "move a session's head to another place of its history",
    )
    back.add_argument("session", metavar="SESSION[@PLACE]", help=_SESSION)
    back.add_argument(
        "place", nargs="?", metavar="PLACE", help="a step number, -n for n steps back, a snapshot id or a tag"
    )
    fork = _command(
        commands,
        "fork",
        "psf.history_commands",
        "fork",
        "make sessions that go on from a session's head, or from SESSION@PLACE",
    )
    fork.add_argument("session", metavar="SESSION[@PLACE]", help=_SESSION)
    many = fork.add_mutually_exclusive_group()
    many.add_argument("--name", action="append", metavar="NAME", help="what to call it; again for another one")
    many.add_argument("--count", type=_count, metavar="NUMBER", help="how many (default: 1)")
    merge = _command(
        commands,
        "merge",
        "psf.history_commands",
        "merge",
        "bring in what another session changed since both were one; exit status 1 on conflicts",
    )
    merge.add_argument("session", metavar="SESSION", help="the one that is changed")
    merge.add_argument("other", metavar="OTHER[@PLACE]", help="the one whose changes are brought in")
    side = merge.add_mutually_exclusive_group()
    side.add_argument(
        "--ours",
        action="store_const",
        const="ours",
        dest="on_conflict",
        help="where both changed a path, keep SESSION's",
    )
    side.add_argument("--theirs", action="store_const", const="theirs", dest="on_conflict", help="... take OTHER's")
    tag = _command(commands, "tag", "psf.history_commands", "tag", "list tags, set one, or let go of one")
    tag.add_argument("-d", "--delete", metavar="NAME", help="let go of this name")
    tag.add_argument("name", nargs="?", metavar="NAME")
    tag.add_argument("reference", nargs="?", metavar="REFERENCE", help=_REFERENCE)
    remove = _command(
        commands, "rm", "psf.history_commands", "rm", "delete sessions, or with SESSION:PATH what lies in one"
    )
    remove.add_argument(
        "targets", nargs="+", metavar="SESSION[:PATH]", help="a deleted session can be undeleted while it is retained"
    )
    undelete = _command(
        commands,
        "undelete",
        "psf.history_commands",
        "undelete",
        "let a session live again that was deleted or has expired",
    )
    undelete.add_argument("session", metavar="SESSION", help=_SESSION)
    undelete.add_argument(
        "--ttl-s", type=float, metavar="NUMBER", help="idle seconds after which it expires (default: as before)"
    )


def _add_asking(commands: Any) -> None:
    bisect = _command(
        commands,
        "bisect",
        "psf.lineage_commands",
        "bisect",
        "find the first step after which a program fails; exit status 1 when after none",
    )
    bisect.add_argument("session", metavar="SESSION", help=_SESSION)
    bisect.add_argument("program", nargs="?", metavar="PROGRAM", help="the file of the program; - for stdin")
    bisect.add_argument("-c", "--code", metavar="TEXT", help="the program itself")
    bisect.add_argument(
        "-r",
        "--runtime",
        metavar="NAME",
        help="its language (default: by the file's name, else the session's; python in a new one)",
    )
    bisect.add_argument("--good", metavar="PLACE", help="where it is known not to fail (default: the beginning)")
    bisect.add_argument("--bad", metavar="PLACE", help="where it is known to fail (default: the head)")
    _limit(bisect)
    blame = _command(
        commands, "blame", "psf.lineage_commands", "blame", "tell which step last changed what stands at a path"
    )
    blame.add_argument("session", metavar="SESSION[@PLACE]", help=_SESSION)
    blame.add_argument("path", metavar="PATH")
    replay = _command(
        commands,
        "replay",
        "psf.lineage_commands",
        "replay",
        "run a session's steps again; exit status 1 when one comes out otherwise",
    )
    replay.add_argument("session", metavar="SESSION[@PLACE]", help="up to its head, or to a place of its history")
    replay.add_argument("--from", dest="start", metavar="PLACE", help="begin here (default: at the beginning)")
    replay.add_argument("--parallel", type=_count, default=1, metavar="NUMBER", help="so many steps at once")
    replay.add_argument(
        "--verify", action="store_true", help="run nothing: see that all that is recorded is there and whole"
    )


def _command(commands: Any, name: str, room: str, act: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    _connection(parser, json=json)
    parser.set_defaults(act=_later(room, act))
    return parser


def _connection(parser: argparse.ArgumentParser, *, json: bool) -> None:
    parser.add_argument(
        "--url",
        metavar="URL",
        help="the server (or PSF_URL; its token in PSF_TOKEN); else the store is used without one",
    )
    parser.add_argument("--store", metavar="TEXT", help="folder of the store (or PSF_STORE)")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings (or PSF_CONFIG)")
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON, show no progress")
    else:
        parser.set_defaults(json=False)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:10]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1000000, not {text[:80]!r}")
    return int(text)


def _later(room: str, name: str) -> _ACT:
    def act(parsed: argparse.Namespace) -> int:
        # Only now, since they bring aiohttp, and without --url a whole server.
        command: _ACT = getattr(importlib.import_module(room), name)
        return command(parsed)

    return act
