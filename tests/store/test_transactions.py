"""Group commit: many threads, one transaction; each gets its own result, and nobody another's failure."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import SessionMissing
from store.testing import THREADS, in_threads
from store.transactions import NoLog, Transactions


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None, check_same_thread=False)
    connection.execute("create table numbers (number integer primary key)")
    yield connection
    connection.close()


def numbers(database: sqlite3.Connection) -> list[int]:
    return [row[0] for row in database.execute("select number from numbers order by number")]


def insert(database: sqlite3.Connection, number: int) -> int:
    database.execute("insert into numbers values (?)", (number,))
    return number


def grouped(transactions: Transactions, database: sqlite3.Connection, works: list[object]) -> list[object]:
    """Run all works in threads that wait for one turn, so that they become one group; results or errors, in order."""
    commits: list[str] = []
    database.set_trace_callback(lambda statement: commits.append(statement) if "commit" in statement.lower() else None)
    results: list[object] = [None] * len(works)

    def attempt(number: int) -> None:
        try:
            results[number] = transactions.run(works[number])  # type: ignore[arg-type]
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(len(works))]
    with transactions._turn:
        for thread in threads:
            thread.start()
        while len(transactions._waiting) < len(works):
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    database.set_trace_callback(None)
    return [results, len(commits)]


def test_those_who_wait_share_one_commit(database: sqlite3.Connection) -> None:
    transactions = Transactions(database, NoLog())
    works = [lambda db, number=number: insert(db, number) for number in range(20)]
    results, commits = grouped(transactions, database, works)
    assert (results, commits) == (list(range(20)), 1)
    assert numbers(database) == list(range(20))


def test_whoever_is_refused_takes_nothing_and_nobody_with_him(database: sqlite3.Connection) -> None:
    transactions = Transactions(database, NoLog())

    def refused(db: sqlite3.Connection) -> None:
        insert(db, 100)
        raise SessionMissing("a")

    works = [lambda db: insert(db, 1), refused, lambda db: insert(db, 2)]
    results, commits = grouped(transactions, database, works)
    assert commits == 1
    assert isinstance(results, list)
    assert (results[0], results[2]) == (1, 2)
    assert isinstance(results[1], SessionMissing)
    assert numbers(database) == [1, 2]


def test_when_the_database_fails_nobody_is_told_otherwise(database: sqlite3.Connection) -> None:
    transactions = Transactions(database, NoLog())
    works = [lambda db: insert(db, 1), lambda db: insert(db, 1), lambda db: insert(db, 2)]
    results, _ = grouped(transactions, database, works)
    assert isinstance(results, list)
    assert all(isinstance(result, OSError) for result in results), results
    assert numbers(database) == []
    assert transactions.run(lambda db: insert(db, 3)) == 3


def test_a_full_disk_is_called_so(database: sqlite3.Connection) -> None:
    transactions = Transactions(database, NoLog())
    (pages,) = database.execute("pragma page_count").fetchone()
    database.execute(f"pragma max_page_count = {pages}")

    def fill() -> None:
        for number in range(10_000):
            transactions.run(lambda db, number=number: insert(db, number))  # type: ignore[misc]

    with pytest.raises(OSError, match="full") as caught:
        fill()
    assert caught.value.errno == 28
    before = numbers(database)
    database.execute("pragma max_page_count = 100000")
    transactions.run(lambda db: insert(db, 10_000_000))
    assert numbers(database) == [*before, 10_000_000]


def test_threads_that_come_and_go_all_get_their_own_result(database: sqlite3.Connection) -> None:
    transactions = Transactions(database, NoLog())

    def work(thread: int) -> list[int]:
        return [transactions.run(lambda db, n=n: insert(db, thread * 1000 + n)) for n in range(50)]  # type: ignore[misc]

    assert in_threads(work) == [[thread * 1000 + n for n in range(50)] for thread in range(THREADS)]
    assert len(numbers(database)) == THREADS * 50
