"""botocore, with Amazon's own models of FinSpace and STS, against the simulator."""

import datetime
import json
import os
import re
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENVIRONMENT = os.environ["SIM_ENVIRONMENT"]
ROLE = os.environ["SIM_ROLE_ARN"]
USER = os.environ["SIM_USER_ARN"]
BASE = (os.environ["SIM_ACCESS_KEY"], os.environ["SIM_SECRET_KEY"])
TOKEN = os.environ.get("SIM_SESSION_TOKEN")

# The ARNs of kdb environments, which the model's pattern (`environment/`) forgets.
PATTERNS = {"EnvironmentArn": r"^arn:aws:finspace:[a-z0-9-]+:\d+:kxEnvironment/[a-z0-9]+$"}

PYTHON_TYPES = {
    "string": str,
    "integer": int,
    "long": int,
    "boolean": bool,
    "timestamp": datetime.datetime,
    "structure": dict,
    "list": list,
    "map": dict,
}


class Judge:
    """A client that holds every answer, good or bad, against the model."""

    def __init__(self, service, access_key=BASE[0], secret_key=BASE[1], token=TOKEN):
        self.client = boto3.client(
            service,
            region_name="us-east-1",
            endpoint_url=os.environ[f"SIM_{service.upper()}_URL"],
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            config=Config(retries={"total_max_attempts": 1}),
        )
        self.model = self.client.meta.service_model
        self.raw = None
        self.client.meta.events.register(f"before-parse.{service}", self.keep)

    def keep(self, response_dict, **_):
        self.raw = response_dict["body"]

    def call(self, operation, *expected, **arguments):
        """The answer, which has these members; nothing else may be in it than the model has."""
        model = self.model.operation_model(operation)
        answer = self.client._make_api_call(operation, arguments)
        print(f"called {operation}")
        same(answer.pop("ResponseMetadata")["HTTPStatusCode"], 200, operation)
        judge(model.output_shape, answer, operation)
        if self.model.metadata["protocol"] == "rest-json":
            known_only(model.output_shape, json.loads(self.raw), operation)
        for name in expected:
            assert answer.get(name) is not None, f"{operation} has no {name}: {answer}"
        return answer

    def refused(self, code, operation, **arguments):
        """Fails with an error that the model has for the operation, in its own class."""
        shapes = self.model.operation_model(operation).error_shapes
        shape = next((shape for shape in shapes if shape.name == code), None)
        assert shape, f"{operation} can't fail with {code}"
        error = self.fails(code, operation, **arguments)
        assert type(error) is getattr(self.client.exceptions, code), repr(error)
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        same(status, shape.metadata["error"]["httpStatusCode"], code)

    def fails(self, code, operation, **arguments):
        try:
            self.client._make_api_call(operation, arguments)
        except ClientError as error:
            same(error.response["Error"]["Code"], code, operation)
            assert error.response["Error"]["Message"], code
            assert error.response["ResponseMetadata"]["RequestId"], code
            return error
        raise AssertionError(f"{operation} did not fail with {code}")


def same(found, expected, where):
    assert found == expected, f"{where}: {found!r} where {expected!r} is expected"


