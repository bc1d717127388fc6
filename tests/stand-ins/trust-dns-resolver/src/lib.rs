//! The part of trust-dns-resolver that `kdb_codec` calls, over the resolver of the host.

use std::io;
use std::net::IpAddr;

/// Asks the resolver of the host.
#[derive(Debug)]
pub struct TokioAsyncResolver(());

impl TokioAsyncResolver {
    /// Never fails: the host's resolver reads its own configuration.
    pub fn tokio_from_system_conf() -> io::Result<Self> {
        Ok(Self(()))
    }

    /// The addresses of `host`, in the resolver's order.
    ///
    /// # Errors
    /// The name does not resolve.
    pub async fn lookup_ip(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}
