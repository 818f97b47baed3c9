"""pipelines/rewrite_captions.py beside a server that fails in every way: nothing is lost, nothing asked twice, the key goes nowhere."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

import corruptkit as ck
from corruptkit.cli import main
from tests.corruptkit.shards import Row, write_shards
from tests.pipelines.chat_server import Answer, Asked, ChatServer, say_rewritten, serve_chat

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "pipelines" / "rewrite_captions.py"
PROMPTS = SCRIPT.with_name("rewrite_prompts.toml")
KEY = "sk-test-3b1f0c9d8e7a6b5c4d3e2f1a"
COUNT = 40
ROWS = [Row(f"{i:09d}", None, f"a photo of thing {i}") for i in range(COUNT)]
CAPTIONS = {row.caption: row.key for row in ROWS}


class Said(NamedTuple):
    """What the script answered."""

    status: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a source of captions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shards(tmp_path / "src", ROWS, shards=2, members=("jpg", "txt"))
    return tmp_path


def command(chat: ChatServer | None, *words: str, source: str = "src") -> list[str]:
    url = chat.url if chat else "http://127.0.0.1:9/v1"
    plain = [sys.executable, str(SCRIPT), source, "--table", "t.parquet", "--model", "standin", "--base-url", url]
    return [*plain, "--wait", "0.01", "--timeout", "60", *words]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and not name.startswith("OPENAI")}
    return kept | {"PYTHONPATH": str(REPOSITORY), "OPENAI_API_KEY": KEY} | more


def run_script(chat: ChatServer | None, *words: str, source: str = "src", **more: str) -> Said:
    done = subprocess.run(command(chat, *words, source=source), capture_output=True, text=True, check=False, env=environment(**more))
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


def read_table(name: str = "t.parquet") -> list[dict[str, Any]]:
    return list(pq.read_table(name).to_pylist())


def read_journal() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("t.parquet.journal").read_bytes().splitlines()[1:]]


def make_variant(ratio: str, *words: str) -> ck.Manifest:
    """What the table is for: `make` and `verify`."""
    out = f"v-{ratio}"
    assert main(["make", "--source", "src", "--rewrite", ratio, "--table", "t.parquet", "--out", out, "--workers", "1", *words]) == 0
    assert main(["verify", out, "--source", "src", "--workers", "1"]) == 0
    return ck.read_manifest(Path(out))


def expect_no_key(folder: Path, *said: Said) -> None:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes(), path
    assert all(KEY not in text for one in said for text in (one.out, one.err))


def expect_once(chat: ChatServer, cells: Iterable[dict[str, Any]]) -> None:
    assert dict(chat.answered) == {(row["level"], row["caption"]): 1 for row in cells}


def test_table_is_made_and_used(here: Path) -> None:
    with serve_chat() as chat:
        said = run_script(chat, "--ratio", "0.5")
        again = run_script(chat, "--ratio", "0.5")
    assert (said.status, again.status) == (0, 0), said
    assert len(chat.asked) == COUNT // 2, "the second run has nothing to ask"
    assert {asked.authorization for asked in chat.asked} == {f"Bearer {KEY}"}
    table = read_table()
    expect_once(chat, table)
    assert [(row["key"], row["level"]) for row in table] == sorted((row["key"], row["level"]) for row in table)
    for row in table:
        assert CAPTIONS[row["caption"]] == row["key"]
        assert row["text"] == row["reply"] == f"{row['caption']}, but {row['level']}"
        assert (row["model"], row["prompt"]) == ("standin", hashlib.sha256(PROMPTS.read_bytes()).hexdigest())
        assert row["date"].endswith("+00:00")
    expect_no_key(here, said, again)
    manifests = [make_variant(ratio) for ratio in ("0.5", "0.25", "0.05")]
    assert [manifest.counts.changed for manifest in manifests] == [20, 10, 2]


def test_trouble_of_every_kind_loses_nothing(here: Path) -> None:
    """The schedule by number of request; the clients' patience is long beside what a healthy answer takes."""
    trouble = {
        2: Answer(status=500, text="oops"),
        3: Answer(drop=True),
        5: Answer(status=429, text="slow down", headers={"Retry-After": "0.2"}),
        6: Answer(status=503, text="busy", headers={"Retry-After": formatdate(time.time() - 5, usegmt=True)}),
        8: Answer(hang=True),
        9: Answer(body=b"<html>no JSON</html>"),
        11: Answer(body=b"{}", status=502),
        12: Answer(status=408, text="timeout"),
        13: Answer(drop=True),
        14: Answer(drop=True),
    }
    with serve_chat(lambda asked: trouble.get(asked.number) or say_rewritten(asked)) as chat:
        said = run_script(chat, "--ratio", "0.5", "--concurrency", "3", "--timeout", "8")
        assert said.status == 0, said
        assert len(chat.asked) == COUNT // 2 + len(trouble)
    table = read_table()
    assert len(table) == COUNT // 2
    expect_once(chat, table)
    expect_no_key(here, said)
    make_variant("0.5")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_server_is_left_alone_as_long_as_it_asks(here: Path, form: str) -> None:
    def behave(asked: Asked) -> Answer:
        later = "2" if form == "seconds" else formatdate(time.time() + 3, usegmt=True)  # a date has whole seconds
        return Answer(status=429, text="wait", headers={"Retry-After": later}) if asked.number == 3 else say_rewritten(asked)

    with serve_chat(behave) as chat:
        assert run_script(chat, "--ratio", "0.2", "--concurrency", "1").status == 0
    assert chat.asked[3].at - chat.asked[2].at >= 1.9
    assert here.exists()


