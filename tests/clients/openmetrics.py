"""Reads an exposition and prints its samples, one a line, as JSON."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

with open(sys.argv[1], encoding="utf-8") as exposition:
    families = list(text_string_to_metric_families(exposition.read()))
for family in families:
    assert family.documentation, family.name
    for sample in family.samples:
        print(json.dumps([sample.name, sample.labels, sample.value]))
