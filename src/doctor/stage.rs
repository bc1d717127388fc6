//! Stages as data: the name, the subject and the result of each check.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use base::error::ErrorKind;
use finspace::MissingPermission;

/// A check that `hopend doctor` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StageName {
    /// Reads the configuration file.
    Configuration,
    /// Checks that the daemon can write `[daemon] audit`.
    AuditFile,
    /// Calls GetCallerIdentity with the daemon's own AWS credentials.
    BaseCredentials,
    /// Finds this host's availability zone.
    Zone,
    /// Calls GetKxUser, which tells the user's role.
    KxUser,
    /// Calls AssumeRole for the user's role.
    AssumeRole,
    /// Finds the account that listens at a local address.
    Listen,
    /// Finds the cluster in ListKxClusters.
    Cluster,
    /// Calls ListKxClusterNodes.
    Nodes,
    /// Reads `login.password_file`.
    PasswordFile,
    /// Runs `login.command`.
    LoginCommand,
    /// Calls GetKxConnectionString, or asks the cluster for a node's connection string.
    ConnectionString,
    /// Resolves the host name of kdb+.
    Dns,
    /// Opens a TCP connection to kdb+.
    Tcp,
    /// Makes a TLS handshake and checks the certificate.
    Tls,
    /// Logs in to kdb+.
    Login,
    /// Sends a sync request that does nothing.
    NoOp,
    /// Stands for all other stages when there is no configuration to run them with.
    Rest,
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StageOutcome {
    /// The stage found no fault.
    Passed,
    /// The stage works, but the administrator should change something.
    Warned,
    /// The stage failed. The kind names the party at fault.
    Failed(ErrorKind),
    /// The doctor did not run the stage, or could not judge it.
    Skipped,
}

/// The report of one finished stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageReport {
    /// The check that was made.
    pub(crate) name: StageName,
    /// The result.
    pub(crate) outcome: StageOutcome,
    /// How long the stage ran; zero if it was skipped.
    pub(crate) took: Duration,
    /// The finding, or the cause of the failure, in words. Never holds a secret. Further lines are details.
    pub(crate) finding: String,
    /// The action that mends the fault.
    pub(crate) remedy: Option<String>,
    /// The statement that an IAM policy lacks.
    pub(crate) missing: Option<Box<MissingPermission>>,
}

/// The part of the configuration that a stage checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StageSubject {
    /// `NAME` of `[environment.NAME]`.
    pub(crate) environment: Option<String>,
    /// `name` of the `[[endpoint]]`.
    pub(crate) endpoint: Option<String>,
    /// `name` of the `[[user]]`.
    pub(crate) user: Option<String>,
    /// The address or node, if the target has several.
    pub(crate) address: Option<String>,
}

/// Progress of an examination, reported as it happens.
#[derive(Debug)]
pub(crate) enum StageEvent<'e> {
    /// A stage has started.
    Started(&'e StageSubject, StageName),
    /// A stage has finished, or was skipped.
    Finished(&'e StageSubject, &'e StageReport),
}

impl StageName {
    /// The name as the report prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::AuditFile => "audit file",
            Self::BaseCredentials => "base credentials",
            Self::Zone => "zone",
            Self::KxUser => "GetKxUser",
            Self::AssumeRole => "AssumeRole",
            Self::Listen => "listen",
            Self::Cluster => "cluster",
            Self::Nodes => "nodes",
            Self::PasswordFile => "password file",
            Self::LoginCommand => "login command",
            Self::ConnectionString => "GetKxConnectionString",
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Login => "login",
            Self::NoOp => "no-op",
            Self::Rest => "all else",
        }
    }

    /// The remedy for a stage that reached its deadline. Stages that do not wait for anything have no
    /// such remedy.
    pub(super) fn timeout_remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::BaseCredentials
            | Self::KxUser
            | Self::AssumeRole
            | Self::Cluster
            | Self::Nodes
            | Self::ConnectionString => {
                "check the route from this host to AWS (VPC endpoint, proxy, DNS), endpoint_url and \
                 sts_endpoint_url; if the credentials come from instance metadata, check that it answers"
            }
            Self::Dns => "check the name servers in /etc/resolv.conf",
            Self::Tcp => {
                "packets are lost on the way: allow the port in security groups, network ACLs, routes and \
                 firewalls"
            }
            Self::Tls | Self::Login => {
                "check what listens there, and whether kdb+ is busy: it answers nobody while it computes"
            }
            Self::NoOp => {
                "look at the log and the load of kdb+: it accepted the login but does not answer, because \
                 it is busy with another query or hangs"
            }
            Self::LoginCommand => {
                "run it by hand as the account of the daemon, and see what it waits for"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes a heading such as `endpoint hdb, user alice`.
impl fmt::Display for StageSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("environment ", &self.environment),
            ("endpoint ", &self.endpoint),
            ("user ", &self.user),
            ("", &self.address),
        ];
        let mut separator = "";
        for (label, value) in parts {
            if let Some(value) = value {
                write!(f, "{separator}{label}{value}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}