def test_killed_run_goes_on(here: Path) -> None:
    def behave(asked: Asked) -> Answer:
        time.sleep(0.02)
        return say_rewritten(asked)

    with serve_chat(behave) as chat:
        with subprocess.Popen(command(chat, "--ratio", "1", "--concurrency", "3"), env=environment(), stderr=subprocess.DEVNULL) as run:
            while len(chat.answered) < 10:
                assert run.poll() is None
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
        kept = {(row["key"], row["level"]): row for row in read_journal()}
        assert 7 <= len(kept) < COUNT
        with Path("t.parquet.journal").open("ab") as journal:
            journal.write(b'{"key": "000000001", "lev')  # what a kill between two blocks of a disk leaves
        said = run_script(chat, "--ratio", "1", "--concurrency", "3")
    assert said.status == 0, said
    table = read_table()
    assert len(table) == COUNT
    assert chat.answered.keys() == {(row["level"], row["caption"]) for row in table}
    assert chat.answered.total() - COUNT <= 3, "at most what was under way"
    assert all(chat.answered[row["level"], row["caption"]] == 1 for row in kept.values()), "what was written down is not asked for again"
    assert len(read_journal()) == COUNT
    assert not [path.name for path in here.iterdir() if path.name.endswith(".tmp")]
    expect_no_key(here, said)


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_budget_stops_exactly(here: Path, concurrency: str) -> None:
    def behave(asked: Asked) -> Answer:
        return Answer(status=500, text="oops") if asked.number in (2, 5) else say_rewritten(asked)

    with serve_chat(behave) as chat:
        said = run_script(chat, "--ratio", "0.5", "--budget", "9", "--concurrency", concurrency)
        assert (said.status, len(chat.asked)) == (1, 9), said
        assert "the budget of 9 requests is spent" in said.err
        assert "13 texts are missing: the same command goes on" in said.err
        assert len(read_table()) == 7
        assert main(["make", "--source", "src", "--rewrite", "0.5", "--table", "t.parquet", "--out", "early"]) == 2
        said = run_script(chat, "--ratio", "0.5", "--budget", "13", "--concurrency", concurrency)
    assert (said.status, len(chat.asked)) == (0, 22), said
    expect_once(chat, read_table())
    assert not (here / "early").exists()


def test_first_rows_asked_for_serve_a_smaller_ratio(here: Path) -> None:
    with serve_chat() as chat:
        assert run_script(chat, "--ratio", "0.5", "--budget", "8", "--concurrency", "1").status == 1
    assert make_variant("0.2").counts.changed == 8
    assert here.exists()


def test_budget_of_tokens_stops(here: Path) -> None:
    with serve_chat() as chat:
        said = run_script(chat, "--ratio", "0.5", "--budget-tokens", "35", "--concurrency", "1")
    assert (said.status, len(chat.asked), len(read_table())) == (1, 4, 4)
    assert "the budget of 35 tokens is spent (40 in this run)" in said.err
    with serve_chat(lambda asked: say_rewritten(asked)._replace(usage=False)) as chat:
        said = run_script(chat, "--ratio", "0.5", "--budget-tokens", "35", "--concurrency", "1")
    assert (said.status, len(chat.asked)) == (1, 1)
    assert "does not say how many tokens" in said.err
    assert here.exists()


