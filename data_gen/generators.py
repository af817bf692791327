"""The table of generators. A new one is a file with a `Generator`, a template, and a line here."""

from collections.abc import Sequence

from data_gen.diaries import DIARIES
from data_gen.extraction import EXTRACTION
from data_gen.generator import Draft, Generator, Row
from data_gen.personas import PERSONAS
from data_gen.profiles import PROFILES


def _instructions(seed: int, source: Sequence[Row]) -> Draft:
    from data_gen.instructions import instruction_rows

    return Draft(lambda start, stop: instruction_rows(seed, start, stop))


def _backtranslate(seed: int, source: Sequence[Row]) -> Draft:
    from data_gen.backtranslate import backtranslate_rows

    rows, dropped = backtranslate_rows([row["text"] for row in source], seed)
    return Draft(lambda start, stop: rows[start:stop], len(rows), dropped)


GENERATORS: dict[str, Generator] = {
    "instructions": Generator(_instructions),
    "backtranslate": Generator(_backtranslate, column="text", source_needed=True, ask=None),
    "extraction": EXTRACTION,
    "personas": PERSONAS,
    "diaries": DIARIES,
    "profiles": PROFILES,
}
