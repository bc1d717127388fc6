//! `admin` of `[daemon]`: where HTTP is served, and what of it other hosts may see.

use std::net::SocketAddr;

use super::certificate;
use super::endpoint::{Claims, bindable};
use super::reader::{Table, Value};
use super::{ListenAddress, ServerTls};

const KEYS: &[&str] = &["listen", "expose", "metrics_users", "tls"];
const HOW: &str =
    "write \"127.0.0.1:5099\", or { listen = \"0.0.0.0:5099\", expose = [\"/metrics\"] }";
const LOOPBACK: &str = "write an address of this host's loopback, such as \"127.0.0.1:5099\"";

/// What can be exposed. The status page names users and what they do: it stays on this host.
const PAGES: [&str; 3] = ["/metrics", "/livez", "/readyz"];

/// `admin` of `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where HTTP is served.
    pub address: SocketAddr,
    /// What other hosts may see.
    pub exposure: Exposure,
    /// The certificate, where the address speaks TLS.
    pub tls: Option<ServerTls>,
}

/// What hosts other than this one may see at the admin address. By default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exposure {
    pages: Vec<&'static str>,
    /// Whether the metrics that other hosts see name users.
    pub metrics_users: bool,
}

impl Exposure {
    /// Exposes these pages, as far as they can be.
    pub fn of(pages: &[&str]) -> Self {
        let pages = PAGES.into_iter().filter(|page| pages.contains(page));
        Self {
            pages: pages.collect(),
            metrics_users: false,
        }
    }

    /// Whether another host may see what is at `path`: an exposed page, or one below it.
    pub fn covers(&self, path: &str) -> bool {
        self.pages.iter().any(|page| {
            path.strip_prefix(page)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// An address of the loopback, or a table.
pub(super) fn read(value: &Value<'_>, claims: &mut Claims) -> Option<AdminSettings> {
    if value.raw().is_str() {
        let admin = AdminSettings {
            address: address(value, LOOPBACK, claims)?,
            exposure: Exposure::default(),
            tls: None,
        };
        only_local(value, &admin, LOOPBACK);
        return Some(admin);
    }
    if !value.raw().is_table() {
        value.wrong_type("an address or a table", HOW);
        return None;
    }
    let table = value.table(HOW)?;
    table.only(KEYS);
    let exposure = exposure(&table)?;
    let listen = table.required("listen", HOW)?;
    let address = address(&listen, HOW, claims);
    let tls = match table.get("tls") {
        Some(tls) => Some(certificate::read(&tls)?),
        None => None,
    };
    let admin = AdminSettings {
        address: address?,
        exposure,
        tls,
    };
    let nothing = "write an address of this host's loopback, or add expose = [\"/metrics\", \
                   \"/livez\", \"/readyz\"]";
    only_local(&listen, &admin, nothing);
    Some(admin)
}

/// Without anything to expose, the address has to be one of the loopback.
fn only_local(value: &Value<'_>, admin: &AdminSettings, remedy: &str) {
    if admin.exposure.pages.is_empty() && !admin.address.ip().to_canonical().is_loopback() {
        value.problem("is reachable from other hosts", remedy);
    }
}

fn address(value: &Value<'_>, remedy: &str, claims: &mut Claims) -> Option<SocketAddr> {
    let Ok(address) = value.text()?.parse::<SocketAddr>() else {
        value.problem("is not an IP address and a port", remedy);
        return None;
    };
    let listen = ListenAddress::Tcp(address);
    claims.claim(value, &listen);
    bindable(value, &listen);
    Some(address)
}

fn exposure(table: &Table<'_>) -> Option<Exposure> {
    let mut exposure = Exposure::default();
    if let Some(value) = table.get("expose") {
        for page in value.array()? {
            let words = PAGES.map(|page| (page, page));
            exposure.pages.push(page.word(&words)?);
        }
    }
    if let Some(value) = table.get("metrics_users") {
        exposure.metrics_users = value.boolean()?;
        if !exposure.covers("/metrics") {
            value.problem(
                "has no effect: other hosts see no metrics",
                "add \"/metrics\" to expose, or remove it",
            );
        }
    }
    Some(exposure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposed_page_covers_those_below_it_and_no_others() {
        let exposure = Exposure::of(&["/readyz", "/status"]);
        for path in ["/readyz", "/readyz/hdb"] {
            assert!(exposure.covers(path), "{path}");
        }
        for path in [
            "/",
            "",
            "/status",
            "/status.json",
            "/metrics",
            "/readyzz",
            "/livez",
        ] {
            assert!(!exposure.covers(path), "{path}");
        }
        assert!(!Exposure::default().covers("/livez"));
    }
}
