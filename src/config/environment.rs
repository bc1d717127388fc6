//! `[environment.NAME]`.

use super::left_out::{Part, PartKind};
use super::named::Named;
use super::reader::{Table, Value};
use super::value;
use base::file_access::Protection;
use finspace::environment::Environment;
use finspace::profile_files::AwsProfileFiles;

pub(super) const KEYS: &[&str] = &[
    "id",
    "region",
    "profile",
    "credentials_file",
    "endpoint_url",
    "sts_endpoint_url",
    "ca_file",
];

/// Reads every `[environment.NAME]`.
pub(super) fn read_all(root: &Table<'_>) -> Named<Environment> {
    let mut environments = Named::new(PartKind::Environment);
    let how = "give each environment a table [environment.NAME]";
    if let Some(table) = root.get("environment").and_then(|value| value.table(how)) {
        for (name, value) in table.entries() {
            if !value.raw().is_table() {
                // [environment] for [environment.NAME]: one slip, though every key in it is wrong.
                value.wrong_type("a table", how);
                environments.push(name, value.source.line(value.at), None);
                break;
            }
            let line = value.source.line(value.at);
            let valid = value::name(name);
            let shown = valid.as_ref().map_or("", |()| name);
            let value = value.of_part(Part {
                kind: PartKind::Environment,
                name: shown.to_owned(),
                line,
            });
            if let Err(invalid) = valid {
                value.problem(invalid.message, invalid.remedy);
            }
            environments.push(name, line, read(name, &value, how));
        }
    }
    environments.settle(root.source);
    environments
}

fn read(name: &str, value: &Value<'_>, how: &str) -> Option<Environment> {
    let table = value.table(how)?;
    table.only(KEYS);
    let id = table
        .required("id", "write the environment's id from the FinSpace console")
        .and_then(|id| {
            id.made_of(
                1..=26,
                |c| c.is_ascii_alphanumeric(),
                "write the environment's id from the FinSpace console: letters and digits",
            )
        });
    let region = table
        .required("region", "write the AWS region, such as \"us-east-1\"")
        .and_then(|region| {
            region.made_of(
                1..=32,
                |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
                "write the AWS region, such as \"us-east-1\"",
            )
        });
    let profile = table.get("profile").and_then(|profile| {
        profile.made_of(
            1..=256,
            |c| !c.is_control() && c != ']',
            "write the profile's name",
        )
    });
    let credentials_file = table
        .get("credentials_file")
        .and_then(|file| file.file(Protection::FromChangeAndReading))
        .map(|(path, _)| path);
    let profile_files = AwsProfileFiles::of(None, |name| std::env::var_os(name));
    // A file that is named is checked where it is named.
    let checked = match table.get("credentials_file") {
        Some(_) => profile_files.check_configuration(),
        None => profile_files.check(),
    };
    if let Err(exposed) = checked {
        let (what, remedy) = (exposed.what(), exposed.remedy());
        match table.get("profile") {
            Some(profile) => profile.problem(what, remedy),
            None => table.problem(what, remedy),
        }
    }
    let endpoint_url = table.get("endpoint_url").and_then(|url| url.url());
    let sts_endpoint_url = table.get("sts_endpoint_url").and_then(|url| url.url());
    let ca_file = table.get("ca_file").and_then(|file| file.ca_file());
    Some(Environment {
        name: name.to_owned(),
        id: id?,
        region: region?,
        profile,
        credentials_file,
        endpoint_url,
        sts_endpoint_url,
        ca_file,
    })
}
