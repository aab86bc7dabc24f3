"""Figures of several networks -> report.md, report.json, the drawn worst cases and the plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from posegate.types import U8
from posenets.counting import Count
from posenets.evaluation.measure import Conditions, Measured

REPORT_MD, REPORT_JSON, PLOT = "report.md", "report.json", "speed-accuracy-size.png"


def write_report(
    out: Path,
    networks: Sequence[Measured],
    *,
    data: Mapping[str, str],
    notes: Sequence[str],
    conditions: Conditions,
    worst: Mapping[str, U8],
    untrained: Sequence[Count],
) -> list[Path]:
    """Write everything into `out`; `data` says what was looked at, `worst` maps name -> picture.

    `notes` are sentences that the figures must be read with. `untrained` networks are named too,
    with their size, so that nobody looks for their figures.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = {name: f"worst-{name}.jpg" for name in worst}
    for name, picture in worst.items():
        cv2.imwrite(str(out / pictures[name]), picture)
    plotted = _plot(out / PLOT, networks)
    document = {
        "data": dict(data),
        "notes": list(notes),
        "conditions": asdict(conditions),
        "networks": [network.as_dict() for network in networks],
        "worst": pictures,
        "not_trained_yet": [count.as_json() for count in untrained],
    }
    (out / REPORT_JSON).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    text = "\n".join(
        _lines(networks, untrained, data, notes, conditions, pictures, plotted=plotted)
    )
    (out / REPORT_MD).write_text(text + "\n")
    drawn = [out / PLOT] if plotted else []
    return [out / REPORT_MD, out / REPORT_JSON, *drawn, *(out / p for p in pictures.values())]


def _lines(
    networks: Sequence[Measured],
    untrained: Sequence[Count],
    data: Mapping[str, str],
    notes: Sequence[str],
    conditions: Conditions,
    pictures: Mapping[str, str],
    *,
    plotted: bool,
) -> list[str]:
    flip = "yes" if conditions.flip_test else "no"
    lines = [
        "# Evaluation",
        "",
        *(f"{kind}: {what}." for kind, what in data.items()),
        f"Boxes: {conditions.boxes}; flip test: {flip}; decoder: {conditions.decode}. Latency: one "
        f"crop, the network alone, ONNX Runtime on {conditions.threads} CPU thread(s). GMACs are "
        "the papers' GFLOPs, up to their ways of counting (`posenets count`).",
        "",
        *(line for note in notes for line in (note, "")),
        *_table([*map(_overview, networks), *map(_size_only, untrained)]),
    ]
    coco = {n.name: n.coco for n in networks if n.coco is not None}
    if coco:
        lines += ["", "## COCO", "", *_table([{"network": k, **v} for k, v in coco.items()])]
    oks = {n.name: n.oks for n in networks if n.oks is not None}
    if oks:
        lines += ["", "## OKS of each joint", "", *_table(_by_joint(oks))]
    for network in networks:
        if network.pckh is not None:
            lines += ["", f"## PCKh, {network.name}", "", *_table(network.pckh)]
    if plotted:
        lines += ["", "## Speed, accuracy, size", "", f"![{PLOT}]({PLOT})"]
    for name, picture in pictures.items():
        caption = "lowest OKS first, the network's answer beside the labels"
        lines += ["", f"## Worst people, {name}", "", f"![{caption}]({picture})"]
    return lines


def _overview(network: Measured) -> dict[str, object]:
    return {
        "network": network.name,
        "input": network.input,
        "parameters (M)": round(network.parameters / 1e6, 2),
        "GMACs": network.gflops,
        "file (MiB)": network.file_mib,
        "latency (ms)": network.latency_ms,
        "AP": None if network.coco is None else network.coco["ap"],
    }


def _size_only(count: Count) -> dict[str, object]:
    return {
        "network": count.name,
        "input": count.input,
        "parameters (M)": round(count.params / 1e6, 2),
        "GMACs": round(count.gmacs, 4),
        "file (MiB)": None,
        "latency (ms)": None,
        "AP": "not trained yet",
    }


def _by_joint(oks: Mapping[str, Mapping[str, float | None]]) -> list[dict[str, object]]:
    joints = next(iter(oks.values()))
    return [{"joint": joint} | {name: of[joint] for name, of in oks.items()} for joint in joints]


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    head = list(rows[0])
    cells = [[_cell(row[column]) for column in head] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plot(path: Path, networks: Sequence[Measured]) -> bool:
    """AP against latency, area by parameters; false where no AP is known."""
    shown = [network for network in networks if network.coco is not None]
    if not shown:
        return False
    from matplotlib.figure import Figure  # 0.3 s, which only a plot is worth

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes: Any = figure.subplots()
    for network in shown:
        assert network.coco is not None
        place = (network.latency_ms, network.coco["ap"])
        axes.scatter(*place, s=40 + 30 * network.parameters / 1e6, alpha=0.6)
        label = f"{network.name}\n{network.parameters / 1e6:.2f} M"
        axes.annotate(label, place, xytext=(8, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("latency of one crop, ms")
    axes.set_ylabel("AP")
    axes.margins(x=0.35, y=0.25)  # room for the last label
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.savefig(path)
    return True
