"""Holds the dashboard, the alerts and the list in README against an exposition.

Usage: telemetry_files.py EXPOSITION DASHBOARD ALERTS README
"""

import json
import re
import sys

import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

# Of the server that scrapes, and of its own series.
FROM_ELSEWHERE = {"job": None, "instance": None}
OURS = re.compile(r"\b(?:hopend|process)_\w+")
SELECTOR = re.compile(r"\b((?:hopend|process)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
PLACEHOLDER = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


def samples_by_name(path):
    """Labels of each sample name, each with the values that were seen."""
    with open(path, encoding="utf-8") as text:
        families = list(text_string_to_metric_families(text.read()))
    found = {}
    for family in families:
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found, {family.name for family in families}


def check_expression(where, expression, samples, legends):
    """Names, labels and the values that labels are compared with."""
    known = dict(FROM_ELSEWHERE)
    for name, matchers in SELECTOR.findall(expression):
        assert name in samples, f"{where}: there is no {name}"
        known |= samples[name]
        for label, _, value in MATCHER.findall(matchers):
            values = (samples[name] | FROM_ELSEWHERE).get(label, ())
            assert values != (), f"{where}: {name} has no label {label}"
            for one in value.split("|"):
                assert values is None or "$" in one or one in values, f"{where}: {label} is never {one!r}"
    used = {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")}
    for text in legends:
        used |= set(PLACEHOLDER.findall(text)) - {"value"}
    missing = used - set(known)
    assert not missing, f"{where}: no label {missing} in {expression}"


def main(exposition, dashboard, alerts, readme):
    samples, families = samples_by_name(exposition)
    counts = {"queries": 0, "alerts": 0}

    with open(dashboard, encoding="utf-8") as text:
        board = json.load(text)
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            check_expression(panel["title"], target["expr"], samples, [target["legendFormat"]])
            counts["queries"] += 1
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)), "two panels have one id"
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            check_expression(variable["name"], query[1], samples, ["{{%s}}" % query[2]])
    for annotation in board["annotations"]["list"]:
        check_expression(annotation["name"], annotation["expr"], samples, [annotation["textFormat"]])

    with open(alerts, encoding="utf-8") as text:
        rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    for rule in rules:
        notes = rule["annotations"]
        assert notes["summary"] and notes["remedy"], rule["alert"]
        check_expression(rule["alert"], rule["expr"], samples, notes.values())
        counts["alerts"] += 1

    with open(readme, encoding="utf-8") as text:
        section = text.read().split("### Metrics\n", 1)[1].split("\n## ", 1)[0]
    # `hopend_opens_total` there is the family `hopend_opens`.
    told = {name.removesuffix("_total").removesuffix("_info") for name in OURS.findall(section)}
    assert told == families, f"in README only: {told - families}; not in README: {families - told}"

    print(json.dumps(counts))


main(*sys.argv[1:])
