"""Reading a store folder's files: are packs and large blobs what they were when they were written, and indexes what packs say?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from store import journalled
from store.check import CheckReport, Progress, check, form_problem, no_progress
from store.errors import ObjectDamaged, ObjectMissing
from store.ids import Kind
from store.journalled import KeptHeads
from store.pack_folder import SealedPack
from store.packs import PackObjects
from store.records import Name, scan

LARGE = "large files"


class Flaw(NamedTuple):
    """Something wrong in one place. `name` is None for bytes that belong to no record any more."""

    place: str
    pack: int | None
    name: Name | None
    reason: str

    @property
    def text(self) -> str:
        subject = f"{self.name[0].word} {self.name[1].hex()}" if self.name is not None else "a stretch of bytes"
        return f"{subject} is damaged in {self.place}: {self.reason}"


class Fault(NamedTuple):
    """Something wrong with the index of a pack, which can be made again."""

    pack: int
    text: str


class Findings(NamedTuple):
    flaws: list[Flaw]
    faults: list[Fault]


def check_store(
    objects: PackObjects, heads: KeptHeads, *, full: bool, progress: Progress = no_progress
) -> tuple[CheckReport, Findings]:
    """Check files and then what they hold. Changes nothing. Fast: headers and indexes only; full: every byte."""
    objects.folder.refresh()
    faults: list[Fault] = []
    flaws = list(_read_packs(objects, faults, full=full, progress=progress))
    if full:
        flaws += _read_large(objects, progress)
    if problems := heads.problems():
        stored = len(set(objects))
        report = CheckReport(stored, 0, 0, (), {}, tuple(problems))
    else:
        report = check(
            objects,
            heads,
            damaged=_lost(objects, flaws),
            large_bytes={} if full else _sizes(objects),
            look=lambda: journalled.read_followed(objects, heads),
            progress=progress,
        )
    # What is damaged in one place and whole in another harms nobody; nor do bytes that are no record.
    harmless = sorted({flaw.text for flaw in flaws} - {*report.damaged, *report.harmless})
    derived = (*objects.folder.rebuilt, *(fault.text for fault in faults))
    report = msgspec.structs.replace(report, harmless=(*report.harmless, *harmless), derived=derived)
    return report, Findings(flaws, faults)


def _lost(objects: PackObjects, flaws: list[Flaw]) -> dict[Name, str]:
    """The objects of which there is no whole copy, with what is wrong."""
    lost = {}
    for flaw in flaws:
        if flaw.name is not None:
            try:
                data = objects.get(*flaw.name)
            except (ObjectDamaged, ObjectMissing):
                lost[flaw.name] = flaw.text
            else:
                if form_problem(flaw.name, data) is not None:
                    lost[flaw.name] = flaw.text
    return lost


def _read_packs(objects: PackObjects, faults: list[Fault], *, full: bool, progress: Progress) -> Iterator[Flaw]:
    sealed = objects.folder.sealed()
    total, done = sum(pack.size_bytes for pack in sealed), 0
    for pack in sealed:
        yield from _read_pack(pack, faults, full=full)
        done += pack.size_bytes
        progress("reading packs", done, total)
    for own in objects.open_packs():
        found = scan(own.file.reading(), verify=full)
        whole = {record.name for record in found.records}
        for name in own.records.keys() - whole:
            yield Flaw(f"pack {own.number}", own.number, name, "its bytes do not match its name")


def _read_pack(pack: SealedPack, faults: list[Fault], *, full: bool) -> Iterator[Flaw]:
    """Compare a pack with its index, and, when full, each object with its name and form."""
    reading = pack.file.reading()
    place = f"pack {pack.number}"
    found = scan(reading, verify=full)
    places = {record.name: (record.offset, record.length) for record in found.records}
    indexed = {name for name, _, _ in pack.index}
    # As it is found: an index may list an object and look for it elsewhere, or say that it lies elsewhere.
    astray = sorted(name for name, where in places.items() if pack.index.find(name) != where)
    faults += [
        Fault(pack.number, f"the index of {place} leads to no {name[0].word} {name[1].hex()}") for name in astray
    ]
    flawed = indexed - places.keys()
    for name in sorted(flawed):
        yield Flaw(place, pack.number, name, "its bytes do not match its name")
    if found.damaged and not flawed:
        yield Flaw(place, pack.number, None, "they are no record")
    for record in found.records if full and not pack.condemned else ():
        if record.name[0] is not Kind.BLOB:
            data = reading.object(record)
            if data is not None and (problem := form_problem(record.name, data)) is not None:
                yield Flaw(place, pack.number, record.name, problem)


def _sizes(objects: PackObjects) -> dict[bytes, int]:
    """The size of each large blob's file."""
    sizes = {}
    for name in objects.large:
        with contextlib.suppress(FileNotFoundError):  # swept just now
            sizes[name] = objects.large.size_bytes(name)
    return sizes


def _read_large(objects: PackObjects, progress: Progress) -> Iterator[Flaw]:
    names = list(objects.large)
    for number, name in enumerate(names, 1):
        try:
            objects.large.verify(name)
        except ObjectDamaged as error:
            yield Flaw(LARGE, None, (Kind.BLOB, name), error.reason)
        progress("reading large files", number, len(names))
