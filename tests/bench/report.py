"""Figures as a table for people, as Markdown for the README, as JSON for machines."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure

COLUMNS = ("direct", "ssh -J", "bastion", "bastion -J")
"""Ways of `tests.bench`; `tests.bench.recording` has others."""


def heads(columns: Sequence[str]) -> tuple[str, ...]:
    return ("what", *columns, "unit", "result", "goal")


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def result(figure: Figure) -> str:
    return f"{number(figure.value)} {figure.value_unit}".strip()


def goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    sign = {"<=": "≤", ">=": "≥"}[figure.goal.sign]
    return f"{sign} {number(figure.goal.limit)} {figure.value_unit}".strip()


def cells(figure: Figure, columns: Sequence[str] = COLUMNS) -> list[str]:
    measured = [number(figure.measured[column]) if column in figure.measured else "" for column in columns]
    what = f"{figure.what} ({figure.note})" if figure.note else figure.what
    return [what, *measured, figure.unit if figure.measured else "", result(figure), goal(figure)]


def show(console: Console, figures: Sequence[Figure], columns: Sequence[str] = COLUMNS) -> None:
    """The table for a terminal; a missed goal is red, one that is kept green."""
    if not console.is_terminal:
        console = Console(width=160)  # a file has no width, and 80 columns fold every word
    table = Table(header_style="bold", show_lines=False)
    for head in heads(columns):
        table.add_column(head, justify="left" if head in ("what", "unit") else "right", overflow="fold")
    for figure in figures:
        style = {None: "", True: "green", False: "red"}[figure.is_met]
        row = cells(figure, columns)
        table.add_row(*row[:-2], f"[{style}]{row[-2]}[/]" if style else row[-2], row[-1])
    console.print(table)
    missed = [figure.what for figure in figures if figure.is_met is False]
    judged = sum(figure.is_met is not None for figure in figures)
    console.print(f"{judged - len(missed)} of {judged} goals kept" + "".join(f"\n  missed: {what}" for what in missed))


def markdown(figures: Sequence[Figure], facts: dict[str, str], command: str, columns: Sequence[str] = COLUMNS) -> str:
    """The table of the README, with the command that makes it and what it ran on."""
    rounds = f" Medians of {facts['rounds']} interleaved rounds, recording on." if facts.get("rounds") else ""
    lines = [
        f"`{command}` on {facts['machine']}, {facts['openssh']}, Python {facts['python']}, {facts['date']},",
        f"{facts['minutes']} minutes.{rounds} Everything shares the machine: ratios travel, absolute figures do not.",
        "✗ marks a goal that was missed.",
        "",
        "| " + " | ".join(heads(columns)) + " |",
        "|---|" + "--:|" * len(columns) + "---|--:|--:|",
    ]
    for figure in figures:
        row = cells(figure, columns)
        row[-2] = f"**{row[-2]}**" + (" ✗" if figure.is_met is False else "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def write_json(path: Path, figures: Sequence[Figure], facts: dict[str, str], samples: dict[str, object]) -> None:
    """Everything that was measured, every round of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(figure), "met": figure.is_met} for figure in figures]
    path.write_text(json.dumps({"facts": facts, "figures": rows, "samples": samples}, indent=1) + "\n")
