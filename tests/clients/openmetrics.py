"""Reads an exposition, in either format, and prints its samples, one a line, as JSON."""

import json
import sys

import prometheus_client.openmetrics.parser
import prometheus_client.parser

with open(sys.argv[1], encoding="utf-8") as exposition:
    text = exposition.read()
# Only OpenMetrics says where it ends.
parser = prometheus_client.openmetrics.parser if text.endswith("# EOF\n") else prometheus_client.parser
families = list(parser.text_string_to_metric_families(text))
for family in families:
    assert family.documentation, family.name
    for sample in family.samples:
        print(json.dumps([sample.name, sample.labels, sample.value]))