def judge(shape, value, where):
    """The value's type, and what the model says of its length, letters and members."""
    kind = PYTHON_TYPES[shape.type_name]
    assert isinstance(value, kind), f"{where}: {value!r} is no {shape.type_name}"
    rules = shape.metadata
    if shape.type_name == "structure":
        for name in shape.required_members:
            assert name in value, f"{where} has no {name}"
        for name, item in value.items():
            judge(shape.members[name], item, f"{where}.{name}")
    elif shape.type_name == "list":
        for at, item in enumerate(value):
            judge(shape.member, item, f"{where}[{at}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            judge(shape.key, key, f"{where} key")
            judge(shape.value, item, f"{where}[{key}]")
    elif shape.type_name == "string":
        if shape.enum:
            assert value in shape.enum, f"{where}: {value} is none of {shape.enum}"
        if "pattern" in rules:
            pattern = PATTERNS.get(shape.name, rules["pattern"])
            assert re.search(pattern, value), f"{where}: {value} is not {pattern}"
        assert rules.get("min", 0) <= len(value), f"{where}: {value!r} is too short"
        assert len(value) <= rules.get("max", len(value)), f"{where} is too long"
    elif shape.type_name == "integer":
        assert value >= rules.get("min", value), f"{where}: {value} is too small"


def known_only(shape, raw, where):
    """botocore passes over what it does not know; here it is an error."""
    if shape.type_name == "structure":
        names = {
            member.serialization.get("name", name): member
            for name, member in shape.members.items()
        }
        for name, item in raw.items():
            assert name in names, f"{where}.{name} is not in the model"
            known_only(names[name], item, f"{where}.{name}")
    elif shape.type_name == "list":
        for item in raw:
            known_only(shape.member, item, where)


def alice(sts):
    given = sts.call(
        "AssumeRole",
        "Credentials",
        "AssumedRoleUser",
        "SourceIdentity",
        RoleArn=ROLE,
        RoleSessionName="judge",
        SourceIdentity="judge",
        DurationSeconds=900,
    )
    same(given["SourceIdentity"], "judge", "AssumeRole")
    return given["Credentials"]


def session(credentials):
    return (
        credentials["AccessKeyId"],
        credentials["SecretAccessKey"],
        credentials["SessionToken"],
    )


def operations():
    sts = Judge("sts")
    administrator = sts.call("GetCallerIdentity", "Account", "Arn", "UserId")
    credentials = alice(sts)
    left = credentials["Expiration"] - datetime.datetime.now(datetime.timezone.utc)
    assert 0 < left.total_seconds() <= 900, left
    as_alice = Judge("sts", *session(credentials)).call("GetCallerIdentity", "Arn")
    assert as_alice["Arn"].endswith("/judge"), as_alice
    assert administrator["Arn"] != as_alice["Arn"]

    finspace = Judge("finspace")
    here = {"environmentId": ENVIRONMENT}
    environments(finspace, here)
    clusters(finspace, here)
    users(finspace, here)
    for operation, member in [
        ("ListKxDatabases", "kxDatabases"),
        ("ListKxScalingGroups", "scalingGroups"),
        ("ListKxVolumes", "kxVolumeSummaries"),
    ]:
        same(finspace.call(operation, member, **here)[member], [], operation)
    tags(finspace)

    given = Judge("finspace", *session(credentials)).call(
        "GetKxConnectionString",
        "signedConnectionString",
        clusterName="hdb-cluster",
        userArn=USER,
        **here,
    )
    assert given["signedConnectionString"].startswith(":tcps://"), given


def environments(finspace, here):
    members = ("name", "environmentId", "awsAccountId", "status", "environmentArn")
    (listed,) = finspace.call("ListKxEnvironments", "environments")["environments"]
    got = finspace.call("GetKxEnvironment", *members, **here)
    same(got["environmentId"], ENVIRONMENT, "GetKxEnvironment")
    same(listed["environmentArn"], got["environmentArn"], "ListKxEnvironments")
    changed = {"name": "judged", "description": "by botocore"}
    new = finspace.call("UpdateKxEnvironment", *members, **here, **changed)
    same((new["name"], new["description"]), ("judged", "by botocore"), "new")
    same(finspace.call("GetKxEnvironment", **here)["name"], "judged", "afterwards")


def clusters(finspace, here):
    created = finspace.call(
        "CreateKxCluster",
        "clusterName",
        "clusterType",
        "status",
        "environmentId",
        "createdTimestamp",
        clusterName="judged-cluster",
        clusterType="HDB",
        releaseLabel="1.0",
        azMode="SINGLE",
        availabilityZoneId="use1-az1",
        vpcConfiguration={
            "vpcId": "vpc-0123456789abcdef0",
            "securityGroupIds": ["sg-0123456789abcdef0"],
            "subnetIds": ["subnet-0123456789abcdef0"],
            "ipAddressType": "IP_V4",
        },
        **here,
    )
    same(created["status"], "CREATING", "CreateKxCluster")
    same(created["azMode"], "SINGLE", "CreateKxCluster")
    judged = {"clusterName": "judged-cluster", **here}
    finspace.call("GetKxCluster", "clusterName", "status", **judged)
    finspace.call("DeleteKxCluster", **judged)
    finspace.refused("ResourceNotFoundException", "GetKxCluster", **judged)

    listed = finspace.call("ListKxClusters", "kxClusterSummaries", **here)
    names = [cluster["clusterName"] for cluster in listed["kxClusterSummaries"]]
    same(names, ["gateway-cluster", "hdb-cluster", "rdb-cluster"], "ListKxClusters")
    of_type = finspace.call("ListKxClusters", clusterType="RDB", **here)
    same(len(of_type["kxClusterSummaries"]), 1, "ListKxClusters")

    rdb = {"clusterName": "rdb-cluster", **here}
    got = finspace.call("GetKxCluster", "capacityConfiguration", "status", **rdb)
    same(got["status"], "RUNNING", "GetKxCluster")
    nodes = finspace.call("ListKxClusterNodes", "nodes", **rdb)["nodes"]
    for name in ("nodeId", "availabilityZoneId", "launchTime"):
        assert name in nodes[0], nodes
    finspace.call("DeleteKxClusterNode", nodeId=nodes[0]["nodeId"], **rdb)
    after = finspace.call("ListKxClusterNodes", **rdb)["nodes"]
    same(after, nodes[1:], "ListKxClusterNodes")


def users(finspace, here):
    members = ("userName", "userArn", "environmentId", "iamRole")
    bob = {"userName": "bob", **here}
    created = finspace.call("CreateKxUser", *members, iamRole=ROLE, **bob)
    same(finspace.call("GetKxUser", *members, **bob), created, "GetKxUser")
    other = ROLE.replace("alice", "bob")
    changed = finspace.call("UpdateKxUser", *members, iamRole=other, **bob)
    same(changed["iamRole"], other, "UpdateKxUser")
    listed = finspace.call("ListKxUsers", "users", **here)["users"]
    same([user["userName"] for user in listed], ["alice", "bob"], "ListKxUsers")
    assert listed[1]["createTimestamp"] <= listed[1]["updateTimestamp"]
    finspace.call("DeleteKxUser", **bob)
    finspace.refused("ResourceNotFoundException", "GetKxUser", **bob)


def tags(finspace):
    arn = {"resourceArn": USER}
    finspace.call("TagResource", tags={"desk": "rates", "a/b+c": "d=e f"}, **arn)
    found = finspace.call("ListTagsForResource", "tags", **arn)["tags"]
    same(found, {"desk": "rates", "a/b+c": "d=e f"}, "ListTagsForResource")
    finspace.call("UntagResource", tagKeys=["a/b+c"], **arn)
    found = finspace.call("ListTagsForResource", "tags", **arn)["tags"]
    same(found, {"desk": "rates"}, "ListTagsForResource")


def pages():
    finspace = Judge("finspace")
    for operation, member, key, extra in [
        ("ListKxEnvironments", "environments", "environmentId", {}),
        ("ListKxClusters", "kxClusterSummaries", "clusterName", {}),
        ("ListKxClusterNodes", "nodes", "nodeId", {"clusterName": "hdb-cluster"}),
        ("ListKxUsers", "users", "userName", {}),
    ]:
        arguments = dict(extra)
        if operation != "ListKxEnvironments":
            arguments["environmentId"] = ENVIRONMENT
        whole = [item[key] for item in finspace.call(operation, **arguments)[member]]
        found, token = [], {}
        while True:
            page = finspace.call(operation, member, maxResults=1, **arguments, **token)
            same(len(page[member]), 1, operation)
            found += [item[key] for item in page[member]]
            if "nextToken" not in page:
                break
            token = {"nextToken": page["nextToken"]}
        same(found, whole, operation)
        print(f"{operation}: {len(found)} pages")
    # botocore's own paginator, where there is one.
    paginator = finspace.client.get_paginator("list_kx_environments")
    pages = paginator.paginate(PaginationConfig={"PageSize": 1})
    same(len(pages.build_full_result()["environments"]), 1, "paginator")


def refusals():
    finspace = Judge("finspace")
    here = {"environmentId": ENVIRONMENT}
    elsewhere = {"environmentId": "a" * 26}
    hdb = {"clusterName": "hdb-cluster", **here}
    string = "GetKxConnectionString"
    role = Judge("finspace", *session(alice(Judge("sts"))))

    finspace.refused("AccessDeniedException", string, userArn=USER, **hdb)
    role.refused("AccessDeniedException", "ListKxClusters", **here)
    finspace.refused("ResourceNotFoundException", "GetKxEnvironment", **elsewhere)
    nowhere = {"clusterName": "no-cluster", **here}
    finspace.refused("ResourceNotFoundException", "ListKxClusterNodes", **nowhere)
    role.refused("ResourceNotFoundException", string, userArn=USER, **nowhere)
    foreign = USER.replace(ENVIRONMENT, "a" * 26)
    role.refused("ValidationException", string, userArn=foreign, **hdb)
    token = {"nextToken": "made up"}
    finspace.refused("ValidationException", "ListKxClusters", **token, **here)
    twice = {"userName": "alice", "iamRole": ROLE}
    finspace.refused("ResourceAlreadyExistsException", "CreateKxUser", **twice, **here)
    for wrong in ({"userName": "no good"}, {"iamRole": ROLE.replace("role", "user")}):
        bob = {"userName": "bob", "iamRole": ROLE, **wrong}
        finspace.refused("ValidationException", "CreateKxUser", **bob, **here)
    untagged = {"resourceArn": USER.replace("alice", "nobody")}
    finspace.refused("ResourceNotFoundException", "ListTagsForResource", **untagged)
    database = {"databaseName": "not-offered", "clientToken": "0" * 16}
    finspace.refused("ValidationException", "CreateKxDatabase", **database, **here)

    sts = Judge("sts")
    name = {"RoleSessionName": "judge"}
    strange = ROLE.replace("alice", "nobody")
    sts.fails("AccessDenied", "AssumeRole", RoleArn=strange, **name)
    sts.fails("ValidationError", "AssumeRole", RoleArn="no" * 10, **name)


def faults():
    """OPERATION=CODE for each fault that is set, from the command line."""
    finspace, sts = Judge("finspace"), Judge("sts")
    here = {"environmentId": ENVIRONMENT}
    arguments = {
        "ListKxClusters": here,
        "ListKxUsers": here,
        "GetKxEnvironment": here,
        "ListKxEnvironments": {},
        "DeleteKxUser": {"userName": "alice", **here},
        "DeleteKxCluster": {"clusterName": "hdb-cluster", **here},
    }
    for fault in sys.argv[2:]:
        operation, code = fault.split("=")
        if operation in sts.model.operation_names:
            sts.fails(code, operation)
        else:
            finspace.refused(code, operation, **arguments[operation])


def wrong_secret():
    wrong = (BASE[0], "wrong" * 8)
    finspace, sts = Judge("finspace", *wrong), Judge("sts", *wrong)
    finspace.fails("InvalidSignatureException", "ListKxEnvironments")
    sts.fails("SignatureDoesNotMatch", "GetCallerIdentity")
    unknown = ("AKIAUNKNOWNUNKNOWN00", BASE[1])
    finspace, sts = Judge("finspace", *unknown), Judge("sts", *unknown)
    finspace.fails("UnrecognizedClientException", "ListKxEnvironments")
    sts.fails("InvalidClientTokenId", "GetCallerIdentity")


def assume():
    print("session", *session(alice(Judge("sts"))))


def expired():
    Judge("finspace").fails("ExpiredTokenException", "ListKxEnvironments")
    Judge("sts").fails("ExpiredToken", "GetCallerIdentity")


STEPS = [operations, pages, refusals, faults, wrong_secret, assume, expired]
{step.__name__: step for step in STEPS}[sys.argv[1]]()
