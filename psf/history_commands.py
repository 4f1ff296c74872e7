"""Commands that look at histories and move heads: ls, show, diff, rollback, fork, merge, tag, rm, undelete."""

from __future__ import annotations

import argparse
import sys

from psf import history_reports
from psf.client import Client, MergeConflicts
from psf.client.models import Entry
from psf.desk import CommandFailed, session_and_place, session_of, snapshot_of, with_path, work
from psf.progress import waiting
from psf.run_commands import print_json
from psf.store_reports import shown_id
from psf.terminal import printable

DIFFERS = 1


@work
async def ls(parsed: argparse.Namespace, client: Client) -> int:
    if parsed.reference is None:
        sessions = [info async for info in client.sessions(expired=parsed.all)]
        tags = await client.tags()
        if parsed.json:
            print_json({"sessions": sessions, "tags": tags})
        else:
            history_reports.show_sessions(sessions, tags)
        return 0
    reference, path = with_path(parsed.reference) or (parsed.reference, parsed.path)
    below = "/".join(part for part in path.split("/") if part not in ("", "."))
    found = await snapshot_of(client, reference)
    entries = [entry async for entry in client.manifest(found.snapshot) if _lies_in(entry, below)]
    if below and not entries:
        raise CommandFailed(
            f"there is nothing at {printable(path)!r} in {printable(reference)}; `psf ls {printable(reference)}` shows what there is"
        )
    inside = [entry for entry in entries if entry.path != below or entry.kind != "directory"]
    if not parsed.recursive:
        inside = [entry for entry in inside if "/" not in entry.path[len(below) :].lstrip("/")]
    if parsed.json:
        print_json(inside)
    else:
        history_reports.show_entries(inside, below if len(inside) != 1 or inside[0].path != below else "")
    return 0


def _lies_in(entry: Entry, below: str) -> bool:
    return not below or entry.path == below or entry.path.startswith(f"{below}/")


@work
async def show(parsed: argparse.Namespace, client: Client) -> int:
    found = await snapshot_of(client, parsed.reference)
    snapshot = await client.snapshot(found.snapshot)
    diff = await client.diff(snapshot.parents[0], snapshot.id, unified=True) if snapshot.parents else None
    if parsed.json:
        print_json({"snapshot": snapshot, "changes": diff.changes if diff is not None else ()})
        return 0
    names = [tag.name for tag in await client.tags() if tag.snapshot == snapshot.id]
    history_reports.show_snapshot(snapshot, diff, names)
    return 0


@work
async def diff(parsed: argparse.Namespace, client: Client) -> int:
    before = await snapshot_of(client, parsed.before)
    if parsed.after is not None:
        after = (await snapshot_of(client, parsed.after)).snapshot
    elif before.session is not None and "@" in parsed.before:
        after = await before.session.find()
    else:
        raise CommandFailed(
            "what with? psf diff BEFORE AFTER, or psf diff SESSION@PLACE, which is compared with its session's head"
        )
    found = await client.diff(before.snapshot, after, unified=not parsed.names)
    if parsed.json:
        print_json(found)
    else:
        history_reports.show_diff(found, names=parsed.names)
    return DIFFERS if found.changes and parsed.exit_code else 0


@work
async def rollback(parsed: argparse.Namespace, client: Client) -> int:
    session, place = await session_and_place(client, parsed.session)
    if (place is None) == (parsed.place is None):
        raise CommandFailed(
            "where to? psf rollback SESSION PLACE; a place is a step number, -n for n steps back, a snapshot id or a tag"
        )
    head = await session.rollback(place if place is not None else parsed.place)
    snapshot = await client.snapshot(head)
    if parsed.json:
        print_json({"session_id": session.session_id, "head": head, "step": snapshot.step})
    else:
        sys.stdout.write(f"{shown_id(head)} step {snapshot.step}: {history_reports.headline(snapshot)}\n")
    return 0


@work
async def fork(parsed: argparse.Namespace, client: Client) -> int:
    session, place = await session_and_place(client, parsed.session)
    made = await session.fork_many(None if parsed.name else parsed.count or 1, names=parsed.name, start=place)
    if parsed.json:
        print_json(
            [
                {"session_id": one.session_id, "name": name}
                for one, name in zip(made, parsed.name or [None] * len(made), strict=True)
            ]
        )
    else:
        for one in made:
            sys.stdout.write(f"{one.session_id}\n")
    return 0


@work
async def merge(parsed: argparse.Namespace, client: Client) -> int:
    session = await session_of(client, parsed.session)
    other, place = await session_and_place(client, parsed.other)
    try:
        head = await session.merge(other, at=place, on_conflict=parsed.on_conflict or "report")
    except MergeConflicts as error:
        if parsed.json:
            print_json({"conflicts": error.facts.get("conflicts", ())})
        else:
            for path in error.paths:
                sys.stdout.write(f"conflict: {printable(path)}\n")
        sys.stderr.write(
            "psf: nothing was merged; --ours or --theirs says whose is taken, or write the files first (psf cp)\n"
        )
        return DIFFERS
    if parsed.json:
        print_json({"session_id": session.session_id, "head": head})
    else:
        sys.stdout.write(f"{shown_id(head)}\n")
    return 0


@work
async def tag(parsed: argparse.Namespace, client: Client) -> int:
    if parsed.delete is not None:
        if parsed.name is not None:
            raise CommandFailed("psf tag -d NAME takes no more than the name")
        await client.untag(parsed.delete)
        return 0
    if parsed.name is None:
        tags = await client.tags()
        if parsed.json:
            print_json(tags)
        else:
            history_reports.show_tags(tags)
        return 0
    if parsed.reference is None:
        raise CommandFailed(f"what is to be called so? psf tag {printable(parsed.name)} SESSION[@PLACE]")
    made = await client.tag(parsed.name, (await snapshot_of(client, parsed.reference)).snapshot)
    if parsed.json:
        print_json(made)
    return 0


@work
async def rm(parsed: argparse.Namespace, client: Client) -> int:
    # All are looked up before anything is done: one that is not there spoils nothing.
    targets = []
    for text in parsed.targets:
        name, path = with_path(text) or (text, None)
        if path == "":
            raise CommandFailed(f"{printable(text)!r} names no path; without the colon it is the session itself")
        targets.append((await session_of(client, name), path))
    for session, path in targets:
        if path is None:
            await session.delete()
        else:
            await session.delete_file(path)
    if parsed.json:
        print_json([{"session_id": session.session_id, "path": path} for session, path in targets])
    return 0


@work
async def undelete(parsed: argparse.Namespace, client: Client) -> int:
    session = await session_of(client, parsed.session)
    with waiting("undeleting", wanted=not parsed.json):
        info = await session.undelete(ttl_s=parsed.ttl_s)
    if parsed.json:
        print_json(info)
    return 0