def test_replies_that_cannot_be_used_are_asked_for_again_with_a_note(here: Path) -> None:
    bad = ["", "  \n", "two\nlines", "x" * 300, "a\x07bell", '""']

    def behave(asked: Asked) -> Answer:
        if asked.number <= len(bad):
            return Answer(bad[asked.number - 1])
        return say_rewritten(asked)._replace(finish="length" if asked.number == 7 else "stop")

    with serve_chat(behave) as chat:
        said = run_script(chat, "--ratio", "0.25", "--concurrency", "1", "--tries", "8")
    assert said.status == 0, said
    assert [asked.notes for asked in chat.asked] == [0, *[1] * 7, *[0] * 9]
    assert len({asked.caption for asked in chat.asked[:8]}) == 1
    assert [row["fault"] for row in read_journal()][:8] == [
        *["empty"] * 2,
        "of several lines or with control characters",
        "too long",
        "of several lines or with control characters",
        "empty",
        "cut off",
        "",
    ]
    assert len(read_table()) == 10
    assert here.exists()


def test_rows_that_stay_as_they_are_make_room_and_rows_that_fail_are_listed(here: Path) -> None:
    index = ck.open_dataset("src").index()
    ranking = ck.list_rewrites(ck.Recipe(seed=0, chain=[ck.Rewrite(ratio="1")]), index).to_pylist()
    same, empty = ranking[1]["caption"], ranking[4]["caption"]

    def behave(asked: Asked) -> Answer:
        return Answer({same: f'"{same}"', empty: ""}.get(asked.caption, f"no {asked.caption}"))

    with serve_chat(behave) as chat:
        said = run_script(chat, "--ratio", "0.25", "--tries", "3")
        assert said.status == 1
        assert f"failed, {ranking[4]['key']}: the last of 3 replies at level {ranking[4]['level']} is empty" in said.err
        assert "1 rows failed; --tries 6 asks again" in said.err
        asked = len(chat.asked)
        assert asked == 3 + 3 + 9, "nine others: one in place of the row that stays"
        assert (run_script(chat, "--ratio", "0.25", "--tries", "3").status, len(chat.asked)) == (1, asked), "tries are remembered"
        said = run_script(chat, "--ratio", "0.25", "--tries", "3", "--skip-failed")
        assert (said.status, len(chat.asked)) == (0, asked + 1), said
    table = {row["caption"]: row["text"] for row in read_table()}
    assert (table[same], table[empty], len(table)) == (same, empty, 12)
    manifest = make_variant("0.25")
    assert (manifest.counts.changed, manifest.counts.stages[0].eligible) == (10, COUNT - 2)
    assert here.exists()


@pytest.mark.parametrize(
    ("status", "text"), [(401, f"wrong key {KEY[:14]}****"), (400, f"no such model; key {KEY}\nline"), (404, "nothing here")]
)
def test_refusal_stops_the_run_at_once(here: Path, status: int, text: str) -> None:
    with serve_chat(lambda _: Answer(text, status=status)) as chat:
        said = run_script(chat, "--ratio", "0.5", "--concurrency", "1")
    assert (said.status, len(chat.asked)) == (1, 1)
    assert f"stopped: the server refuses with HTTP {status}" in said.err
    assert said.err.count("\n") == 1
    assert KEY[:14] not in said.err, "nor a part of it"
    expect_no_key(here, said)


def test_server_that_never_works_is_given_up(here: Path) -> None:
    with serve_chat(lambda _: Answer("down", status=500)) as chat:
        said = run_script(chat, "--ratio", "0.5", "--concurrency", "1", "--retries", "2")
    assert (said.status, len(chat.asked)) == (1, 3)
    assert "the server failed 3 times in a row, last with HTTP 500" in said.err
    expect_no_key(here, said)


def test_key_in_a_reply_is_hidden(here: Path) -> None:
    with serve_chat(lambda asked: Answer(f"{asked.caption} {KEY}")) as chat:
        said = run_script(chat, "--ratio", "0.1")
    assert (said.status, len(chat.asked)) == (0, 4)
    assert all(row["reply"].endswith(" [key]") for row in read_table())
    expect_no_key(here, said)


