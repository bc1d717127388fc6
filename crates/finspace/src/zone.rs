//! The availability zone of this host, from the instance metadata of EC2.

use aws_config::imds;

/// Source: EC2 user guide, "Instance metadata categories".
const PATH: &str = "/latest/meta-data/placement/availability-zone-id";

/// Asks the instance metadata for the id of this host's availability zone, such as `use1-az1`.
///
/// As for every AWS tool, `AWS_EC2_METADATA_SERVICE_ENDPOINT` sets the address of the metadata service.
///
/// # Errors
/// The metadata service cannot be reached, for example because the host is no EC2 instance, or it refuses.
/// The text is the error with its causes.
pub async fn zone_of_host() -> Result<String, String> {
    let answer = imds::Client::builder().build().get(PATH).await;
    answer
        .map(|zone| zone.as_ref().trim().to_owned())
        .map_err(|error| base::error::chain(&error))
}
