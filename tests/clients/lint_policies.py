"""parliament, a public linter of IAM policies, on what `hopend policy` prints."""

import json
import sys

from parliament import analyze_policy_string, enhance_finding


def lint(name, document):
    policy = analyze_policy_string(json.dumps(document))
    print("read", name)
    for finding in policy.findings:
        severity = enhance_finding(finding).severity
        print("finding", name, severity, finding.issue, finding.detail)


def of_resource(trust, role):
    """A trust policy as the policy of a resource, which the linter wants named: the role."""
    statements = [dict(statement, Resource=role) for statement in trust["Statement"]]
    return dict(trust, Statement=statements)


with open(sys.argv[1]) as file:
    policies = json.load(file)
lint("daemon", policies["daemon"]["policy"])
for role in policies["roles"]:
    lint(role["role"], role["policy"])
    lint("trust of " + role["role"], of_resource(role["trust"], role["role"]))
