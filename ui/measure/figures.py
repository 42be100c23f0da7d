"""Results as the page draws them: rows of dots on one scale, ours with their intervals, what was published beside them."""

from collections.abc import Sequence

from engine.evaluate import published_scores
from engine.evaluate.measurements import Measurement
from engine.evaluate.published_scores import Table

# Below a result: so much that it can be believed.
CAPTIONS = {
    "mmlu": "Published figures are with five shots and of the test questions, ours of those measured.",
    "crows": f"{published_scores.CROWS.title}, as published: {published_scores.CROWS.source}. {published_scores.CROWS_AVERAGES}",
    "perplexity": "",
}


def figure(measure: str, results: Sequence[tuple[str, dict]]) -> dict:
    """Results by the names they are shown under, as `{"rows", "series", "chance", "most", "unit", "caption"}`.

    A row is `{"name", "head", "dots"}`, `head` where a part begins; a dot `{"series", "value", "low", "high"}`; `series` are names, those
    of the `results` first. Shares are percents, and `most` is the end of the scale.
    """
    names = [name for name, _ in results]
    if measure == "perplexity":
        dots = [_dot(at, found["perplexity"], 1, "value") for at, (_, found) in enumerate(results)]
        most = 1.15 * max(dot["high"] or dot["value"] for dot in dots)
        rows = [{"name": "Perplexity", "head": "", "dots": dots}]
        return {"rows": rows, "series": names, "chance": None, "most": most, "unit": "", "caption": CAPTIONS[measure]}
    tables = published_scores.TABLES[measure]
    rows, series = (_mmlu if measure == "mmlu" else _crows)(results, tables)
    chance = 100 * results[0][1]["chance"]
    return {"rows": rows, "series": names + series, "chance": chance, "most": 100, "unit": "%", "caption": CAPTIONS[measure]}


def _mmlu(results: Sequence[tuple[str, dict]], tables: Sequence[Table]) -> tuple[list[dict], list[str]]:
    """Our averages and groups, then the published averages by size; sizes of both LLaMAs that are alike share a colour."""
    rows = [
        {
            "name": "Average of subjects",
            "head": "",
            "dots": [_dot(at, found["average"], 100, "value") for at, (_, found) in enumerate(results)],
        }
    ]
    groups = list(dict.fromkeys(group["name"] for _, found in results for group in found["groups"]))
    for group in groups:
        dots = [_dot(at, each, 100) for at, (_, found) in enumerate(results) for each in found["groups"] if each["name"] == group]
        rows.append({"name": group[0].upper() + group[1:], "head": "", "dots": dots})
    sizes = list(dict.fromkeys(column for table in tables for column in table.columns))
    for table in tables:
        head = f"{table.title}. {table.source}"
        for name, values in table.rows.items():
            dots = [
                {"series": len(results) + sizes.index(column), "value": value, "low": None, "high": None}
                for column, value in zip(table.columns, values, strict=True)
                if value is not None
            ]
            rows.append({"name": name, "head": head, "dots": dots})
            head = ""
    return rows, sizes


def _crows(results: Sequence[tuple[str, dict]], tables: Sequence[Table]) -> tuple[list[dict], list[str]]:
    """A row for each category, ours and the published ones in it, then the averages."""
    table = tables[0]
    shown = {}
    for at, (_, found) in enumerate(results):
        for each in found["categories"]:
            shown.setdefault(each["title"], []).append(_dot(at, each, 100))
        shown.setdefault("Average", []).append(_dot(at, found["average"], 100))
    rows = []
    for name in (*[name for name in shown if name != "Average"], "Average"):
        values = table.rows.get(name, (None,) * len(table.columns))
        dots = [
            {"series": len(results) + at, "value": value, "low": None, "high": None} for at, value in enumerate(values) if value is not None
        ]
        rows.append({"name": name, "head": "", "dots": [*shown[name], *dots]})
    return rows, list(table.columns)


def _dot(series: int, found: dict, by: float, key: str = "share") -> dict:
    low, high = found["low"], found["high"]
    return {
        "series": series,
        "value": by * found[key],
        "low": None if low is None else by * low,
        "high": None if high is None else by * high,
    }


def details(measurement: Measurement) -> list[dict]:
    """All single shares of a result as rows `{"name", "share", "low", "high", "of"}`: subjects or categories."""
    result = measurement.result or {}
    return [
        {"name": each.get("title") or each["name"].replace("_", " "), **{key: each[key] for key in ("share", "low", "high", "of")}}
        for each in result.get("subjects") or result.get("categories") or ()
    ]
