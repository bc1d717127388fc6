//! Writes the files that `hopend run` needs to use the simulator, and chooses the daemon's ports.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};

use super::arn::REGION;
use super::error::SimError;
use super::simulator::Simulator;
use super::state::{BASE64, random};

/// The ports to choose from. They are below Linux's ephemeral ports, which start at 32768.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Length of the longest path of a Unix socket on Linux, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// Number of random ports to try before the system chooses one.
const PORT_TRIES: usize = 100;

/// hopend's default keepalive is short enough for idle limits from this one on.
const LONG_IDLE_LIMIT: Duration = Duration::from_secs(120);

/// The ports on which the daemon in front of a simulator listens.
#[derive(Debug, Clone, Copy)]
pub struct LocalPorts {
    hdb: u16,
    rdb: u16,
    plain: u16,
    console: u16,
    /// The port of `[daemon] admin`; `None` without it.
    admin: Option<u16>,
}

impl LocalPorts {
    /// The ports that README names. A free port replaces each one that is in use.
    ///
    /// # Errors
    /// The system has no free port.
    pub fn of_the_demo() -> io::Result<Self> {
        Ok(Self {
            hdb: or_free(26_735)?,
            rdb: or_free(26_736)?,
            console: or_free(26_737)?,
            plain: or_free(26_738)?,
            admin: Some(or_free(26_739)?),
        })
    }

    /// Ports that are free now, with one for `admin`. Another process may bind one of them before the
    /// daemon does.
    ///
    /// # Errors
    /// The system has no free port.
    pub fn free() -> io::Result<Self> {
        let [hdb, rdb, plain, console, admin] = free_ports()?;
        Ok(Self {
            hdb,
            rdb,
            plain,
            console,
            admin: Some(admin),
        })
    }
}

/// The users in the written configuration.
struct ConfiguredUsers<'a> {
    /// The kernel account of the first user.
    account: &'a str,
    /// The FinSpace user of the first user.
    kx_user: &'a str,
    /// The name of the second user.
    second: &'a str,
    /// The hash of the second user's password.
    hash: &'a str,
}

impl Simulator {
    /// Writes `dir/hopend.toml` and the files that it names: the CA, the profile with the credentials
    /// and the passwords. Returns the path of `hopend.toml`.
    ///
    /// The first user is `account`, identified by its kernel account: pass the account that runs the
    /// clients. The second user is `alice`, or `alice2` if the account is called `alice`, with the
    /// password in `dir/alice.password`. Both become FinSpace users. The name of a FinSpace user
    /// consists of letters, digits, `_` and `-`, so `-` replaces other characters of `account`.
    ///
    /// # Errors
    /// A file can't be written, or no port is free.
    pub fn write_files(&self, dir: &Path, account: &str) -> Result<PathBuf, SimError> {
        let ports = LocalPorts::free().map_err(SimError::Listen)?;
        let ports = LocalPorts {
            admin: None,
            ..ports
        };
        self.write_files_for(dir, account, &ports)
    }

    /// Writes the same files as [`Self::write_files`], for a daemon that listens on these ports.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write_files_for(
        &self,
        dir: &Path,
        account: &str,
        ports: &LocalPorts,
    ) -> Result<PathBuf, SimError> {
        let dir = std::path::absolute(dir).map_err(failed(dir))?;
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(failed(&dir))?;

        let second = if account == "alice" {
            "alice2"
        } else {
            "alice"
        };
        let kx_user = kx_name(account);
        self.add_user(&kx_user);
        self.add_user(second);
        let password = random(20, BASE64);
        self.simulation
            .update(|state| state.secrets.push(password.clone()));

        let (access_key, secret_key) = self.base_credentials();
        let credentials = format!(
            "[sim]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        );
        let plain_password = &self.plain().password;
        for (name, content) in [
            ("ca.pem", self.ca_pem()),
            ("credentials", credentials.as_str()),
            ("alice.password", &format!("{password}\n")),
            ("plain.password", &format!("{plain_password}\n")),
        ] {
            write_private(&dir.join(name), content)?;
        }

        let hash = hash(&password)?;
        let users = ConfiguredUsers {
            account,
            kx_user: &kx_user,
            second,
            hash: &hash,
        };
        let toml = self.toml(&dir, &users, ports);
        let path = dir.join("hopend.toml");
        write_private(&path, &toml)?;
        Ok(path)
    }

    fn toml(&self, dir: &Path, users: &ConfiguredUsers<'_>, ports: &LocalPorts) -> String {
        let ConfiguredUsers {
            account,
            kx_user,
            second,
            hash,
        } = users;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let file = |name: &str| quoted(&dir.join(name).to_string_lossy());
        let LocalPorts {
            hdb,
            rdb,
            plain,
            console,
            admin,
        } = ports;
        // A person tries this daemon by hand. 64 sessions fit the usual limit of open files of a shell.
        let admin = admin.map_or_else(String::new, |port| {
            format!("admin = \"127.0.0.1:{port}\"\nmax_sessions = 64\n")
        });
        let keepalive = self.keepalive();
        let plain_port = self.plain().port;
        let plain_user = &self.plain().user;
        let control = control(&dir.join("control"));
        let mut kx = String::new();
        if kx_user != account {
            let _ = writeln!(kx, "kx_user = {}", quoted(kx_user));
        }
        format!(
            r#"# Written by the hopend simulator, for as long as it runs.

[environment.sim]
id = "{id}"
region = "{REGION}"
profile = "sim"
credentials_file = {credentials}
endpoint_url = "{api}"
sts_endpoint_url = "{sts}"
ca_file = {ca}

[[user]]
name = {account}
os_user = {account}
{kx}console = true
[[user]]
name = "{second}"
password = "{hash}"          # the one in alice.password

[[endpoint]]
name = "hdb"
listen = ["localhost:{hdb}", "unix:{hdb}"]
cluster = "hdb-cluster"
{keepalive}
[[endpoint]]
name = "rdb"
listen = ["localhost:{rdb}"]
cluster = "rdb-cluster"
{keepalive}
[[endpoint]]                  # kdb+ that needs no FinSpace
name = "plain"
listen = ["localhost:{plain}"]
connect = [":tcps://localhost:{plain_port}"]
login = {{ user = "{plain_user}", password_file = {plain_password} }}
ca_file = {ca}
{keepalive}
[[endpoint]]                  # hopend's own tables, and what a cluster's .aws functions tell
name = "console"
kind = "console"
listen = ["localhost:{console}"]

[daemon]
{admin}{control}
"#,
            id = self.environment_id(),
            credentials = file("credentials"),
            api = self.api_url(),
            sts = self.sts_url(),
            ca = file("ca.pem"),
            account = quoted(account),
            plain_password = file("plain.password"),
        )
    }

    /// The `keepalive` line for a short idle limit: a third of it, but at least the 100 ms that hopend
    /// accepts.
    fn keepalive(&self) -> String {
        let limit = self.simulation.options.idle_limit;
        if limit >= LONG_IDLE_LIMIT {
            return String::new();
        }
        format!("keepalive = \"{}ms\"\n", (limit / 3).as_millis().max(100))
    }
}

