"""Saved measurements of `jaxcnn bench KIND --json` as a Markdown table and a plot."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.caches import use_writable_caches
from jaxcnn.files import parse_json, read_text, write_figure
from jaxcnn.paths import Path, path_argument
from jaxcnn.research import text_tables

ROW = {
    "what": str,
    "images_per_second": float,
    "bound": (None, float),
    "peer": (None, str),
    "peer_images_per_second": (None, float),
    "memory_bytes?": (None, float),
    "peer_memory_bytes?": (None, float),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=path_argument, help="JSON lines of jaxcnn bench --json"
    )
    parser.add_argument("--plot", type=path_argument, help="a PNG file to draw")


def make_table(options: argparse.Namespace) -> str:
    """The table of the given files; draws the plot if requested.

    Raises:
        ValueError: a line is not a measurement, or there is nothing to draw.
    """
    rows = [row for path in options.files for row in read_measurements(path)]
    if options.plot:
        plot_shares([row for row in rows if row["bound"] and row["peer"]], options.plot)
    return markdown_table(rows)


def read_measurements(path: Path) -> list[dict[str, Any]]:
    """The measurements in a file of JSON lines.

    Raises:
        FileError: a line is not one that `jaxcnn bench --json` writes.
    """
    rows = []
    advice = "give files of lines that jaxcnn bench --json printed"
    for number, line in enumerate(read_text(path, advice=advice).splitlines(), 1):
        where = f"line {number}"
        rows.append(parse_json(line, ROW, path=path, advice=advice, where=where))
    return rows


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    head = ("what", "images/s", "peer's", "ratio", "bound", "of bound", "memory, peer's (GB)")
    body = []
    for row in rows:
        speed, bound, peer = (
            row[k] for k in ("images_per_second", "bound", "peer_images_per_second")
        )
        memory = [row.get("memory_bytes"), row.get("peer_memory_bytes")]
        cells = (
            *(row["what"], f"{speed:.4g}", f"{peer:.4g}" if peer else "-"),
            *(f"{speed / peer:.2f}" if peer else "-", f"{bound:.4g}" if bound else "-"),
            f"{speed / bound:.2f}" if bound else "-",
            ", ".join(f"{m / 1e9:.2f}" for m in memory if m) or "-",
        )
        body.append(cells)
    return text_tables.markdown_table(head, body)


def plot_shares(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the images per second of jaxcnn and of the peer as shares of the bound.

    Raises:
        ValueError: no row has a bound and a peer.
    """
    if not rows:
        raise ValueError("no row has a bound and a peer: there is nothing to draw")
    use_writable_caches()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 * len(rows) + 1.4), layout="constrained")
    axes, longest = figure.subplots(), 1.0
    for i, (name, key, colour) in enumerate(
        (
            ("jaxcnn", "images_per_second", "#1f77b4"),
            (rows[0]["peer"], "peer_images_per_second", "#bbbbbb"),
        )
    ):
        places = [n + 0.36 * i for n in range(len(rows))]
        shares = [row[key] / row["bound"] for row in rows]
        longest = max(longest, *shares)
        bars = axes.barh(places, shares, height=0.34, color=colour, label=name)
        axes.bar_label(bars, [f"{row[key]:.4g}" for row in rows], padding=3, fontsize=8)
    axes.axvline(1.0, color="black", linewidth=1, label="bound")
    axes.set_yticks([n + 0.18 for n in range(len(rows))], [row["what"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * longest)  # room for a label
    axes.set_xlabel("share of the bound; bars are labelled in images per second")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    write_figure(path, figure, dpi=110)
