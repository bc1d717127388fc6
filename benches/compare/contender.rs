//! What stands between client and server: nothing, hopend, or a peer.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::server;

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Contender {
    /// The client speaks TLS itself.
    Direct,
    /// hopend as a release build.
    Hopend,
    /// The same with `warm` connections.
    Warm,
    /// The program that [`BEFORE`] names, of an earlier version.
    Before,
    Haproxy,
    Stunnel,
    Nginx,
}

/// The variable that names the program of an earlier version, for a comparison in one run.
const BEFORE: &str = "HOPEND_BEFORE";

/// A contender at work. Ended when dropped.
pub struct Running {
    /// Where the client goes.
    pub address: SocketAddr,
    child: Option<Child>,
}

impl Contender {
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Direct,
            Self::Hopend,
            Self::Warm,
            Self::Haproxy,
            Self::Stunnel,
            Self::Nginx,
        ];
        if std::env::var_os(BEFORE).is_some() {
            all.insert(2, Self::Before);
        }
        all
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct TLS",
            Self::Hopend => "hopend",
            Self::Warm => "hopend, warm",
            Self::Before => "hopend, before",
            Self::Haproxy => "haproxy",
            Self::Stunnel => "stunnel",
            Self::Nginx => "nginx",
        }
    }

    pub fn is_peer(self) -> bool {
        matches!(self, Self::Haproxy | Self::Stunnel | Self::Nginx)
    }

    /// Starts it in front of the server, and waits until it takes connections.
    pub fn start(self, folder: &Path, server: &server::Process) -> std::io::Result<Running> {
        if self == Self::Direct {
            return Ok(Running {
                address: server.address,
                child: None,
            });
        }
        let address = free_address()?;
        let (path, text) = self.configuration(folder, address, server.address);
        std::fs::write(&path, text)?;
        let mut command = self.command(&path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(
            std::fs::File::create(path.with_extension("log"))
                .map_or_else(|_| Stdio::null(), Into::into),
        );
        let child = command.spawn()?;
        let running = Running {
            address,
            child: Some(child),
        };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(std::io::Error::other(format!(
                    "{} does not listen; see its log",
                    self.name()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(running)
    }

    fn configuration(
        self,
        folder: &Path,
        listen: SocketAddr,
        server: SocketAddr,
    ) -> (PathBuf, String) {
        let ca = folder.join("ca.pem");
        let (ca, here) = (ca.display(), folder.display());
        let (name, text) = match self {
            Self::Direct => ("none", String::new()),
            Self::Hopend | Self::Warm | Self::Before => {
                // An earlier version may not know the key, and has no such limit then.
                let pace = match self {
                    Self::Before => "",
                    _ => "max_opens_per_second_per_user = \"off\"\n",
                };
                let warm = if self == Self::Warm { "warm = 8\n" } else { "" };
                (
                    "hopend.toml",
                    format!(
                        r#"[[user]]
name = "bench"
os_user = {uid}
[[endpoint]]
name = "kdb"
listen = "{listen}"
connect = ":tcps://localhost:{port}"
login = {{ user = "bench", password_file = "{here}/password" }}
ca_file = "{ca}"
max_sessions = 8192
{pace}{warm}{keepalive}
[daemon]
control = "off"
"#,
                        uid = toml::Value::from(nix::unistd::getuid().to_string()),
                        port = server.port(),
                        keepalive = KEEPALIVE,
                    ),
                )
            }
            Self::Haproxy => (
                "haproxy.cfg",
                format!(
                    r"global
  maxconn 9000
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend kdb
  bind {listen}
  default_backend kdb
backend kdb
  server kdb {server} ssl verify required ca-file {ca} verifyhost localhost sni str(localhost)
"
                ),
            ),
            Self::Stunnel => (
                "stunnel.conf",
                format!(
                    "foreground = yes\nsyslog = no\ndebug = err\n[kdb]\nclient = yes\n\
                     accept = {listen}\nconnect = {server}\nCAfile = {ca}\n\
                     verifyChain = yes\ncheckHost = localhost\n"
                ),
            ),
            Self::Nginx => (
                "nginx.conf",
                format!(
                    "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
                     daemon off;\npid {here}/nginx.pid;\nerror_log stderr error;\n\
                     worker_processes auto;\nworker_rlimit_nofile 20000; user root;\n\
                     events {{ worker_connections 9500; }}\n\
                     stream {{ server {{ listen {listen}; proxy_pass {server}; proxy_timeout 1h;\n\
                     proxy_ssl on; proxy_ssl_verify on; proxy_ssl_name localhost;\n\
                     proxy_ssl_server_name on; proxy_ssl_session_reuse on; tcp_nodelay on;\n\
                     proxy_ssl_protocols TLSv1.2 TLSv1.3; proxy_ssl_trusted_certificate {ca}; }} }}\n"
                ),
            ),
        };
        (folder.join(name), text)
    }

    fn command(self, configuration: &Path) -> Command {
        const RUN: &[&str] = &["run", "--log-level", "error", "--config"];
        let own = || env!("CARGO_BIN_EXE_hopend").into();
        let (program, flags): (OsString, &[&str]) = match self {
            Self::Direct | Self::Hopend | Self::Warm => (own(), RUN),
            Self::Before => (std::env::var_os(BEFORE).unwrap_or_else(own), RUN),
            Self::Haproxy => ("haproxy".into(), &["-q", "-f"]),
            Self::Stunnel => ("stunnel4".into(), &[]),
            Self::Nginx => ("nginx".into(), &["-c"]),
        };
        let mut command = Command::new(program);
        command.args(flags).arg(configuration);
        // stunnel serves as many clients as it has descriptors.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// As a user would have it; one row has its own.
const KEEPALIVE: &str = "keepalive = \"10s\"\n";

impl Running {
    /// The processes: the one that was started and its children.
    pub fn processes(&self) -> Vec<u32> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let mut all = vec![child.id()];
        let path = format!("/proc/{0}/task/{0}/children", child.id());
        let children = std::fs::read_to_string(path).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx's workers outlive a master that is killed.
        for process in self.processes() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap_or(i32::MAX));
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// An address that nobody has at the moment.
pub fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// From the start of hopend with `endpoints` endpoints to its `ready`.
pub fn start_to_ready(folder: &Path, endpoints: usize) -> std::io::Result<Duration> {
    use std::fmt::Write as _;
    let mut text = format!(
        "[daemon]\ncontrol = \"off\"\n[[user]]\nname = \"bench\"\nos_user = \"{}\"\n",
        nix::unistd::getuid()
    );
    for number in 0..endpoints {
        let _ = write!(
            text,
            "[[endpoint]]\nname = \"e{number}\"\nlisten = \"127.0.0.1:0\"\n\
             connect = \":tcps://localhost:1\"\nlogin = \"client\"\nca_file = \"ca.pem\"\n"
        );
    }
    let path = folder.join("many.toml");
    std::fs::write(&path, text)?;
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hopend"))
        .args(["run", "--config"])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut took = None;
    if let Some(log) = child.stderr.take() {
        for line in BufReader::new(log).lines() {
            if line?.contains(" ready ") {
                took = Some(began.elapsed());
                break;
            }
        }
    }
    child.kill()?;
    child.wait()?;
    took.ok_or_else(|| std::io::Error::other("hopend did not become ready"))
}
