//! The HTTP address of the daemon, and the pages that other hosts may see there.

use std::net::SocketAddr;

use super::server_tls::ServerTls;

/// The pages that the configuration can expose to other hosts. The status page is not among them,
/// because it names users and their requests.
pub(super) const EXPOSABLE_PAGES: [&str; 3] = ["/metrics", "/livez", "/readyz"];

/// The `admin` key of the `[daemon]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    /// The address that serves HTTP.
    pub address: SocketAddr,
    /// The pages that other hosts may see.
    pub exposure: Exposure,
    /// The certificate of the address. `None` serves HTTP without TLS.
    pub tls: Option<ServerTls>,
}

/// The pages that other hosts may see at the admin address. The default is no page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exposure {
    pages: Vec<&'static str>,
    /// Whether the metrics that other hosts see contain the names of users.
    pub metrics_users: bool,
}

impl Exposure {
    /// Exposes the pages of `pages` that can be exposed, and ignores all others.
    pub fn of(pages: &[&str]) -> Self {
        let pages = EXPOSABLE_PAGES
            .into_iter()
            .filter(|page| pages.contains(page));
        Self {
            pages: pages.collect(),
            metrics_users: false,
        }
    }

    /// Whether other hosts see no page at all.
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Whether another host may request `path`: an exposed page, or a path below one, such as
    /// `/readyz/hdb`.
    pub fn covers(&self, path: &str) -> bool {
        self.pages.iter().any(|page| {
            path.strip_prefix(page)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
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
