//! Reads the `[environment.NAME]` tables.

use base::file_access::{FileAccessError, Protection};
use finspace::environment::Environment;
use finspace::profile_files::AwsProfileFiles;

use super::definitions::Definitions;
use super::document::{TomlTable, TomlValue};
use super::name;
use super::reported::Reported;
use crate::config::config_part::{ConfigPart, ConfigPartKind};

pub(in crate::config) const KEYS: &[&str] = &[
    "id",
    "region",
    "profile",
    "credentials_file",
    "endpoint_url",
    "sts_endpoint_url",
    "ca_file",
];

const FORM: &str = "give each environment a table [environment.NAME]";
const REGION: &str = "write the AWS region, such as \"us-east-1\"";

/// Reads every `[environment.NAME]`.
pub(super) fn read_all(root: &TomlTable<'_>) -> Definitions<Environment> {
    let mut environments = Definitions::new(ConfigPartKind::Environment);
    if let Ok(Some(table)) = root.optional("environment", |value| value.table(FORM)) {
        for (name, value) in table.entries() {
            let line = value.line();
            if !value.raw().is_table() {
                // The file has `[environment]` instead of `[environment.NAME]`. Every key in that table
                // would cause the same error, so hopend reports only the first.
                let wrong_type = value.wrong_type("a table", FORM);
                environments.add(name, line, Err(wrong_type));
                break;
            }
            let checked = name::check(name);
            let value = value.of_part(ConfigPart {
                name: checked.as_ref().map_or("", |()| name).to_owned(),
                ..ConfigPart::unnamed(ConfigPartKind::Environment, line)
            });
            if let Err(invalid) = checked {
                value.problem(invalid.message, invalid.remedy);
            }
            environments.add(name, line, read(name, &value));
        }
    }
    environments.drop_unsound(root.diagnostics());
    environments
}

fn read(name: &str, value: &TomlValue<'_>) -> Result<Environment, Reported> {
    let table = value.table(FORM)?;
    table.reject_keys_except(KEYS);
    let id = table
        .required("id", "write the environment's id from the FinSpace console")
        .and_then(|id| {
            id.restricted_text(
                1..=26,
                |c| c.is_ascii_alphanumeric(),
                "write the environment's id from the FinSpace console: letters and digits",
            )
        });
    let region = table.required("region", REGION).and_then(|region| {
        region.restricted_text(
            1..=32,
            |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
            REGION,
        )
    });
    let profile = table.optional("profile", |profile| {
        profile.restricted_text(
            1..=256,
            |c| !c.is_control() && c != ']',
            "write the profile's name",
        )
    });
    let credentials_file = table.optional("credentials_file", |file| {
        file.file(Protection::FromChangeAndReading)
    });
    check_profile_files(&table);
    let endpoint_url = table.optional("endpoint_url", TomlValue::url);
    let sts_endpoint_url = table.optional("sts_endpoint_url", TomlValue::url);
    let ca_file = table.optional("ca_file", TomlValue::ca_file);
    Ok(Environment {
        name: name.to_owned(),
        id: id?,
        region: region?,
        profile: profile?,
        credentials_file: credentials_file?,
        endpoint_url: endpoint_url?,
        sts_endpoint_url: sts_endpoint_url?,
        ca_file: ca_file?,
    })
}

/// Checks the AWS profile files that the AWS SDK reads by itself, and reports the first one that is not
/// protected.
fn check_profile_files(table: &TomlTable<'_>) {
    let files = AwsProfileFiles::of(None, |name| std::env::var_os(name));
    let checked: Result<(), FileAccessError> = match table.get("credentials_file") {
        // The SDK reads that file instead of its own credentials file.
        Some(_) => files.check_configuration(),
        None => files.check(),
    };
    if let Err(exposed) = checked {
        let (message, remedy) = (exposed.message(), exposed.remedy());
        match table.get("profile") {
            Some(profile) => profile.problem(message, remedy),
            None => table.problem(message, remedy),
        };
    }
}
