//! Reads the `admin` key of the `[daemon]` table.

use std::net::SocketAddr;

use super::document::{Choice, TomlTable, TomlValue};
use super::listen::{AddressClaims, notice_if_unbindable};
use super::reported::Reported;
use super::server_tls;
use crate::config::admin::{AdminSettings, EXPOSABLE_PAGES, Exposure};
use crate::config::listen_address::ListenAddress;

const KEYS: &[&str] = &["listen", "expose", "metrics_users", "tls"];
const FORM: &str =
    "write \"127.0.0.1:5099\", or { listen = \"0.0.0.0:5099\", expose = [\"/metrics\"] }";
const LOOPBACK: &str = "write an address of this host's loopback, such as \"127.0.0.1:5099\"";
const LOOPBACK_OR_EXPOSE: &str = "write an address of this host's loopback, or add \
                                  expose = [\"/metrics\", \"/livez\", \"/readyz\"]";

/// Reads a loopback address, or a table.
pub(super) fn read(
    value: &TomlValue<'_>,
    claims: &mut AddressClaims,
) -> Result<AdminSettings, Reported> {
    if value.raw().is_str() {
        let admin = AdminSettings {
            address: address(value, LOOPBACK, claims)?,
            exposure: Exposure::default(),
            tls: None,
        };
        require_loopback_unless_exposed(value, &admin, LOOPBACK);
        return Ok(admin);
    }
    if !value.raw().is_table() {
        return Err(value.wrong_type("an address or a table", FORM));
    }
    let table = value.table(FORM)?;
    table.reject_keys_except(KEYS);
    let exposure = exposure(&table)?;
    let listen = table.required("listen", FORM)?;
    let address = address(&listen, FORM, claims);
    let tls = table.optional("tls", server_tls::read)?;
    let admin = AdminSettings {
        address: address?,
        exposure,
        tls,
    };
    require_loopback_unless_exposed(&listen, &admin, LOOPBACK_OR_EXPOSE);
    Ok(admin)
}

fn require_loopback_unless_exposed(value: &TomlValue<'_>, admin: &AdminSettings, remedy: &str) {
    if admin.exposure.is_empty() && !admin.address.ip().to_canonical().is_loopback() {
        value.problem("is reachable from other hosts", remedy);
    }
}

fn address(
    value: &TomlValue<'_>,
    remedy: &str,
    claims: &mut AddressClaims,
) -> Result<SocketAddr, Reported> {
    let Ok(address) = value.text()?.parse::<SocketAddr>() else {
        return Err(value.problem("is not an IP address and a port", remedy));
    };
    let listen = ListenAddress::Tcp(address);
    claims.claim(value, &listen);
    notice_if_unbindable(value, &listen);
    Ok(address)
}

fn exposure(table: &TomlTable<'_>) -> Result<Exposure, Reported> {
    let mut pages = Vec::new();
    if let Some(value) = table.get("expose") {
        let choices = EXPOSABLE_PAGES.map(|page| Choice::new(page, page));
        for page in value.array()? {
            pages.push(page.one_of(&choices)?);
        }
    }
    let mut exposure = Exposure::of(&pages);
    if let Some(value) = table.get("metrics_users") {
        exposure.metrics_users = value.boolean()?;
        if !exposure.covers("/metrics") {
            value.problem(
                "has no effect: other hosts see no metrics",
                "add \"/metrics\" to expose, or remove it",
            );
        }
    }
    Ok(exposure)
}
