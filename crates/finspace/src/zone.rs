//! Which availability zone this host is in, as instance metadata tells it.

use aws_config::imds;

/// Source: EC2 user guide, "Instance metadata categories".
const PATH: &str = "/latest/meta-data/placement/availability-zone-id";

/// The id of this host's availability zone (`use1-az1`). Where metadata is served can be set as for
/// every AWS tool, by `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
///
/// # Errors
/// What the metadata service said, or that there is none.
pub async fn zone_of_host() -> Result<String, String> {
    let answer = imds::Client::builder().build().get(PATH).await;
    answer
        .map(|zone| zone.as_ref().trim().to_owned())
        .map_err(|error| base::error::chain(&error))
}
