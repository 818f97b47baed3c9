"""Has a language model rewrite the captions that a recipe asks for, and keeps its texts in a table for `corruptkit make --rewrite`.

    export OPENAI_API_KEY=...
    python pipelines/rewrite_captions.py data/cc3m --ratio 0.2 --table cc3m.parquet --model gpt-4o --budget 200000
    corruptkit make --source data/cc3m --rewrite 0.025,0.05,0.1,0.2 --table cc3m.parquet --format overlay

Any server that speaks OpenAI's chat completions will do (--base-url). The key comes from the environment and goes to the server alone.
Each reply joins TABLE.journal before the next is asked for: whatever ends a run, the same command goes on, and no answer is paid for twice.
TABLE is written from it, whole or not at all. Exit status: 0 every text is there, 1 some are missing (it says why), 2 a mistake.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import openai
from pydantic import ValidationError
from rewritten_texts import SAME, Cell, Journal, Record, clean_reply
from tqdm import tqdm

import corruptkit as ck

PROMPTS = Path(__file__).with_name("rewrite_prompts.toml")
_LONGEST_WAIT = 60.0
_SECRET = 16  # servers of one's own are given words such as "none" for a key, which hide nothing


class Stop(Exception):  # noqa: N818 - no error: a reason to send nothing more
    """Why no further request is sent."""


class Prompt(NamedTuple):
    """What the model is told: always, at each level, and after a reply that cannot be used; the SHA-256 of the file that says so."""

    system: str
    levels: list[str]
    again: str
    digest: str


def read_prompt(path: Path) -> Prompt:
    try:
        content = path.read_bytes()
        table = tomllib.loads(content.decode())
        system, levels, again = table["system"].strip(), [level.strip() for level in table["levels"]], table["again"].strip()
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        found = f"it cannot be used: {type(error).__name__} {error}"
        raise ck.CatalogError(ck.Problem(str(path), found, "TOML with the texts system, levels = [...] and again", "mend it")) from None
    return Prompt(system, levels, again, hashlib.sha256(content).hexdigest())


class Asker:
    """Sends requests, as many at a time as is said, and tells the journal what comes back."""

    def __init__(self, words: argparse.Namespace, prompt: Prompt, journal: Journal) -> None:
        self.words, self.prompt, self.journal = words, prompt, journal
        self.key = os.environ["OPENAI_API_KEY"]
        self.requests = self.tokens = 0
        self.resume_at = 0.0  # by the clock of the loop: a server that says when to come back says it to all
        self.stopped = ""
        self.failed: dict[Cell, str] = {}

    async def ask_rows(self, rows: list[Record]) -> None:
        turns = iter(tqdm(rows, desc="rewrite", unit="text", disable=None, leave=False))
        async with openai.AsyncOpenAI(api_key=self.key, base_url=self.words.base_url, timeout=self.words.timeout, max_retries=0) as client:
            await asyncio.gather(*(self._take_turns(client, turns) for _ in range(self.words.concurrency)))

    async def _take_turns(self, client: openai.AsyncOpenAI, turns: Iterator[Record]) -> None:
        """One row after another; after a reason to stop, requests that are under way still end and are kept."""
        try:
            for row in turns:
                await self._ask_row(client, row)
        except Stop as reason:
            self.stopped = self.stopped or str(reason)

    async def _ask_row(self, client: openai.AsyncOpenAI, row: Record) -> None:
        cell, caption = (row["key"], row["level"]), row["caption"]
        named = {"model": self.words.model, "prompt": self.prompt.digest}
        refused = self.journal.refused[cell, named["model"], named["prompt"]]
        while len(refused) < self.words.tries:
            reply, cut, tokens = await self._send(client, self._write_messages(row, refused))
            text, fault = (None, "cut off") if cut else clean_reply(reply, caption)
            kept = {"reply": reply.encode(errors="backslashreplace").decode(), "tokens": tokens, "date": _utc_now()}
            self.journal.add({**row, "text": text, "fault": fault, **named, **kept})
            if text is not None:
                return
        if self.words.skip_failed or refused[-1]["fault"] == SAME:
            # Its text is its caption: the specification passes such a row over, and the next of the ranking enters.
            self.journal.add({**refused[-1], "text": caption, "fault": f"skipped: {refused[-1]['fault']}", "date": _utc_now()})
        else:
            self.failed[cell] = refused[-1]["fault"]

    def _write_messages(self, row: Record, refused: list[Record]) -> list[dict[str, str]]:
        told = f"{self.prompt.system}\n\n{self.prompt.levels[row['level'] - 1]}"
        messages = [{"role": "system", "content": told}, {"role": "user", "content": row["caption"]}]
        if refused:
            messages += [{"role": "assistant", "content": refused[-1]["reply"]}] if refused[-1]["reply"] else []
            messages.append({"role": "user", "content": self.prompt.again.replace("{fault}", refused[-1]["fault"])})
        return messages

    async def _send(self, client: openai.AsyncOpenAI, messages: Any) -> tuple[str, bool, int]:
        """The reply, whether it was cut off, and its tokens; what may pass by itself is tried again, after longer and longer waits."""
        reason = ""
        for attempt in range(self.words.retries + 1):
            await self._wait_turn()
            try:
                return self._read_answer(await client.chat.completions.create(model=self.words.model, messages=messages))
            except openai.APITimeoutError:
                reason, wait = f"no answer within {self.words.timeout:g} s", 0.0
            except openai.APIStatusError as error:
                said = "" if error.status_code in (401, 403) else f": {self._hide(error.message):.200}"  # some repeat half of the key
                reason, wait = f"HTTP {error.status_code}{said}", read_wait(error.response.headers)
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise Stop(f"the server refuses with {reason}") from None
                self.resume_at = max(self.resume_at, asyncio.get_running_loop().time() + wait)
            except (openai.APIError, ValueError) as error:  # ValueError: a body that is no JSON
                reason, wait = f"{type(error).__name__}: {self._hide(str(error)):.200}", 0.0
            if attempt < self.words.retries:
                await asyncio.sleep(max(wait, min(_LONGEST_WAIT, self.words.wait * 2**attempt)))
        raise Stop(f"the server failed {self.words.retries + 1} times in a row, last with {reason}")

    async def _wait_turn(self) -> None:
        """Wait as long as the server has asked to, then count a request; one beyond the budget is not sent."""
        while (delay := self.resume_at - asyncio.get_running_loop().time()) > 0 and not self.stopped:  # noqa: ASYNC110 - it may grow
            await asyncio.sleep(delay)
        if self.stopped:
            raise Stop(self.stopped)
        for spent, budget, what in ((self.requests, self.words.budget, "requests"), (self.tokens, self.words.budget_tokens, "tokens")):
            if budget is not None and spent >= budget:
                raise Stop(f"the budget of {budget:,} {what} is spent ({spent:,} in this run)")
        self.requests += 1

    def _read_answer(self, answer: Any) -> tuple[str, bool, int]:
        choice = next(iter(getattr(answer, "choices", None) or ()), None)
        reply = getattr(getattr(choice, "message", None), "content", None)
        tokens = getattr(getattr(answer, "usage", None), "total_tokens", None)
        if tokens is None and self.words.budget_tokens is not None:
            self.stopped = self.stopped or "the server does not say how many tokens it used: state --budget alone"
        self.tokens += tokens or 0
        reply = reply if isinstance(reply, str) else ""
        return reply if len(self.key) < _SECRET else self._hide(reply), getattr(choice, "finish_reason", "") == "length", tokens or 0

    def _hide(self, text: str) -> str:
        return text.replace(self.key, "[key]")


def read_wait(headers: Any) -> float:
    """Seconds that Retry-After asks for: a number, or a date."""
    text = headers.get("retry-after") or "0"
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_source(words: argparse.Namespace) -> ck.Dataset:
    """A path, or a data set of the catalog where `corruptkit` would find it."""
    how = {"split": words.split, "caption_column": words.caption_column, "bad": words.bad}
    if Path(words.source).exists() or "/" in words.source:
        return ck.open_dataset(words.source, key=words.key, **how)
    entry = ck.load_catalog().source(words.source)
    home = Path(os.environ.get("CORRUPTKIT_DATA") or "data") / entry.name
    return ck.open_dataset(home, key=words.key or entry.key_rule, classes=entry.classes, fields=entry.fields, **how)


def list_wanted(words: argparse.Namespace, index: ck.Index, prompt: Prompt) -> dict[Cell, Record]:
    """What the recipes lack, now that their table is what it is."""
    if words.recipe:
        recipes = [ck.load_recipe(Path(words.recipe))]
    else:
        stage = ck.Rewrite(ratio=words.ratio, levels=words.levels, table=Path(words.table))
        recipes = [ck.Recipe(seed=seed.strip(), chain=[stage]) for seed in words.seed.split(",")]
    for stage in (stage for recipe in recipes for stage in recipe.chain if isinstance(stage, ck.Rewrite)):
        if stage.levels != len(prompt.levels):
            found = f"{len(prompt.levels)} levels"
            raise ck.CatalogError(
                ck.Problem(words.prompt, found, f"{stage.levels}, as the recipe has", "state --levels or another --prompt")
            )
    return {(row["key"], row["level"]): row for recipe in recipes for row in ck.list_rewrites(recipe, index).to_pylist()}


def make_table(words: argparse.Namespace) -> int:
    table, prompt = Path(words.table), read_prompt(Path(words.prompt))
    place = table.with_name(f"{table.name}.journal")
    if table.exists() and not place.exists():
        raise ck.ConflictError(
            ck.Problem(words.table, "a table without its journal", do=f"put {place.name} beside it or name another --table")
        )
    index = open_source(words).index()
    journal = Journal(place, index.meta.fingerprint)
    asker = Asker(words, prompt, journal)
    while True:
        journal.write_table(table)
        wanted = list_wanted(words, index, prompt)
        if wanted.keys() & journal.texts.keys():
            found = f"the recipe takes its texts from elsewhere than {table}"
            raise ck.CatalogError(ck.Problem(words.recipe or "--table", found, do=f"state table = '{table.name}' in its rewrite stages"))
        rows = [row for cell, row in wanted.items() if cell not in asker.failed]
        if not rows or asker.stopped:
            return tell_end(words, asker, len(wanted))
        asyncio.run(asker.ask_rows(rows))


def tell_end(words: argparse.Namespace, asker: Asker, missing: int) -> int:
    print(f"{words.table}: {len(asker.journal.texts):,} texts; this run sent {asker.requests:,} requests and used {asker.tokens:,} tokens")
    if asker.stopped:
        print(ck.Problem("stopped", asker.stopped, do=f"{missing:,} texts are missing: the same command goes on"), file=sys.stderr)
    for (key, level), fault in list(asker.failed.items())[:5]:
        print(ck.Problem("failed", f"the last of {words.tries} replies at level {level} is {fault}", key=key), file=sys.stderr)
    if asker.failed:
        ways = f"--tries {2 * words.tries} asks again, --prompt or --model ask otherwise, --skip-failed takes the next rows in their place"
        print(f"{len(asker.failed):,} rows failed; {ways}", file=sys.stderr)
    return 1 if missing else 0


def parse_words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("source", help="a path that `corruptkit make --source` takes, or a data set of the catalog")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ratio", help="the largest ratio that the table shall serve")
    what.add_argument("--recipe", help="a recipe file whose rewrite stages name TABLE, in place of --ratio, --seed and --levels")
    parser.add_argument("--seed", default="0", help="several with commas")
    parser.add_argument("--levels", type=int, default=5, help="as many as the prompt file has (default 5)")
    parser.add_argument("--table", required=True, help="the Parquet file to make; TABLE.journal beside it has every reply")
    parser.add_argument("--model", required=True, help="its name at the server")
    parser.add_argument("--base-url", help="where the server is (default: $OPENAI_BASE_URL, else OpenAI's)")
    parser.add_argument("--prompt", default=str(PROMPTS), help="TOML with system, levels and again (default: rewrite_prompts.toml)")
    parser.add_argument("--budget", type=int, help="the most requests that this run may send, those that fail among them")
    parser.add_argument("--budget-tokens", type=int, help="send nothing more once so many are used; what is under way still ends")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time (default 8)")
    parser.add_argument("--tries", type=int, default=4, help="replies a row before it counts as failed (default 4)")
    parser.add_argument("--skip-failed", action="store_true", help="leave rows that failed as they are: others take their place")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for a reply (default 60)")
    parser.add_argument("--retries", type=int, default=8, help="how often a request that failed is sent again (default 8)")
    parser.add_argument("--wait", type=float, default=1, help="seconds before the first of these, doubled each time (default 1)")
    for flag in ("--key", "--split"):
        parser.add_argument(flag, help="as for `corruptkit make`")
    parser.add_argument("--caption-column", default="", help="as for `corruptkit make`")
    parser.add_argument("--bad", choices=["refuse", "exclude"], default="refuse", help="as for `corruptkit make`")
    words = parser.parse_args()
    if min(words.concurrency, words.tries) < 1:
        parser.error("--concurrency and --tries are 1 at least")
    if not os.environ.get("OPENAI_API_KEY"):
        parser.error("OPENAI_API_KEY is not set; export the key (any word for a server that asks for none)")
    return words


def main() -> int:
    try:
        return make_table(parse_words())
    except ck.CorruptkitError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    except ValidationError as error:  # of what the flags say of the recipe
        print("\n".join(f"error: --{'.'.join(map(str, each['loc']))}: {each['msg']}; mend it" for each in error.errors()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