/// The `control` line. The path may be too long for a Unix socket; then the daemon runs without one.
fn control(path: &Path) -> String {
    if path.as_os_str().len() <= LONGEST_SOCKET_PATH {
        return format!("control = {}", toml::Value::from(&*path.to_string_lossy()));
    }
    format!(
        "# The path of a socket has at most {LONGEST_SOCKET_PATH} bytes, and DIR/control would have \
         {}: hopend status\n# can't ask this daemon. Choose a shorter DIR, or write another path.\n\
         control = \"off\"",
        path.as_os_str().len()
    )
}

/// Returns `port` if it is free on both loopback addresses and as the name of q's Unix socket, and a free
/// port otherwise.
fn or_free(port: u16) -> io::Result<u16> {
    let name = UnixAddress::from_abstract_name(format!("/tmp/kx.{port}"))?;
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port));
    let v6 = v6.map(drop).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Err(error),
        // A host without IPv6.
        _ => Ok(()),
    });
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
        || v6.is_err()
        || UnixListener::bind_addr(&name).is_err();
    if !taken {
        return Ok(port);
    }
    let [other] = free_ports()?;
    Ok(other)
}

/// Ports that are free on both loopback addresses. They are not ephemeral ports, which the system could
/// give to a connection before the daemon binds them.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let (free, listeners) = bind_somewhere()?;
        *port = free;
        held.push(listeners);
    }
    Ok(ports)
}

fn bind_somewhere() -> io::Result<(u16, Vec<TcpListener>)> {
    for _ in 0..PORT_TRIES {
        if let Ok(bound) = bind_both(fastrand::u16(PORTS)) {
            return Ok(bound);
        }
    }
    bind_both(0)
}

/// Binds a port on both loopback addresses, or on IPv4 alone on a host without `::1`.
fn bind_both(port: u16) -> io::Result<(u16, Vec<TcpListener>)> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let port = v4.local_addr()?.port();
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
        Ok(v6) => Ok((port, vec![v4, v6])),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => Ok((port, vec![v4])),
    }
}

fn write_private(path: &Path, content: &str) -> Result<(), SimError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content.as_bytes())
    };
    write().map_err(failed(path))
}

/// Hashes a password with cheap parameters: it protects a simulation only.
fn hash(password: &str) -> Result<String, SimError> {
    let params = Params::new(8 * 1024, 1, 1, None).map_err(|e| SimError::Hash(e.to_string()))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| SimError::Hash(error.to_string()))
}

/// The FinSpace user name for an account.
fn kx_name(account: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    account
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(50)
        .collect()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SimError {
    let path = path.to_owned();
    move |source| SimError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_gives_way() {
        let [port] = free_ports().unwrap();
        assert_eq!(or_free(port).unwrap(), port);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(or_free(port).unwrap(), port);
        drop(held);
        let name = UnixAddress::from_abstract_name(format!("/tmp/kx.{port}")).unwrap();
        let held = UnixListener::bind_addr(&name).unwrap();
        assert_ne!(or_free(port).unwrap(), port);
        drop(held);
        assert_eq!(or_free(port).unwrap(), port);
    }
}
