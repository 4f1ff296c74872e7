"""The contracts as tests, for every sandbox and every executor, ours and others'.

A backend's test file subclasses a contract and gives its fixtures:

    class TestMySandbox(SandboxContract):
        @pytest.fixture
        async def sandbox(self) -> AsyncIterator[Sandbox]:
            async with my_sandbox() as sandbox:
                yield sandbox

Only the Protocols of executors.interfaces are used here. Tests and fixtures are coroutines: pytest-asyncio runs them with
`asyncio_mode = "auto"`. Programs are Python's and the shell's; `python3` and `sh` must be on a program's PATH.
"""

from __future__ import annotations

from executors.testing.confinement import ConfinementContract
from executors.testing.determinism import DeterminismContract
from executors.testing.endings import EndingsContract
from executors.testing.equality import EqualityContract
from executors.testing.history import History, MakeExecutor
from executors.testing.processes import ProcessesContract
from executors.testing.steps import StepsContract
from executors.testing.streaming import StreamingContract
from executors.testing.trial import Trial, TrialFixtures

__all__ = ["ExecutorContract", "History", "MakeExecutor", "SandboxContract", "Trial"]


class SandboxContract(
    EndingsContract, ProcessesContract, ConfinementContract, DeterminismContract, StreamingContract, TrialFixtures
):
    """What every `Sandbox` promises. Give a fixture `sandbox`; and `owner`, when programs run under another user id."""


class ExecutorContract(StepsContract, EqualityContract):
    """What every `Executor` promises. Give a fixture `make_executor`; and `objects`, when memory cannot be shared with it."""