def test_recipe_file_says_what_is_wanted(here: Path) -> None:
    stage = '[[chain]]\nkind = "rewrite"\nratio = "0.25"\ntable = "{}"\nwhere = {{ caption_contains = "1" }}\n'
    Path("r.toml").write_text('seed = 3\n[[chain]]\nkind = "swap"\nratio = "1"\n' + stage.format("t.parquet"), encoding="utf-8")
    with serve_chat() as chat:
        said = run_script(chat, "--recipe", "r.toml")
        assert said.status == 0, said
        expect_once(chat, read_table())
        assert main(["make", "--source", "src", "--recipe", "r.toml", "--out", "v", "--workers", "1"]) == 0
        assert main(["verify", "v", "--source", "src", "--workers", "1"]) == 0
        assert len(chat.asked) == 10
        Path("other.jsonl").write_bytes(b"")
        Path("r.toml").write_text("seed = 0\n" + stage.format("other.jsonl"), encoding="utf-8")
        # The first run fills the table; then it shows that the recipe looks elsewhere.
        said = run_script(chat, "--recipe", "r.toml")
    assert said.status == 2
    assert said.err.startswith("error: r.toml: the recipe takes its texts from elsewhere than t.parquet; state table = 't.parquet'")
    assert here.exists()


def test_one_table_serves_several_seeds(here: Path) -> None:
    with serve_chat() as chat:
        assert run_script(chat, "--ratio", "0.5", "--seed", "0, 1,2").status == 0
    expect_once(chat, read_table())
    for seed in ("0", "1", "2"):
        assert main(["make", "--source", "src", "--rewrite", "0.5", "--table", "t.parquet", "--seed", seed, "--out", seed]) == 0
    assert here.exists()


def test_data_set_of_the_catalog_is_found(openmoji: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serve_chat() as chat:
        said = run_script(chat, "--ratio", "0.002", source="openmoji", CORRUPTKIT_DATA=str(openmoji.parent))
    assert said.status == 0, said
    assert len(read_table()) == 8
    said = run_script(None, "--ratio", "0.002", source="openmojo")
    assert said.status == 2
    assert "did you mean 'openmoji'?" in said.err


def test_mistakes_are_told_in_one_line(here: Path) -> None:
    def expect(said: Said, *parts: str) -> None:
        assert said.status == 2, said
        assert said.err.rstrip().count("\n") == 0 or said.err.startswith("usage:")
        assert all(part in said.err for part in parts), said.err

    expect(run_script(None, "--ratio", "0.5", OPENAI_API_KEY=""), "OPENAI_API_KEY is not set")
    expect(run_script(None, "--ratio", "5%"), "error: --ratio: ", "found '5%', expected a decimal number")
    Path("p.toml").write_text('system = "s"\nlevels = ["a", "b"]\nagain = "again"\n', encoding="utf-8")
    expect(run_script(None, "--ratio", "0.5", "--prompt", "p.toml"), "p.toml: 2 levels, expected 5, as the recipe has")
    Path("p.toml").write_text('system = "s"\n', encoding="utf-8")
    expect(run_script(None, "--ratio", "0.5", "--prompt", "p.toml"), "p.toml: it cannot be used", "mend it")
    expect(run_script(None, "--ratio", "0.5", source="./nowhere"), "nowhere")
    with serve_chat() as chat:
        assert run_script(chat, "--ratio", "0.1").status == 0
    write_shards(here / "other", ROWS[1:], members=("jpg", "txt"))
    expect(run_script(None, "--ratio", "0.1", source="other"), "t.parquet.journal: texts for the source", "name another --table")
    journal = Path("t.parquet.journal")
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b'{"key"', b'{"kay"', 1))
    expect(run_script(None, "--ratio", "0.1"), "t.parquet.journal: line 2 is no record")
    journal.unlink()
    expect(run_script(None, "--ratio", "0.1"), "t.parquet: a table without its journal")
    assert len(read_table()) == 4, "it is left as it was"


def test_two_runs_do_not_write_one_table(here: Path) -> None:
    def behave(asked: Asked) -> Answer:
        time.sleep(0.05)
        return say_rewritten(asked)

    with serve_chat(behave) as chat, subprocess.Popen(command(chat, "--ratio", "1", "--concurrency", "1"), env=environment()) as run:
        while not chat.asked:
            assert run.poll() is None
            time.sleep(0.01)
        said = run_script(chat, "--ratio", "1")
        assert said.status == 2 or run.poll() is not None
        assert "another run is writing here" in said.err or run.poll() is not None
        assert run.wait() == 0
    expect_once(chat, read_table())
    assert here.exists()
