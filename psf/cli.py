"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import signal
import sys
import traceback

import psf
from executors.errors import ExecutorError
from psf import config, history_arguments, store_arguments
from psf.errors import ConfigurationError, PsfError
from psf.terminal import printable
from store.errors import StoreError

FAILED, MISUSED = 1, 2
DEFECT = 70
"""As EX_SOFTWARE of sysexits.h: something is wrong with psf itself."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 failed, 2 asked wrongly, 70 a defect of psf, 141 nobody reads on."""
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the terminal's encoding cannot say
    try:
        status = _run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        _drop_output()  # whoever read has seen enough
        return 128 + signal.SIGPIPE
    except OSError as error:  # as what was printed is flushed
        status = _failed(error.strerror or error)
        _drop_output()
    return status


def _run(arguments: list[str] | None) -> int:
    try:
        parsed = _parser().parse_args(arguments)
        status: int = parsed.act(parsed)
    except SystemExit as done:  # after --help and --version, and for what is not understood
        return done.code if isinstance(done.code, int) else FAILED
    except ConfigurationError as error:
        return _failed(error, MISUSED)
    except (PsfError, StoreError, ExecutorError) as error:
        return _failed(error, getattr(error, "status", FAILED))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _failed(error.strerror or error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the last resort, which says so
        return _defect(error)
    return status


def _failed(reason: object, status: int = FAILED) -> int:
    print(f"psf: {printable(str(reason))}", file=sys.stderr)
    return status


def _fill_closed_streams() -> None:
    """Nothing that is opened later may get the number of a stream that the caller has closed: it would be printed into.

    A closed stdout is one that nobody reads; what is said to a closed stderr goes nowhere.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number, which is this one's
    if sys.stdout is None:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        os.close(reader)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as long as the process


def _drop_output() -> None:
    """What is still to be written cannot be: Python would try again as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _defect(error: Exception) -> int:
    """Say that psf did not expect this, and where it happened: by module, since paths are nobody's business."""
    if os.environ.get("PSF_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
        return DEFECT
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    place = f"{frames[-1].f_globals.get('__name__', '?')}:{frames[-1].f_lineno}" if frames else "?"
    hint = "PSF_LOG_LEVEL=debug shows all of it"
    print(f"psf: a defect of psf: {type(error).__name__} in {printable(place)}; {hint}", file=sys.stderr)
    return DEFECT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="psf", description="Runs untrusted code in sandboxes and keeps every step as a snapshot."
    )
    parser.add_argument("--version", action="version", version=f"psf {psf.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the HTTP API", description="Serve the HTTP API.")
    config.add_flags(serve)
    serve.set_defaults(act=_serve)
    demo = commands.add_parser(
        "demo", help="show the main things on a server of its own", description="Start a server in a temporary folder, show what it can do, leave nothing behind."
    )  # fmt: skip
    demo.set_defaults(act=_demo)
    doctor = commands.add_parser(
        "doctor",
        help="tell which sandboxes work here and what each guarantees",
        description="Try each sandbox that is installed, and tell what it guarantees here. Exit status: 0 the one that `psf serve` would"
        " use gives every guarantee, 3 it works without some, 4 none works.",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    config.add_flags(doctor)
    doctor.set_defaults(act=_doctor)
    token = commands.add_parser(
        "token",
        help="make a token that lets somebody call a server",
        description="Make a token. It is printed once, on stderr; the lines for the server's file of tokens (`psf serve --tokens FILE`) go"
        " to stdout: psf token ci --scope execute >> tokens.toml",
    )
    token.add_argument("name", metavar="NAME", help="what the token is called in the audit log")
    token.add_argument("--tenant", default="local", help="whose sessions it sees (default: local)")
    token.add_argument(
        "--scope", choices=("read", "execute", "admin"), default="execute", help="what it may (default: execute)"
    )
    token.set_defaults(act=_token)
    history_arguments.add(commands)
    store_arguments.add(commands)
    store_arguments.add_transfers(commands)
    return parser


def _serve(parsed: argparse.Namespace) -> int:
    settings = config.load(vars(parsed), os.environ)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(_serve_until_told(settings))


async def _serve_until_told(settings: config.Settings) -> int:
    from psf import app  # noqa: PLC0415 - `psf --version` need not wait for aiohttp

    told = asyncio.Event()
    serving = asyncio.current_task()
    assert serving is not None

    def tell(number: int) -> None:
        if told.is_set():
            interrupted.append(number)
            serving.cancel()
        told.set()

    interrupted: list[int] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell, number)
    try:
        async with app.serve(settings) as url:
            print(f"psf {psf.__version__} is ready on {url} (store: {settings.store})", flush=True)
            await told.wait()
            patience = f"up to {app.STOP_PATIENCE_S:g} s; once more stops at once"
            print(f"stopping: running steps are finished first ({patience})", flush=True)
    except asyncio.CancelledError:
        if not interrupted:
            raise
        print("stopped: running steps were given up, their sessions have not changed", flush=True)
        return 128 + interrupted[0]
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    from psf import doctor, doctor_report  # noqa: PLC0415 - brings rich and aiohttp

    report = doctor.run(config.load(vars(parsed), os.environ))
    if parsed.json:
        print(doctor.as_json(report))
    else:
        doctor_report.show(report)
    return report.status


def _token(parsed: argparse.Namespace) -> int:
    from psf import tokens  # noqa: PLC0415 - its imports are needed here alone

    made = tokens.new(parsed.name, parsed.tenant, (parsed.scope,))
    print(f"The token, which cannot be shown again: {made.token}", file=sys.stderr)
    print(made.lines, end="")
    return 0


def _demo(_: argparse.Namespace) -> int:
    from psf import demo  # noqa: PLC0415 - brings rich and aiohttp

    return asyncio.run(demo.run())


if __name__ == "__main__":
    sys.exit(main())
