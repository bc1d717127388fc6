//! The operations of the management API, offered and not offered.
//!
//! Source: the service model `finspace/2021-03-12` of botocore 1.43.

use axum::http::Method;

/// An operation of the management API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The name in the service model.
    pub name: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The pattern of the path, without the leading `/`. `{}` stands for a segment of any text.
    pub path: &'static str,
}

const fn op(name: &'static str, method: &'static str, path: &'static str) -> Operation {
    Operation { name, method, path }
}

/// The operations that the simulator offers. It answers the others with ValidationException.
pub const OFFERED: &[Operation] = &[
    op("ListKxEnvironments", "GET", "kx/environments"),
    op("GetKxEnvironment", "GET", "kx/environments/{}"),
    op("UpdateKxEnvironment", "PUT", "kx/environments/{}"),
    op(
        "GetKxConnectionString",
        "GET",
        "kx/environments/{}/connectionString",
    ),
    op("ListKxClusters", "GET", "kx/environments/{}/clusters"),
    op("CreateKxCluster", "POST", "kx/environments/{}/clusters"),
    op("GetKxCluster", "GET", "kx/environments/{}/clusters/{}"),
    op(
        "DeleteKxCluster",
        "DELETE",
        "kx/environments/{}/clusters/{}",
    ),
    op(
        "ListKxClusterNodes",
        "GET",
        "kx/environments/{}/clusters/{}/nodes",
    ),
    op(
        "DeleteKxClusterNode",
        "DELETE",
        "kx/environments/{}/clusters/{}/nodes/{}",
    ),
    op("ListKxUsers", "GET", "kx/environments/{}/users"),
    op("CreateKxUser", "POST", "kx/environments/{}/users"),
    op("GetKxUser", "GET", "kx/environments/{}/users/{}"),
    op("UpdateKxUser", "PUT", "kx/environments/{}/users/{}"),
    op("DeleteKxUser", "DELETE", "kx/environments/{}/users/{}"),
    op("ListKxDatabases", "GET", "kx/environments/{}/databases"),
    op(
        "ListKxScalingGroups",
        "GET",
        "kx/environments/{}/scalingGroups",
    ),
    op("ListKxVolumes", "GET", "kx/environments/{}/kxvolumes"),
    op("ListTagsForResource", "GET", "tags/{}"),
    op("TagResource", "POST", "tags/{}"),
    op("UntagResource", "DELETE", "tags/{}"),
];

/// The other operations on kdb environments, which the simulator does not offer.
pub(crate) const REFUSED: &[Operation] = &[
    op("CreateKxEnvironment", "POST", "kx/environments"),
    op("DeleteKxEnvironment", "DELETE", "kx/environments/{}"),
    op(
        "UpdateKxEnvironmentNetwork",
        "PUT",
        "kx/environments/{}/network",
    ),
    op(
        "UpdateKxClusterCodeConfiguration",
        "PUT",
        "kx/environments/{}/clusters/{}/configuration/code",
    ),
    op(
        "UpdateKxClusterDatabases",
        "PUT",
        "kx/environments/{}/clusters/{}/configuration/databases",
    ),
    op("CreateKxDatabase", "POST", "kx/environments/{}/databases"),
    op("GetKxDatabase", "GET", "kx/environments/{}/databases/{}"),
    op("UpdateKxDatabase", "PUT", "kx/environments/{}/databases/{}"),
    op(
        "DeleteKxDatabase",
        "DELETE",
        "kx/environments/{}/databases/{}",
    ),
    op(
        "CreateKxChangeset",
        "POST",
        "kx/environments/{}/databases/{}/changesets",
    ),
    op(
        "ListKxChangesets",
        "GET",
        "kx/environments/{}/databases/{}/changesets",
    ),
    op(
        "GetKxChangeset",
        "GET",
        "kx/environments/{}/databases/{}/changesets/{}",
    ),
    op(
        "CreateKxDataview",
        "POST",
        "kx/environments/{}/databases/{}/dataviews",
    ),
    op(
        "ListKxDataviews",
        "GET",
        "kx/environments/{}/databases/{}/dataviews",
    ),
    op(
        "GetKxDataview",
        "GET",
        "kx/environments/{}/databases/{}/dataviews/{}",
    ),
    op(
        "UpdateKxDataview",
        "PUT",
        "kx/environments/{}/databases/{}/dataviews/{}",
    ),
    op(
        "DeleteKxDataview",
        "DELETE",
        "kx/environments/{}/databases/{}/dataviews/{}",
    ),
    op(
        "CreateKxScalingGroup",
        "POST",
        "kx/environments/{}/scalingGroups",
    ),
    op(
        "GetKxScalingGroup",
        "GET",
        "kx/environments/{}/scalingGroups/{}",
    ),
    op(
        "DeleteKxScalingGroup",
        "DELETE",
        "kx/environments/{}/scalingGroups/{}",
    ),
    op("CreateKxVolume", "POST", "kx/environments/{}/kxvolumes"),
    op("GetKxVolume", "GET", "kx/environments/{}/kxvolumes/{}"),
    op("UpdateKxVolume", "PATCH", "kx/environments/{}/kxvolumes/{}"),
    op(
        "DeleteKxVolume",
        "DELETE",
        "kx/environments/{}/kxvolumes/{}",
    ),
];

/// The operation with this method and path.
pub(crate) fn operation(method: &Method, path: &str) -> Option<&'static Operation> {
    OFFERED
        .iter()
        .chain(REFUSED)
        .find(|op| op.method == method.as_str() && labels(op.path, path).is_some())
}

/// The segments of a path for which the pattern has `{}`, decoded; `None` if the path does not match.
pub(crate) fn labels(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let mut labels = Vec::new();
    for expected in pattern.split('/') {
        let part = parts.next()?;
        if expected == "{}" {
            let decoded = percent_encoding::percent_decode_str(part).decode_utf8_lossy();
            labels.push(decoded.into_owned());
        } else if expected != part {
            return None;
        }
    }
    parts.next().is_none().then_some(labels)
}
