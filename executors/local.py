"""The local executor: materialize, run, capture. Written once, for every sandbox."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec

from executors import determinism, paths
from executors.completion import completed
from executors.errors import FilesTooLarge
from executors.interfaces import Cell, Job, Request, Result, RunResult, StageWatch, System
from executors.output import tolerated
from executors.paths import Place
from executors.systems import Site, Systems
from store.capture import Captured
from store.edit import FileEdit, place_file, put_files
from store.files import Files, Owner, open_directory
from store.ids import TreeId
from store.interfaces import Objects
from store.known import KnownTrees
from store.pool import Workspaces
from store.snapshot import LeftOut
from store.tree import logical_time_s
from store.view import (
    DirectoryView,
    Patience,
    Regular,
    TooFar,
    TooLarge,
    TreeView,
    View,
    destination,
    follow,
)
from store.workspace import Workspace

_log = logging.getLogger(__name__)
THREADS = 8
FETCHED_BYTES_MAX = 64 << 20

_Value = TypeVar("_Value")


class _Gathered(msgspec.Struct):
    """Files that were asked for: their bytes by the name they were asked under, and where they lay."""

    fetched: dict[str, bytes] = {}
    edits: dict[tuple[bytes, ...], FileEdit] = {}
    left_out: list[LeftOut] = []
    total_bytes: int = 0
    patience: Patience = msgspec.field(default_factory=Patience)


class LocalExecutor:
    """`Executor` on this machine. Owns its sandboxes and its workspaces."""

    def __init__(
        self,
        systems: Systems,
        workspaces: Workspaces,
        objects: Objects,
        owner: Owner | None,
        files: Files | None = None,
    ) -> None:
        self._systems, self._workspaces, self._objects, self._owner = systems, workspaces, objects, owner
        self._files = files or Files()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="psf-store")
        self._steps, self._no_step = 0, asyncio.Event()
        self._no_step.set()
        self._releasing: set[asyncio.Future[None]] = set()

    async def execute(self, request: Request, watch: StageWatch | None = None) -> Result:
        watch = tolerated(watch)  # for the whole step, so that one that failed is not told of later stages
        self._begin()
        try:
            async with self._systems.site(request.system) as site:
                if request.deterministic:
                    determinism.refuse(site.sandbox.capabilities)
                return await self._execute(request, site, watch)
        finally:
            self._end()

    async def _execute(self, request: Request, site: Site, watch: StageWatch | None) -> Result:
        workspace = await self._in_thread(lambda: self._acquire(request, site), undo=self._discard)
        try:
            stages, gathered = await self._run(request, site, workspace, watch)
        except BaseException:
            # Cancelled or broken: whatever lies in it is not a known tree.
            await self._discard(workspace)
            raise
        result, captured = await self._in_thread(
            lambda: self._capture(request, site, workspace, stages, gathered),
            undo=lambda done: self._in_thread(lambda: self._workspaces.release(workspace, done[0].tree, done[1])),
        )
        self._release_later(workspace, result.tree, captured)
        return result

    def _release_later(self, workspace: Workspace, tree: TreeId, captured: Captured | None) -> None:
        """Have the workspace made ready for its next step, which nobody who waits for this one's answer need wait for."""
        self._begin()
        # Now: whoever learns of the tree by the answer then finds the workspace, and not that it is not there yet.
        self._workspaces.expect(tree)
        releasing = asyncio.ensure_future(self._in_thread(lambda: self._workspaces.release(workspace, tree, captured)))
        self._releasing.add(releasing)
        releasing.add_done_callback(self._released)

    def _released(self, releasing: asyncio.Future[None]) -> None:
        self._releasing.discard(releasing)
        self._end()
        if not releasing.cancelled() and (error := releasing.exception()) is not None:
            _log.error("a workspace could not be given back", exc_info=error)

    def _begin(self) -> None:
        self._steps += 1
        self._no_step.clear()

    def _end(self) -> None:
        self._steps -= 1
        if not self._steps:
            self._no_step.set()

    async def prepare(self, system: System) -> bytes:
        async with self._systems.site(system) as site:
            return site.identity

    async def close(self) -> None:
        await self._systems.close()
        await self._no_step.wait()  # those that ran have failed with their sandbox; others are being captured
        await self._in_thread(self._workspaces.close)
        self._threads.shutdown()

    # -- in a thread: the disk ----------------------------------------------------------------------------------------

    async def _in_thread(
        self, act: Callable[[], _Value], undo: Callable[[_Value], Awaitable[object]] | None = None
    ) -> _Value:
        """The one seam between the asynchronous executor and the synchronous store. The act is never abandoned half-done."""
        return await completed(asyncio.get_running_loop().run_in_executor(self._threads, act), undo)

    async def _discard(self, workspace: Workspace) -> None:
        await self._in_thread(lambda: self._workspaces.discard(workspace))

    def _acquire(self, request: Request, site: Site) -> Workspace:
        workspace = self._workspaces.acquire(request.tree)
        try:
            directory = open_directory(str(workspace.writable))
            try:
                status, time_s = os.fstat(directory), logical_time_s(request.number)
                self._place(directory, (request.program_name.encode(),), request.program, time_s)
                for name, data in request.files:
                    place = _resolved(name, site)
                    if place is not None and place.scratch is None:
                        self._place(directory, place.path, data, time_s)
                os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(directory)
        except BaseException:
            self._workspaces.discard(workspace)
            raise
        return workspace

    def _place(self, directory: int, path: tuple[bytes, ...], data: bytes, time_s: int) -> None:
        place_file(self._files, directory, path, data, owner=self._owner, time_s=time_s)

    def _place_scratch(self, request: Request, site: Site, scratch: int) -> None:
        for name, data in request.files:
            place = _resolved(name, site)
            if place is None or place.scratch is None:
                continue
            try:
                self._place(scratch, (place.scratch, *place.path), data, logical_time_s(request.number))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                limits = request.stages[-1].limits
                raise FilesTooLarge(
                    f"do not fit into scratch ({limits.scratch_bytes} bytes, {limits.scratch_inodes} files)"
                ) from None

    def _capture(
        self,
        request: Request,
        site: Site,
        workspace: Workspace,
        stages: tuple[tuple[str, RunResult], ...],
        gathered: _Gathered,
    ) -> tuple[Result, Captured | None]:
        """The result, and what it was captured as if it was. When that fails, the workspace is no more."""
        try:
            tree, captured = self._read(request, site, workspace, gathered)
        except BaseException:
            self._workspaces.discard(workspace)
            raise
        result = Result(
            tree,
            _with_hit(stages, captured.hit) if captured else stages,
            gathered.fetched,
            (*gathered.left_out, *(captured.left_out if captured else ())),
            workspace.warm,
            site.identity,
        )
        return result, captured

    def _read(
        self, request: Request, site: Site, workspace: Workspace, gathered: _Gathered
    ) -> tuple[TreeId, Captured | None]:
        """The tree that the step leaves, and the capture that it comes from if there was one."""
        self._gather(request, site, workspace.view(), gathered, scratch=None)
        if request.keep == "all":
            captured = workspace.capture(request.number)
            return captured.tree, captured
        if request.keep == "fetched":
            stored = TreeView(KnownTrees(self._objects), request.tree)
            mount = tuple(site.work_dir.strip("/").encode().split(b"/"))
            patience = Patience()
            edits = {destination(stored, path, mount, patience): edit for path, edit in gathered.edits.items()}
            return put_files(self._objects, request.tree, edits, request.number), None
        return request.tree, None

    def _gather(self, request: Request, site: Site, view: View, gathered: _Gathered, *, scratch: bytes | None) -> None:
        for name in request.fetch:
            place = _resolved(name, site)
            if place is None or place.scratch != scratch:
                continue
            room = FETCHED_BYTES_MAX - gathered.total_bytes
            found = follow(view, place.path, room, place.mount, gathered.patience)
            if isinstance(found, Regular):
                gathered.fetched[name] = found.data
                gathered.total_bytes += len(found.data)
                if scratch is None:
                    gathered.edits[place.path] = FileEdit(found.data, found.executable)
            elif isinstance(found, TooLarge):
                reason = f"{found.size_bytes} bytes; an answer carries {FETCHED_BYTES_MAX} in all"
                gathered.left_out.append(LeftOut(name.encode(), reason))
            elif isinstance(found, TooFar):
                gathered.left_out.append(LeftOut(name.encode(), "symlinks on the way lead on too far"))

    # -- on the loop: the program -------------------------------------------------------------------------------------

    async def _run(
        self, request: Request, site: Site, workspace: Workspace, watch: StageWatch | None
    ) -> tuple[tuple[tuple[str, RunResult], ...], _Gathered]:
        results: list[tuple[str, RunResult]] = []
        gathered = _Gathered()
        async with site.sandbox.open(workspace.mount, request.stages[-1].limits) as cell:
            await self._in_thread(lambda: self._place_scratch(request, site, cell.scratch))
            for stage in request.stages:
                last = stage is request.stages[-1]
                job = Job(
                    (*stage.argv, *(request.args if last else ())),
                    request.env,
                    request.stdin if last else b"",
                    stage.limits,
                    request.deterministic,
                )
                result = await cell.run(job, watch and partial(watch, stage.name))
                results.append((stage.name, result))
                if result.exit_code != 0:
                    break
            await self._gather_scratch(request, site, cell, gathered)
        return tuple(results), gathered

    async def _gather_scratch(self, request: Request, site: Site, cell: Cell, gathered: _Gathered) -> None:
        places = [_resolved(name, site) for name in request.fetch]
        for folder in sorted({place.scratch for place in places if place is not None and place.scratch}):
            await self._in_thread(lambda folder=folder: self._look_into_scratch(request, site, cell, gathered, folder))  # type: ignore[misc]

    def _look_into_scratch(self, request: Request, site: Site, cell: Cell, gathered: _Gathered, folder: bytes) -> None:
        directory = open_directory(folder, cell.scratch)
        try:
            self._gather(request, site, DirectoryView(directory), gathered, scratch=folder)
        finally:
            os.close(directory)


def _resolved(name: str, site: Site) -> Place | None:
    place = paths.resolve(name, site.work_dir)
    return None if isinstance(place, str) else place


def _with_hit(stages: tuple[tuple[str, RunResult], ...], hit: tuple[str, ...]) -> tuple[tuple[str, RunResult], ...]:
    """The stages, the last of which also reached the limits `hit`."""
    *earlier, (name, run) = stages
    return (*earlier, (name, msgspec.structs.replace(run, hit=tuple(sorted({*run.hit, *hit})))))
